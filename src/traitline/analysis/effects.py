"""From scored responses to the tables of effects: one row per planned comparison of steered with baseline responses.

Knows the columns of response rows and of the tables, which rows a comparison compares, how they are averaged, and when an
effect counts as steerable. Leaves the tests to `significance.py`, what a row of checkpoints means to `emergence.py` and
`transfer.py`, and reading and writing files to the study.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from traitline.analysis.significance import bootstrap_interval, effect_size, holm, sign_flip
from traitline.errors import InputError, nearest

BASELINE_KEY = ["lineage", "target", "trait", "strategy"]
STEERING_KEY = ["vector_checkpoint", "vector_trait", "vector_strategy", "layer", "dose", "coef", "positions"]
CONDITION_KEY = ["condition", "control_seed", "control_kind"]
NUMBERS = {"layer", "coef", "control_seed"}

PLAN_COLUMNS = [
    *["lineage", "trait", "strategy", "vector_checkpoint", "tokens", "target", "layer", "dose", "coef", "positions"],
    *["status", "n_pairs", "fragile"],
]
COUNTS = ["n_questions", "n_rows_baseline", "n_rows_steered", "n_missing"]
TABLE_COLUMNS = [
    *PLAN_COLUMNS,
    *COUNTS,
    *["baseline_trait", "steered_trait", "delta_trait", "ci_low", "ci_high", "p_two_sided", "p_greater", "p_adjusted"],
    *["steerable", "baseline_coherence", "steered_coherence", "delta_coherence", "refusal_rate", "judge"],
    *["effect_size", "ceiling_share", "repetition", "distinct_2", "length_cut"],
    *CONDITION_KEY,
]
ROW_COLUMNS = [
    *BASELINE_KEY,
    *STEERING_KEY,
    *CONDITION_KEY,
    *["split", "question_id", "trait_score", "coherence", "refusal", "response", "finish", "judge"],
]
SERIES_KEY = [*BASELINE_KEY, "layer", "dose", "coef", "positions", *CONDITION_KEY]
CONTROL_KEY = ["trait", "strategy", "target", "layer", "dose", "coef"]
SMALLEST_CEILING = 5.0
"""Points that the positive instruction must achieve before a delta is given as a share of it."""


def effect_table(
    planned: pd.DataFrame,
    rows: pd.DataFrame,
    *,
    families: pd.Series | None = None,
    split: str = "evaluate",
    seed: int = 0,
) -> pd.DataFrame:
    """Compare steered with baseline responses, one table row per planned comparison, in the same order and index.

    Rows are averaged within a question, missing scores left out; questions scored on both sides are compared, and every
    mean is over those questions. Rows steered with bootstrap vectors widen the interval of the steered comparison with
    the same identity. A comparison that is not `complete` keeps empty statistics; so does one without a question scored
    on both sides, with its counts.

    `effect_size` is Hedges' corrected standardised difference. `refusal_rate`, `length_cut` (share that stopped at the
    length limit), `repetition` and `distinct_2` (see `degeneration`) describe the steered rows. `steerable` and
    `ceiling_share` are left empty.

    Args:
        planned: one row per comparison: the plan columns of the table, `condition`, `control_seed` and `control_kind`;
            `vector_trait` and `vector_strategy` where they differ from `trait` and `strategy`.
        rows: scored responses.
        families: target family of each planned row. `p_adjusted` is Holm's over the complete rows of one lineage,
            trait, strategy and family, controls apart; without it, all targets are one family.
        split: the questions compared.
        seed: seed of the bootstrap, and of the sign-flip test where it draws.

    Raises:
        InputError: a column is missing.
    """
    _require(planned, [*PLAN_COLUMNS, *CONDITION_KEY], "the planned comparisons")
    _require(rows, ROW_COLUMNS, "the response rows")
    plan = planned.reset_index(drop=True)
    sides, comparisons = _matched(plan[plan["status"] == "complete"], rows[rows["split"] == split])
    table = plan.reindex(columns=TABLE_COLUMNS)
    for part in (_side_columns(sides, comparisons), _statistics(_question_deltas(sides, comparisons), seed)):
        table[part.columns] = part.reindex(table.index)
    complete = table["status"] == "complete"
    table[COUNTS] = table[COUNTS].astype("Int64").where(~complete, table[COUNTS].fillna(0).astype("Int64"))
    table["p_adjusted"] = adjusted(table, None if families is None else families.reset_index(drop=True))
    table["steerable"] = pd.array([pd.NA] * len(table), dtype="boolean")
    table["ceiling_share"] = np.nan
    return table[TABLE_COLUMNS].set_index(planned.index)


def adjusted(table: pd.DataFrame, families: pd.Series | None = None) -> pd.Series:
    """Return Holm's p over the rows of one lineage, trait, strategy and family of targets, controls apart.

    Args:
        table: an effect table.
        families: target family of each row; without it, all targets are one family.
    """
    family = [table[name] for name in ("lineage", "trait", "strategy")] + [table["condition"] == "steered"]
    if families is not None:
        family.append(families)
    return table.groupby(family, dropna=False)["p_greater"].transform(holm)


def degeneration(text: str) -> tuple[float, float]:
    """Return (repetition, distinct_2) of one response, without a judge.

    `repetition` is the share of its word 4-grams that repeat an earlier one, `distinct_2` the share of its word 2-grams
    that are distinct. Words are split at white space and lower-cased. NaN where the response is too short to have any.
    """
    words = text.lower().split()
    repetition = distinct = math.nan
    if len(words) >= 2:
        distinct = len(set(pairwise(words))) / (len(words) - 1)
    if len(words) >= 4:
        repetition = 1 - len(set(zip(words, words[1:], words[2:], words[3:], strict=False))) / (len(words) - 3)
    return repetition, distinct


def _require(frame: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise InputError(f"{what} lack the columns {', '.join(missing)}; they have {', '.join(map(str, frame.columns))}")


def _keys(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the key columns in one form, whatever types they came in: missing texts "", missing numbers infinite."""
    keys: dict[str, pd.Series] = {}
    for name in columns:
        column = frame[name]
        if name in NUMBERS:
            keys[name] = pd.to_numeric(column).astype("Float64").fillna(np.inf).astype(np.float64)
        else:
            keys[name] = column.astype(object).where(column.notna(), "").astype(str)
    return pd.DataFrame(keys, index=frame.index)


def _response_keys(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the keys of response rows, blank in what their condition does not use."""
    keys = _keys(frame, [*BASELINE_KEY, *STEERING_KEY, *CONDITION_KEY])
    baseline, steered = keys["condition"] == "baseline", keys["condition"] == "steered"
    for name in [*STEERING_KEY, "control_seed", "control_kind"]:
        unused = baseline if name in STEERING_KEY else baseline | steered
        if name == "control_kind":
            unused |= keys["condition"] == "bootstrap"
        keys.loc[unused, name] = np.inf if name in NUMBERS else ""
    return keys


def _matched(plan: pd.DataFrame, rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find the rows of every comparison.

    Returns:
        The rows that any comparison uses, with their group in `side`; and the comparisons: `plan` (position of the
        planned row), `is_vector` (made with a bootstrap vector), and the groups `steered` and `baseline`.
    """
    own = {name: plan[name] if name in plan else plan[name.removeprefix("vector_")] for name in STEERING_KEY}
    main = _response_keys(plan.assign(**own)).assign(plan=plan.index, is_vector=False)
    row_keys = _response_keys(rows)
    resampled = row_keys[row_keys["condition"] == "bootstrap"].drop_duplicates()
    vectors = main[main["condition"] == "steered"].drop(columns=CONDITION_KEY).assign(is_vector=True)
    vectors = vectors.merge(resampled, on=[*BASELINE_KEY, *STEERING_KEY])
    steered = pd.concat([main, vectors[main.columns]], ignore_index=True)
    baseline = _response_keys(steered.assign(condition="baseline"))
    stacked = pd.concat([row_keys, steered[row_keys.columns], baseline], ignore_index=True)
    groups = stacked.groupby(list(row_keys.columns), sort=False).ngroup().to_numpy()
    of_rows, of_steered, of_baseline = np.split(groups, [len(rows), len(rows) + len(steered)])
    comparisons = steered[["plan", "is_vector"]].assign(steered=of_steered, baseline=of_baseline)
    used = np.isin(of_rows, np.concatenate([of_steered, of_baseline]))
    return rows[used].assign(side=of_rows[used]), comparisons


def _side_columns(sides: pd.DataFrame, comparisons: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that describe the rows of one side, judge and counts included, by position of the plan."""
    main = comparisons[~comparisons["is_vector"]].set_index("plan")
    counts = sides.assign(missing=sides["trait_score"].isna()).groupby("side")["missing"].agg(["size", "sum"])
    steered = sides[sides["side"].isin(main["steered"])]
    measures = [degeneration(text) if isinstance(text, str) else (math.nan, math.nan) for text in steered["response"]]
    repetition, distinct = np.array(measures, dtype=np.float64).reshape(-1, 2).T
    described = steered[["side"]].assign(
        refusal_rate=pd.to_numeric(steered["refusal"].astype("boolean").astype("Float64")),
        repetition=repetition,
        distinct_2=distinct,
        length_cut=(steered["finish"] == "length").astype(np.float64),
    )
    means = described.groupby("side").mean().astype(np.float64)
    judges = steered[["side", "judge"]].dropna().drop_duplicates().sort_values("judge").groupby("side")["judge"]
    columns = means.reindex(main["steered"]).set_index(main.index)
    columns["judge"] = judges.agg("; ".join).reindex(main["steered"]).to_numpy()
    for name in ("baseline", "steered"):
        found = counts.reindex(main[name]).fillna(0)
        columns[f"n_rows_{name}"] = found["size"].to_numpy()
        columns["n_missing"] = columns.get("n_missing", 0) + found["sum"].to_numpy()
    return columns


def _question_deltas(sides: pd.DataFrame, comparisons: pd.DataFrame) -> pd.DataFrame:
    """Return the two sides of every comparison, question by question, for questions with rows on both sides."""
    scores = sides[["side", "question_id", "trait_score", "coherence"]]
    means = scores.astype({"trait_score": np.float64, "coherence": np.float64}).groupby(["side", "question_id"]).mean()
    means = means.reset_index()
    joined = comparisons.reset_index(names="comparison").merge(means, left_on="steered", right_on="side")
    joined = joined.merge(
        means,
        left_on=["baseline", "question_id"],
        right_on=["side", "question_id"],
        suffixes=("_steered", "_baseline"),
    )
    joined["delta_trait"] = joined["trait_score_steered"] - joined["trait_score_baseline"]
    joined["delta_coherence"] = joined["coherence_steered"] - joined["coherence_baseline"]
    return joined.sort_values(["comparison", "question_id"])


def _statistics(deltas: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return means, tests and intervals by position of the plan."""
    scored = deltas[deltas["delta_trait"].notna()]
    main = scored[~scored["is_vector"]]
    of_vectors = scored[scored["is_vector"]].groupby(["plan", "comparison"])["delta_trait"].mean()
    vector_deltas = {plan: group.to_numpy() for plan, group in of_vectors.groupby(level="plan")}
    tests = {}
    for plan, values in _by_plan(main):
        flip = sign_flip(values, seed=seed)
        low, high = bootstrap_interval(values, seed=seed, vector_deltas=vector_deltas.get(plan))
        tests[plan] = (values.size, flip.p_two_sided, flip.p_greater, low, high, effect_size(values).hedges)
    names = ["n_questions", "p_two_sided", "p_greater", "ci_low", "ci_high", "effect_size"]
    columns = pd.DataFrame.from_dict(tests, orient="index", columns=names)
    coherent = deltas[~deltas["is_vector"] & deltas["delta_coherence"].notna()]
    for frame, score, name in ((main, "trait_score", "trait"), (coherent, "coherence", "coherence")):
        means = frame.groupby("plan")[[f"{score}_baseline", f"{score}_steered", f"delta_{name}"]].mean()
        means.columns = pd.Index([f"baseline_{name}", f"steered_{name}", f"delta_{name}"])
        columns = columns.join(means, how="outer")
    return columns


def _by_plan(main: pd.DataFrame) -> list[tuple[int, NDArray[np.float64]]]:
    """Return (position of the plan, differences of its questions), given rows sorted by comparison."""
    plans, starts = np.unique(main["plan"].to_numpy(dtype=np.int64), return_index=True)
    parts = np.split(main["delta_trait"].to_numpy(dtype=np.float64), starts[1:])
    return [(int(plan), part) for plan, part in zip(plans, parts, strict=False)]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What an effect must clear to count as steerable.

    Attributes:
        minimum_effect: points that the lower bound of the interval must exceed.
        coherence_floor: coherence at or above which the steered responses are coherent.
        coherence_loss: points of coherence that may be lost where the floor is not kept.
        alpha: level that the adjusted one-sided p must stay under.
    """

    minimum_effect: float = 5.0
    coherence_floor: float = 50.0
    coherence_loss: float = 25.0
    alpha: float = 0.05


DEFAULT = Thresholds()


def steerability(
    table: pd.DataFrame,
    controls: pd.DataFrame | None,
    *,
    order: Sequence[str],
    minimum_effect: float = 5.0,
    coherence_floor: float = 50.0,
    coherence_loss: float = 25.0,
    alpha: float = 0.05,
) -> pd.Series:
    """Say which rows of an emergence or transfer table are steerable.

    Args:
        table: an effect table of steered comparisons.
        controls: the effect table of the controls, or None.
        order: the checkpoints in the order of training.
        minimum_effect: see `Thresholds`, as for the others.
        coherence_floor: see `Thresholds`.
        coherence_loss: see `Thresholds`.
        alpha: see `Thresholds`.

    Returns:
        True or False per row (dtype `boolean`), missing where the row is not complete.

    Raises:
        InputError: a checkpoint is not in `order`, or two rows tell of the same comparison.
    """
    thresholds = Thresholds(minimum_effect, coherence_floor, coherence_loss, alpha)
    met = conditions(table, controls, order=order, thresholds=thresholds).all(axis=1)
    return met.astype("boolean").mask(table["status"] != "complete").rename("steerable")


def conditions(
    table: pd.DataFrame,
    controls: pd.DataFrame | None,
    *,
    order: Sequence[str],
    thresholds: Thresholds = DEFAULT,
) -> pd.DataFrame:
    """Say which of the conditions of steerability each row meets: one column of booleans per condition.

    - `significant`: the adjusted p is under alpha.
    - `large`: the lower bound exceeds the minimum effect.
    - `above_judge_error`: it exceeds the judge's own error, where the column `judge_error` states one.
    - `above_controls`: it exceeds the largest control delta of the same trait, strategy, target, layer, dose and size of
      coefficient, where there are such controls. A checkpoint's controls are made from its own vector, a descendant's from
      the last checkpoint's.
    - `coherent`: the floor is kept or the loss is small.
    - `lasting`: all of that also holds at the next checkpoint with the same target, layer, dose, coefficient and
      positions; the last has no next. A failed row is passed over; a next one without a vector does not confirm.

    A statistic that is missing meets nothing.

    Raises:
        InputError: a checkpoint is not in `order`, or two rows tell of the same comparison.
    """
    met = pd.DataFrame(index=table.index)
    met["significant"] = (table["p_adjusted"] < thresholds.alpha).astype(bool)
    met["large"] = (table["ci_low"] > thresholds.minimum_effect).astype(bool)
    if "judge_error" in table:
        met["above_judge_error"] = (table["ci_low"] > table["judge_error"].fillna(-np.inf)).astype(bool)
    bound = largest_control(table, controls)
    met["above_controls"] = (table["ci_low"] > bound.fillna(-np.inf)).astype(bool)
    kept = table["steered_coherence"] >= thresholds.coherence_floor
    met["coherent"] = (kept | (-table["delta_coherence"] <= thresholds.coherence_loss)).astype(bool)
    met["lasting"] = _lasting(table, met.all(axis=1), order)
    return met


def largest_control(table: pd.DataFrame, controls: pd.DataFrame | None) -> pd.Series:
    """Return the largest control delta to hold each row against; NaN where there is no control."""
    if controls is None or controls.empty:
        return pd.Series(np.nan, index=table.index)
    deltas = _keys(controls, CONTROL_KEY).assign(bound=controls["delta_trait"])
    deltas["coef"] = deltas["coef"].abs()
    keys = _keys(table, CONTROL_KEY)
    keys["coef"] = keys["coef"].abs()
    bounds = deltas.groupby(CONTROL_KEY)["bound"].max().reset_index()
    return keys.merge(bounds, on=CONTROL_KEY, how="left")["bound"].set_axis(table.index)


def _lasting(table: pd.DataFrame, alone: pd.Series, order: Sequence[str]) -> NDArray[np.bool_]:
    """Say which rows are confirmed by the next checkpoint of their series, or have no next."""
    place = {name: i for i, name in enumerate(order)}
    unknown = sorted(set(table["vector_checkpoint"]) - set(place))
    if unknown:
        raise InputError(f"checkpoint {unknown[0]!r} is not in the order of checkpoints; {nearest(unknown[0], order)}")
    keys = _keys(table, SERIES_KEY)
    if (table["target"] == table["vector_checkpoint"]).all():
        keys["target"] = ""
    steps = pd.DataFrame(
        {
            "series": keys.groupby(SERIES_KEY, sort=False).ngroup().to_numpy(),
            "place": table["vector_checkpoint"].map(place).to_numpy(),
            "alone": alone.to_numpy(),
        }
    )
    steps = steps[(table["status"] != "failed").to_numpy()].sort_values(["series", "place"])
    if steps.duplicated(["series", "place"]).any():
        row = table.iloc[int(steps.index[steps.duplicated(["series", "place"])][0])]
        raise InputError(
            f"two rows tell of trait {row['trait']!r}, strategy {row['strategy']!r}, vector of "
            f"{row['vector_checkpoint']!r} on {row['target']!r} at layer {row['layer']}, coef {row['coef']}; keep one"
        )
    confirmed = steps.groupby("series")["alone"].shift(-1, fill_value=True)
    return confirmed.reindex(range(len(table)), fill_value=False).to_numpy(dtype=np.bool_)
