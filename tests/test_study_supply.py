"""A study's checkpoints come ahead of their visit and leave when spent: the same tables as from local directories."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import tiny_network, tiny_tokenizer
from fake_hub import FakeHub
from small_study import CountingJudge, make_trait
from traitline.errors import InputError
from traitline.models import snapshots
from traitline.models.downloads import fetch
from traitline.study import Study
from traitline.study.run import Outcome, run_study
from traitline.study.store import RunStore
from traitline.study.supply import Supply
from traitline.study.visits import Phase
from traitline.vectors import PersonaVector

REPO, FINISHED = "org/base", "org/instruct"
NAMES = ("stage1-step1000", "stage1-step2000", "stage1-step3000", "main")
GB = 10**9


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """Four checkpoints and a descendant, random."""
    root = tmp_path_factory.mktemp("hub")
    for i, name in enumerate((*NAMES, "instruct")):
        tiny_network("llama", seed=i).save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    return {REPO: {name: root / name for name in NAMES}, FINISHED: {"main": root / "instruct"}}


@pytest.fixture
def hub(folders: dict[str, dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr("traitline.study.tables.write_tables", lambda *_: None)
    monkeypatch.setattr("time.sleep", lambda _seconds: os.sched_yield())
    with FakeHub(folders) as hub, hub.connected(tmp_path / "cache"):
        yield hub


def make(folder: Path, **changes: Any) -> Study:
    """Make a study of the checkpoints on the hub, as small as it can be."""
    folder.mkdir(exist_ok=True)
    lineage = {
        "name": "hubbed",
        "description": "Random networks.",
        "source": REPO,
        "checkpoints": [{"name": name, "tokens": 1000 * i} for i, name in enumerate(NAMES)],
        "descendants": [{"name": "instruct", "kind": "sft", "source": FINISHED, "chat": False}],
    }
    (folder / "lineage.yaml").write_text(yaml.safe_dump(lineage))
    study = {
        "name": "hubbed",
        "lineage": str(folder / "lineage.yaml"),
        "checkpoints": [NAMES[0], NAMES[-1]],
        "targets": [],
        "traits": [str(make_trait(folder, "even"))],
        "strategies": ["character"],
        "judge": "counting",
        "batch_rows": 200,
        "elicit": {"samples": 1, "max_new_tokens": 3},
        "evaluate": {"samples": 1, "max_new_tokens": 3, "layers": [1], "coefs": [0.5]},
        "controls": {"isotropic": 0, "covariance": 0, "shuffled": 0, "bootstrap": 0},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump({**study, **changes}))
    return Study.from_yaml(folder / "study.yaml", out=folder / "run")


def run(study: Study) -> Outcome:
    return run_study(study.resolved, study.out, lambda _cache: CountingJudge())


def one(hub: FakeHub) -> int:
    """Bytes of the largest checkpoint."""
    return max(hub.size(REPO, name) for name in NAMES)


def on_disk() -> int:
    total = 0
    for folder, _, names in os.walk(snapshots.cache_folder()):
        for name in names if folder.endswith("blobs") else ():
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue
    return total


@contextmanager
def watching() -> Iterator[list[int]]:
    """Look all the time at how many bytes the cache takes; the largest is first in the list."""
    most, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.001):
            most[0] = max(most[0], on_disk())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def revisions_here() -> set[str]:
    return {path.name for path in snapshots.cache_folder().glob("models--*/snapshots/*")}


def test_a_study_keeps_within_its_budget_and_makes_the_rows_it_makes_without(hub: FakeHub, tmp_path: Path) -> None:
    whole = {"checkpoints": NAMES, "targets": ["last", "instruct"]}
    free, tight = make(tmp_path / "free", **whole), make(tmp_path / "tight", **whole, disk_gb=2.2 * one(hub) / GB)
    assert free.resolved.digest == make(tmp_path / "free", **whole, disk_gb=1.0).resolved.digest
    with watching() as most:
        assert run(tight).failed == ()
    assert 1.5 * one(hub) < most[0] <= 2.2 * one(hub)
    weights = [asked.revision for asked in hub.log if asked.name == "model.safetensors" and asked.sent]
    assert sorted(weights) == sorted([*NAMES, "main"])  # nothing came twice; the last "main" is the descendant's
    for name in NAMES:
        vector = PersonaVector.load(tight.out / "cells" / name / "even" / "character" / "vector.safetensors")
        assert vector.provenance.commit == hub.commit(REPO, name)
    asked = len(hub.log)
    run(tight)
    assert len(hub.log) == asked
    run(free)
    assert len(revisions_here()) == 5
    for path in sorted(free.out.rglob("*.parquet")):
        assert (tight.out / path.relative_to(free.out)).read_bytes() == path.read_bytes()


def test_a_branch_is_what_it_was_when_the_run_began(hub: FakeHub, tmp_path: Path, folders: dict[str, dict[str, Path]]) -> None:
    store, last, first = RunStore(tmp_path / "run"), make(tmp_path / "study").resolved.last, hub.commit(REPO, "main")
    Supply(store, None, list).prepare([last])
    hub.move(REPO, "main", folders[REPO][NAMES[0]])
    for supply in (Supply(store, None, list), Supply(store, None, list)):
        snapshot = supply.bring(last)
        supply.release()
        assert snapshot is not None
        assert snapshot.commit == first


def test_the_next_checkpoint_comes_while_this_one_computes(hub: FakeHub, tmp_path: Path) -> None:
    study, came = make(tmp_path / "study"), list[bool]()

    class Patient(CountingJudge):
        """Judges nothing before the second checkpoint has come, or a while has passed."""

        def score(self, trait: Any, questions: Any, answers: Any, **options: Any) -> Any:
            if answers and not came:
                size, until = hub.size(REPO, NAMES[0], "model.safetensors"), time.monotonic() + 10
                while hub.bytes_sent("model.safetensors", NAMES[0]) < size and time.monotonic() < until:
                    os.sched_yield()
                came.append(hub.bytes_sent("model.safetensors", NAMES[0]) == size)
            return super().score(trait, questions, answers, **options)

    assert run_study(study.resolved, study.out, lambda _cache: Patient()).failed == ()
    assert came == [True]


def test_a_study_of_what_is_cached_asks_the_hub_nothing_and_deletes_nothing(hub: FakeHub, tmp_path: Path) -> None:
    for name in (NAMES[0], NAMES[-1]):
        fetch(REPO, name)
    asked, there = len(hub.log), revisions_here()
    with hub.connected(tmp_path / "cache", offline=True):
        assert run(make(tmp_path / "study", disk_gb=0.001 * one(hub) / GB)).failed == ()
    assert len(hub.log) == asked
    assert revisions_here() == there


def test_a_checkpoint_that_comes_broken_fails_alone_and_is_made_up_for(hub: FakeHub, tmp_path: Path) -> None:
    study = make(tmp_path / "study")
    hub.fault("model.safetensors", NAMES[0], corrupt=5000, times=None)
    outcome = run(study)
    assert (outcome.complete, len(outcome.failed)) == (1, 1)
    assert outcome.failed[0].startswith(
        f"{NAMES[0]}/even/character: cannot download model.safetensors of org/base at {NAMES[0]}"
    )
    hub.mend()
    assert run(study).failed == ()


def test_one_that_does_not_fit_is_said_before_anything_comes(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"alone needs 1\d\d kB, and disk_gb is .*; set disk_gb to 0\.1 or more"):
        run(make(tmp_path / "study", disk_gb=0.5 * one(hub) / GB))
    with pytest.raises(InputError, match=r"alone needs 1\d\d kB, and disk_gb is"):
        make(tmp_path / "shared", judge="words", traits=["evil"], strategies=["character"], disk_gb=0.5 * one(hub) / GB).share()
    assert hub.bytes_sent() == 0


def test_a_disk_too_small_for_all_is_said_before_anything_comes(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traitline.models.disk.free_bytes", lambda: 2 * one(hub))
    monkeypatch.setattr("traitline.study.supply.free_bytes", lambda: 2 * one(hub))
    with pytest.raises(
        InputError, match=r"the run's 4 checkpoints need \d\d\d kB, but .* are free on the disk of .*set disk_gb"
    ):
        run(make(tmp_path / "study", checkpoints=NAMES))
    assert hub.bytes_sent() == 0


def test_with_room_for_one_the_last_checkpoint_leaves_and_comes_again(
    hub: FakeHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with watching() as most, caplog.at_level(logging.INFO, "traitline"):
        assert run(make(tmp_path / "study", targets=["last"], disk_gb=1.2 * one(hub) / GB)).failed == ()
    assert most[0] <= 1.2 * one(hub)
    weights = [asked for asked in hub.log if asked.name == "model.safetensors" and asked.sent]
    assert [asked.revision for asked in weights] == ["main", NAMES[0], "main"]
    assert "org/base at main has left the disk" in caplog.text


def test_processes_keep_the_budget_together(hub: FakeHub, tmp_path: Path) -> None:
    """Three supplies stand for three workers, each with a network of its own; there is room for two."""
    study = make(tmp_path / "study", checkpoints=NAMES)
    store = RunStore(study.out)
    study.out.mkdir()
    left = set(study.resolved.checkpoints)

    def phases() -> list[Phase]:
        return [
            Phase("checkpoints", sorted(left, key=str), "cells", (), study.resolved.cells, lambda _cell: tmp_path / "nothing")
        ]

    supplies = [Supply(store, 2.2 * one(hub) / GB, phases) for _ in range(3)]
    supplies[0].prepare(study.resolved.checkpoints)
    waiting = list(study.resolved.checkpoints)
    errors: list[BaseException] = []

    def work(supply: Supply) -> None:
        try:
            while waiting:
                network = waiting.pop()
                snapshot = supply.bring(network)
                supply.ahead(waiting[-1] if waiting else None)
                assert snapshot is not None
                for _ in range(100):
                    assert (snapshot.folder / "model.safetensors").is_file()
                    os.sched_yield()
                left.discard(network)
                supply.release()
        except BaseException as error:
            errors.append(error)

    with watching() as most:
        threads = [threading.Thread(target=work, args=(supply,)) for supply in supplies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not errors
    assert not left
    assert most[0] <= 2.2 * one(hub)
