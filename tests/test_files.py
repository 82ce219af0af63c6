"""Files are there whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from traitline.errors import StoreError
from traitline.files import write_whole
from traitline.vectors.vector import PersonaVector

# A limit on file size fails a write half way, as a full disk does (EFBIG in place of ENOSPC).
LIMITED = """
import resource, signal, sys
from pathlib import Path
from traitline.errors import StoreError
from traitline.files import write_whole
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    write_whole(Path(sys.argv[1]), b"n" * 200_000)
except StoreError as error:
    print("StoreError", error)
"""

# Writes versions of one file without end: a killed writer is somewhere in the middle of one.
ENDLESS = """
import sys
from itertools import count
from pathlib import Path
from traitline.files import write_whole
for i in count():
    write_whole(Path(sys.argv[1]), bytes([i % 256]) * 3_000_000)
"""


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    write_whole(tmp_path / "new" / "folders" / "a.txt", "naïve\n")
    assert (tmp_path / "new" / "folders" / "a.txt").read_bytes() == "naïve\n".encode()
    write_whole(tmp_path / "b", b"\x00\xff")
    assert (tmp_path / "b").read_bytes() == b"\x00\xff"


def test_an_older_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    for content in ("a long first version", "second"):
        write_whole(tmp_path / "a.txt", content)
    assert (tmp_path / "a.txt").read_text() == "second"
    assert _names(tmp_path) == ["a.txt"]


def test_others_may_read_the_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("older", [None, b"older"])
def test_a_write_that_runs_out_of_room_leaves_the_folder_as_it_was(tmp_path: Path, older: bytes | None) -> None:
    path = tmp_path / "a.bin"
    if older is not None:
        path.write_bytes(older)
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("StoreError cannot write")
    assert _names(tmp_path) == ([] if older is None else ["a.bin"])
    assert older is None or path.read_bytes() == older


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting a small disk needs root on Linux")
def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("this machine does not let its root mount a small disk")
    try:
        path = PersonaVector.from_array(np.ones((2, 8))).save(tmp_path / "v.safetensors")
        with pytest.raises(StoreError, match="No space left on device"):
            PersonaVector.from_array(np.ones((40, 4096))).save(path)
        assert _names(tmp_path) == ["v.safetensors"]
        assert PersonaVector.load(path).hidden == 8  # the older file is whole
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for attempt in range(4):
        writer = subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)])
        try:
            before = path.stat().st_mtime_ns if path.exists() else 0
            patience = time.monotonic() + 60
            while (not path.exists() or path.stat().st_mtime_ns == before) and time.monotonic() < patience:
                time.sleep(0.005)
            time.sleep(0.003 * attempt)
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        content = path.read_bytes()
        assert len(content) == 3_000_000
        assert len(set(content)) == 1


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"cannot write '.*file/a\.txt'"):
        write_whole(tmp_path / "file" / "a.txt", "y")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="folder"):
        write_whole(tmp_path / "folder", "y")
    assert _names(tmp_path) == ["file", "folder"]
