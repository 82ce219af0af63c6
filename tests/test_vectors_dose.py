"""Doses: from a vector, a layer and a coefficient to what is added."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from traitline.errors import InputError
from traitline.vectors.dose import DOSES, dose_function, steer
from traitline.vectors.vector import LAST_AFTER_NORM, PersonaVector

VECTOR = PersonaVector.from_array([[9, 9], [3, 4], [0, 0], [0, 2]])
NORMS = np.array([1, 10, 20, 30], dtype=np.float32)


def test_norm_scales_the_unit_vector_by_the_targets_activations() -> None:
    intervention = steer(VECTOR, 1, 0.5).resolve(NORMS)
    np.testing.assert_allclose(intervention.delta, [0.5 * 10 * 0.6, 0.5 * 10 * 0.8], rtol=1e-6)
    assert (intervention.layer, intervention.positions) == (1, "response")
    assert intervention.delta.dtype == np.float32


def test_raw_multiplies_the_vector_and_ignores_the_target() -> None:
    for norms in (NORMS, NORMS * 7):
        np.testing.assert_allclose(steer(VECTOR, 1, -2, dose="raw").resolve(norms).delta, [-6, -8])


def test_a_norm_dose_does_not_depend_on_the_vectors_length() -> None:
    short, long = (steer(VECTOR * factor, 3, 0.7).resolve(NORMS).delta for factor in (1e-4, 1e4))
    np.testing.assert_allclose(short, long, rtol=1e-5)


@pytest.mark.parametrize("dose", sorted(DOSES))
def test_coefficients_are_signed_and_zero_is_nothing(dose: str) -> None:
    up, down, nothing = (steer(VECTOR, 1, c, dose=dose).resolve(NORMS).delta for c in (0.3, -0.3, 0.0))
    np.testing.assert_array_equal(up, -down)
    assert np.abs(up).min() > 0
    assert (nothing == 0).all()


def test_a_zero_layer_has_no_direction() -> None:
    with pytest.raises(InputError, match="no direction"):
        steer(VECTOR, 2, 1.0).resolve(NORMS)


def test_a_target_of_another_depth_is_refused() -> None:
    with pytest.raises(InputError, match="the vector has 3 layers, the target 4"):
        steer(VECTOR, 1, 1.0).resolve(np.ones(5, dtype=np.float32))


def test_positions_are_passed_on() -> None:
    for positions in ("response", "prompt", "all"):
        assert steer(VECTOR, 1, 1.0, positions=positions).resolve(NORMS).positions == positions  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": 0}, "layers 1 to 3"),
        ({"layer": 4}, "layers 1 to 3"),
        ({"dose": "nrom"}, "no dose is called 'nrom'; nearest: norm"),
        ({"positions": "answer"}, "not 'answer'"),
        ({"coef": float("nan")}, "finite"),
        ({"coef": float("inf")}, "finite"),
    ],
)
def test_a_steer_that_cannot_be_applied_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        steer(VECTOR, **({"layer": 1, "coef": 1.0} | changes))


def test_a_last_layer_read_after_the_norm_is_refused_unless_asked_for() -> None:
    foreign = PersonaVector.from_array(VECTOR.array, layer_convention=LAST_AFTER_NORM)
    with pytest.raises(InputError, match="after the final norm"):
        steer(foreign, 3, 1.0)
    assert steer(foreign, 3, 1.0, allow_after_norm=True).layer == 3
    assert steer(foreign, 1, 1.0).layer == 1
    assert steer(VECTOR, 3, 1.0).layer == 3


def test_doses_are_found_by_name() -> None:
    assert dose_function("raw") is DOSES["raw"]
