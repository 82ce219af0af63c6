"""The rows that are being decoded, on the device: one slot each, and everything a step has to know about it.

Knows how a row enters a slot, what one step does to all of them, and how rows move together when few are left. A row enters
with its prompt read up to the last token; that token is the first it is fed, so that a row steered from there on still shares
the rest of its prompt with others. Leaves to `decoder.py` when any of this happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from traitline.models.blocks import editing
from traitline.models.decoding.attention import Keys, Shape, attending
from traitline.models.fusing import aligned_head, heading
from traitline.models.sampler import penalise, pick, uniforms

if TYPE_CHECKING:
    from traitline.models.generate import Row
    from traitline.models.loading import Model


@dataclass(frozen=True, slots=True)
class Settings:
    """What all rows of a call share."""

    max_new_tokens: int
    temperature: float
    penalty: float


class Slots:
    """Slots of one batch. The first `n` of them are what a step works on.

    Attributes:
        count: how many there are.
        done: whether a slot's row is over, or the slot empty, int32 [slots].
        own_length: how many tokens its row has got, int32 [slots].
        history: those tokens, int32 [slots, max_new_tokens].
        broken: whether its logits held NaN or infinity, int32 [slots].
    """

    def __init__(
        self, model: Model, settings: Settings, count: int, prompts: int, prompt_length: int, layers: Sequence[int]
    ) -> None:
        """Make room for `count` rows and `prompts` prompts of at most `prompt_length` tokens, steered at `layers`."""
        network, device, length = model.network, model.device, settings.max_new_tokens
        embeddings = network.get_input_embeddings().weight
        self.settings, self.count, self.hidden = settings, count, model.hidden

        def whole(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        self.keys = Keys(Shape.of(network), prompts, prompt_length, count, length, embeddings)
        self.ids = whole(count, dtype=torch.long)
        self.prompt_of, self.prompt_length, self.own_length = whole(count), whole(count), whole(count)
        self.done, self.broken, self.limit = whole(count) + 1, whole(count), whole(count) + length
        self.history = whole(count, length)
        self.u = whole(count, length, dtype=torch.float64)
        vocabulary = network.get_output_embeddings().weight.shape[0]
        self.seen = whole(count, vocabulary, dtype=torch.uint8) if settings.penalty != 1.0 else None
        self.after = whole(count, dtype=embeddings.dtype)  # whether a row is steered at later positions than its prompt's last
        self.deltas = {layer: whole(count, model.hidden, dtype=embeddings.dtype) for layer in layers}
        self.head = aligned_head(network)
        self.ends = torch.tensor(sorted(model.eos_ids), dtype=torch.long, device=device)

    def enter(self, slots: Sequence[int], rows: Sequence[Row], prompts: Sequence[int]) -> None:
        """Put rows into slots; `prompts` are the places of what precedes the last token of each row's prompt."""
        device = self.ids.device
        where = torch.tensor(slots, device=device)

        def give(values: Sequence[int] | Sequence[float], like: torch.Tensor) -> torch.Tensor:
            return torch.tensor(values, dtype=like.dtype).to(device, non_blocking=True)

        self.ids[where] = give([row.prompt_ids[-1] for row in rows], self.ids)
        self.prompt_of[where] = give(prompts, self.prompt_of)
        self.prompt_length[where] = give([len(row.prompt_ids) - 1 for row in rows], self.prompt_length)
        for one in (self.own_length, self.broken, self.done):
            one[where] = 0
        self.u[where] = torch.from_numpy(uniforms([row.noise_key for row in rows], self.settings.max_new_tokens)).to(device)
        later = [float(row.steer is not None and row.steer.positions != "prompt") for row in rows]
        self.after[where] = give(later, self.after)
        for layer, deltas in self.deltas.items():
            own = [row.steer.delta if row.steer and row.steer.layer == layer else None for row in rows]
            nothing = np.zeros(self.hidden, dtype=np.float32)
            deltas[where] = torch.from_numpy(np.stack([nothing if d is None else d for d in own])).to(deltas)
        if self.seen is not None:
            self.seen[where] = 0
            at = np.concatenate([np.full(len(row.prompt_ids), slot) for slot, row in zip(slots, rows, strict=True)])
            tokens = np.concatenate([np.asarray(row.prompt_ids, dtype=np.int64) for row in rows])
            self.seen[torch.from_numpy(at).to(device), torch.from_numpy(tokens).to(device)] = 1

    def move(self, source: Sequence[int], target: Sequence[int]) -> None:
        """Move rows from some slots to others, which are free."""
        a, b = (torch.tensor(one, device=self.ids.device) for one in (source, target))
        kept = [self.ids, self.prompt_of, self.prompt_length, self.own_length, self.done, self.broken, self.limit, self.history]
        kept += [self.u, self.after, *self.deltas.values(), *([self.seen] if self.seen is not None else [])]
        for one in kept:
            one[b] = one[a]
        self.done[a] = 1
        self.keys.move(a, b)

    def step(self, model: Model, n: int) -> None:
        """Choose the next token of every row in the first n slots. Nothing here waits for the device."""
        self._choose(self.logits(model, n), n)

    def logits(self, model: Model, n: int) -> torch.Tensor:
        """Feed every row in the first n slots its newest token. Returns the next one's logits, [n, vocabulary]."""
        now = (self.ids, self.prompt_of, self.prompt_length, self.own_length, self.done, self.after)
        ids, prompt_of, prompt_length, own_length, done, after = (one[:n] for one in now)
        keys = self.keys.over_rows(prompt_of, prompt_length, own_length, done)
        on = torch.where(own_length == 0, torch.ones_like(after), after)[
            :, None, None
        ]  # the prompt's last token, or later ones

        def add(layer: int) -> Any:
            return lambda hidden: hidden + on * self.deltas[layer][:n, None]

        network = model.network
        edits = {layer: add(layer) for layer in self.deltas}
        with attending(network, keys), editing(model.blocks, edits), heading(network, self.head):
            out = network(
                input_ids=ids[:, None],
                position_ids=(prompt_length + own_length).long()[:, None],
                past_key_values=keys,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: torch.Tensor = out.logits[:, -1]
        return logits

    def _choose(self, logits: torch.Tensor, n: int) -> None:
        seen = None if self.seen is None else self.seen[:n]
        written = {name: getattr(self, name)[:n] for name in ("ids", "history", "own_length", "done", "broken", "limit")}
        how = self.settings
        if logits.is_cuda:
            from traitline.models.decoding.kernels import choose

            choose(logits, seen, self.u[:n], **written, ends=self.ends, temperature=how.temperature, penalty=how.penalty)
            return
        choose_plain(logits, seen, self.u[:n], **written, ends=self.ends, temperature=how.temperature, penalty=how.penalty)


def choose_plain(
    logits: torch.Tensor,
    seen: torch.Tensor | None,
    u: torch.Tensor,
    *,
    ids: torch.Tensor,
    history: torch.Tensor,
    own_length: torch.Tensor,
    done: torch.Tensor,
    broken: torch.Tensor,
    limit: torch.Tensor,
    ends: torch.Tensor,
    temperature: float,
    penalty: float,
) -> None:
    """Do what `kernels.choose` does, in plain PyTorch, for devices without Triton; the arguments are the same."""
    live = done == 0
    fine = logits.amax(dim=-1).isfinite()
    broken[live & ~fine] = 1
    done[live & ~fine] = 1
    rows = (live & fine).nonzero().squeeze(1)
    if not len(rows):
        return
    adjusted = logits[rows].float()
    if seen is not None:
        adjusted = penalise(adjusted, seen[rows].bool(), penalty)
    step = own_length[rows].long()
    chosen = pick(adjusted, u[rows, step], temperature)
    ids[rows] = chosen
    history[rows, step] = chosen.to(history.dtype)
    if seen is not None:
        seen[rows, chosen] = 1
    own_length[rows] += 1
    done[rows] = (torch.isin(chosen, ends) | (own_length[rows] >= limit[rows])).to(done.dtype)
