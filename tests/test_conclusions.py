"""What a study would have concluded under another judge: the run's own tables again, what changes, and corrected deltas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from small_study import CountingJudge, make_study
from traitline.analysis import conclusions
from traitline.analysis.conclusions import CONTRAST, EVALUATION, Judged, Planned
from traitline.analysis.ppi import SAME_ERROR
from traitline.judges.sheet import draw
from traitline.study import Study
from traitline.study.responses import Responses, read_responses, reported
from traitline.study.run import run_study

EVALUATE = {"samples": 1, "max_new_tokens": 6, "layers": [2], "coefs": [0.5, -0.5]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conclusions")
    study = Study.from_yaml(make_study(folder, evaluate=EVALUATE), folder / "run")
    run_study(study.resolved, study.out, lambda _cache: CountingJudge())
    return study.out


@pytest.fixture(scope="module")
def responses(run: Path) -> Responses:
    return read_responses(run)


@pytest.fixture(scope="module")
def own(responses: Responses) -> Judged:
    return conclusions.judged(responses.rows, responses.planned)


def test_the_runs_own_scores_give_the_runs_own_tables(run: Path, own: Judged) -> None:
    for table, name in ((EVALUATION, "emergence"), (conclusions.TRANSFER, "transfer")):
        written = pd.read_csv(run / "tables" / f"{name}.csv")
        found = own.effects[own.effects["table"] == table].reset_index(drop=True)
        assert len(found) == len(written) > 0
        for column in ("n_questions", "delta_trait", "ci_low", "p_adjusted", "delta_coherence"):
            np.testing.assert_allclose(found[column].astype(float), written[column].astype(float), err_msg=column)
        assert found["steerable"].astype(float).equals(written["steerable"].astype(float))
    verdicts = pd.read_csv(run / "tables" / "verdicts.csv")
    assert own.verdicts["sentence"].tolist() == verdicts["sentence"].tolist()
    extraction = pd.read_csv(run / "tables" / "extraction.csv")
    pairs = own.pairs.groupby(conclusions.CELL)["passes"].sum()
    told = extraction[extraction["strategy"] == "character"].set_index(["checkpoint", "trait", "strategy"])["n_pairs"]
    assert pairs.to_dict() == told.to_dict()


def test_equal_judges_change_nothing(own: Judged) -> None:
    found = conclusions.compare(own, own)
    changed = {name: value for name, value in found.counts.items() if "changed" in name or "difference" in name}
    assert set(changed.values()) == {0}
    assert found.counts["correlation"] == pytest.approx(1)
    assert found.counts["pairs_a"] == found.counts["pairs_both"]
    assert found.counts["deltas"] == found.deltas["delta_trait_a"].notna().sum() > 0


def test_the_opposite_judge_turns_everything_round(responses: Responses, own: Judged) -> None:
    rows = responses.rows.assign(trait_score=100 - responses.rows["trait_score"])
    other = conclusions.judged(rows, responses.planned)
    found = conclusions.compare(own, other)
    known = found.deltas[found.deltas["difference"].notna()]
    np.testing.assert_allclose(known["delta_trait_b"], -known["delta_trait_a"], atol=1e-9)
    np.testing.assert_allclose(known["difference"], -2 * known["delta_trait_a"], atol=1e-9)
    assert found.counts["correlation"] == pytest.approx(-1)
    assert found.counts["mean_absolute_difference"] == pytest.approx(2 * known["delta_trait_a"].abs().mean())
    assert found.counts["pairs_b"] != found.counts["pairs_a"]
    assert found.counts["pairs_both"] == 0
    turned = known["stars_a"].ne(known["stars_b"])
    assert known["stars_change"].equals(turned)
    assert found.counts["stars_changed"] == turned.sum()


def test_a_judge_that_scores_nothing_has_no_deltas_and_no_pairs(responses: Responses, own: Judged) -> None:
    empty = responses.rows.assign(trait_score=np.nan, coherence=np.nan)
    found = conclusions.compare(own, conclusions.judged(empty, responses.planned))
    assert found.counts["deltas"] == 0
    assert found.counts["mean_absolute_difference"] is None
    assert found.deltas["difference"].isna().all()
    assert not found.deltas["stars_change"].any()
    assert found.counts["pairs_b"] == 0
    with_pairs = found.pairs[found.pairs["n_pairs_a"] > 0]
    assert len(with_pairs) == found.counts["vectors_changed"] > 0


def made_up(delta: float = 30.0, checkpoints: tuple[str, ...] = ("step1", "step2")) -> pd.DataFrame:
    """Return response rows of checkpoints of which the second alone can be steered; the cheap judge halves the effect."""
    rng, records = np.random.default_rng(0), []
    for place, checkpoint in enumerate(checkpoints):
        for question in range(10):
            for condition, count in (("baseline", 12), ("steered", 6)):
                for sample in range(count):
                    truth = 30 + delta * place * (condition == "steered") + rng.normal(0, 6)
                    records.append({"checkpoint": checkpoint, "question_id": f"q{question}", "condition": condition,
                                    "sample": sample, "truth": truth, "tokens": 10.0 * place})  # fmt: skip
    rows = pd.DataFrame(records)
    steered = rows["condition"].eq("steered")
    vector = {"vector_trait": "evil", "vector_strategy": "character", "dose": "norm", "positions": "response"}
    rows = rows.assign(**{name: pd.Series(value, rows.index).where(steered, None) for name, value in vector.items()})
    return rows.assign(
        target=rows["checkpoint"],
        vector_checkpoint=rows["checkpoint"].where(steered, None),
        layer=np.where(steered, 2.0, np.nan),
        coef=np.where(steered, 0.5, np.nan),
        question=rows["question_id"],
        trait_score=rows["truth"].where(~steered, 0.5 * rows["truth"] + 15),
        row_key=[f"k{i}" for i in range(len(rows))],
        lineage="x",
        trait="evil",
        strategy="character",
        split="evaluate",
        coherence=90.0,
        judge="half",
        refusal=False,
        finish="eos",
        response="a b",
        control_seed=np.nan,
        control_kind=None,
        table=EVALUATION,
        shown=rows["condition"],
    )


def test_rows_alone_tell_their_comparisons() -> None:
    planned = conclusions.planned_from_rows(made_up())
    assert planned.order == ("step1", "step2")
    assert planned.total_tokens == 10
    assert planned.emergence["vector_checkpoint"].tolist() == ["step1", "step2"]
    assert planned.transfer.empty
    found = conclusions.judged(made_up(), planned)
    assert found.effects["steerable"].tolist() == [False, True]
    assert found.verdicts["onset_by"].tolist() == ["step2"]
    unknown = made_up().assign(tokens=np.nan)
    planned = conclusions.planned_from_rows(unknown)
    assert planned.order == ()
    blind = conclusions.judged(unknown, planned)
    assert blind.effects["steerable"].isna().all()
    assert blind.effects["delta_trait"].notna().all()
    assert blind.verdicts.empty


def test_a_judge_that_sees_less_moves_the_onset() -> None:
    rows = made_up(delta=8.0)
    planned = conclusions.planned_from_rows(rows)
    half, whole = (conclusions.judged(one, planned) for one in (rows, rows.assign(trait_score=rows["truth"])))
    found = conclusions.compare(half, whole)
    assert found.counts["onsets_changed"] == 1
    assert found.counts["steerable_changed"] == 1
    verdict = found.verdicts.iloc[0]
    assert (verdict["censored_a"], verdict["onset_by_b"]) == ("never", "step2")
    erring = conclusions.judged(rows.assign(trait_score=rows["truth"]), planned, {"evil": 30.0})
    assert erring.effects["steerable"].tolist() == [False, False]  # not above the judge's own error


def with_gold(rows: pd.DataFrame, count: int, seed: int = 0) -> pd.DataFrame:
    probability = draw(rows, count, seed).reindex(rows.index)
    return rows.assign(probability=probability, gold=rows["truth"].where(probability.notna()))


def test_gold_rows_correct_each_delta() -> None:
    rows = with_gold(made_up(), 120)
    planned = conclusions.planned_from_rows(rows)
    found = conclusions.corrected_table(rows, planned, judges={"half": "trait_score", "exact": "truth"})
    assert found["judge"].tolist() == ["half", "half", "exact", "exact"]
    half = found[found["judge"] == "half"].set_index("vector_checkpoint")
    assert half.loc["step2", "delta"] == pytest.approx(15, abs=3)
    assert half.loc["step2", "corrected"] == pytest.approx(30, abs=3)
    assert half.loc["step2", "ci_high"] < 30 < half.loc["step2", "corrected_high"]
    exact = found[found["judge"] == "exact"]
    np.testing.assert_allclose(exact["corrected"], exact["delta"])


def test_comparisons_without_gold_rows_are_left_out_unless_an_error_is_shared() -> None:
    rows = with_gold(made_up(), 120)
    rows.loc[rows["checkpoint"].eq("step1"), "gold"] = np.nan
    planned = conclusions.planned_from_rows(rows)
    judges = {"half": "trait_score"}
    assert conclusions.corrected_table(rows, planned, judges=judges)["vector_checkpoint"].tolist() == ["step2"]
    shared = conclusions.corrected_table(rows, planned, judges=judges, assume=SAME_ERROR)
    assert shared["vector_checkpoint"].tolist() == ["step1", "step2"]
    assert (shared["assumption"] == SAME_ERROR).all()


def test_questions_that_a_judge_was_trained_on_are_left_out() -> None:
    rows = with_gold(made_up(), 120)
    planned = conclusions.planned_from_rows(rows)
    seen = {"half": ["q0", "q1", "q2", "q3"]}
    found = conclusions.corrected_table(rows, planned, judges={"half": "trait_score"}, trained_on=seen)
    assert (found["n_questions"] == 6).all()


def test_transfer_rows_of_a_run_are_corrected_too(responses: Responses) -> None:
    rows = responses.rows
    some = reported(responses)
    probability = draw(some, 200).set_axis(some.loc[draw(some, 200).index, "row_key"])
    rows = rows.assign(probability=rows["row_key"].map(probability).astype(float))
    rows["gold"] = rows["trait_score"].where(rows["probability"].notna())
    found = conclusions.corrected_table(rows, responses.planned, judges={"own": "trait_score"}, assume=SAME_ERROR)
    assert set(found["table"]) == {EVALUATION, conclusions.TRANSFER}
    np.testing.assert_allclose(found["corrected"], found["delta"], atol=25)
    assert (found["corrected_low"] <= found["corrected"]).all()


def test_pairs_need_both_sides_of_one_judge() -> None:
    sides: list[dict[str, Any]] = [
        {"polarity": p, "sample": n, "trait_score": s} for n in range(3) for p, s in (("pos", 80.0), ("neg", 10.0))
    ]
    rows = pd.DataFrame(sides).assign(
        table=CONTRAST,
        checkpoint="c",
        trait="evil",
        strategy="character",
        instruction_id="i",
        question_id="q",
        coherence=90.0,
        split="elicit",
        condition="elicit",
        target="c",
        response_token_ids=[[1]] * 6,
    )
    planned = Planned(pd.DataFrame())
    strict = rows.assign(trait_score=[80, 10, 40, 10, 80, 60])
    found = conclusions.compare(conclusions.judged(rows, planned), conclusions.judged(strict, planned))
    assert found.pairs.to_dict("records") == [
        {"checkpoint": "c", "trait": "evil", "strategy": "character", "n_pairs": 3, "n_pairs_a": 3, "n_pairs_b": 1,
         "n_pairs_both": 1, "vector_change": False}
    ]  # fmt: skip
