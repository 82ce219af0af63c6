"""What each stage of post-training did to a trait: level, refusals, coherence and projection, before any steering.

Knows a stage as a network of one lineage: the last checkpoint, then its descendants in order, all asked the same questions, so
that a difference is the network's. Leaves the tests to `significance.py`, and generating and projecting to the study.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from traitline.analysis.significance import bootstrap_interval, effect_size, holm, sign_flip

KEY = ["trait", "strategy"]
MEASURES = {"trait": "trait_score", "coherence": "coherence", "projection": "projection"}
COLUMNS = [
    *["lineage", "trait", "strategy", "stage", "previous", "n_questions", "n_rows", "n_missing"],
    *["baseline_trait", "ci_low", "ci_high", "baseline_coherence", "refusal_rate", "projection_layer", "projection"],
    *[f"{what}_{m}" for m in ("trait", "coherence", "projection") for what in ("delta", "delta_low", "delta_high", "p")],
    *["effect_size_trait", "p_adjusted_trait", "p_adjusted_projection", "delta_refusal_rate"],
    *["told_trait", "told_refusal_rate", "n_told", "n_pairs"],
]

MOVE_COLUMNS = [
    *["trait", "strategy", "stage", "previous", "delta_trait", "delta_low_trait", "delta_high_trait", "p_adjusted_trait"],
    *["delta_projection", "p_adjusted_projection", "n_stages", "sentence"],
]


def stage_table(
    rows: pd.DataFrame,
    told: pd.DataFrame,
    projections: pd.DataFrame,
    order: Sequence[str],
    *,
    parents: Mapping[str, str | None] | None = None,
    lineage: str = "",
    seed: int = 0,
) -> pd.DataFrame:
    """Compare the baseline answers of every stage with those of the stage that it was trained from.

    Rows are averaged within a question, missing scores left out. Deltas are over the questions that both stages have, with
    the percentile interval over questions and the two-sided sign-flip p; the first stage has none.

    Args:
        rows: baseline response rows of the `evaluate` split, of all stages.
        told: contrast rows: how far a stage follows the positive instruction, and how often it refuses; may be empty.
        projections: `target, trait, strategy, question_id, layer, projection`; may be empty. `projection` is the mean along
            the last checkpoint's vector, as a share of the stage's activation norm.
        order: the stages, the last checkpoint first.
        parents: the stage that each was trained from, None where that is the first; each is compared with the closest one
            that was measured. Where left out, each was trained from the one before it.
        lineage: their lineage.
        seed: seed of the bootstrap.

    Returns:
        One row per trait, strategy, stage and layer projected on: `COLUMNS`. `p_adjusted_trait` and `p_adjusted_projection` are
        Holm's over the stages of one trait and strategy; `told_...` describe the positive contrast rows, `n_pairs` the accepted
        pairs among them.
    """
    layers: list[Any] = sorted(projections["layer"].unique()) if len(projections) else [pd.NA]
    records = []
    for (trait, strategy), part in rows.groupby(KEY, sort=False):
        own = projections[(projections["trait"] == trait) & (projections["strategy"] == strategy)]
        instructed = told[(told["trait"] == trait) & (told["strategy"] == strategy)] if len(told) else told
        for layer in layers:
            done: dict[str, dict[str, pd.Series]] = {}
            for stage in order:
                here = part[part["target"] == stage]
                if here.empty:
                    continue
                previous = _ancestor(stage, order[0], parents, list(done))
                before = done.get(previous)
                found = {
                    "trait": _by_question(here, "trait_score"),
                    "coherence": _by_question(here, "coherence"),
                    "projection": _by_question(own[(own["target"] == stage) & (own["layer"] == layer)], "projection"),
                    "refusal": _by_question(here.assign(refusal=here["refusal"].astype("Float64")), "refusal"),
                }
                records.append(
                    {
                        "lineage": lineage,
                        "trait": trait,
                        "strategy": strategy,
                        "stage": stage,
                        "previous": previous,
                        **_level(here, found, seed),
                        "projection_layer": layer,
                        **_told(instructed[instructed["target"] == stage] if len(instructed) else instructed),
                        **(_change(found, before, seed) if before is not None else {}),
                    }
                )
                done[stage] = found
    table = pd.DataFrame(records).reindex(columns=COLUMNS)
    family = [table["trait"], table["strategy"], table["projection_layer"]]
    for name in ("trait", "projection"):
        table[f"p_adjusted_{name}"] = table.groupby(family, dropna=False, sort=False)[f"p_{name}"].transform(holm)
    return table


def stage_moves(table: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """Say which stages move which trait: those whose change in the baseline answers is significant after Holm.

    Args:
        table: a stage table with projections at one layer.
        alpha: the level.

    Returns:
        One row per trait and strategy: `MOVE_COLUMNS`. `stage` is the one that moved the trait most among those, empty where
        none did; `n_stages` had a change that could be tested.
    """
    records = []
    known = table.reindex(columns=[*COLUMNS, *(name for name in table.columns if name not in COLUMNS)])  # of older runs, too
    for (trait, strategy), part in known.groupby(KEY, sort=False):
        tested = part[part["p_adjusted_trait"].notna()]
        moved = tested[tested["p_adjusted_trait"] < alpha].sort_values("delta_trait", key=abs, ascending=False, kind="stable")
        most = moved.iloc[0] if len(moved) else None
        records.append(
            {
                "trait": trait,
                "strategy": strategy,
                **({} if most is None else {name: most[name] for name in MOVE_COLUMNS[2:-2]}),
                "n_stages": len(tested),
                "sentence": _moved(str(trait), moved, len(tested)),
            }
        )
    return pd.DataFrame(records, columns=MOVE_COLUMNS)


def _moved(trait: str, moved: pd.DataFrame, tested: int) -> str:
    if moved.empty:
        return f"no stage of {tested} moved {trait} that could be told" if tested else f"no change in {trait} could be tested"
    parts = []
    for one in moved.to_dict("records"):
        along = one["delta_projection"]
        seen = "" if pd.isna(along) else f", projection {along:+.3f} (p = {one['p_adjusted_projection']:.2g})"
        parts.append(
            f"{one['stage']} moved {trait} by {one['delta_trait']:+.1f} points [{one['delta_low_trait']:.1f}, "
            f"{one['delta_high_trait']:.1f}] from {one['previous']} (p = {one['p_adjusted_trait']:.2g}{seen})"
        )
    return "; ".join(parts)


def _ancestor(stage: str, first: str, parents: Mapping[str, str | None] | None, done: Sequence[str]) -> str:
    """Return the closest of the stages before that a stage was trained from; empty where there is none."""
    if parents is None:
        return done[-1] if done else ""
    parent = parents.get(stage) or first
    while parent not in done and parent != first:
        parent = parents.get(parent) or first
    return parent if parent in done else ""


def _by_question(rows: pd.DataFrame, column: str) -> pd.Series:
    """Return the mean of each question that has a value."""
    if rows.empty:
        return pd.Series(dtype=np.float64)
    return rows.groupby("question_id")[column].mean().dropna().astype(np.float64)


def _level(rows: pd.DataFrame, found: dict[str, pd.Series], seed: int) -> dict[str, Any]:
    trait = found["trait"]
    low, high = bootstrap_interval(trait, seed=seed) if len(trait) else (math.nan, math.nan)
    return {
        "n_questions": len(trait),
        "n_rows": len(rows),
        "n_missing": int(rows["trait_score"].isna().sum()),
        "baseline_trait": trait.mean(),
        "ci_low": low,
        "ci_high": high,
        "baseline_coherence": found["coherence"].mean(),
        "refusal_rate": found["refusal"].mean(),
        "projection": found["projection"].mean(),
    }


def _change(found: dict[str, pd.Series], before: dict[str, pd.Series], seed: int) -> dict[str, Any]:
    changed: dict[str, Any] = {"delta_refusal_rate": (found["refusal"] - before["refusal"]).mean()}
    for name in MEASURES:
        deltas = (found[name] - before[name]).dropna()
        if deltas.empty:
            continue
        low, high = bootstrap_interval(deltas, seed=seed)
        changed |= {f"delta_{name}": deltas.mean(), f"delta_low_{name}": low, f"delta_high_{name}": high}
        changed[f"p_{name}"] = sign_flip(deltas, seed=seed).p_two_sided
        if name == "trait":
            changed["effect_size_trait"] = effect_size(deltas).hedges
    return changed


def _told(rows: pd.DataFrame) -> dict[str, Any]:
    positive = rows[rows["polarity"] == "pos"] if len(rows) else rows
    if positive.empty:
        return {"n_told": 0}
    return {
        "told_trait": positive.groupby("question_id")["trait_score"].mean().mean(),
        "told_refusal_rate": float(positive["refusal"].astype("Float64").mean()),
        "n_told": len(positive),
        "n_pairs": int(positive["accepted"].fillna(False).astype(bool).sum()),
    }
