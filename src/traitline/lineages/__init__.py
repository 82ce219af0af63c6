"""Where to look: the training history of a model, its checkpoints and its descendants."""

from traitline.lineages.lineage import (
    Checkpoint,
    Descendant,
    Kind,
    Lineage,
    load_lineage,
    packaged_lineages,
    safe_name,
)

__all__ = ["Checkpoint", "Descendant", "Kind", "Lineage", "load_lineage", "packaged_lineages", "safe_name"]
