"""Control directions: balanced flips, random draws, matched norms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traitline.vectors.controls import balanced_signs, covariance, isotropic, shuffled


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("lh,lh->l", a, b) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def _differences(pairs: int, hidden: int = 64, signal: float = 2.0, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(pairs, 3, hidden))
    return (noise + signal).astype(np.float32)


@settings(max_examples=200, deadline=None)
@given(question=st.lists(st.integers(-3, 12), min_size=1, max_size=60), seed=st.integers(0, 2**32))
def test_half_of_all_pairs_and_half_of_each_question_are_flipped(question: list[int], seed: int) -> None:
    codes = np.array(question)
    signs = balanced_signs(codes, seed)
    assert set(signs.tolist()) <= {1.0, -1.0}
    assert (signs < 0).sum() == len(codes) // 2
    for code in set(question):
        assert abs(signs[codes == code].sum()) <= 1


def test_which_pairs_are_flipped_depends_on_the_seed() -> None:
    question = np.repeat(np.arange(5), 4)
    draws = {tuple(balanced_signs(question, seed).tolist()) for seed in range(30)}
    assert len(draws) > 20
    np.testing.assert_array_equal(balanced_signs(question, 3), balanced_signs(question, 3))


def test_every_pair_is_flipped_as_often_as_not() -> None:
    question = np.array([0, 0, 0, 1, 1, 2])
    share = np.mean([balanced_signs(question, seed) < 0 for seed in range(2000)], axis=0)
    np.testing.assert_allclose(share, 0.5, atol=0.05)


def test_shuffled_keeps_less_of_the_real_vector_than_coin_flips() -> None:
    differences, question = _differences(40), np.repeat(np.arange(8), 5)
    vector = differences.mean(axis=0)
    balanced, coins = [], []
    for seed in range(60):
        control = shuffled(differences, question, seed)
        assert control is not None
        balanced.append(np.abs(_cosines(control, vector)).mean())
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=40)
        coins.append(np.abs(_cosines(np.einsum("p,plh->lh", signs, differences) / 40, vector)).mean())
    assert np.mean(balanced) < 0.15
    assert np.mean(coins) > 3 * np.mean(balanced)


def test_shuffled_removes_what_questions_share() -> None:
    question = np.repeat(np.arange(6), 4)
    per_question = np.random.default_rng(1).normal(size=(6, 3, 16))[question]
    noise = 0.01 * np.random.default_rng(2).normal(size=per_question.shape)
    control = shuffled((per_question + noise).astype(np.float32), question, seed=0)
    assert control is not None
    flipped = np.einsum("p,plh->lh", balanced_signs(question, 0), noise)
    np.testing.assert_allclose(_cosines(control, flipped), 1, atol=1e-3)


@pytest.mark.parametrize(("pairs", "defined"), [(0, False), (9, False), (10, True)])
def test_shuffled_is_undefined_under_ten_pairs(pairs: int, defined: bool) -> None:
    assert (shuffled(_differences(pairs), np.arange(pairs) % 3, seed=0) is not None) is defined


def test_every_control_has_the_vectors_norm_at_every_layer() -> None:
    differences = _differences(20) * np.array([1e-3, 1, 50], dtype=np.float32)[:, None]
    vector = differences.mean(axis=0)
    sample = np.random.default_rng(5).normal(size=(30, 3, 64)).astype(np.float32)
    controls = [isotropic(vector, 1), covariance(vector, sample, 1), shuffled(differences, np.arange(20) % 4, 1)]
    for control in controls:
        assert control is not None
        assert control.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(control, axis=1), np.linalg.norm(vector, axis=1), rtol=1e-5)


def test_a_zero_layer_has_zero_controls() -> None:
    vector = np.ones((2, 8), dtype=np.float32)
    vector[0] = 0
    control = isotropic(vector, 0)
    assert (control[0] == 0).all()
    assert np.isfinite(control).all()


def test_isotropic_directions_have_no_preference() -> None:
    vector = np.ones((1, 4), dtype=np.float32)
    draws = np.stack([isotropic(vector, seed)[0] for seed in range(4000)])
    np.testing.assert_allclose(draws.mean(axis=0), 0, atol=0.08)
    np.testing.assert_allclose(draws.T @ draws / len(draws), np.eye(4), atol=0.1)


def test_covariance_directions_follow_the_activations() -> None:
    rng = np.random.default_rng(0)
    scale = np.array([10.0, 3.0, 1.0, 0.1])
    offset = np.array([0.0, 0.0, 0.0, 500.0])  # a constant is no variance
    sample = (rng.normal(size=(400, 1, 4)) * scale + offset).astype(np.float32)
    draws = np.stack([covariance(np.ones((1, 4), dtype=np.float32), sample, seed)[0] for seed in range(600)])
    spread = (draws**2).mean(axis=0)
    assert (np.diff(spread) < 0).all()
    assert spread[0] > 3 * spread[1] > 9 * spread[3]
    assert spread[3] < 0.01


@pytest.mark.parametrize("name", ["isotropic", "covariance", "shuffled"])
def test_controls_depend_on_their_seed(name: str) -> None:
    differences = _differences(20)
    make = {
        "isotropic": lambda seed: isotropic(differences.mean(axis=0), seed),
        "covariance": lambda seed: covariance(differences.mean(axis=0), differences, seed),
        "shuffled": lambda seed: shuffled(differences, np.arange(20) % 4, seed),
    }[name]
    np.testing.assert_array_equal(make(1), make(1))
    assert not np.allclose(make(1), make(2))
