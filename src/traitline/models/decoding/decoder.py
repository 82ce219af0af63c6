"""The loop: rows wait, enter slots, are decoded step by step, and leave with their tokens.

Knows when prompts are read, how often the device is looked at, and that a step is captured once as a graph and replayed. Leaves
what a step does to `slots.py`, and what to do with tokens to `models/generate.py`. A row's random numbers are its own, so it
may start over at any time and ends the same: that is what happens when memory runs out.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from traitline.errors import ModelError
from traitline.models.blocks import editing
from traitline.models.decoding.attention import attending
from traitline.models.decoding.memory import PREFILL, Room, free_bytes, room_for
from traitline.models.decoding.slots import Settings, Slots
from traitline.models.fusing import fused, refused
from traitline.models.sampler import BROKEN

if TYPE_CHECKING:
    from traitline.models.generate import Row
    from traitline.models.loading import Model

LOOK = 8
"""Steps between two looks at which rows are over."""
REFILL = 16
"""Rows enter when at least one slot in this many is free."""

Prefix = tuple[tuple[int, ...], int, bytes]
"""A prompt without its last token; and where the prompt itself is steered, the layer and the delta, else 0 and nothing."""

log = logging.getLogger("traitline")


@torch.inference_mode()
def decode_rows(model: Model, rows: Sequence[Row], settings: Settings) -> list[list[int]]:
    """Generate the tokens of each row, in order; rows were checked before.

    Raises:
        ModelError: the network gives NaN or infinity, or a single row does not fit into memory.
    """
    layers = sorted({row.steer.layer for row in rows if row.steer is not None})
    prefixes = [_prefix(row) for row in rows]
    lengths = [len(ids) for ids, _, _ in dict.fromkeys(prefixes)]
    free, known = free_bytes(model.device), _decoders.get(model)
    if free is not None and known is not None:
        free += known.held
    room = room_for(model, lengths, len(rows), settings.max_new_tokens, len(layers), free)
    tokens: list[list[int] | None] = [None] * len(rows)
    while True:
        try:
            with fused(model.network):
                _decoder(model, settings, room, layers).run(model, rows, prefixes, tokens)
            return [one for one in tokens if one is not None]
        except torch.OutOfMemoryError as error:
            _decoders.pop(model, None)
            if room.slots == 1:
                raise ModelError(f"one row of {model.source!r} does not fit into the device's memory: {error}") from error
        # Outside of the handler, whose traceback holds the tensors of the attempt.
        torch.cuda.empty_cache()
        left = sum(one is None for one in tokens)
        log.warning(
            "out of memory with %d rows at once; the %d rows that are left go on with %d", room.slots, left, room.slots // 2
        )
        room = room.halved()


def serves(model: Model) -> bool:
    """Tell whether rows of this network are decoded here: it is on one GPU, and gives here what it gives by itself."""
    if model.device.type != "cuda" or len({p.device for p in model.network.parameters()}) > 1:
        return False
    if model not in _served:
        _served[model] = _agrees(model)
    return _served[model]


def release(model: Model) -> None:
    """Give back the memory held for the network's rows."""
    if _decoders.pop(model, None) is not None and model.device.type == "cuda":
        torch.cuda.empty_cache()


_decoders: WeakKeyDictionary[Model, Decoder] = WeakKeyDictionary()
_served: WeakKeyDictionary[Model, bool] = WeakKeyDictionary()


def _decoder(model: Model, settings: Settings, room: Room, layers: Sequence[int]) -> Decoder:
    """Return the decoder of the last call if it fits this one as well, else another."""
    known = _decoders.get(model)
    if known is not None and known.fits(settings, room, layers):
        return known
    release(model)
    _decoders[model] = Decoder(model, settings, room, layers)
    return _decoders[model]


def _prefix(row: Row) -> Prefix:
    ids = tuple(row.prompt_ids[:-1])
    if row.steer is None or row.steer.positions == "response":
        return ids, 0, b""
    return ids, row.steer.layer, row.steer.delta.tobytes()


class Decoder:
    """The slots of one network, and the graphs captured over them. Holds memory, never the network, which may go any time."""

    def __init__(self, model: Model, settings: Settings, room: Room, layers: Sequence[int]) -> None:
        """Make room for rows and prompts, steered at `layers`."""
        self.settings, self.room, self.layers = settings, room, tuple(layers)
        before = free_bytes(model.device) or 0
        self.slots = Slots(model, settings, room.slots, room.prompts, room.prompt_length, layers)
        self.held = before - (free_bytes(model.device) or 0)
        self.graphs: dict[int, Any] = {}
        self.places: dict[Prefix, int] = {}  # of each prompt that was read

    def fits(self, settings: Settings, room: Room, layers: Sequence[int]) -> bool:
        """Tell whether a call can be served as well as by a decoder made for it."""
        mine = self.room
        enough = mine.prompts >= room.prompts and mine.prompt_length >= room.prompt_length
        return settings == self.settings and set(layers) <= set(self.layers) and enough and mine.slots >= room.slots

    def run(self, model: Model, rows: Sequence[Row], prefixes: Sequence[Prefix], tokens: list[list[int] | None]) -> None:
        """Decode the rows that have no tokens yet, and enter what they got into `tokens`."""
        todo = [i for i, got in enumerate(tokens) if got is None]
        first: dict[Prefix, int] = {}
        for i in todo:
            first.setdefault(prefixes[i], len(first))
        waiting = sorted(todo, key=lambda i: first[prefixes[i]], reverse=True)  # the next is the last; like prompts together
        inside: dict[int, int] = {}  # row of each taken slot
        self.places = {}
        self.slots.done.fill_(1)
        while waiting or inside:
            free = [slot for slot in range(self.room.slots) if slot not in inside]
            if waiting and (len(free) * REFILL >= self.room.slots or not inside):
                self._enter(model, free, waiting, inside, rows, prefixes)
            n = self._together(inside) if not waiting else self.room.slots
            self._steps(model, n)
            self._leave(inside, tokens)

    def _enter(
        self,
        model: Model,
        free: list[int],
        waiting: list[int],
        inside: dict[int, int],
        rows: Sequence[Row],
        prefixes: Sequence[Prefix],
    ) -> None:
        """Let waiting rows into free slots, as far as their prompts find a place, and read new prompts."""
        used = Counter(prefixes[i] for i in inside.values())
        entering: list[int] = []
        fresh: dict[Prefix, int] = {}
        while waiting and len(entering) < len(free):
            prefix = prefixes[waiting[-1]]
            if prefix not in self.places:
                place = self._place(used)
                if place is None:
                    break
                fresh[prefix] = self.places[prefix] = place
            used[prefix] += 1
            entering.append(waiting.pop())
        if not entering:
            return
        self._read(model, fresh)
        slots = free[: len(entering)]
        self.slots.enter(slots, [rows[i] for i in entering], [self.places[prefixes[i]] for i in entering])
        inside.update(zip(slots, entering, strict=True))

    def _place(self, used: Counter[Prefix]) -> int | None:
        """Return a place for another prompt: an empty one, or that of a prompt which no row has any more."""
        if len(self.places) < self.room.prompts:
            return len(self.places)
        for prefix in self.places:
            if not used[prefix]:
                return self.places.pop(prefix)
        return None

    def _read(self, model: Model, prompts: dict[Prefix, int]) -> None:
        """Put prompts through the network, each with the delta it is steered with, and keep their keys and values."""
        batch: list[Prefix] = []
        for prefix in sorted((one for one in prompts if one[0]), key=lambda one: len(one[0])):
            if batch and (len(batch) + 1) * len(prefix[0]) > PREFILL:
                self._read_batch(model, batch, prompts)
                batch = []
            batch.append(prefix)
        if batch:
            self._read_batch(model, batch, prompts)

    def _read_batch(self, model: Model, batch: list[Prefix], places: dict[Prefix, int]) -> None:
        device, width = model.device, len(batch[-1][0])
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        deltas: dict[int, torch.Tensor] = {}
        for r, (prompt, layer, delta) in enumerate(batch):
            ids[r, : len(prompt)] = torch.tensor(prompt)
            if layer:
                rows = deltas.setdefault(layer, torch.zeros(len(batch), 1, model.hidden))
                rows[r, 0] = torch.frombuffer(bytearray(delta), dtype=torch.float32)
        keys = self.slots.keys.over_prompts(torch.tensor([places[one] for one in batch], device=device))

        def add(rows: torch.Tensor) -> Any:
            return lambda hidden: hidden + rows.to(hidden)

        network = model.network
        with attending(network, keys), editing(model.blocks, {layer: add(rows) for layer, rows in deltas.items()}):
            positions = torch.arange(width, device=device).expand(len(batch), -1)
            network.base_model(input_ids=ids.to(device), position_ids=positions, past_key_values=keys, use_cache=True)

    def _together(self, inside: dict[int, int]) -> int:
        """Move the rows that are left to the front, if half of the slots would do. Returns how many slots to step."""
        n = self.room.slots
        while n > 1 and len(inside) <= (n + 1) // 2:
            n = (n + 1) // 2
        outside = [slot for slot in inside if slot >= n]
        free = [slot for slot in range(n) if slot not in inside][: len(outside)]
        if outside:
            self.slots.move(outside, free)
            for source, target in zip(outside, free, strict=True):
                inside[target] = inside.pop(source)
        return n

    def _steps(self, model: Model, n: int) -> None:
        """Take steps with the first n slots until the next look."""
        for _ in range(min(LOOK, self.settings.max_new_tokens)):
            if self.slots.ids.is_cuda:
                self._graph(model, n).replay()
            else:
                self.slots.step(model, n)

    def _graph(self, model: Model, n: int) -> Any:
        if n not in self.graphs:
            self.graphs[n] = self._captured(model, n)
        return self.graphs[n]

    def _captured(self, model: Model, n: int) -> Any:
        """Capture one step with n slots. Trying it first changes nothing: all rows are said to be over meanwhile."""
        slots = self.slots
        done = slots.done.clone()
        slots.done.fill_(1)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                slots.step(model, n)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        pool = next((one.pool() for one in self.graphs.values()), None)
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # a judge may use the GPU meanwhile
            slots.step(model, n)
        slots.done.copy_(done)
        return graph

    def _leave(self, inside: dict[int, int], tokens: list[list[int] | None]) -> None:
        """Look which rows are over, and take their tokens out."""
        slots = self.slots
        done, lengths, broken = torch.stack([slots.done, slots.own_length, slots.broken]).tolist()
        over = [slot for slot in inside if done[slot]]
        if any(broken[slot] for slot in over):
            raise ModelError(BROKEN)
        if not over:
            return
        history = slots.history[torch.tensor(over, device=slots.history.device)].tolist()
        for slot, line in zip(over, history, strict=True):
            tokens[inside.pop(slot)] = line[: lengths[slot]]


def _agrees(model: Model) -> bool:
    """Tell whether a few prompts get the same logits here as by the network alone, compiled in parts or not; else say why."""
    for compiled in (True, False):
        if not compiled:
            refused.add(model.network)
        try:
            cosine = _cosine(model)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever an unknown architecture or compiler raises
            why = " ".join(str(error).split())[:300]
        else:
            if cosine > 0.99:
                return True
            why = f"the fast way gives other logits (cosine {cosine:.3f})"
        log.info("%s, %s: %s", model.source, "compiled in parts" if compiled else "as it is", why)
    log.warning("%s is decoded the slow way: %s", model.source, why)
    return False


@torch.inference_mode()
def _cosine(model: Model) -> float:
    """Return the smallest cosine between the logits that prompts get here and by the network alone."""
    from traitline.models.generate import Row

    vocabulary = model.network.get_input_embeddings().weight.shape[0]
    draw = torch.Generator().manual_seed(0)
    rows = [Row(torch.randint(vocabulary, (length,), generator=draw).tolist()) for length in (7, 4, 1)]
    decoder = Decoder(model, Settings(2, 0.0, 1.0), Room(3, 3, 6, 2), [])
    with fused(model.network):
        decoder._enter(model, [0, 1, 2], [2, 1, 0], {}, rows, [_prefix(row) for row in rows])
        here = decoder.slots.logits(model, 3).float()
    alone = [model.network(input_ids=torch.tensor([row.prompt_ids], device=model.device)).logits[:, -1] for row in rows]
    return float(torch.nn.functional.cosine_similarity(here, torch.cat(alone).float()).min())
