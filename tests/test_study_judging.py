"""Whole studies with a judge by API on the loopback: batches, budgets and kills change no table, and nothing is paid twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from batch_server import BatchServer
from small_study import make_study
from test_judge_server import KEY
from traitline.cli import app
from traitline.errors import InputError
from traitline.judges.api import provider
from traitline.judges.api.budget import BudgetError
from traitline.study import Study
from traitline.study.run import run_study

CONCURRENCY = 16
TOKENS = 12
"""Of one answer of the server."""


@pytest.fixture(scope="module")
def server() -> Iterator[BatchServer]:
    with BatchServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _afresh(server: BatchServer) -> None:
    server.asked.clear()
    server.completed.clear()
    server.batches.clear()
    server.fates = []
    server.plan = lambda prompt, nth: "answer"


@pytest.fixture(scope="module", autouse=True)
def _environment(server: BatchServer) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OPENAI_BASE_URL", server.url)
        environment.setenv("OPENAI_API_KEY", KEY)
        environment.setattr(provider, "SETTLING_SECONDS", 0.5)
        yield


SCRIPT = """
import sys
import torch
from traitline.study import Study
from traitline.study.run import run_study
torch.set_num_threads(1)
study = Study.from_yaml(sys.argv[1], out=sys.argv[2])
run_study(study.resolved, study.out, study.make_judge)
"""


def start(study: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SCRIPT, str(study), str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))


def run(study: Path, out: Path) -> None:
    found = Study.from_yaml(study, out=out)
    outcome = run_study(found.resolved, out, found.make_judge)
    assert outcome.failed == ()


def study_file(folder: Path, **judging: Any) -> Path:
    changes: dict[str, Any] = {"judging": judging} if judging else {}
    changes["controls"] = {"isotropic": 1, "covariance": 0, "shuffled": 0, "bootstrap": 0}
    changes["evaluate"] = {"samples": 1, "max_new_tokens": 6, "layers": [1], "coefs": [0.5]}
    changes["elicit"] = {"samples": 1, "max_new_tokens": 6}
    return make_study(folder, judge="openai:tiny", strategies=["character"], checkpoints=["step0", "step20"], **changes)


def tables(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((out / "tables").glob("*.csv"))}


def paid(server: BatchServer) -> Counter[str]:
    return Counter({prompt: n for prompt, n in server.completed.items() if not prompt.startswith("Repeat")})


@pytest.fixture(scope="module")
def direct(server: BatchServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], set[str]]:
    """The tables of an undisturbed run without batches, and all that was asked in it."""
    folder = tmp_path_factory.mktemp("direct")
    run(study_file(folder), folder / "run")
    asked = set(paid(server))
    assert len(asked) > 400  # several times what a kill or a budget stops at
    assert set(paid(server).values()) == {1}
    return tables(folder / "run"), asked


def test_batches_give_the_same_tables_and_are_few(server: BatchServer, direct: Any, tmp_path: Path) -> None:
    run(study_file(tmp_path, batch=True), tmp_path / "run")
    assert tables(tmp_path / "run") == direct[0]
    assert paid(server) == dict.fromkeys(direct[1], 1)
    assert len(server.batches) == 3  # everything elicited, everything evaluated, everything transferred
    assert not list((tmp_path / "run" / "parts").glob("*"))


def test_killed_while_batches_are_worked_on_ends_the_same(server: BatchServer, direct: Any, tmp_path: Path) -> None:
    server.fates = ["expire", "complete", "lose nothing"]
    study = study_file(tmp_path, batch=True)
    for batches in (1, 3):
        process = start(study, tmp_path / "run")
        deadline = time.monotonic() + 120
        while len(server.batches) < batches and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    run(study, tmp_path / "run")
    assert tables(tmp_path / "run") == direct[0]
    assert paid(server) == dict.fromkeys(direct[1], 1)


def test_killed_while_asking_pays_no_more_than_was_under_way_twice(server: BatchServer, direct: Any, tmp_path: Path) -> None:
    study = study_file(tmp_path)
    for answers in (100,):
        process = start(study, tmp_path / "run")
        while sum(paid(server).values()) < answers and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    run(study, tmp_path / "run")
    assert tables(tmp_path / "run") == direct[0]
    assert paid(server).keys() == direct[1]
    assert sum(paid(server).values()) - len(direct[1]) <= CONCURRENCY


def test_a_budget_stops_a_run_which_goes_on_with_a_larger_one(server: BatchServer, direct: Any, tmp_path: Path) -> None:
    budget = 100 * TOKENS
    study = study_file(tmp_path, budget_tokens=budget)
    with pytest.raises(
        BudgetError, match=r"\(budget_tokens\) for judge model 'tiny' is used up.*raise the budget and run again"
    ):
        run(study, tmp_path / "run")
    assert 100 <= sum(server.completed.values()) <= 100 + CONCURRENCY
    again = CliRunner().invoke(app, ["run", str(study), "--out", str(tmp_path / "run")])
    assert again.exit_code == 1
    assert "is used up" in " ".join(again.stderr.split())
    assert "Traceback" not in again.stderr
    assert sum(server.completed.values()) <= 100 + CONCURRENCY
    content = yaml.safe_load(study.read_text())
    study.write_text(yaml.safe_dump({**content, "judging": {"budget_tokens": 10**9}}))
    run(study, tmp_path / "run")
    assert tables(tmp_path / "run") == direct[0]
    assert paid(server) == dict.fromkeys(direct[1], 1)


def test_a_budget_in_money_needs_a_price(server: BatchServer, tmp_path: Path) -> None:
    study = study_file(tmp_path, budget_usd=5.0)
    with pytest.raises(InputError, match="no price is known for 'tiny'"):
        run(study, tmp_path / "run")
    assert not server.asked
