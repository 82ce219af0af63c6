"""Who does the visits of a run: this process, or several worker processes on this machine, one for each GPU.

An executor is a context manager registered in `EXECUTORS`; what it gives takes a phase and yields its networks as they are
settled. The one for several machines is in `cluster.py`: `schedule.py` says who does what next, `worker.py` how it is done in
another process. Knows processes: starting them, giving orders, hearing from them, replacing those that end. Leaves what is
done at a network to `visits.py`.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import torch

from traitline import errors
from traitline.errors import InputError, TraitlineError, nearest
from traitline.study.plan import Cell, Network
from traitline.study.schedule import LIVES, Join, Schedule, Visit
from traitline.study.tally import Tally
from traitline.study.visits import Phase, Visits

Sweep = Callable[[Phase], Iterator[Network]]
"""Visits the networks of a phase and yields each when it is settled."""
Executor = Callable[[Visits, int], AbstractContextManager[Sweep]]
"""Given a run's visits and how many processes share it."""
ENDING_SECONDS = 5.0
"""What a worker has to end in by itself."""
LISTENING_SECONDS = 1.0
"""How long the driver hears of nothing else, such as Ctrl-C, on systems where waiting cannot be interrupted."""
STARTS = 3
"""So many workers one after the other may end before they are ready."""
_PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path[:] = {path!r}; "  # Ctrl-C is the driver's
    "from traitline.study.worker import work; work()"
)


def how_many(workers: int | None, device: str | None) -> int:
    """Return how many processes share a run: as many as asked for, else one for each GPU, and one where there is none.

    Args:
        workers: as asked for.
        device: the study's; where it names one or is `auto`, one process is enough.

    Raises:
        InputError: fewer than one was asked for.
    """
    if workers is None:
        return max(1, torch.cuda.device_count()) if device in {None, "cuda"} else 1
    if workers < 1:
        raise InputError(f"{workers} workers were asked for; give 1 or more, or leave it out")
    return workers


@contextmanager
def local(visits: Visits, workers: int) -> Iterator[Sweep]:
    """Visit networks in this process, one after the other."""
    del workers
    visits.prepare()

    def sweep(phase: Phase) -> Iterator[Network]:
        networks = list(phase.networks)
        while networks:
            put_off: list[Network] = []
            for network, following in zip(networks, [*networks[1:], None], strict=True):
                if visits.visit(phase, network, following, last_put_off=visits.plan.last in put_off):
                    yield network
                else:
                    put_off.append(network)
            networks = put_off
            visits.parts.ahead.ask()

    yield sweep


@contextmanager
def processes(visits: Visits, workers: int) -> Iterator[Sweep]:
    """Have worker processes visit networks, each another one; those that are left over share the rows of the others' networks.

    When a worker ends before its time, another one takes up what it was at; where two have ended at one network, its cells have
    failed. An error that would stop a run in one process stops all workers and is raised here.
    """
    visits.prepare()
    crew = _Crew(visits, workers)
    try:
        crew.begin()
        yield crew.sweep
        crew.tally.flush()
    finally:
        crew.end()
        visits.store.drop_claims()


@contextmanager
def ray(visits: Visits, workers: int) -> Iterator[Sweep]:
    """Have the tasks of a Ray cluster visit networks, as `cluster.OnRay` does where nothing else is said."""
    from traitline.study.cluster import OnRay

    with OnRay()(visits, workers) as sweep:
        yield sweep


EXECUTORS: dict[str, Executor] = {"local": local, "processes": processes, "ray": ray}


def find_executor(asked: str | Executor | None, workers: int) -> Executor:
    """Return an executor by its name, or the one for a number of workers where none was asked for.

    Raises:
        InputError: there is none of that name.
    """
    if asked is None:
        return processes if workers > 1 else local
    if not isinstance(asked, str):
        return asked
    if asked not in EXECUTORS:
        raise InputError(f"no executor is called {asked!r}; {nearest(asked, EXECUTORS)}")
    return EXECUTORS[asked]


class _Worker:
    """One worker process, seen from its driver."""

    def __init__(
        self, number: int, environment: dict[str, str], heard: queue.Queue[tuple[_Worker, dict[str, Any] | None]]
    ) -> None:
        self.number = number
        self.order: Visit | Join | None = None
        self.ready = False
        program = _PROGRAM.format(path=sys.path)
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        threading.Thread(target=self._hear, args=(heard,), daemon=True).start()

    def tell(self, **message: Any) -> None:
        """Send a message; a worker that has ended is noticed elsewhere."""
        with suppress(OSError):
            print(json.dumps(message), file=self._process.stdin, flush=True)

    def end(self) -> None:
        """Have the process end by itself (see `wait`), or at once where it has not begun."""
        if not self.ready:
            self._process.kill()
        with suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]

    def wait(self) -> str:
        """Wait until the process has ended, which it is made to if it does not by itself. Returns how it ended."""
        try:
            code = self._process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        with suppress(ValueError):
            return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"signal {-code}"

    def _hear(self, heard: queue.Queue[tuple[_Worker, dict[str, Any] | None]]) -> None:
        with suppress(ValueError, OSError):  # a line that a killed process left half written
            for line in self._process.stdout or ():
                heard.put((self, json.loads(line)))
        heard.put((self, None))


class _Crew:
    """The workers of one run."""

    def __init__(self, visits: Visits, workers: int) -> None:
        self.visits, self.count = visits, workers
        self.tally = Tally(visits.listener)
        self._heard: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self._stillborn = 0
        self._workers: list[_Worker] = []

    def begin(self) -> None:
        """Start all workers."""
        for number in range(self.count):
            self._workers.append(self._started(number))

    def sweep(self, phase: Phase) -> Iterator[Network]:
        """Have the networks of a phase visited, and yield each when it is settled."""
        networks, asked = list(phase.networks), False
        while networks:
            schedule = Schedule(networks, lambda network: self.visits.needed(phase, network))
            while not schedule.over:
                for worker in self._workers:
                    if worker.ready and worker.order is None:
                        self._give(worker, phase, schedule, asked=asked)
                settled = self._hear(phase, schedule)
                if settled is not None:
                    yield settled
            networks, asked = schedule.put_off, True
            self.visits.parts.ahead.ask()

    def end(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.end()
        for worker in self._workers:
            worker.wait()

    def _give(self, worker: _Worker, phase: Phase, schedule: Schedule, *, asked: bool) -> None:
        """Give an idle worker something to do, if there is something."""
        worker.order = order = schedule.next(worker)
        if isinstance(order, Visit):
            self.tally.begin(worker)
            worker.tell(
                do="visit",
                phase=phase.name,
                network=order.network.name,
                following=order.following and order.following.name,
                asked=asked,
                last_put_off=self.visits.plan.last in schedule.put_off,
            )
        elif isinstance(order, Join):
            cells = [[cell.network, cell.trait, cell.strategy] for cell in order.cells]
            worker.tell(do="join", phase=phase.name, network=order.network.name, stage=order.stage, cells=cells)

    def _hear(self, phase: Phase, schedule: Schedule) -> Network | None:
        """Wait until something happens, and see to it. Returns a network that was settled by it."""
        due = self.tally.due_seconds
        self.visits.store.check()
        try:
            worker, message = self._heard.get(timeout=LISTENING_SECONDS if due is None else due)
        except queue.Empty:
            if due is not None:
                self.tally.flush()
            return None
        if message is None:
            return self._replaced(worker, phase, schedule)
        said, order = message["said"], worker.order
        if said == "ready":
            worker.ready, self._stillborn = True, 0
        elif said == "error":
            raise error_of(message, order)
        elif said in {"worked", "skipped"} and order is not None:
            where = (phase.name, order.network.name)
            self.tally.told(worker, where, message["what"], message["rows"], worked=said == "worked")
        elif said == "begun":
            schedule.begun(worker, message["stage"], [Cell(*cell) for cell in message["cells"]])
        elif isinstance(order, Join):
            worker.order = None
            schedule.used_up(order)
        elif said == "put off":
            worker.order = None
            self.visits.wait_for_judging(schedule.wait_for_judging(worker))
        elif said == "settled":
            worker.order = None
            return schedule.settled(worker)
        return None

    def _replaced(self, worker: _Worker, phase: Phase, schedule: Schedule) -> Network | None:
        """Start another worker in the place of one that has ended. Returns its network, if that has failed by it."""
        how = worker.wait()
        self._stillborn += not worker.ready
        if self._stillborn >= STARTS:
            raise TraitlineError(f"worker processes end as they start ({how}); what they printed says why. Try --workers 1")
        self._workers[worker.number] = self._started(worker.number)
        failed = schedule.ended(worker, worker.order.network) if worker.order is not None else None
        if failed is not None:
            self.visits.give_up(
                phase,
                failed,
                f"{LIVES} worker processes ended while they worked on it, the last by {how}; if the memory was used up, run "
                "again with fewer workers",
            )
        return failed

    def _started(self, number: int) -> _Worker:
        config = self.visits.config
        worker = _Worker(number, environment(number, self.count, config.device), self._heard)
        out = str(self.visits.store.root.absolute())
        worker.tell(study=config.everything(), plan=self.visits.plan.digest, out=out, workers=self.count)
        return worker


def environment(number: int, workers: int, device: str | None) -> dict[str, str]:
    """Return the environment of one worker of several: its share of the GPUs, and of the cores unless that is set already.

    Args:
        number: which of them, from 0.
        workers: how many there are.
        device: the study's; where it names one, all share it, and with `auto` each spreads networks over its own GPUs.
    """
    found = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    found.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // workers)))
    there = torch.cuda.device_count() if device in {None, "cuda", "auto"} else 0
    if there:
        said = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = said.split(",")[:there] if said else [str(i) for i in range(there)]
        share = names[number * there // workers : (number + 1) * there // workers] if device == "auto" else []
        found["CUDA_VISIBLE_DEVICES"] = ",".join(share or [names[number % there]])
    return found


def error_of(message: dict[str, Any], order: Visit | Join | None) -> Exception:
    """Return the error that a worker met, of its own class where it is one of ours."""
    module, _, name = message["kind"].partition(":")
    if module.startswith(errors.__name__.partition(".")[0]):
        kind = getattr(importlib.import_module(module), name, None)
        if isinstance(kind, type) and issubclass(kind, TraitlineError):
            return kind(message["message"])
    where = f" at {order.network.name}" if order is not None else ""
    return RuntimeError(f"a worker process met {name}{where}: {message['message']}\n{message['trace']}")
