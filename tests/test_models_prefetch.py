"""The files of the network that comes next are brought and read ahead, quietly."""

from __future__ import annotations

from pathlib import Path

import pytest

from traitline.models import prefetch
from traitline.models.prefetch import Prefetch, read_ahead


def test_the_weights_of_a_directory_are_read(tmp_path: Path) -> None:
    for name in ("model-00001.safetensors", "model-00002.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"x" * 100)
    assert read_ahead(tmp_path) == 200


def test_what_is_not_here_or_too_large_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_ahead(tmp_path / "nothing") == 0
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    monkeypatch.setattr(prefetch, "available_bytes", lambda: 150)
    assert read_ahead(tmp_path) == 0


def test_a_file_that_goes_away_harms_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"x" * 100)
    (tmp_path / "b.safetensors").symlink_to(tmp_path / "gone")
    assert read_ahead(tmp_path) == 0


def test_files_are_brought_in_another_thread_and_then_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(prefetch, "read_ahead", read.append)
    brought = Prefetch(lambda: tmp_path)
    brought.wait()
    assert brought.over
    brought.join()
    assert read == [tmp_path]
    assert brought.error is None


def test_what_bringing_them_met_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def bring() -> Path:
        raise ValueError("no")

    failed = Prefetch(bring)
    failed.wait()
    assert str(failed.error) == "no"
