"""The run directory: where everything lies, one driver at a time, nothing half written.

Knows paths, the schema of response parquets, the lock, and the ledger. A batch's part file is the durable unit of work; whether
something is done is read from the files, and the ledger says what happened. Leaves what is in the rows to `plan.py` and
`run.py`.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from filelock import FileLock, Timeout

from traitline.errors import StoreError
from traitline.files import sweep, write_whole
from traitline.lineages import safe_name
from traitline.study.plan import Cell, Plan
from traitline.vectors.vector import software

RESPONSES = pa.schema(
    [
        *((name, pa.string()) for name in ("row_key", "lineage", "checkpoint")),
        ("tokens", pa.int64()),
        *((name, pa.string()) for name in ("target", "trait", "strategy", "split", "polarity")),
        ("accepted", pa.bool_()),
        ("condition", pa.string()),
        ("control_seed", pa.int64()),
        *((name, pa.string()) for name in ("vector_checkpoint", "vector_trait", "vector_strategy")),
        ("layer", pa.int32()),
        ("dose", pa.string()),
        ("coef", pa.float64()),
        *((name, pa.string()) for name in ("positions", "question_id", "question", "instruction_id")),
        ("sample", pa.int32()),
        ("prompt", pa.string()),
        ("response", pa.string()),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("response_token_ids", pa.list_(pa.int32())),
        ("finish", pa.string()),
        ("trait_score", pa.float64()),
        ("coherence", pa.float64()),
        ("refusal", pa.bool_()),
        ("missing_reason", pa.string()),
        ("judge", pa.string()),
        ("control_kind", pa.string()),
        ("other_scores", pa.string()),
        ("facets", pa.string()),
        ("flagged", pa.bool_()),
    ]
)
"""One row per response. `control_kind`, `other_scores` (JSON: trait -> score) and `facets` (JSON list of those shown; null
where nobody looked) come after the columns of the contract."""

_LEDGER = """
create table if not exists cells (network text, trait text, strategy text, state text, reason text, seconds real, at text,
    primary key (network, trait, strategy));
create table if not exists targets (network text, trait text, strategy text, state text, reason text, seconds real, at text,
    primary key (network, trait, strategy));
create table if not exists readings (network text, trait text, strategy text, state text, reason text, seconds real, at text,
    primary key (network, trait, strategy));
create table if not exists batches (network text, stage text, number integer, rows integer, attempts integer, state text,
    generate_seconds real, judge_seconds real, at text, primary key (network, stage, number));
create table if not exists judging (judge text primary key, rows integer, requests integer, prompt_tokens integer,
    completion_tokens integer);
"""


class RunStore:
    """The files of one run."""

    def __init__(self, root: Path) -> None:
        self.root = root

    # Paths

    def cell(self, cell: Cell) -> Path:
        """Return the folder of a cell."""
        return self.root / "cells" / safe_name(cell.network) / safe_name(cell.trait) / safe_name(cell.strategy)

    def contrast(self, cell: Cell) -> Path:
        """Return the path of a cell's contrast rows."""
        return self.cell(cell) / "contrast.parquet"

    def vector(self, cell: Cell) -> Path:
        """Return the path of a cell's vectors."""
        return self.cell(cell) / "vector.safetensors"

    def evaluation(self, cell: Cell) -> Path:
        """Return the path of a cell's evaluated rows."""
        return self.cell(cell) / "evaluation.parquet"

    def transfer(self, cell: Cell) -> Path:
        """Return the path of the rows of one trait and strategy at one target."""
        folder = self.root / "targets" / safe_name(cell.network) / safe_name(cell.trait) / safe_name(cell.strategy)
        return folder / "transfer.parquet"

    def projections(self, target: str) -> Path:
        """Return the path of the projections of a target's baseline rows."""
        return self.root / "targets" / safe_name(target) / "projections.csv"

    def doses(self, network: str, stage: str) -> Path:
        """Return the path of the coefficients that were found at a network for the kl doses of a stage."""
        return self.root / "doses" / safe_name(network) / f"{stage}.csv"

    def meanings(self, network: str) -> Path:
        """Return the folder of what a network's vectors mean."""
        return self.root / "meanings" / safe_name(network)

    def readings(self, network: str) -> Path:
        """Return the path of what was read of the fixed texts at a checkpoint."""
        return self.root / "cells" / safe_name(network) / "readings.safetensors"

    def parts(self, network: str) -> Path:
        """Return the folder of a network's part files."""
        return self.root / "parts" / safe_name(network)

    def part(self, network: str, stage: str, number: int) -> Path:
        """Return the path of a batch's part file."""
        return self.parts(network) / stage / f"{number:06d}.parquet"

    def shared(self, network: str, stage: str) -> Path:
        """Return the path of the empty file that is there as long as other processes may generate a share of a stage."""
        return self.parts(network) / stage / "shared"

    def visit(self, network: str) -> Path:
        """Return the path of the claim of the process that is at a network."""
        return self.parts(network) / "visit.claim"

    @property
    def tables(self) -> Path:
        """Return the folder of the tables."""
        return self.root / "tables"

    @property
    def judge_cache(self) -> Path:
        """Return the path of the judge's cache."""
        return self.root / "judge-cache.sqlite"

    # The run as a whole

    @contextlib.contextmanager
    def driving(self) -> Iterator[None]:
        """Hold the run: one driver at a time.

        Raises:
            StoreError: another process holds it, or the folder cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / ".lock", timeout=0)
            lock.acquire()
        except Timeout as error:
            raise StoreError(
                f"another process is running the study in {str(self.root)!r}; wait for it, or give another --out"
            ) from error
        except OSError as error:
            raise StoreError(f"cannot write in {str(self.root)!r} ({error.strerror}); give another --out") from error
        try:
            sweep(self.root)
            yield
        finally:
            lock.release()

    @property
    def url(self) -> str:
        """Where other machines find the run."""
        return f"file://{self.root.absolute().as_posix()}"

    def check(self) -> None:
        """Stop a driver that no longer holds the run, which where there are locks cannot be."""

    def refresh(self, network: str) -> None:
        """Have here what others have written of a network; in a folder that all share, it is."""

    def forget(self, network: str) -> None:
        """Drop the parts of a network whose cells are written."""
        shutil.rmtree(self.parts(network), ignore_errors=True)

    @contextlib.contextmanager
    def claim(self, path: Path, *, wait: bool = False) -> Iterator[bool]:
        """Hold a piece of work, so that no other process does it meanwhile.

        The system takes a claim back when the process that holds it ends, however it ends. While it is held, its file holds
        the process's number.

        Args:
            path: the claim's file.
            wait: for as long as another process holds it.

        Yields:
            Whether it is held; not, either, where its folder is removed at that moment.

        Raises:
            StoreError: the file system has no locks, or the folder cannot be written.
        """
        lock = FileLock(path, timeout=-1 if wait else 0)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except (Timeout, FileNotFoundError):
            yield False
            return
        except (OSError, NotImplementedError) as error:
            raise StoreError(
                f"cannot claim {str(path)!r} ({error}); several processes need a folder with file locks: give another --out, "
                "or run with --workers 1"
            ) from error
        with contextlib.suppress(OSError):  # Windows lets nobody write in a locked file
            path.write_text(str(os.getpid()))
        try:
            yield True
        finally:
            lock.release()

    def drop_claims(self) -> None:
        """Remove the files of claims, which nobody holds any more, and folders that are empty then."""
        for claim in self.root.glob("parts/**/*.claim"):
            claim.unlink(missing_ok=True)
        for folder in sorted(self.root.glob("parts/**/"), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def begin(self, plan: Plan) -> None:
        """Write study.yaml, or check that the one there is of the same plan.

        Raises:
            StoreError: the folder holds the results of another plan, which are never overwritten.
        """
        path = self.root / "study.yaml"
        if path.is_file():
            try:
                found = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("plan")
            except (yaml.YAMLError, AttributeError) as error:
                raise StoreError(f"{str(path)!r} is broken ({error}); give another --out") from error
            if found == plan.digest:
                return
            if next(self.root.rglob("*.parquet"), None) is not None:
                raise StoreError(
                    f"{str(self.root)!r} holds the results of another study (plan {found}, this one is {plan.digest}); "
                    "give another --out, or delete the folder if you do not need it"
                )
        write_whole(path, yaml.safe_dump(_resolved(plan), sort_keys=False, allow_unicode=True))
        with self._ledger() as ledger:
            ledger.executescript(_LEDGER)

    # Response rows

    def write_rows(self, path: Path, rows: pd.DataFrame) -> None:
        """Write response rows in the contract's schema."""
        frame = rows.reindex(columns=RESPONSES.names)
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pandas(frame, schema=RESPONSES, preserve_index=False), buffer, compression="zstd")
        write_whole(path, buffer.getvalue())

    # The ledger

    def note_cell(self, cell: Cell, state: str, reason: str | None, *, seconds: float = 0.0, table: str = "cells") -> None:
        """Record the state of a cell or target: `complete`, `no_vector` or `failed`."""
        values = (cell.network, cell.trait, cell.strategy, state, reason, seconds, _now())
        self.execute(f"insert or replace into {table} values (?, ?, ?, ?, ?, ?, ?)", values)  # noqa: S608

    def note_batch(self, network: str, stage: str, number: int, rows: int, generate: float, judge: float) -> None:
        """Record a finished batch and what it took, in seconds."""
        self.execute(
            "insert into batches values (?, ?, ?, ?, 1, 'complete', ?, ?, ?) on conflict do update set "
            "attempts = attempts + 1, generate_seconds = excluded.generate_seconds, "
            "judge_seconds = excluded.judge_seconds, at = excluded.at",
            (network, stage, number, rows, generate, judge, _now()),
        )

    def note_judging(self, judge: str, rows: int, usage: dict[str, int]) -> None:
        """Add to what the judge was asked and what it cost."""
        cost = [usage.get(field, 0) for field in ("requests", "prompt_tokens", "completion_tokens")]
        self.execute(
            "insert into judging values (?, ?, ?, ?, ?) on conflict do update set rows = rows + excluded.rows, requests = "
            "requests + excluded.requests, prompt_tokens = prompt_tokens + excluded.prompt_tokens, "
            "completion_tokens = completion_tokens + excluded.completion_tokens",
            (judge, rows, *cost),
        )

    def ledger(self, table: str) -> pd.DataFrame:
        """Return one table of the ledger: `cells`, `targets`, `batches` or `judging`."""
        with self._ledger() as ledger:
            ledger.executescript(_LEDGER)
            return pd.read_sql_query(f"select * from {table}", ledger)  # noqa: S608

    def execute(self, statement: str, values: tuple[Any, ...]) -> None:
        """Write in the ledger."""
        with self._ledger() as ledger:
            ledger.execute(statement, values)

    @contextlib.contextmanager
    def _ledger(self) -> Iterator[sqlite3.Connection]:
        path = self.root / "ledger.sqlite"
        try:
            connection = sqlite3.connect(path, timeout=30)
            try:
                connection.executescript(_LEDGER)
                with connection:
                    yield connection
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise StoreError(
                f"the ledger {str(path)!r} cannot be used ({error}). If the disk is full, free some space; if the file is "
                "broken, delete it: results do not depend on it"
            ) from error


def read_rows(path: Path) -> pd.DataFrame:
    """Read response rows.

    Raises:
        StoreError: the file is truncated or is no response file.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(
            f"{str(path)!r} is broken ({str(error).splitlines()[0]}); delete it and run again: only what it held is made anew"
        ) from error
    if "flagged" not in table.column_names:  # a file from before texts that address the judge were looked for
        table = table.append_column("flagged", pa.nulls(len(table), pa.bool_()))
    missing = [name for name in RESPONSES.names if name not in table.column_names]
    if missing:
        raise StoreError(f"{str(path)!r} lacks the columns {', '.join(missing)}; it is no response file of this version")
    frame: pd.DataFrame = table.select(RESPONSES.names).to_pandas()
    return frame


def _resolved(plan: Plan) -> dict[str, Any]:
    """Return what study.yaml holds: the plan's digest, versions, the study, and everything it was resolved to."""
    import numpy
    import torch
    import transformers

    versions = {"numpy": numpy.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    return {
        "plan": plan.digest,
        "versions": {"software": software(), **{name: str(version) for name, version in versions.items()}},
        "threads": torch.get_num_threads(),
        "study": plan.config.model_dump(mode="json"),
        "resolved": {
            "lineage": plan.lineage.name,
            "checkpoints": [{"name": n.name, "tokens": n.tokens, "revision": n.revision} for n in plan.checkpoints],
            "targets": [n.name for n in plan.targets],
            "descendants": [n.name for n in plan.descendants],
            "traits": {name: trait.digest for name, trait in plan.traits.items()},
        },
    }


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
