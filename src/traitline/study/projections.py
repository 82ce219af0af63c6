"""How far a network's own answers lie along a persona vector: the projections of its baseline rows.

Knows which rows and vectors are projected and the columns of the file. Leaves capturing to `models/capture.py` and what
projections tell of a training stage to `analysis/stages.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from traitline.models import Model, capture_rows
from traitline.models.capture import RESPONSE
from traitline.study.plan import Cell
from traitline.vectors.vector import Floats

COLUMNS = ["row_key", "target", "trait", "strategy", "question_id", "vector_checkpoint", "layer", "projection"]


def project(
    model: Model,
    rows: pd.DataFrame,
    vector: Callable[[Cell], Floats | None],
    source: str,
    norms: Floats,
    layers: tuple[int, ...],
) -> pd.DataFrame:
    """Project the mean response activation of baseline rows onto the vectors of one checkpoint.

    Args:
        model: the network that wrote the rows.
        rows: response rows of any condition; the baseline rows of the `evaluate` split are read.
        vector: gives the vector of a cell, `[layers + 1, hidden]`, or None.
        source: the checkpoint whose vectors these are.
        norms: the network's activation norm at each layer, `[layers + 1]`.
        layers: where to project.

    Returns:
        One line per row and layer: `COLUMNS`; `projection` as a share of the network's activation norm at the layer. Empty
        responses have none, and neither have rows whose cell has no vector.
    """
    chosen = rows[(rows["condition"] == "baseline") & (rows["split"] == "evaluate")] if len(rows) else rows
    cells = chosen.groupby(["trait", "strategy"], sort=False) if len(chosen) else ()
    asked = [(part, vector(Cell(source, str(trait), str(strategy)))) for (trait, strategy), part in cells]
    known = [(part, direction) for part, direction in asked if direction is not None]
    if not known or not layers:
        return pd.DataFrame(columns=COLUMNS)
    ids = [ids for part, _ in known for ids in zip(part["prompt_token_ids"], part["response_token_ids"], strict=True)]
    means = capture_rows(model, ids, layers=layers)[:, RESPONSE]  # [rows, layers, hidden]
    parts = []
    for (part, direction), found in zip(known, np.split(means, np.cumsum([len(part) for part, _ in known])[:-1]), strict=True):
        for place, layer in enumerate(layers):
            length = float(np.linalg.norm(direction[layer]))
            if length > 0:
                along = found[:, place] @ direction[layer] / (length * float(norms[layer]))
                parts.append(
                    part[COLUMNS[:5]].assign(vector_checkpoint=source, layer=layer, projection=along.astype(np.float64))
                )
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    return table[table["projection"].notna()].reset_index(drop=True)


def write_projections(path: Path, table: pd.DataFrame) -> None:
    """Write projections whole."""
    from traitline.files import write_whole

    write_whole(path, table.to_csv(index=False, lineterminator="\n"))
