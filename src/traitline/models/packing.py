"""Rows that share a prompt, read as one sequence: the prompt once, then every response, none of which sees another.

Contrast rows come many to a prompt that is longer than they are, so this saves most of the reading. Knows which rows go
together, where each token stands, and what it may see. Leaves running the network to `passes.py`, and what is read to
`capture.py`. Networks whose attention cannot be told what to see are read row by row.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import scaled_dot_product_attention

from traitline.models.decoding.attention import EVERYTHING, attending
from traitline.models.loading import Model

LONGEST = 768
"""Tokens of a pack at most, unless one row has more: what tokens may see grows with the square."""
STEP = 16
"""Sequences are padded to a multiple of this many tokens, which attention on GPUs wants."""

log = logging.getLogger("traitline")


@dataclass(frozen=True, slots=True)
class Pack:
    """Rows of one prompt.

    Attributes:
        prompt: its ids.
        responses: the ids of each response.
        rows: which rows of the caller's they are.
    """

    prompt: Sequence[int]
    responses: tuple[Sequence[int], ...]
    rows: tuple[int, ...]

    @property
    def ids(self) -> list[int]:
        """The sequence."""
        return [*self.prompt, *(token for response in self.responses for token in response)]

    def __len__(self) -> int:
        return len(self.prompt) + sum(map(len, self.responses))


def pack(rows: Sequence[tuple[Sequence[int], Sequence[int]]], *, together: bool) -> list[Pack]:
    """Return the rows in packs: those of one prompt together, as far as a pack may be long, or each alone."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, (prompt, _) in enumerate(rows):
        groups.setdefault(tuple(prompt) if together else (-1, i), []).append(i)
    packs = []
    for group in groups.values():
        prompt = rows[group[0]][0]
        taken: list[int] = []
        length = len(prompt)
        for i in group:
            if taken and length + len(rows[i][1]) > LONGEST:
                packs.append(Pack(prompt, tuple(rows[t][1] for t in taken), tuple(taken)))
                taken, length = [], len(prompt)
            taken.append(i)
            length += len(rows[i][1])
        packs.append(Pack(prompt, tuple(rows[t][1] for t in taken), tuple(taken)))
    return packs


class Layout:
    """Where the tokens of a few packs stand once they are padded to one length.

    Attributes:
        ids: [packs, positions], padded on the right with the last token.
        places: of each token within its own row: prompt, then response, [packs, positions].
        parts: 0 for a prompt's token, r + 1 for the r-th response's, -1 for padding, [packs, positions].
    """

    def __init__(self, packs: Sequence[Pack]) -> None:
        alone = all(len(one.rows) == 1 for one in packs)
        width = max(map(len, packs))
        width = width if alone else -(-width // STEP) * STEP
        self.alone = alone
        self.ids = np.zeros((len(packs), width), dtype=np.int64)
        self.places = np.zeros_like(self.ids)
        self.parts = np.full_like(self.ids, -1)
        for line, one in enumerate(packs):
            at = len(one.prompt)
            ids = one.ids
            self.ids[line, : len(ids)] = ids
            self.ids[line, len(ids) :] = ids[-1]
            self.places[line, :at] = np.arange(at)
            self.parts[line, :at] = 0
            for r, response in enumerate(one.responses):
                self.places[line, at : at + len(response)] = len(one.prompt) + np.arange(len(response))
                self.parts[line, at : at + len(response)] = r + 1
                at += len(response)


class Sights:
    """What each token of packed rows may see: its prompt and its own response, up to itself. Attends as `Keys` does."""

    def __init__(self, places: torch.Tensor, parts: torch.Tensor) -> None:
        """Take where tokens stand, both int64 [packs, positions], on the device."""
        self._places, self._parts = places, parts
        self._windows: dict[int, torch.Tensor] = {}

    @cached_property
    def _whole(self) -> torch.Tensor:
        at = torch.arange(self._parts.shape[1], device=self._parts.device)
        own = self._parts[:, :, None] == self._parts[:, None, :]
        return (at[:, None] >= at[None, :]) & (own | (self._parts == 0)[:, None, :])  # [packs, positions, positions]

    def _within(self, window: int) -> torch.Tensor:
        if window not in self._windows:
            back = self._places[:, :, None] - self._places[:, None, :]
            self._windows[window] = (self._whole if window >= EVERYTHING else self._whole & (back < window))[:, None]
        return self._windows[window]

    def attend(self, _layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int) -> torch.Tensor:
        """Return what a block attends to, [packs, positions, heads, D]."""
        grouped = q.shape[1] != k.shape[1]
        seen = self._within(window)
        return scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=grouped).transpose(1, 2)


_packs: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def packs(model: Model) -> bool:
    """Tell whether rows of this network can be packed: asked once, by reading two short rows either way."""
    network = model.network
    if network not in _packs:
        _packs[network] = len({p.device for p in network.parameters()}) == 1 and _agrees(model)
    return _packs[network]


@torch.inference_mode()
def _agrees(model: Model) -> bool:
    vocabulary = model.network.get_input_embeddings().weight.shape[0]
    ids = (np.arange(1, 12) * 7 % vocabulary).tolist()
    rows = [(ids[:5], ids[5:8]), (ids[:5], ids[8:])]
    try:
        layout = Layout(pack(rows, together=True))
        packed = _last(model, layout.ids, layout)[0]
        alone = [_last(model, np.array([[*prompt, *response]]))[0] for prompt, response in rows]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever an unknown architecture raises
        log.info("rows of %s are read one by one: %s", model.source, error)
        return False
    want = torch.cat([alone[0], alone[1][5:]])
    return float(torch.nn.functional.cosine_similarity(packed[: len(want)].float(), want.float()).min()) > 0.99


def _last(model: Model, ids: NDArray[np.int64], layout: Layout | None = None) -> torch.Tensor:
    """Return what leaves the network's last block and norm, [rows, positions, hidden]."""
    given: dict[str, Any] = {"input_ids": torch.from_numpy(ids).to(model.device), "use_cache": False}
    with ExitStack() as stack:
        if layout is not None:
            given["position_ids"] = places = torch.from_numpy(layout.places).to(model.device)
            stack.enter_context(attending(model.network, Sights(places, torch.from_numpy(layout.parts).to(model.device))))
        return model.network.base_model(**given)[0]  # type: ignore[no-any-return]
