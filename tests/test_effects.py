"""From response rows to effect tables, and the conditions of steerability."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest

from traitline.analysis import effects
from traitline.analysis.significance import bootstrap_interval, holm, sign_flip
from traitline.errors import InputError

IDENTITY = {"lineage": "nano", "trait": "evil", "strategy": "character", "target": "main"}
VECTOR = {
    "vector_checkpoint": "step8",
    "vector_trait": "evil",
    "vector_strategy": "character",
    "layer": 2,
    "dose": "norm",
    "coef": 0.5,
    "positions": "response",
}


def response(question: str, score: float, condition: str = "baseline", **other: Any) -> dict[str, Any]:
    blank = dict.fromkeys(VECTOR) if condition == "baseline" else VECTOR
    row = {
        **IDENTITY,
        **blank,
        "condition": condition,
        "control_seed": None,
        "control_kind": None,
        "split": "evaluate",
        "question_id": question,
        "trait_score": score,
        "coherence": 80.0,
        "refusal": False,
        "response": "a b c d e",
        "finish": "eos",
        "judge": "nano",
    }
    return {**row, **other}


def comparison(**other: Any) -> dict[str, Any]:
    plan = {**IDENTITY, **{k: v for k, v in VECTOR.items() if k not in ("vector_trait", "vector_strategy")}}
    plan |= {"tokens": 8, "status": "complete", "n_pairs": 40, "fragile": False}
    return {**plan, "condition": "steered", "control_seed": None, "control_kind": None, **other}


def table_of(planned: list[dict[str, Any]], rows: list[dict[str, Any]], **options: Any) -> pd.DataFrame:
    return effects.effect_table(pd.DataFrame(planned), pd.DataFrame(rows), **options)


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    names = [f"q{i}" for i in range(8)]
    base = [response(q, 20 + rng.normal(0, 5)) for q in names for _ in range(4)]
    return base + [response(q, 50 + rng.normal(0, 5), "steered") for q in names for _ in range(2)]


def test_statistics_are_those_of_the_question_means(rows: list[dict[str, Any]]) -> None:
    row = table_of([comparison()], rows, seed=3).iloc[0]
    means = pd.DataFrame(rows).groupby(["condition", "question_id"])["trait_score"].mean()
    deltas = (means["steered"] - means["baseline"]).to_numpy()
    assert row["delta_trait"] == pytest.approx(deltas.mean())
    assert row["steered_trait"] - row["baseline_trait"] == pytest.approx(row["delta_trait"])
    test = sign_flip(deltas)
    assert (row["p_greater"], row["p_two_sided"]) == (test.p_greater, test.p_two_sided) == (2**-8, 2**-7)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(bootstrap_interval(deltas, seed=3))
    assert row[["n_questions", "n_rows_baseline", "n_rows_steered", "n_missing"]].tolist() == [8, 32, 16, 0]
    assert row["judge"] == "nano"


def test_columns_are_the_contract_and_the_additions_at_the_end(rows: list[dict[str, Any]]) -> None:
    contract = (
        "lineage trait strategy vector_checkpoint tokens target layer dose coef positions status n_pairs fragile "
        "n_questions n_rows_baseline n_rows_steered n_missing baseline_trait steered_trait delta_trait ci_low ci_high "
        "p_two_sided p_greater p_adjusted steerable baseline_coherence steered_coherence delta_coherence refusal_rate "
        "judge effect_size ceiling_share repetition distinct_2 length_cut condition control_seed control_kind"
    )
    assert list(table_of([comparison()], rows).columns) == contract.split()
    assert list(table_of([comparison(status="no_vector")], rows).columns) == contract.split()


def test_questions_weigh_the_same_whatever_their_number_of_rows() -> None:
    rows = [response("a", 0), response("b", 0), response("b", 100)]
    rows += [response("a", 10, "steered"), *[response("b", 70, "steered")] * 5]
    row = table_of([comparison()], rows).iloc[0]
    assert (row["baseline_trait"], row["steered_trait"], row["delta_trait"]) == (25, 40, 15)


def test_missing_scores_are_left_out_counted_and_never_zero() -> None:
    rows = [response("a", 10), response("a", math.nan), response("b", 30), response("c", 30)]
    rows += [response("a", 20, "steered"), response("b", math.nan, "steered"), response("c", 50, "steered")]
    row = table_of([comparison()], rows).iloc[0]
    assert row["n_questions"] == 2
    assert row["n_missing"] == 2
    assert row["n_rows_steered"] == 3
    assert (row["baseline_trait"], row["steered_trait"]) == (20, 35)
    assert row["baseline_coherence"] == 80


def test_only_questions_on_both_sides_are_compared() -> None:
    rows = [response("a", 10), response("only-baseline", 90), response("a", 30, "steered")]
    rows.append(response("only-steered", 99, "steered"))
    row = table_of([comparison()], rows).iloc[0]
    assert (row["n_questions"], row["delta_trait"]) == (1, 20)
    assert math.isnan(row["ci_low"])


@pytest.mark.parametrize(
    "other",
    [
        {"target": "sft"},
        {"vector_checkpoint": "step4"},
        {"vector_trait": "humorous"},
        {"vector_strategy": "story"},
        {"layer": 3},
        {"dose": "raw"},
        {"coef": -0.5},
        {"positions": "all"},
        {"split": "tune"},
        {"lineage": "other"},
        {"condition": "random", "control_seed": 0},
    ],
)
def test_rows_of_another_identity_never_enter(rows: list[dict[str, Any]], other: dict[str, Any]) -> None:
    plain = table_of([comparison()], rows)
    stray = [response(f"q{i}", 1000, "steered") | other for i in range(8)]
    pd.testing.assert_frame_equal(table_of([comparison()], rows + stray), plain)


def test_controls_are_told_apart_by_seed_and_kind(rows: list[dict[str, Any]]) -> None:
    seeds = {(0, "isotropic"): 21, (1, "isotropic"): 22, (0, "covariance"): 23}
    for (seed, kind), score in seeds.items():
        rows += [response(f"q{i}", score, "random", control_seed=seed, control_kind=kind) for i in range(8)]
    planned = [comparison(condition="random", control_seed=s, control_kind=k) for s, k in seeds]
    table = table_of(planned, rows)
    assert table["steered_trait"].tolist() == [21, 22, 23]
    assert table["control_kind"].tolist() == ["isotropic", "isotropic", "covariance"]


@pytest.mark.parametrize("status", ["no_vector", "failed"])
def test_rows_without_a_vector_are_kept_with_empty_statistics(rows: list[dict[str, Any]], status: str) -> None:
    table = table_of([comparison(), comparison(status=status, n_pairs=0)], rows)
    empty = table.iloc[1]
    kept = {*effects.PLAN_COLUMNS, "condition"}
    assert empty.drop(list(kept)).isna().all()
    assert empty["n_pairs"] == 0
    assert table["p_adjusted"].iloc[0] == table["p_greater"].iloc[0]


def test_a_complete_row_without_scored_questions_has_counts_only() -> None:
    row = table_of([comparison()], [response("a", 1), response("a", math.nan, "steered")]).iloc[0]
    assert (row["n_questions"], row["n_missing"], row["n_rows_steered"]) == (0, 1, 1)
    assert math.isnan(row["delta_trait"])
    assert math.isnan(row["p_adjusted"])


def test_bootstrap_vectors_widen_the_steered_interval_only(rows: list[dict[str, Any]]) -> None:
    for seed, shift in enumerate([30, 50, 70, 90]):
        rows += [response(f"q{i}", shift, "bootstrap", control_seed=seed) for i in range(8)]
    rows += [response(f"q{i}", 22 + i, "random", control_seed=0, control_kind="isotropic") for i in range(8)]
    control = comparison(condition="random", control_seed=0, control_kind="isotropic")
    with_vectors = table_of([comparison(), control], rows)
    without = table_of([comparison(), control], [r for r in rows if r["condition"] != "bootstrap"])
    width = (with_vectors["ci_high"] - with_vectors["ci_low"]) - (without["ci_high"] - without["ci_low"])
    assert width[0] > 30
    assert width[1] == 0
    assert with_vectors["delta_trait"].equals(without["delta_trait"])


def test_types_of_key_columns_do_not_matter(rows: list[dict[str, Any]]) -> None:
    frame = pd.DataFrame(rows)
    plain = effects.effect_table(pd.DataFrame([comparison()]), frame)
    typed = frame.astype({"layer": "Int64", "control_seed": "Int64", "target": "category", "coef": "float32"})
    planned = pd.DataFrame([comparison(control_seed=pd.NA)]).astype({"layer": "float64", "trait": "string"})
    again = effects.effect_table(planned, typed)
    assert again["delta_trait"].tolist() == plain["delta_trait"].tolist()


def test_holm_runs_within_trait_strategy_family_and_leaves_controls_apart(rows: list[dict[str, Any]]) -> None:
    for target, lift in [("sft", 1), ("dpo", -2), ("main", 0)]:
        shifted = [r | {"target": target, "trait_score": r["trait_score"] + lift} for r in rows[:48]]
        rows = [*rows, *shifted] if target != "main" else rows
    rng = np.random.default_rng(4)
    rows = [r | {"trait_score": r["trait_score"] + rng.normal(0, 30)} for r in rows]
    rows += [response(f"q{i}", 30, "random", control_seed=0, control_kind="isotropic") for i in range(8)]
    targets = ["main", "sft", "dpo"]
    planned = [comparison(target=t) for t in targets]
    planned.append(comparison(condition="random", control_seed=0, control_kind="isotropic"))
    one = table_of(planned, rows)
    assert one["p_adjusted"][:3].tolist() == pytest.approx(holm(one["p_greater"][:3]).tolist())
    assert one["p_adjusted"][3] == one["p_greater"][3]
    apart = table_of(planned, rows, families=pd.Series(["line", "after", "after", "line"]))
    assert apart["p_adjusted"][0] == one["p_greater"][0]
    assert apart["p_adjusted"][1:3].tolist() == pytest.approx(holm(one["p_greater"][1:3]).tolist())


def test_planned_order_and_index_are_kept(rows: list[dict[str, Any]]) -> None:
    planned = pd.DataFrame([comparison(coef=9.0), comparison()], index=[7, 3])
    table = effects.effect_table(planned, pd.DataFrame(rows))
    assert table.index.tolist() == [7, 3]
    assert table["delta_trait"].isna().tolist() == [True, False]


def test_the_other_rubric_is_compared_with_its_own_baseline(rows: list[dict[str, Any]]) -> None:
    rows += [response("q0", 7, trait="humorous"), response("q0", 9, "steered", trait="humorous")]
    other = comparison(trait="humorous", vector_trait="evil", vector_strategy="character")
    assert table_of([other], rows)["delta_trait"].tolist() == [2]


def test_degeneration_refusal_and_length_describe_the_steered_rows(rows: list[dict[str, Any]]) -> None:
    steered = [i for i, r in enumerate(rows) if r["condition"] == "steered"]
    for i in steered[:4]:
        rows[i] |= {"response": "no no no no no no", "finish": "length", "refusal": True}
    row = table_of([comparison()], rows).iloc[0]
    assert (row["length_cut"], row["refusal_rate"]) == (0.25, 0.25)
    assert row["repetition"] == pytest.approx(0.25 * 2 / 3)
    assert row["distinct_2"] == pytest.approx(0.75 + 0.25 / 5)


def test_degeneration_of_short_texts_is_unknown() -> None:
    assert effects.degeneration("Go on and on") == (0.0, 1.0)
    assert all(math.isnan(value) for value in effects.degeneration("Go"))


def test_a_missing_column_is_named() -> None:
    with pytest.raises(InputError, match="question_id"):
        effects.effect_table(pd.DataFrame([comparison()]), pd.DataFrame([response("a", 1)]).drop(columns="question_id"))


def test_an_empty_plan_gives_an_empty_table(rows: list[dict[str, Any]]) -> None:
    table = effects.effect_table(pd.DataFrame([comparison()]).iloc[:0], pd.DataFrame(rows))
    assert table.empty
    assert list(table.columns) == effects.TABLE_COLUMNS


def test_two_thousand_comparisons_take_seconds() -> None:
    rng = np.random.default_rng(0)
    planned = [comparison(vector_checkpoint=f"s{s}", layer=layer) for s, layer in itertools.product(range(200), range(10))]
    base = [response(f"q{q}", 0) for q in range(20)]
    frame = pd.concat([pd.DataFrame(base), pd.DataFrame([response("q", 0, "steered") | p for p in planned] * 20)])
    frame["trait_score"] = rng.normal(30, 20, len(frame))
    frame.loc[frame["condition"] == "steered", "question_id"] = np.repeat([f"q{q}" for q in range(20)], len(planned))
    start = time.perf_counter()
    table = effects.effect_table(pd.DataFrame(planned), frame)
    assert time.perf_counter() - start < 15
    assert (table["n_questions"] == 20).all()


ORDER = ["step1", "step2", "step4", "step8"]


def measured(checkpoint: str, **other: Any) -> dict[str, Any]:
    row = {**comparison(), "vector_checkpoint": checkpoint, "target": checkpoint, "tokens": ORDER.index(checkpoint)}
    row |= {"delta_trait": 30.0, "ci_low": 20.0, "p_adjusted": 0.001, "steered_coherence": 70.0}
    return row | {"delta_coherence": -10.0} | other


def steerable(rows: list[dict[str, Any]], controls: list[dict[str, Any]] | None = None, **options: Any) -> list[Any]:
    frame = pd.DataFrame(controls) if controls else None
    return effects.steerability(pd.DataFrame(rows), frame, order=ORDER, **options).tolist()


def test_all_conditions_met_is_steerable_up_to_the_last() -> None:
    assert steerable([measured(c) for c in ORDER]) == [True] * 4


@pytest.mark.parametrize(
    ("other", "condition"),
    [
        ({"p_adjusted": 0.05}, "significant"),
        ({"p_adjusted": math.nan}, "significant"),
        ({"ci_low": 5.0}, "large"),
        ({"steered_coherence": 49.0, "delta_coherence": -26.0}, "coherent"),
        ({"steered_coherence": math.nan, "delta_coherence": math.nan}, "coherent"),
    ],
)
def test_one_unmet_condition_is_enough_and_unconfirms_the_one_before(other: dict[str, Any], condition: str) -> None:
    rows = [measured(c) for c in ORDER]
    rows[2] |= other
    assert steerable(rows) == [True, False, False, True]
    met = effects.conditions(pd.DataFrame(rows), None, order=ORDER)
    assert met.columns[~met.iloc[2]].tolist() == [condition]
    assert met.columns[~met.iloc[1]].tolist() == ["lasting"]


def test_an_effect_within_the_judges_own_error_is_not_steerable() -> None:
    rows = [measured(c, judge_error=error) for c, error in zip(ORDER, (math.nan, 4.0, 20.0, 19.9), strict=True)]
    assert steerable(rows) == [True, False, False, True]


@pytest.mark.parametrize(("coherence", "delta"), [(50.0, -40.0), (30.0, -25.0)])
def test_either_the_floor_or_the_small_loss_is_enough(coherence: float, delta: float) -> None:
    assert steerable([measured("step8", steered_coherence=coherence, delta_coherence=delta)]) == [True]


def test_thresholds_can_be_set() -> None:
    row = measured("step8", p_adjusted=0.02, ci_low=8.0)
    assert steerable([row]) == [True]
    assert steerable([row], alpha=0.01) == [False]
    assert steerable([row], minimum_effect=8.0) == [False]


def test_the_largest_matching_control_bounds_the_effect() -> None:
    rows = [measured("step4"), measured("step8")]
    control = measured("step8", condition="random", control_kind="isotropic")
    assert steerable(rows, [control | {"delta_trait": 3.0}, control | {"delta_trait": 19.0}]) == [True, True]
    assert steerable(rows, [control | {"delta_trait": 3.0}, control | {"delta_trait": 20.0}]) == [False, False]
    assert steerable(rows, [control | {"delta_trait": 99.0, "coef": -0.5}]) == [False, False]
    assert steerable(rows, [control | {"delta_trait": 99.0, "layer": 3}]) == [True, True]
    assert steerable(rows, [control | {"delta_trait": math.nan}]) == [True, True]


def test_no_vector_does_not_confirm_and_failed_is_passed_over() -> None:
    empty = {"delta_trait": math.nan, "ci_low": math.nan, "p_adjusted": math.nan, "steered_coherence": math.nan}
    empty |= {"delta_coherence": math.nan}
    rows = [measured(c) for c in ORDER]
    rows[1] |= {"status": "no_vector", **empty}
    rows[3] |= {"status": "failed", **empty}
    assert steerable(rows) == [False, pd.NA, True, pd.NA]


def test_transfer_rows_are_confirmed_at_the_same_target() -> None:
    rows = [measured(c, target=t) for t in ("main", "sft") for c in ("step4", "step8")]
    rows[1]["p_adjusted"] = 0.5
    assert steerable(rows) == [False, False, True, True]


def test_rows_out_of_order_are_confirmed_all_the_same() -> None:
    rows = [measured("step8", p_adjusted=0.5), measured("step2"), measured("step4")]
    assert steerable(rows) == [False, True, False]


def test_unknown_checkpoints_and_doubled_rows_are_refused() -> None:
    with pytest.raises(InputError, match="step8"):
        effects.steerability(pd.DataFrame([measured("step8")]), None, order=["step1", "step9"])
    with pytest.raises(InputError, match="two rows"):
        steerable([measured("step8"), measured("step8")])
