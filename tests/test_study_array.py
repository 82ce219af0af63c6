"""Runs shared by processes that nobody drives: the same tables as by one, made once, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from small_study import make_study
from test_study_executors import SIZES, Labelled, files, holder
from traitline.errors import InputError, StoreError
from traitline.study import Study
from traitline.study.array import share_study
from traitline.study.run import Outcome
from traitline.study.store import RunStore

PATIENCE_SECONDS = 120
MEMBER = """
import json, sys
from traitline.study import Study
from traitline.study.run import conclude
import traitline.study.array as array
made = []
array.conclude = lambda *told, tables=True, **more: (made.append(tables), conclude(*told, tables=tables, **more))[1]
rows = []
outcome = array.share_study(Study.from_yaml(sys.argv[1]).resolved, sys.argv[2], lambda what, n: rows.append(n))
print(json.dumps({"made": made, "complete": outcome.complete, "failed": list(outcome.failed), "rows": sum(rows)}))
"""


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    return Labelled(tmp_path_factory.mktemp("labelled"))


@pytest.fixture
def members() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are ended when the test is over."""
    begun: list[subprocess.Popen[str]] = []
    yield begun
    for process in begun:
        process.kill()
        process.wait()


def start(study: Path, out: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", MEMBER, str(study), str(out)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    text, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found


def test_three_processes_of_which_one_is_killed_make_the_tables_of_one_and_once(
    labelled: Labelled, tmp_path: Path, members: list[subprocess.Popen[str]]
) -> None:
    out = tmp_path / "run"
    members += [start(labelled.file, out) for _ in range(3)]
    killed: subprocess.Popen[str] | None = None
    deadline = time.monotonic() + PATIENCE_SECONDS
    while killed is None and time.monotonic() < deadline:
        for claim in files(out / "parts", "visit.claim"):
            at = next((member for member in members if member.pid == holder(claim)), None)
            if at is not None and files(claim.parent, ".parquet"):
                at.kill()
                killed = at
    assert killed is not None
    ends = [told(member) for member in members if member is not killed]
    assert [end["failed"] for end in ends] == [[], []]
    assert [end["complete"] for end in ends] == [12, 12]
    assert sorted(end["made"][0] for end in ends) == [False, True]
    assert labelled.read(out) == labelled.tables
    assert not list((out / "parts").glob("*"))


def test_a_process_that_comes_when_all_is_done_makes_nothing_anew(labelled: Labelled, tmp_path: Path) -> None:
    study, made, told = labelled.at(tmp_path / "run"), list[str](), list[int]()
    first = share_study(study.resolved, study.out, then=lambda: made.append("by the first"))
    before = {path: path.stat().st_mtime_ns for path in study.out.rglob("*.*") if path.suffix in {".parquet", ".csv"}}

    def again() -> Outcome:
        return share_study(study.resolved, study.out, lambda _what, rows: told.append(rows), lambda: made.append("again"))

    assert again() == first == Outcome(complete=12, no_vector=0, failed=())
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert sum(told) == labelled.rows
    assert made == ["by the first"]
    (study.out / "ledger.sqlite").unlink()  # as where all files are there, and who has written them has yet to note it
    assert again() == first
    assert made == ["by the first", "again"]


def test_a_network_that_ends_processes_again_and_again_is_given_up(labelled: Labelled, tmp_path: Path) -> None:
    study, store = labelled.at(tmp_path / "run"), RunStore(tmp_path / "run")
    mark = store.parts("step0") / ".visited"
    mark.parent.mkdir(parents=True)
    mark.write_text(json.dumps({"ended": 1, "files": 0}))  # as two processes leave it that were killed before a first batch
    outcome = share_study(study.resolved, study.out)
    assert {name.partition("/")[0] for name in outcome.failed} == {"step0"}
    assert all("2 processes ended while they worked on it" in name for name in outcome.failed)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps({"ended": 1, "files": 5}))  # the last of them had finished batches: no crash of its own making
    time.sleep(1.1)  # failed cells are tried again by processes that begin later, by the second
    assert share_study(study.resolved, study.out).failed == ()
    assert labelled.read(study.out) == labelled.tables


def test_a_process_that_a_scheduler_ends_leaves_its_work_to_others(
    labelled: Labelled, tmp_path: Path, members: list[subprocess.Popen[str]]
) -> None:
    out = tmp_path / "run"
    members.append(start(labelled.file, out))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not files(out / "parts", ".parquet") and time.monotonic() < deadline:
        time.sleep(0.002)
    members[0].send_signal(signal.SIGTERM)
    assert members[0].wait(PATIENCE_SECONDS) == 128 + signal.SIGTERM
    assert not files(out / "parts", ".visited")
    with RunStore(out).driving():  # nobody holds it any more
        pass


def test_drivers_and_processes_without_one_keep_out_of_each_others_runs(labelled: Labelled, tmp_path: Path) -> None:
    study = labelled.at(tmp_path / "run")
    with RunStore(study.out).driving(), pytest.raises(StoreError, match="another process drives the run"):
        study.share()


def test_what_needs_one_process_that_keeps_count_is_refused(tmp_path: Path) -> None:
    file = make_study(tmp_path, judge="openai:tiny", judging={"budget_tokens": 1200}, **SIZES)
    with pytest.raises(InputError, match=r"a budget \(judging\), which needs one process"):
        Study.from_yaml(file, out=tmp_path / "run").share()
    content = {**yaml.safe_load(file.read_text()), "judging": {"batch": True}}
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"batches \(judging\)"):
        Study.from_yaml(file, out=tmp_path / "run").share()
    with pytest.raises(InputError, match="has no file locks"):
        Study.from_yaml(file, out="memory://run").share()
    assert not (tmp_path / "run").exists()
