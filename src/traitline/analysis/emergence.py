"""When a trait became steerable: the dose to use, the onset in training, and a verdict in words.

Knows effect tables with their `steerable` column filled and the order of checkpoints. Leaves the statistics and the
conditions of steerability to `effects.py`; `transfer.py` says the same of a fixed target in the words made here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from traitline.analysis.effects import DEFAULT, Thresholds, conditions, largest_control
from traitline.errors import InputError, nearest

Censoring = Literal["", "from_first", "never", "no_vector", "not_measured"]
MINUS = "−"
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"), (1.0, ""))
SHOWN = ["delta_trait", "ci_low", "ci_high", "p_adjusted", "delta_coherence", "refusal_rate", "n_pairs", "fragile"]


@dataclass(frozen=True, slots=True)
class Onset:
    """When steering began to work: somewhere after `last_failing`, up to `first_passing`.

    Attributes:
        last_failing: the last measured checkpoint before `first_passing` that is not steerable; None where there is
            none or nothing passes.
        first_passing: the first steerable checkpoint, or None.
        tokens_last_failing: its cumulative tokens.
        tokens_first_passing: its cumulative tokens.
        censored: "" for an interval with two ends; `from_first` where nothing measured fails before the first that
            passes; `never` where nothing passes; `no_vector` where no checkpoint has a vector; `not_measured` where
            vectors exist but no effect of them was measured.
        without_vector: checkpoints without a vector. They bound nothing: what they would do is unknown.
        lost: measured checkpoints after `first_passing` that are not steerable.
    """

    last_failing: str | None
    first_passing: str | None
    tokens_last_failing: float | None
    tokens_first_passing: float | None
    censored: Censoring
    without_vector: tuple[str, ...]
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wording:
    """How a verdict names success, and failure at `{n}` checkpoints."""

    success: str = "steerable"
    failure: str = "not steerable at any of {n} checkpoints"


EMERGENCE = Wording()


def onset(table: pd.DataFrame, order: Sequence[str]) -> Onset:
    """Find the onset in the rows of one trait, strategy and (for transfer) target.

    Rows with a negative coefficient are left out. A checkpoint with several rows passes if one of them does.

    Args:
        table: rows of an effect table with `steerable` filled.
        order: the checkpoints in the order of training.

    Raises:
        InputError: no rows, `steerable` not filled, or a checkpoint that is not in `order`.
    """
    steps = _steps(table, order)
    without = tuple(steps.loc[steps["status"] == "no_vector", "vector_checkpoint"])
    measured = steps[steps["measured"]]
    passing = measured[measured["steerable"].astype(bool)]
    if passing.empty:
        censored: Censoring = "never"
        if measured.empty:
            censored = "no_vector" if len(without) == len(steps) else "not_measured"
        return Onset(None, None, None, None, censored, without, ())
    first = passing.iloc[0]
    failing = measured[~measured["steerable"].astype(bool)]
    before, after = failing[failing["place"] < first["place"]], failing[failing["place"] > first["place"]]
    lost = tuple(after["vector_checkpoint"])
    passed, tokens = str(first["vector_checkpoint"]), _known(first["tokens"])
    if before.empty:
        return Onset(None, passed, None, tokens, "from_first", without, lost)
    last = before.iloc[-1]
    return Onset(str(last["vector_checkpoint"]), passed, _known(last["tokens"]), tokens, "", without, lost)


def choose_dose(tune_table: pd.DataFrame, *, thresholds: Thresholds = DEFAULT) -> pd.DataFrame:
    """Choose layer and coefficient for every trait and strategy, from effects on the `tune` questions.

    The largest `delta_trait` wins among the rows with a positive coefficient whose coherence passes. Where none passes,
    the largest `delta_trait` less the coherence lost wins. Ties go to the smaller coefficient, then the lower layer.

    Returns:
        One row per lineage, trait and strategy with a measured effect: layer, dose, coef, positions, delta_trait,
        delta_coherence, and `coherent`, False where no dose kept the responses coherent.
    """
    rows = tune_table[(tune_table["coef"] > 0) & tune_table["delta_trait"].notna()]
    kept = rows["steered_coherence"] >= thresholds.coherence_floor
    coherent = kept | (-rows["delta_coherence"] <= thresholds.coherence_loss)
    penalised = rows["delta_trait"] + rows["delta_coherence"].clip(upper=0)
    ranked = rows.assign(coherent=coherent, gain=rows["delta_trait"].where(coherent, penalised)).sort_values(
        ["coherent", "gain", "coef", "layer"], ascending=[False, False, True, True], kind="stable"
    )
    best = ranked.drop_duplicates(["lineage", "trait", "strategy"]).sort_index()
    names = ["lineage", "trait", "strategy", "layer", "dose", "coef", "positions"]
    return best[[*names, "delta_trait", "delta_coherence", "coherent"]].reset_index(drop=True)


def verdict(
    table: pd.DataFrame,
    order: Sequence[str],
    *,
    total_tokens: float | None = None,
    controls: pd.DataFrame | None = None,
    thresholds: Thresholds = DEFAULT,
    wording: Wording = EMERGENCE,
) -> str:
    """Say in words when one trait became steerable, or why it did not.

    Args:
        table: the rows of one trait, strategy and (for transfer) target, with `steerable` filled.
        order: the checkpoints in the order of training.
        total_tokens: tokens of the whole pretraining, for percentages.
        controls: the effect table of the controls that `steerable` was found with.
        thresholds: the thresholds that `steerable` was found with.
        wording: how success and failure are named.

    Raises:
        InputError: as `onset`.
    """
    table = table.reset_index(drop=True)
    steps, found = _steps(table, order), onset(table, order)
    n, without = len(steps), len(found.without_vector)
    if found.censored == "no_vector":
        return f"no vector at any of {n} checkpoints, so whether steering would work is unknown"
    if found.censored == "not_measured":
        return f"no effect measured at any of {n} checkpoints, {without} of them without a vector"
    shown, together = _shown(steps, found), _together(table)
    if found.censored == "never":
        reasons = ", ".join(_unmet(table, shown, controls, order, thresholds))
        text = f"{wording.failure.format(n=n)}: largest {_numbers(shown)} at {_place(shown)}"
        return f"{text}, where {reasons}" + (f"; no vector at {without} of the {n}" if without else "") + together
    when = _when(found, total_tokens)
    return f"{wording.success} from {when}: {_numbers(shown)}{_caveats(steps, found, shown)}{together}"


def verdicts(
    table: pd.DataFrame,
    order: Sequence[str],
    total_tokens: float | None = None,
    *,
    controls: pd.DataFrame | None = None,
    thresholds: Thresholds = DEFAULT,
) -> pd.DataFrame:
    """Return one verdict per lineage, trait and strategy of an emergence table.

    Returns:
        `verdict` in words, the fields of `Onset`, and the statistics of the row that the verdict quotes.
    """
    groups = table.groupby(["lineage", "trait", "strategy"], sort=False)
    parts = [(dict(zip(("lineage", "trait", "strategy"), key, strict=True)), part, EMERGENCE) for key, part in groups]
    return tabulate(parts, order, total_tokens, controls, thresholds)


def tabulate(
    parts: Sequence[tuple[dict[str, Any], pd.DataFrame, Wording]],
    order: Sequence[str],
    total_tokens: float | None,
    controls: pd.DataFrame | None,
    thresholds: Thresholds,
) -> pd.DataFrame:
    """Return one row per part of a table: its names, verdict, onset and the statistics quoted."""
    rows = []
    for names, part, wording in parts:
        found = onset(part, order)
        text = verdict(part, order, total_tokens=total_tokens, controls=controls, thresholds=thresholds, wording=wording)
        measured = found.censored not in ("no_vector", "not_measured")
        quoted = _shown(_steps(part, order), found)[SHOWN].to_dict() if measured else {}
        rows.append(
            {
                **names,
                "verdict": text,
                "censored": found.censored,
                "last_failing": found.last_failing,
                "first_passing": found.first_passing,
                "tokens_last_failing": found.tokens_last_failing,
                "tokens_first_passing": found.tokens_first_passing,
                "without_vector": len(found.without_vector),
                "lost": len(found.lost),
                **{name: quoted.get(name) for name in SHOWN},
            }
        )
    return pd.DataFrame(rows)


def _steps(table: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """Return one row per checkpoint, in order: the one that passes with the largest delta, else the largest delta."""
    rows = table[~(table["coef"] < 0)]
    if rows.empty:
        raise InputError("no rows with a positive coefficient to judge; plan at least one dose above zero")
    place = {name: i for i, name in enumerate(order)}
    unknown = sorted(set(rows["vector_checkpoint"]) - set(place))
    if unknown:
        raise InputError(f"checkpoint {unknown[0]!r} is not in the order of checkpoints; {nearest(unknown[0], order)}")
    measured = (rows["status"] == "complete") & rows["delta_trait"].notna()
    if rows.loc[measured, "steerable"].isna().any():
        raise InputError("the column `steerable` is empty; fill it with traitline.analysis.effects.steerability first")
    steps = rows.assign(place=rows["vector_checkpoint"].map(place), measured=measured, passes=rows["steerable"].fillna(False))
    best = steps.sort_values(["place", "measured", "passes", "delta_trait"], ascending=[True, False, False, False])
    return best.drop_duplicates("place")


def _together(table: pd.DataFrame) -> str:
    """Say it where a checkpoint was judged at the best of several doses, because none was chosen beforehand."""
    rows = table[table["coef"] > 0]
    most = rows[["vector_checkpoint", "layer", "coef"]].drop_duplicates()["vector_checkpoint"].value_counts().max()
    return f"; at the best of {most} doses of each checkpoint, none being chosen beforehand" if most > 1 else ""


def _shown(steps: pd.DataFrame, found: Onset) -> pd.Series:
    """Return the row to quote: the first that passes, else the largest delta."""
    if found.first_passing is not None:
        return steps[steps["vector_checkpoint"] == found.first_passing].iloc[0]
    return steps[steps["measured"]].sort_values("delta_trait", ascending=False, kind="stable").iloc[0]


def _unmet(
    table: pd.DataFrame,
    shown: pd.Series,
    controls: pd.DataFrame | None,
    order: Sequence[str],
    thresholds: Thresholds,
) -> list[str]:
    """Say in words which conditions the row `shown` does not meet."""
    at = list(table.index).index(shown.name)
    met = conditions(table, controls, order=order, thresholds=thresholds).iloc[at]
    error = shown.get("judge_error", math.nan)
    words = {
        "significant": f"the adjusted p is not under {thresholds.alpha:g}",
        "large": f"the lower bound is not above {thresholds.minimum_effect:g} points",
        "above_judge_error": f"the lower bound is not above the judge's own error of {error:.1f} points",
        "above_controls": f"a control reaches {_signed(largest_control(table, controls).iloc[at])}",
        "coherent": f"coherence falls to {_whole(shown['steered_coherence'])}",
        "lasting": "the next checkpoint does not confirm it",
    }
    return [words[name] for name in met.index if not met[name]] or ["`steerable` was found with other thresholds"]


def _when(found: Onset, total_tokens: float | None) -> str:
    """Word the onset: the interval in tokens, and in percent of pretraining where its length is known."""
    last, first = found.tokens_last_failing, found.tokens_first_passing
    if first is None or (last is None and found.last_failing is not None):  # a lineage that does not tell its tokens
        since = f"between {found.last_failing} and " if found.last_failing is not None else ""
        return f"{since}{found.first_passing}" + ("" if since else " at the latest")
    percent = ""
    if total_tokens:
        shares = [tokens / total_tokens for tokens in (last, first) if tokens is not None]
        percent = f" ({' to '.join(map(_percent, shares))} % of pretraining)"
    if last is None:
        return f"{_tokens(first)} tokens at the latest{percent}"
    return f"between {_tokens(last, first)} and {_tokens(first)} tokens{percent}"


def _place(step: pd.Series) -> str:
    """Word a checkpoint: its tokens where they are known, else its name."""
    tokens = _known(step["tokens"])
    return str(step["vector_checkpoint"]) if tokens is None else f"{_tokens(tokens)} tokens"


def _known(tokens: float) -> float | None:
    return None if pd.isna(tokens) else float(tokens)


def _numbers(row: pd.Series) -> str:
    refusals = f"; refusals {100 * row['refusal_rate']:.0f} %" if row["refusal_rate"] >= 0.005 else ""
    return (
        f"delta {_signed(row['delta_trait'])} [{_whole(row['ci_low'])}, {_whole(row['ci_high'])}], "
        f"p = {row['p_adjusted']:.2g}; coherence {_signed(row['delta_coherence'])}{refusals}"
    )


def _caveats(steps: pd.DataFrame, found: Onset, shown: pd.Series) -> str:
    """Say what else a reader must know of an onset that was found."""
    place = dict(zip(steps["vector_checkpoint"], steps["place"], strict=True))
    words = {step["vector_checkpoint"]: _place(step) for _, step in steps.iterrows()}
    caveats = []
    if found.censored == "from_first":
        earlier = [name for name in found.without_vector if place[name] < shown["place"]]
        unknown = f"no vector at {len(earlier)} earlier checkpoints" if earlier else "nothing measured before it"
        caveats.append(f"{unknown}, so the onset may lie earlier")
    if pd.notna(shown["fragile"]) and bool(shown["fragile"]):
        caveats.append(f"fragile vector ({_whole(shown['n_pairs'])} pairs)")
    if found.lost:
        caveats.append(f"lost again at {', '.join(words[name] for name in found.lost)}")
    if shown["place"] == steps.loc[steps["status"] != "failed", "place"].max():
        caveats.append("last checkpoint, with none after it to confirm")
    return "".join(f"; {caveat}" for caveat in caveats)


def _tokens(tokens: float, like: float | None = None) -> str:
    """Word a count of tokens, in the unit of `like` where that keeps it readable."""
    wanted = tokens if like is None or tokens < like / 100 else like
    size, unit = next(((size, unit) for size, unit in UNITS if wanted >= size / 10), (1.0, ""))
    value = tokens / size
    if not unit:
        return f"{value:.0f}"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    whole, _, decimals = f"{value:.{digits}f}".partition(".")
    return f"{whole}.{decimals.rstrip('0') or '0'} {unit}" if decimals else f"{whole} {unit}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}" if share >= 0.01 or share == 0 else f"{100 * share:.1g}"


def _whole(value: float) -> str:
    return "?" if pd.isna(value) or math.isinf(value) else f"{round(value)}".replace("-", MINUS)


def _signed(value: float) -> str:
    return "?" if pd.isna(value) or math.isinf(value) else f"{round(value):+d}".replace("-", MINUS)
