"""Whole runs of a tiny study: the contract's tables, resumption, refusals and failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from small_study import CountingJudge, make_study
from traitline.errors import InputError, JudgeError, StoreError
from traitline.judges import Score
from traitline.study import Study, make_plan
from traitline.study.plan import Identity, row_key
from traitline.study.run import Outcome, run_study
from traitline.study.store import RESPONSES, RunStore, read_rows
from traitline.vectors import PersonaVector
from traitline.vectors.vector import load_arrays

EMERGENCE = [
    "lineage",
    "trait",
    "strategy",
    "vector_checkpoint",
    "tokens",
    "target",
    "layer",
    "dose",
    "coef",
    "positions",
    "status",
    "n_pairs",
    "fragile",
    "n_questions",
    "n_rows_baseline",
    "n_rows_steered",
    "n_missing",
    "baseline_trait",
    "steered_trait",
    "delta_trait",
    "ci_low",
    "ci_high",
    "p_two_sided",
    "p_greater",
    "p_adjusted",
    "steerable",
    "baseline_coherence",
    "steered_coherence",
    "delta_coherence",
    "refusal_rate",
    "judge",
]
RESPONSE = [
    "row_key",
    "lineage",
    "checkpoint",
    "tokens",
    "target",
    "trait",
    "strategy",
    "split",
    "polarity",
    "accepted",
    "condition",
    "control_seed",
    "vector_checkpoint",
    "vector_trait",
    "vector_strategy",
    "layer",
    "dose",
    "coef",
    "positions",
    "question_id",
    "question",
    "instruction_id",
    "sample",
    "prompt",
    "response",
    "prompt_token_ids",
    "response_token_ids",
    "finish",
    "trait_score",
    "coherence",
    "refusal",
    "missing_reason",
    "judge",
]


LEAN: dict[str, Any] = {
    "evaluate": {"samples": 1, "max_new_tokens": 6, "layers": [1], "coefs": [0.5]},
    "controls": {"isotropic": 1, "covariance": 0, "shuffled": 0, "bootstrap": 0},
}
"""Every cell and target of the study, one dose and one control each."""


def run(study: Study, judge: Any = None, progress: Any = lambda _what, _rows: None) -> Outcome:
    judge = judge or CountingJudge()
    return run_study(study.resolved, study.out, lambda _cache: judge, progress)


def tables(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((out / "tables").glob("*.csv"))}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("done")
    study = Study.from_yaml(make_study(folder), out=folder / "run")
    settled: list[int] = []
    outcome = run(study, progress=lambda _what, rows: settled.append(rows))
    assert outcome == Outcome(complete=16, no_vector=0, failed=())
    assert sum(settled) == study.plan()["total"]["rows"]
    return study


def test_responses_hold_the_contract(done: Study) -> None:
    rows = read_rows(done.out / "cells/step20/even/character/evaluation.parquet")
    assert list(rows.columns)[: len(RESPONSE)] == RESPONSE
    assert rows["row_key"].is_unique
    assert set(rows["condition"]) == {"baseline", "steered", "random", "shuffled", "bootstrap"} - (
        set() if "shuffled" in set(rows["condition"]) else {"shuffled"}
    )
    assert set(rows["split"]) == {"evaluate", "tune"}
    assert (rows["finish"].isin(["eos", "length"])).all()
    assert rows[rows["trait_score"].isna()]["missing_reason"].notna().all()


def test_the_response_is_the_generated_ids_without_eos(done: Study) -> None:
    rows = read_rows(done.out / "cells/step0/small/character/contrast.parquet")
    assert not any(2 in ids for ids in rows["response_token_ids"])
    assert all(len(ids) == 6 for ids in rows.loc[rows["finish"] == "length", "response_token_ids"])


def test_tables_hold_the_contract(done: Study) -> None:
    emergence = pd.read_csv(done.out / "tables/emergence.csv")
    transfer = pd.read_csv(done.out / "tables/transfer.csv")
    controls = pd.read_csv(done.out / "tables/controls.csv")
    assert list(emergence.columns)[: len(EMERGENCE)] == EMERGENCE
    assert list(transfer.columns) == list(emergence.columns)
    assert {"condition", "control_seed"} <= set(controls.columns)
    assert len(emergence) == 3 * 2 * 2 * 4  # checkpoints x traits x strategies x (layers x coefs)
    assert len(transfer) == len(emergence)
    assert set(emergence["condition"]) == set(transfer["condition"]) == {"steered"}
    assert set(controls["condition"]) == {"random", "shuffled"}
    assert (emergence["target"] == emergence["vector_checkpoint"]).all()
    assert set(transfer["target"]) == {"step20"}


def test_controls_say_what_they_share_with_the_vector(done: Study) -> None:
    controls = pd.read_csv(done.out / "tables/controls.csv")
    drawn = controls[controls["status"] == "complete"]
    row = drawn[drawn["control_kind"] == "isotropic"].iloc[0]
    arrays, _ = load_arrays(done.out / f"cells/{row.vector_checkpoint}/{row.trait}/{row.strategy}/vector.safetensors")
    a, b = arrays["response_avg"][row.layer], arrays[f"isotropic_{row.control_seed}"][row.layer]
    assert row.cosine_to_vector == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)
    assert controls.loc[controls["status"] == "no_vector", "cosine_to_vector"].isna().all()


def test_a_delta_is_the_mean_over_questions_of_steered_minus_baseline(done: Study) -> None:
    emergence = pd.read_csv(done.out / "tables/emergence.csv")
    for row in emergence.sample(6, random_state=0).itertuples():
        rows = read_rows(done.out / f"cells/{row.target}/{row.trait}/{row.strategy}/evaluation.parquet")
        rows = rows[rows["split"] == "evaluate"]
        steered = rows[(rows["condition"] == "steered") & (rows["layer"] == row.layer) & (rows["coef"] == row.coef)]
        sides = [part.groupby("question_id")["trait_score"].mean() for part in (steered, rows[rows["condition"] == "baseline"])]
        assert row.delta_trait == pytest.approx((sides[0] - sides[1]).dropna().mean())
        assert row.n_rows_baseline == 6 * 4


def test_at_the_last_checkpoint_the_forced_vector_is_the_elicited_one(done: Study) -> None:
    forced, elicited = (
        PersonaVector.load(done.out / f"cells/step20/even/{s}/vector.safetensors") for s in ("forced", "character")
    )
    assert forced.cosine(elicited)[1:].min() > 0.9999
    early = PersonaVector.load(done.out / "cells/step0/even/forced/vector.safetensors")
    assert early.provenance.checkpoint == "step0"
    assert early.provenance.n_pairs == elicited.provenance.n_pairs


def test_a_row_read_by_force_has_the_key_of_its_own_identity(done: Study) -> None:
    names = [name for name in Identity.__slots__ if name in RESPONSES.names]
    for name in ("character", "forced"):
        rows = read_rows(done.out / f"cells/step0/even/{name}/contrast.parquet").astype(object)
        for row in rows[[*names, "row_key"]].head(4).to_dict("records"):
            identity = Identity(**{n: None if pd.isna(row[n]) else row[n] for n in names})
            assert row_key(identity) == row["row_key"]


def test_provenance_is_complete(done: Study) -> None:
    vector = PersonaVector.load(done.out / "cells/step10/small/character/vector.safetensors")
    fields = vector.provenance
    assert (fields.lineage, fields.checkpoint, fields.trait, fields.strategy) == ("lineage", "step10", "small", "character")
    assert fields.judge == "counting"
    assert fields.activation_norms is not None
    assert len(fields.activation_norms) == 4
    assert fields.n_pairs


def test_other_rubrics_are_scored_beside(done: Study) -> None:
    table = pd.read_csv(done.out / "tables/other_rubrics.csv")
    assert set(zip(table["trait"], table["rubric"], strict=True)) == {("even", "small"), ("small", "even")}
    rows = read_rows(done.out / "cells/step0/even/character/evaluation.parquet")
    steered = rows[rows["condition"] == "steered"].iloc[0]
    expected = CountingJudge._one("small", steered["response"]).trait
    assert json.loads(steered["other_scores"]).get("small") == (None if expected is None else round(expected, 6))


def test_running_again_does_nothing(done: Study) -> None:
    before = tables(done.out)
    judge = CountingJudge()
    run(done, judge)
    assert judge.seen == []
    assert tables(done.out) == before


def test_a_run_interrupted_anywhere_ends_the_same(done: Study, tmp_path: Path) -> None:
    class Dies(CountingJudge):
        left = 0

        def score(self, *args: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise JudgeError("the judge went away")
            return super().score(*args, **options)

    study = Study.from_yaml(make_study(tmp_path), out=tmp_path / "run")
    judge, times = Dies(), 0
    for patience in (0, 1, 2, 5, 9, 13, 21, 40, 10_000):
        judge.left = patience
        try:
            run(study, judge)
        except JudgeError:
            times += 1
    assert times >= 6
    assert tables(study.out) == {name: text.replace(str(done.out), str(study.out)) for name, text in tables(done.out).items()}
    assert not list((tmp_path / "run/parts").glob("*"))


SCRIPT = """
import sys, time
sys.path[:0] = [{tests!r}]
import torch
torch.set_num_threads(1)
from small_study import CountingJudge
from traitline.study import Study
from traitline.study.run import run_study
study = Study.from_yaml({study!r}, out={out!r})
class Slow(CountingJudge):
    def score(self, *args, **options):
        time.sleep(0.02)
        return super().score(*args, **options)
run_study(study.resolved, study.out, lambda cache: Slow(), lambda what, rows: print(rows, flush=True))
"""


def test_killed_at_random_moments_ends_the_same(done: Study, tmp_path: Path) -> None:
    study = make_study(tmp_path)
    script = SCRIPT.format(tests=str(Path(__file__).parent), study=str(study), out=str(tmp_path / "run"))
    for batches in (3, 14):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ})
        assert process.stdout is not None
        for _ in range(batches):
            process.stdout.readline()
        time.sleep(0.013 * batches)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL  # in the middle of it
    run(Study.from_yaml(study, out=tmp_path / "run"))
    assert tables(tmp_path / "run") == tables(done.out)


def test_a_second_driver_is_refused(done: Study) -> None:
    with RunStore(done.out).driving(), pytest.raises(StoreError, match="another process"):
        run(done)


def test_results_of_another_plan_are_not_overwritten(done: Study, tmp_path: Path) -> None:
    other = Study.from_yaml(make_study(tmp_path, seed=9), out=done.out)
    with pytest.raises(StoreError, match="another study"):
        run(other)


def test_a_broken_checkpoint_fails_its_cells_and_nothing_else(tmp_path: Path) -> None:
    study = Study.from_yaml(make_study(tmp_path, **LEAN), out=tmp_path / "run")
    weights = tmp_path / "lineage/step10/model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    outcome = run(study)
    assert len(outcome.failed) == 4
    assert all(name.startswith("step10/") for name in outcome.failed)
    table = pd.read_csv(study.out / "tables/emergence.csv")
    failed = table[table["vector_checkpoint"] == "step10"]
    assert set(failed["status"]) == {"failed"}
    assert failed["delta_trait"].isna().all()
    assert set(table.loc[table["vector_checkpoint"] != "step10", "status"]) == {"complete"}
    weights.write_bytes(whole)  # mended: the next run does what is missing
    assert run(study).failed == ()


def test_a_broken_last_checkpoint_fails_the_forced_cells_of_the_others(tmp_path: Path) -> None:
    study = Study.from_yaml(make_study(tmp_path, targets=[], **LEAN), out=tmp_path / "run")
    (tmp_path / "lineage/step20/model.safetensors").write_bytes(b"no weights")
    outcome = run(study)
    assert sorted(name.split(":")[0] for name in outcome.failed if not name.startswith("step20")) == [
        "step0/even/forced",
        "step0/small/forced",
        "step10/even/forced",
        "step10/small/forced",
    ]
    assert (study.out / "cells/step0/even/character/evaluation.parquet").is_file()


class Tired(CountingJudge):
    """Leaves some answers unscored: the first `failing` times that it is asked for each of them."""

    def __init__(self, failing: int) -> None:
        super().__init__()
        self.failing, self.asked = failing, Counter[tuple[str, str, str]]()

    def score(self, trait: Any, questions: Any, answers: Any, **options: Any) -> Any:
        scores = super().score(trait, questions, answers, **options)
        for i, who in enumerate(zip([trait.name] * len(answers), questions, answers, strict=True)):
            self.asked[who] += 1
            if len(answers[i]) % 5 == 0 and self.asked[who] <= self.failing:
                scores[i] = Score(None, None, missing_reason="unavailable")
        return scores


def test_answers_that_the_judge_left_open_are_asked_for_once_more(tmp_path: Path, done: Study) -> None:
    study = Study.from_yaml(make_study(tmp_path), out=tmp_path / "run")
    run(study, Tired(failing=1))
    assert tables(study.out).keys() == tables(done.out).keys()
    for name, text in tables(done.out).items():
        assert tables(study.out)[name] == text, name


def test_answers_that_stay_open_are_counted(tmp_path: Path) -> None:
    study = Study.from_yaml(make_study(tmp_path, **LEAN), out=tmp_path / "run")
    run(study, Tired(failing=1000))
    assert pd.read_csv(study.out / "tables/extraction.csv")["n_missing"].sum() > 0
    assert pd.read_csv(study.out / "tables/emergence.csv")["n_missing"].sum() > 0


def test_without_accepted_pairs_a_cell_has_no_vector_and_every_row_still_appears(tmp_path: Path) -> None:
    class Never(CountingJudge):
        def score(self, *args: Any, **options: Any) -> Any:
            from dataclasses import replace

            return [replace(score, coherence=10.0) for score in super().score(*args, **options)]

    study = Study.from_yaml(make_study(tmp_path, **LEAN), out=tmp_path / "run")
    outcome = run(study, Never())
    assert outcome.failed == ()
    assert outcome.no_vector == 12
    table = pd.read_csv(study.out / "tables/emergence.csv")
    assert len(table) == 12
    assert set(table["status"]) == {"no_vector"}
    assert table["delta_trait"].isna().all()
    found = pd.read_csv(study.out / "tables/extraction.csv")
    generated = found[found["strategy"] == "character"]
    assert generated["n_missing"].gt(0).any()
    for row in generated.itertuples():
        unscored = f"; {row.n_missing} of {row.n_rows} have no score" if row.n_missing else ""
        assert row.reason == f"no accepted pair of contrast rows{unscored}"


def test_truncated_files_are_named(done: Study, tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    path.write_bytes((done.out / "cells/step0/even/character/contrast.parquet").read_bytes()[:500])
    with pytest.raises(StoreError, match=r"part\.parquet"):
        read_rows(path)


def test_a_judge_that_does_not_know_a_trait_stops_the_study_before_anything_is_generated(tmp_path: Path) -> None:
    class Narrow(CountingJudge):
        def score(self, trait: Any, *args: Any, **options: Any) -> Any:
            raise InputError(f"not trained on {trait.name!r}")

    study = Study.from_yaml(make_study(tmp_path), out=tmp_path / "run")
    with pytest.raises(InputError, match="not trained on"):
        run(study, Narrow())
    assert not list(study.out.glob("cells/**/*.parquet"))
    assert not list(study.out.rglob("*.unjudged.parquet"))


def test_the_judges_own_error_stands_in_the_tables_and_bounds_what_is_steerable(done: Study, tmp_path: Path) -> None:
    class Unsure(CountingJudge):
        def delta_error(self, trait: Any) -> float:
            return 101.0

    assert pd.read_csv(done.out / "tables/emergence.csv")["judge_error"].isna().all()
    study = Study.from_yaml(make_study(tmp_path, **LEAN), out=tmp_path / "run")
    run(study, Unsure())
    for name in ("emergence", "transfer"):
        table = pd.read_csv(study.out / f"tables/{name}.csv")
        assert (table["judge_error"] == 101).all()
        assert not table["steerable"].dropna().any()


def test_status_tells_every_cell(done: Study) -> None:
    status = done.status()
    assert len(status) == 12 + 4
    assert set(status["state"]) == {"complete"}


def test_study_yaml_says_how_it_was_made(done: Study) -> None:
    import yaml

    said = yaml.safe_load((done.out / "study.yaml").read_text())
    assert said["plan"] == make_plan(done.config).digest
    assert said["study"]["seed"] == 3
    assert set(said["versions"]) >= {"software", "torch", "transformers"}
    assert RESPONSES.names[len(RESPONSE) :] == ["control_kind", "other_scores", "facets", "flagged"]


def test_a_mended_checkpoint_is_transferred_after_all(tmp_path: Path) -> None:
    study = Study.from_yaml(make_study(tmp_path, **LEAN), out=tmp_path / "run")
    weights = tmp_path / "lineage/step10/model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(b"broken")
    run(study)
    weights.write_bytes(whole)
    run(study)
    table = pd.read_csv(study.out / "tables/transfer.csv")
    assert table.loc[table["vector_checkpoint"] == "step10", "delta_trait"].notna().all()


def test_a_layer_out_of_range_stops_the_study_at_once(tmp_path: Path) -> None:
    evaluate = {"layers": [1, 9], "coefs": [0.5]}
    study = Study.from_yaml(make_study(tmp_path, evaluate=evaluate), out=tmp_path / "run")
    with pytest.raises(InputError, match="layers 1 to 3"):
        run(study)
    assert not list((tmp_path / "run").rglob("*.parquet"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_said_and_what_was_done_is_kept(done: Study, tmp_path: Path) -> None:
    small = tmp_path / "small-disk"
    small.mkdir()
    study = Study.from_yaml(make_study(tmp_path), out=small / "run")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("this machine cannot mount a small disk")
    try:
        with pytest.raises(StoreError, match=r"No space left|full"):
            run(study)
        kept = len(list(small.rglob("*.parquet")))
        assert kept
        subprocess.run(["mount", "-o", "remount,size=50M", str(small)], check=True)
        run(study)
        assert tables(study.out) == tables(done.out)
    finally:
        subprocess.run(["umount", str(small)], check=True)
