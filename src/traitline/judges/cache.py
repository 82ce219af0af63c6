"""The judge cache: one SQLite file that keeps every judgement, so that none is paid for twice.

Knows keys, JSON values and what they cost. Leaves the file's tables to `schema.py`, to each judge what a value holds, and to
the caller where the file lies. A key is the hash of who judges and of all that was asked; no key of a service or address is
stored. A judgement is on the disk when `put` returns; what several threads put at once is written together, as waiting for the
disk is most of the cost. What was paid is kept in the same transaction, so that a budget outlives its process.
Many threads may share one `JudgeCache`, and several processes one file.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from traitline.errors import StoreError
from traitline.judges import schema
from traitline.judges.claims import Claims
from traitline.judges.spending import Spending

Json = Any
"""Anything `json.dumps` takes."""


BUSY_SECONDS = 30.0
_KEYS_PER_QUERY = 500
_TOTALS = """
SELECT count(*), coalesce(sum(requests), 0), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0)
FROM judgements
"""


@dataclass(frozen=True, slots=True)
class CacheCounts:
    """What a cache did and holds.

    Attributes:
        hits: keys found by `get_many` since this cache was opened.
        misses: keys not found since then.
        entries: judgements in the file.
        requests: requests that all judgements in the file took, ever.
        prompt_tokens: tokens sent for them.
        completion_tokens: tokens received for them.
    """

    hits: int
    misses: int
    entries: int
    requests: int
    prompt_tokens: int
    completion_tokens: int


def cache_key(identity: Mapping[str, Json], content: Json) -> str:
    """Return the key of a judgement: SHA-256 over who judges (model, settings, method) and all of what is asked."""
    record = json.dumps([dict(identity), content], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(record.encode("ascii")).hexdigest()


class JudgeCache:
    """Judgements by content. Usable as a context manager; `close` it otherwise.

    Args:
        path: the SQLite file; made, with its folders, where it does not exist.

    Raises:
        StoreError: the file cannot be opened, is damaged, or is something else than a judge cache.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._waiting: dict[object, schema.Row] = {}
        self._stored: dict[object, Json] = {}
        self._hits = 0
        self._misses = 0
        self._connection: sqlite3.Connection | None = None
        with self._reported():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, check_same_thread=False, isolation_level=None)
            try:
                self._prepare(connection)
                self._claims = Claims(self.path.with_name(self.path.name + "-claims"))
            except BaseException:
                connection.close()
                raise
        self._connection = connection

    @contextmanager
    def asking(self, key: str, stop: threading.Event) -> Iterator[dict[str, Json]]:
        """Keep other processes from asking for a judgement while this one does.

        Args:
            key: the judgement's.
            stop: set by a caller who no longer wants to wait for another process.

        Yields:
            The judgement by its key where it has been stored meanwhile, else nothing: then it is to be asked for and `put`.
        """
        with self._claims.on(key, stop):
            with self._open() as connection:
                stored = _values(connection, [key])
                self._hits += len(stored)
            yield stored

    def get_many(self, keys: Iterable[str]) -> dict[str, Json]:
        """Return the values of those keys that are in the cache, and count hits and misses."""
        wanted = list(dict.fromkeys(keys))
        with self._open() as connection:
            found = _values(connection, wanted)
            self._hits += len(found)
            self._misses += len(wanted) - len(found)
        return found

    def found(self, keys: Iterable[str]) -> set[str]:
        """Return those keys that are in the cache; counts neither hits nor misses."""
        with self._open() as connection:
            return {
                key
                for chunk in _chunks(list(dict.fromkeys(keys)))
                for (key,) in connection.execute(
                    f"SELECT key FROM judgements WHERE key IN ({','.join('?' * len(chunk))})",  # noqa: S608
                    chunk,
                )
            }

    def holds(self, keys: Iterable[str]) -> bool:
        """Return whether all keys are in the cache; counts neither hits nor misses."""
        wanted = set(keys)
        return self.found(wanted) == wanted

    def put(
        self,
        key: str,
        value: Json,
        *,
        requests: int = 1,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        cached_tokens: int = 0,
        payer: str = "",
    ) -> Json:
        """Store a judgement durably, with what it cost.

        Args:
            key: see `cache_key`.
            value: what `json.dumps` takes.
            requests: how many it took.
            prompt_tokens: tokens sent for it.
            completion_tokens: tokens received for it.
            cached_tokens: those of the sent ones that may have cost less.
            payer: the model that the cost counts for in `spent`; nobody pays where left out.

        Returns:
            The value the cache now holds: `value`, or the one another process stored under this key before.

        Raises:
            StoreError: the judgement could not be written, for example on a full disk.
        """
        me = object()
        cost = Spending(requests, prompt_tokens, completion_tokens, cached_tokens)
        self._waiting[me] = key, json.dumps(value, allow_nan=False), cost, payer
        try:
            with self._open() as connection:
                if me in self._waiting:  # no other thread has stored it in the meantime
                    together = dict(self._waiting)
                    values = _store(connection, list(together.values()))
                    self._stored |= {one: values[row[0]] for one, row in together.items()}
                    for one in together:
                        self._waiting.pop(one, None)
            return self._stored.pop(me)
        finally:
            self._waiting.pop(me, None)

    def put_many(self, values: Mapping[str, Json]) -> dict[str, Json]:
        """Store judgements that cost nothing, all of them or none, durably.

        Returns:
            The values the cache now holds, as `put` does.

        Raises:
            StoreError: they could not be written, for example on a full disk.
        """
        rows = [(key, json.dumps(value, allow_nan=False), Spending(), "") for key, value in values.items()]
        with self._open() as connection:
            return _store(connection, rows)

    def spend(self, payer: str, cost: Spending) -> None:
        """Note, durably, what was paid for nothing that is kept: an answer of no use, or a probe.

        Raises:
            StoreError: it could not be written.
        """
        if cost != Spending():
            with self.transaction() as connection:
                schema.record_spending(connection, payer, cost)

    def spent(self) -> dict[tuple[str, bool], Spending]:
        """Return what was ever paid on this file, by (payer, by batch or not); `""` paid before payers were noted."""
        with self._open() as connection:
            rows = connection.execute(
                "SELECT payer, batch, requests, prompt_tokens, completion_tokens, cached_tokens FROM spending"
            ).fetchall()
        return {(payer, bool(batch)): Spending(*numbers) for payer, batch, *numbers in rows}

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write several things, all of them or none.

        Raises:
            StoreError: the file cannot be written.
        """
        with self._open() as connection, _whole(connection):
            yield connection

    def counts(self) -> CacheCounts:
        """Return hits and misses since opening, and what all judgements in the file have cost."""
        with self._open() as connection:
            totals = connection.execute(_TOTALS).fetchone()
            return CacheCounts(self._hits, self._misses, *totals)

    def close(self) -> None:
        """Close the file. Closing twice does nothing."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
                self._claims.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"JudgeCache({str(self.path)!r})"

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._reported():
            if self._connection is None:
                raise StoreError(f"judge cache {str(self.path)!r} is closed; open a new JudgeCache on the same path")
            yield self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        _enter_wal(connection)
        connection.execute("PRAGMA synchronous=FULL")
        with _whole(connection):
            if not schema.bring_up_to_date(connection):
                raise StoreError(
                    f"{str(self.path)!r} is an SQLite file but not a judge cache of this version; give another path"
                )

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Turn what SQLite and the file system report into an error that says what to do."""
        where = f"judge cache {str(self.path)!r}"
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StoreError(
                f"{where} cannot be used: {error}. Check that its folder exists and can be written, that the disk is "
                "not full, and that no other process keeps the file locked; judgements already stored are safe"
            ) from error
        except (sqlite3.DatabaseError, ValueError) as error:
            raise StoreError(
                f"{where} is damaged: {error}. Move it away, with the files beside it that end in -wal and -shm, or "
                "restore it from a copy, and run again; what a new cache lacks is judged again"
            ) from error
        except OSError as error:
            raise StoreError(f"{where} cannot be opened: {error}. Give a path in a folder you can write to") from error


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging; SQLite does not wait by itself when two processes switch at once."""
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.01)


@contextmanager
def _whole(connection: sqlite3.Connection) -> Iterator[None]:
    """Keep all of what is written within, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _store(connection: sqlite3.Connection, rows: Sequence[schema.Row]) -> dict[str, Json]:
    """Store all rows or none; return the values that their keys now have."""
    with _whole(connection):
        schema.record_judgements(connection, rows)
    return _values(connection, [row[0] for row in rows])


def _values(connection: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for chunk in _chunks(keys):
        query = f"SELECT key, value FROM judgements WHERE key IN ({','.join('?' * len(chunk))})"  # noqa: S608
        found.update((key, json.loads(value)) for key, value in connection.execute(query, chunk))
    return found


def _chunks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[i : i + _KEYS_PER_QUERY] for i in range(0, len(keys), _KEYS_PER_QUERY))
