"""One driver at a time where there are no locks: an object that names its owner, whose heart beats as long as it lives.

A lease whose heart has not beaten for `LEASE_SECONDS`, by the clock of whoever looks at it, is that of a dead driver. fsspec
has no step that both looks and takes, so two drivers that take it in the same moment may both believe they hold it: each looks
again after `SETTLE_SECONDS`, and before each beat, and the one that finds another owner there stops. Until then both write the
same files with the same content, for the plan decides it; what is lost is work. Leaves the store to `remote.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from traitline.errors import StoreError
from traitline.study.remote import Remote

NAME = "lease.json"
BEAT_SECONDS = 10.0
LEASE_SECONDS = 45.0
"""So long without a beat, and the driver is dead."""
SETTLE_SECONDS = 1.0
"""So long after it was taken, a lease is looked at again."""
LOOK_SECONDS = 1.0
LONG_DEAD_SECONDS = 600.0
"""A beat so long ago, by the clocks of both machines, needs no waiting."""


class Lease:
    """The lease of one run directory.

    Args:
        remote: where it lies.
    """

    def __init__(self, remote: Remote) -> None:
        self.owner = uuid.uuid4().hex
        self.before: str | None = None
        """Who held it before this one; None where nobody ever did."""
        self._remote = remote
        self._lost = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run; where another driver's heart has stopped, once that is sure.

        Raises:
            StoreError: another driver holds the run, or the store cannot be used.
        """
        self._take()
        over = threading.Event()
        thread = threading.Thread(target=self._beat, args=(over,), name="traitline-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            with contextlib.suppress(StoreError):
                if not self._lost and self._is_mine():
                    self._write(released=True)

    def check(self) -> None:
        """Stop whoever no longer holds the run.

        Raises:
            StoreError: another driver has taken it.
        """
        if self._lost:
            raise StoreError(
                f"another driver has taken the run at {self._remote.url!r}: this one was silent for over {LEASE_SECONDS:g} "
                "seconds, or both began in the same moment. Let the other one go on, or stop it and run this command again"
            )

    def _take(self) -> None:
        found = self._read()
        self.before = None if found is None else str(found.get("owner"))
        if found is not None and not _is_over(found):
            self._wait_for_silence(found)
        self._write()
        time.sleep(SETTLE_SECONDS)
        self._lost = not self._is_mine()
        self.check()

    def _wait_for_silence(self, found: dict[str, Any]) -> None:
        """Return once a lease has not changed for so long that its owner is dead."""
        until = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < until:
            time.sleep(min(LOOK_SECONDS, LEASE_SECONDS))
            now = self._read()
            if now is None or now.get("released"):
                return
            if now != found:
                raise StoreError(
                    f"another process ({now.get('process')} on {now.get('machine')}) is running the study at "
                    f"{self._remote.url!r}; wait for it, or give another --out"
                )

    def _beat(self, over: threading.Event) -> None:
        while not over.wait(BEAT_SECONDS) and not self._lost:
            with contextlib.suppress(StoreError):  # a store that is away for a while
                self.beat()

    def beat(self) -> None:
        """Show that this driver lives, or find that another one has the lease.

        Raises:
            StoreError: the store cannot be used.
        """
        self._lost = self._lost or not self._is_mine()
        if not self._lost:
            self._write()

    def _is_mine(self) -> bool:
        found = self._read()
        return found is not None and found.get("owner") == self.owner

    def _read(self) -> dict[str, Any] | None:
        text = self._remote.read(NAME)
        try:
            found = json.loads(text) if text else None
        except ValueError:
            return {"owner": "unreadable"}
        return found if isinstance(found, dict) else None

    def _write(self, *, released: bool = False) -> None:
        where = {"machine": socket.gethostname(), "system": _system(), "process": os.getpid()}
        now = {"owner": self.owner, **where, "beat": time.time()}
        self._remote.write(NAME, json.dumps({**now, "released": released}).encode())


def _is_over(found: dict[str, Any]) -> bool:
    """Tell of a lease whether its owner has given it back, or has died: long ago, or on this machine."""
    if found.get("released") or time.time() - float(found.get("beat") or 0) > LONG_DEAD_SECONDS:
        return True
    return _system() is not None and found.get("system") == _system() and not _lives(int(found.get("process") or 0))


def _system() -> str | None:
    """Return what tells this system, and this container on it, from every other one since it was started."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
