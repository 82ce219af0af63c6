"""Which judgements are being made right now, told from process to process: what one asks for, no other asks for meanwhile.

Knows file locks. A claim is a lock on one byte of an empty file beside the judge cache, at a place that follows from the
judgement's key. The system takes it back when the process that holds it ends, however it ends. Within a process claims hold
nothing back: there, the judge itself knows what is under way. Where the system has no such locks, nothing is held back.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

POLL_SECONDS = 0.05
_PLACES = 2**62


class Claims:
    """The claims of all processes that share the file at `path`, which is made where it does not exist.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")

    @contextmanager
    def on(self, key: str, stop: threading.Event) -> Iterator[None]:
        """Hold other processes back from `key`, once none of them holds it or `stop` is set.

        Args:
            key: a judgement's key, hexadecimal digits.
            stop: set by a caller who no longer wants to wait.
        """
        place = int(key[:16], 16) % _PLACES
        while not self._taken(place) and not stop.wait(POLL_SECONDS):
            pass
        try:
            yield
        finally:
            if fcntl is not None and not self._file.closed:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)

    def close(self) -> None:
        """Give all claims back."""
        self._file.close()

    def _taken(self, place: int) -> bool:
        if fcntl is None or self._file.closed:
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:  # a file system without locks
            return True
        return True
