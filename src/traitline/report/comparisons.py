"""Sections of the page that compare: every strategy's vectors on every strategy's questions, and the stages of post-training.

Knows how the tables `strategies`, `stages`, `reverse` and `cosine_descendants` are told in words and cells. Leaves the frame
of a section to `sections.py`, whose list these are in, and the charts to the scripts in `html/`.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from traitline.analysis.stages import stage_moves
from traitline.report.descendants import main_panels
from traitline.report.panels import LABELS
from traitline.report.section import Section, Table
from traitline.report.stages import stage_rows
from traitline.report.strategies import EffectMatrix, main_matrices
from traitline.report.tables import Run, numbers, unique

COMBINED = "combined"


def strategy_effects(run: Run) -> list[Table]:
    """Return, per trait, the effects at the last checkpoint: whose vector down, whose questions across."""
    tables = []
    for one in main_matrices(run):
        rows = [
            [_label(vector), *(_cell(one, i, j) for j in range(len(one.questions)))] for i, vector in enumerate(one.vectors)
        ]
        caption = f"{one.trait} at {one.target}, {one.dose.label}: delta, by vector (down) and questions (across)"
        tables.append(Table(caption, ["vectors of", *map(_label, one.questions)], rows))
    return tables


def stages(run: Run) -> Section | None:
    """Return what each stage of post-training did to the answers before any steering."""
    table = stage_rows(run)
    if table.empty:
        return None
    head = [
        "strategy",
        "stage",
        "trait",
        "change",
        "p (Holm)",
        "coherence",
        "refusals",
        "projection",
        "told to: trait",
        "refusals",
    ]
    tables = []
    for trait, part in table.groupby("trait", sort=False):
        rows = [
            [
                _label(row["strategy"]),
                _text(row["stage"]),
                _between(row, "baseline_trait", "ci_low", "ci_high"),
                _between(row, "delta_trait", "delta_low_trait", "delta_high_trait", "+.0f"),
                _shown(row["p_adjusted_trait"], ".2g"),
                _shown(row["baseline_coherence"], ".0f"),
                _shown(100 * _number(row["refusal_rate"]), ".0f", " %"),
                _shown(row["projection"], "+.3f"),
                _shown(row["told_trait"], ".0f"),
                _shown(100 * _number(row["told_refusal_rate"]), ".0f", " %"),
            ]
            for row in part.to_dict("records")
        ]
        tables.append(Table(f"{trait}: the stages in numbers", head, rows))
    sentences = [
        "The last checkpoint and its descendants answer the same questions without steering; each stage is compared with the "
        "one that it was trained from. The projection is along the last checkpoint's vector, as a share of the network's own "
        "activation norm.",
    ]
    moves = stage_moves(table)
    told = [[_text(row["trait"]), _label(row["strategy"]), _text(row["sentence"])] for row in moves.to_dict("records")]
    tables.append(Table("Which stage moved which trait", ["trait", "strategy", "changes told from none"], told))
    if COMBINED in set(table["strategy"]):
        sentences.append("The combined strategy has the common questions, which belong to no strategy.")
    return Section("stages", "What post-training did", sentences, tables, charts="stages")


def reverse(run: Run) -> Section | None:
    """Return what the descendants' vectors do to the last checkpoint and to each other."""
    cut = main_panels(run)
    if not cut:
        return None
    targets = cut[0].targets
    tables = []
    for trait in unique(panel.trait for panel in cut):
        rows = [
            [
                _label(panel.strategy),
                source,
                _pairs(lines),
                _cosine(run, trait, panel.strategy, source),
                *map(_effect, _records(lines)),
            ]
            for panel in cut
            if panel.trait == trait
            for source, lines in panel.sources.items()
        ]
        head = ["strategy", "vector of", "pairs", "cosine to the last checkpoint's", *targets]
        tables.append(Table(f"{trait}: the vectors' effects in numbers", head, rows))
    reference = next((panel.reference for panel in cut if panel.reference), "")
    sentences = [
        "Vectors extracted from the descendants' own answers, applied to every network (across): trait score, steered minus "
        "baseline, with its 95 % interval. A star marks a change that counts as steerable. ×: no vector. Hollow: a fragile "
        f"vector.{f' For comparison, what the vector of {reference} does to the same networks.' if reference else ''}"
    ]
    return Section("reverse", "Descendants' vectors", sentences, tables, charts="descendants")


def _cosine(run: Run, trait: Any, strategy: Any, source: Any) -> str:
    table = run.tables["cosine_descendants"]
    if table.empty:
        return ""
    here = (table["trait"] == trait) & (table["strategy"] == strategy) & (table["descendant"] == source)
    found = table[here & (numbers(table, "layer") == run.layer)]
    return _shown(found["cosine"].iloc[0], ".2f") if len(found) else ""


def _cell(one: EffectMatrix, i: int, j: int) -> str:
    """Word one cell of a matrix: the effect with its interval, or why there is none."""
    if math.isnan(one.delta[i, j]):
        return one.states[i][j].replace("_", " ")
    star = " *" if one.steerable[i, j] else ""
    low, high = (_shown(ends[i, j], "+.0f") for ends in (one.low, one.high))
    return f"{_shown(one.delta[i, j], '+.0f')}{f' [{low}, {high}]' if low else ''}{star}"


def _pairs(rows: pd.DataFrame) -> str:
    known = numbers(rows, "n_pairs").dropna()
    return _shown(known.iloc[0], ".0f") if len(known) else ""


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in record.items()} for record in rows.to_dict("records")]


def _effect(row: dict[str, Any]) -> str:
    if pd.isna(row["status"]):
        return ""
    if row["status"] != "complete":
        return str(row["status"]).replace("_", " ")
    return _between(row, "delta_trait", "ci_low", "ci_high", "+.0f") + (" *" if row.get("steerable") is True else "")


def _between(row: Any, value: str, low: str, high: str, form: str = ".0f") -> str:
    if math.isnan(_number(row[value])):
        return ""
    return f"{_shown(row[value], form)} [{_shown(row[low], form)}, {_shown(row[high], form)}]"


def _number(value: Any) -> float:
    return float(pd.to_numeric(value, errors="coerce"))


def _shown(value: Any, form: str, unit: str = "") -> str:
    number = _number(value)
    return "" if math.isnan(number) else f"{number:{form}}{unit}".replace("-", "−")


def _label(name: Any) -> str:
    return LABELS.get(str(name), str(name))


def _text(value: Any) -> str:
    return "" if value is None or pd.isna(value) else str(value)
