"""The columns of a release's own tables: those that nobody knows, and cells of numbers that hold none.

Knows how both are told in the audit. Leaves to the rooms that read a table which columns it has and what its numbers mean.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from traitline.published.answers import finite
from traitline.published.release import Release


def note_unknown(release: Release, path: Path, columns: Iterable[object], known: Collection[str], *, model: str) -> None:
    """Say in the audit which columns of a file nobody knows."""
    unknown = [str(name) for name in columns if name not in known]
    if unknown:
        text = f"unknown columns {', '.join(unknown)}; they are ignored"
        release.audit.add("unknown_columns", release.file(path), len(unknown), text, model=model)


def read_numbers(
    release: Release, path: Path, table: pd.DataFrame, columns: Sequence[str], consequence: str, *, model: str
) -> NDArray[np.float64]:
    """Return columns as finite numbers, `[rows, columns]`, and say in the audit how many cells hold none.

    Args:
        release: the release.
        path: the file.
        table: what it holds.
        columns: those wanted.
        consequence: what becomes of the cells without a number; they are NaN.
        model: goes into the audit.
    """
    numbers = np.empty((len(table), len(columns)))
    for i, name in enumerate(columns):
        numbers[:, i] = finite(table[name])
    count = int(np.isnan(numbers).sum())
    if count:
        text = f"{count} of {numbers.size} cells of numbers are empty or hold no finite number; {consequence}"
        release.audit.add("unreadable_numbers", release.file(path), count, text, model=model)
    return numbers
