"""A local working copy of a run directory, and its exchange with the run: what is needed is fetched, what is done is put.

The working copy is written as any run directory is, each file whole. What of it has changed is put in an order in which the
remote directory is at every moment one that a killed run could have left: a file whose presence says that something is done
comes after all that it stands for, and parts are removed last. Locks, claims and half-written files stay where they are; SQLite
files are put as copies that are consistent in themselves. Leaves the file system to `remote.py`, and who may put to `lease.py`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from traitline.errors import StoreError
from traitline.study.remote import Remote

PUSH_SECONDS = 5.0
"""How long something finished waits at most before it is put, where nobody says `soon`."""
DATABASE_SECONDS = 60.0
"""So much for the databases and the log, which grow and are put whole; more where putting them takes long."""
DATABASE_SHARE = 0.05
"""Databases are put as rarely as takes no more of the time than this."""
AT_ONCE = 8
DATABASES = ("ledger.sqlite", "judge-cache.sqlite", "run.log")
PINS = "downloads/commits.json"
_DONE = ("contrast.parquet", "evaluation.parquet", "transfer.parquet", "vocabulary.csv")
"""Files whose presence says that something is done."""
_STAYS = (".claim", ".partial", ".sqlite", "-wal", "-shm", "-journal", "-claims", ".log")
_Sign = tuple[int, int]  # time of the last change, size


class Mirror:
    """One working copy.

    Args:
        root: its folder.
        remote: what it is a copy of.
        mine: which files are put from here, by their names; all and the databases where left out.
    """

    def __init__(self, root: Path, remote: Remote, mine: Callable[[str], bool] | None = None) -> None:
        self.root, self.remote = root, remote
        self._mine = mine or (lambda _name: True)
        self._databases = DATABASES if mine is None else ()
        self._known: dict[str, _Sign] = {}  # as they are on both sides
        self._copied: dict[str, list[_Sign]] = {}
        self._next_copy = 0.0
        self._lock = threading.Lock()
        self._due = threading.Event()
        self.files_put = self.bytes_put = self.files_fetched = self.bytes_fetched = 0

    def fetch(
        self, wanted: Callable[[str], bool] = lambda _name: True, under: Iterable[str] = ("",), *, mine_are_newer: bool = False
    ) -> None:
        """Fetch the files that are wanted and not here, or here in another size.

        Args:
            wanted: given a name, relative to the run directory.
            under: folders to look in.
            mine_are_newer: what is here in another size is left as it is, and put the next time.

        Raises:
            StoreError: the store cannot be read, or the disk is full.
        """
        there = {name: size for folder in under for name, size in self.remote.names(folder).items()}
        mine = [name for name in there if wanted(name) and (_exchanged(name) or name in self._databases)]
        here = {name: _size(self.root / name) for name in mine}
        lacking = [name for name in mine if here[name] is None or (here[name] != there[name] and not mine_are_newer)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._get, lacking))
        with self._lock:
            signs = {name: _sign(self.root / name) for name in mine}
            self._known |= {name: sign for name, sign in signs.items() if sign is not None and sign[1] == there[name]}

    def push(self, *, databases: bool = True) -> None:
        """Put what has changed here, and remove what was removed here.

        Raises:
            StoreError: the store cannot be written.
        """
        with self._lock:
            before = self._walk()  # what is here now was written after all that it stands for, which the second walk sees
            now = self._walk() if before != self._known else before
            changed = [name for name, sign in now.items() if self._known.get(name) != sign]
            finished = [name for name in changed if _is_done(name)]
            self._put_all([(name, now[name]) for name in changed if name not in finished])
            self._put_all([(name, now[name]) for name in finished if name in before])
            if all(name in before for name in finished):  # parts are removed after their cells are written
                gone = [name for name in self._known if name not in now and _exchanged(name) and self._mine(name)]
                self.remote.remove(gone)
                for name in gone:
                    del self._known[name]
            if databases:
                self._put_databases()

    @contextlib.contextmanager
    def kept(self, look: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Put again and again what has changed, from another thread, and once more in the end, whatever happens.

        Args:
            look: called before each time; puts nothing where it raises.

        Raises:
            StoreError: in the end, if it cannot be put then.
        """
        over = threading.Event()

        def keep() -> None:
            while not over.is_set():
                self._due.wait(PUSH_SECONDS)
                self._due.clear()
                if over.is_set():
                    return
                with contextlib.suppress(StoreError):  # tried again, and in the end it is said
                    look()
                    self.push(databases=time.monotonic() >= self._next_copy)

        def end() -> None:
            over.set()
            self._due.set()
            thread.join()

        thread = threading.Thread(target=keep, name="traitline-mirror", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            end()
            with contextlib.suppress(StoreError):  # why the run stopped is what is to be told
                look()
                self.push()
            raise
        end()
        look()
        self.push()

    def soon(self) -> None:
        """Put what has changed now, rather than when it is time."""
        self._due.set()

    def clear(self) -> None:
        """Remove everything here but locks."""
        for path in self.root.iterdir() if self.root.is_dir() else ():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != ".lock":
                path.unlink(missing_ok=True)
        self._known = {}

    def _get(self, name: str) -> None:
        if self.remote.get(name, self.root / name):
            self.files_fetched += 1
            self.bytes_fetched += _size(self.root / name) or 0

    def _walk(self) -> dict[str, _Sign]:
        """Return name -> time and size of the files that are exchanged."""
        found: dict[str, _Sign] = {}
        left = [""]
        while left:
            folder = left.pop()
            with contextlib.suppress(FileNotFoundError), os.scandir(self.root / folder) as entries:
                for entry in entries:
                    name = folder + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        left.append(f"{name}/")
                    elif _exchanged(name) and self._mine(name):
                        with contextlib.suppress(FileNotFoundError):
                            stat = entry.stat()
                            found[name] = (stat.st_mtime_ns, stat.st_size)
        return found

    def _put_all(self, signed: list[tuple[str, _Sign]]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda one: self._put(*one), signed))

    def _put(self, name: str, sign: _Sign) -> None:
        try:
            self.remote.put(self.root / name, name)
        except StoreError:
            if (self.root / name).exists():
                raise
            return  # a draft that was judged meanwhile
        self._known[name] = sign
        self.files_put += 1
        self.bytes_put += sign[1]

    def _put_databases(self) -> None:
        """Put copies of the databases that have changed."""
        started = time.monotonic()
        for name in self._databases:
            path = self.root / name
            signs = [sign for sign in (_sign(path), _sign(path.with_name(f"{name}-wal"))) if sign is not None]
            if path.is_file() and self._copied.get(name) != signs:
                with tempfile.TemporaryDirectory(prefix="traitline-") as folder:
                    copy = Path(folder, name)
                    _copy(path, copy)
                    self.remote.put(copy, name)
                    self.bytes_put += _size(copy) or 0
                self.files_put += 1
                self._copied[name] = signs
        now = time.monotonic()
        self._next_copy = now + max(DATABASE_SECONDS, (now - started) / DATABASE_SHARE)


def _exchanged(name: str) -> bool:
    """Tell whether a file is part of a run, rather than of one machine's work on it."""
    if name.startswith("downloads/"):
        return name == PINS
    last = name.rpartition("/")[2]
    return "." in last and not (last.startswith(".") or name.endswith(_STAYS) or name == "lease.json")


def _is_done(name: str) -> bool:
    return not name.startswith("parts/") and name.endswith(_DONE)


def _sign(path: Path) -> _Sign | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _size(path: Path) -> int | None:
    sign = _sign(path)
    return None if sign is None else sign[1]


def _copy(path: Path, copy: Path) -> None:
    """Copy a database, or a log, that others may be writing in."""
    if path.suffix != ".sqlite":
        shutil.copyfile(path, copy)
        return
    try:
        with (
            contextlib.closing(sqlite3.connect(path, timeout=30)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
    except sqlite3.Error as error:
        raise StoreError(f"{str(path)!r} cannot be copied ({error}); is the disk full?") from error
