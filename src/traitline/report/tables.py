"""What a run directory holds, read for the report: the study's settings, the tables, and the order of the checkpoints.

Knows the names of the files and the types of their columns. A table that is missing, empty or broken is an empty table with a
sentence saying why, so that a report can be written of a run at any moment. Leaves what is drawn of them to the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from traitline.errors import InputError
from traitline.report.axis import TrainingAxis, training_axis

# table -> (what the report calls it, the columns without which it cannot be shown)
EFFECT = ("trait", "strategy", "vector_checkpoint", "target", "layer", "coef", "status", "delta_trait")
TABLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "emergence": ("the effects of each checkpoint's own vectors", EFFECT),
    "transfer": ("the effects on fixed targets", EFFECT),
    "controls": ("the effects of the controls", EFFECT),
    "verdicts": ("the verdicts", ("kind", "trait", "strategy", "sentence")),
    "extraction": ("the counts of accepted pairs", ("checkpoint", "trait", "strategy", "status")),
    "other_rubrics": ("the effects on other traits' rubrics", (*EFFECT, "rubric")),
    "cosine_matrix": (
        "the cosines between checkpoints",
        ("trait", "strategy", "layer", "checkpoint_a", "checkpoint_b", "cosine"),
    ),
    "cosine_to_final": ("the cosines along training", ("trait", "strategy", "layer", "checkpoint", "cosine_to_final")),
    "cosine_cross_trait": ("the cosines between traits", ("checkpoint", "layer", "trait_a", "trait_b", "cosine")),
}
TEXTS = (
    *("lineage", "trait", "strategy", "vector_checkpoint", "target", "dose", "positions", "status", "judge", "kind"),
    *("onset_after", "onset_by", "sentence", "checkpoint", "checkpoint_a", "checkpoint_b", "reason", "trait_a", "trait_b"),
    *("rubric", "condition", "control_kind", "strategy_a", "strategy_b"),
)
FLAGS = ("fragile", "steerable")
# strategies and traits are shown in the order of the study; these come after all others
LAST_STRATEGIES = ("combined", "forced")


@dataclass(frozen=True)
class Run:
    """A run directory as the report sees it.

    Attributes:
        path: the directory.
        settings: the content of `study.yaml`; empty where it cannot be read.
        settings_text: the file as written.
        tables: every table of `TABLES`, empty where there is none.
        absent: table -> why it is empty, in one sentence.
    """

    path: Path
    settings: dict[str, Any]
    settings_text: str
    tables: dict[str, pd.DataFrame]
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def study(self) -> dict[str, Any]:
        """The study's own fields."""
        found = self.settings.get("study", self.settings)
        return found if isinstance(found, dict) else {}

    @property
    def name(self) -> str:
        """What the report calls the study."""
        return str(self.study.get("name") or self.path.resolve().name)

    @property
    def seed(self) -> int:
        """The study's seed; 0 where it says none."""
        seed = self.study.get("seed")
        return seed if isinstance(seed, int) and seed >= 0 else 0

    @cached_property
    def axis(self) -> TrainingAxis:
        """The checkpoints in order of training, and where each is drawn."""
        seen: dict[str, float] = {}
        for table, column in (
            ("extraction", "checkpoint"),
            ("emergence", "vector_checkpoint"),
            ("transfer", "vector_checkpoint"),
            ("cosine_to_final", "checkpoint"),
        ):
            frame = self.tables[table]
            if frame.empty:
                continue
            tokens = numbers(frame, "tokens")
            for name, count in zip(frame[column].astype(str), tokens, strict=True):
                if name not in seen or np.isnan(seen[name]):
                    seen[name] = float(count)
        return training_axis(seen)

    @cached_property
    def traits(self) -> list[str]:
        """The traits of the study, in its order."""
        return self._ordered("trait", [_stem(name) for name in self._listed("traits")])

    @cached_property
    def strategies(self) -> list[str]:
        """The strategies of the study, in its order, the pooled and the forced ones last."""
        found = self._ordered("strategy", self._listed("strategies"))
        return sorted(found, key=lambda name: LAST_STRATEGIES.index(name) if name in LAST_STRATEGIES else -1)

    def _listed(self, key: str) -> list[str]:
        value = self.study.get(key)
        return [str(item) for item in value] if isinstance(value, list) else []

    def _ordered(self, column: str, wanted: Sequence[str]) -> list[str]:
        found: dict[str, None] = {}
        for frame in self.tables.values():
            if column in frame.columns:
                found |= dict.fromkeys(frame[column].dropna().astype(str))
        return [name for name in wanted if name in found] + [name for name in found if name not in wanted]


def read_run(path: Path) -> Run:
    """Read what the report needs of a run directory, whatever of it exists.

    Raises:
        InputError: the directory does not exist.
    """
    if not path.is_dir():
        raise InputError(f"run directory {str(path)!r} does not exist; give the folder that a study was run into")
    tables, absent = {}, {}
    for name, (what, needed) in TABLES.items():
        tables[name], reason = _read_table(path / "tables" / f"{name}.csv", what, needed)
        if reason:
            absent[name] = reason
    settings, text = _read_settings(path / "study.yaml")
    return Run(path, settings, text, tables, absent)


def numbers(frame: pd.DataFrame, column: str) -> pd.Series:
    """Return one column as floats, NaN where it is missing or the table has none of that name."""
    if column not in frame.columns:
        return pd.Series(np.nan, index=frame.index, dtype=np.float64)
    return pd.to_numeric(frame[column], errors="coerce").astype(np.float64)


def unique(values: Iterable[Any]) -> list[Any]:
    """Return the values without repeats, in the order they came."""
    return list(dict.fromkeys(values))


def _read_table(path: Path, what: str, needed: Sequence[str]) -> tuple[pd.DataFrame, str]:
    """Return a table, and why it is empty."""
    empty = pd.DataFrame({name: [] for name in needed})
    where = f"tables/{path.name}"
    if not path.is_file():
        return empty, f"The run has not written {where} ({what}) yet."
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str), low_memory=False)
    except pd.errors.EmptyDataError:
        return empty, f"{where} ({what}) is empty."
    except (OSError, ValueError) as error:
        return empty, f"{where} ({what}) cannot be read: {error}"
    lacking = [name for name in needed if name not in table.columns]
    if lacking:
        return empty, f"{where} ({what}) lacks the columns {', '.join(lacking)}."
    for name in FLAGS:
        if name in table.columns:
            table[name] = table[name].astype(str).str.strip().str.lower().isin(["true", "1", "1.0"])
    return table, "" if len(table) else f"{where} ({what}) has no rows yet."


def _read_settings(path: Path) -> tuple[dict[str, Any], str]:
    """Return the study's settings and the file's text; a sentence instead where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
        settings = yaml.safe_load(text)
    except FileNotFoundError:
        return {}, "study.yaml is missing from the run directory."
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return {}, f"study.yaml cannot be read: {error}"
    return (settings, text) if isinstance(settings, dict) else ({}, text)


def _stem(name: str) -> str:
    """Return the trait's name of an entry that may be a path."""
    return Path(name).stem if name.endswith((".yaml", ".yml", ".json")) else name
