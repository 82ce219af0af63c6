"""Prediction-powered correction: deltas measured by a cheap judge on every row, put right by a better one on a few.

After Angelopoulos et al., "Prediction-powered inference" (Science 382, 2023; arXiv 2301.09633), with the weight of "PPI++"
(arXiv 2311.01453). On every row the cheap judge gives a score f; on gold rows, drawn with known probability, a person or a
better judge gives y. The mean of f is off by the judge's error; the mean of y - f over gold rows, each weighted by 1 /
probability, is that error (the *rectifier*). Their sum has no bias, however bad the cheap judge is; a good one makes its
interval short.

Knows the estimate, its interval over questions, and what must hold for it. Leaves drawing gold rows to
`traitline.judges.sheet`, and which rows a comparison has to `conclusions.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from traitline.errors import InputError

Floats = NDArray[np.float64]

SAME_ERROR = "same error in every comparison"
"""What a caller must state to have one rectifier for the steered rows, and one for the baseline rows, of all comparisons."""
FEWEST_QUESTIONS = 3
COLUMNS = ["question", "score", "gold", "probability"]


@dataclass(frozen=True, slots=True)
class Corrected:
    """One delta, plain and corrected, in points.

    Attributes:
        delta: mean over questions of steered minus baseline, by the cheap judge alone.
        ci_low: its interval over questions (t), which knows nothing of the judge's error.
        ci_high: its upper end.
        corrected: the same delta as the gold judge would have found it on every row.
        corrected_low: its interval.
        corrected_high: its upper end.
        weight: how much of the cheap judge's scores is used, 0 (gold rows alone) to 1.
        n_rows: rows of both sides.
        n_questions: questions with rows on both sides.
        n_missing: rows without a cheap score; the plain delta leaves them out, the corrected one counts them.
        n_gold_steered: gold rows behind the steered side's rectifier.
        n_gold_baseline: gold rows behind the baseline's.
        n_questions_gold: questions that they are of, on the side that has fewer.
        assumption: what the caller stated so that comparisons share a rectifier; empty where they do not.
        reason: why something is NaN; empty where nothing is.
    """

    delta: float = float("nan")
    ci_low: float = float("nan")
    ci_high: float = float("nan")
    corrected: float = float("nan")
    corrected_low: float = float("nan")
    corrected_high: float = float("nan")
    weight: float = float("nan")
    n_rows: int = 0
    n_questions: int = 0
    n_missing: int = 0
    n_gold_steered: int = 0
    n_gold_baseline: int = 0
    n_questions_gold: int = 0
    assumption: str = ""
    reason: str = ""


Sides = tuple[pd.DataFrame, pd.DataFrame]
"""The steered and the baseline rows of one comparison, each with the columns of `COLUMNS`."""


def corrected_delta(
    steered: pd.DataFrame,
    baseline: pd.DataFrame,
    *,
    level: float = 0.95,
    weight: float | None = 1.0,
    trained_on: Collection[str] = (),
) -> Corrected:
    """Correct the delta of one comparison, each side by its own gold rows.

    Compared are the questions with rows on both sides. Rows count equally within a question, and questions equally. A
    side's rectifier is the mean of y - weight x f over its gold rows, each weighted by 1 / probability and by 1 / rows of its
    question. The interval is Student's t over what each question contributes to the estimate, its gold rows' draw included,
    with as many degrees of freedom as questions with gold rows (on the side that has fewer), less one. A row without a cheap
    score has the mean of its side for f.

    A gold row whose label is missing counts as not drawn, which is right where labels are missing by chance.

    Args:
        steered: `question`, `score` (NaN: missing), `gold` (NaN: no gold row), and `probability` with which the row was
            drawn to be gold, read on gold rows alone.
        baseline: the same.
        level: coverage of the intervals.
        weight: of the cheap scores, 0 to 1; None for the one with the shortest interval (PPI++), found for every question
            from the others. It helps where the cheap judge is poor and costs a little coverage over few questions.
        trained_on: questions that the cheap judge was fitted on, which must not be among the gold rows'.

    Raises:
        InputError: a column is missing, an infinite score, a probability that is none, a gold row on a question of
            `trained_on`, or `level` or `weight` out of range.
    """
    return corrected_deltas([(steered, baseline)], level=level, weight=weight, trained_on=trained_on)[0]


def corrected_deltas(
    comparisons: Sequence[Sides],
    *,
    level: float = 0.95,
    weight: float | None = 1.0,
    trained_on: Collection[str] = (),
    assume: str | None = None,
) -> list[Corrected]:
    """Correct the deltas of several comparisons; see `corrected_delta`.

    Args:
        comparisons: the steered and the baseline rows of each.
        level: coverage of each interval; nothing is adjusted for their number.
        weight: as for one.
        trained_on: as for one.
        assume: `SAME_ERROR` to let all comparisons share one rectifier for their steered rows and one for their baselines.
            That needs fewer gold rows and is wrong where the judge errs more in one comparison than in another. The weight is
            then 1.

    Raises:
        InputError: as for one, or an assumption that is not known.
    """
    if not 0 < level < 1 or (weight is not None and not 0 <= weight <= 1):
        raise InputError(f"level must lie between 0 and 1 and weight be 0 to 1 or None, not {level} and {weight}")
    if assume not in (None, SAME_ERROR):
        raise InputError(
            f"no assumption is called {assume!r}; the only one is {SAME_ERROR!r}. (An error that is the same in every "
            "condition cancels in a delta, which then needs no correction)"
        )
    sides = [
        (_side(steered, "steered", trained_on, like=baseline), _side(baseline, "baseline", trained_on, like=steered))
        for steered, baseline in comparisons
    ]
    if assume is None:
        return [_estimate(one, (_Gold.of(one[:1]), _Gold.of(one[1:])), level, weight, "") for one in sides]
    shared = (_Gold.of([one[0] for one in sides]), _Gold.of([one[1] for one in sides]))
    return [_estimate(one, shared, level, 1.0, assume) for one in sides]


def check_unseen(gold_questions: Iterable[str], trained_on: Collection[str]) -> None:
    """Refuse gold rows on questions that the cheap judge was fitted on: there it errs less than elsewhere.

    Raises:
        InputError: there are some.
    """
    seen = sorted(set(gold_questions) & set(trained_on))
    if seen:
        raise InputError(
            f"gold rows are on {len(seen)} questions that the cheap judge was trained on, such as {seen[0][:60]!r}, where its "
            "error is not what it is elsewhere; leave those questions out of all rows, or draw gold rows on others"
        )


@dataclass(frozen=True, eq=False)
class _Side:
    """The rows of one side, each [rows]: question, cheap score (missing ones filled), gold score (NaN: none), its draw.

    `share` is 1 / (questions x rows of the question): what a row counts in the mean over questions.
    """

    question: NDArray[np.object_]
    cheap: Floats
    scored: NDArray[np.bool_]
    gold: Floats
    share: Floats
    probability: Floats

    @cached_property
    def questions(self) -> frozenset[str]:
        """The questions."""
        return frozenset(self.question)


@dataclass(frozen=True, eq=False)
class _Gold:
    """The gold rows of one side of one or several comparisons, each [gold rows]; the scales sum up to 1."""

    question: NDArray[np.object_]
    cheap: Floats
    gold: Floats
    scale: Floats

    @classmethod
    def of(cls, sides: Sequence[_Side]) -> _Gold:
        """Collect them."""
        marks = [~np.isnan(side.gold) for side in sides]
        pairs = list(zip(sides, marks, strict=True))
        question = np.concatenate([side.question[mark] for side, mark in pairs])
        cheap = np.concatenate([side.cheap[mark] for side, mark in pairs])
        gold = np.concatenate([side.gold[mark] for side, mark in pairs])
        scale = np.concatenate([side.share[mark] / side.probability[mark] for side, mark in pairs])
        return cls(question, cheap, gold, scale / scale.sum() if len(scale) else scale)

    @cached_property
    def questions(self) -> frozenset[str]:
        """The questions."""
        return frozenset(self.question)


def _side(rows: pd.DataFrame, name: str, trained_on: Collection[str], like: pd.DataFrame) -> _Side:
    """Read one side's rows, of the questions that the other side has too.

    Raises:
        InputError: see `corrected_delta`.
    """
    lacking = [column for column in COLUMNS if column not in rows.columns or column not in like.columns]
    if lacking:
        raise InputError(f"the rows to correct lack the columns {', '.join(lacking)}; they need {', '.join(COLUMNS)}")
    question, others = (one["question"].astype(str).to_numpy(dtype=object) for one in (rows, like))
    kept = np.isin(question.astype(str), np.unique(others.astype(str)))
    cheap, gold, probability = (rows[column].to_numpy(dtype=np.float64)[kept] for column in COLUMNS[1:])
    question = question[kept]
    for column, values in (("score", cheap), ("gold score", gold)):
        if np.isinf(values).any():
            raise InputError(f"the {name} rows hold an infinite {column}; a missing one is NaN")
    drawn = probability[~np.isnan(gold)]
    bad = drawn[~((drawn > 0) & (drawn <= 1))]
    if len(bad):
        raise InputError(f"a gold row of the {name} side was drawn with probability {bad[0]}; it must be above 0 and up to 1")
    check_unseen(question[~np.isnan(gold)], trained_on)
    code, known = pd.factorize(question)
    sizes = np.bincount(code, minlength=len(known))
    scored = ~np.isnan(cheap)
    filled = np.where(scored, cheap, cheap[scored].mean() if scored.any() else 0.0)
    return _Side(question, filled, scored, gold, 1 / (sizes[code] * max(1, len(known))), probability)


def _estimate(
    sides: tuple[_Side, _Side], gold: tuple[_Gold, _Gold], level: float, weight: float | None, assumption: str
) -> Corrected:
    """Estimate a delta from its two sides and the gold rows that their rectifiers are learnt from."""
    questions, on_gold = len(sides[0].questions), min(len(one.questions) for one in gold)
    counts: dict[str, Any] = {
        "n_rows": sum(len(side.question) for side in sides),
        "n_questions": questions,
        "n_missing": int(sum((~side.scored).sum() for side in sides)),
        "n_gold_steered": len(gold[0].gold),
        "n_gold_baseline": len(gold[1].gold),
        "n_questions_gold": on_gold,
    }
    if questions < FEWEST_QUESTIONS:
        reason = f"{questions} questions on both sides; {FEWEST_QUESTIONS} needed"
        return Corrected(**counts, assumption=assumption, reason=reason)
    plain = _plain(sides, level)
    if on_gold < FEWEST_QUESTIONS:
        reason = f"gold rows on {on_gold} questions of one side; {FEWEST_QUESTIONS} needed"
        return Corrected(*plain, **counts, assumption=assumption, reason=reason)
    of_gold, of_cheap = _contributions(sides, gold)
    weights = _best_weights(of_gold, of_cheap) if weight is None else np.full(len(of_gold), weight)
    parts = of_gold + weights * of_cheap
    low, high = _interval(parts * len(parts), level, on_gold - 1)
    numbers = (*plain, float(parts.sum()), low, high, float(weights.mean()))
    return Corrected(*numbers, **counts, assumption=assumption)


def _plain(sides: tuple[_Side, _Side], level: float) -> tuple[float, float, float]:
    """Return the cheap judge's delta and its interval over the questions that it scored on both sides."""
    sums = []
    for side in sides:
        code, known = pd.factorize(side.question, sort=True)
        with np.errstate(invalid="ignore"):
            sums.append(np.bincount(code, side.cheap * side.scored, len(known)) / np.bincount(code, side.scored, len(known)))
    deltas = np.asarray(sums[0] - sums[1], dtype=np.float64)  # both sides have the same questions
    deltas = deltas[~np.isnan(deltas)]
    if len(deltas) < FEWEST_QUESTIONS:
        return float("nan"), float("nan"), float("nan")
    return float(deltas.mean()), *_interval(deltas, level, len(deltas) - 1)


def _contributions(sides: tuple[_Side, _Side], gold: tuple[_Gold, _Gold]) -> tuple[Floats, Floats]:
    """Return what each question adds to the delta of gold rows alone, and to the mean of f less that over gold rows.

    Both are [questions], and sum up to the two numbers. A gold mean is a ratio of weighted sums; a question's part in it is
    that of its linear approximation, so that the spread of the parts is the ratio's.
    """
    questions = sorted(sides[0].questions | gold[0].questions | gold[1].questions)
    place = {name: i for i, name in enumerate(questions)}

    def parts(question: NDArray[np.object_], share: Floats, values: Floats) -> Floats:
        """Return each question's part in a mean whose shares sum up to 1."""
        mean = float(share @ values)
        codes = np.array([place[name] for name in question], dtype=np.intp)
        return np.bincount(codes, share * (values - mean), len(questions)).astype(np.float64) + mean / len(questions)

    of_gold = [parts(one.question, one.scale, one.gold) for one in gold]
    cheap_on_gold = [parts(one.question, one.scale, one.cheap) for one in gold]
    cheap_on_all = [parts(side.question, side.share, side.cheap) for side in sides]
    of_cheap = [everywhere - there for everywhere, there in zip(cheap_on_all, cheap_on_gold, strict=True)]
    return of_gold[0] - of_gold[1], of_cheap[0] - of_cheap[1]


def _best_weights(of_gold: Floats, of_cheap: Floats) -> Floats:
    """Return the weight with the smallest variance, for every question from all others: [questions], 0 to 1."""
    x, y = of_gold - of_gold.mean(), of_cheap - of_cheap.mean()
    xy, yy = x * y, y * y
    rest = yy.sum() - yy
    best = np.divide(xy - xy.sum(), rest, out=np.ones_like(x), where=rest > 1e-12)
    weights: Floats = np.clip(best, 0.0, 1.0)
    return weights


def _interval(values: Floats, level: float, freedom: int) -> tuple[float, float]:
    """Return Student's t interval of a mean."""
    half = float(special.stdtrit(freedom, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half
