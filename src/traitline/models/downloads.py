"""Bring a revision of a hub repository onto this machine, whole: what loading needs, resumed, checked, tried again.

Knows how the hub is asked (with huggingface_hub, whose cache is used), and who is told how far a download is. What lies in the
cache and fits is taken without any request. Leaves which files are needed and how they are checked to `snapshots.py`, failures
and pauses to `retries.py`, and whether there is room to `disk.py`.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from traitline.errors import ModelError
from traitline.models.retries import BrokenError, final_reason, persistently
from traitline.models.snapshots import (
    Checked,
    HubFile,
    Listing,
    bytes_here,
    cache_folder,
    cached_commit,
    found,
    known,
    needed,
    note_commit,
    readable,
)

ASK_SECONDS = 30.0
AT_ONCE = 4
"""Files that are downloaded at the same time."""
LOOK_SECONDS, LINE_SECONDS = 0.5, 60.0
"""How often who watches is told, and how often a line is logged."""

_log = logging.getLogger("traitline.downloads")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Download:
    """How far a download is: what, and how many of its bytes lie here."""

    source: str
    revision: str
    done_bytes: int
    total_bytes: int


Watch = Callable[[Download], None]
"""Told of every download twice a second and when it ends, from a thread of its own."""
Admit = Callable[[Listing], None]
"""Called before the first byte is downloaded: waits until there is room, or raises."""


@dataclass(frozen=True)
class Snapshot:
    """A revision whose files lie here and were checked.

    Attributes:
        source: the repository.
        revision: the branch, tag or commit that was asked for.
        commit: what it stood for.
        folder: where its files lie.
    """

    source: str
    revision: str
    commit: str
    folder: Path


def fetch(
    source: str,
    revision: str,
    commit: str | None = None,
    *,
    admit: Admit = lambda _listing: None,
    watch: Watch = lambda _download: None,
) -> Snapshot:
    """Return a revision's files, whole; what is not here yet is downloaded, what is broken again.

    Args:
        source: the repository.
        revision: branch, tag or commit.
        commit: what the revision stands for, where that was found before: a branch may have moved since.
        admit: called before the first byte is downloaded.
        watch: told how far the download is.

    Raises:
        ModelError: no such repository or revision, the hub cannot be reached, a file does not come whole, or the disk is full.
    """
    checked = look(source, revision, commit)
    misfits = checked.misfits() if checked is not None else []
    if checked is None or (misfits and not _is_offline()):
        checked = ask(source, revision, commit)
        misfits = checked.misfits()
    listing = checked.listing
    if misfits and _is_offline():
        raise ModelError(
            f"{misfits[0].file.name} of {listing.name} is not whole in the cache {str(cache_folder())!r}: expected "
            f"{misfits[0].expected}, found {misfits[0].found}; unset HF_HUB_OFFLINE to have it downloaded"
        )
    for misfit in misfits:
        listing.remove(misfit.file)
    if misfits:
        admit(listing)
        _download(checked, [misfit.file for misfit in misfits], watch)
    checked.note()
    note_commit(source, revision, listing.commit)
    return Snapshot(source, revision, listing.commit, listing.folder)


def look(source: str, revision: str, commit: str | None = None) -> Checked | None:
    """Describe a revision from what lies in the cache, without a request; None where that does not tell what belongs to it."""
    commit = commit or cached_commit(source, revision)
    return None if commit is None else known(source, commit) or found(source, revision, commit)


def ask(source: str, revision: str, commit: str | None = None) -> Checked:
    """Ask the hub what a revision consists of, and note the answer.

    Raises:
        ModelError: no such repository or revision, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    name = f"{source} at {revision}"
    if _is_offline():
        raise ModelError(
            f"{name} is not in the cache {str(cache_folder())!r}, and HF_HUB_OFFLINE keeps it from being downloaded; unset "
            "that, or set HF_HUB_CACHE to where it lies"
        )

    def once() -> Any:
        return HfApi().model_info(source, revision=commit or revision, files_metadata=True, timeout=ASK_SECONDS)

    info = persistently(once, f"the list of files of {name}", lambda error: final_reason(error, source, revision))
    sizes = {one.rfilename: one for one in info.siblings or ()}
    files = []
    for file in needed(sizes):
        one = sizes[file]
        etag = (one.lfs["sha256"] if isinstance(one.lfs, dict) else one.lfs.sha256) if one.lfs else one.blob_id
        files.append(HubFile(file, int(one.size or 0), etag))
    if "config.json" not in sizes or not any(file.name.endswith((".safetensors", ".bin")) for file in files):
        raise ModelError(
            f"{name} holds no config.json or no weights that transformers loads, so no model; give another revision"
        )
    before = known(source, str(info.sha))
    listing = Listing(source, revision, str(info.sha), tuple(files))
    checked = Checked(listing, before.stamps if before is not None else {})
    checked.note()
    return checked


def _download(checked: Checked, files: Sequence[HubFile], watch: Watch) -> None:
    """Download files, several at a time, each checked as it comes."""
    listing, started = checked.listing, time.monotonic()
    before, total = bytes_here(listing.source, listing.blobs), listing.bytes
    _log.info("%s: downloading %s of %s in %d files", listing.name, readable(total - before), readable(total), len(files))
    with _quiet_hub(), _watched(listing, watch):
        at_once(lambda file: _download_file(checked, file), sorted(files, key=lambda file: -file.size), AT_ONCE)
    seconds = max(time.monotonic() - started, 1e-3)
    rate = readable((total - before) / seconds)
    _log.info("%s: here and whole after %.0f s (%s/s)", listing.name, seconds, rate)


def at_once(do: Callable[[Item], object], items: Iterable[Item], threads: int) -> None:
    """Do something with every item, several at a time; when one fails, no other is begun, and its error is raised.

    The threads end with the process whatever they are at, so that Ctrl-C need not wait for gigabytes.
    """
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    failures: list[BaseException] = []
    over = threading.Event()

    def work() -> None:
        with contextlib.suppress(queue.Empty):
            while not over.is_set():
                item = waiting.get_nowait()
                try:
                    do(item)
                except BaseException as error:
                    failures.append(error)
                    over.set()

    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(threads, waiting.qsize()))]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        over.set()
    if failures:
        raise failures[0]


def _download_file(checked: Checked, file: HubFile) -> None:
    """Download a file and check it; one that came broken is removed and asked for again.

    Raises:
        ModelError: it does not come, or not whole.
    """
    from huggingface_hub import hf_hub_download

    listing = checked.listing
    what = f"{file.name} of {listing.name}"

    def once() -> None:
        hf_hub_download(listing.source, file.name, revision=listing.commit)
        misfit = checked.check(file)
        if misfit is not None:
            listing.remove(file)
            raise BrokenError(misfit)
        checked.note()

    persistently(once, what, lambda error: final_reason(error, listing.source, listing.revision))


@contextlib.contextmanager
def _watched(listing: Listing, watch: Watch) -> Iterator[None]:
    """Tell who watches, and the log, how far a download is, as long as the context lasts."""
    over, started = threading.Event(), time.monotonic()
    before = bytes_here(listing.source, listing.blobs)

    def tell() -> int:
        here = bytes_here(listing.source, listing.blobs)
        watch(Download(listing.source, listing.revision, here, listing.bytes))
        return here

    def look_again() -> None:
        next_line = started + LINE_SECONDS
        while not over.wait(LOOK_SECONDS):
            here = tell()
            if time.monotonic() >= next_line:
                next_line += LINE_SECONDS
                rate = max(here - before, 1) / (time.monotonic() - started)
                left = (listing.bytes - here) / rate / 60
                said = (listing.name, readable(here), readable(listing.bytes), readable(rate), left)
                _log.info("%s: %s of %s are here (%s/s, %.0f minutes left)", *said)

    thread = threading.Thread(target=look_again, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        tell()


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep the hub library's progress bars off as long as any download lasts, of whichever thread: ours are told elsewhere."""
    from huggingface_hub import utils

    bars: Any = utils  # which does not say what it exports
    with _Bars.lock:
        if not _Bars.downloads:
            _Bars.shown = not bars.are_progress_bars_disabled()
        _Bars.downloads += 1
        if _Bars.shown:
            bars.disable_progress_bars()
    try:
        yield
    finally:
        with _Bars.lock:
            _Bars.downloads -= 1
            if _Bars.shown and not _Bars.downloads:
                bars.enable_progress_bars()


class _Bars:
    """Whether the hub library's progress bars were shown, and how many downloads keep them off."""

    lock = threading.Lock()
    downloads = 0
    shown = False


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
