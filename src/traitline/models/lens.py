"""The logit lens: which tokens a direction of the residual stream speaks for, by a network's final norm and unembedding.

The final norm divides by the length of what it is given, so it is linear only along rays. Here it is made linear by its weight
alone: the direction, scaled to root mean square 1 as the norm would do, times the norm's gain, times the unembedding. Its bias,
which is the same for every direction, and the pull of the state that a vector would be added to are left out. The gain is
measured by applying the norm, so that no architecture's way of storing it has to be known. Knows which tokens are no words of
any language. Leaves what tokens tell of a trait to `analysis/semantics.py`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from traitline.errors import InputError, ModelError
from traitline.models.loading import Model

SPECIAL, UNUSED, FRAGMENT, BLANK, UNDERTRAINED = GARBAGE = ("special", "unused", "fragment", "blank", "undertrained")
"""Why a token is left out: it has a meaning for the software, none at all, is a part of a character, has neither letter nor
digit, or was met so seldom in training that its unembedding says nothing."""
NORMS = ("norm", "final_layer_norm", "final_layernorm", "ln_f", "final_norm", "norm_f")
ROWS_AT_ONCE = 16_384
TINY = float(np.finfo(np.float32).tiny)
PROBE = 1e3
"""Length of the norm's probes, beside which its epsilon is nothing."""
FAR_BELOW = 5.0
"""Robust standard deviations of log length under the median from which an unembedding counts as undertrained."""
FEWEST_UNMET, TOGETHER, ALIKE = 8, 0.9, 0.6
"""How many special and unused tokens must lie together, and within which cosine, to show where unmet tokens lie; and the cosine
to their mean from which another token counts as undertrained. The mean over all words is taken away first."""
_RESERVED = re.compile(r"^[<\[|]+\W*(unused|reserved|extra_id|extra|padding|placeholder|dummy)", re.IGNORECASE)
_BYTE = re.compile(r"^<0x[0-9A-Fa-f]{2}>$")

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Lens:
    """What turns directions into logits.

    Attributes:
        unembedding: the network's own, [vocabulary, hidden], where and in which type it lies.
        gain: of the final norm, float32 [hidden].
        removes_mean: whether the final norm takes the mean over the hidden dimension away.
        texts: what each token says.
        garbage: per token, why it is left out; empty where it is kept.
        lengths: L2 norm of each token's unembedding as the residual stream meets it, the mean over kept tokens taken away,
            float32 [vocabulary]: the standard deviation of its logit over random directions.
    """

    unembedding: torch.Tensor
    gain: Floats
    removes_mean: bool
    texts: tuple[str, ...]
    garbage: tuple[str, ...]
    lengths: Floats

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which tokens are no garbage, [vocabulary]."""
        return np.array([not why for why in self.garbage], dtype=np.bool_)

    def logits(self, directions: NDArray[np.floating[Any]]) -> Floats:
        """Return the logit of every token, float32 [k, vocabulary], the mean over kept tokens taken away.

        Args:
            directions: [k, hidden], of any length: each is scaled to root mean square 1.

        Raises:
            InputError: directions of another width, or one that is zero or not finite.
        """
        given = np.asarray(directions, dtype=np.float64)
        if given.ndim != 2 or given.shape[1] != len(self.gain):
            raise InputError(f"directions are [k, hidden] with hidden {len(self.gain)}; these are {list(given.shape)}")
        if self.removes_mean:
            given = given - given.mean(axis=1, keepdims=True)
        lengths = np.linalg.norm(given, axis=1, keepdims=True)
        if not (np.isfinite(lengths).all() and (lengths > 0).all()):
            raise InputError("a direction is zero or not finite, so there is nothing to read from it; leave it out")
        met = given / lengths * np.sqrt(given.shape[1]) * self.gain
        logits = _products(self.unembedding, met.astype(np.float32))
        kept = self.kept
        centred: Floats = logits - logits[:, kept].mean(axis=1, keepdims=True) if kept.any() else logits
        return centred

    def scores(self, logits: Floats) -> Floats:
        """Return logits in standard deviations of each token's logit over random directions, [k, vocabulary].

        Tokens with long unembeddings have high and low logits under every direction; ranked so, they do not crowd out others.
        """
        scores: Floats = np.divide(logits, self.lengths, out=np.zeros_like(logits), where=self.lengths > 0)
        return scores


@torch.inference_mode()
def lens(model: Model) -> Lens:
    """Return the logit lens of a network.

    Raises:
        ModelError: its final norm or unembedding cannot be found, or do not fit together.
    """
    head: Any = model.network.get_output_embeddings()
    unembedding: Any = getattr(head, "weight", None)
    if unembedding is None or unembedding.ndim != 2 or unembedding.shape[1] != model.hidden:
        raise ModelError(
            f"{type(model.network).__name__} has no unembedding [vocabulary, {model.hidden}] that reads its residual stream, "
            "so its vectors have no logit lens"
        )
    gain, removes_mean = _gain(_final_norm(model), model.hidden)
    rows, texts = int(unembedding.shape[0]), _texts(model.tokenizer, int(unembedding.shape[0]))
    garbage = _unspeakable(model.tokenizer, texts)
    named = np.array([not why for why in garbage], dtype=np.bool_)
    mean = _mean(unembedding, named)
    lengths = _lengths(unembedding, mean, gain, removes_mean)
    for i in np.flatnonzero(named & _undertrained(unembedding, mean, lengths, garbage)) if named.any() else ():
        garbage[i] = UNDERTRAINED
    kept = np.array([not why for why in garbage], dtype=np.bool_)
    if not kept.any():
        raise ModelError(f"none of the {rows} tokens of {model.source!r} is a word or a part of one")
    lengths = _lengths(unembedding, _mean(unembedding, kept), gain, removes_mean)
    return Lens(unembedding, gain, removes_mean, tuple(text for _, text in texts), tuple(garbage), lengths)


def word_tokens(tokenizer: Any, words: Sequence[str]) -> dict[str, int]:
    """Return the token of each word that is one token, as it stands within a text; other words are left out."""
    found = {}
    for word in words:
        for text in (f" {word}", word):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(ids) == 1:
                found[word] = int(ids[0])
                break
    return found


def _final_norm(model: Model) -> nn.Module:
    """Return the norm that stands beside the list of the blocks."""
    first = model.blocks[0]
    for parent in model.network.modules():
        if any(isinstance(child, nn.ModuleList) and len(child) and child[0] is first for child in parent.children()):
            for name in NORMS:
                found = getattr(parent, name, None)
                if isinstance(found, nn.Module):
                    return found
    raise ModelError(
        f"cannot find the final norm of {type(model.network).__name__}: looked beside its blocks for {', '.join(NORMS)}. Add "
        "its name to traitline/models/lens.py"
    )


def _gain(norm: nn.Module, hidden: int) -> tuple[Floats, bool]:
    """Return the gain of a norm, [hidden], and whether it takes the mean away, measured on probes of root mean square 1."""
    probed: Any = copy.deepcopy(norm).float()
    place = next(iter([*probed.parameters(), *probed.buffers()]), torch.empty(0)).device
    signs = torch.ones(hidden, device=place)
    signs[::2] = -1
    if hidden % 2:
        signs[-1] = 0  # so that the mean is 0
    probes = torch.stack([signs, -signs, torch.ones_like(signs)]) * PROBE
    up, down, level = probed(probes[:, None]).float()[:, 0]
    scale = signs.square().mean().sqrt()
    gain, bias = (up - down) / 2 * signs * scale, (up + down) / 2
    if hidden % 2:
        gain[-1] = gain[:-1].mean()
    removes = bool(torch.allclose(level, bias, atol=1e-3 * float(gain.abs().max())))
    return gain.cpu().numpy().astype(np.float32), removes


def _texts(tokenizer: Any, rows: int) -> list[tuple[str, str]]:
    """Return (the tokenizer's own name, the text) of every row of the unembedding; both empty where there is no token."""
    known = min(rows, len(tokenizer))
    names = [name or "" for name in tokenizer.convert_ids_to_tokens(list(range(known)))]
    decoded = tokenizer.batch_decode([[i] for i in range(known)], clean_up_tokenization_spaces=False)
    texts = [
        f" {text}" if name[:1] in ("\u2581", " ") and not text.startswith(" ") else text  # decoding may strip the first space
        for name, text in zip(names, decoded, strict=True)
    ]
    return [*zip(names, texts, strict=True), *[("", "")] * (rows - known)]


def _unspeakable(tokenizer: Any, texts: Sequence[tuple[str, str]]) -> list[str]:
    """Return why each token is left out by its text alone."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {*tokenizer.all_special_ids, *(i for i, token in added.items() if getattr(token, "special", False))}
    found = []
    for i, (name, text) in enumerate(texts):
        if not name or _RESERVED.match(name):
            found.append(UNUSED)
        elif i in special:
            found.append(SPECIAL)
        elif "\ufffd" in text or _BYTE.match(name):
            found.append(FRAGMENT)
        else:
            found.append("" if any(character.isalnum() for character in text) else BLANK)
    return found


def _undertrained(unembedding: torch.Tensor, mean: Floats, lengths: Floats, garbage: Sequence[str]) -> NDArray[np.bool_]:
    """Tell which tokens were hardly trained: far shorter than the others, or like those that were never met.

    Tokens that training never met are only ever pushed away, all the same way: where most of the special and unused ones lie
    together, the others near them were met as seldom (Land and Bartolo, "Fishing for Magikarp", 2024).

    Args:
        unembedding: [vocabulary, hidden].
        mean: of the tokens that are words by their text, [hidden].
        lengths: as the residual stream meets them, [vocabulary].
        garbage: why tokens are left out by their text.
    """
    named = np.array([not why for why in garbage], dtype=np.bool_)
    logs = np.log(np.maximum(lengths, TINY))
    middle = float(np.median(logs[named]))
    spread = 1.4826 * float(np.median(np.abs(logs[named] - middle)))
    short: NDArray[np.bool_] = logs < middle - FAR_BELOW * max(spread, TINY)
    never = np.flatnonzero([why in (SPECIAL, UNUSED) for why in garbage])[:ROWS_AT_ONCE]
    if len(never) < FEWEST_UNMET:
        return short
    units = _units(_float(unembedding[torch.from_numpy(never).to(unembedding.device)]) - mean)
    cosines = units @ units.T
    together = units[cosines[np.median(cosines, axis=1).argmax()] > TOGETHER]
    if len(together) < max(FEWEST_UNMET, len(never) / 2):
        return short
    centre = _units(together.mean(axis=0, keepdims=True))[0]
    alike = [_units(_float(part) - mean) @ centre > ALIKE for part in torch.split(unembedding, ROWS_AT_ONCE)]
    found: NDArray[np.bool_] = short | np.concatenate(alike)
    return found


def _units(rows: Floats) -> Floats:
    """Scale rows to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: Floats = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return units


def _mean(unembedding: torch.Tensor, kept: NDArray[np.bool_]) -> Floats:
    """Return the mean unembedding of the kept tokens, [hidden]."""
    counted = torch.from_numpy(kept).to(unembedding.device)
    total = torch.zeros(unembedding.shape[1], dtype=torch.float64, device=unembedding.device)
    for part, chosen in zip(torch.split(unembedding, ROWS_AT_ONCE), torch.split(counted, ROWS_AT_ONCE), strict=True):
        total += part[chosen].sum(dim=0, dtype=torch.float64)
    return _float(total / max(int(kept.sum()), 1))


def _lengths(unembedding: torch.Tensor, mean: Floats, gain: Floats, removes_mean: bool) -> Floats:
    """Return the length of each unembedding as the residual stream meets it, the mean taken away, [vocabulary]."""
    away, times = (torch.from_numpy(array).to(unembedding.device) for array in (mean, gain))
    found = []
    for part in torch.split(unembedding, ROWS_AT_ONCE):
        rows = (part.float() - away) * times
        rows -= rows.mean(dim=1, keepdim=True) if removes_mean else 0
        found.append(torch.linalg.vector_norm(rows, dim=1))
    return _float(torch.cat(found))


def _products(unembedding: torch.Tensor, directions: Floats) -> Floats:
    """Return [k, vocabulary], in float32, a part of the unembedding after the other."""
    met = torch.from_numpy(directions).to(unembedding.device)
    with torch.inference_mode():
        parts = [(met @ part.float().T).cpu().numpy() for part in torch.split(unembedding.detach(), ROWS_AT_ONCE)]
    products: Floats = np.concatenate(parts, axis=1)
    return products


def _float(rows: torch.Tensor) -> Floats:
    array: Floats = rows.detach().float().cpu().numpy()
    return array
