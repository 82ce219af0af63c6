"""The weights of the network that comes next are read ahead, quietly."""

from __future__ import annotations

from pathlib import Path

import pytest

from traitline.models import prefetch


def test_weights_of_a_directory_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["model-00001.safetensors", "model-00002.safetensors"]
    for name in (*names, "tokenizer.json"):
        (tmp_path / name).write_bytes(b"x" * 100)
    assert [file.name for file in prefetch.weights(str(tmp_path), None)] == names
    read: list[Path] = []
    monkeypatch.setattr(prefetch, "_read", read.extend)
    thread = prefetch.prefetch(str(tmp_path), None)
    assert thread is not None
    thread.join()
    assert [file.name for file in read] == names


def test_what_is_not_here_or_too_large_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prefetch.prefetch("nobody/nothing", "step5") is None
    assert prefetch.prefetch("not a name at all", None) is None
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    monkeypatch.setattr(prefetch, "_available", lambda: 150)
    assert prefetch.prefetch(str(tmp_path), None) is None


def test_a_file_that_goes_away_harms_nothing(tmp_path: Path) -> None:
    there = tmp_path / "there.safetensors"
    there.write_bytes(b"x" * 100)
    prefetch._read([there, tmp_path / "gone.safetensors"])
    assert there.read_bytes() == b"x" * 100
