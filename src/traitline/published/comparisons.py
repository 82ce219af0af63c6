"""The published comparisons whose answers can be read, with the rows of each side once.

Knows how the table of `significance.py` names the files of a side and says how often it counted them. Leaves reading to
`answers.py`, and what is wrong with answers or comparisons to `leaks.py` and `consistency.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from traitline.errors import InputError
from traitline.published.answers import Answers, Shelf, repeated

ALPHA = 0.05
"""What the paper calls significant."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison: the files that were counted, and their rows, each once and in the order of the files."""

    parts: tuple[Answers, ...]
    rows: pd.DataFrame


@dataclass(frozen=True)
class Comparison:
    """One row of the table of significance, with the answers of both sides."""

    row: Mapping[Hashable, Any]
    baseline: Side
    steered: Side

    @property
    def sides(self) -> tuple[Side, Side]:
        """Baseline and steered."""
        return self.baseline, self.steered

    @property
    def files(self) -> tuple[tuple[str, ...], ...]:
        """The files it compares: the same ones are the same comparison, whichever table lists it."""
        return tuple(tuple(part.file for part in side.parts) for side in self.sides)


def comparisons(significance: pd.DataFrame, shelf: Shelf) -> Iterator[Comparison]:
    """Read both sides of every row of one model that has its answers.

    Args:
        significance: the model's rows of the table of `significance.py`.
        shelf: its judged answers.
    """
    for row in significance[significance["status"] != "raw_missing"].to_dict("records"):
        traits = str(row["judge_traits"]).split("|")
        try:
            baseline = _side(shelf, str(row["baseline_file"]), traits, str(row["baseline_repeat"]))
            steered = _side(shelf, str(row["steered_file"]), traits, str(row["repeat"]))
        except InputError:  # the answers have gone since the table was made: nothing to look at
            continue
        yield Comparison(row, baseline, steered)


def _side(shelf: Shelf, listed: str, traits: list[str], repeat: str) -> Side:
    """Return the files counted and their rows."""
    parts = shelf.counted(listed, traits, repeat)
    return Side(parts, repeated([(one, 1) for one in parts]))
