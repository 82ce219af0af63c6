"""Generate text, every row under a condition of its own.

Knows batching, the cache, where steering is added and when a row ends; the one loop over steps is here. A row arrives
resolved: token ids, the key of its random numbers, and at most one intervention (layer, delta, positions). How a dose becomes
a delta is `vectors/dose.py`; which rows share a batch is `study/plan.py`; telling tokens while they come is `stream.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from traitline.errors import InputError
from traitline.models.blocks import editing
from traitline.models.decoding import decode_rows, serves
from traitline.models.decoding.slots import Settings
from traitline.models.loading import Model
from traitline.models.prompts import decode
from traitline.models.sampler import penalise, pick, uniforms

Positions = Literal["response", "prompt", "all"]
Finish = Literal["eos", "length"]


@dataclass(frozen=True, slots=True, eq=False)
class Intervention:
    """What is added to the residual stream of one row.

    Attributes:
        layer: whose block output it is added to, 1..L.
        delta: what is added, float32 [hidden].
        positions: `response`: the last prompt position (it makes the first new token) and every later one; `prompt`: every
            prompt position, the last included; `all`: both.
    """

    layer: int
    delta: NDArray[np.float32]
    positions: Positions = "response"


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One response to generate: the prompt's ids, the key of its random numbers, and what is done to it."""

    prompt_ids: Sequence[int]
    noise_key: int = 0
    steer: Intervention | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A direction that the residual stream is read along while text is generated.

    Attributes:
        layer: whose block output is read, 1..L, before a row's own delta is added there.
        direction: what it is multiplied with, float32 [hidden].
    """

    layer: int
    direction: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Generation:
    """One generated response.

    Attributes:
        text: the response, special tokens left out.
        token_ids: the generated ids, a generated EOS included.
        finish: `eos`, or `length` where the limit cut it.
    """

    text: str
    token_ids: list[int]
    finish: Finish


@torch.inference_mode()
def generate_rows(
    model: Model,
    rows: Sequence[Row],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    repetition_penalty: float = 1.0,
) -> list[Generation]:
    """Generate one response per row: on a GPU as many at once as fit, elsewhere all rows in one batch.

    Args:
        model: the network.
        rows: what to generate; off a GPU, memory is the caller's concern.
        max_new_tokens: where a response that does not end is cut.
        temperature: 0 is greedy.
        repetition_penalty: over the row's prompt and response; 1 is none.

    Returns:
        One generation per row, in order. A row's text does not depend on the others beyond floating-point rounding.

    Raises:
        InputError: sampling settings out of range, or token ids or an intervention that do not fit the network.
        ModelError: the network gives NaN or infinity.
    """
    if not rows:
        return []
    if serves(model):
        check_rows(model, rows, max_new_tokens, temperature, repetition_penalty)
        tokens = decode_rows(model, rows, Settings(max_new_tokens, temperature, repetition_penalty))
        return [_finish(model, ids) for ids in tokens]
    batch = Batch(model, rows, max_new_tokens, temperature, repetition_penalty)
    for _ in batch.steps():
        pass
    return [_finish(model, ids) for ids in batch.new_ids]


def _finish(model: Model, ids: list[int]) -> Generation:
    ended = bool(ids) and ids[-1] in model.eos_ids
    return Generation(decode(model, ids[:-1] if ended else ids), ids, "eos" if ended else "length")


def check_rows(model: Model, rows: Sequence[Row], max_new_tokens: int, temperature: float, repetition_penalty: float) -> None:
    """Check rows and settings; see `generate_rows` for what is raised."""
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    if not 0 <= temperature < np.inf:
        raise InputError(f"temperature must be 0 (greedy) or more, not {temperature}")
    if not 0 < repetition_penalty < np.inf:
        raise InputError(f"the repetition penalty must be above 0 (1 is none), not {repetition_penalty}")
    for row in rows:
        _check(model, row)


def _check(model: Model, row: Row) -> None:
    if not len(row.prompt_ids):
        raise InputError("a row has an empty prompt; it needs at least one token id")
    vocabulary = model.network.get_input_embeddings().weight.shape[0]
    if min(row.prompt_ids) < 0 or max(row.prompt_ids) >= vocabulary:
        raise InputError(f"a prompt holds token ids outside 0 to {vocabulary - 1}; were they made by another tokenizer?")
    if row.steer is None:
        return
    if row.steer.positions not in get_args(Positions):
        raise InputError(f"steered positions are 'response', 'prompt' or 'all', not {row.steer.positions!r}")
    _check_direction(model, row.steer.layer, row.steer.delta, "steer", "steering delta")


def _check_direction(model: Model, layer: int, direction: NDArray[np.float32], verb: str, noun: str) -> None:
    if not 1 <= layer <= model.layers:
        raise InputError(f"cannot {verb} at layer {layer}: {model.source!r} has layers 1 to {model.layers}")
    if direction.shape != (model.hidden,):
        raise InputError(
            f"the {noun} has shape {list(direction.shape)}, but the residual stream of {model.source!r} is "
            f"{model.hidden} wide; a vector fits only models of its own width"
        )
    if not np.isfinite(direction).all():
        raise InputError(f"the {noun} holds NaN or infinity; check the vector it was made from")


class Batch:
    """The state of one batch while it is generated. Finished rows leave it when at most half of its rows are alive.

    Attributes:
        new_ids: the generated ids of each of the caller's rows so far, a generated EOS included.
        readings: with a probe, what the last step read at the newest token of each row that went into it, by index into the
            caller's rows. A token is read when it is fed back, one step after it was chosen.
    """

    def __init__(
        self,
        model: Model,
        rows: Sequence[Row],
        max_new_tokens: int,
        temperature: float,
        repetition_penalty: float,
        probe: Probe | None = None,
    ) -> None:
        """Check the rows and the settings, and lay the prompts out; see `generate_rows` for what is raised."""
        check_rows(model, rows, max_new_tokens, temperature, repetition_penalty)
        if probe is not None:
            _check_direction(model, probe.layer, probe.direction, "read", "direction to read along")
        self.model, self.limit, self.temperature, self.penalty = model, max_new_tokens, temperature, repetition_penalty
        device = model.device
        width = max(len(row.prompt_ids) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)  # [rows, width]: left padding; the id under it is never seen
        self.mask = torch.zeros_like(ids)
        for r, row in enumerate(rows):
            ids[r, width - len(row.prompt_ids) :] = torch.tensor(list(row.prompt_ids))
            self.mask[r, width - len(row.prompt_ids) :] = 1
        self.ids, self.mask = ids.to(device), self.mask.to(device)
        self.position = self.mask.sum(dim=1, keepdim=True)  # [rows, 1]: of the next token
        self.u = torch.from_numpy(uniforms([row.noise_key for row in rows], max_new_tokens))  # [rows, steps]
        self.new_ids: list[list[int]] = [[] for _ in rows]
        self.alive = list(range(len(rows)))  # index into the caller's rows of each live row
        self.ended = torch.zeros(len(rows), dtype=torch.bool)
        self.cache: Any = DynamicCache()
        self.probe = probe
        self.read = torch.zeros(len(rows))  # [rows]: along the probe, at the last position fed
        self.readings: dict[int, float] = {}
        self._seen(rows)
        self._steers(rows, width)

    def _seen(self, rows: Sequence[Row]) -> None:
        self.seen: torch.Tensor | None = None
        if self.penalty != 1.0:
            vocabulary = self.model.network.get_output_embeddings().weight.shape[0]
            self.seen = torch.zeros(len(rows), vocabulary, dtype=torch.bool, device=self.model.device)
            for r, row in enumerate(rows):
                self.seen[r, torch.tensor(list(row.prompt_ids))] = True

    def _steers(self, rows: Sequence[Row], width: int) -> None:
        """Gather the deltas per layer [rows, 1, hidden] and, per row, the steered positions of the prompt and afterwards."""
        self.deltas: dict[int, torch.Tensor] = {}
        at_prompt = torch.zeros(len(rows), width, 1)
        after = torch.zeros(len(rows), 1, 1)
        for r, row in enumerate(rows):
            if row.steer is None:
                continue
            layer = self.deltas.setdefault(row.steer.layer, torch.zeros(len(rows), self.model.hidden))
            layer[r] = torch.from_numpy(row.steer.delta)
            start = width - 1 if row.steer.positions == "response" else width - len(row.prompt_ids)
            at_prompt[r, start:] = 1
            after[r] = 0 if row.steer.positions == "prompt" else 1
        device = self.model.device
        self.deltas = {layer: delta.to(device, self.model.network.dtype)[:, None] for layer, delta in self.deltas.items()}
        self.where, self.after = at_prompt.to(device), after.to(device)  # `where` becomes `after` once the prompt is through

    def steps(self) -> Iterator[None]:
        """Choose the next token of every live row, one step at a time, until all rows ended or reached the limit.

        The network carries hooks only while it runs, so whoever takes the steps may stop or use it in between.
        """
        for step in range(self.limit):
            logits = self._forward(first=step == 0)  # [rows, vocabulary]
            if self.seen is not None:
                logits = penalise(logits, self.seen, self.penalty)
            self._keep(pick(logits, self.u[:, step], self.temperature))
            yield
            if not self.alive:
                return

    def read_last(self) -> None:
        """Feed the newest token of the rows that the limit cut, so that `readings` holds them as well."""
        self.readings = {}
        if self.alive:
            self._forward(first=False)

    def _forward(self, *, first: bool) -> torch.Tensor:
        """Run the network once over what is not in the cache yet. Returns the next token's logits, [rows, vocabulary]."""
        positions = (self.mask.cumsum(dim=1) - 1).clamp(min=0) if first else self.position - 1
        with self._steering():
            out = self.model.network(
                input_ids=self.ids,
                attention_mask=self.mask,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        if first:
            self.where = self.after
        elif self.probe is not None:
            read = self.read.tolist()
            self.readings = {self.alive[r]: read[r] for r in range(len(read)) if not self.ended[r]}
        logits: torch.Tensor = out.logits[:, -1].float()
        return logits

    def _steering(self) -> AbstractContextManager[None]:
        """Return the context in which the probe reads and the rows' deltas are added."""

        def edit(layer: int) -> Any:
            def add(hidden: torch.Tensor) -> torch.Tensor:  # [rows, positions, hidden]
                if self.probe is not None and layer == self.probe.layer:
                    self.read = hidden[:, -1].float() @ torch.from_numpy(self.probe.direction).to(hidden.device)
                if layer not in self.deltas:
                    return hidden
                return hidden + self.where.to(hidden) * self.deltas[layer].to(hidden)

            return add

        layers = {*self.deltas, self.probe.layer} if self.probe is not None else set(self.deltas)
        return editing(self.model.blocks, {layer: edit(layer) for layer in layers})

    def _keep(self, chosen: torch.Tensor) -> None:
        for r, token in enumerate(chosen.tolist()):
            if not self.ended[r]:
                self.new_ids[self.alive[r]].append(token)
                self.ended[r] = token in self.model.eos_ids
        if self.seen is not None:
            self.seen[torch.arange(len(chosen)), chosen] = True
        self.ids = chosen[:, None]
        self.mask = torch.cat([self.mask, torch.ones_like(self.ids)], dim=1)
        self.position = self.position + 1
        live = int((~self.ended).sum())
        if live == 0:
            self.alive = []
        elif live <= len(self.alive) // 2:
            self._compact()

    def _compact(self) -> None:
        keep = (~self.ended).nonzero().squeeze(1)
        on_device = keep.to(self.model.device)
        self.alive = [self.alive[r] for r in keep.tolist()]
        self.ended, self.u = self.ended[keep], self.u[keep]
        self.where = self.after = self.after[on_device]
        self.ids, self.mask, self.position = self.ids[on_device], self.mask[on_device], self.position[on_device]
        self.deltas = {layer: delta[on_device] for layer, delta in self.deltas.items()}
        if self.seen is not None:
            self.seen = self.seen[on_device]
        self.cache.batch_select_indices(on_device)
