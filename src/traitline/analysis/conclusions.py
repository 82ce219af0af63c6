"""What a study would have concluded under another judge: deltas, stars, accepted pairs and onsets, side by side.

Knows which tables follow from scored responses, and what counts as a change between two judges' tables. Leaves the tables
themselves to `effects.py`, `emergence.py` and `verdicts.py`, acceptance to `vectors/estimators.py`, and correcting a delta to
`ppi.py`. The vectors stay what they are: under another judge other rows would have made them, which `pairs` counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from traitline.analysis import effects, emergence, ppi
from traitline.analysis.effects import DEFAULT, Thresholds
from traitline.analysis.verdicts import verdict_table
from traitline.vectors.estimators import PAIR, accepted

EVALUATION, TRANSFER, CONTRAST = "evaluation", "transfer", "contrast"
"""Which file a response row is of: column `table`."""
CELL = ["checkpoint", "trait", "strategy"]
IDENTITY = [
    *["table", "lineage", "trait", "strategy", "vector_checkpoint", "tokens", "target", "layer", "dose", "coef", "positions"],
    "status",
]
JUDGED = ["n_questions", "delta_trait", "ci_low", "ci_high", "p_adjusted", "steerable", "delta_coherence"]
STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
ONSET = ["layer", "coef", "onset_after", "onset_by", "censored", "sentence"]
PLANNED = [*effects.PLAN_COLUMNS, "vector_trait", "vector_strategy", *effects.CONDITION_KEY]
_NONE = pd.DataFrame(columns=PLANNED)


@dataclass(frozen=True, eq=False)
class Planned:
    """What a study compares, whoever judges.

    Attributes:
        emergence: the planned comparisons of checkpoints under their own vectors (the plan columns of an effect table).
        transfer: those of fixed targets.
        controls: those of the controls.
        order: the checkpoints in order of training; empty where that is not known, and then nothing is called steerable.
        total_tokens: tokens of the whole pretraining.
        thresholds: what steerable asks.
        seed: of the intervals.
    """

    emergence: pd.DataFrame
    transfer: pd.DataFrame = field(default_factory=lambda: _NONE.copy())
    controls: pd.DataFrame = field(default_factory=lambda: _NONE.copy())
    order: tuple[str, ...] = ()
    total_tokens: float | None = None
    thresholds: Thresholds = DEFAULT
    seed: int = 0

    @property
    def compared(self) -> pd.DataFrame:
        """The comparisons of emergence and transfer, with their `table`."""
        parts = ((EVALUATION, self.emergence), (TRANSFER, self.transfer))
        frames = [part.assign(table=name) for name, part in parts if len(part)]
        return pd.concat(frames, ignore_index=True) if frames else _NONE.assign(table="")


@dataclass(frozen=True, eq=False)
class Judged:
    """The tables of one judge: effects of emergence and transfer (`table` tells which), verdicts, accepted pairs per cell."""

    effects: pd.DataFrame
    verdicts: pd.DataFrame
    pairs: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Conclusions:
    """Two judges' conclusions side by side.

    Attributes:
        deltas: one row per comparison: `delta_trait_a`, `delta_trait_b`, their intervals, stars and `steerable`, the
            `difference` (B - A), and `stars_change`, `steerable_change`.
        pairs: one row per cell: pairs that A accepts, B accepts, and both accept; `vector_change` where one alone has any.
        verdicts: one row per verdict: the onset, dose and sentence under either judge, and `onset_change`.
        counts: how much of it changes.
    """

    deltas: pd.DataFrame
    pairs: pd.DataFrame
    verdicts: pd.DataFrame
    counts: dict[str, float | int | None]


def planned_from_rows(rows: pd.DataFrame, seed: int = 0) -> Planned:
    """Return the comparisons that response rows hold, under vectors of their own trait and strategy.

    The order of the checkpoints is that of their tokens; where those are not known and there are several, it is empty.
    """
    own = rows["vector_trait"].eq(rows["trait"]) & rows["vector_strategy"].eq(rows["strategy"])
    steered = rows[own & rows["table"].ne(CONTRAST) & rows["condition"].isin(["steered", "random", "shuffled"])]
    known = steered.reindex(columns=[*PLANNED, "table"]).assign(status="complete", n_pairs=np.nan, fragile=None)
    known["tokens"] = _tokens(rows, known["vector_checkpoint"])
    planned = known.drop_duplicates(ignore_index=True)
    main = planned["condition"].eq("steered")
    steps = planned.drop_duplicates("vector_checkpoint").sort_values("tokens")
    ordered = len(steps) == 1 or (len(steps) > 0 and bool(steps["tokens"].notna().all()))
    tokens = float(steps["tokens"].max()) if ordered else float("nan")
    return Planned(
        emergence=planned[main & planned["table"].eq(EVALUATION)][PLANNED],
        transfer=planned[main & planned["table"].eq(TRANSFER)][PLANNED],
        controls=planned[~main][PLANNED],
        order=tuple(steps["vector_checkpoint"].astype(str)) if ordered else (),
        total_tokens=None if np.isnan(tokens) else tokens,
        seed=seed,
    )


def judged(rows: pd.DataFrame, planned: Planned, judge_errors: Mapping[str, float] | None = None) -> Judged:
    """Return the tables that follow from one judge's scores.

    Args:
        rows: response rows with `trait_score` and `coherence` of that judge, and their `table`.
        planned: what is compared.
        judge_errors: the judge's own delta error by trait, in points, as far as it states any.
    """
    errors = judge_errors or {}
    evaluated, received = (rows[rows["table"].eq(name)] for name in (EVALUATION, TRANSFER))
    after = received[~received["target"].isin(planned.order)]
    controls = _effects(planned, planned.controls, pd.concat([evaluated, after]), errors)
    frames = []
    for name, plan, part in ((EVALUATION, planned.emergence, evaluated), (TRANSFER, planned.transfer, received)):
        table = _effects(planned, plan, part, errors)
        if planned.order and len(table):
            met = effects.conditions(table, controls, order=planned.order, thresholds=planned.thresholds).all(axis=1)
            table["steerable"] = met.astype("boolean").mask(table["status"] != "complete")
        frames.append(table.assign(table=name))
    emerged, moved = frames
    together = pd.concat([one for one in frames if len(one)] or frames[:1], ignore_index=True)
    return Judged(together, _verdicts(planned, emerged, moved, controls, evaluated), pair_table(rows))


def pair_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return every pair of contrast rows: its cell (`checkpoint`, `trait`, `strategy`), its own columns, and `passes`.

    Rows that do not tell which pair they belong to are left out.
    """
    contrast = rows[rows["table"].eq(CONTRAST)]
    contrast = contrast[contrast.reindex(columns=PAIR).notna().all(axis=1)]
    parts = [part.assign(passes=accepted(part)) for _, part in contrast.groupby(CELL, sort=False)]
    names = [*CELL, *PAIR]
    if not parts:
        return pd.DataFrame(columns=[*names, "passes"])
    table = pd.concat(parts, ignore_index=True)
    return table[table["polarity"].eq("pos")][[*names, "passes"]]


def compare(a: Judged, b: Judged) -> Conclusions:
    """Set two judges' tables side by side and count what changes."""
    deltas = _deltas(a.effects, b.effects)
    pairs, verdicts = _pairs(a.pairs, b.pairs), _onsets(a.verdicts, b.verdicts)
    return Conclusions(deltas, pairs, verdicts, _counts(deltas, pairs, verdicts))


def corrected_table(
    rows: pd.DataFrame,
    planned: Planned,
    *,
    judges: Mapping[str, str],
    level: float = 0.95,
    assume: str | None = None,
    trained_on: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Return the plain and the corrected delta of every comparison that gold rows speak of, for every judge.

    Args:
        rows: response rows with `gold` (NaN: no gold row) and `probability`.
        planned: the comparisons.
        judges: name -> column of its trait scores.
        level: coverage of the intervals.
        assume: see `ppi.corrected_deltas`; comparisons of one trait and table then share their rectifiers.
        trained_on: name -> questions that a judge was fitted on; rows of these are left out on either side, gold or not.

    Returns:
        The comparison's columns, `judge`, and the fields of `ppi.Corrected`. Without `assume` a comparison without a gold row
        among its steered rows is left out.
    """
    records = []
    for name, column in judges.items():
        used = rows.assign(score=rows[column])
        used = used[~used["question"].isin((trained_on or {}).get(name, ()))]
        for (_, _), plan in planned.compared.groupby(["table", "trait"], sort=False):
            found = [(who, sides) for who, sides in _sides(plan, used) if assume or sides[0]["gold"].notna().any()]
            corrected = ppi.corrected_deltas([sides for _, sides in found], level=level, assume=assume) if found else []
            for (who, _), one in zip(found, corrected, strict=True):
                records.append({**who, "judge": name, **{key: getattr(one, key) for key in one.__slots__}})
    columns = [*IDENTITY[:-1], "judge", *ppi.Corrected.__slots__]
    return pd.DataFrame(records, columns=columns)


def stars(p: float) -> str:
    """Return the stars of an adjusted p."""
    return next((mark for level, mark in STARS if p < level), "")


def _effects(planned: Planned, plan: pd.DataFrame, rows: pd.DataFrame, errors: Mapping[str, float]) -> pd.DataFrame:
    if plan.empty or rows.empty:
        return pd.DataFrame(columns=[*effects.TABLE_COLUMNS, "judge_error"])
    families = plan["target"].isin(planned.order).map({True: "checkpoints", False: "descendants"})
    table = effects.effect_table(plan, rows, families=families, seed=planned.seed)
    return table.assign(judge_error=table["trait"].map(dict(errors)).astype(float))


def _verdicts(
    planned: Planned, emerged: pd.DataFrame, moved: pd.DataFrame, controls: pd.DataFrame, evaluated: pd.DataFrame
) -> pd.DataFrame:
    """Return the verdicts at the dose that this judge's scores of the `tune` questions choose."""
    if not planned.order or (emerged.empty and moved.empty):
        return pd.DataFrame(columns=["kind", "trait", "strategy", "target", *ONSET])
    last = planned.emergence[planned.emergence["vector_checkpoint"].eq(planned.order[-1])]
    if last.empty or not evaluated["split"].eq("tune").any():
        doses = pd.DataFrame(columns=["trait", "strategy", "layer", "coef"])
    else:
        tuned = effects.effect_table(last, evaluated, split="tune", seed=planned.seed)
        doses = emergence.choose_dose(tuned)
    options: dict[str, Any] = {"controls": controls, "thresholds": planned.thresholds}
    return verdict_table(emerged, moved, doses, planned.order, planned.total_tokens, **options)


def _deltas(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    sides = [one[JUDGED].reset_index(drop=True).add_suffix(f"_{name}") for name, one in (("a", a), ("b", b))]
    table = pd.concat([a[IDENTITY].reset_index(drop=True), *sides], axis=1)
    for name in "ab":
        table[f"stars_{name}"] = [stars(p) for p in table[f"p_adjusted_{name}"].astype(float)]
    measured = table["delta_trait_a"].notna() & table["delta_trait_b"].notna()
    table["difference"] = (table["delta_trait_b"] - table["delta_trait_a"]).astype(float)
    table["stars_change"] = measured & table["stars_a"].ne(table["stars_b"])
    verdict = [table[f"steerable_{name}"].astype("boolean").fillna(False) for name in "ab"]
    table["steerable_change"] = (measured & (verdict[0] != verdict[1])).astype(bool)
    return table


def _pairs(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    if a.empty:
        names = ["n_pairs", "n_pairs_a", "n_pairs_b", "n_pairs_both", "vector_change"]
        return pd.DataFrame(columns=[*CELL, *names])
    joined = a.assign(passes_b=b["passes"].to_numpy(), both=a["passes"].to_numpy() & b["passes"].to_numpy())
    cells = joined.groupby(CELL, sort=False)
    table = cells.agg(
        n_pairs=("passes", "size"), n_pairs_a=("passes", "sum"), n_pairs_b=("passes_b", "sum"), n_pairs_both=("both", "sum")
    ).reset_index()
    return table.assign(vector_change=table["n_pairs_a"].gt(0) != table["n_pairs_b"].gt(0))


def _onsets(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    keys = ["kind", "trait", "strategy", "target"]
    sides = [one.reindex(columns=[*keys, *ONSET]).astype(object) for one in (a, b)]
    sides = [one.assign(target=one["target"].fillna("")) for one in sides]
    table = sides[0].merge(sides[1], on=keys, how="outer", suffixes=("_a", "_b"), sort=False)
    changed = [
        table[f"{name}_a"].fillna("").ne(table[f"{name}_b"].fillna("")) for name in ("onset_after", "onset_by", "censored")
    ]
    return table.assign(onset_change=np.logical_or.reduce(changed) if len(table) else False)


def _counts(deltas: pd.DataFrame, pairs: pd.DataFrame, verdicts: pd.DataFrame) -> dict[str, float | int | None]:
    known = deltas["difference"].dropna()
    both = deltas[deltas["difference"].notna()]
    return {
        "deltas": len(known),
        "mean_absolute_difference": float(known.abs().mean()) if len(known) else None,
        "mean_difference": float(known.mean()) if len(known) else None,
        "largest_absolute_difference": float(known.abs().max()) if len(known) else None,
        "correlation": _correlation(both),
        "stars_changed": int(deltas["stars_change"].sum()),
        "steerable_changed": int(deltas["steerable_change"].sum()),
        "cells": len(pairs),
        "pairs_a": int(pairs["n_pairs_a"].sum()),
        "pairs_b": int(pairs["n_pairs_b"].sum()),
        "pairs_both": int(pairs["n_pairs_both"].sum()),
        "vectors_changed": int(pairs["vector_change"].sum()),
        "verdicts": len(verdicts),
        "onsets_changed": int(verdicts["onset_change"].sum()),
    }


def _correlation(deltas: pd.DataFrame) -> float | None:
    a, b = (deltas[f"delta_trait_{name}"].to_numpy(dtype=np.float64) for name in "ab")
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 2 and min(np.ptp(a), np.ptp(b)) > 1e-9 else None


def _tokens(rows: pd.DataFrame, checkpoints: pd.Series) -> pd.Series:
    """Return the tokens of each checkpoint, as far as a row of its own tells them."""
    told = rows[rows["tokens"].notna()].drop_duplicates("checkpoint")
    return checkpoints.map(dict(zip(told["checkpoint"], told["tokens"], strict=True))).astype(float)


def _sides(plan: pd.DataFrame, rows: pd.DataFrame) -> list[tuple[dict[str, Any], ppi.Sides]]:
    """Return each complete comparison with its steered and its baseline rows, of those that have both."""
    evaluated = rows[rows["split"].eq("evaluate")]
    places: dict[tuple[object, ...], pd.DataFrame] = {}
    for condition, keys in (("steered", [*effects.BASELINE_KEY, *effects.STEERING_KEY]), ("baseline", effects.BASELINE_KEY)):
        part = evaluated[evaluated["condition"].eq(condition)]
        for key, group in part.groupby(["table", *keys], sort=False, dropna=False):
            places[_key(key)] = group[ppi.COLUMNS]
    found = []
    for record in plan[plan["status"].eq("complete")].to_dict("records"):
        who = {str(name): value for name, value in record.items()}
        own = [who.get(name) if pd.notna(who.get(name)) else who[name.removeprefix("vector_")] for name in effects.STEERING_KEY]
        base = [who["table"], *(who[name] for name in effects.BASELINE_KEY)]
        steered, baseline = places.get(_key([*base, *own])), places.get(_key(base))
        if steered is not None and baseline is not None:
            found.append(({name: who[name] for name in IDENTITY[:-1]}, (steered, baseline)))
    return found


def _key(values: Sequence[object]) -> tuple[object, ...]:
    """Return a key in one form, whatever types its numbers came in."""
    return tuple(round(float(one), 9) if isinstance(one, (int, float, np.number)) else str(one) for one in values)


def restricted(planned: Planned, traits: Sequence[str]) -> Planned:
    """Return the comparisons of these traits alone."""
    parts = {name: getattr(planned, name) for name in ("emergence", "transfer", "controls")}
    return replace(planned, **{name: part[part["trait"].isin(traits)] for name, part in parts.items()})
