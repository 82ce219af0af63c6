"""Tests, intervals and corrections for differences measured once per question.

Knows arrays of differences (steered minus baseline, one number per question) and lists of p-values. Leaves to
`effects.py` how rows become differences and which p-values form a family, and to `emergence.py` what the results mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from traitline.errors import InputError

Floats = NDArray[np.float64]

TIE = 1e-12
"""Means closer than this are tied, so that rounding in a sum never decides a p-value."""
LARGEST_EXACT = 50
"""Most differences the exact sign-flip test takes: its half sums then fill 2^25 numbers."""
BATCH_NUMBERS = 4_000_000
"""Random signs drawn at a time by the Monte Carlo sign-flip test."""


@dataclass(frozen=True, slots=True)
class SignFlip:
    """Result of a sign-flip test.

    Attributes:
        p_two_sided: share of sign vectors whose mean is at least as far from zero as the observed one.
        p_greater: share of sign vectors whose mean is at least the observed one.
        n: number of differences, zeros included.
        method: how the shares were found, in words.
    """

    p_two_sided: float
    p_greater: float
    n: int
    method: str


@dataclass(frozen=True, slots=True)
class SignTest:
    """Result of a sign test; `n` counts the differences that are not zero."""

    p_two_sided: float
    p_greater: float
    n: int
    n_positive: int


@dataclass(frozen=True, slots=True)
class EffectSize:
    """Standardised mean difference: Cohen's dz, and Hedges' correction of it for few questions. NaN where undefined."""

    dz: float
    hedges: float


def _checked(differences: ArrayLike, what: str) -> Floats:
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1:
        raise InputError(f"{what} takes one number per question, not an array of shape {values.shape}; average first")
    if values.size == 0:
        raise InputError(f"{what} got no differences; no question was scored on both sides")
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise InputError(f"{what} got {values[bad]} at position {bad}; leave out questions with missing scores first")
    return values


def sign_flip(differences: ArrayLike, *, seed: int = 0, exact_up_to: int = 40, draws: int = 1_000_000) -> SignFlip:
    """Test whether the mean difference is zero by flipping the sign of every difference, zeros included.

    Up to `exact_up_to` differences, all 2^n sign vectors are counted: the sums of the two halves are sorted, and for
    each sum of one half a binary search counts the partners in the other (meet in the middle; 2^(n/2) numbers in
    memory). Beyond, `draws` seeded sign vectors are drawn and p is (count + 1) / (draws + 1).

    Args:
        differences: one number per question.
        seed: seed of the Monte Carlo draws.
        exact_up_to: largest number of differences tested exactly, at most 50.
        draws: number of Monte Carlo draws.

    Raises:
        InputError: no differences, a missing one, or `exact_up_to` or `draws` out of range.
    """
    values = _checked(differences, "the sign-flip test")
    if not 0 <= exact_up_to <= LARGEST_EXACT or draws < 1:
        raise InputError(f"exact_up_to must be 0 to {LARGEST_EXACT} and draws at least 1, not {exact_up_to} and {draws}")
    n = values.size
    slack = n * max(TIE, 32 * np.finfo(np.float64).eps * float(np.abs(values).max()))
    observed = float(values.sum())
    if n <= exact_up_to:
        total = 1 << n
        halves = _half_sums(values[::2]), _half_sums(values[1::2])
        greater = _count_exact(*halves, observed - slack)
        beyond = abs(observed) - slack
        both = total if beyond <= 0 else 2 * _count_exact(*halves, beyond)
        return SignFlip(both / total, greater / total, n, f"exact, all 2^{n} sign vectors")
    greater, both = _count_drawn(values, observed, slack, draws, seed)
    method = f"Monte Carlo, {draws:,} sign vectors drawn with seed {seed}"
    return SignFlip((both + 1) / (draws + 1), (greater + 1) / (draws + 1), n, method)


def _half_sums(values: Floats) -> Floats:
    """Return the sorted sums of `values` under every sign vector: [2^n]."""
    sums = np.zeros(1)
    for value in np.abs(values):
        sums = np.concatenate([sums - value, sums + value])
    sums.sort()
    return sums


def _count_exact(left: Floats, right: Floats, threshold: float) -> int:
    """Count the pairs of one sum of each half that together reach `threshold`."""
    below = np.searchsorted(left, threshold - right, side="left")
    return int(left.size * right.size - below.sum(dtype=np.int64))


def _count_drawn(values: Floats, observed: float, slack: float, draws: int, seed: int) -> tuple[int, int]:
    """Count drawn sign vectors whose sum reaches the observed one: (one-sided, two-sided)."""
    rng = np.random.default_rng(seed)
    batch = max(1, BATCH_NUMBERS // values.size)
    greater = both = 0
    for start in range(0, draws, batch):
        shape = (min(batch, draws - start), values.size)
        signs = rng.integers(0, 2, size=shape, dtype=np.int8).astype(np.float32)  # [draws, questions]
        sums = 2 * (signs @ values) - values.sum()
        greater += int((sums >= observed - slack).sum())
        both += int((np.abs(sums) >= abs(observed) - slack).sum())
    return greater, both


def sign_test(differences: ArrayLike) -> SignTest:
    """Test whether positive and negative differences are equally likely, by the exact binomial distribution.

    Differences within 1e-12 of zero are left out. The two-sided p is twice the upper tail of the larger side, at
    most 1.

    Raises:
        InputError: no differences, or a missing one.
    """
    values = _checked(differences, "the sign test")
    positive, negative = int((values > TIE).sum()), int((values < -TIE).sum())
    n = positive + negative

    def tail(k: int) -> float:  # P(X >= k), X ~ Binomial(n, 1/2)
        return 1.0 if k == 0 else float(special.bdtrc(k - 1, n, 0.5))

    return SignTest(min(1.0, 2 * tail(max(positive, negative))), tail(positive), n, positive)


@lru_cache(maxsize=32)
def _resampling_weights(n: int, draws: int, seed: int) -> Floats:
    """Return how often each question appears in each bootstrap draw, over n: [draws, n]."""
    counts = np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1 / n), size=draws)
    weights: Floats = counts / n
    weights.setflags(write=False)
    return weights


def bootstrap_interval(
    differences_per_question: ArrayLike,
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
    vector_deltas: ArrayLike | None = None,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean difference over questions.

    With `vector_deltas`, the mean differences reached by B vectors that were themselves extracted from resampled
    questions, each draw also adds one of them, chosen at random, minus their mean and times sqrt(B / (B - 1)). The
    interval then carries both uncertainties: which questions were asked in evaluation, and which the vector was made
    from. Fewer than two vector deltas say nothing of their spread and are ignored.

    One seed gives the same draws to every comparison with the same number of questions. A percentile interval over
    few questions is slightly narrow: by about sqrt((n - 1) / n).

    Args:
        differences_per_question: one number per question.
        level: coverage, between 0 and 1.
        draws: number of bootstrap draws.
        seed: seed of the draws.
        vector_deltas: one mean difference per bootstrap vector.

    Returns:
        Lower and upper bound; both NaN for a single question, whose spread is unknown.

    Raises:
        InputError: no differences, a missing one, or `level` or `draws` out of range.
    """
    values = _checked(differences_per_question, "the bootstrap interval")
    if not 0 < level < 1 or draws < 1:
        raise InputError(f"level must lie between 0 and 1 and draws be at least 1, not {level} and {draws}")
    if values.size < 2:
        return math.nan, math.nan
    means = _resampling_weights(values.size, draws, seed) @ values
    if vector_deltas is not None and np.size(vector_deltas) > 1:
        deltas = _checked(vector_deltas, "the bootstrap interval's vector_deltas")
        spread = (deltas - deltas.mean()) * math.sqrt(deltas.size / (deltas.size - 1))
        means = means + np.random.default_rng([seed, values.size, deltas.size]).choice(spread, size=draws)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def holm(p: ArrayLike) -> Floats:
    """Adjust p-values by Holm's step-down method (family-wise error). NaN stays NaN and does not count."""
    return _adjusted(p, lambda ordered: np.maximum.accumulate(ordered * np.arange(ordered.size, 0, -1)))


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Adjust p-values by Benjamini and Hochberg's method (false discovery rate). NaN stays NaN and does not count."""

    def step_up(ordered: Floats) -> Floats:
        scaled = ordered * ordered.size / np.arange(1, ordered.size + 1)
        return np.minimum.accumulate(scaled[::-1])[::-1]

    return _adjusted(p, step_up)


def bonferroni(p: ArrayLike, m: int | None = None) -> Floats:
    """Multiply p-values by the number of tests, at most 1. NaN stays NaN.

    Args:
        p: the p-values.
        m: number of tests; without it, the number of p-values that are not NaN.
    """
    return _adjusted(p, lambda ordered: ordered * (ordered.size if m is None else m))


def _adjusted(p: ArrayLike, adjust: Callable[[Floats], Floats]) -> Floats:
    """Apply `adjust` to the ascending p-values that are not NaN, and put the results back in place."""
    values = np.asarray(p, dtype=np.float64)
    known = ~np.isnan(values)
    if ((values[known] < 0) | (values[known] > 1)).any():
        raise InputError(f"p-values must lie between 0 and 1; got {values[known].min():g} to {values[known].max():g}")
    result = np.full(values.shape, np.nan)
    places = np.flatnonzero(known)
    places = places[np.argsort(values[places], kind="stable")]
    result[places] = np.clip(adjust(values[places]), values[places], 1.0)
    return result


def effect_size(differences: ArrayLike) -> EffectSize:
    """Return Cohen's dz (mean over standard deviation of the differences) and its Hedges correction.

    Both are NaN for a single question or differences without spread.

    Raises:
        InputError: no differences, or a missing one.
    """
    values = _checked(differences, "the effect size")
    if values.size < 2 or np.ptp(values) <= TIE:
        return EffectSize(math.nan, math.nan)
    dz = float(values.mean() / values.std(ddof=1))
    return EffectSize(dz, dz * (1 - 3 / (4 * (values.size - 1) - 1)))


def smallest_p(n_questions: int) -> float:
    """Return the smallest one-sided p that a sign-flip test over so many questions can give: 2^-n."""
    return 2.0**-n_questions


def minimum_detectable_effect(n_questions: int, sd: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the mean difference that a one-sided test finds with probability `power`, by the t approximation.

    Infinite where so few questions cannot reach `alpha` at all.

    Args:
        n_questions: number of questions.
        sd: standard deviation of the differences between questions, in points.
        alpha: one-sided level of the test, after any correction for multiplicity.
        power: probability of finding the effect.

    Raises:
        InputError: a negative `sd`, or `alpha` or `power` outside (0, 1).
    """
    if not (sd >= 0 and 0 < alpha < 1 and 0 < power < 1):
        raise InputError(f"sd must be >= 0, alpha and power between 0 and 1; got sd={sd}, alpha={alpha}, power={power}")
    if n_questions < 2 or smallest_p(n_questions) > alpha:
        return math.inf
    quantiles = special.stdtrit(n_questions - 1, np.array([1 - alpha, power]))
    return float(quantiles.sum() * sd / math.sqrt(n_questions))
