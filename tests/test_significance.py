"""Sign-flip and sign tests, bootstrap intervals, corrections for multiplicity."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from traitline.analysis import significance as sig
from traitline.errors import InputError

coarse = st.integers(-6, 6).map(lambda k: k / 3)
fine = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3))


def brute_force(differences: list[float]) -> tuple[float, float]:
    d = np.array(differences)
    means = np.array([np.mean(d * signs) for signs in itertools.product([1.0, -1.0], repeat=len(d))])
    observed = d.mean()
    return float((np.abs(means) >= abs(observed) - 1e-12).mean()), float((means >= observed - 1e-12).mean())


@given(st.lists(coarse, min_size=1, max_size=10) | st.lists(fine, min_size=1, max_size=9))
@settings(max_examples=80, deadline=None)
def test_sign_flip_equals_brute_force_with_zeros_and_ties(differences: list[float]) -> None:
    result = sig.sign_flip(differences)
    assert (result.p_two_sided, result.p_greater) == brute_force(differences)
    assert result.n == len(differences)


def test_sign_flip_of_equal_differences_has_known_p() -> None:
    result = sig.sign_flip([5.0] * 20)
    assert result.p_greater == 2.0**-20 == sig.smallest_p(20)
    assert result.p_two_sided == 2.0**-19
    assert "exact" in result.method


def test_sign_flip_of_forty_equal_differences_is_exact_and_quick() -> None:
    start = time.perf_counter()
    result = sig.sign_flip([0.1] * 40)
    assert result.p_greater == 2.0**-40
    assert time.perf_counter() - start < 10


def test_sign_flip_counts_zeros_and_all_zero_gives_one() -> None:
    assert sig.sign_flip([0.0] * 7).p_two_sided == 1
    assert sig.sign_flip([1.0, 2.0, 0.0]).p_greater == sig.sign_flip([1.0, 2.0]).p_greater == 0.25


def test_sign_flip_mirrors_when_differences_change_sign() -> None:
    d = np.array([3.0, -1.0, 4.0, 1.5, -0.5])
    up, down = sig.sign_flip(d), sig.sign_flip(-d)
    assert up.p_two_sided == down.p_two_sided
    assert up.p_greater < 0.5 < down.p_greater


def test_monte_carlo_is_stated_seeded_and_near_exact() -> None:
    d = np.random.default_rng(1).normal(0.3, 1, 24)
    exact = sig.sign_flip(d)
    drawn = sig.sign_flip(d, exact_up_to=10, draws=200_000, seed=3)
    assert "Monte Carlo" in drawn.method
    assert "200,000" in drawn.method
    assert drawn == sig.sign_flip(d, exact_up_to=10, draws=200_000, seed=3)
    for a, b in [(exact.p_greater, drawn.p_greater), (exact.p_two_sided, drawn.p_two_sided)]:
        assert abs(a - b) < 5 * math.sqrt(a * (1 - a) / 200_000)


def test_monte_carlo_never_gives_zero_and_keeps_ties() -> None:
    assert sig.sign_flip([1.0] * 60, draws=1_000).p_greater == 1 / 1_001
    assert sig.sign_flip([0.0] * 60, draws=1_000).p_two_sided == 1
    thirds = sig.sign_flip([1 / 3, -1 / 3] * 30, draws=2_000)
    assert thirds.p_two_sided == 1
    assert thirds.p_greater == pytest.approx(0.5 + stats.binom.pmf(30, 60, 0.5) / 2, abs=0.05)


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [math.inf], [[1.0, 2.0]]])
def test_unusable_differences_are_refused(bad: list[float]) -> None:
    for test in (sig.sign_flip, sig.sign_test, sig.bootstrap_interval, sig.effect_size):
        with pytest.raises(InputError):
            test(bad)


def test_sign_flip_p_is_uniform_under_the_null() -> None:
    rng = np.random.default_rng(0)
    p = [sig.sign_flip(rng.normal(0, 1, 14)).p_greater for _ in range(1_500)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_sign_test_matches_the_binomial() -> None:
    result = sig.sign_test([1, 2, 3, 4, 5, 6, -1, -2, 0, 1e-13])
    assert (result.n, result.n_positive) == (8, 6)
    assert result.p_greater == pytest.approx(stats.binomtest(6, 8, alternative="greater").pvalue)
    assert result.p_two_sided == pytest.approx(stats.binomtest(6, 8).pvalue)
    assert sig.sign_test([1, -1]).p_two_sided == 1
    assert sig.sign_test([0.0, 0.0]).p_greater == 1


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(600):
        low, high = sig.bootstrap_interval(rng.normal(2, 3, 40), draws=1_000, seed=1)
        hits += low <= 2 <= high
    assert 0.91 < hits / 600 < 0.98


def test_bootstrap_interval_with_vectors_covers_when_the_vector_varies() -> None:
    rng = np.random.default_rng(6)
    alone = both = 0
    for _ in range(400):
        questions = rng.normal(0, 1, 40) + rng.normal(0, 0.5)
        vectors = rng.normal(0, 0.5, 20)
        low, high = sig.bootstrap_interval(questions, draws=1_000, seed=1)
        alone += low <= 0 <= high
        low, high = sig.bootstrap_interval(questions, draws=1_000, seed=1, vector_deltas=vectors)
        both += low <= 0 <= high
    assert alone / 400 < 0.7
    assert 0.90 < both / 400 < 0.99


def test_vector_deltas_are_centred_and_one_alone_is_ignored() -> None:
    d = np.random.default_rng(0).normal(10, 2, 20)
    plain = sig.bootstrap_interval(d, seed=2)
    assert sig.bootstrap_interval(d, seed=2, vector_deltas=[99.0]) == plain
    assert sig.bootstrap_interval(d, seed=2, vector_deltas=[99.0, 99.0]) == pytest.approx(plain)
    low, high = sig.bootstrap_interval(d, seed=2, vector_deltas=[90.0, 110.0])
    assert low < plain[0] - 5
    assert high > plain[1] + 5


def test_interval_of_one_question_is_unknown() -> None:
    assert all(math.isnan(bound) for bound in sig.bootstrap_interval([3.0]))


def test_corrections_match_known_values() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    assert sig.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert sig.benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))
    assert sig.benjamini_hochberg(p) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert sig.bonferroni(p) == pytest.approx([0.04, 0.16, 0.12, 0.02])
    assert sig.bonferroni(p, m=30) == pytest.approx([0.3, 1, 0.9, 0.15])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_missing_p_stays_missing_and_does_not_count(p: list[float], at: int) -> None:
    for adjust in (sig.holm, sig.benjamini_hochberg, sig.bonferroni):
        plain = adjust(p)
        assert (plain >= np.array(p)).all()
        with_gap = adjust(np.insert(np.array(p), min(at, len(p)), math.nan))
        assert np.isnan(with_gap[min(at, len(p))])
        assert with_gap[~np.isnan(with_gap)] == pytest.approx(plain)


def test_impossible_p_is_refused() -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        sig.holm([0.2, 1.5])


def test_effect_size_is_mean_over_spread() -> None:
    result = sig.effect_size([1.0, 2.0, 3.0])
    assert result.dz == pytest.approx(2.0)
    assert result.hedges == pytest.approx(2.0 * (1 - 3 / 7))
    assert math.isnan(sig.effect_size([2.0, 2.0]).dz)
    assert math.isnan(sig.effect_size([2.0]).hedges)


def test_minimum_detectable_effect_is_found_with_the_stated_power() -> None:
    n, sd = 20, 10.0
    effect = sig.minimum_detectable_effect(n, sd)
    rng = np.random.default_rng(2)
    found = np.mean([sig.sign_flip(rng.normal(effect, sd, n)).p_greater < 0.05 for _ in range(1_000)])
    assert 0.75 < found < 0.86
    assert sig.minimum_detectable_effect(4, sd) == math.inf
    assert sig.minimum_detectable_effect(80, sd) < effect
