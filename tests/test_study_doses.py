"""A study with kl doses: what is found is kept, controls are matched, and what cannot be reached is told."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from small_study import STEPS, CountingJudge, make_study
from traitline.errors import InputError, JudgeError, StoreError
from traitline.judges import Score
from traitline.models import calibrate, encode, load_model
from traitline.models.divergence import Divergence
from traitline.study import make_plan
from traitline.study.config import StudyConfig, load_config
from traitline.study.directions import Directions
from traitline.study.doses import FOUND, KEY, Doses, all_doses
from traitline.study.plan import Plan
from traitline.study.run import run_study
from traitline.study.store import RunStore
from traitline.traits import Trait
from traitline.vectors import steer
from traitline.vectors.calibration import calibration_texts
from traitline.vectors.vector import PersonaVector, load_arrays

COEFS = [0.02, 0.2, -0.02, 60.0]
EVALUATE = {"samples": 1, "max_new_tokens": 6, "layers": [2], "coefs": COEFS, "dose": "kl"}


def small_plan(folder: Path, **evaluate: Any) -> Plan:
    changes = {"strategies": ["character"], "targets": ["last"], "evaluate": {**EVALUATE, **evaluate}}
    path = make_study(folder, **changes)
    config = load_config(path).model_dump(mode="json")
    return make_plan(StudyConfig.model_validate({**config, "traits": config["traits"][:1]}))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return small_plan(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def run(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    out = tmp_path_factory.mktemp("run") / "out"
    assert run_study(plan, out, lambda _: CountingJudge()).failed == ()
    return out


def table(run: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(run / "tables" / f"{name}.csv")


def test_every_vector_control_and_bootstrap_vector_has_its_own_coefficient_for_the_same_kl(plan: Plan, run: Path) -> None:
    found = table(run, "kl_doses")
    assert list(found.columns) == ["target", *KEY, *FOUND]
    assert not found.duplicated(["target", *KEY]).any()
    reached = found[found["status"] == "complete"]
    assert set(reached["condition"]) == {"steered", "bootstrap", "random"}  # under 10 pairs nothing is shuffled, or some are
    assert (reached["kl_p95"] / reached["nats"].abs()).between(1, 1.11).all()
    assert (np.sign(reached["coef"]) == np.sign(reached["nats"])).all()
    assert reached.groupby("nats")["coef"].nunique().gt(1).all()
    assert found["texts"].nunique() == 1
    lost = found[found["nats"] == 60]
    assert lost["status"].eq("unreachable").all()
    assert lost["coef"].isna().all()
    assert lost["kl_p95"].between(0, 60).all()

    name = f"step{STEPS[-1]}"
    model = load_model(str(Path(plan.last.source)), None)
    texts = [encode(model, text) for text in calibration_texts()]
    norms, meter = calibrate(model, texts).norms, Divergence(model, texts)
    for record in found[
        (found["target"] == name) & (found["vector_checkpoint"] == "step0") & (found["nats"] == 0.2)
    ].itertuples():
        arrays, _ = load_arrays(run / "cells" / "step0" / str(record.trait) / "character" / "vector.safetensors")
        array = arrays["response_avg" if record.condition == "steered" else str(record.condition)]
        vector = PersonaVector(array if array.ndim == 2 else array[int(str(record.control_seed))])
        push = steer(vector, int(str(record.layer)), float(str(record.coef))).resolve(norms)
        assert meter.measure([push])[0].p95 == pytest.approx(record.kl_p95, rel=1e-3)
        assert np.linalg.norm(push.delta) == pytest.approx(record.delta_norm, rel=1e-5)


def test_what_cannot_be_reached_is_a_status_in_every_table(run: Path) -> None:
    for name in ("emergence", "transfer", "controls"):
        found = table(run, name)
        planned = found[found["status"] != "no_vector"]
        assert planned["dose"].eq("kl").all()
        assert planned.loc[planned["coef"] == 60, "status"].eq("unreachable").all()
        assert planned.loc[planned["coef"] == 60, ["delta_trait", "p_adjusted", "n_rows_steered"]].isna().all(axis=None)
        assert planned.loc[planned["coef"].abs() < 1, "status"].eq("complete").all()
        assert planned.loc[planned["coef"].abs() < 1, "n_rows_steered"].gt(0).all()
        steerable = planned["steerable"].isna()
        assert name == "controls" or steerable.equals(planned["status"] != "complete")
    matched = table(run, "matched")
    assert len(matched) == len(STEPS)
    assert (matched.loc[matched["status"] != "no_vector", "n_doses"] == 2).all()
    assert not table(run, "doses")["coef"].eq(60).any()


class Failing(CountingJudge):
    """Gives up while the first checkpoint is evaluated."""

    def score(
        self, trait: Trait, questions: Sequence[str], answers: Sequence[str], *, style: str = "", purpose: str = ""
    ) -> list[Score]:
        """Score until a little is evaluated."""
        if purpose == "evaluate" and answers:
            raise JudgeError("the judge is gone; ask again later")
        return super().score(trait, questions, answers, style=style, purpose=purpose)


def assert_same_tables(a: Path, b: Path) -> None:
    for path in [*a.glob("tables/*.csv"), *a.glob("doses/*/*.csv")]:
        assert (b / path.relative_to(a)).read_bytes() == path.read_bytes(), path.name


def test_a_run_that_goes_on_reads_what_was_found_and_gives_the_same_tables(plan: Plan, run: Path, tmp_path: Path) -> None:
    with pytest.raises(JudgeError):
        run_study(plan, tmp_path, lambda _: Failing())
    [path] = tmp_path.glob("doses/*/*.csv")
    whole = path.read_bytes()
    found = pd.read_csv(path, dtype=str)
    found.iloc[1:].assign(texts="0123456789abcdef").to_csv(path, index=False)
    with pytest.raises(StoreError, match=r"found on other neutral texts \(0123456789abcdef\)"):
        run_study(plan, tmp_path, lambda _: CountingJudge())
    path.write_text("not,a,table\n")
    with pytest.raises(StoreError, match=r"is broken .* delete it and run again"):
        run_study(plan, tmp_path, lambda _: CountingJudge())

    path.write_bytes(whole)
    written = path.stat().st_mtime_ns
    assert run_study(plan, tmp_path, lambda _: CountingJudge()).failed == ()
    assert path.stat().st_mtime_ns == written
    assert_same_tables(run, tmp_path)

    judge = CountingJudge()
    run_study(plan, tmp_path, lambda _: judge)
    assert judge.seen == []  # nothing is generated again, though a dose that is unreachable has no rows

    path.unlink()
    run_study(plan, tmp_path, lambda _: judge)
    assert judge.seen != []
    assert_same_tables(run, tmp_path)


def test_a_process_reads_what_another_one_has_found_since(plan: Plan, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    store, name, cell = RunStore(tmp_path), plan.last.name, plan.cells(plan.last)[0]
    store.doses(name, "transfer").unlink()
    model, norms = load_model(plan.last.source, None), np.ones(4, dtype=np.float32)

    def no_texts() -> list[list[int]]:
        pytest.fail("what is known is looked for again")

    mine = Directions(store, "response")
    for stage, rows in (("evaluate", plan.evaluation_rows), ("transfer", plan.transfer_rows)):
        if stage == "transfer":
            shutil.copy(run / "doses" / name / "transfer.csv", store.doses(name, stage))
        planned = list(rows(plan.last, cell))
        mine.find_doses(name, stage, model, planned, norms, no_texts)
        made = [row for row in planned if mine.exist_for(row)]
        assert {row.identity.coef for row in made} == {None, *COEFS} - {60.0}
        assert len({row.identity.vector_checkpoint for row in made}) == (2 if stage == "evaluate" else 1 + len(STEPS))


def test_rows_do_not_change_when_coefficients_are_found_and_studies_without_kl_keep_their_digest(plan: Plan) -> None:
    cell = plan.cells(plan.last)[0]
    doses = {(row.identity.dose, row.identity.coef) for row in plan.evaluation_rows(plan.last, cell)}
    assert doses == {(None, None), *(("kl", coef) for coef in COEFS)}
    fields = plan.config.model_dump(mode="json")
    assert "kl_statistic" not in fields["evaluate"]
    assert "matched_loss" not in fields
    mean = StudyConfig.model_validate({**fields, "evaluate": {**fields["evaluate"], "kl_statistic": "mean"}})
    assert mean.model_dump()["evaluate"]["kl_statistic"] == "mean"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coefs": [0.5, 1e-4]}, "coefs are nats, of 0.001 or more"),
        ({"where": [{"coefs": [1e-4]}]}, "coefs are nats, of 0.001 or more"),
        ({"dose": "norm", "kl_statistic": "mean"}, "kl_statistic is for dose 'kl', and the dose is 'norm'"),
        ({"dose": "lk"}, "dose"),
    ],
)
def test_a_study_that_asks_for_nats_that_mean_nothing_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(make_study(tmp_path, evaluate={**EVALUATE, **changes}))


def test_a_network_without_a_file_has_found_nothing(tmp_path: Path) -> None:
    assert all_doses(Doses(RunStore(tmp_path), "p95", "response"), ["a", "b"]).columns.tolist() == ["target", *KEY, *FOUND]
