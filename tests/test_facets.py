"""Shares of labelled responses: Wilson's interval, and the one over questions."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from traitline.analysis.facets import COLUMNS, cluster_interval, share_table, wilson_interval
from traitline.errors import InputError


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(max_examples=60, deadline=None)
def test_wilson_interval_equals_scipy(case: tuple[int, int]) -> None:
    count, total = case
    z = float(stats.norm.ppf(0.975))
    expected = stats.binomtest(count, total).proportion_ci(0.95, method="wilson")
    assert wilson_interval(count, total, z) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_interval_by_hand() -> None:
    # 1 of 4 with z = 2: centre (.25 + .5) / 2 = .375, half 2 sqrt(.25 .75 / 4 + 4 / 64) / 2
    half = math.sqrt(0.25 * 0.75 / 4 + 4 / 64)
    assert wilson_interval(1, 4, 2.0) == pytest.approx((0.375 - half, 0.375 + half), abs=1e-15)
    assert wilson_interval(0, 5)[0] == 0.0
    assert wilson_interval(5, 5)[1] == 1.0


def test_no_response_has_no_interval() -> None:
    assert all(math.isnan(bound) for bound in wilson_interval(0, 0))
    with pytest.raises(InputError, match="3 of 2"):
        wilson_interval(3, 2)


@given(st.lists(st.tuples(st.integers(1, 12), st.floats(0, 1)), min_size=2, max_size=25))
@settings(max_examples=80, deadline=None)
def test_cluster_interval_is_never_narrower_and_holds_the_share(questions: list[tuple[int, float]]) -> None:
    asked = np.array([n for n, _ in questions])
    carrying = np.array([float(round(n * share)) for n, share in questions])
    low, high = cluster_interval(carrying, asked)
    plain = wilson_interval(carrying.sum(), asked.sum())
    assert 0 <= low <= high <= 1
    assert low <= carrying.sum() / asked.sum() <= high
    assert high - low >= plain[1] - plain[0] - 1e-12


def test_cluster_interval_of_questions_that_agree_within_is_that_of_so_many_questions() -> None:
    carrying, asked = np.repeat([6.0, 0.0], 10), np.full(20, 6)
    effective = 19.0 * (1.96 / stats.t.ppf(stats.norm.cdf(1.96), 19)) ** 2  # share (1 - share) / variance = n - 1
    assert cluster_interval(carrying, asked) == pytest.approx(wilson_interval(effective / 2, effective), abs=1e-12)


def test_cluster_interval_does_not_collapse_where_nobody_carries_the_label() -> None:
    low, high = cluster_interval(np.zeros(10), np.full(10, 5))
    assert low == 0
    assert high > wilson_interval(0, 50)[1]
    assert all(math.isnan(bound) for bound in cluster_interval(np.array([3.0]), np.array([5])))


def test_cluster_interval_covers_where_wilsons_does_not() -> None:
    rng = np.random.default_rng(1)
    covered = plain = 0
    for _ in range(400):
        asked = np.maximum(1, rng.poisson(15, 20))
        carrying = rng.binomial(asked, rng.beta(0.3 * 9, 0.7 * 9, 20)).astype(float)
        low, high = cluster_interval(carrying, asked)
        covered += low <= 0.3 <= high
        low, high = wilson_interval(carrying.sum(), asked.sum())
        plain += low <= 0.3 <= high
    assert covered / 400 > 0.92
    assert plain / 400 < 0.85


def test_share_table_leaves_missing_labels_out() -> None:
    labels = pd.DataFrame({"a": [1, 0, 1, np.nan], "b": [0, 0, 0, 0], "c": [np.nan] * 4})
    table = share_table(labels, pd.Series(["p", "p", "q", "r"])).set_index("facet")
    assert list(table.reset_index().columns) == COLUMNS
    counts = ["count", "total", "n_missing", "n_questions"]
    assert table.loc["a", counts].tolist() == [2, 3, 1, 2]
    assert table.loc["b", counts].tolist() == [0, 4, 0, 3]
    assert table.loc["c", counts].tolist() == [0, 0, 4, 0]
    assert table.loc["a", "share"] == 2 / 3
    assert table.loc["c", ["share", "wilson_low", "cluster_low"]].isna().all()


def test_share_table_refuses_other_values() -> None:
    with pytest.raises(InputError, match="'a'"):
        share_table(pd.DataFrame({"a": [0.5]}), pd.Series(["p"]))
    with pytest.raises(InputError, match="one question per row"):
        share_table(pd.DataFrame({"a": [1.0]}), pd.Series(["p", "q"]))
