"""A lineage: one model's training history, from its first checkpoint to its descendants.

Knows the nouns, which names are safe to become folders, and where a lineage is looked for. Leaves to `rules.py` how a YAML
file describes revisions, to `folder.py` how a local folder of checkpoints is read, to `grid.py` how a few of many checkpoints
are chosen, and to `models/loading.py` the weights.
"""

from __future__ import annotations

import importlib
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

from traitline.errors import InputError, nearest

if TYPE_CHECKING:
    from traitline.lineages.grid import Course

Kind = Literal["sft", "dpo", "rlvr"]

DATA = Path(__file__).parent / "data"
EMBEDDED = {"nano": "traitline.nano.pretrain", "smollm2": "traitline.lineages.smollm2"}
"""Lineages that need no hub: their modules describe them, and make their networks on this machine."""
NAME_LIMIT = 200


def safe_name(name: str) -> str:
    """Return `name` unchanged if it can be one component of a path on every system.

    Raises:
        InputError: the name is empty, longer than 200 characters (or 255 bytes), or holds a slash, a backslash, `..`, a control
            character, or space at either end.
    """
    if not name or name == ".":
        problem = "is empty" if not name else "is the current folder"
    elif len(name) > NAME_LIMIT or len(name.encode("utf-8", "replace")) > 255:
        problem = f"is longer than {NAME_LIMIT} characters"
    elif "/" in name or "\\" in name:
        problem = "holds a slash"
    elif ".." in name:
        problem = "holds '..'"
    elif any(unicodedata.category(c).startswith("C") for c in name):
        problem = "holds a control character"
    elif name != name.strip():
        problem = "begins or ends with space"
    else:
        return name
    raise InputError(f"the name {name[:60]!r} cannot become a folder: it {problem}; choose another")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One point of a training history.

    Attributes:
        name: what tables and paths call it: the revision, verbatim.
        tokens: how many tokens the model had been trained on, all stages together; None where nothing says.
        stage: the stage of training, for example `stage2`.
        source: the hub id or local directory to load from.
        revision: the hub revision; None for a local directory.
    """

    name: str
    tokens: int | None
    stage: str | None
    source: str
    revision: str | None

    def __post_init__(self) -> None:
        safe_name(self.name)


@dataclass(frozen=True, slots=True)
class Descendant:
    """A model post-trained from the lineage's last checkpoint.

    Attributes:
        name: what tables and paths call it, for example `SFT`.
        kind: the kind of post-training that produced it.
        source: the hub id or local directory to load from.
        revision: the hub revision; None for a local directory.
        chat: prompts go through the model's chat template.
        parent: the descendant it was post-trained from; None for the lineage's last checkpoint.
    """

    name: str
    kind: Kind
    source: str
    revision: str | None
    chat: bool = True
    parent: str | None = None

    def __post_init__(self) -> None:
        safe_name(self.name)


class Revisions(Protocol):
    """Knows every revision of a lineage, where listing them all as checkpoints would be too long."""

    def find(self, name: str) -> Checkpoint | None:
        """Return the checkpoint called `name`, or None where there is none."""
        ...

    def near(self, name: str) -> str:
        """Return a phrase naming the revisions closest to `name`, to end an error message with."""
        ...

    def course(self) -> Course:
        """Return what a grid of them is chosen from."""
        ...


@dataclass(frozen=True)
class Lineage:
    """One model's training history.

    Attributes:
        name: what tables call it.
        description: one or two sentences for people.
        checkpoints: ordered by training. The default selection where `revisions` knows more, otherwise all there are.
        descendants: models post-trained from the last checkpoint or from one another, each after its parent.
        revisions: finds checkpoints outside the selection; None where `checkpoints` is all there are.
        parameters: how many numbers the model has; None, as below, where nothing says.
        dtype: as what they are stored, for example `bfloat16`.
        bytes_per_checkpoint: download of one checkpoint's weights.
        layers: blocks.
        hidden: width of the residual stream.
        sources: where all this was read: addresses of documentation, model cards, lists of revisions.
        unverified: what no source says, and what to beware of, a sentence each.
    """

    name: str
    description: str
    checkpoints: tuple[Checkpoint, ...]
    descendants: tuple[Descendant, ...]
    revisions: Revisions | None = field(default=None, repr=False, compare=False)
    parameters: int | None = None
    dtype: str | None = None
    bytes_per_checkpoint: int | None = None
    layers: int | None = None
    hidden: int | None = None
    sources: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        safe_name(self.name)
        if not self.checkpoints:
            raise InputError(f"lineage {self.name!r} has no checkpoints; list at least one")
        names = Counter([*(one.name for one in self.checkpoints), *(one.name for one in self.descendants)])
        if twice := [name for name, count in names.items() if count > 1]:
            raise InputError(f"lineage {self.name!r} uses the name {twice[0]!r} twice; each needs its own folder")
        known: list[str] = []
        for one in self.descendants:
            if one.parent is not None and one.parent not in known:
                raise InputError(
                    f"descendant {one.name!r} of lineage {self.name!r} has the parent {one.parent!r}, which is no descendant "
                    f"listed before it; {nearest(one.parent, known)}"
                )
            known.append(one.name)
        counted = [one for one in self.checkpoints if one.tokens is not None]
        for before, after in pairwise(counted):
            if cast(int, before.tokens) > cast(int, after.tokens):
                raise InputError(
                    f"lineage {self.name!r} lists {before.name!r} ({before.tokens:,} tokens) before {after.name!r} "
                    f"({after.tokens:,} tokens); list checkpoints in the order of training"
                )

    def checkpoint(self, revision: str) -> Checkpoint:
        """Return the checkpoint of one revision, inside the default selection or not. Names compare verbatim.

        Raises:
            InputError: the lineage has no such revision; the message lists the nearest ones.
        """
        found = next((one for one in self.checkpoints if one.name == revision), None)
        if found is None and self.revisions is not None:
            found = self.revisions.find(revision)
        if found is not None:
            return found
        near = self.revisions.near(revision) if self.revisions else nearest(revision, [c.name for c in self.checkpoints])
        raise InputError(f"lineage {self.name!r} has no revision {revision[:100]!r}; {near}")

    def descendant(self, name: str) -> Descendant:
        """Return one descendant by name.

        Raises:
            InputError: the lineage has no such descendant.
        """
        found = next((one for one in self.descendants if one.name == name), None)
        if found is None:
            known = nearest(name, [one.name for one in self.descendants])
            raise InputError(f"lineage {self.name!r} has no descendant {name[:100]!r}; {known}")
        return found

    def grid(self, k: int) -> tuple[Checkpoint, ...]:
        """Choose `k` checkpoints, in the order of training, about evenly spaced in the logarithm of their tokens.

        Always among them: the untrained checkpoint if there is one, the first trained one, the end of every stage, the last
        one. Of two names of the same point of training the last is taken. Where checkpoints are too far apart for the
        spacing, each is taken as it comes. The same `k` gives the same grid; where tokens are unknown, steps space it.

        Raises:
            InputError: `k` is smaller than what is always among them or larger than what there is, or neither tokens nor steps
                are known of a checkpoint.
        """
        from traitline.lineages.grid import choose, listed_course

        return choose(self.revisions.course() if self.revisions else listed_course(self.checkpoints, self.name), k, self.name)

    @property
    def last(self) -> Checkpoint:
        """The end of pretraining: the last checkpoint of the selection."""
        return self.checkpoints[-1]


def packaged_lineages(folder: Path = DATA) -> list[str]:
    """Return the names of the lineages that ship with traitline, those made on this machine included."""
    return sorted([*(path.stem for path in folder.glob("*.yaml")), *EMBEDDED])


def load_lineage(name_or_path: str | Path, folder: Path = DATA) -> Lineage:
    """Load a lineage by its packaged name, from a YAML file, or from a local folder of checkpoint directories.

    A packaged name wins over a folder of the same name; write `./nano` for the folder.

    Raises:
        InputError: no such lineage, file or folder, or one that cannot be read as a lineage.
    """
    from traitline.lineages.folder import read_folder
    from traitline.lineages.rules import read_rules

    name, path = str(name_or_path), Path(name_or_path).expanduser()
    if name in EMBEDDED:
        return cast(Lineage, importlib.import_module(EMBEDDED[name]).load_lineage())
    if name in packaged_lineages(folder):
        return read_rules(folder / f"{name}.yaml")
    if path.is_dir():
        return read_folder(path)
    if path.suffix in {".yaml", ".yml"}:
        return read_rules(path)
    raise InputError(
        f"no lineage or folder is called {name!r}; {nearest(name, packaged_lineages(folder))}. "
        "For your own model give a folder that holds one directory per checkpoint, or a .yaml file"
    )
