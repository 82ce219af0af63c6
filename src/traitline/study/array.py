"""A run shared by processes that nobody drives: each is started by itself, on any machine that sees the folder, and takes part.

A process claims a network, visits it and claims the next one; where nothing is free it generates batches of a network that
another one is at, or waits. Claims are file locks, which the system takes back from a process that ends, so whatever that was
at is taken up by another one. Whoever finds everything settled first makes the tables, once. Knows what a process does next,
from the files alone. Leaves what is done at a network to `visits.py`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from traitline.errors import InputError, StoreError
from traitline.files import write_whole
from traitline.judges import Judge
from traitline.lineages import safe_name
from traitline.study.drift import look_for_drift
from traitline.study.estimate import counted
from traitline.study.facets import FacetStage
from traitline.study.parts import Listener, Progress
from traitline.study.plan import Cell, Network, Plan
from traitline.study.remote import is_url
from traitline.study.run import Outcome, conclude, named_judge
from traitline.study.schedule import LIVES
from traitline.study.store import RunStore
from traitline.study.visits import Phase, Visits

PROCESSES = 8
"""Stages are cut as for so many processes, the same for all, who do not know how many they are."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 5.0
"""How long a process that has nothing to do waits before it looks again: twice as long each time."""

fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None


def share_study(
    plan: Plan, out: Path | str, progress: Progress = lambda _what, _rows: None, then: Callable[[], object] = lambda: None
) -> Outcome:
    """Take part in a run beside other processes that do the same, until all of it is done and its tables are there.

    Cells that had failed before this process began are tried once more.

    Args:
        plan: the study.
        out: the run directory, in a folder with file locks that all processes see.
        progress: told of every settled batch, whoever has made it.
        then: what else is done when the tables are there, by the process that makes them.

    Raises:
        InputError: a URL, a judge with a budget or with batches, which need one process that keeps count, or a checkpoint that
            does not fit on the disk.
        StoreError: a driver holds the run, it is of another study, or the folder cannot be written or has no locks.
        JudgeError: the judge cannot be used; what was judged is kept.
    """
    _refuse_what_needs_a_driver(plan, out)
    store = RunStore(Path(out))
    with _leaving_on_request(), _present(store):
        with store.claim(store.root / ".beginning", wait=True):
            store.begin(plan)
        judge = named_judge(plan.config, judge_cache_here(store))
        for trait in plan.traits.values():
            judge.score(trait, [], [])
        member = _Member(plan, store, judge, progress)
        try:
            member.visits.prepare()
            for phase in member.visits.phases():
                member.work(phase)
        finally:
            member.visits.parts.account.enter()
        outcome = _concluded_once(plan, store, judge, then)
    _sweep_if_last(store)
    return outcome


def judge_cache_here(store: RunStore) -> Path:
    """Return the judge cache of this machine's processes: SQLite lets no two machines share one."""
    return store.judge_cache.with_name(f"judge-cache.{safe_name(socket.gethostname())}.sqlite")


class _Member:
    """One of the processes."""

    def __init__(self, plan: Plan, store: RunStore, judge: Judge, progress: Progress) -> None:
        self.plan, self.store, self._progress = plan, store, progress
        self.visits = Visits(plan, store, judge, Listener(progress, progress, self._begun), PROCESSES)
        self._since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._at: Network | None = None
        self._alone = False
        self._used_up: set[str] = set()

    def work(self, phase: Phase) -> None:
        """Take part in a phase until all of its networks are settled."""
        left, pause = list(phase.networks), FIRST_PAUSE_SECONDS
        while left:
            if self._visit_one(phase, left) or self._join_one(phase, left):
                pause = FIRST_PAUSE_SECONDS
                continue
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _visit_one(self, phase: Phase, left: list[Network]) -> bool:
        """Take out of the networks left what others have settled, and settle the first that is free. False where none is."""
        before, noted = len(left), self._noted(phase)
        for network in list(left):
            if self._settled(phase, network, noted):
                left.remove(network)
                self._progress(f"{network.name}: done", sum(counted(self.plan, network, stage)[0] for stage in phase.stages))
                continue
            if self.visits.needed(phase, network) in left:
                continue
            with self.store.claim(self.store.visit(network.name)) as mine:
                if mine and not self._settled(phase, network, self._noted(phase)):
                    following = next((one for one in left if one != network), network)
                    self._visit(phase, network, following)
                    left.remove(network)
                    return True
        return len(left) < before

    def _visit(self, phase: Phase, network: Network, following: Network) -> None:
        """Visit a network that is claimed, unless too many have ended there."""
        ended, mark = self._ended(network), self._mark(network)
        if ended >= LIVES:
            mark.unlink(missing_ok=True)
            self.visits.give_up(phase, network, f"{LIVES} processes ended while they worked on it, with no batch in between")
            return
        self._at, self._alone = network, ended > 0
        write_whole(mark, json.dumps({"ended": ended, "files": self._files(network)}))
        try:
            self.visits.visit(phase, network, following)
        finally:
            self._at = None
            mark.unlink(missing_ok=True)

    def _join_one(self, phase: Phase, left: Sequence[Network]) -> bool:
        """Generate a share of the rows of a stage that another process is at. False where there is none."""
        for network in left:
            for stage in phase.stages:
                try:
                    said = self.store.shared(network.name, stage).read_text(encoding="utf-8")
                except OSError:
                    continue
                if said and said not in self._used_up:
                    self._used_up.add(said)
                    self.visits.join(phase, network, stage, [Cell(*cell) for cell in json.loads(said)["cells"]])
                    return True
        return False

    def _begun(self, stage: str, cells: Sequence[Cell]) -> None:
        """Have others join the stage that this process has begun; not where one has ended: two copies may be too many."""
        if self._at is not None and not self._alone:
            asked = {"of": uuid.uuid4().hex, "cells": [[cell.network, cell.trait, cell.strategy] for cell in cells]}
            write_whole(self.store.shared(self._at.name, stage), json.dumps(asked))

    def _settled(self, phase: Phase, network: Network, noted: Mapping[Cell, bool]) -> bool:
        """Tell whether a network's cells are done and noted, or noted to have failed since this process began."""
        cells = phase.cells(network)
        if self.visits.done(phase, network):
            return all(noted.get(cell, False) for cell in cells)
        lacking = [cell for cell in cells if not phase.path(cell).is_file()]
        return bool(lacking) and not any(noted.get(cell, True) for cell in lacking)

    def _noted(self, phase: Phase) -> dict[Cell, bool]:
        """Return the cells that the ledger says are done (true), or have failed since this process began (false)."""
        ledger = self.store.ledger(phase.table)
        known = ledger[ledger["state"].ne("failed") | ledger["at"].ge(self._since)]
        columns = known[["network", "trait", "strategy", "state"]].itertuples(index=False, name=None)
        return {Cell(network, trait, strategy): state != "failed" for network, trait, strategy, state in columns}

    def _mark(self, network: Network) -> Path:
        """Return the path of the file that is there as long as a process visits a network, and stays if that is killed."""
        return self.store.parts(network.name) / ".visited"

    def _ended(self, network: Network) -> int:
        """Return how many processes in a row have ended at a network without finishing a batch."""
        try:
            before = json.loads(self._mark(network).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0
        return int(before["ended"]) + 1 if before["files"] == self._files(network) else 1

    def _files(self, network: Network) -> int:
        """Return how many files with rows there are of a network."""
        folders = [self.store.root / kind / safe_name(network.name) for kind in ("parts", "cells", "targets")]
        walked = (names for folder in folders for _, _, names in os.walk(folder))
        return sum(name.endswith(".parquet") for names in walked for name in names)


def _refuse_what_needs_a_driver(plan: Plan, out: Path | str) -> None:
    if is_url(out):
        raise InputError(
            f"{str(out)!r} has no file locks, which processes without a driver need; use --executor ray, or a folder"
        )
    asked = plan.config.judging
    if asked.batch or asked.budget_usd is not None or asked.budget_tokens is not None:
        what = "batches" if asked.batch else "a budget"
        raise InputError(
            f"the study's judge is asked with {what} (judging), which needs one process that keeps count; leave that out, or "
            "use --executor ray or --workers"
        )


def _concluded_once(plan: Plan, store: RunStore, judge: Judge, then: Callable[[], object]) -> Outcome:
    """Make the tables unless another process has made them of the same files, and tell how the run ended."""
    made = store.root / ".made"
    with store.claim(store.root / ".making", wait=True):
        state = _state(store)
        if made.is_file() and made.read_text(encoding="ascii") == state:
            return conclude(plan, store, judge, tables=False)
        drifted = look_for_drift(judge, plan.config.judging, store)
        with FacetStage(plan, store, judge) as labels:
            for network in plan.networks():
                labels.begin(plan.cells(network))
            notes = labels.finish()
        outcome = conclude(plan, store, judge, (*drifted, *notes))
        then()
        write_whole(made, state)
        return outcome


def _state(store: RunStore) -> str:
    """Return a hash of which cells were settled, how and when."""
    columns = ["network", "trait", "strategy", "state", "at"]
    rows = [store.ledger(table)[columns].sort_values(columns).to_csv(index=False) for table in ("cells", "targets")]
    return hashlib.blake2b("".join(rows).encode(), digest_size=16).hexdigest()


@contextmanager
def _present(store: RunStore) -> Iterator[None]:
    """Keep drivers out of a run, and no other process that shares it.

    Raises:
        StoreError: a driver holds it, or there are no locks.
    """
    if fcntl is None:
        raise StoreError("sharing a run without a driver needs the file locks of Linux or macOS; use --workers")
    try:
        store.root.mkdir(parents=True, exist_ok=True)
        held = os.open(store.root / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(f"cannot write in {str(store.root)!r} ({error.strerror}); give another --out") from error
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"another process drives the run in {str(store.root)!r} alone; wait for it, or start all of them with --share"
            ) from error
        except OSError as error:
            raise StoreError(f"{str(store.root)!r} is in a file system without locks ({error}); give another --out") from error
        yield
    finally:
        os.close(held)


def _sweep_if_last(store: RunStore) -> None:
    """Remove what claims have left behind, if no other process takes part any more."""
    with suppress(StoreError), store.driving():
        store.drop_claims()


@contextmanager
def _leaving_on_request() -> Iterator[None]:
    """Have a scheduler's SIGTERM end this process as Ctrl-C would: what it is at is free for others, and no crash."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
