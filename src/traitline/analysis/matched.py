"""What steering does at equal coherence loss: the effects of several doses, read where each checkpoint has lost as much.

One coefficient is not equally strong at every checkpoint, so a curve at a fixed one mixes what the vector does with how hard it
is pushed. Knows a few doses of one vector, each with a mean effect and a mean loss of coherence over the same questions, and
reads the effect at one loss on the straight line between two doses. Nothing is extrapolated. Leaves rows to the study, single
doses to `effects.py`, and choosing the fixed coefficient to `emergence.py`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from traitline.analysis.effects import BASELINE_KEY, STEERING_KEY
from traitline.errors import InputError

Floats = NDArray[np.float64]

CURVE = ["lineage", "trait", "strategy", "vector_checkpoint", "tokens", "target", "layer", "dose", "positions"]
COLUMNS = [
    *CURVE,
    *["n_pairs", "fragile", "coherence_loss", "status", "side", "n_doses", "n_questions", "coef_below", "coef_above", "coef"],
    *["delta_trait", "ci_low", "ci_high", "reach", "smallest_loss", "largest_loss"],
    *["fixed_coef", "fixed_delta_trait", "fixed_ci_low", "fixed_ci_high", "fixed_coherence_loss"],
]
FIXED = ["trait", "strategy", "target", "layer"]
LOSS = 5.0
"""Points of coherence at whose loss effects are compared."""
DRAWS = 10_000
LEAST_REACH = 0.5
"""Share of the bootstrap draws that must reach the loss, or no interval is given."""


def matched_table(
    planned: pd.DataFrame, rows: pd.DataFrame, fixed: pd.DataFrame, *, loss: float = LOSS, seed: int = 0
) -> pd.DataFrame:
    """Return the effect of every vector at one loss of coherence, beside its effect at a fixed coefficient.

    Going up the positive coefficients, the first that loses as much and the one before it are taken, and the effect is
    interpolated between the two, in proportion to the loss. All doses are compared on the questions that have both scores
    under each of them. Intervals are percentiles over resampled questions, the same draws for all doses; draws that do not
    reach the loss are left out, and `reach` is the share that does.

    Args:
        planned: the planned comparisons, with the columns of an effect table's plan.
        rows: scored responses.
        fixed: the coefficient to show beside it, chosen on other questions: trait, strategy, target, layer, coef. At other
            layers none is shown.
        loss: points of coherence.
        seed: of the bootstrap.

    Returns:
        One row per planned vector, target and layer, with `COLUMNS`. `status` is `complete`; `out_of_reach`, where `side` is
        `too_weak` (the largest dose loses less) or `too_strong` (the smallest loses more); `not_measured`, where no question
        has both scores under every dose; or, where nothing was to be measured, that of the plan: `no_vector`, `failed`,
        `unreachable`. `coef` is where the line between `coef_below` and `coef_above` meets the loss.

    Raises:
        InputError: a loss that is not above 0.
    """
    if not 0 < loss < math.inf:
        raise InputError(f"effects are compared at a coherence loss above 0 points, not {loss}")
    wanted = planned[(planned["coef"] > 0) & (planned["condition"] == "steered")]
    measured = _question_deltas(rows)
    chosen = {tuple(key): float(coef) for *key, coef in fixed[[*FIXED, "coef"]].itertuples(index=False)}
    records: list[dict[str, Any]] = []
    for key, doses in wanted.groupby(CURVE, sort=False, dropna=False):
        first = doses.iloc[0]
        told = {**dict(zip(CURVE, key, strict=True)), "n_pairs": first["n_pairs"], "fragile": first["fragile"]}
        told |= {"coherence_loss": loss, "status": first["status"], "side": "", "fixed_coef": chosen.get(_names(first))}
        complete = doses[doses["status"] == "complete"]
        if len(complete):
            told |= _read(complete, measured.get(_vector(first)), told["fixed_coef"], loss, seed)
        records.append(told)
    return pd.DataFrame(records, columns=COLUMNS)


def _names(row: pd.Series) -> tuple[Any, ...]:
    return tuple(row[name] for name in FIXED)


def _vector(row: pd.Series) -> tuple[Any, ...]:
    """Return what all doses of a vector share."""
    own = {name: row.get(name, row.get(name.removeprefix("vector_"))) for name in (*BASELINE_KEY, *STEERING_KEY)}
    return tuple(own[name] for name in (*BASELINE_KEY, *STEERING_KEY) if name != "coef")


def _question_deltas(rows: pd.DataFrame) -> dict[tuple[Any, ...], pd.DataFrame]:
    """Return, per vector, steered minus baseline of each question and coefficient that has both scores on both sides."""
    evaluated = rows[rows["split"] == "evaluate"]
    scores = ["trait_score", "coherence"]
    typed = evaluated.astype(dict.fromkeys(scores, np.float64))
    baseline = typed[typed["condition"] == "baseline"].groupby([*BASELINE_KEY, "question_id"])[scores].mean().dropna()
    steered = typed[typed["condition"] == "steered"]
    steered = steered.groupby([*BASELINE_KEY, *STEERING_KEY, "question_id"])[scores].mean().dropna().reset_index()
    joined = steered.merge(baseline.reset_index(), on=[*BASELINE_KEY, "question_id"], suffixes=("", "_baseline"))
    for score in scores:
        joined[score] -= joined.pop(f"{score}_baseline")
    shared = [name for name in (*BASELINE_KEY, *STEERING_KEY) if name != "coef"]
    return dict(iter(joined.groupby(shared, sort=False)))


def _read(doses: pd.DataFrame, measured: pd.DataFrame | None, fixed: float | None, loss: float, seed: int) -> dict[str, Any]:
    """Return what the doses of one vector do at the loss, and at the fixed coefficient."""
    coefs = np.sort(doses["coef"].to_numpy(dtype=np.float64))
    own = measured[measured["coef"].isin(coefs)] if measured is not None else pd.DataFrame(columns=["question_id", "coef"])
    counts = own.groupby("question_id")["coef"].nunique()
    questions = counts.index[counts == len(coefs)]
    told: dict[str, Any] = {"n_doses": len(coefs), "n_questions": len(questions)}
    if not len(questions):
        return {**told, "status": "not_measured"}
    kept = own[own["question_id"].isin(questions)]
    effects, losses = (
        sign * kept.pivot(index="question_id", columns="coef", values=score).to_numpy(dtype=np.float64)  # [questions, doses]
        for score, sign in (("trait_score", 1), ("coherence", -1))
    )
    weights = _weights(len(questions), seed)
    effect, lost = effects.mean(axis=0)[None], losses.mean(axis=0)[None]  # [1, doses]
    told |= {"smallest_loss": lost.min(), "largest_loss": lost.max()}
    if fixed is not None and (at := np.flatnonzero(np.isclose(coefs, fixed))).size:
        low, high = _interval(weights @ effects[:, at[0]])
        told |= {"fixed_delta_trait": effect[0, at[0]], "fixed_ci_low": low, "fixed_ci_high": high}
        told["fixed_coherence_loss"] = lost[0, at[0]]
    place = _place(lost, loss)[0]
    if not math.isfinite(place):
        return {**told, "status": "out_of_reach", "side": "too_weak" if place > 0 else "too_strong"}
    below, above = coefs[math.floor(place)], coefs[math.ceil(place)]
    drawn = _place(weights @ losses, loss)
    reached = np.isfinite(drawn)
    reach = float(reached.mean()) if len(reached) else math.nan
    low, high = _interval(_at(weights[reached] @ effects, drawn[reached])) if reach >= LEAST_REACH else (math.nan, math.nan)
    told |= {"coef_below": below, "coef_above": above, "coef": _at(coefs[None], np.array([place]))[0], "reach": reach}
    told |= {"delta_trait": _at(effect, np.array([place]))[0], "ci_low": low, "ci_high": high}
    return {**told, "status": "complete"}


def _place(lost: Floats, loss: float) -> Floats:
    """Return where among the doses the loss is first reached, as a fraction between two of them, [draws].

    Infinite where it is not: -inf where the smallest dose loses more, inf where none loses as much.

    Args:
        lost: coherence lost under each dose, in rising order of coefficients, [draws, doses].
        loss: what is to be lost.
    """
    reaching = lost >= loss
    first = reaching.argmax(axis=1)
    each = np.arange(len(lost))
    before = np.maximum(first - 1, 0)
    low, high = lost[each, before], lost[each, first]
    share = np.divide(loss - low, high - low, out=np.zeros(len(lost)), where=first > 0)
    place = np.where(first > 0, before + share, np.where(high == loss, 0.0, -np.inf))
    return np.where(reaching.any(axis=1), place, np.inf)


def _at(values: Floats, place: Floats) -> Floats:
    """Return values interpolated at a place among the doses, [draws], given them at each dose, [draws, doses]."""
    each, below = np.arange(len(values)), np.floor(place).astype(np.intp)
    above = np.ceil(place).astype(np.intp)
    found: Floats = values[each, below] + (place - below) * (values[each, above] - values[each, below])
    return found


@lru_cache(maxsize=8)
def _weights(n: int, seed: int) -> Floats:
    """Return how often each question appears in each bootstrap draw, over n: [draws, n]; no draws of a single question."""
    weights: Floats = np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1 / n), size=DRAWS if n > 1 else 0) / n
    weights.setflags(write=False)
    return weights


def _interval(means: Floats) -> tuple[float, float]:
    """Return the 95 % percentile interval; NaN without draws."""
    if not len(means):
        return math.nan, math.nan
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
