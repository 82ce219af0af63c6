"""How far a run is, read from its directory alone: states, rows, rates, time left, what is being done now.

Knows the ledger's batches and the files of work in progress. It only reads, so that any terminal may look at a run that another
process is at, and it takes nothing for granted: what cannot be read is None, never 0. Leaves drawing to `live.py`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from traitline.cli.console import duration
from traitline.cli.progress import WARM_SECONDS, time_left
from traitline.errors import TraitlineError
from traitline.study import run_status
from traitline.study.config import StudyConfig
from traitline.study.costs import describe_spending
from traitline.study.estimate import counted
from traitline.study.plan import Plan, make_plan
from traitline.study.store import RunStore
from traitline.study.study import run_spending

WINDOW_SECONDS = 300.0
"""Rates are those of batches finished in so many seconds before the last one."""
ALONE_SECONDS = 60.0
"""In less time than this, several workers cannot be told from one."""
SPENT_SECONDS = 5.0
QUIET_SECONDS = 60.0
"""After so long without a finished batch, the time left is that from when there is one again, which is said."""
STILL_SECONDS = 600.0
"""After so long, somebody should see whether the run is still alive."""
STAGES = {"cells": ("elicit", "evaluate"), "targets": ("transfer",)}
WAITING, WORKING = "waiting", "in work"


@dataclass(frozen=True)
class Stage:
    """What is being done: a network's stage, its rows so far, and how many there are at most (None where nobody knows)."""

    network: str
    stage: str
    done: int
    planned: int | None

    def __str__(self) -> str:
        rows = f"{self.done:,}" if self.planned is None else f"{min(self.done, self.planned):,} of {self.planned:,}"
        return f"{self.network}: {self.stage}, {rows} rows"


@dataclass(frozen=True)
class Look:
    """How far a run is.

    Attributes:
        cells: phase, network, trait, strategy, state, reason, seconds; state is `in work` where files show it.
        doing: what is being done now, or was when the run stopped.
        rows_done: rows of batches that are finished.
        rows_left: rows still to make, at most; None where the plan cannot be made again.
        rows_per_second: of late.
        tokens_per_second: of late, of responses.
        quiet_seconds: since the last batch was finished.
        spent: what judging has cost, in a sentence.
    """

    cells: pd.DataFrame
    doing: tuple[Stage, ...] = ()
    rows_done: int = 0
    rows_left: int | None = None
    rows_per_second: float | None = None
    tokens_per_second: float | None = None
    quiet_seconds: float | None = None
    spent: str | None = None

    @property
    def over(self) -> bool:
        """Whether every cell and target has a state."""
        return not self.cells["state"].isin((WAITING, WORKING)).any()

    @property
    def seconds_left(self) -> float | None:
        """The time left at the rate of late; None before there is one."""
        if self.over or self.rows_left == 0:
            return 0.0
        return self.rows_left / self.rows_per_second if self.rows_left and self.rows_per_second else None

    def as_data(self) -> dict[str, Any]:
        """Return all but the cells as plain data."""
        return {
            "doing": [asdict(one) for one in self.doing],
            "rows_done": self.rows_done,
            "rows_left": self.rows_left,
            "rows_per_second": self.rows_per_second,
            "tokens_per_second": self.tokens_per_second,
            "seconds_left": self.seconds_left,
            "seconds_since_last_batch": self.quiet_seconds,
        }

    def phrases(self) -> list[str]:
        """Return rows, rates and time left in words, as far as they are known."""
        total = f" of at most {self.rows_done + self.rows_left:,}" if self.rows_left else ""
        told = [f"{self.rows_done:,}{total} rows"]
        if self.rows_per_second is not None:
            told.append(f"{self.rows_per_second:,.1f} rows/s")
        if self.tokens_per_second is not None:
            told.append(f"{self.tokens_per_second:,.0f} tokens/s")
        told.append("done" if self.over else time_left(self.seconds_left))
        if self.quiet_seconds is not None and not self.over and self.quiet_seconds >= QUIET_SECONDS:
            alive = ": is it still running?" if self.quiet_seconds >= STILL_SECONDS else ""
            told.append(f"no batch for {duration(self.quiet_seconds)}{alive}")
        return told


@dataclass
class RunLook:
    """Looks at one run, again and again.

    Attributes:
        out: the run directory.
        plan: the study's plan; made from the run's study.yaml where left out, if it still can be.
        whole: whether to count all rows that are left, which takes seconds for a large study.
    """

    out: Path
    plan: Plan | None = None
    whole: bool = True
    _counts: dict[Any, int] = field(default_factory=dict, init=False)
    _unplanned: bool = field(default=False, init=False)
    _length: dict[Path, float] = field(default_factory=dict, init=False)
    _spent: tuple[float, str | None] = field(default=(-SPENT_SECONDS, None), init=False)

    def __call__(self) -> Look:
        """Look.

        Raises:
            InputError: no run lies there.
            StoreError: its files are damaged.
        """
        cells = run_status(self.out)
        store = RunStore(self.out)
        batches = store.ledger("batches")
        made: Counter[tuple[str, str]] = Counter()
        for one in batches.itertuples(index=False):
            made[str(one.network), str(one.stage)] += int(str(one.rows))
        doing = self._doing(store, cells, made)
        working = {(one.network, one.stage) for one in doing}
        for i, row in enumerate(cells.itertuples()):
            if row.state == WAITING and any((row.network, stage) in working for stage in STAGES[str(row.phase)]):
                cells.loc[cells.index[i], "state"] = WORKING
        rate = _rows_per_second(batches)
        length = self._tokens_per_row(store, doing)
        return Look(
            cells=cells,
            doing=doing,
            rows_done=int(batches["rows"].sum()) if len(batches) else 0,
            rows_left=self._rows_left(cells, made) if self.whole else None,
            rows_per_second=rate,
            tokens_per_second=rate * length if rate is not None and length is not None else None,
            quiet_seconds=max(0.0, time.time() - max(map(_seconds, batches["at"]))) if len(batches) else None,
            spent=self._money(),
        )

    def _doing(self, store: RunStore, cells: pd.DataFrame, made: Mapping[tuple[str, str], int]) -> tuple[Stage, ...]:
        """Return the stage of each network that has files of work in progress: the one that was touched last."""
        found = []
        for phase, network in _unsettled(cells):
            folders = [store.parts(network) / stage for stage in STAGES[phase]]
            touched = {path.name: path.stat().st_mtime for path in folders if path.is_dir()}
            if touched:
                stage = max(touched, key=lambda name: touched[name])
                found.append(Stage(network, stage, made.get((network, stage), 0), self._planned(phase, network, stage)))
        return tuple(found)

    def _rows_left(self, cells: pd.DataFrame, made: Mapping[tuple[str, str], int]) -> int | None:
        """Return the rows still to be made: none where all cells of a network are settled, else what is not there."""
        left = 0
        for phase, network in _unsettled(cells):
            for stage in STAGES[phase]:
                planned = self._planned(phase, network, stage)
                if planned is None:
                    return None
                left += max(0, planned - made.get((network, stage), 0))
        return left

    def _planned(self, phase: str, network: str, stage: str) -> int | None:
        """Return how many rows a stage of a network has at most; None where the plan is not known."""
        if self.plan is None and not self._unplanned:
            self.plan = _planned_again(self.out)
            self._unplanned = self.plan is None
        if self.plan is None:
            return None
        if stage == "evaluate" and any(one.name == network for one in self.plan.descendants):
            return 0
        known = [*self.plan.checkpoints, *self.plan.descendants, *self.plan.targets]
        one = next((one for one in known if one.name == network), None)
        if one is None:
            return None
        kind = (stage, one == self.plan.last, tuple((cell.trait, cell.strategy) for cell in self.plan.cells(one)))
        if kind not in self._counts:
            self._counts[kind] = counted(self.plan, one, stage)[0]
        return self._counts[kind]

    def _tokens_per_row(self, store: RunStore, doing: Sequence[Stage]) -> float | None:
        """Return the mean length of the responses of the part file that was written last; that of the last look without one."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        files = [path for one in doing for path in (store.parts(one.network) / one.stage).glob("[0-9]*[0-9].parquet")]
        newest = max(files, key=lambda path: path.name, default=None)
        if newest is not None and newest not in self._length:
            try:
                lengths = pq.read_table(newest, columns=["response_token_ids"]).column(0).combine_chunks().value_lengths()
                values = [one for one in lengths.to_pylist() if one is not None]
                if values:
                    self._length = {newest: sum(values) / len(values)}
            except (OSError, pa.ArrowException):  # it was moved into a cell meanwhile
                pass
        return next(iter(self._length.values()), None)

    def _money(self) -> str | None:
        at, told = self._spent
        if time.monotonic() - at >= SPENT_SECONDS:
            told = describe_spending(run_spending(self.out))
            self._spent = (time.monotonic(), told)
        return told


def _planned_again(out: Path) -> Plan | None:
    """Return the plan of a run from its study.yaml; None where traits or lineage have changed or are gone."""
    try:
        found = yaml.safe_load((out / "study.yaml").read_text(encoding="utf-8"))
        plan = make_plan(StudyConfig.model_validate(found["study"]))
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError, TraitlineError):
        return None
    return plan if plan.digest == found.get("plan") else None


def _unsettled(cells: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (phase, network) of which cells are not done, or have failed and may be done again."""
    found = cells.loc[cells["state"].isin((WAITING, WORKING, "failed")), ["phase", "network"]].drop_duplicates()
    return [(str(phase), str(network)) for phase, network in found.itertuples(index=False, name=None)]


def _rows_per_second(batches: pd.DataFrame) -> float | None:
    """Return the rate of the batches finished last.

    One process makes batches one after the other: the time is what they took. Of several, only the clock tells.
    """
    if batches.empty:
        return None
    at = batches["at"].map(_seconds)
    late = batches[at >= at.max() - WINDOW_SECONDS]
    clock = float(at.max() - at[late.index].min())
    took = float(max(late["generate_seconds"].sum(), late["judge_seconds"].sum()))
    seconds = clock if clock >= ALONE_SECONDS and took > 1.5 * clock else max(clock, took)
    return float(late["rows"].sum()) / seconds if seconds >= WARM_SECONDS else None


def _seconds(at: str) -> float:
    """Return a time of the ledger in seconds since 1970."""
    return datetime.fromisoformat(at).timestamp()


def network_order(cells: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (phase, network) in the order of the study."""
    return list(cells[["phase", "network"]].drop_duplicates().itertuples(index=False, name=None))
