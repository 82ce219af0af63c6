"""Read the next network's weights into the page cache while this one computes, so that loading it does not wait for a disk.

Knows local directories and what the hub's cache holds already; downloads nothing. A convenience: whatever goes wrong here is
silent, for loading says it better.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

CHUNK = 16 * 2**20
"""Bytes read at a time."""
SHARE = 0.5
"""Share of the memory available that a network may take in the page cache."""


def prefetch(source: str, revision: str | None) -> threading.Thread | None:
    """Begin to read a network's weights, in a thread of its own.

    Args:
        source: a directory, or a repository of the hub.
        revision: of the repository.

    Returns:
        The thread; None where there is nothing to read, or no room to keep it.
    """
    files = weights(source, revision)
    if not files or sum(file.stat().st_size for file in files) > SHARE * _available():
        return None
    thread = threading.Thread(target=_read, args=(files,), name="prefetch", daemon=True)
    thread.start()
    return thread


def weights(source: str, revision: str | None) -> list[Path]:
    """Return the files of weights that lie on this machine, none where the network is not here yet."""
    folder = Path(source)
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        try:
            config = try_to_load_from_cache(source, "config.json", revision=revision or "main")
        except Exception:  # a name that is none of the hub's
            return []
        if not isinstance(config, str):
            return []
        folder = Path(config).parent
    return sorted(folder.glob("*.safetensors"))


def _read(files: list[Path]) -> None:
    buffer = bytearray(CHUNK)
    for file in files:
        try:
            with file.open("rb", buffering=0) as stream:
                while stream.readinto(buffer):
                    pass
        except OSError:
            return


def _available() -> int:
    """Return how many bytes of memory could be taken now, as far as the system tells."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (OSError, ValueError, AttributeError):
        return 0
