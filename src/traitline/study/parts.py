"""Rows generated and judged, batch by batch, each durable in a part file: a killed run repeats the batches under way, no more.

Knows drafts (generated, not judged), parts (judged), how many batches the network is given at once, and how several processes
share them: each claims a group of batches before it generates them, and one of the processes does the rest. Judging runs beside
generation, or waits for other networks. Leaves one batch's rows to `elicit.py`, which rows there are to `plan.py`, where files
lie to `store.py`, and judging in one go to `ahead.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from traitline.files import write_whole
from traitline.judges import Judge
from traitline.models import Intervention, Model
from traitline.study.accounts import Account
from traitline.study.ahead import Ahead
from traitline.study.config import Sampling
from traitline.study.elicit import generate_table, score_table, unanswered
from traitline.study.plan import Cell, Network, Plan, PlannedRow, batches
from traitline.study.store import RunStore, read_rows

Progress = Callable[[str, int], None]
"""Called with what is being done and how many rows of the plan were settled by it."""
Resolve = Callable[[PlannedRow], Intervention | None]

DRAFT = ".unjudged.parquet"
AT_ONCE = 4096
"""Rows that a GPU is given at once: enough to keep it full, few enough that a crash costs minutes. Elsewhere one batch."""
SHARED_AT_ONCE = 512
"""Where processes share a network, a stage is cut into at least two groups for each, but none smaller than this."""


@dataclass(frozen=True)
class Listener:
    """Who is told how a run goes.

    Attributes:
        worked: told of rows that were generated and judged.
        skipped: told of rows that are settled without work: done before, or without a vector.
        begun: told of the stage of a network whose rows are about to be made, and of its cells.
    """

    worked: Progress
    skipped: Progress
    begun: Callable[[str, Sequence[Cell]], None] = lambda _stage, _cells: None


@dataclass(frozen=True)
class Work:
    """What is to be generated at one stage of a network: planned rows, how they are sampled and what is done to each."""

    network: Network
    stage: str
    planned: Sequence[PlannedRow]
    sampling: Sampling
    resolve: Resolve


@dataclass(frozen=True, slots=True)
class _Batch:
    """One batch: its number, its rows, and how many of the plan's rows it settles."""

    number: int
    rows: list[PlannedRow]
    planned: int


class Parts:
    """The part files of one run.

    Args:
        plan: the study.
        store: where files lie.
        judge: who scores.
        listener: told of every settled batch, once.
        wanted: tells whether a planned row can be made; rows whose vector does not exist are left out of their batch.
        workers: how many processes share the run.
    """

    def __init__(
        self,
        plan: Plan,
        store: RunStore,
        judge: Judge,
        listener: Listener,
        wanted: Callable[[PlannedRow], bool],
        workers: int = 1,
    ) -> None:
        self._plan, self._store, self._judge, self._listener, self._wanted = plan, store, judge, listener, wanted
        self._workers = workers
        self.account = Account(store, judge)
        self.ahead = Ahead(judge, plan.traits, plan.config.asked, others=plan.config.evaluate.other_rubrics)
        self._told: set[tuple[str, str, int]] = set()

    def make(self, work: Work, model: Model) -> pd.DataFrame:
        """Generate and judge rows; a batch whose part file exists is read instead.

        Raises:
            PutOff: the rows are generated, and wait to be judged together with those of other networks.
        """
        network, stage = work.network.name, work.stage
        all_batches = self._batches(work)
        path = {one.number: self._part(work, one) for one in all_batches}
        left = {one.number for one in all_batches if one.rows and not path[one.number].is_file()}
        for one in all_batches:
            if one.number not in left:
                self._tell(self._listener.skipped, network, stage, one)
        put_off: list[tuple[_Batch, float]] = []
        with ThreadPoolExecutor(max_workers=1) as judging:
            pending: list[Future[None]] = []
            for whole in self._claimed(work, self._groups(all_batches, model)):
                group = [one for one in whole if one.number in left]
                took = self._generate(work, [one for one in group if not self._draft(path[one.number]).is_file()], model)
                _finish(pending)
                if self.ahead.wanted:
                    put_off += [(one, took / len(group)) for one in group]
                    continue
                pending = [judging.submit(self._score, work, one, took / len(group)) for one in group]
            _finish(pending)
        self.ahead.put_off([self._draft(path[one.number]) for one, _ in put_off])
        for one, took in put_off:
            self._score(work, one, took)
        tables = [self._answered(path[one.number]) for one in all_batches if one.rows]
        self.account.enter()
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    @contextmanager
    def shared(self, work: Work) -> Iterator[None]:
        """Let other processes generate a share of the rows as long as this lasts."""
        sign = self._store.shared(work.network.name, work.stage)
        if self._workers > 1:
            write_whole(sign, "")
        try:
            yield
        finally:
            sign.unlink(missing_ok=True)

    def share(self, work: Work, model: Model) -> None:
        """Generate what no process has claimed, the last rows first; judging is left to the one that makes them all."""
        sign = self._store.shared(work.network.name, work.stage)
        for group in reversed(list(self._groups(self._batches(work), model))):
            if not sign.is_file():
                return
            with self._store.claim(self._claim(work, group)) as mine:
                lacking = [one for one in group if mine and self._lacks(self._part(work, one))]
                if lacking and sign.is_file():  # looked at last: once it is gone, so may be the files that were looked for
                    self._generate(work, lacking, model)

    def drafts(self, network: Network) -> list[Path]:
        """Return the files of rows that are generated and not judged."""
        return sorted(self._store.parts(network.name).glob(f"*/*{DRAFT}"))

    def tell_anew(self) -> None:
        """Tell of every batch again that is met from now on."""
        self._told.clear()

    def tell_before(self, network: Network, stage: str, rows: int) -> None:
        """Tell that a stage was done by an earlier run, unless some of its batches were told of."""
        if not any(told[:2] == (network.name, stage) for told in self._told):
            self._listener.skipped(f"{network.name}: {stage} done before", rows)

    def _batches(self, work: Work) -> list[_Batch]:
        """Return the batches, without the rows that cannot be made."""
        return [
            _Batch(number, [row for row in batch if self._wanted(row)], len(batch))
            for number, batch in enumerate(batches(work.planned, self._plan.config.batch_rows))
        ]

    def _groups(self, all_batches: list[_Batch], model: Model) -> Iterator[list[_Batch]]:
        """Yield the batches as they are given to the network: the same to every process, whatever is done by now."""
        size = rows_at_once(model)
        if self._workers > 1:
            rows = sum(len(one.rows) for one in all_batches)
            size = min(size, max(SHARED_AT_ONCE, rows // (2 * self._workers)))
        return _groups([one for one in all_batches if one.rows], size)

    def _claimed(self, work: Work, groups: Iterator[list[_Batch]]) -> Iterator[list[_Batch]]:
        """Yield the groups with something left to do, claimed meanwhile: the free ones first, then what others had claimed."""
        todo = [group for group in groups if not all(self._part(work, one).is_file() for one in group)]
        if self._workers == 1:
            yield from todo
            return
        taken = []
        for group in todo:
            with self._store.claim(self._claim(work, group)) as mine:
                if mine:
                    yield group
                else:
                    taken.append(group)
        for group in taken:
            with self._store.claim(self._claim(work, group), wait=True):
                yield group

    def _part(self, work: Work, batch: _Batch) -> Path:
        return self._store.part(work.network.name, work.stage, batch.number)

    def _claim(self, work: Work, group: list[_Batch]) -> Path:
        return self._part(work, group[0]).with_suffix(".claim")

    @staticmethod
    def _draft(path: Path) -> Path:
        return path.with_suffix(DRAFT)

    def _lacks(self, path: Path) -> bool:
        """Tell whether a batch is still to be generated; drafts go when their part is there, so they are looked for first."""
        return not self._draft(path).is_file() and not path.is_file()

    def _generate(self, work: Work, group: list[_Batch], model: Model) -> float:
        """Generate batches in one go. Returns the seconds it took."""
        started = time.monotonic()
        rows = [row for one in group for row in one.rows]
        if rows:
            seed, tokens = self._plan.config.seed, work.network.tokens
            table = generate_table(model, rows, work.sampling, seed=seed, tokens=tokens, resolve=work.resolve)
            start = 0
            for one in group:
                draft = self._draft(self._part(work, one))
                self._store.write_rows(draft, table.iloc[start : start + len(one.rows)].reset_index(drop=True))
                start += len(one.rows)
        return time.monotonic() - started

    def _score(self, work: Work, batch: _Batch, generate_seconds: float) -> None:
        """Score one generated batch and write its part file."""
        started = time.monotonic()
        path = self._part(work, batch)
        draft = self._draft(path)
        rows = self._scored(read_rows(draft))
        self._store.write_rows(path, rows)
        draft.unlink()
        took = time.monotonic() - started
        self._store.note_batch(work.network.name, work.stage, batch.number, len(rows), generate_seconds, took)
        self._tell(self._listener.worked, work.network.name, work.stage, batch)

    def _tell(self, tell: Progress, network: str, stage: str, batch: _Batch) -> None:
        """Tell that a batch is settled, once, however often its network is visited."""
        if (network, stage, batch.number) not in self._told:
            self._told.add((network, stage, batch.number))
            tell(f"{network}: {stage}", batch.planned)

    def _answered(self, path: Path) -> pd.DataFrame:
        """Return a judged batch; rows that the judge left unanswered are judged once more, for by now it may answer."""
        rows = read_rows(path)
        again = unanswered(rows)
        if not again.any():
            return rows
        scored = self._scored(rows[again]).set_axis(rows.index[again])
        self._store.write_rows(path, pd.concat([rows[~again], scored]).sort_index())
        return read_rows(path)

    def _scored(self, rows: pd.DataFrame) -> pd.DataFrame:
        others = self._plan.config.evaluate.other_rubrics
        return score_table(rows, self._judge, self._plan.traits, wording=self._plan.config.asked, others=others)


def rows_at_once(model: Model) -> int:
    """Return how many rows a network is better given together; 0 where one batch is as good as many."""
    return AT_ONCE if model.device.type == "cuda" else 0


def _groups(todo: Sequence[_Batch], size: int) -> Iterator[list[_Batch]]:
    """Yield batches one after the other, as many together as have `size` rows; one at least."""
    group: list[_Batch] = []
    for one in todo:
        if group and sum(len(b.rows) for b in group) + len(one.rows) > size:
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _finish(pending: list[Future[None]]) -> None:
    """Wait for judging; if it fails, what is still queued behind it is not begun."""
    try:
        for one in pending:
            one.result()
    except BaseException:
        for one in pending:
            with suppress(Exception):
                one.cancel()
        raise
