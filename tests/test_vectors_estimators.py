"""Which rows are accepted, how they pair, and what the estimators make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from traitline.errors import InputError
from traitline.vectors.estimators import (
    ESTIMATORS,
    Pairs,
    accepted,
    cell_balanced,
    difference_of_means,
    find_pairs,
    passing,
    question_bootstrap,
    split_half_cosine,
)


def _row(polarity: str, trait: float | None, coherence: float | None = 90, **changes: Any) -> dict[str, Any]:
    key = {"instruction_id": "i1", "question_id": "q1", "sample": 0}
    scores = {"polarity": polarity, "trait_score": trait, "coherence": coherence, "response_token_ids": [5, 6]}
    return {**key, **scores, **changes}


def _pair(**changes: Any) -> list[dict[str, Any]]:
    return [_row("pos", 80, **changes), _row("neg", 10, **changes)]


@pytest.mark.parametrize(
    ("polarity", "trait", "coherence", "passes"),
    [
        ("pos", 50.0, 50.0, True),
        ("pos", 49.99, 90.0, False),
        ("neg", 49.99, 50.0, True),
        ("neg", 50.0, 90.0, False),
        ("pos", 90.0, 49.99, False),
        ("neg", 0.0, 49.99, False),
        ("pos", None, 90.0, False),
        ("neg", None, 90.0, False),
        ("pos", 90.0, None, False),
        ("neg", 0.0, None, False),
        ("neutral", 0.0, 90.0, False),
        (None, 0.0, 90.0, False),
    ],
)
def test_the_thresholds_of_acceptance(polarity: str, trait: float | None, coherence: float | None, passes: bool) -> None:
    assert passing(pd.DataFrame([_row(polarity, trait, coherence)])).tolist() == [passes]


def test_an_empty_response_is_never_accepted() -> None:
    rows = pd.DataFrame(_pair())
    rows.at[1, "response_token_ids"] = []
    assert passing(rows).tolist() == [True, False]
    assert accepted(rows).tolist() == [False, False]


@pytest.mark.parametrize("side", [0, 1])
def test_one_failing_side_costs_both(side: int) -> None:
    rows = pd.DataFrame([*_pair(), *_pair(sample=1)])
    rows.loc[side, "coherence"] = np.nan
    assert accepted(rows).tolist() == [False, False, True, True]


@pytest.mark.parametrize("name", ["instruction_id", "question_id", "sample"])
def test_sides_pair_only_with_the_same_instruction_question_and_sample(name: str) -> None:
    rows = pd.DataFrame([_row("pos", 80), _row("neg", 10, **{name: 7 if name == "sample" else "other"})])
    assert len(find_pairs(rows)) == 0
    rows[name] = rows[name].iloc[0]
    assert len(find_pairs(rows)) == 1


def test_pairs_do_not_depend_on_the_order_or_index_of_the_rows() -> None:
    rows = pd.DataFrame([r for q in ("q2", "q1") for s in range(3) for r in _pair(question_id=q, sample=s)])
    rows["trait_score"] += np.arange(len(rows)) / 100  # so that a row can be told from the others
    shuffled = rows.sample(frac=1, random_state=3).set_index(np.array([4] * len(rows)))
    pairs, mixed = find_pairs(rows), find_pairs(shuffled)
    assert len(pairs) == 6
    assert (pairs.questions, pairs.question.tolist()) == (2, [0, 0, 0, 1, 1, 1])
    assert pairs.question.tolist() == mixed.question.tolist()
    for side in ("positive", "negative"):
        scores = [t["trait_score"].to_numpy()[getattr(p, side)].tolist() for t, p in ((rows, pairs), (shuffled, mixed))]
        assert scores[0] == scores[1]
    assert (rows["polarity"].to_numpy()[pairs.positive] == "pos").all()


def test_rows_that_are_there_twice_are_refused() -> None:
    rows = pd.DataFrame([_row("pos", 80), _row("pos", 90)])
    with pytest.raises(InputError, match="there twice"):
        accepted(rows)
    with pytest.raises(InputError, match="'question_id': 'q1'"):
        find_pairs(pd.DataFrame([*_pair(), *_pair()]))


def test_difference_of_means_by_hand() -> None:
    means = np.array([[[1, 2]], [[3, 10]], [[0, 1]], [[2, 0]], [[100, 100]]], dtype=np.float32)  # [rows, layers + 1, hidden]
    pairs = Pairs(np.array([0, 1]), np.array([3, 2]), np.array([0, 1]))
    np.testing.assert_array_equal(difference_of_means(means, pairs), [[2 - 1, 6 - 0.5]])


def _unbalanced() -> tuple[np.ndarray, pd.DataFrame]:
    """Three pairs of question q1, one of q2, a positive row of q2 without partner, and q3 with one side only."""
    rows = [r for s in range(3) for r in _pair(sample=s)] + _pair(question_id="q2")
    rows += [_row("pos", 90, question_id="q2", sample=1), _row("pos", 90, question_id="q3")]
    values = [4, 1, 4, 1, 4, 1, 10, 2, 20, 1000]
    return np.array(values, dtype=np.float32)[:, None, None], pd.DataFrame(rows)


def test_cell_balanced_by_hand_differs_from_pairs() -> None:
    means, rows = _unbalanced()
    assert ESTIMATORS["pairs"](means, rows).item() == pytest.approx((3 * 3 + 8) / 4)
    assert ESTIMATORS["balanced"](means, rows).item() == pytest.approx((3 + (15 - 2)) / 2)


def test_cells_are_instruction_by_question() -> None:
    rows = pd.DataFrame([*_pair(), *_pair(instruction_id="i2"), *_pair(instruction_id="i2", sample=1)])
    means = np.array([1, 0, 5, 0, 7, 0], dtype=np.float32)[:, None]
    assert cell_balanced(means, rows).item() == pytest.approx((1 + 6) / 2)


def test_the_estimators_agree_on_balanced_data() -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame([r for i in range(3) for q in range(4) for r in _pair(instruction_id=f"i{i}", question_id=f"q{q}")])
    means = rng.normal(size=(len(rows), 3, 5)).astype(np.float32)
    np.testing.assert_allclose(ESTIMATORS["pairs"](means, rows), ESTIMATORS["balanced"](means, rows), atol=1e-6)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
@pytest.mark.filterwarnings("error")
def test_without_accepted_rows_there_is_nan_and_never_zero(name: str) -> None:
    rows = pd.DataFrame([_row("pos", 10), _row("neg", 90)])
    vector = ESTIMATORS[name](np.ones((2, 3, 5), dtype=np.float32), rows)
    assert vector.shape == (3, 5)
    assert np.isnan(vector).all()


def _differences(pairs: int = 60, questions: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    question = np.arange(pairs) % questions
    shift = rng.normal(size=(questions, 2, 8))
    return (1 + 0.5 * shift[question] + rng.normal(size=(pairs, 2, 8))).astype(np.float32), question


def test_bootstrap_vectors_scatter_around_the_vector() -> None:
    differences, question = _differences()
    vectors = question_bootstrap(differences, question, 4000, seed=1)
    assert vectors.shape == (4000, 2, 8)
    by_question = np.stack([differences[question == q].mean(axis=0) for q in range(12)])
    error = by_question.std(axis=0) / np.sqrt(12)  # of a mean of 12 questions drawn with replacement
    np.testing.assert_allclose(vectors.std(axis=0), error, rtol=0.1)
    assert (np.abs(vectors.mean(axis=0) - differences.mean(axis=0)) < 5 * error / np.sqrt(4000)).all()


def test_bootstrap_draws_whole_questions() -> None:
    differences = np.array([0.0, 0.0, 0.0, 9.0], dtype=np.float32)[:, None, None]
    drawn = question_bootstrap(differences, np.array([3, 3, 3, 8]), 200, seed=0)
    assert set(np.round(drawn.ravel(), 4)) == {0.0, 9 / 4, 9.0}  # both questions, or one of them twice


def test_bootstrap_vectors_depend_on_the_seed_alone() -> None:
    differences, question = _differences()
    first, again, other = (question_bootstrap(differences, question, 5, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_split_halves_agree_on_a_signal_and_not_on_noise() -> None:
    rng = np.random.default_rng(0)
    question = np.repeat(np.arange(20), 3)
    noise = rng.normal(size=(60, 2, 50)).astype(np.float32)
    noise[:, 1] += 3  # layer 1 carries a direction
    cosines = split_half_cosine(noise, question, seed=0, splits=40)
    assert abs(cosines[0]) < 0.2
    assert cosines[1] > 0.95
    np.testing.assert_array_equal(cosines, split_half_cosine(noise, question, seed=0, splits=40))


def test_split_halves_never_share_a_question() -> None:
    question = np.repeat([0, 1], 8)
    differences = np.where(question == 0, 1.0, -1.0)[:, None, None] * np.ones((1, 1, 4))
    np.testing.assert_allclose(split_half_cosine(differences.astype(np.float32), question, seed=0), [-1], rtol=1e-6)


def test_split_halves_need_two_questions() -> None:
    assert np.isnan(split_half_cosine(np.ones((6, 3, 4), dtype=np.float32), np.zeros(6, dtype=int), seed=0)).all()
