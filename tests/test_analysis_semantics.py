"""Top tokens, their drift, the standing of words, and what strategies share, on numbers that can be checked by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from traitline.analysis.semantics import (
    Standings,
    distinctive_words,
    lens_drift,
    rank_biased_overlap,
    rank_correlations,
    top_tokens,
)
from traitline.analysis.subspaces import Drawn, neutral_sides, principal_angles, shared_direction, span_angles, strategy_parts

RNG = np.random.default_rng(5)
KEPT = np.array([True, True, False, True, True])


def test_top_tokens_skip_garbage_and_count_it() -> None:
    found = list(top_tokens(np.array([1.0, 3.0, 9.0, 3.0, -2.0]), KEPT, 2))
    assert found == [("promoted", 1, 1, 1), ("promoted", 2, 3, 1), ("demoted", 1, 4, 0), ("demoted", 2, 0, 0)]
    assert list(top_tokens(np.zeros(5), KEPT, 9))[3] == ("promoted", 4, 4, 0), "as many as there are, ties by number"


def test_chance_is_what_the_rank_reaches_in_most_directions() -> None:
    scores = RNG.normal(size=(200, 5))
    highest, lowest = Standings(scores, KEPT).levels(2)
    firsts = np.sort(scores[:, KEPT], axis=1)
    assert highest[0] == pytest.approx(np.percentile(firsts[:, -1], 95))
    assert highest[1] == pytest.approx(np.percentile(firsts[:, -2], 95))
    assert lowest[0] == pytest.approx(np.percentile(firsts[:, 0], 5))


@pytest.mark.parametrize("digits", [0, 3], ids=["ties", "no ties"])
def test_standing_of_words_is_the_mann_whitney_statistic(digits: int) -> None:
    scores = RNG.normal(size=(3, 40)).round(digits)
    kept = np.arange(40) % 7 != 0
    table = Standings(scores, kept).words([1, 2, 3, 7], [4, 5])
    for row, values in zip(table.itertuples(), scores, strict=True):
        others = [i for i in np.flatnonzero(kept) if i not in {1, 2, 3}]
        u = stats.mannwhitneyu(values[[1, 2, 3]], values[others]).statistic
        assert row.auc == pytest.approx(u / (3 * len(others)))
        assert row.auc_opposite == pytest.approx(stats.mannwhitneyu(values[[1, 2, 3]], values[[4, 5]]).statistic / 6)
    assert (table["n_own"] == 3).all(), "a token that is not kept is no word"
    assert Standings(scores, kept).words([], [4]).isna().sum(axis=1).eq(3).all()


def test_rank_biased_overlap_of_equal_and_of_disjoint_rankings() -> None:
    assert rank_biased_overlap([1, 2, 3], [1, 2, 3]) == pytest.approx(1)
    assert rank_biased_overlap([1, 2, 3], [4, 5, 6]) == 0
    assert rank_biased_overlap([1, 2, 3, 4], [1, 3, 2, 9]) > rank_biased_overlap([4, 2, 3, 1], [1, 3, 2, 9])
    # by hand, p = .5: depths 1 and 2 share 0 and 1: .5 x .25 + (1 - .5) / .5 x (.5 x .25)
    assert rank_biased_overlap([1, 2], [2, 3], p=0.5) == pytest.approx(0.5 * 0.25 + 0.5 * 0.25)
    assert math.isnan(rank_biased_overlap([], []))


def drift_of(tokens: dict[str, list[int]], direction: str = "vector") -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"checkpoint": name, "tokens": i, "trait": "t", "strategy": "s", "layer": 1, "direction": direction}
            | {"side": "promoted", "rank": rank, "token_id": token}
            for i, (name, ids) in enumerate(tokens.items())
            for rank, token in enumerate(ids, start=1)
        ]
    )


def test_drift_compares_with_the_previous_and_the_last_vector() -> None:
    tops = drift_of({"a": [1, 2], "c": [2, 3], "d": [3, 2]})
    control = drift_of({"d": [3, 9]}, "shuffled_0")
    table = lens_drift(pd.concat([tops, control]), ["a", "b", "c", "d"], {"a": 20, "c": 20, "d": 20})
    own = table[table["direction"] == "vector"].set_index("checkpoint")
    assert own["overlap_last"].to_dict() == pytest.approx({"a": 0.5, "c": 1.0, "d": math.nan}, nan_ok=True)
    assert own["previous"].fillna("").to_dict() == {"a": "", "c": "a", "d": "c"}
    assert own["overlap_previous"].to_dict() == pytest.approx({"a": math.nan, "c": 0.5, "d": 1.0}, nan_ok=True)
    assert own.loc["c", "chance"] == pytest.approx(0.1)
    shuffled = table[table["direction"] == "shuffled_0"].iloc[0]
    assert shuffled["overlap_last"] == 0.5, "a control is compared with the vector itself"


def test_words_of_one_side_are_found_and_common_ones_are_not() -> None:
    positive, negative = ["The cruel man kicked the dog"] * 8, ["The kind man fed the dog"] * 8
    own, opposite = distinctive_words(positive, negative)
    assert (set(own), set(opposite)) == ({"cruel", "kicked"}, {"kind", "fed"})
    assert distinctive_words(positive, positive) == ([], [])
    assert distinctive_words(positive[:2], []) == ([], [])


def test_rank_correlations_leave_missing_scores_out() -> None:
    columns, scores = RNG.normal(size=(30, 3)), RNG.normal(size=30).round(1)
    columns[:, 2] = 7
    scores[[3, 9]] = math.nan
    known = np.isfinite(scores)
    expected = [stats.spearmanr(columns[known, i], scores[known]).statistic for i in (0, 1)]
    np.testing.assert_allclose(rank_correlations(columns, scores), [*expected, math.nan])
    assert np.isnan(rank_correlations(columns, np.full(30, 50.0))).all()


def test_shared_direction_of_parallel_and_of_orthogonal_vectors() -> None:
    vector = RNG.normal(size=6)
    direction, share = shared_direction([vector, 3 * vector])
    assert share == pytest.approx(1)
    np.testing.assert_allclose(direction, vector / np.linalg.norm(vector))
    assert shared_direction(list(np.eye(3)))[1] == pytest.approx(1 / 3)


def test_principal_angles_of_planes() -> None:
    turned = np.array([[1.0, 0, 0, 0], [0, math.cos(0.3), math.sin(0.3), 0]])
    np.testing.assert_allclose(principal_angles(np.eye(4)[:2], turned), [0, math.degrees(0.3)], atol=1e-6)


def noisy(base: np.ndarray, off: np.ndarray, noise: float) -> Drawn:
    """Return a vector with a part of its own, and bootstrap vectors and shuffled ones around it."""
    vector = np.stack([np.zeros(8), base + off])
    bootstrap = vector + noise * RNG.normal(size=(20, 2, 8)) / math.sqrt(8)
    return Drawn(vector, bootstrap, [RNG.normal(size=(2, 8)) for _ in range(4)])


def test_rests_beyond_noise_tell_strategies_apart() -> None:
    base = np.zeros(8)
    base[0] = 1
    vectors = {
        "a": noisy(base, np.eye(8)[1] * 0.5, 0.05),
        "b": noisy(base, np.eye(8)[2] * 0.5, 0.05),
        "c": noisy(base, 0 * base, 0.7),
    }
    table = strategy_parts(vectors, [0, 1], checkpoint="x", tokens=5, trait="t").set_index("strategy")
    assert set(table["layer"]) == {1}, "a layer without direction is left out"
    assert table.loc["a", "rest_share"] > 10 * table.loc["a", "noise_share"]
    assert table.loc["c", "rest_share"] < table.loc["c", "noise_share"]
    assert (
        table["shared_share"].iloc[0] > table["shared_shuffled"].iloc[0] > table["shared_least"].iloc[0] == pytest.approx(1 / 3)
    )
    assert strategy_parts({"a": vectors["a"]}, [1], checkpoint="x", tokens=5, trait="t").empty


def test_angles_between_strategies_stand_beside_those_of_noise_and_of_shuffled_vectors() -> None:
    one, two = np.eye(8)[0], np.eye(8)[1]
    vectors = {
        name: {"t": noisy(one, off, 0.05), "u": noisy(two, off, 0.05)}
        for name, off in (("a", 0 * one), ("b", np.eye(8)[3] * 0.5))
    }
    table = span_angles(vectors, [1], checkpoint="x", tokens=None).set_index("number")
    assert list(table.index) == [1, 2]
    assert table.loc[2, "angle_noise"] < table.loc[2, "angle"] < table.loc[2, "angle_shuffled"]


def test_the_side_that_carries_a_vector_is_found() -> None:
    whole = np.stack([np.zeros(8), np.eye(8)[0]])
    bootstrap = whole + 0.01 * RNG.normal(size=(30, 2, 8))
    sides = Drawn(0.9 * whole, 0.9 * bootstrap), Drawn(0.1 * whole, 0.1 * bootstrap)
    row = neutral_sides(*sides, [0, 1], {"checkpoint": "x", "tokens": 1, "trait": "t", "strategy": "s"}, 12, 9).iloc[0]
    assert row["positive_share"] == pytest.approx(0.9)
    assert row["share_low"] == pytest.approx(0.9) == row["share_high"]
    assert (row["norm_ratio"], row["cosine_sides"]) == (pytest.approx(9), pytest.approx(1))
