"""Which downloaded checkpoints may lie on the disk: a run's budget, kept together by all of its processes.

Knows what a run has downloaded (a record in its directory, under a lock), who uses which snapshot (locks in the hub's cache,
which the system takes back from a process that ends), and how a spent one leaves. Only what the run itself brought into the
cache is ever deleted. Leaves downloading to `downloads.py`, and which networks are still needed to whoever asks.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from traitline.errors import ModelError, StoreError
from traitline.files import write_whole
from traitline.models.snapshots import Listing, bytes_here, cache_folder, is_cached, locks, marker, readable, repository

GB = 10**9
SETTING = "disk_gb"
Rank = Callable[[str, str], int | None]
"""Given a repository and a commit: how many visits until a network of it is needed again, None where none will be."""

_log = logging.getLogger("traitline.downloads")


@dataclass(frozen=True)
class Held:
    """A snapshot that a run has downloaded, or has begun to.

    Attributes:
        source: the repository.
        revision: the branch, tag or commit that was asked for.
        commit: what it stood for.
        blobs: the size of each content that was not in the cache before.
        before: names of files that were in the snapshot before, which stay.
        done: whether it was downloaded and checked.
    """

    source: str
    revision: str
    commit: str
    blobs: dict[str, int]
    before: tuple[str, ...] = ()
    done: bool = False

    @property
    def folder(self) -> Path:
        """The snapshot's folder."""
        return repository(self.source) / "snapshots" / self.commit


class Disk:
    """The part of the disk that a run's downloads take.

    Args:
        folder: where the run keeps its record.
        budget_bytes: how much they may take at once; None for no limit, and then nothing is ever deleted.
    """

    def __init__(self, folder: Path, budget_bytes: int | None = None) -> None:
        self.folder, self.budget_bytes = folder, budget_bytes

    # Commits

    def commit(self, source: str, revision: str) -> str | None:
        """Return the commit that a revision was found to be when the run first asked."""
        return self._read(self.folder / "commits.json").get(f"{source}@{revision}")

    def note_commit(self, source: str, revision: str, commit: str) -> str:
        """Note which commit a revision is, unless that was noted before. Returns what holds from now on."""
        with self._locked():
            noted = self._read(self.folder / "commits.json")
            key = f"{source}@{revision}"
            if key not in noted:
                write_whole(self.folder / "commits.json", json.dumps({**noted, key: commit}, indent=1))
            return str(noted.get(key, commit))

    # Who uses what

    @contextlib.contextmanager
    def using(self, source: str, commit: str) -> Iterator[None]:
        """Keep a snapshot from being deleted by any process of any run, as long as the context lasts."""
        folder = _uses(source, commit)
        use = FileLock(folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.lock")
        try:
            with _guarded(source):
                folder.mkdir(parents=True, exist_ok=True)
                use.acquire()
        except (OSError, NotImplementedError):  # a cache that cannot be written, which nothing can be deleted from either
            yield
            return
        try:
            yield
        finally:
            use.release()
            Path(use.lock_file).unlink(missing_ok=True)

    # Room

    def admit(self, listing: Listing, rank: Rank, *, now: bool) -> bool:
        """Make room for what a snapshot lacks, and note that this run downloads it.

        Spent snapshots leave first, the one admitted first at the head. Where the network is needed at once, those that will be
        needed later leave as well, the one needed last first; none that a process uses.

        Args:
            listing: the snapshot, which the caller uses (`using`).
            rank: what is needed when.
            now: whether the network is needed at once.

        Returns:
            Whether there is room; if not, some may come when others are done with what they use.

        Raises:
            ModelError: there is not, and nobody uses anything that could leave.
            StoreError: the record cannot be written.
        """
        with self._locked():
            record = self._record()
            before = record.get(listing.commit) or Held(
                listing.source, listing.revision, listing.commit, {}, _files(listing.folder)
            )
            others = [held for commit, held in record.items() if commit != listing.commit]
            ours = {blob for held in others if held.source == listing.source for blob in held.blobs}
            new = {b: size for b, size in listing.blobs.items() if b in ours or not is_cached(listing.source, b)}
            mine = replace(before, blobs={**before.blobs, **new}, done=False)
            for held in (*others, mine):
                _sweep(held)
            used = {held.commit for held in others if _in_use(held)}
            leaving, fits = self._leaving(mine, others, used, rank, now=now)
            if now and not fits and not used:
                raise ModelError(self._too_large(mine, others))
            for held in leaving:
                if _delete(held):
                    record.pop(held.commit)
                else:
                    fits = False
            if fits:
                mine.folder.mkdir(parents=True, exist_ok=True)  # so that no other deletion takes the repository for empty
                record[mine.commit] = mine
            self._write(record)
            return fits

    def finished(self, commit: str) -> None:
        """Note that a snapshot was downloaded and checked."""
        with self._locked():
            record = self._record()
            if commit in record:
                record[commit] = replace(record[commit], done=True)
                self._write(record)

    def held(self) -> list[Held]:
        """Return what the run has downloaded and not deleted, and what it is downloading, from any process."""
        return list(self._record().values())

    def under_way(self) -> list[Held]:
        """Return what a process of the run is downloading or checking now, seen from any process."""
        return [one for one in self.held() if not one.done and _in_use(one)]

    def _leaving(self, mine: Held, others: list[Held], used: set[str], rank: Rank, *, now: bool) -> tuple[list[Held], bool]:
        """Return what is to leave, and whether the snapshot fits then."""
        limit = taken_bytes([*others, mine]) + free_bytes()
        if self.budget_bytes is not None:
            limit = min(limit, self.budget_bytes)
        if total_bytes([*others, mine]) <= limit:
            return [], True
        if self.budget_bytes is None:
            return [], False
        ranks = {held.commit: rank(held.source, held.commit) for held in others if held.commit not in used}
        spent = [held for held in others if ranks.get(held.commit, 0) is None]
        later = [held for held in others if ranks.get(held.commit) is not None] if now else []
        later.sort(key=lambda held: -(ranks[held.commit] or 0))
        leaving: list[Held] = []
        for held in [*spent, *later]:
            leaving.append(held)
            if total_bytes([one for one in (*others, mine) if one not in leaving]) <= limit:
                return leaving, True
        return spent, False

    def _too_large(self, mine: Held, others: list[Held]) -> str:
        name, size = f"{mine.source} at {mine.revision}", sum(mine.blobs.values())
        if self.budget_bytes is not None and size > self.budget_bytes:
            return over_budget(name, size, self.budget_bytes)
        return over_disk(f"{name} needs {readable(size)}")

    # The record

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock")
            lock.acquire()
        except (OSError, NotImplementedError) as error:
            raise StoreError(f"cannot write in {str(self.folder)!r} ({error}); give another --out") from error
        try:
            yield
        finally:
            lock.release()

    def _record(self) -> dict[str, Held]:
        """Return what was noted and has not been deleted by somebody else, in the order of admission."""
        noted = self._read(self._path())
        record = {commit: Held(**{**fields, "before": tuple(fields["before"])}) for commit, fields in noted.items()}
        return {commit: held for commit, held in record.items() if held.folder.is_dir()}

    def _write(self, record: dict[str, Held]) -> None:
        write_whole(self._path(), json.dumps({commit: asdict(held) for commit, held in record.items()}, indent=1))

    def _path(self) -> Path:
        """Return the record of this machine's cache: machines that share a run may have each its own."""
        name = cache_folder() / ".locks" / "traitline-cache.id"
        try:
            if not name.is_file():
                mine = name.with_suffix(f".{uuid.uuid4().hex}")
                write_whole(mine, uuid.uuid4().hex)
                with contextlib.suppress(FileExistsError):
                    os.link(mine, name)  # which another process cannot find half written
                mine.unlink()
            found = name.read_text().strip()
        except (OSError, StoreError):
            found = ""
        return self.folder / f"{found if re.fullmatch(r'[0-9a-f]{32}', found) else 'cache'}.json"

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{str(path)!r} is broken ({error}); delete it: what was downloaded before then counts as yours and stays"
            ) from error


def over_budget(name: str, size: int, budget: int) -> str:
    """Return what is said where one checkpoint alone is larger than the budget."""
    at_least = -(-size * 10 // GB) / 10
    return f"{name} alone needs {readable(size)}, and {SETTING} is {budget / GB:g}; set {SETTING} to {at_least:g} or more"


def over_disk(what: str) -> str:
    """Return what is said where something does not fit on the disk."""
    return (
        f"{what}, but {readable(free_bytes())} are free on the disk of {str(cache_folder())!r}; free some space, set "
        f"HF_HUB_CACHE to another disk, or set {SETTING} in the study so that spent checkpoints leave"
    )


def total_bytes(held: Iterable[Held]) -> int:
    """Return what snapshots take when they are complete; a content that several have counts once."""
    return sum({(one.source, blob): size for one in held for blob, size in one.blobs.items()}.values())


def taken_bytes(held: Iterable[Held]) -> int:
    """Return what snapshots take on the disk now, halves of files included."""
    union: dict[str, dict[str, int]] = {}
    for one in held:
        union.setdefault(one.source, {}).update(one.blobs)
    return sum(bytes_here(source, blobs) for source, blobs in union.items())


def free_bytes() -> int:
    """Return the free bytes of the disk that the hub's cache is or would be on."""
    folder = cache_folder().absolute()
    there = next(parent for parent in [folder, *folder.parents] if parent.exists())
    return shutil.disk_usage(there).free


def _files(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())) if folder.is_dir() else ()


def _uses(source: str, commit: str) -> Path:
    return locks(source) / "traitline" / commit


@contextlib.contextmanager
def _guarded(source: str) -> Iterator[None]:
    """Keep other processes from beginning to use a repository's snapshots, or from deleting them."""
    locks(source).mkdir(parents=True, exist_ok=True)
    with FileLock(locks(source) / "traitline.lock"):
        yield


def _in_use(held: Held, *, sweep: bool = False) -> bool:
    """Tell whether a process uses a snapshot; with `sweep`, what processes that were killed left behind is removed."""
    taken = [_taken(lock, remove=sweep) for lock in _uses(held.source, held.commit).glob("*.lock")]
    return any(taken)


def _taken(lock: Path, *, remove: bool = False) -> bool:
    """Tell whether a process holds a lock."""
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            if remove:
                lock.unlink(missing_ok=True)
    except (Timeout, OSError, NotImplementedError):
        return True
    return False


def _delete(held: Held) -> bool:
    """Take a snapshot from the disk, and the contents that no other one has. Tells whether it went; not where it is in use."""
    from huggingface_hub import scan_cache_dir

    with _guarded(held.source):
        if _in_use(held, sweep=True):
            return False
        size = bytes_here(held.source, held.blobs)
        marker(held.source, held.commit).unlink(missing_ok=True)
        if held.before:
            _delete_files(held)
        else:
            scan_cache_dir(cache_folder()).delete_revisions(held.commit).execute()
        gone = bool(held.before) or not held.folder.is_dir()
        _sweep(held)
    if gone:
        freed = size - bytes_here(held.source, held.blobs)
        _log.info("%s at %s has left the disk: %s freed", held.source, held.revision, readable(freed))
    else:
        _log.warning("the hub's cache keeps %s, which is not needed any more; `hf cache ls` may say why", held.folder)
    return gone


def _delete_files(held: Held) -> None:
    """Delete the files of a snapshot that were not there before, and the contents that no snapshot links to then."""
    for name in set(_files(held.folder)) - set(held.before):
        (held.folder / name).unlink(missing_ok=True)
    links = (repository(held.source) / "snapshots").rglob("*")
    linked = {Path(os.readlink(path)).name for path in links if path.is_symlink()}
    for blob in held.blobs.keys() - linked:
        (repository(held.source) / "blobs" / blob).unlink(missing_ok=True)


def _sweep(held: Held) -> None:
    """Remove halves of files that killed processes had begun for a snapshot, and that nobody can go on with."""
    for path in (repository(held.source) / "blobs").glob("*.incomplete"):
        blob, _, rest = path.name.partition(".")
        resumable = rest == "incomplete" and held.folder.is_dir()  # older versions of the hub's library go on with these
        if blob in held.blobs and not resumable and not _taken(locks(held.source) / f"{blob}.lock"):
            path.unlink(missing_ok=True)
