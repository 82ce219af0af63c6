"""Files written whole: under another name, flushed to the disk, then renamed, so that a killed run leaves no half file."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from traitline.errors import StoreError


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file so that it either exists whole or not at all.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    with whole_file(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write piece by piece; it takes its name when the block ends, and never if it fails.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    partial: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException as error:
        if partial is not None:
            with contextlib.suppress(OSError):
                os.unlink(partial)
        if not isinstance(error, OSError):
            raise
        raise StoreError(
            f"cannot write {str(path)!r} ({error.strerror or error}); what was finished is kept. "
            "Free some space or check the folder's permissions, then run the same command again"
        ) from error


def sweep(folder: Path) -> None:
    """Remove what writers that were killed left behind below a folder that nobody else is writing in."""
    for partial in folder.rglob(".*.partial"):
        partial.unlink(missing_ok=True)
