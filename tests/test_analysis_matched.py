"""Effects at equal coherence loss: read between two doses, never beyond them, with intervals over questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import ArrayLike

from traitline.analysis.effects import PLAN_COLUMNS, effect_table
from traitline.analysis.matched import COLUMNS, matched_table
from traitline.errors import InputError

WHO: dict[str, Any] = {"lineage": "l", "trait": "evil", "strategy": "character", "target": "step1"}
VECTOR = {"vector_checkpoint": "step1", "vector_trait": "evil", "vector_strategy": "character", "layer": 2, "dose": "norm"}
VECTOR |= {"positions": "response"}
NO_CONTROL: dict[str, Any] = {"control_seed": None, "control_kind": None}
NOTHING = pd.DataFrame(columns=["trait", "strategy", "target", "layer", "coef"])


def plan(coefs: Sequence[float], status: str = "complete", **changes: Any) -> pd.DataFrame:
    records = [
        {**WHO, **VECTOR, "tokens": 10, "coef": coef, "status": status, "n_pairs": 30, "fragile": False, **changes}
        for coef in coefs
    ]
    return pd.DataFrame(records).assign(condition="steered", **NO_CONTROL)


def rows(effects: dict[float, ArrayLike], losses: dict[float, ArrayLike], n: int = 12, **changes: Any) -> pd.DataFrame:
    """Return two baseline and two steered rows per question; effects and losses are per question, or one for all."""
    rng = np.random.default_rng(1)
    base, coherent = rng.uniform(20, 40, n), rng.uniform(70, 90, n)
    shared = {**WHO, "split": "evaluate", "refusal": False, "response": "a b c d", "finish": "eos", "judge": "j", **NO_CONTROL}
    records: list[dict[str, Any]] = []
    for q in range(n):
        for noise in (-3, 3):
            own = {**shared, "question_id": f"q{q}", **dict.fromkeys(VECTOR), "coef": None}
            records.append({**own, "condition": "baseline", "trait_score": base[q] + noise, "coherence": coherent[q] + noise})
            for coef, effect in effects.items():
                delta, lost = np.broadcast_to(effect, n)[q], np.broadcast_to(losses[coef], n)[q]
                scores = {"trait_score": base[q] + delta + noise, "coherence": coherent[q] - lost - noise}
                records.append({**own, **VECTOR, "condition": "steered", "coef": coef, **scores})
    return pd.DataFrame(records).assign(**changes)


def only(table: pd.DataFrame) -> dict[str, Any]:
    assert list(table.columns) == COLUMNS
    [record] = table.to_dict("records")
    return {str(name): value for name, value in record.items()}


def test_the_effect_is_read_on_the_line_between_two_doses() -> None:
    found = only(matched_table(plan([0.2, 0.4, 0.8]), rows({0.2: 10, 0.4: 30, 0.8: 60}, {0.2: 1, 0.4: 3, 0.8: 11}), NOTHING))
    assert (found["status"], found["side"], found["n_doses"], found["n_questions"]) == ("complete", "", 3, 12)
    assert (found["coef_below"], found["coef_above"]) == (0.4, 0.8)
    assert found["delta_trait"] == pytest.approx(30 + 30 * (5 - 3) / (11 - 3))
    assert found["coef"] == pytest.approx(0.4 + 0.4 / 4)
    assert (found["smallest_loss"], found["largest_loss"]) == (pytest.approx(1), pytest.approx(11))
    assert (found["ci_low"], found["ci_high"]) == (pytest.approx(found["delta_trait"]),) * 2
    assert found["reach"] == 1


def test_a_loss_that_a_dose_has_itself_is_that_dose() -> None:
    responses = rows({0.2: 10, 0.4: 30}, {0.2: 5, 0.4: 9})
    table = pd.concat([matched_table(plan([0.2, 0.4]), responses, NOTHING, loss=loss) for loss in (5.0, 9.0)])
    assert table["delta_trait"].tolist() == pytest.approx([10, 30])


@pytest.mark.parametrize(
    ("coefs", "lost", "side"),
    [
        ((0.2, 0.4), (1, 4.9), "too_weak"),
        ((0.2, 0.4), (5.1, 30), "too_strong"),
        ((0.2, 0.4), (-3, -8), "too_weak"),
        ((0.3,), (20,), "too_strong"),
        ((0.3,), (2,), "too_weak"),
    ],
)
def test_nothing_is_extrapolated(coefs: tuple[float, ...], lost: tuple[float, ...], side: str) -> None:
    responses = rows(dict.fromkeys(coefs, 10), dict(zip(coefs, lost, strict=True)))
    found = only(matched_table(plan(coefs), responses, NOTHING))
    assert (found["status"], found["side"]) == ("out_of_reach", side)
    assert pd.isna([found[name] for name in ("delta_trait", "ci_low", "ci_high", "coef", "reach")]).all()
    assert found["largest_loss"] == pytest.approx(max(lost))


def test_going_up_the_first_dose_that_loses_enough_counts() -> None:
    responses = rows({0.1: 0, 0.2: 10, 0.3: 90, 0.4: 50}, {0.1: 0, 0.2: 10, 0.3: 2, 0.4: 30})
    assert only(matched_table(plan([0.4, 0.2, 0.3, 0.1]), responses, NOTHING))["delta_trait"] == pytest.approx(5)


def test_intervals_are_over_questions_and_cover_the_truth() -> None:
    rng, hits, reaches = np.random.default_rng(0), 0, []
    for _ in range(25):
        n = 25
        effects = {0.2: rng.normal(10, 8, n), 0.4: rng.normal(30, 8, n)}
        losses = {0.2: rng.normal(0, 6, n), 0.4: rng.normal(10, 6, n)}
        found = only(matched_table(plan([0.2, 0.4]), rows(effects, losses, n), NOTHING))
        if found["status"] == "complete":
            hits += found["ci_low"] <= 20 <= found["ci_high"]
            reaches.append(found["reach"])
    assert len(reaches) == 25
    assert hits >= 20
    assert min(reaches) > 0.9


def test_draws_out_of_reach_are_counted_and_too_few_give_no_interval() -> None:
    wide = {0.2: np.linspace(-20, 20, 12), 0.4: np.linspace(-20, 20, 12) + 5.2}
    found = only(matched_table(plan([0.2, 0.4]), rows({0.2: 10, 0.4: 30}, wide), NOTHING))
    assert 0.2 < found["reach"] < 0.8
    assert pd.notna(found["delta_trait"])
    assert pd.isna(found["ci_low"]) == (found["reach"] < 0.5)


def test_the_fixed_coefficient_stands_beside_it_at_its_own_layer() -> None:
    responses = rows({0.2: 10, 0.4: np.linspace(20, 40, 12)}, {0.2: 1, 0.4: 11})
    both = pd.concat([responses, responses[responses["condition"] == "steered"].assign(layer=3)], ignore_index=True)
    planned = pd.concat([plan([0.2, 0.4]), plan([0.2, 0.4], layer=3)], ignore_index=True)
    fixed = pd.DataFrame([{"trait": "evil", "strategy": "character", "target": "step1", "layer": 2.0, "coef": 0.4}])
    table = matched_table(planned, both, fixed).set_index("layer")
    own = effect_table(planned[(planned["coef"] == 0.4) & (planned["layer"] == 2)], both).iloc[0]
    assert table.loc[2, "fixed_delta_trait"] == pytest.approx(own["delta_trait"])
    assert -table.loc[2, "fixed_coherence_loss"] == pytest.approx(own["delta_coherence"])
    assert table.loc[2, "fixed_ci_low"] == pytest.approx(own["ci_low"], abs=0.2)
    assert table.loc[2, "fixed_ci_high"] == pytest.approx(own["ci_high"], abs=0.2)
    assert table.loc[3, ["fixed_coef", "fixed_delta_trait", "fixed_coherence_loss"]].isna().all()
    assert table["delta_trait"].nunique() == 1


def test_every_planned_vector_has_a_row_and_what_was_not_measured_says_so() -> None:
    responses = rows({0.2: 10, 0.4: 30}, {0.2: 1, 0.4: 11})
    mixed = plan([0.2, 0.4, 0.8]).assign(status=["unreachable", "complete", "complete"])
    planned = pd.concat(
        [
            plan([-0.4]),
            plan([0.2, 0.4], "no_vector", vector_checkpoint="step0"),
            plan([0.2, 0.4], "unreachable", vector_checkpoint="step2"),
            plan([0.2, 0.4], vector_checkpoint="step3"),
            mixed.assign(vector_checkpoint="step4"),
            plan([0.2, 0.4]),
        ],
        ignore_index=True,
    )
    table = matched_table(planned, responses, NOTHING).set_index("vector_checkpoint")
    assert table["status"].to_dict() == {
        "step0": "no_vector",
        "step2": "unreachable",
        "step3": "not_measured",
        "step4": "not_measured",
        "step1": "complete",
    }
    assert table["delta_trait"].notna().tolist() == [False, False, False, False, True]


def test_doses_are_compared_on_questions_that_all_of_them_have() -> None:
    responses = rows({0.2: 10, 0.4: np.linspace(30, 85, 12)}, {0.2: 0, 0.4: 10})
    lost = (responses["question_id"] == "q11") & (responses["coef"] == 0.4)
    responses.loc[lost, "trait_score"] = np.nan
    found = only(matched_table(plan([0.2, 0.4]), responses, NOTHING))
    assert found["n_questions"] == 11
    assert found["delta_trait"] == pytest.approx((10 + np.linspace(30, 85, 12)[:11].mean()) / 2)
    other = rows({0.2: 10, 0.4: 30}, {0.2: 1, 0.4: 11}, split="tune")
    assert only(matched_table(plan([0.2, 0.4]), other, NOTHING))["status"] == "not_measured"


def test_a_single_question_has_no_interval_and_seeds_decide_draws() -> None:
    one = only(matched_table(plan([0.2, 0.4]), rows({0.2: 10, 0.4: 30}, {0.2: 1, 0.4: 11}, 1), NOTHING))
    assert one["delta_trait"] == pytest.approx(18)
    assert pd.isna([one["ci_low"], one["reach"]]).all()
    responses = rows({0.2: 10, 0.4: np.linspace(0, 60, 12)}, {0.2: 1, 0.4: 11})
    lows = [only(matched_table(plan([0.2, 0.4]), responses, NOTHING, seed=seed))["ci_low"] for seed in (1, 1, 2)]
    assert lows[0] == lows[1] != lows[2]


def test_a_loss_that_is_none_is_refused() -> None:
    for loss in (0.0, -5.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="loss above 0 points"):
            matched_table(plan([0.2]), rows({0.2: 1}, {0.2: 1}), NOTHING, loss=loss)
    assert set(PLAN_COLUMNS) <= set(plan([0.2]).columns)
