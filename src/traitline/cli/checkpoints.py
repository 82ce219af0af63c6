"""How one model is named on the command line: a directory, a hub id, or LINEAGE:CHECKPOINT, for example `nano:step2000`.

Knows which name means what. Leaves revisions to `lineages/` and loading to `models/`.
"""

from __future__ import annotations

from pathlib import Path

from traitline.errors import InputError


def located(name: str, revision: str | None) -> tuple[str, str | None]:
    """Return the hub id or directory of a model, and its revision.

    Args:
        name: a directory, a hub id, or a lineage and the name of one of its checkpoints or descendants with a colon between.
        revision: the revision asked for; a checkpoint of a lineage has its own.

    Raises:
        InputError: no such lineage or checkpoint, a revision beside a checkpoint, or one that is not made yet.
    """
    if ":" not in name or Path(name).is_dir():
        return name, revision
    from traitline.lineages import load_lineage

    known_as, _, checkpoint = name.partition(":")
    lineage = load_lineage(known_as)
    if revision is not None:
        raise InputError(f"{name!r} names one checkpoint already; leave the revision {revision!r} out")
    descendants = {one.name: one for one in lineage.descendants}
    found = descendants.get(checkpoint) or lineage.checkpoint(checkpoint)
    if Path(found.source).is_absolute() and not Path(found.source).is_dir():
        raise InputError(f"{name!r} is not on this machine yet; running a study with it makes it, for example `traitline demo`")
    return found.source, found.revision
