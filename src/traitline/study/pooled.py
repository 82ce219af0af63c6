"""Contrast rows that are not generated but taken from other cells: those of `forced` and of `combined`.

Knows which cells' rows they are and how such rows are named anew. Leaves generating, judging and extracting to `run.py`.
"""

from __future__ import annotations

import pandas as pd

from traitline.study.config import COMBINED, FORCED
from traitline.study.plan import Cell, Identity, Network, Plan, row_key
from traitline.study.store import RunStore, read_rows

CONTRAST_IDENTITY = [
    *["lineage", "checkpoint", "target", "trait", "strategy", "split", "condition"],
    *["question_id", "sample", "polarity", "instruction_id"],
]


def sources(plan: Plan, cell: Cell) -> list[Cell]:
    """Return the cells whose contrast rows a cell takes; none where it generates its own."""
    if cell.strategy == FORCED:
        return [Cell(plan.last.name, cell.trait, plan.config.generating[0])]
    if cell.strategy == COMBINED:
        return [Cell(cell.network, cell.trait, strategy) for strategy in plan.config.generating]
    return []


def pooled_rows(plan: Plan, store: RunStore, network: Network, cell: Cell) -> pd.DataFrame:
    """Return the contrast rows of a `forced` or `combined` cell, scores included.

    `forced` takes the accepted rows of the last checkpoint, to be read by `network`; `combined` all rows of the network's own
    strategies, whose questions and instructions keep their ids, so that pairs stay apart.
    """
    rows = pd.concat([read_rows(store.contrast(source)) for source in sources(plan, cell)], ignore_index=True)
    if cell.strategy == FORCED:
        rows = rows[rows["accepted"]].reset_index(drop=True)
    rows = rows.assign(checkpoint=network.name, tokens=network.tokens, target=network.name, strategy=cell.strategy)
    named = rows[CONTRAST_IDENTITY].to_dict("records")
    return rows.assign(row_key=[row_key(Identity(**{str(name): row[name] for name in row})) for row in named])
