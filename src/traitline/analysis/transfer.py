"""Whether an early vector still steers a finished model: the verdict per target.

Knows transfer tables, where a target is fixed and the vectors come from the checkpoints of its lineage. Leaves the
statistics to `effects.py` and the onset and its wording to `emergence.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from traitline.analysis.effects import DEFAULT, Thresholds
from traitline.analysis.emergence import Wording, tabulate


def wording(target: str) -> Wording:
    """Return how a verdict speaks of vectors steering `target`."""
    return Wording(f"{target} is steered by vectors", f"{target} is not steered by the vectors of any of {{n}} checkpoints")


def verdicts(
    table: pd.DataFrame,
    order: Sequence[str],
    total_tokens: float | None = None,
    *,
    controls: pd.DataFrame | None = None,
    thresholds: Thresholds = DEFAULT,
) -> pd.DataFrame:
    """Return one verdict per lineage, trait, strategy and target: the earliest vector that steers the target.

    Args:
        table: a transfer table with `steerable` filled.
        order: the checkpoints in the order of training.
        total_tokens: tokens of the whole pretraining, for percentages.
        controls: the effect table of the controls that `steerable` was found with.
        thresholds: the thresholds that `steerable` was found with.

    Returns:
        The columns of `emergence.verdicts`, with `target` after `strategy`.
    """
    names = ("lineage", "trait", "strategy", "target")
    parts = [
        (dict(zip(names, key, strict=True)), part, wording(str(key[-1])))
        for key, part in table.groupby(list(names), sort=False)
    ]
    return tabulate(parts, order, total_tokens, controls, thresholds)
