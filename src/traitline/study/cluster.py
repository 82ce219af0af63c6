"""A run on a Ray cluster: every visit is a task that Ray places on a node with room for it, and this process drives.

A task is one checkpoint or one target (`errand.py`): it exchanges files with the run directory, which lies in a folder that all
nodes see or in an object store, and tells what happens by a stream of messages. A task that ends before its time, with its
worker or with its node, is given out again; where that has happened too often at one network, its cells have failed. Knows Ray,
which is imported only here. Leaves what comes next to `schedule.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from traitline.errors import InputError
from traitline.judges import Score
from traitline.study.costs import api_model
from traitline.study.errand import LAST_WORDS, Errand, run_errand
from traitline.study.executors import LISTENING_SECONDS, Sweep, error_of
from traitline.study.plan import Network, Plan
from traitline.study.schedule import LIVES, Schedule, Visit
from traitline.study.tally import Tally
from traitline.study.visits import Phase, Visits
from traitline.study.worker import Message

QUESTIONS_AT_ONCE = 32
"""So many tasks' responses are judged at the same time, where the driver asks."""


@dataclass(frozen=True)
class OnRay:
    """An executor: the tasks of a Ray cluster.

    Attributes:
        address: of the cluster, as `ray.init` takes it; where left out, the one in `RAY_ADDRESS`, else one is started here.
        gpus: for each task; where left out, one if the cluster has GPUs, else none.
        cpus: for each task, which has as many threads.
    """

    address: str | None = None
    gpus: float | None = None
    cpus: float = 1.0

    @contextmanager
    def __call__(self, visits: Visits, workers: int) -> Iterator[Sweep]:
        """Connect to the cluster, and give what visits the networks of a phase there.

        Args:
            visits: the run's.
            workers: how many tasks there are at once, at most; 0 for as many as there are networks.

        Raises:
            InputError: Ray is not installed, the cluster cannot be reached or has no room for a task, or no node but this
                one can see the run directory.
        """
        ray = _ray()
        if visits.store.url.startswith("memory://"):
            raise InputError("a run in memory:// is seen by no other process; give a folder that all nodes see, or a bucket")
        if (self.address or "").startswith("ray://"):
            raise InputError(
                f"{self.address!r} is for Ray clients; start the run on a node of the cluster, with 'auto' as address"
            )
        mine = not ray.is_initialized()
        if mine:
            self._connect(ray)
        try:
            with suppress(InputError):  # pins commits; whether files fit is a matter of each node's disk
                visits.prepare()
            fleet = _Fleet(ray, visits, workers, self._resources(ray))
            try:
                yield fleet.sweep
                fleet.tally.flush()
            finally:
                fleet.end()
        finally:
            if mine:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        try:
            ray.init(address=self.address, log_to_driver=False, logging_level="warning", include_dashboard=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = "a Ray cluster" if self.address is None else f"the Ray cluster at {self.address!r}"
            raise InputError(
                f"{where} cannot be reached ({error}); start one with 'ray start --head', or give its address"
            ) from error

    def _resources(self, ray: Any) -> dict[str, float]:
        """Return what a task takes.

        Raises:
            InputError: no node has that much.
        """
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = self.gpus if self.gpus is not None else float(any(node.get("GPU", 0) >= 1 for node in nodes))
        if not any(node.get("GPU", 0) >= gpus and node.get("CPU", 0) >= self.cpus for node in nodes):
            most = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
            raise InputError(
                f"a task takes {self.cpus:g} CPUs and {gpus:g} GPUs, and no node of the Ray cluster has that many (there are "
                f"nodes of {most}); set --task-cpus and --task-gpus"
            )
        return {"num_cpus": self.cpus, "num_gpus": gpus}


class _Mailbox:
    """Where the answers of the driver's judge lie until the task that asked takes them. An actor."""

    def __init__(self) -> None:
        self._answers: dict[tuple[int, int], list[Score]] = {}
        self._there: dict[tuple[int, int], asyncio.Event] = {}

    async def put(self, key: tuple[int, int], answer: list[Score]) -> None:
        self._answers[key] = answer
        self._there.setdefault(key, asyncio.Event()).set()

    async def take(self, key: tuple[int, int]) -> list[Score]:
        await self._there.setdefault(key, asyncio.Event()).wait()
        del self._there[key]
        return self._answers.pop(key)


class _Fleet:
    """The tasks of one run."""

    def __init__(self, ray: Any, visits: Visits, workers: int, resources: dict[str, float]) -> None:
        self.visits, self.most = visits, workers or len(visits.plan.checkpoints) + len(visits.plan.targets)
        self.tally = Tally(visits.listener)
        self._ray = ray
        self._plan = ray.put(visits.plan)
        self._task = ray.remote(_errand).options(
            **resources, num_returns="streaming", max_retries=0, scheduling_strategy="SPREAD"
        )
        self._tasks: dict[Any, tuple[int, Network]] = {}  # stream -> number, network
        self._begun = 0
        self._answering = ThreadPoolExecutor(QUESTIONS_AT_ONCE, thread_name_prefix="traitline-answers")
        self._answers: list[Future[None]] = []
        self._mailbox = self._started_mailbox() if api_model(visits.config) is not None else None

    def sweep(self, phase: Phase) -> Iterator[Network]:
        """Have the networks of a phase visited, and yield each when it is settled."""
        networks, asked = list(phase.networks), False
        while networks:
            schedule = Schedule(networks, lambda network: self.visits.needed(phase, network))
            while not schedule.over:
                yield from self._give(phase, schedule, asked=asked)
                yield from self._hear(phase, schedule)
            networks, asked = schedule.put_off, True
            self.visits.parts.ahead.ask()

    def end(self) -> None:
        """End all tasks."""
        self._answering.shutdown(wait=False, cancel_futures=True)
        for stream in self._tasks:
            with suppress(Exception):  # it may be over, or its node gone
                self._ray.cancel(stream, force=True)

    def _give(self, phase: Phase, schedule: Schedule, *, asked: bool) -> Iterator[Network]:
        """Begin tasks as long as there is something for them; yield what was done before."""
        while len(self._tasks) < self.most:
            number = self._begun = self._begun + 1
            visit = schedule.next(number)
            if not isinstance(visit, Visit):
                return
            network = visit.network
            if self.visits.settled_before(phase, network):
                yield schedule.settled(number)
                continue
            judge = self.visits.judge
            errand = Errand(
                url=self.visits.store.url,
                phase=phase.name,
                network=network.name,
                judge=judge.name if self._mailbox is not None else None,
                batches=self.visits.parts.ahead.wanted,
                asked=asked,
                last_put_off=self.visits.plan.last in schedule.put_off,
            )
            self.tally.begin(number)
            stream = self._task.remote(errand, self._plan, self._mailbox, number)
            self._tasks[stream] = (number, network)

    def _hear(self, phase: Phase, schedule: Schedule) -> Iterator[Network]:
        """Wait until something happens, and see to it. Yields networks that were settled by it."""
        self.visits.store.check()
        self._look_at_answers()
        due = self.tally.due_seconds
        if due == 0:
            self.tally.flush()
        if not self._tasks:
            return
        timeout = LISTENING_SECONDS if not due else min(due, LISTENING_SECONDS)
        ready, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=timeout, fetch_local=False)
        for stream in ready:
            number, network = self._tasks[stream]
            try:
                message = self._ray.get(next(stream))
            except StopIteration:
                settled = self._gone(phase, schedule, stream, "its messages broke off")
            except self._ray.exceptions.RayError as error:
                settled = self._gone(phase, schedule, stream, type(error).__name__)
            else:
                settled = self._obey(phase, schedule, number, network, message)
                if message["said"] in LAST_WORDS:
                    del self._tasks[stream]
            if settled is not None:
                yield settled

    def _obey(self, phase: Phase, schedule: Schedule, number: int, network: Network, message: Message) -> Network | None:
        """Do what a message asks for. Returns the network if it is settled by it."""
        said = message["said"]
        if said == "error":
            raise error_of(message, Visit(network, None))
        if said in {"worked", "skipped"}:
            where = (phase.name, network.name)
            self.tally.told(number, where, message["what"], message["rows"], worked=said == "worked")
        elif said == "noted":
            self.visits.store.execute(message["statement"], tuple(message["values"]))
        elif said == "judge":
            self._answers.append(self._answering.submit(self._answer, number, message))
        elif said == "put off":
            self.visits.store.refresh(network.name)
            self.visits.wait_for_judging(schedule.wait_for_judging(number))
        elif said == "settled":
            self.visits.store.refresh(network.name)
            if phase.rows is not None and self.visits.done(phase, network):
                self.visits.store.forget(network.name)
            return schedule.settled(number)
        return None

    def _gone(self, phase: Phase, schedule: Schedule, stream: Any, how: str) -> Network | None:
        """Have the network of a task that has ended before its time taken up again. Returns it if it has failed by it."""
        number, network = self._tasks.pop(stream)
        failed = schedule.ended(number, network)
        if failed is not None:
            self.visits.store.refresh(network.name)
            reason = (
                f"{LIVES} tasks ended while they worked on it, the last by {how}; if the memory of a node was used up, run "
            )
            self.visits.give_up(phase, failed, reason + "again with more CPUs for each task")
        return failed

    def _answer(self, number: int, message: Message) -> None:
        """Judge what a task asks about."""
        trait = self.visits.plan.traits[message["trait"]]
        options = {"style": message["style"], "purpose": message["purpose"]}
        scores = self.visits.judge.score(trait, message["questions"], message["answers"], **options)
        self._ray.get(self._mailbox.put.remote((number, message["number"]), scores))  # type: ignore[union-attr]

    def _look_at_answers(self) -> None:
        """Raise what the judge has met."""
        over = [answer for answer in self._answers if answer.done()]
        self._answers = [answer for answer in self._answers if not answer.done()]
        for answer in over:
            answer.result()

    def _started_mailbox(self) -> Any:
        """Start the mailbox beside this process, so that it is lost with no other node."""
        here = self._ray.get_runtime_context().get_node_id()
        beside = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        actor = self._ray.remote(_Mailbox).options(num_cpus=0, max_concurrency=1000, scheduling_strategy=beside)
        return actor.remote()


def _errand(errand: Errand, plan: Plan, mailbox: Any, number: int) -> Iterator[Message]:
    """Be a task."""
    ray = _ray()

    def answer(question: int) -> list[Score]:
        found: list[Score] = ray.get(mailbox.take.remote((number, question)))
        return found

    yield from run_errand(errand, plan, answer)


def _ray() -> Any:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise InputError(
            f"runs on a Ray cluster need a package that is not installed ({error}); pip install 'traitline[ray]'"
        ) from error
    return ray
