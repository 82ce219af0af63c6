"""Doses: from a vector, a layer and a coefficient to what is added."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import traitline as tl
from conftest import tiny_model
from traitline.errors import InputError
from traitline.models.capture import calibrate
from traitline.models.divergence import Divergence, Moved
from traitline.models.generate import Intervention
from traitline.models.prompts import encode
from traitline.vectors.calibration import calibration_texts
from traitline.vectors.dose import DOSES, Push, dose_function, match_kl, steer
from traitline.vectors.search import CLOSE, LARGEST
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


class Curve:
    """A network whose KL is a function of how far it is pushed along the first axis; counts what it was asked."""

    def __init__(self, kl: Callable[[float], float]) -> None:
        self.kl, self.calls, self.asked = kl, 0, 0

    def measure(self, steers: Sequence[Intervention]) -> list[Moved]:
        """Return a mean that is half of the 95th percentile."""
        self.calls, self.asked = self.calls + 1, self.asked + len(steers)
        values = [self.kl(float(steer.delta[0])) for steer in steers]
        return [Moved(value / 2, value, 100) for value in values]


def push(*nats: float, norm: float = 1.0) -> Push:
    return Push(np.array([0.2, 0], dtype=np.float32), 1, norm, nats)


SHAPES: dict[str, Callable[[float], float]] = {
    "square": lambda c: 3 * c**2,
    "fourth power": lambda c: 20 * c**4,
    "saturating": lambda c: 1.3 * (1 - np.exp(-(c**2))),
    "a step": lambda c: 1e-6 + 4 * (abs(c) > 0.31),
    "nothing, then all": lambda c: max(0.0, abs(c) - 0.7),
    "already strong": lambda c: 1e6 * c**2,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_coefficient_found_reaches_the_nats_and_a_little_less_does_not(shape: str) -> None:
    kl = SHAPES[shape]
    meter = Curve(kl)
    found = match_kl([push(0.2, 1.0)], meter)[0]
    for match in found:
        assert match.status == "complete"
        assert match.coef is not None
        assert match.moved.p95 == pytest.approx(kl(match.coef), rel=1e-5)
        assert match.moved.p95 >= match.nats
        assert match.moved.p95 <= CLOSE * match.nats or kl(match.coef * 0.989) < match.nats
    assert meter.asked <= 20


def test_a_network_that_the_smallest_push_moves_too_far_is_no_match() -> None:
    [[match]] = match_kl([push(0.1)], Curve(lambda _: 0.5))
    assert (match.coef, match.status, match.moved.p95) == (None, "unreachable", 0.5)


def test_a_dose_in_nats_does_not_depend_on_the_activation_norm() -> None:
    small, large = (match_kl([push(1.0, norm=norm)], Curve(lambda d: d**2))[0][0] for norm in (0.5, 50.0))
    assert small.coef is not None
    assert small.coef * 0.5 == pytest.approx(1.02, rel=0.03)
    assert large.coef is not None
    assert large.coef * 50 == pytest.approx(1.02, rel=0.03)


def test_of_several_coefficients_the_smallest_is_taken() -> None:
    humps = Curve(lambda c: 2 * np.sin(1.2 * c) ** 2)  # 1 nat at 0.65, 1.96, 3.27 ...
    [[match]] = match_kl([push(1.0)], humps)
    assert match.coef == pytest.approx(0.67, rel=0.03)


def test_what_cannot_be_reached_says_how_far_it_got() -> None:
    meter = Curve(lambda c: 0.9 * (1 - np.exp(-abs(c))))
    [[low, high]] = match_kl([push(0.1, 1.0)], meter)
    assert (low.status, high.status) == ("complete", "unreachable")
    assert high.coef is None
    assert high.moved.p95 == pytest.approx(0.9 * (1 - np.exp(-LARGEST)))
    assert meter.asked < 30


def test_a_plateau_just_below_the_nats_is_not_crept_along() -> None:
    meter = Curve(lambda c: min(10 * c**2, 0.999))
    [[match]] = match_kl([push(1.0)], meter)
    assert match.status == "unreachable"
    assert meter.asked < 20


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_network_that_overflows_reaches_nothing(broken: float) -> None:
    [[low, high]] = match_kl([push(0.1, 9.0)], Curve(lambda c: c**2 if abs(c) < 1 else broken))
    assert low.coef == pytest.approx(0.1**0.5, rel=0.05)
    assert (high.coef, high.status) == (None, "unreachable")
    assert np.isfinite(high.moved.p95)


def test_negative_nats_push_the_other_way_for_the_same_kl() -> None:
    lopsided = Curve(lambda c: c**2 if c > 0 else 4 * c**2)
    [[up, down]] = match_kl([push(1.0, -1.0)], lopsided)
    assert up.coef == pytest.approx(1.02, rel=0.03)
    assert down.coef == pytest.approx(-0.51, rel=0.03)
    assert 1 <= down.moved.p95 <= CLOSE


def test_many_directions_share_every_pass_and_a_hint_saves_some() -> None:
    together = Curve(lambda c: 5 * c**3 if c > 0 else 0.0)
    found = match_kl([push(1.0, norm=norm) for norm in np.linspace(1, 3, 40)], together)
    assert together.calls <= 12
    hinted = Curve(together.kl)
    again = match_kl([push(1.0, norm=norm) for norm in np.linspace(1.2, 3.6, 40)], hinted, like=found)
    assert hinted.asked < 0.7 * together.asked
    for a, b in zip(found, again, strict=True):
        assert a[0].coef is not None
        assert a[0].coef / 1.2 == pytest.approx(b[0].coef, rel=0.04)


def test_the_mean_may_be_what_reaches_the_nats() -> None:
    [[match]] = match_kl([push(1.0)], Curve(lambda c: c**2), "mean")
    assert match.moved.mean >= 1
    assert match.coef == pytest.approx(2**0.5, rel=0.05)


@pytest.mark.parametrize("nats", [0.0, 1e-5, float("nan"), float("inf")])
def test_nats_that_mean_nothing_are_refused(nats: float) -> None:
    with pytest.raises(InputError, match=r"a kl dose is 0\.001 nats or more"):
        match_kl([push(nats)], Curve(abs))
    with pytest.raises(InputError, match=r"finite|0\.001 nats or more"):
        steer(VECTOR, 1, nats, dose="kl")


def test_a_kl_steer_is_resolved_at_the_network_that_it_steers() -> None:
    model = tiny_model("llama")
    texts = [[1, *np.random.default_rng(i).integers(3, 64, size=30).tolist()] for i in range(6)]
    norms, meter = calibrate(model, texts).norms, Divergence(model, texts)
    vector = PersonaVector.from_array(np.random.default_rng(0).normal(size=(4, 32)))
    for nats in (0.05, 0.2, -0.2):
        found = steer(vector, 2, nats, dose="kl").resolve(norms, meter)
        assert abs(nats) <= meter.measure([found])[0].p95 <= 1.11 * abs(nats)
        assert np.sign(found.delta @ vector.at(2)) == np.sign(nats)
        np.testing.assert_allclose(steer(vector * 7, 2, nats, dose="kl").resolve(norms, meter).delta, found.delta, rtol=1e-4)
    with pytest.raises(InputError, match=r"at layer 2 no coefficient up to 8 .* by 50 nats \(95th percentile\); the most is"):
        steer(vector, 2, 50.0, dose="kl").resolve(norms, meter)
    with pytest.raises(InputError, match="give resolve its Divergence"):
        steer(vector, 2, 0.1, dose="kl").resolve(norms)
    with pytest.raises(InputError, match="measured at 'response' positions"):
        steer(vector, 2, 0.1, dose="kl", positions="all").resolve(norms, meter)


def test_generate_looks_for_a_kl_dose_at_the_model_it_is_given() -> None:
    vector = PersonaVector.from_array(np.random.default_rng(3).normal(size=(4, 32)))
    prompts = ["w5 w6", "w7 w8 w9", "w10"]
    texts = {}
    for seed in (0, 1):
        model = tiny_model("llama", seed=seed)
        neutral = [encode(model, text) for text in calibration_texts()]
        meter = Divergence(model, neutral)
        [[found]] = match_kl([Push(vector.at(2), 2, float(calibrate(model, neutral).norms[2]), (0.3,))], meter)
        assert found.coef is not None
        plain, same, texts[seed] = (
            tl.generate(model, prompts, steer=one, max_new_tokens=12)
            for one in (None, tl.steer(vector, 2, found.coef), tl.steer(vector, 2, 0.3, dose="kl"))
        )
        assert texts[seed] == same != plain
    mixed = tl.generate(model, prompts, steer=[None, tl.steer(vector, 2, 0.3, dose="kl"), None], max_new_tokens=12)
    assert mixed == [plain[0], texts[1][1], plain[2]]
