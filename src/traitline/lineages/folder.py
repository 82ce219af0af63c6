"""Local lineages: a folder in which every directory with a `config.json` is a checkpoint.

Knows how to order them: from a `lineage.yaml` or `lineage.json` inside the folder, otherwise from the stages, steps and token
counts in the directories' names. Leaves hub lineages to `rules.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from traitline.errors import InputError, nearest
from traitline.lineages.lineage import Checkpoint, Descendant, Kind, Lineage
from traitline.lineages.rules import Tokens, read_model
from traitline.lineages.stages import NameParts as NameParts
from traitline.lineages.stages import Text

NOTES = ("lineage.yaml", "lineage.yml", "lineage.json")


class NotedCheckpoint(BaseModel):
    """What the folder's file says of one checkpoint directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Text
    tokens: Tokens | None = None
    stage: Text | None = None


class NotedDescendant(BaseModel):
    """What the folder's file says of one post-trained model; `path` is relative to the folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Text
    kind: Kind
    path: Text
    chat: bool = True
    parent: Text | None = None


class FolderNotes(BaseModel):
    """The optional `lineage.yaml` or `lineage.json`: the order of training, tokens, descendants."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Text | None = None
    description: Text | None = None
    checkpoints: tuple[NotedCheckpoint, ...] = ()
    """In the order of training. Directories not listed are left out; with an empty list all are taken."""
    descendants: tuple[NotedDescendant, ...] = ()


def read_folder(folder: Path) -> Lineage:
    """Read a local folder of checkpoint directories as a lineage.

    Raises:
        InputError: the folder holds no checkpoint, or its file is broken or names a directory that is none.
    """
    folder = folder.resolve()
    path = next((folder / name for name in NOTES if (folder / name).is_file()), None)
    notes = read_model(FolderNotes, path) if path else FolderNotes()
    descendants = tuple(_descendant(folder, one) for one in notes.descendants)
    if notes.checkpoints:
        checkpoints = tuple(_noted(folder, one) for one in notes.checkpoints)
    else:
        taken = {one.source for one in descendants}
        checkpoints = _ordered([one for one in _directories(folder) if str(one.resolve()) not in taken])
    if not checkpoints:
        raise InputError(_empty(folder))
    description = notes.description or f"Checkpoints in the folder {folder.name}"
    return Lineage(notes.name or folder.name, description, checkpoints, descendants)


def _is_checkpoint(path: Path) -> bool:
    return (path / "config.json").is_file()


def _directories(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".") and _is_checkpoint(path)]


def _ordered(directories: list[Path]) -> tuple[Checkpoint, ...]:
    """Order by tokens if the names tell them, else by stage and step; names without a number last, in natural order."""
    parts = {path: NameParts.of(path.name) for path in directories}
    by_tokens = any(one.tokens is not None for one in parts.values())
    by_tokens &= all(one.tokens is not None or one.step is None for one in parts.values())

    def key(path: Path) -> tuple[bool, int, int, list[tuple[int, str]]]:
        one = parts[path]
        number = one.tokens if by_tokens else one.step
        return number is None, 0 if by_tokens else one.stage or 0, number or 0, _natural(path.name)

    return tuple(
        Checkpoint(path.name, parts[path].tokens, _stage(parts[path]), str(path), None) for path in sorted(directories, key=key)
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """Split a name so that `v10` sorts after `v9`."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"([0-9]{1,15})", name)]


def _stage(parts: NameParts) -> str | None:
    return None if parts.stage is None else f"stage{parts.stage}"


def _noted(folder: Path, one: NotedCheckpoint) -> Checkpoint:
    path = folder / one.name
    checkpoint = Checkpoint(one.name, one.tokens, one.stage, str(path), None)  # refuses names that leave the folder
    if not _is_checkpoint(path):
        known = nearest(one.name, sorted(found.name for found in _directories(folder)))
        raise InputError(
            f"{str(folder)!r} lists the checkpoint {one.name!r}, but has no such directory with a config.json; {known}"
        )
    return checkpoint


def _descendant(folder: Path, one: NotedDescendant) -> Descendant:
    path = (folder / Path(one.path).expanduser()).resolve()
    if not _is_checkpoint(path):
        raise InputError(f"the path {one.path!r} of descendant {one.name!r} is no directory with a config.json; correct `path`")
    return Descendant(one.name, one.kind, str(path), None, one.chat, one.parent)


def _empty(folder: Path) -> str:
    if _is_checkpoint(folder):
        return f"{str(folder)!r} is itself one checkpoint; give the folder that holds the checkpoint directories"
    return f"{str(folder)!r} holds no checkpoint: none of its directories has a config.json"
