"""A model hub on the loopback: what huggingface_hub and transformers ask of the real one, from local directories.

    with FakeHub({"org/model": {"main": folder, "stage1-step3000": other}}) as hub, hub.connected(cache):
        load_model("org/model", "stage1-step3000")
    assert hub.bytes_sent("model.safetensors") > 0

Every revision is a branch with a commit of its own, also where two share a directory; equal files have equal etags, so that a
cache keeps them once. Weights (`LFS`) carry a sha256. What goes wrong is said by `fault`; who asked for what is in `log`.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit

LFS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack")
PIECE = 64 * 1024
Directories = Mapping[str, Mapping[str, Path]]
"""Repository -> revision -> directory."""


@dataclass(frozen=True)
class HubFile:
    """A file of a revision, with what the hub tells of it."""

    name: str
    path: Path

    @property
    def lfs(self) -> bool:
        return self.name.endswith(LFS)

    @cached_property
    def size(self) -> int:
        return self.path.stat().st_size

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @cached_property
    def oid(self) -> str:
        content = self._pointer if self.lfs else self.path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid

    @property
    def _pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    def sibling(self, *, sizes: bool) -> dict[str, Any]:
        """Describe it as `model_info` does."""
        if not sizes:
            return {"rfilename": self.name}
        lfs = {"lfs": {"sha256": self.sha256, "size": self.size, "pointerSize": len(self._pointer)}} if self.lfs else {}
        return {"rfilename": self.name, "size": self.size, "blobId": self.oid, **lfs}

    def entry(self) -> dict[str, Any]:
        """Describe it as `list_repo_tree` does."""
        lfs = {"lfs": {"oid": self.sha256, "size": self.size, "pointerSize": len(self._pointer)}} if self.lfs else {}
        return {"type": "file", "path": self.name, "size": self.size, "oid": self.oid, **lfs}


@dataclass(frozen=True)
class Revision:
    """A branch and its one commit."""

    name: str
    commit: str
    files: dict[str, HubFile]


@dataclass
class Fault:
    """What goes wrong with requests that fit; see `FakeHub.fault`."""

    file: str
    revision: str
    times: int | None
    status: int | None
    retry_after: float | None
    truncate: int | None
    corrupt: int | None
    hold: int | None
    methods: tuple[str, ...]

    def fits(self, method: str, name: str, revision: str) -> bool:
        wanted = (self.times is None or self.times > 0) and method in self.methods
        return wanted and fnmatch.fnmatch(name, self.file) and fnmatch.fnmatch(revision, self.revision)


@dataclass
class Asked:
    """One request: HTTP's method, the repository, the revision's name, the file (or `api/...`), and what was answered."""

    method: str
    repo: str
    revision: str
    name: str
    first: int = 0
    status: int = 0
    sent: int = 0
    """Bytes of the body."""


@dataclass
class FakeHub:
    """A hub that answers at `url` as long as the context lasts.

    Attributes:
        directories: repository -> revision -> local directory with the files of that revision.
        rate: bytes a second that one body is sent with; None as fast as it goes.
        log: every request, in order.
        reached: set when a body is held (`fault(..., hold=...)`).
    """

    directories: Directories
    rate: float | None = None
    log: list[Asked] = field(default_factory=list)
    reached: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self._released = threading.Event()
        self._faults: list[Fault] = []
        self._files: dict[Path, dict[str, HubFile]] = {}
        self._repos = {
            repo: {name: self._revision(repo, name, Path(folder)) for name, folder in revisions.items()}
            for repo, revisions in self.directories.items()
        }
        self._http = _Http(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> FakeHub:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._http.shutdown()
        self._http.server_close()

    # What goes wrong

    def fault(
        self,
        file: str = "*",
        revision: str = "*",
        *,
        times: int | None = 1,
        status: int | None = None,
        retry_after: float | None = None,
        truncate: int | None = None,
        corrupt: int | None = None,
        hold: int | None = None,
        methods: tuple[str, ...] = ("GET",),
    ) -> Fault:
        """Spoil the next requests that fit; the fault that was told first goes first.

        Args:
            file: pattern of the file's name; lists of files are called `api/info`, `api/tree` and `api/refs`.
            revision: pattern of the revision's name.
            times: how many requests; None for all of them.
            status: answer with this instead, for example 429, 500 or 503.
            retry_after: seconds, sent with `status`.
            truncate: hang up after this many bytes of the file, counted from its beginning, not from where a range begins.
            corrupt: turn over the byte at this place of the file.
            hold: send so many bytes of the file, set `reached`, and send the rest after `release`.
            methods: of HTTP; asking for a file's size is a HEAD.

        Returns:
            The fault; its `times` may be changed.
        """
        one = Fault(file, revision, times, status, retry_after, truncate, corrupt, hold, methods)
        with self.lock:
            self._faults.append(one)
        return one

    def mend(self) -> None:
        """Forget all faults."""
        with self.lock:
            self._faults.clear()

    def release(self) -> None:
        """Send on what is held, and hold nothing more."""
        self._released.set()

    # What was asked

    def commit(self, repo: str, revision: str = "main") -> str:
        """Return the commit of a revision."""
        return self._repos[repo][revision].commit

    def move(self, repo: str, revision: str, folder: Path) -> str:
        """Point a branch at other files: a new commit, which is returned. The old commit can still be asked for."""
        old = self._repos[repo][revision]
        self._repos[repo][revision] = new = self._revision(repo, revision, folder)
        self._repos[repo][old.commit] = old
        return new.commit

    def requests(self, file: str = "*", revision: str = "*", method: str = "*") -> int:
        """Count the requests whose file, revision and method fit the patterns."""
        return len(self._asked(file, revision, method))

    def bytes_sent(self, file: str = "*", revision: str = "*") -> int:
        """Add up the bytes of bodies that were sent for files that fit the patterns."""
        return sum(asked.sent for asked in self._asked(file, revision, "*"))

    def files(self, repo: str, revision: str = "main") -> list[str]:
        """Return the names of a revision's files."""
        return list(self._repos[repo][revision].files)

    def size(self, repo: str, revision: str = "main", file: str = "*") -> int:
        """Return how many bytes the files of a revision have."""
        files = self._repos[repo][revision].files.values()
        return sum(one.size for one in files if fnmatch.fnmatch(one.name, file))

    # Being its client

    def environment(self, cache: Path) -> dict[str, str]:
        """Return what another process needs in its environment to be a client with a cache of its own."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_CACHE": str(cache),
            "HF_HOME": str(cache.parent / f"{cache.name}-home"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        }

    @contextmanager
    def connected(self, cache: Path, *, offline: bool = False) -> Iterator[None]:
        """Make this process, and those it starts, a client with a cache of its own, as long as the context lasts.

        huggingface_hub reads its environment once, when imported, so what it has read is changed as well.
        """
        from huggingface_hub import constants, file_download, hf_api

        changed = {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(cache),
            "HF_HUB_OFFLINE": offline,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": True,
        }
        variables = self.environment(cache) | {"HF_HUB_OFFLINE": str(int(offline))}
        with (
            mock.patch.multiple(constants, **changed),
            mock.patch.object(hf_api.api, "endpoint", self.url),
            mock.patch.dict(vars(file_download), {name: changed[name] for name in changed if name in vars(file_download)}),
            mock.patch.dict(os.environ, variables),
        ):
            yield

    # For the handler

    def find(self, repo: str, revision: str) -> Revision | None:
        """Return a revision by its name or commit."""
        known = self._repos.get(repo, {})
        return known.get(revision) or next((one for one in known.values() if one.commit == revision), None)

    def branches(self, repo: str) -> list[Revision] | None:
        """Return the revisions of a repository, None where there is no such repository."""
        known = self._repos.get(repo)
        return None if known is None else [one for name, one in known.items() if name == one.name]

    def trouble(self, asked: Asked) -> Fault | None:
        """Return what goes wrong with a request, and count it."""
        with self.lock:
            self.log.append(asked)
            for one in self._faults:
                if one.fits(asked.method, asked.name, asked.revision):
                    one.times = None if one.times is None else one.times - 1
                    return one
        return None

    def held(self) -> None:
        """Wait until nothing is held any more."""
        self.reached.set()
        self._released.wait(60)

    def _asked(self, file: str, revision: str, method: str) -> list[Asked]:
        def fit(asked: Asked) -> bool:
            pairs = ((asked.name, file), (asked.revision, revision), (asked.method, method))
            return all(fnmatch.fnmatch(value, pattern) for value, pattern in pairs)

        with self.lock:
            return [asked for asked in self.log if fit(asked)]

    def _revision(self, repo: str, name: str, folder: Path) -> Revision:
        if folder not in self._files:
            paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
            self._files[folder] = {file: HubFile(file, path) for file, path in paths.items()}
        files = self._files[folder]
        text = json.dumps([repo, name, {file.name: file.etag for file in files.values()}])
        return Revision(name, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), files)


class _Http(ThreadingHTTPServer):
    request_queue_size = 64
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"
    _INFO = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?P<what>revision|tree|paths-info|refs)(?:/(?P<rest>.+))?)?")
    _FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        try:
            if found := self._INFO.fullmatch(parts.path):
                self._tell(unquote(found["repo"]), found["what"] or "revision", found["rest"] or "", query)
            elif found := self._FILE.fullmatch(parts.path):
                self._give(*(unquote(found[part]) for part in ("repo", "revision", "name")))
            else:
                asked = Asked(self.command, "", "", parts.path)
                self.hub.trouble(asked)
                self._refuse(asked, 404, "EntryNotFound")
        except OSError:  # the client has hung up
            self.close_connection = True

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = self._INFO.fullmatch(urlsplit(self.path).path)
        revision = self.hub.find(unquote(found["repo"]), unquote(found["rest"] or "")) if found else None
        asked = Asked("POST", found["repo"] if found else "", revision.name if revision else "", "api/paths-info")
        self.hub.trouble(asked)
        if revision is None:
            self._refuse(asked, 404, "RevisionNotFound")
            return
        text = body.decode()
        names = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
        self._json(asked, [revision.files[name].entry() for name in names if name in revision.files])

    def _tell(self, repo: str, what: str, rest: str, query: dict[str, str]) -> None:
        """Answer a question about a repository or a revision."""
        branches = self.hub.branches(repo)
        name, _, path = rest.partition("/")
        revision = self.hub.find(repo, unquote(name) or "main")
        label = {"revision": "info"}.get(what, what)
        asked = Asked(self.command, repo, revision.name if revision else "", f"api/{label}")
        if self._spoiled(asked, self.hub.trouble(asked)):
            return
        if branches is None:
            self._refuse(asked, 401, "RepoNotFound")
        elif what == "refs":
            told = [{"name": r.name, "ref": f"refs/heads/{r.name}", "targetCommit": r.commit} for r in branches]
            self._json(asked, {"branches": told, "converts": [], "tags": []})
        elif revision is None:
            self._refuse(asked, 404, "RevisionNotFound")
        elif what == "tree":
            entries = [file.entry() for file in revision.files.values() if not path or file.name.startswith(f"{path}/")]
            if path and not entries:
                self._refuse(asked, 404, "EntryNotFound")
            else:
                self._json(asked, entries)
        else:
            siblings = [file.sibling(sizes="blobs" in query) for file in revision.files.values()]
            about = {"id": repo, "modelId": repo, "private": False, "gated": False, "disabled": False, "tags": []}
            self._json(asked, {**about, "sha": revision.commit, "downloads": 0, "likes": 0, "siblings": siblings})

    def _give(self, repo: str, name: str, file_name: str) -> None:
        """Send a file, or what is known of it."""
        revision = self.hub.find(repo, name)
        asked = Asked(self.command, repo, revision.name if revision else name, file_name)
        fault = self.hub.trouble(asked)
        if self._spoiled(asked, fault):
            return
        if self.hub.branches(repo) is None:
            self._refuse(asked, 401, "RepoNotFound")
        elif revision is None:
            self._refuse(asked, 404, "RevisionNotFound")
        elif file_name not in revision.files:
            self._refuse(asked, 404, "EntryNotFound", {"X-Repo-Commit": revision.commit})
        else:
            self._send(asked, revision, revision.files[file_name], fault)

    def _send(self, asked: Asked, revision: Revision, file: HubFile, fault: Fault | None) -> None:
        """Send a file, or the part that is asked for."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        asked.first, last = (int(wanted[1]), int(wanted[2] or file.size - 1)) if wanted else (0, file.size - 1)
        headers = {"X-Repo-Commit": revision.commit, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if file.lfs:
            headers |= {"X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
        if wanted:
            headers["Content-Range"] = f"bytes {asked.first}-{last}/{file.size}"
        if wanted and asked.first >= file.size:
            self._refuse(asked, 416, "RangeNotSatisfiable", {"Content-Range": f"bytes */{file.size}"})
            return
        self._head(asked, 206 if wanted else 200, {**headers, "Content-Length": str(last + 1 - asked.first)})
        if self.command == "GET":
            self._body(asked, file, last + 1, fault)

    def _body(self, asked: Asked, file: HubFile, end: int, fault: Fault | None) -> None:
        """Send the bytes of a file from `asked.first` up to `end`, with what goes wrong on the way."""
        content = bytearray(file.path.read_bytes())
        if fault is not None and fault.corrupt is not None:
            content[fault.corrupt] ^= 0xFF
        stop = end if fault is None or fault.truncate is None else max(asked.first, min(end, fault.truncate))
        pause = None if fault is None else fault.hold
        place, started = asked.first, monotonic()
        while place < stop:
            if pause is not None and place >= pause:
                self.wfile.flush()
                self.hub.held()
                pause = None
            until = min(place + PIECE, stop, pause if pause is not None and pause > place else stop)
            if self.hub.rate:
                until = min(until, place + max(1, int(self.hub.rate / 50)))
            self.wfile.write(content[place:until])
            asked.sent += until - place
            place = until
            if self.hub.rate:
                sleep(max(0.0, (place - asked.first) / self.hub.rate - (monotonic() - started)))
        if stop < end:
            self.close_connection = True

    def _spoiled(self, asked: Asked, fault: Fault | None) -> bool:
        """Answer with the status of a fault, if it has one. Tells whether that was done."""
        if fault is None or fault.status is None:
            return False
        headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
        self._refuse(asked, fault.status, None, headers)
        return True

    def _refuse(self, asked: Asked, status: int, code: str | None, headers: Mapping[str, str] | None = None) -> None:
        said = {"X-Error-Code": code, "X-Error-Message": f"{code}: {asked.name}"} if code else {}
        self._head(asked, status, {**said, **(headers or {}), "Content-Length": "0"})

    def _json(self, asked: Asked, content: Any) -> None:
        data = json.dumps(content).encode()
        self._head(asked, 200, {"Content-Type": "application/json", "Content-Length": str(len(data))})
        if self.command != "HEAD":
            self.wfile.write(data)

    def _head(self, asked: Asked, status: int, headers: Mapping[str, str]) -> None:
        asked.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass
