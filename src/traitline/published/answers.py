"""The judged answers of a release: one CSV per side of a comparison.

Knows the columns of such a file and which of them is the judge's score of a trait. Says in the audit what is wrong with a file:
columns nobody knows, scores that are missing. Leaves what is compared with what to the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from traitline.errors import InputError
from traitline.published.release import Release

TEXTS = ("question", "prompt", "answer")
KNOWN = (*TEXTS, "question_id", "coherence")
EXTENDED = "_extended"


@dataclass(frozen=True)
class Answers:
    """The rows of one file, scores as floats with NaN where missing.

    Attributes:
        file: path inside the release.
        rows: question, prompt, answer, trait_score, coherence.
    """

    file: str
    rows: pd.DataFrame

    @property
    def n(self) -> int:
        """How many rows the file has."""
        return len(self.rows)


def read_answers(
    release: Release, path: Path, traits: Sequence[str], *, model: str = "", labels: Sequence[str] = ()
) -> Answers | None:
    """Read one file of judged answers, or note in the audit why it cannot be used and return None.

    Args:
        release: the release.
        path: the file.
        traits: names that the judge's column may have, the most likely first; else the only column left is taken.
        model: goes into the audit.
        labels: further columns that belong to the file; they are kept as they are.
    """
    table = release.table(path, ("question", "answer", "coherence"), model=model)
    if table is None:
        return None
    file = release.file(path)
    left = [name for name in table.columns if name not in KNOWN and name not in labels]
    column = next((name for name in traits if name in left), left[0] if len(left) == 1 else None)
    if column is None:
        text = f"no column holds the score of {' or '.join(traits)}; nothing is computed from it"
        release.audit.add("missing_columns", file, 1, text, model=model)
        return None
    unknown = [name for name in left if name != column]
    if unknown:
        text = f"unknown columns {', '.join(map(str, unknown))}; they are ignored"
        release.audit.add("unknown_columns", file, len(unknown), text, model=model)
    scores = {"trait_score": finite(table[column]), "coherence": finite(table["coherence"])}
    for name, values in scores.items():
        missing = int(np.isnan(values).sum())
        if missing:
            text = f"no {name.replace('_', ' ')}; these rows are left out of its mean"
            release.audit.add("missing_scores", file, missing, text, model=model)
    texts = {name: table[name].fillna("").astype(str) if name in table.columns else "" for name in TEXTS}
    kept = {name: table[name] for name in labels if name in table.columns}
    return Answers(file, pd.DataFrame({**texts, **scores, **kept}))


class Shelf:
    """The answers of a release, each file read once."""

    def __init__(self, release: Release, model: str) -> None:
        self.release, self.model = release, model
        self._read: dict[tuple[Path, tuple[str, ...]], Answers | None] = {}

    def answers(self, listed: str, traits: Sequence[str]) -> Answers | None:
        """Return the answers at a path as a result table lists it; None where the file is missing or cannot be used."""
        path = self.locate(listed)
        key = (path, tuple(traits))
        if key not in self._read:
            self._read[key] = read_answers(self.release, path, traits, model=self.model) if self.exists(listed) else None
        return self._read[key]

    def extended(self, listed: str, traits: Sequence[str]) -> Answers | None:
        """Return the answers of the further samples beside a file, which the release calls `..._extended.csv`."""
        return self.answers(extension(listed), traits)

    def exists(self, listed: str) -> bool:
        """Tell whether the file at a path as listed is in the release; a path that no file can have is not."""
        try:
            return bool(listed) and self.locate(listed).is_file()
        except (OSError, ValueError):
            return False

    def counted(self, listed: str, traits: Sequence[str], repeat: str) -> tuple[Answers, ...]:
        """Return the answers of a side, each once, whatever of a file and its extension was counted.

        Args:
            listed: path of the file.
            traits: names that the judge's column may have.
            repeat: how often each was counted, the file and after a plus its extension: `1`, `1+2`.

        Raises:
            InputError: a file that was counted is not there any more.
        """
        times = [*map(int, repeat.split("+")), 0]
        found = [read(listed, traits) for read, n in zip((self.answers, self.extended), times, strict=False) if n]
        parts = tuple(one for one in found if one is not None)
        if len(parts) < len(found):
            raise InputError(f"the answers {listed!r} cannot be read again; was the release changed while it was read?")
        return parts

    def once(self, listed: str, traits: Sequence[str], repeat: str) -> pd.DataFrame:
        """Return the rows of `counted` together.

        Raises:
            InputError: as `counted`.
        """
        return repeated([(one, 1) for one in self.counted(listed, traits, repeat)])

    def locate(self, listed: str) -> Path:
        """Return the file at a path as listed, wherever its authors kept the release; never one outside it."""
        parts = Path(listed).parts
        start = next((i for i, part in enumerate(parts) if part in ("data", "results")), 0)
        return self.release.root.joinpath(*(part for part in parts[start:] if part not in ("..", "/", "\\")))


def extension(listed: str) -> str:
    """Return the path of the further samples beside a file."""
    path = Path(listed)
    return str(path.with_name(f"{path.stem}{EXTENDED}{path.suffix}")) if path.name else ""


def repeated(parts: Sequence[tuple[Answers, int]]) -> pd.DataFrame:
    """Return the rows of several files together, each as many times as said."""
    frames = [one.rows for one, times in parts for _ in range(times)]
    return pd.concat(frames, ignore_index=True)


def finite(column: pd.Series) -> NDArray[np.float64]:
    """Return a column as numbers, NaN for whatever is none or not finite."""
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)
