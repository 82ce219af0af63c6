"""Sections of the page that compare: every strategy's vectors on every strategy's questions, and the stages of post-training.

Knows how the tables `strategies`, `stages`, `reverse` and `cosine_descendants` are shown. Leaves the frame of a section to
`sections.py`, whose list these are in.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from traitline.report.panels import LABELS
from traitline.report.section import Section, Table
from traitline.report.tables import Run, numbers, unique


def strategy_effects(run: Run) -> list[Table]:
    """Return, per trait, the effects at the last checkpoint: whose vector down, whose questions across."""
    table = run.tables["strategies"]
    last = run.axis.checkpoints[-1] if run.axis.checkpoints else ""
    table = table[(table["target"] == last) & (table["status"] == "complete")]
    if table.empty:
        return []
    coef = numbers(table, "coef").max()
    table = table[numbers(table, "coef") == coef]
    tables = []
    for (trait, layer), part in table.groupby(["trait", "layer"], sort=False):
        asked = [*(s for s in unique(part["strategy"]) if s != "common"), "common"]
        rows = [
            [_label(vector), *(_effect(lines[lines["strategy"] == one]) for one in asked)]
            for vector, lines in part.groupby("vector_strategy", sort=False)
        ]
        caption = f"{trait} at {last}, layer {layer}, dose {coef:+g}: delta, by vector (down) and questions (across)"
        tables.append(Table(caption, ["vector", *map(_label, asked)], rows, folded=False))
    return tables


def stages(run: Run) -> Section | None:
    """Return what each stage of post-training did to the answers before any steering."""
    table = run.tables["stages"]
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
        tables.append(Table(str(trait), head, rows))
    sentences = [
        "The last checkpoint and its descendants answer the same questions without steering; each stage is compared with the "
        "one before it. The projection is along the last checkpoint's vector, as a share of the network's own activation norm.",
    ]
    return Section("stages", "What post-training did", sentences, tables)


def reverse(run: Run) -> Section | None:
    """Return what the descendants' vectors do to the last checkpoint and to each other."""
    table = run.tables["reverse"]
    table = table[numbers(table, "coef") == numbers(table, "coef").max()] if len(table) else table
    if table.empty:
        return None
    targets = unique(table["target"])
    tables = []
    for trait, part in table.groupby("trait", sort=False):
        rows = []
        for (strategy, source), lines in part.groupby(["strategy", "vector_checkpoint"], sort=False):
            cosine = _cosine(run, trait, strategy, source)
            pairs = _shown(lines["n_pairs"].iloc[0], ".0f")
            rows.append(
                [_label(strategy), str(source), pairs, cosine, *(_effect(lines[lines["target"] == t]) for t in targets)]
            )
        head = ["strategy", "vector of", "pairs", "cosine to the last checkpoint's", *map(str, targets)]
        tables.append(Table(str(trait), head, rows))
    sentences = [
        "Vectors extracted from the descendants' own answers, applied to every target at the largest dose: the change in "
        "trait. A star marks a change that counts as steerable."
    ]
    return Section("reverse", "Descendants' vectors", sentences, tables)


def _cosine(run: Run, trait: Any, strategy: Any, source: Any) -> str:
    table = run.tables["cosine_descendants"]
    if table.empty:
        return ""
    here = (table["trait"] == trait) & (table["strategy"] == strategy) & (table["descendant"] == source)
    found = table[here & (numbers(table, "layer") == run.layer)]
    return _shown(found["cosine"].iloc[0], ".2f") if len(found) else ""


def _effect(lines: pd.DataFrame) -> str:
    if lines.empty:
        return ""
    row = lines.iloc[0]
    if row["status"] != "complete":
        return str(row["status"]).replace("_", " ")
    star = " *" if str(row.get("steerable", "")).lower() == "true" else ""
    return _between(row, "delta_trait", "ci_low", "ci_high", "+.0f") + star


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
