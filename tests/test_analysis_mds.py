"""Scaling: exact where the plane holds the distances, less stress than classical scaling elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traitline.analysis.mds import classical_scaling, metric_scaling
from traitline.errors import InputError


def distances(places: np.ndarray) -> np.ndarray:
    return np.linalg.norm(places[:, None] - places[None], axis=2)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(0, 1000))
def test_distances_on_a_plane_are_found_again(n: int, seed: int) -> None:
    square = distances(np.random.default_rng(seed).normal(size=(n, 2)))
    found = metric_scaling(square)
    assert found.stress < 1e-6
    np.testing.assert_allclose(distances(found.places), square, atol=1e-6)
    np.testing.assert_allclose(found.places.mean(axis=0), 0, atol=1e-9)
    assert (found.places[-1] >= -1e-9).all()


def test_majorisation_lowers_the_stress_of_classical_scaling() -> None:
    square = distances(np.random.default_rng(1).normal(size=(15, 6)))
    classical = distances(classical_scaling(square))
    before = np.sqrt(((square - classical) ** 2).sum() / (square**2).sum())
    found = metric_scaling(square)
    assert 0 < found.stress < before
    np.testing.assert_array_equal(found.places, metric_scaling(square).places)


def test_the_first_axis_is_the_longest() -> None:
    places = metric_scaling(distances(np.random.default_rng(2).normal(size=(9, 3)))).places
    assert places[:, 0].var() >= places[:, 1].var()


def test_points_at_one_place_and_a_single_point() -> None:
    assert metric_scaling(np.zeros((4, 4))).stress == 0
    assert metric_scaling(np.zeros((1, 1))).places.shape == (1, 2)


@pytest.mark.parametrize(
    ("square", "said"),
    [
        (np.zeros((2, 3)), "square"),
        (np.zeros((0, 0)), "square"),
        (np.array([[0, np.nan], [np.nan, 0]]), "missing"),
        (np.array([[0.0, 1.0], [2.0, 0.0]]), "symmetric"),
        (np.array([[0.0, -1.0], [-1.0, 0.0]]), "negative"),
        (np.eye(2), "diagonal"),
    ],
)
def test_what_is_no_square_of_dissimilarities_is_an_input_error(square: np.ndarray, said: str) -> None:
    with pytest.raises(InputError, match=said):
        metric_scaling(square)
