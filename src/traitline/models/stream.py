"""Generate several rows at once and tell every token as it comes, with what the residual stream holds along one direction.

Knows when a token and its piece of text are certain. A token is read at its own position, where `capture.py` reads responses,
so it is told one step after it was chosen, when the network has taken it in. It is read before the row's own delta is added at
the probe's layer: what steering puts there is known without reading it. The step itself is `generate.py`'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from traitline.models.generate import Batch, Finish, Probe, Row
from traitline.models.loading import Model
from traitline.models.pieces import Pieces


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a response.

    Attributes:
        row: index into the rows.
        id: the token's id.
        text: its piece of the response; the pieces of a row join to the text that `generate_rows` gives.
        projection: dot product of the probe's direction and the residual stream at this token's position.
    """

    row: int
    id: int
    text: str
    projection: float


@dataclass(frozen=True, slots=True)
class Step:
    """What became known in one step of the network.

    Attributes:
        tokens: of each row in order; of one row none, one, or several that had to wait for a later one.
        finished: how each row ended that ended in this step. The closing EOS is not told as a token.
    """

    tokens: tuple[Token, ...]
    finished: Mapping[int, Finish]


def stream_rows(
    model: Model,
    rows: Sequence[Row],
    probe: Probe,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    repetition_penalty: float = 1.0,
) -> Iterator[Step]:
    """Generate one response per row, all rows in one batch, and yield after every step.

    The texts are those of `generate_rows`. The rows' prompts and settings are checked before this returns.

    Args:
        model: the network; between two steps it carries no hooks and may be used.
        rows: the batch, at least one.
        probe: layer and direction to read every token along.
        max_new_tokens: where a response that does not end is cut.
        temperature: 0 is greedy.
        repetition_penalty: over the row's prompt and response; 1 is none.

    Raises:
        InputError: what `generate_rows` refuses, or a probe that does not fit the network.
        ModelError: while streaming: the network gives NaN or infinity.
    """
    batch = Batch(model, rows, max_new_tokens, temperature, repetition_penalty, probe)
    return _steps(model, batch)


@torch.inference_mode()
def _steps(model: Model, batch: Batch) -> Iterator[Step]:
    rows = [_Teller(model, r) for r in range(len(batch.new_ids))]
    live = set(range(len(rows)))
    for _ in batch.steps():
        told = _tell(rows, batch)
        ended = [r for r in sorted(live) if batch.new_ids[r][-1] in model.eos_ids]
        live -= set(ended)
        told += [token for r in ended for token in rows[r].close()]
        yield Step(tuple(told), dict.fromkeys(ended, "eos"))
    if live:
        batch.read_last()
        told = _tell(rows, batch)
        told += [token for r in sorted(live) for token in rows[r].close()]
        yield Step(tuple(told), dict.fromkeys(sorted(live), "length"))


def _tell(rows: list[_Teller], batch: Batch) -> list[Token]:
    return [token for r, value in batch.readings.items() for token in rows[r].add(batch.new_ids[r], value)]


class _Teller:
    """The tokens of one row that were read, and of those the ones whose text is not certain yet."""

    def __init__(self, model: Model, row: int) -> None:
        self._row, self._pieces = row, Pieces(model)
        self._read = 0
        self._waiting: deque[tuple[int, float]] = deque()  # (id, projection)

    def add(self, ids: list[int], value: float) -> list[Token]:
        """Take the reading of the next of the row's ids. Returns the tokens that are certain now."""
        token = ids[self._read]
        self._read += 1
        self._waiting.append((token, value))
        return self._told(self._pieces.add(token))

    def close(self) -> list[Token]:
        """Return the tokens that are left."""
        return self._told(self._pieces.close())

    def _told(self, pieces: list[str]) -> list[Token]:
        told = [(*self._waiting.popleft(), piece) for piece in pieces]
        return [Token(self._row, token, piece, value) for token, value, piece in told]
