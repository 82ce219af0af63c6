"""A revision of a hub repository on this machine: which of its files a network needs, where they lie, whether they are whole.

Knows the layout of the hub's cache (`models--org--name/blobs`, `snapshots/<commit>`, `refs`) and how a file is checked against
the hash that the hub states, once: a marker beside the snapshot says what was checked. Asks the hub nothing; leaves that to
`downloads.py`, and which revisions may stay to `disk.py`.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from traitline.errors import StoreError
from traitline.files import write_whole

TEXTS = (
    *("config.json", "generation_config.json", "tokenizer*.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "*.model", "*.tiktoken", "chat_template.json", "*.jinja"),
)
"""Configuration and tokenizer files, all of them small."""
WEIGHTS = (
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
)
"""Forms of the same weights, the first of which a revision has is loaded."""
COMMIT = re.compile(r"[0-9a-f]{40}")
CHUNK = 4 * 2**20


@dataclass(frozen=True)
class HubFile:
    """A file as the hub describes it.

    Attributes:
        name: its path within the repository.
        size: in bytes.
        etag: the sha256 of its content for weights, git's hash for the others, which is also its name among the cache's blobs;
            None where a cache without links does not tell.
    """

    name: str
    size: int
    etag: str | None


@dataclass(frozen=True)
class Listing:
    """What a network needs of one commit of a repository.

    Attributes:
        source: the repository.
        revision: the branch, tag or commit that was asked for.
        commit: what it stood for.
        files: in order of their names.
    """

    source: str
    revision: str
    commit: str
    files: tuple[HubFile, ...]

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.source} at {self.revision}"

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.size for file in self.files)

    @property
    def blobs(self) -> dict[str, int]:
        """Size of each content, by its name in the cache: equal files of several revisions lie there once."""
        return {file.etag or f"{self.commit}/{file.name}": file.size for file in self.files}

    @property
    def folder(self) -> Path:
        """Where its files lie, or will."""
        return repository(self.source) / "snapshots" / self.commit

    def remove(self, file: HubFile) -> None:
        """Remove a broken file and its content from the cache, if it is there."""
        path = self.folder / file.name
        if path.is_symlink() and file.etag is not None:
            blob = repository(self.source) / "blobs" / file.etag
            shared = blob.resolve()  # newer caches keep contents that several repositories have in one place
            if shared.is_relative_to(cache_folder().resolve()):
                shared.unlink(missing_ok=True)
            blob.unlink(missing_ok=True)
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Misfit:
    """A file that is not as the hub says: what was expected and what was found."""

    file: HubFile
    expected: str
    found: str


@dataclass
class Checked:
    """A listing, and which of its files were compared with their hashes, as they lie there.

    Attributes:
        listing: what is expected.
        stamps: size and time of last change, in nanoseconds, of each file when it was found whole.
    """

    listing: Listing
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)

    def misfits(self) -> list[Misfit]:
        """Return which files are not there or not whole; a file that was not checked before is read."""
        return [misfit for file in self.listing.files if (misfit := self.check(file)) is not None]

    def check(self, file: HubFile) -> Misfit | None:
        """Compare a file with what the hub says of it, unless that was done. Reads the whole file the first time.

        Returns:
            What does not fit; None where it is whole.
        """
        path = self.listing.folder / file.name
        stamp = _stamp(path)
        if stamp is None:
            return Misfit(file, f"{file.size:,} bytes", "no such file")
        if stamp[0] != file.size:
            return Misfit(file, f"{file.size:,} bytes", f"{stamp[0]:,} bytes")
        if self.stamps.get(file.name) == stamp:
            return None
        if file.etag is not None and re.fullmatch(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", file.etag):
            found = _hash(path, file)
            if found != file.etag:
                kind = "sha256" if len(file.etag) == 64 else "git hash"
                return Misfit(file, f"{kind} {file.etag}", found)
        self.stamps[file.name] = stamp
        return None

    def note(self) -> None:
        """Keep beside the snapshot what was checked; a cache that cannot be written is checked again next time."""
        files = [asdict(file) for file in self.listing.files]
        about = {"source": self.listing.source, "revision": self.listing.revision, "commit": self.listing.commit}
        with contextlib.suppress(StoreError):
            path = marker(self.listing.source, self.listing.commit)
            write_whole(path, json.dumps({**about, "files": files, "stamps": dict(self.stamps)}))


def cache_folder() -> Path:
    """Return the hub's cache on this machine."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def repository(source: str) -> Path:
    """Return the folder of a repository in the cache."""
    return cache_folder() / f"models--{source.replace('/', '--')}"


def locks(source: str) -> Path:
    """Return the folder of a repository's locks, which outlives the repository's own."""
    return cache_folder() / ".locks" / repository(source).name


def marker(source: str, commit: str) -> Path:
    """Return the file that says what of a snapshot was checked."""
    return repository(source) / ".traitline" / f"{commit}.json"


def needed(names: Iterable[str]) -> list[str]:
    """Return which of a repository's files loading needs: one form of the weights, configuration, tokenizer, chat template."""
    top = sorted(name for name in names if "/" not in name or name.startswith("additional_chat_templates/"))
    texts = [name for name in top if any(fnmatch.fnmatch(Path(name).name, text) for text in TEXTS)]
    for form in WEIGHTS:
        weights = [name for name in top if any(fnmatch.fnmatch(name, pattern) for pattern in form)]
        if any(not name.endswith(".json") for name in weights):
            return sorted([*texts, *weights])
    return texts


def cached_commit(source: str, revision: str) -> str | None:
    """Return the commit that a revision stands for in the cache, without asking the hub."""
    if COMMIT.fullmatch(revision):
        return revision
    ref = repository(source) / "refs" / revision
    with contextlib.suppress(OSError, UnicodeDecodeError):
        found = ref.read_text(encoding="utf-8").strip()
        return found if COMMIT.fullmatch(found) else None
    return None


def note_commit(source: str, revision: str, commit: str) -> None:
    """Note in the cache which commit a branch stands for, unless the cache has another one, so that it is found by its name."""
    noted = cached_commit(source, revision)
    if noted is None or not (repository(source) / "snapshots" / noted).is_dir():
        with contextlib.suppress(StoreError):
            write_whole(repository(source) / "refs" / revision, commit)


def is_cached(source: str, blob: str) -> bool:
    """Tell whether a content lies in the cache."""
    return (repository(source) / "blobs" / blob).exists()


def bytes_here(source: str, blobs: Mapping[str, int]) -> int:
    """Return how many bytes of some contents lie on the disk, halves of files included.

    Args:
        source: the repository.
        blobs: the size of each content, by its name in the cache.
    """
    largest: dict[str, int] = {}
    for path in (repository(source) / "blobs").glob("*"):
        with contextlib.suppress(OSError):
            blob = path.name.partition(".")[0]
            largest[blob] = max(largest.get(blob, 0), path.stat().st_size)
    return sum(min(size, largest.get(blob, 0)) for blob, size in blobs.items())


def known(source: str, commit: str) -> Checked | None:
    """Return what was noted of a snapshot, none where nothing was or where it is broken."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        noted: dict[str, Any] = json.loads(marker(source, commit).read_text(encoding="utf-8"))
        files = tuple(HubFile(**file) for file in noted["files"])
        stamps = {str(name): (int(size), int(when)) for name, (size, when) in noted["stamps"].items()}
        return Checked(Listing(source, str(noted["revision"]), commit, files), stamps)
    return None


def found(source: str, revision: str, commit: str) -> Checked | None:
    """Describe a snapshot that something else has put into the cache; None where it lacks what loading needs.

    The names of the blobs are the hashes that the hub stated, so such files can be checked without asking it.
    """
    listing = Listing(source, revision, commit, ())
    names = {path.relative_to(listing.folder).as_posix(): path for path in listing.folder.rglob("*") if path.is_file()}
    chosen = needed(names)
    complete = "config.json" in chosen and any(name.startswith(("tokenizer", "vocab")) for name in chosen)
    if not complete or not _weights_complete(chosen, listing.folder):
        return None
    files = []
    for name in chosen:
        path = names[name]
        etag = Path(os.readlink(path)).name if path.is_symlink() else None
        files.append(HubFile(name, path.stat().st_size, etag))
    return Checked(Listing(source, revision, commit, tuple(files)))


def readable(size: float) -> str:
    """Return a number of bytes as people write it."""
    for unit, least in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= least:
            return f"{size / least:.3g} {unit}"
    return f"{size:.0f} bytes"


def _weights_complete(names: list[str], folder: Path) -> bool:
    """Tell whether all files that an index of weights names are there; or, without an index, whether there are weights."""
    index = next((name for name in names if name.endswith(".index.json")), None)
    if index is None:
        return any(name.endswith((".safetensors", ".bin")) for name in names)
    try:
        wanted = set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError):
        return False
    return wanted <= set(names)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_size, about.st_mtime_ns


def _hash(path: Path, file: HubFile) -> str:
    """Return the hash of a file, of the kind that its etag is."""
    is_git = len(file.etag or "") == 40
    digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False) if is_git else hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
