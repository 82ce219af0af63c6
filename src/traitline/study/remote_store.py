"""Where a run lies: a folder, or a URL with a working copy of it in the user's cache directory.

Knows what of a run a driver fetches first, and what a look at it needs. A working copy that no other driver has overtaken is
gone on with; any other one is thrown away, for the remote directory alone says what is done. Leaves the exchange of files to
`mirror.py`, and one driver at a time to `lease.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from platformdirs import user_cache_dir

from traitline.errors import InputError
from traitline.lineages import safe_name
from traitline.study.lease import Lease
from traitline.study.mirror import Mirror
from traitline.study.plan import Cell
from traitline.study.remote import Remote, is_url
from traitline.study.store import RunStore

STATUS = ("study.yaml", "ledger.sqlite", "judge-cache.sqlite")
"""What `traitline status` reads of a run."""
_MADE_ANEW = ("tables/", "figures/", "report")
"""What a run makes of its other files in the end."""


def open_store(out: Path | str) -> RunStore:
    """Return the store of a run directory, or of the working copy of one in an object store.

    Raises:
        InputError: no such protocol, or a package that it needs is not installed.
        StoreError: the object store cannot be reached.
    """
    return RemoteStore(str(out)) if is_url(out) else RunStore(Path(out))


def working_copy(url: str) -> Path:
    """Return the folder in the user's cache directory, or in `TRAITLINE_CACHE`, where the run at a URL is worked on."""
    cache = Path(os.environ.get("TRAITLINE_CACHE") or user_cache_dir("traitline"))
    last = safe_name(url.rstrip("/").rpartition("/")[2] or "run")
    return cache / "runs" / f"{last}-{hashlib.blake2b(url.rstrip('/').encode(), digest_size=6).hexdigest()}"


@contextlib.contextmanager
def looked_into(out: Path | str, wanted: Callable[[str], bool] | None = None) -> Iterator[Path]:
    """Give a folder in which a run can be read: its own, or one that lasts as long as this and holds what is wanted.

    Args:
        out: a run directory, or its URL.
        wanted: tells by its name whether a file is wanted; only those of `STATUS` where left out.

    Raises:
        InputError: no run lies at the URL.
        StoreError: the object store cannot be read.
    """
    if not is_url(out):
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="traitline-") as folder:
        remote = Remote(str(out))
        if wanted is None:
            found = [remote.get(name, Path(folder, name)) for name in STATUS]
        else:
            Mirror(Path(folder), remote).fetch(wanted)
            found = [Path(folder, "study.yaml").is_file()]
        if not found[0]:
            raise InputError(f"no run lies in {str(out)!r}; start one with 'traitline run'")
        yield Path(folder)


def folders_of(network: str) -> list[str]:
    """Return the folders of a run directory that are about one network."""
    return [f"{kind}/{safe_name(network)}" for kind in ("cells", "targets", "parts", "doses", "meanings")]


class RemoteStore(RunStore):
    """The working copy of a run at a URL, for its driver.

    Args:
        url: of the run directory.
    """

    def __init__(self, url: str) -> None:
        super().__init__(working_copy(url))
        self.remote = Remote(url)
        self.mirror = Mirror(self.root, self.remote)
        self._lease: Lease | None = None

    @property
    def url(self) -> str:
        """Where others find the run."""
        return self.remote.url

    @contextlib.contextmanager
    def driving(self) -> Iterator[None]:
        """Hold the run, fetch what is done of it, and put what is done here meanwhile.

        Raises:
            StoreError: another driver holds it, or the object store cannot be read or written.
        """
        with super().driving():
            lease = Lease(self.remote)
            with lease.held():
                mine = self.root / ".owner"
                overtaken = not mine.is_file() or mine.read_text(encoding="ascii") != lease.before
                if overtaken:
                    self.mirror.clear()
                    mine.unlink(missing_ok=True)
                self.mirror.fetch(lambda name: not name.startswith(_MADE_ANEW), mine_are_newer=not overtaken)
                mine.write_text(lease.owner, encoding="ascii")
                self._lease = lease
                try:
                    with self.mirror.kept(lease.check):
                        yield
                finally:
                    self._lease = None

    def check(self) -> None:
        """Stop a driver that no longer holds the run.

        Raises:
            StoreError: another one has taken it.
        """
        if self._lease is not None:
            self._lease.check()

    def refresh(self, network: str) -> None:
        """Fetch what others have put of a network."""
        self.mirror.fetch(under=folders_of(network))

    def forget(self, network: str) -> None:
        """Drop the parts of a network whose cells are written."""
        super().forget(network)
        self.remote.remove(self.remote.names(f"parts/{safe_name(network)}"))

    def write_rows(self, path: Path, rows: pd.DataFrame) -> None:
        """Write response rows in the contract's schema.

        Raises:
            StoreError: another driver has taken the run.
        """
        self.check()
        super().write_rows(path, rows)
        self.mirror.soon()

    def note_cell(self, cell: Cell, state: str, reason: str | None, **more: Any) -> None:
        """Record the state of a cell or target.

        Raises:
            StoreError: another driver has taken the run.
        """
        self.check()
        super().note_cell(cell, state, reason, **more)
