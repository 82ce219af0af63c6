"""Runs by several processes: the same tables as by one, whoever is killed, and nothing left running."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from batch_server import BatchServer
from small_study import CountingJudge, make_study
from test_judge_server import KEY
from traitline.errors import InputError
from traitline.judges import Score, make_judge
from traitline.judges.api import provider
from traitline.judges.api.budget import BudgetError
from traitline.study import Study
from traitline.study.executors import environment, how_many
from traitline.study.parts import Listener
from traitline.study.plan import Cell, Network
from traitline.study.run import Outcome, run_study
from traitline.study.schedule import Join, Schedule, Visit
from traitline.study.tally import Tally
from traitline.traits import Trait

SIZES: dict[str, Any] = {
    "checkpoints": ["step0", "step20"],
    "batch_rows": 24,
    "elicit": {"samples": 6, "max_new_tokens": 20},
    "evaluate": {"samples": 1, "max_new_tokens": 12, "layers": [1], "coefs": [0.5]},
    "controls": {"isotropic": 1, "covariance": 0, "shuffled": 0, "bootstrap": 0},
}
PATIENCE_SECONDS = 60


class Recorder(CountingJudge):
    """Counts words, and keeps what it said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: dict[tuple[str, str, str], Score] = {}

    def score(self, trait: Trait, questions: Sequence[str], answers: Sequence[str], **options: str) -> list[Score]:
        scores = [one if one.trait is not None else Score(0.0, 0.0) for one in super().score(trait, questions, answers)]
        self.said |= {(trait.name, q, a): s for q, a, s in zip(questions, answers, scores, strict=True)}
        return scores


class Labelled:
    """A study whose answers are all labelled, so that any process can judge them by its judge's name alone."""

    def __init__(self, folder: Path) -> None:
        labels = folder / "labels.csv"
        self.file = make_study(folder, judge=f"labels:{labels}", **SIZES)
        judge, told = Recorder(), list[int]()
        study = self.at(folder / "alone")
        run_study(study.resolved, study.out, lambda _cache: judge, lambda _what, rows: told.append(rows))
        self.rows = sum(told)
        with labels.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["trait", "question", "answer", "trait_score", "coherence"])
            writer.writerows([*key, repr(score.trait), score.coherence] for key, score in judge.said.items())
        self._name = make_judge(f"labels:{labels}").name
        self.tables = self.read(study.out)

    def at(self, out: Path) -> Study:
        return Study.from_yaml(self.file, out=out)

    def read(self, out: Path) -> dict[str, str]:
        found = {path.name: path.read_text() for path in sorted((out / "tables").glob("*.csv"))}
        return {name: text.replace(self._name, CountingJudge.name) for name, text in found.items()}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    return Labelled(tmp_path_factory.mktemp("labelled"))


def by_two(study: Study, progress: Any = lambda _what, _rows: None) -> Outcome:
    return run_study(study.resolved, study.out, progress=progress, workers=2)


def files(folder: Path, ending: str) -> list[Path]:
    """Return the files below a folder of which any part may be deleted meanwhile (`Path.glob` raises then on Python 3.11)."""
    return [Path(where, name) for where, _folders, names in os.walk(folder) for name in names if name.endswith(ending)]


def holder(claim: Path) -> int | None:
    """Return the process that a claim's file names."""
    try:
        return int(claim.read_text() or 0) or None
    except FileNotFoundError:
        return None


def children(process: int) -> set[int]:
    """Return the processes that one has started and that have not ended."""
    told = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False).stdout
    return {int(one) for one in told.split() if alive(int(one))}


def alive(process: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


@contextmanager
def watching(look: Callable[[], None]) -> Iterator[None]:
    """Look at something again and again while the body runs."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_two_workers_make_the_same_tables_and_share_the_rows_of_a_network(labelled: Labelled, tmp_path: Path) -> None:
    study, told = labelled.at(tmp_path / "run"), list[int]()
    makers: dict[str, set[int]] = {}

    def look() -> None:
        for claim in files(study.out / "parts", ".claim"):
            if claim.name != "visit.claim" and (process := holder(claim)) is not None:
                makers.setdefault(claim.parts[-3], set()).add(process)

    with watching(look):
        outcome = by_two(study, lambda _what, rows: told.append(rows))
    assert outcome == Outcome(complete=12, no_vector=0, failed=())
    assert labelled.read(study.out) == labelled.tables
    assert sum(told) == labelled.rows
    assert len(makers["step20"]) == 2  # its rows are needed first, so nobody can be elsewhere
    assert os.getpid() not in set().union(*makers.values())
    assert not list((study.out / "parts").glob("*"))
    assert not any(alive(process) for process in set().union(*makers.values()))


def test_what_a_killed_worker_was_at_is_taken_up_again_and_twice_at_most(labelled: Labelled, tmp_path: Path) -> None:
    study, told, killed = labelled.at(tmp_path / "run"), list[int](), dict[str, list[int]]()
    times = {"step20/elicit": 1, "step0/evaluate": 2, "step20/transfer": 1}

    def look() -> None:
        for stage, n in times.items():
            folder, gone = study.out / "parts" / stage, killed.setdefault(stage, [])
            process = holder(folder.parent / "visit.claim")
            if process is not None and process not in gone and len(gone) < n and files(folder, ".parquet"):
                gone.append(process)
                os.kill(process, signal.SIGKILL)

    with watching(look):
        outcome = by_two(study, lambda _what, rows: told.append(rows))
    assert {stage: len(gone) for stage, gone in killed.items()} == times
    assert [name.partition(":")[0] for name in outcome.failed] == [
        f"step0/{t}/{s}" for t in ("even", "small") for s in STRATEGIES
    ]
    assert all("2 worker processes ended" in name and "signal SIGKILL" in name for name in outcome.failed)
    assert outcome.complete == 8
    assert sum(told) <= labelled.rows
    whole = run_study(study.resolved, study.out)
    assert whole.failed == ()
    assert labelled.read(study.out) == labelled.tables


STRATEGIES = ("character", "forced")
DRIVER = """
import sys
from traitline.study import Study
from traitline.study.run import run_study
study = Study.from_yaml(sys.argv[1], out=sys.argv[2])
run_study(study.resolved, study.out, workers=2)
"""


def test_no_worker_outlives_its_driver(labelled: Labelled, tmp_path: Path) -> None:
    out = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(labelled.file), str(out)], env=environment)
    workers: set[int] = set()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (len(workers) < 2 or not files(out / "parts", ".claim")) and driver.poll() is None and time.monotonic() < deadline:
        workers |= children(driver.pid)
    assert len(workers) == 2
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 5
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    with BatchServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setattr(provider, "SETTLING_SECONDS", 0.5)
        yield server


def test_a_budget_stops_all_workers_and_batches_are_asked_for_by_the_driver(server: BatchServer, tmp_path: Path) -> None:
    sizes = {**SIZES, "elicit": {"samples": 1, "max_new_tokens": 6}, "strategies": ["character"]}
    file = make_study(tmp_path, judge="openai:tiny", judging={"budget_tokens": 1200}, **sizes)
    study = Study.from_yaml(file, out=tmp_path / "run")
    with pytest.raises(BudgetError, match=r"1,200 tokens \(budget_tokens\) for judge model 'tiny' is used up"):
        by_two(study)
    before = sum(server.completed.values())
    assert 100 <= before <= 100 + 2 * 16  # and what each of the two workers had under way
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "judging": {"batch": True, "drift_prompts": 0}}))
    assert by_two(Study.from_yaml(file, out=tmp_path / "run")).failed == ()
    assert 1 <= len(server.batches) <= 3  # everything elicited, everything evaluated, everything transferred
    assert sum(server.completed.values()) - len(server.completed) <= 2 * 16  # only what was under way is paid for twice


def test_a_judge_that_has_no_name_is_refused_before_anything_is_done(labelled: Labelled, tmp_path: Path) -> None:
    study = labelled.at(tmp_path / "run")
    with pytest.raises(InputError, match=r"cannot be handed to 2 processes.*workers=1"):
        study.run(judge=CountingJudge(), workers=2)
    assert not study.out.exists()


def test_how_many_workers_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert [how_many(n, None) for n in (1, 3)] == [1, 3]
    for gpus, expected in ((0, 1), (4, 4)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        assert how_many(None, None) == expected
    assert [how_many(None, device) for device in ("auto", "cpu", "cuda:1")] == [1, 1, 1]
    with pytest.raises(InputError, match="0 workers"):
        how_many(0, None)


def test_every_worker_has_its_own_share_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def shares(workers: int, device: str | None = None) -> list[str | None]:
        return [environment(number, workers, device).get("CUDA_VISIBLE_DEVICES") for number in range(workers)]

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert shares(2) == [None, None]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert shares(4) == ["0", "1", "2", "3"]
    assert shares(5) == ["0", "1", "2", "3", "0"]
    assert shares(2, "auto") == ["0,1", "2,3"]
    assert shares(2, "cuda:1") == [None, None]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,GPU-7,2,5")
    assert shares(4) == ["6", "GPU-7", "2", "5"]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert environment(0, 3, None)["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert environment(0, 3, None)["OMP_NUM_THREADS"] == "5"


def test_the_device_is_no_part_of_the_plan(labelled: Labelled, tmp_path: Path) -> None:
    content = yaml.safe_load(labelled.file.read_text())
    digests = []
    for device in (None, "cpu", "auto"):
        file = tmp_path / "study.yaml"
        file.write_text(yaml.safe_dump({**content, "device": device}))
        digests.append(Study.from_yaml(file).resolved.digest)
    assert len(set(digests)) == 1
    file.write_text(yaml.safe_dump({**content, "device": "the first GPU"}))
    with pytest.raises(InputError, match="device"):
        Study.from_yaml(file)


A, B, C = (Network(name, name, None, None, "plain") for name in "abc")


def test_a_schedule_gives_every_network_once_and_then_a_share_of_those_under_way() -> None:
    schedule = Schedule([A, B, C], lambda network: A if network != A else None)
    assert schedule.next(1) == Visit(A, B)
    assert schedule.next(2) is None  # B and C need A, which has not begun
    cells = [Cell("a", "evil", "character")]
    schedule.begun(1, "elicit", cells)
    share = schedule.next(2)
    assert share == Join(A, "elicit", tuple(cells))
    schedule.used_up(share)
    assert schedule.next(2) is None
    assert schedule.settled(1) == A
    assert [schedule.next(1), schedule.next(2)] == [Visit(B, C), Visit(C, None)]
    assert schedule.wait_for_judging(2) == C
    assert not schedule.over
    schedule.settled(1)
    assert schedule.over
    assert schedule.put_off == [C]


def test_a_network_that_ended_a_worker_is_tried_once_more_and_alone() -> None:
    schedule = Schedule([A, B], lambda _network: None)
    schedule.next(1)
    assert schedule.ended(1, A) is None
    assert schedule.next(2) == Visit(A, B)
    schedule.begun(2, "elicit", [])
    schedule.next(3)
    assert schedule.next(4) is None
    assert schedule.ended(2, A) == A
    assert schedule.next(4) is None
    schedule.settled(3)
    assert schedule.over


def test_rows_that_are_told_of_again_count_once() -> None:
    told: list[tuple[str, int]] = []
    tally = Tally(Listener(lambda what, rows: told.append((what, rows)), lambda what, rows: told.append((what, rows))))
    tally.begin("first")
    tally.told("first", "a", "a: elicit", 40, worked=True)
    tally.begin("second")  # the first one was killed; the second meets its rows, and goes on
    tally.told("second", "a", "a: elicit", 40, worked=False)
    tally.told("second", "a", "a: elicit", 20, worked=True)
    tally.begin("third")
    tally.told("third", "b", "b: done before", 500, worked=False)
    tally.flush()
    assert sum(rows for _, rows in told) == 560
    assert told[-1] == ("b: done before", 500)
