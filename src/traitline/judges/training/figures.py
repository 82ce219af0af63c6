"""How well a judge agrees with the published scores: rows, per-file means, steering deltas, spread and cuts at 50.

Knows what each figure is. Leaves which rows are held out to `rows.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

_SMALLEST_FILE = 15
_CELL = ["model", "eval_revision", "trait", "format"]


def agreement(rows: pd.DataFrame) -> dict[str, Any]:
    """Return all figures for rows with `judged`, `judged_coherence`, `spread` beside the published scores; n with each."""
    found: dict[str, Any] = {"n": len(rows), "rows": {}}
    for name, part in rows.groupby("trait"):
        found["rows"][str(name)] = _pair(part["judged"], part["trait_score"])
    found["rows"]["coherence"] = _pair(rows["judged_coherence"], rows["coherence"])
    found["bias_by_condition"] = {
        str(name): round(float((part["judged"] - part["trait_score"]).mean()), 2) for name, part in rows.groupby("condition")
    }
    means = rows.groupby(["source_file", "trait", "condition"])
    files = means[["judged", "trait_score", "judged_coherence", "coherence"]].mean()[means.size() >= _SMALLEST_FILE]
    if len(files) > 1:
        found["files"] = _pair(files["judged"], files["trait_score"])
        found["files_coherence"] = _pair(files["judged_coherence"], files["coherence"])
    deltas = delta_table(rows)
    if len(deltas) > 1:
        found["deltas"] = _pair(deltas["judged"], deltas["published"])
        found["deltas_by_trait"] = {
            str(name): _pair(part["judged"], part["published"]) for name, part in deltas.groupby("trait")
        }
    found["share_at_least_50"] = {
        "judged": round(float(rows["judged"].ge(50).mean()), 4),
        "published": round(float(rows["trait_score"].ge(50).mean()), 4),
        "same_side": round(float(rows["judged"].ge(50).eq(rows["trait_score"].ge(50)).mean()), 4),
    }
    errors, spread = (rows["judged"] - rows["trait_score"]).abs(), rows["spread"]
    found["uncertainty"] = {
        "mean": round(float(spread.mean()), 2),
        "root_mean_square_error": round(float(np.sqrt(errors.pow(2).mean())), 2),
        "within_1": round(float(errors.le(spread).mean()), 3),
        "within_2": round(float(errors.le(2 * spread).mean()), 3),
    }
    return found


def delta_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return, per steered file with a baseline of its own model and format, the judged and published delta."""
    kept = rows[rows["condition"].isin(["baseline", "steered"])]
    scores = ["judged", "trait_score"]
    baseline = kept[kept["condition"].eq("baseline")].groupby(_CELL)[scores].mean()
    steered = kept[kept["condition"].eq("steered")].groupby([*_CELL, "source_file"])[scores].mean().reset_index()
    joined = steered.join(baseline.add_suffix("_baseline"), on=_CELL).dropna()
    return pd.DataFrame(
        {
            "trait": joined["trait"],
            "judged": joined["judged"] - joined["judged_baseline"],
            "published": joined["trait_score"] - joined["trait_score_baseline"],
        }
    )


def _pair(judged: pd.Series, published: pd.Series) -> dict[str, float | int | None]:
    """Return n, Pearson's r (None where either side is constant), mean absolute error and bias."""
    varies = len(judged) > 2 and judged.std() > 0 and published.std() > 0
    return {
        "n": len(judged),
        "r": round(float(np.corrcoef(judged, published)[0, 1]), 3) if varies else None,
        "mae": round(float((judged - published).abs().mean()), 2),
        "bias": round(float((judged - published).mean()), 2),
    }
