"""Bring the next network's files here while this one computes, and read its weights into the page cache.

Knows threads and the page cache. A convenience: whatever goes wrong here is kept for whoever asks, for bringing the files again
says it better. Leaves downloading to whoever is given.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

CHUNK = 16 * 2**20
"""Bytes read at a time."""
SHARE = 0.5
"""Share of the memory available that a network may take in the page cache."""


class Prefetch:
    """A thread that brings a network's files and reads its weights; it ends with the process, whatever it is at.

    Args:
        bring: makes sure that the files are here, and returns their folder; None where they are to be brought later.

    Attributes:
        error: what bringing them met.
    """

    def __init__(self, bring: Callable[[], Path | None]) -> None:
        self._bring = bring
        self.error: Exception | None = None
        self._brought = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether it is brought, or not to be."""
        return self._brought.is_set()

    def wait(self) -> None:
        """Wait until the files are brought, or are not to be; reading them may go on."""
        self._brought.wait()

    def join(self) -> None:
        """Wait until all is done."""
        self._thread.join()

    def _run(self) -> None:
        folder = None
        try:
            folder = self._bring()
        except Exception as error:
            self.error = error
        finally:
            self._brought.set()
        if folder is not None:
            read_ahead(folder)


def read_ahead(folder: Path) -> int:
    """Read a folder's weights, if half of the free memory can hold them. Returns how many bytes were read."""
    files = sorted(folder.glob("*.safetensors"))
    try:
        if sum(file.stat().st_size for file in files) > SHARE * available_bytes():
            return 0
        return sum(_read(file) for file in files)
    except OSError:  # a file that went away meanwhile
        return 0


def _read(file: Path) -> int:
    buffer, total = bytearray(CHUNK), 0
    with file.open("rb", buffering=0) as stream:
        while read := stream.readinto(buffer):
            total += read
    return total


def available_bytes() -> int:
    """Return how many bytes of memory could be taken now, as far as the system tells."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (OSError, ValueError, AttributeError):
        return 0
