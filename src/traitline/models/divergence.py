"""How far steering moves a network's next-token distribution: KL(base || steered) on fixed texts, teacher-forced.

Knows which positions of the texts are steered and read, and how many interventions share a forward pass: every row carries its
own layer and delta. What lies below the lowest steered layer is the same for all of them and computed once. Distributions are
compared in float32, whatever the network computes in. Leaves which coefficient moves it by how much to `vectors/dose.py`, and
which texts are neutral to `vectors/calibration.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import nn

from traitline.errors import InputError, ModelError
from traitline.models.blocks import Edit, editing
from traitline.models.generate import Intervention, Positions, Row, check_rows
from traitline.models.loading import Model
from traitline.models.passes import in_halves, on_device, tokens_at_once

PROMPT = 8
"""Tokens of each text that count as its prompt where the response is steered; the last of them is steered as well."""
LENGTH = 40
"""Tokens that are read of each text; what follows is left out."""
ENOUGH = 256
"""Steered positions after which no further text is read."""
LEAST = -1e4
"""Logarithms of probabilities are taken to be no smaller."""
LOGITS = 2**28
"""Logits of one forward pass at most, unless one intervention alone has more."""


@dataclass(frozen=True, slots=True)
class Moved:
    """By how much one intervention moves the next-token distribution, in nats.

    Attributes:
        mean: over the steered positions of all texts; NaN or infinite where the steered network overflows.
        p95: the 95th percentile over them.
        positions: how many there are.
    """

    mean: float
    p95: float
    positions: int


class Divergence:
    """KL(base || steered) of one network over fixed texts.

    Args:
        model: the network.
        texts: token ids of neutral texts. The first of them are read, those of full length before others, until `ENOUGH`
            positions are steered; those too short to have a response are left out.
        positions: which are steered, and read: `response` is everything from the last of the first `PROMPT` tokens on;
            with `prompt` and `all`, texts are prompts, and every token is steered.

    Raises:
        InputError: no text is long enough, or unknown positions.
    """

    def __init__(self, model: Model, texts: Sequence[Sequence[int]], positions: Positions = "response") -> None:
        if positions not in ("response", "prompt", "all"):
            raise InputError(f"positions are 'response', 'prompt' or 'all', not {positions!r}")
        self._model, self.positions = model, positions
        self._start = PROMPT - 1 if positions == "response" else 0
        self.texts: list[list[int]] = []
        for text in sorted((text for text in texts if len(text) > PROMPT), key=lambda text: len(text) < LENGTH):
            if self.n_positions < ENOUGH:
                self.texts.append(list(text[:LENGTH]))
        if not self.texts:
            raise InputError(f"none of {len(texts)} neutral texts is longer than {PROMPT} tokens; give longer ones")
        self._outputs: list[Any] = []  # what each block gives for the texts without steering
        check_rows(model, [Row(ids) for ids in self.texts], 1, 0.0, 1.0)

    @property
    def n_positions(self) -> int:
        """The number of positions that are steered and read."""
        return sum(len(ids) - self._start for ids in self.texts)

    @property
    def digest(self) -> str:
        """Hash of the tokens and of where they are steered: the same for all networks that read the same."""
        return blake2b(repr((self._start, self.texts)).encode(), digest_size=8).hexdigest()

    @torch.inference_mode()
    def measure(self, steers: Sequence[Intervention]) -> list[Moved]:
        """Return by how much each intervention moves the distribution, in order; as many share a pass as suit the device.

        Raises:
            InputError: an intervention that does not fit the network, or that steers other positions.
            ModelError: the network gives NaN or infinity without steering, or the texts do not fit into memory.
        """
        for steer in steers:
            if steer.positions != self.positions:
                raise InputError(f"KL is measured at {self.positions!r} positions, and {steer.positions!r} ones are steered")
        check_rows(self._model, [Row(self.texts[0], steer=steer) for steer in steers], 1, 0.0, 1.0)
        tokens, (p, _) = self._ids.numel(), self._base
        at_once = max(1, min(tokens_at_once(self._model), LOGITS // p.shape[-1]) // tokens)
        order = sorted(range(len(steers)), key=lambda i: steers[i].layer)  # those of a layer skip the blocks below it together
        planned = [order[i : i + at_once] for i in range(0, len(order), at_once)]
        found: dict[int, Moved] = {}
        for batch, kl in in_halves(self._model, [tokens] * len(steers), planned, self._comparing(steers)):
            values = kl.cpu().numpy().astype(np.float64)  # [batch, n_positions]
            means, highs = values.mean(axis=1), np.quantile(values, 0.95, axis=1)
            found |= {i: Moved(float(m), float(h), self.n_positions) for i, m, h in zip(batch, means, highs, strict=True)}
        return [found[i] for i in range(len(steers))]

    def _comparing(self, steers: Sequence[Intervention]) -> Callable[[list[int]], torch.Tensor]:
        p, log_p = self._base
        own = torch.linalg.vecdot(p, log_p)  # [n_positions]

        def compare(batch: list[int]) -> torch.Tensor:
            """Return KL(base || steered) of each intervention at each position, float32 [batch, n_positions]."""
            logits = self._logits([steers[i] for i in batch])  # [batch, texts, positions, vocabulary]
            kl = torch.empty(len(batch), self.n_positions, device=logits.device)
            for r in range(len(batch)):  # one at a time: in float32, the logits of a pass need several times its memory
                kl[r] = own - torch.linalg.vecdot(p, _log_softmax(logits[r][self._read]))
            return kl.clamp_(min=0)

        return compare

    @cached_property
    def _base(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's own probabilities and their logarithms at every position, float32 [n_positions, vocabulary]."""
        with ExitStack() as stack:
            for block in self._model.blocks:
                handle = block.register_forward_hook(lambda _block, _args, output: self._outputs.append(output))
                stack.callback(handle.remove)
            log_p = _log_softmax(self._logits([None])[0][self._read])
        p = log_p.exp()
        if not p.isfinite().all():
            raise ModelError(
                f"next-token probabilities of {self._model.source!r} hold NaN or infinity; its weights are broken, or too "
                "large for its dtype"
            )
        return p, log_p

    @cached_property
    def _ids(self) -> torch.Tensor:
        """The texts, padded on the right with their last token, which no earlier position sees: [texts, positions]."""
        width = max(map(len, self.texts))
        ids = np.array([[*text, *[text[-1]] * (width - len(text))] for text in self.texts], dtype=np.int64)
        return on_device(ids, self._model.device)

    @cached_property
    def _read(self) -> torch.Tensor:
        """Which of the logits kept are of steered positions, [texts, positions - start]."""
        width = self._ids.shape[1]
        kept = [[self._start + i < len(text) for i in range(width - self._start)] for text in self.texts]
        return torch.tensor(kept, device=self._model.device)

    def _logits(self, steers: Sequence[Intervention | None]) -> torch.Tensor:
        """Return the texts' logits under each intervention from the first steered position on, [steers, texts, kept, words]."""
        texts, width = self._ids.shape
        layers = {steer.layer for steer in steers if steer is not None}
        with ExitStack() as stack:
            if layers:
                stack.enter_context(self._known(min(layers), len(steers)))
            stack.enter_context(editing(self._model.blocks, {layer: self._edit(layer, steers) for layer in layers}))
            kept = width - self._start
            out = self._model.network(input_ids=self._ids.repeat(len(steers), 1), use_cache=False, logits_to_keep=kept)
        logits: torch.Tensor = out.logits
        return logits.view(len(steers), texts, kept, -1)

    @contextmanager
    def _known(self, layer: int, times: int) -> Iterator[None]:
        """While open, the blocks up to a layer are not computed: each gives what block `layer` gave without steering."""
        output = self._outputs[layer - 1]
        residual = (output[0] if isinstance(output, tuple) else output).repeat(times, 1, 1)
        given = (residual, *output[1:]) if isinstance(output, tuple) else residual
        with ExitStack() as stack:
            for block in self._model.blocks[:layer]:
                stack.enter_context(_giving(block, given))
            yield

    def _edit(self, layer: int, steers: Sequence[Intervention | None]) -> Edit:
        """Return what adds, at one layer, the delta of every row that is steered there."""
        none = np.zeros(self._model.hidden, dtype=np.float32)
        deltas = np.stack([none if one is None or one.layer != layer else one.delta for one in steers])  # [steers, hidden]
        added = on_device(deltas, self._model.device).to(self._model.network.dtype).repeat_interleave(len(self.texts), dim=0)

        def add(hidden: torch.Tensor) -> torch.Tensor:  # [steers * texts, positions, hidden]
            steered = hidden.clone()
            steered[:, self._start :] += added[:, None].to(hidden)
            return steered

        return add


@contextmanager
def _giving(block: nn.Module, output: Any) -> Iterator[None]:
    """While open, a block gives this whatever it is given; its hooks run as ever."""
    before = vars(block).get("forward")
    block.forward = lambda *_args, **_given: output
    try:
        yield
    finally:
        del block.forward
        if before is not None:
            block.forward = before


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities in float32; those of words that are ruled out stay finite, so that 0 times them is 0."""
    return torch.log_softmax(logits.float(), dim=-1).clamp_(min=LEAST)
