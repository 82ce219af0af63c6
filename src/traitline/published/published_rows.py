"""The rows of the published tables of significance, as they are listed.

Knows `combined_significance.csv`: what its columns are called in either family of runs, which names and files a row is about,
and which cells cannot be used. Leaves recomputing it to `significance.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from traitline.published.release import RESULTS, Release

FILE = "combined_significance.csv"
NEEDED = ("trait", "extract_revision", "eval_revision", "baseline_path", "output_path")
# what a statistic is called in the release, the first column that exists
PUBLISHED = {
    "delta_trait_mean": ("delta_trait_mean",),
    "paired_trait_mean_diff": ("paired_trait_mean_diff",),
    "p_two_sided": ("trait_primary_p_two_sided", "trait_sign_flip_p_two_sided"),
    "p_greater": ("trait_primary_p_greater", "trait_sign_flip_p_greater"),
    "p_bonferroni": (
        "trait_primary_p_two_sided_bonferroni_within_trait",
        "trait_sign_flip_p_two_sided_bonferroni_within_trait",
    ),
    "delta_coherence_mean": ("delta_coherence_mean",),
    "baseline_trait": ("baseline_trait_mean",),
    "steered_trait": ("output_trait_mean",),
    "baseline_coherence": ("baseline_coherence_mean",),
    "steered_coherence": ("output_coherence_mean",),
    "n_rows_baseline": ("baseline_rows",),
    "n_rows_steered": ("output_rows",),
}


@dataclass(frozen=True)
class Numbers:
    """What one way of counting gives."""

    way: tuple[int, int]
    baseline_way: tuple[int, int]
    measured: dict[str, float]
    n_questions: int
    n_rows_baseline: int
    n_rows_steered: int


@dataclass
class Row:
    """One row of a published table: who, the published numbers, what the files give, and the verdict."""

    who: dict[str, Any]
    published: dict[str, float]
    judge_traits: tuple[str, ...]
    baseline_file: str
    steered_file: str
    file: str
    test: str = ""
    found: Numbers | None = None
    honest: Numbers | None = None
    status: str = "raw_missing"
    reason: str = ""
    tests: float = math.nan


def published_rows(release: Release, model: str) -> Iterator[Row]:
    """Read the published rows of one model; note in the audit numbers that are none, and rows that are listed twice."""
    for path in sorted((release.root / RESULTS / model).rglob(FILE)):
        table = release.table(path, NEEDED, model=model)
        if table is None:
            continue
        _check(release, model, path, table)
        for record in table.to_dict("records"):
            yield _row(release, model, path, {str(key): value for key, value in record.items()})


def _check(release: Release, model: str, path: Path, table: pd.DataFrame) -> None:
    """Note cells that should be numbers and are not, and rows that stand in the table more than once."""
    names = [name for names in PUBLISHED.values() for name in names if name in table.columns]
    unread = {name: int((table[name].notna() & pd.to_numeric(table[name], errors="coerce").isna()).sum()) for name in names}
    unread = {name: count for name, count in unread.items() if count}
    if unread:
        text = f"cells of {', '.join(unread)} are no numbers; they count as not published and are compared with nothing"
        release.audit.add("unreadable_numbers", release.file(path), sum(unread.values()), text, model=model)
    again = int(table.duplicated().sum())
    if again:
        text = "rows stand in the table more than once; the correction for many tests counts each of them"
        release.audit.add("duplicated_rows", release.file(path), again, text, model=model)


def _row(release: Release, model: str, path: Path, record: dict[str, Any]) -> Row:
    text = {name: "" if pd.isna(record.get(name)) else str(record[name]) for name in ("trait", "vector_trait", "eval_model")}
    vector = text["vector_trait"] or text["trait"]
    trait, strategy = release.split(vector)
    named = record.get("eval_model_name")
    who = {
        "run": path.parent.name,
        "model": model,
        "trait": trait,
        "strategy": strategy,
        "extract_revision": _text(record.get("extract_revision")),
        "eval_model": _text(named) or text["eval_model"].rpartition("/")[2] or model,
        "eval_revision": _text(record.get("eval_revision")),
        "layer": _number(record.get("layer")),
        "coef": _number(record.get("coef")),
        "scaling_mode": _text(record.get("scaling_mode")),
    }
    published = {}
    for name, columns in PUBLISHED.items():
        column = next((one for one in columns if one in record), None)
        published[name] = math.nan if column is None else _number(record[column])
    names = tuple(dict.fromkeys(name for name in (text["trait"], vector, trait) if name))
    files = _text(record["baseline_path"]), _text(record["output_path"])
    return Row(who, published, names, *files, release.file(path), _text(record.get("trait_primary_test")))


def _text(value: Any) -> str:
    return "" if value is None or pd.isna(value) else str(value)


def _number(value: Any) -> float:
    number = pd.to_numeric(value, errors="coerce")
    return math.nan if number is None or pd.isna(number) else float(number)
