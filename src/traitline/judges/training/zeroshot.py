"""Finds the weights of the judge `zeroshot` and how poor it is: `python -m traitline.judges.training.zeroshot --data FOLDER`.

For each of the four traits, the weights are fitted on the other three and tried on the left-out one, on the rows that the
embedded judge holds out, too. The weights shipped are those of all four. Prints the card, `judges/data/zeroshot.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from traitline.judges.training import rows
from traitline.judges.training.figures import delta_table
from traitline.judges.zeroshot import ZeroShotJudge
from traitline.traits import load_trait

VERSION = "1"
Floats = npt.NDArray[np.float64]


def main(arguments: list[str] | None = None) -> int:
    """Print the card as JSON."""
    parser = argparse.ArgumentParser(prog="python -m traitline.judges.training.zeroshot", description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder judged_rows of the published scores")
    parser.add_argument("--limit", type=int, default=1500, help="rows per trait that the weights are fitted on")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    table = rows.read_rows(asked.data)
    fitted = table[table["split"].eq("train")].groupby("trait").sample(asked.limit, random_state=asked.seed)
    held = table[table["split"].ne("train")]
    print(json.dumps(card(_with_likenesses(fitted), _with_likenesses(held)), indent=1))
    return 0


def card(fitted: pd.DataFrame, held: pd.DataFrame) -> dict[str, Any]:
    """Return weights from all traits, and figures of each trait under weights from the others.

    Args:
        fitted: rows with `trait`, `trait_score`, and the likenesses `described` and `between`.
        held: likewise, with the columns that `delta_table` reads.
    """
    weights, start = _fit(fitted)
    left_out = {}
    for trait, part in held.groupby("trait"):
        judged = _score(part, *_fit(fitted[fitted["trait"].ne(trait)]))
        errors = judged - part["trait_score"].to_numpy(dtype=float)
        deltas = delta_table(part.assign(judged=judged))
        wrong = deltas["judged"] - deltas["published"]
        left_out[str(trait)] = {
            "n": len(part),
            "r": round(float(np.corrcoef(judged, part["trait_score"])[0, 1]), 2),
            "rmse": round(float(np.sqrt((errors**2).mean())), 1),
            "bias": round(float(errors.mean()), 1),
            "n_deltas": len(deltas),
            "delta_r": round(float(np.corrcoef(deltas["judged"], deltas["published"])[0, 1]), 2),
            "delta_worst": round(float(wrong.abs().max()), 1),
            "delta_mae": round(float(wrong.abs().mean()), 1),
            "delta_bias": round(float(wrong.mean()), 1),
        }
    shown = {"weights": [round(float(w), 2) for w in weights], "start": round(start, 2)}
    return {"version": VERSION, "fitted_rows": len(fitted), **shown, "left_out": left_out}


def _with_likenesses(table: pd.DataFrame) -> pd.DataFrame:
    judge, parts = ZeroShotJudge(), []
    for trait, part in table.groupby("trait"):
        found = judge.likenesses(load_trait(str(trait)), part["answer"].tolist()).double().numpy()
        parts.append(part.assign(described=found[:, 0], between=found[:, 1]))
    return pd.concat(parts, ignore_index=True)


def _fit(table: pd.DataFrame) -> tuple[Floats, float]:
    """Return weights and start of the least-squares line, stretched until its scores vary as much as the published ones."""
    x, y = _likenesses(table), table["trait_score"].to_numpy(dtype=float)
    weights = np.linalg.lstsq(x - x.mean(0), y - y.mean(), rcond=None)[0]
    weights *= y.std() / (x @ weights).std()
    return weights, float(y.mean() - x.mean(0) @ weights)


def _score(table: pd.DataFrame, weights: Floats, start: float) -> Floats:
    return np.clip(_likenesses(table) @ weights + start, 0, 100)


def _likenesses(table: pd.DataFrame) -> Floats:
    found: Floats = table[["described", "between"]].to_numpy(dtype=float)
    return found


if __name__ == "__main__":
    sys.exit(main())
