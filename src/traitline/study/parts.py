"""Rows generated and judged, batch by batch, each durable in a part file: a killed run repeats the batches under way, no more.

Knows drafts (generated, not judged), parts (judged), and how many batches the network is given at once. Judging runs beside
generation, or waits for other networks. Leaves one batch's rows to `elicit.py`, which rows there are to `plan.py`, where files
lie to `store.py`, and judging in one go to `ahead.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from traitline.judges import Judge
from traitline.models import Intervention, Model
from traitline.study.accounts import Account
from traitline.study.ahead import Ahead
from traitline.study.config import Sampling
from traitline.study.elicit import generate_table, score_table, unanswered
from traitline.study.plan import Network, Plan, PlannedRow, batches
from traitline.study.store import RunStore, read_rows

Progress = Callable[[str, int], None]
"""Called with what is being done and how many rows of the plan were settled by it."""
Resolve = Callable[[PlannedRow], Intervention | None]

AT_ONCE = 4096
"""Rows that a GPU is given at once: enough to keep it full, few enough that a crash costs minutes. Elsewhere one batch."""


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
        progress: told of every settled batch, once.
        wanted: tells whether a planned row can be made; rows whose vector does not exist are left out of their batch.
    """

    def __init__(
        self, plan: Plan, store: RunStore, judge: Judge, progress: Progress, wanted: Callable[[PlannedRow], bool]
    ) -> None:
        self._plan, self._store, self._judge, self._progress, self._wanted = plan, store, judge, progress, wanted
        self.account = Account(store, judge)
        self.ahead = Ahead(judge, plan.traits, plan.config.asked, others=plan.config.evaluate.other_rubrics)
        self._told: set[tuple[str, str, int]] = set()

    def make(
        self, network: Network, stage: str, planned: Sequence[PlannedRow], sampling: Sampling, model: Model, resolve: Resolve
    ) -> pd.DataFrame:
        """Generate and judge rows; a batch whose part file exists is read instead.

        Raises:
            PutOff: the rows are generated, and wait to be judged together with those of other networks.
        """
        all_batches = [
            _Batch(number, [row for row in batch if self._wanted(row)], len(batch))
            for number, batch in enumerate(batches(planned, self._plan.config.batch_rows))
        ]
        path = {one.number: self._store.part(network.name, stage, one.number) for one in all_batches}
        todo = [one for one in all_batches if one.rows and not path[one.number].is_file()]
        left = {one.number for one in todo}
        for one in all_batches:
            if one.number not in left:
                self._tell(network.name, stage, one.number, one.planned)
        put_off: list[tuple[_Batch, float]] = []
        with ThreadPoolExecutor(max_workers=1) as judging:
            pending: list[Future[None]] = []
            for group in _groups(todo, rows_at_once(model)):
                drafts = [self._draft(path[one.number]) for one in group]
                took = self._generate(network, group, drafts, sampling, model, resolve)
                _finish(pending)
                if self.ahead.wanted:
                    put_off += [(one, took) for one in group]
                    continue
                pending = [judging.submit(self._score, network.name, stage, one, path[one.number], took) for one in group]
            _finish(pending)
        self.ahead.put_off([self._draft(path[one.number]) for one, _ in put_off])
        for one, took in put_off:
            self._score(network.name, stage, one, path[one.number], took)
        tables = [self._answered(path[one.number]) for one in all_batches if one.rows]
        self.account.enter()
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    def tell_before(self, network: Network, stage: str, rows: int) -> None:
        """Tell that a stage was done by an earlier run, unless some of its batches were told of."""
        if not any(told[:2] == (network.name, stage) for told in self._told):
            self._progress(f"{network.name}: {stage} done before", rows)

    @staticmethod
    def _draft(path: Path) -> Path:
        return path.with_suffix(".unjudged.parquet")

    def _generate(
        self, network: Network, group: list[_Batch], drafts: list[Path], sampling: Sampling, model: Model, resolve: Resolve
    ) -> float:
        """Generate what has no draft yet, in one go. Returns the seconds for each batch of the group, on average."""
        started = time.monotonic()
        todo = [(one, draft) for one, draft in zip(group, drafts, strict=True) if not draft.is_file()]
        rows = [row for one, _ in todo for row in one.rows]
        if rows:
            seed = self._plan.config.seed
            table = generate_table(model, rows, sampling, seed=seed, tokens=network.tokens, resolve=resolve)
            start = 0
            for one, draft in todo:
                self._store.write_rows(draft, table.iloc[start : start + len(one.rows)].reset_index(drop=True))
                start += len(one.rows)
        return (time.monotonic() - started) / len(group)

    def _score(self, network: str, stage: str, batch: _Batch, path: Path, generate_seconds: float) -> None:
        """Score one generated batch and write its part file."""
        started = time.monotonic()
        draft = self._draft(path)
        rows = self._scored(read_rows(draft))
        self._store.write_rows(path, rows)
        draft.unlink()
        self._store.note_batch(network, stage, batch.number, len(rows), generate_seconds, time.monotonic() - started)
        self._tell(network, stage, batch.number, batch.planned)

    def _tell(self, network: str, stage: str, number: int, rows: int) -> None:
        """Tell that a batch is settled, once, however often its network is visited."""
        if (network, stage, number) not in self._told:
            self._told.add((network, stage, number))
            self._progress(f"{network}: {stage}", rows)

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
