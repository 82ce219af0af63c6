"""What a run directory holds, read for the report: the study's settings, the tables, and the order of the checkpoints.

Knows the names of the files and the types of their columns. A table that is missing, empty or broken is an empty table with a
sentence saying why, so that a report can be written of a run at any moment. Leaves what is drawn of them to the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from pyarrow import csv

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
    "cosine_to_final": ("the cosines along training", ("trait", "strategy", "layer", "checkpoint", "cosine_to_final")),
    "cosine_cross_trait": ("the cosines between traits", ("checkpoint", "layer", "trait_a", "trait_b", "cosine")),
    # after the others, which tell the layers that it is read for
    "cosine_matrix": (
        "the cosines between checkpoints",
        ("trait", "strategy", "layer", "checkpoint_a", "checkpoint_b", "cosine"),
    ),
}
# tables that only some runs have: a page says nothing of those it lacks
OPTIONAL: dict[str, tuple[str, tuple[str, ...]]] = {
    "same_weights": ("the cosines between draws from the same weights", ("trait", "strategy", "layer", "cosine")),
    "facets": ("the shares of the facets", ("trait", "strategy", "checkpoint", "scheme", "facet", "count", "total", "share")),
    "significance": ("the published comparisons, recomputed", ("run", "model", "trait", "extract_revision", "status")),
    "cosine_cross_strategy": (
        "the cosines between strategies",
        ("checkpoint", "trait", "layer", "strategy_a", "strategy_b", "cosine"),
    ),
    "strategies": (
        "the effects of every strategy's vectors on every strategy's questions",
        ("trait", "strategy", "vector_strategy", "target", "layer", "coef", "status", "delta_trait"),
    ),
    "stages": ("the stages of post-training", ("trait", "strategy", "stage", "baseline_trait", "refusal_rate", "projection")),
    "reverse": ("the descendants' vectors", ("trait", "strategy", "vector_checkpoint", "target", "coef", "status")),
    "cosine_descendants": ("the cosines to the descendants' vectors", ("trait", "strategy", "descendant", "layer", "cosine")),
    "matched": (
        "the effects at equal coherence loss",
        ("trait", "strategy", "vector_checkpoint", "layer", "status", "side", "coherence_loss", "delta_trait"),
    ),
    "lens": ("the top tokens", ("checkpoint", "trait", "strategy", "layer", "direction", "side", "rank", "token", "z")),
    "lens_drift": ("the drift of the top tokens", ("checkpoint", "trait", "strategy", "layer", "direction", "side")),
    "lens_words": ("where the traits' words stand", ("checkpoint", "trait", "strategy", "layer", "direction", "set", "auc")),
    "lens_vocabulary": ("the tokens compared", ("checkpoint", "n_tokens", "n_kept")),
    "nearest_texts": ("the answers along the vectors", ("checkpoint", "trait", "strategy", "layer", "end", "response")),
    "text_correlations": ("how projections follow the judge", ("checkpoint", "trait", "strategy", "layer", "correlation")),
    "strategy_parts": ("what strategies share", ("checkpoint", "trait", "layer", "strategy", "shared_share", "rest_share")),
    "principal_angles": ("the angles between strategies", ("checkpoint", "layer", "strategy_a", "strategy_b", "angle")),
    "neutral_sides": ("the sides of neutral", ("checkpoint", "trait", "strategy", "layer", "positive_share")),
    "components": (
        "the components steered alone",
        ("trait", "strategy", "vector_strategy", "vector_checkpoint", "layer", "coef", "status", "delta_trait"),
    ),
    "detection": (
        "how well the traits are read",
        ("checkpoint", "tokens", "trait", "strategy", "split", "probe", "layer", "status", "auc", "readable"),
    ),
    "readable": (
        "when the traits became readable",
        ("trait", "strategy", "split", "probe", "layer", "named", "readable_after", "readable_by", "beyond_words_by"),
    ),
    "context": (
        "what the instruction adds to the vectors",
        ("checkpoint", "tokens", "trait", "strategy", "vector", "layer", "n_pairs", "cosine", "norm_ratio"),
    ),
    "prompt_tails": ("the comparisons with leaking prompts", ("model", "run", "trait", "delta_trait", "delta_trait_without")),
    "extraction_pairs": ("the judged pairs", ("trait", "strategy", "checkpoint", "n_pairs")),
    "audit": ("what is wrong with the data", ("model", "kind", "file", "count", "consequence")),
}
TEXTS = (
    *("lineage", "trait", "strategy", "vector_checkpoint", "target", "dose", "positions", "status", "judge", "kind"),
    *("onset_after", "onset_by", "sentence", "checkpoint", "checkpoint_a", "checkpoint_b", "reason", "trait_a", "trait_b"),
    *("rubric", "condition", "control_kind", "strategy_a", "strategy_b", "stage", "model", "scheme", "set", "facet", "file"),
    *("run", "extract_revision", "eval_model", "eval_revision", "scaling_mode", "consequence"),
)
STRATEGY_COLUMNS = ("strategy", "vector_strategy", "strategy_a", "strategy_b")
FLAGS = ("fragile", "steerable", "conclusion_changes")
# strategies and traits are shown in the order of the study; these come after all others
LAST_STRATEGIES = ("combined", "forced")
MOST_LAYERS = 6
MATRIX = "cosine_matrix"


@dataclass(frozen=True)
class Run:
    """A run directory as the report sees it.

    Attributes:
        path: the directory.
        settings: the content of `study.yaml`; empty where it cannot be read.
        settings_text: the file as written.
        tables: every table of `TABLES` and `OPTIONAL`, empty where there is none; those of `TABLES` hold this lineage alone.
        absent: table -> why it is empty, in one sentence.
        lineage: the lineage shown; empty where the tables name none.
        lineages: every lineage of the directory that has a page, the one with the most checkpoints first.
        strays: the effects of models that are no lineage of their own: too few checkpoints to trace.
        only: the checkpoints that the axis is for; None for all.
    """

    path: Path
    settings: dict[str, Any]
    settings_text: str
    tables: dict[str, pd.DataFrame]
    absent: dict[str, str] = field(default_factory=dict)
    lineage: str = ""
    lineages: tuple[str, ...] = ()
    strays: pd.DataFrame = field(default_factory=pd.DataFrame)
    only: frozenset[str] | None = None

    def over(self, checkpoints: Iterable[str]) -> Run:
        """Return the run with an axis for these checkpoints alone, so that no place is kept for the others."""
        wanted = frozenset(checkpoints)
        return self if wanted.issuperset(self.axis.checkpoints) else replace(self, only=wanted)

    @property
    def study(self) -> dict[str, Any]:
        """The study's own fields."""
        found = self.settings.get("study", self.settings)
        return found if isinstance(found, dict) else {}

    @property
    def name(self) -> str:
        """What the report calls the study."""
        return str(self.study.get("name") or self.settings.get("name") or self.path.resolve().name)

    @property
    def title(self) -> str:
        """The study's name, and the lineage's where there are several."""
        return f"{self.name}, {self.lineage}" if len(self.lineages) > 1 else self.name

    @property
    def first(self) -> bool:
        """Whether this is the page of the whole directory, not one of a further lineage."""
        return not self.lineages or self.lineage == self.lineages[0]

    @property
    def figures(self) -> Path:
        """Where the figures of this lineage belong."""
        return self.path / "figures" if self.first else self.path / "figures" / file_name(self.lineage)

    @property
    def seed(self) -> int:
        """The study's seed; 0 where it says none."""
        seed = self.study.get("seed")
        return seed if isinstance(seed, int) and seed >= 0 else 0

    @cached_property
    def axis(self) -> TrainingAxis:
        """The checkpoints in order of training, and where each is drawn."""
        seen: dict[str, float] = {}
        order: list[str] = []
        stages: dict[str, str] = {}
        for table, column in (
            ("extraction", "checkpoint"),
            ("emergence", "vector_checkpoint"),
            ("transfer", "vector_checkpoint"),
            ("cosine_to_final", "checkpoint"),
        ):
            frame = self.tables[table]
            if frame.empty:
                continue
            for name, count in zip(frame[column].astype(str), numbers(frame, "tokens"), strict=True):
                if name not in seen or np.isnan(seen[name]):
                    seen[name] = float(count)
            for _, part in frame.groupby(["trait", "strategy"], sort=False):
                _merge(order, part[column].astype(str))
        seen = {name: seen[name] for name in order if self.only is None or name in self.only}
        frame = self.tables["extraction"]
        if "stage" not in frame.columns:
            return training_axis(seen)
        stages |= dict(zip(frame["checkpoint"].astype(str), frame["stage"].fillna("").astype(str), strict=True))
        return training_axis(seen, stages)

    @cached_property
    def remembered(self) -> dict[Any, Any]:
        """What was found in the tables and is asked for again; not to be changed."""
        return {}

    @cached_property
    def layer(self) -> int:
        """The layer that most verdicts speak of; the middle of the measured ones where there are none."""
        for table in ("verdicts", "emergence"):
            layers = numbers(self.tables[table], "layer").dropna()
            if len(layers):
                return int(layers.mode().iloc[0])
        measured = self._measured_layers
        return measured[(len(measured) - 1) // 2] if measured else 0

    @cached_property
    def layers(self) -> list[int]:
        """The layers whose directions are shown: the main one, then others evenly spread."""
        others = [layer for layer in self._measured_layers if layer != self.layer]
        if len(others) >= MOST_LAYERS:
            others = [others[i] for i in np.linspace(0, len(others) - 1, MOST_LAYERS - 1).round().astype(int)]
        return [layer for layer in [self.layer] if layer in self._measured_layers] + others

    @property
    def _measured_layers(self) -> list[int]:
        return sorted({int(layer) for layer in numbers(self.tables["cosine_to_final"], "layer").dropna().unique()})

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
        for name in TABLES:
            frame = self.tables[name]
            if column in frame.columns:
                found |= dict.fromkeys(frame[column].dropna().unique().astype(str))
        return [name for name in wanted if name in found] + [name for name in found if name not in wanted]


def read_run(path: Path, lineage: str = "") -> Run:
    """Read what the report needs of a run directory, whatever of it exists.

    Args:
        path: the directory.
        lineage: the lineage to show where its tables hold several; the one with the most checkpoints without it.

    Raises:
        InputError: the directory does not exist, or has no such lineage.
    """
    if not path.is_dir():
        raise InputError(f"run directory {str(path)!r} does not exist; give the folder that a study was run into")
    tables: dict[str, pd.DataFrame] = {}
    absent: dict[str, str] = {}
    for name, (what, needed) in {**TABLES, **OPTIONAL}.items():
        keep = Run(path, {}, "", tables).layers if name == MATRIX else []
        tables[name], reason = _read_table(path / "tables" / f"{name}.csv", what, needed, keep)
        if reason and (name in TABLES or (path / "tables" / f"{name}.csv").is_file()):
            absent[name] = reason
    counted = _checkpoints(tables)
    shown = [name for name in counted if counted[name] > 1] or list(counted)[:1]
    if lineage and lineage not in shown:
        raise InputError(f"run directory {str(path)!r} has no lineage {lineage!r}; it has {', '.join(shown) or 'none'}")
    chosen = lineage or next(iter(shown), "")
    strays = [_lineage_rows(tables[name], [one for one in counted if one not in shown]) for name in ("emergence", "transfer")]
    if len(counted) > 1:
        lineage_only = {*TABLES, "same_weights", "cosine_cross_strategy"}
        tables |= {name: _lineage_rows(tables[name], [chosen], nameless=True) for name in lineage_only}
    settings, text = _read_settings(path / "study.yaml")
    return Run(path, settings, text, tables, absent, chosen, tuple(shown), pd.concat(strays, ignore_index=True))


def file_name(name: str) -> str:
    """Return a name as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def _checkpoints(tables: dict[str, pd.DataFrame]) -> dict[str, int]:
    """Return how many checkpoints each lineage has, those with most first, in the order the tables name them."""
    found: dict[str, set[str]] = {}
    for name, column in (("extraction", "checkpoint"), ("cosine_to_final", "checkpoint"), ("emergence", "vector_checkpoint")):
        owner = _owner(tables[name])
        if owner is not None:
            for lineage, checkpoint in tables[name][[owner, column]].dropna().drop_duplicates().itertuples(index=False):
                found.setdefault(str(lineage), set()).add(str(checkpoint))
    return {name: len(found[name]) for name in sorted(found, key=lambda name: -len(found[name]))}


def _owner(table: pd.DataFrame) -> str | None:
    """Return the column that names the lineage."""
    return next((name for name in ("lineage", "model") if name in table.columns), None)


def _lineage_rows(table: pd.DataFrame, lineages: Sequence[str], *, nameless: bool = False) -> pd.DataFrame:
    """Return the rows of some lineages; also those that name none, where these are wanted."""
    owner = _owner(table)
    if owner is None:
        return table if nameless else table.iloc[:0]
    return table[table[owner].isin(lineages) | (table[owner].isna() & nameless)].reset_index(drop=True)


def numbers(frame: pd.DataFrame, column: str) -> pd.Series:
    """Return one column as floats, NaN where it is missing or the table has none of that name."""
    if column not in frame.columns:
        return pd.Series(np.nan, index=frame.index, dtype=np.float64)
    found = frame[column]
    return found if found.dtype == np.float64 else pd.to_numeric(found, errors="coerce").astype(np.float64)


def unique(values: Iterable[Any]) -> list[Any]:
    """Return the values without repeats, in the order they came."""
    return list(dict.fromkeys(values))


def _merge(order: list[str], names: Iterable[str]) -> None:
    """Put names that an order lacks into it, each behind the one that it follows."""
    place = 0
    for name in names:
        if name not in order:
            order.insert(place, name)
        place = order.index(name) + 1


def _read_table(path: Path, what: str, needed: Sequence[str], layers: Sequence[int]) -> tuple[pd.DataFrame, str]:
    """Return a table, of some layers alone where any are named, and why it is empty."""
    empty = pd.DataFrame({name: [] for name in needed})
    where = f"tables/{path.name}"
    if not path.is_file():
        return empty, f"The run has not written {where} ({what})."
    try:
        if layers:
            table = _read_layers(path, needed, layers)
        else:
            table = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str), low_memory=False)
    except pd.errors.EmptyDataError:
        return empty, f"{where} ({what}) is empty."
    except (OSError, ValueError) as error:
        return empty, f"{where} ({what}) cannot be read: {error}"
    lacking = [name for name in needed if name not in table.columns]
    if lacking:
        return empty, f"{where} ({what}) lacks the columns {', '.join(lacking)}."
    for name in STRATEGY_COLUMNS:
        if name in table.columns:
            table[name] = table[name].fillna("")
    for name in FLAGS:
        if name in table.columns:
            table[name] = table[name].astype(str).str.strip().str.lower().isin(["true", "1", "1.0"])
    return table, "" if len(table) else f"{where} ({what}) has no rows."


def _read_layers(path: Path, needed: Sequence[str], layers: Sequence[int]) -> pd.DataFrame:
    """Read a table's rows of some layers, piece by piece: of hundreds of checkpoints, all layers are millions of rows.

    Raises:
        ValueError: the file cannot be read as a table.
    """
    header = pd.read_csv(path, nrows=0)
    if set(needed) - set(header.columns):
        return header
    columns = [name for name in header.columns if name in (*needed, "lineage", "model")]
    types = {name: pa.string() if name in TEXTS else pa.float64() for name in columns}
    options = csv.ConvertOptions(column_types=types, include_columns=columns, strings_can_be_null=True)
    wanted = pa.array(layers, pa.float64())
    with csv.open_csv(path, csv.ReadOptions(block_size=1 << 24), convert_options=options) as reader:
        parts = [batch.filter(pc.is_in(batch["layer"], wanted)) for batch in reader]
    frame: pd.DataFrame = pa.Table.from_batches(parts).to_pandas()
    return frame


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
