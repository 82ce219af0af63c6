"""What is wrong with a published release: one row per defect, with the file, how many rows it touches and what follows.

Knows nothing of any defect: whoever finds one says what it is. A finding never stops the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

COLUMNS = ["model", "kind", "file", "count", "consequence"]


@dataclass
class Audit:
    """The findings so far, each once."""

    _found: dict[tuple[str, str, str, str], int] = field(default_factory=dict)

    def add(self, kind: str, file: str, count: int, consequence: str, *, model: str = "") -> None:
        """Note one defect.

        Args:
            kind: what it is, in one word with underscores, for example `overwritten_baseline`.
            file: path inside the release; empty where it is about no single file.
            count: how many rows, files or values it touches.
            consequence: what it means for the numbers, in words.
            model: the model it was found under.
        """
        self._found[model, kind, file, consequence] = count

    def table(self) -> pd.DataFrame:
        """Return the findings by model, kind and file: columns model, kind, file, count, consequence."""
        rows = [(model, kind, file, count, text) for (model, kind, file, text), count in self._found.items()]
        table = pd.DataFrame(rows, columns=COLUMNS)
        return table.sort_values(["model", "kind", "file"], kind="stable", ignore_index=True)
