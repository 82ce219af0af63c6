"""From contrast rows and a network to everything that is kept of a cell: vectors, controls, bootstraps, reliability.

One pass over the rows that pass; no full hidden state is kept. Knows the names of the arrays in a cell's file. Leaves the
formulas to `estimators.py` and `controls.py`, and generating or judging the rows to the study.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from traitline.models.capture import SEGMENTS, Calibration, capture_rows
from traitline.models.loading import Model
from traitline.vectors.controls import covariance, isotropic, shuffled
from traitline.vectors.estimators import (
    Pairs,
    cell_balanced,
    difference_of_means,
    find_pairs,
    passing,
    question_bootstrap,
    split_half_cosine,
)
from traitline.vectors.vector import Floats

MAIN = SEGMENTS.index("response_avg")


@dataclass(frozen=True, slots=True)
class ControlSeeds:
    """Which controls to make: the seeds of each kind, and the number of bootstrap vectors."""

    isotropic: range = range(0)
    covariance: range = range(0)
    shuffled: range = range(0)
    bootstraps: int = 0


def extract_arrays(
    model: Model, rows: pd.DataFrame, calibration: Calibration, seeds: ControlSeeds, seed: int
) -> tuple[dict[str, Floats], Pairs]:
    """Return a cell's arrays, and the accepted pairs behind them.

    Args:
        model: the network whose activations are read.
        rows: judged contrast rows.
        calibration: the network's activation norms and sample.
        seeds: which controls to make.
        seed: what every random draw of this cell derives from.

    Returns:
        No arrays without an accepted pair; else, float32: `response_avg`, `prompt_avg`, `prompt_last`,
        `balanced_response_avg` [layers + 1, hidden]; `split_half_cosine`, `activation_norms` [layers + 1]; `bootstrap`
        [draws, layers + 1, hidden]; and one [layers + 1, hidden] per control, named `isotropic_0`, `shuffled_4` ...
        A shuffled control that is undefined (under 10 pairs) is left out.
    """
    rows = rows.reset_index(drop=True)
    pairs = find_pairs(rows)
    if not len(pairs):
        return {}, pairs
    wanted = np.flatnonzero(passing(rows).to_numpy())
    captured = capture_rows(model, [_ids(rows, i) for i in wanted.tolist()])  # [passing rows, 3, layers + 1, hidden]
    place = np.full(len(rows), -1, dtype=np.intp)
    place[wanted] = np.arange(len(wanted))
    pairs = Pairs(place[pairs.positive], place[pairs.negative], pairs.question)
    means = captured[:, MAIN]
    differences = means[pairs.positive] - means[pairs.negative]  # [pairs, layers + 1, hidden]
    arrays = {name: difference_of_means(captured[:, i], pairs) for i, name in enumerate(SEGMENTS)}
    arrays["balanced_response_avg"] = cell_balanced(means, rows.iloc[wanted])
    arrays["split_half_cosine"] = split_half_cosine(differences, pairs.question, (seed, 4))
    arrays["activation_norms"] = calibration.norms
    if seeds.bootstraps:
        arrays["bootstrap"] = question_bootstrap(differences, pairs.question, seeds.bootstraps, (seed, 3))
    arrays |= _controls(arrays["response_avg"], differences, pairs, calibration, seeds, seed)
    return arrays, pairs


def _controls(
    vector: Floats, differences: Floats, pairs: Pairs, calibration: Calibration, seeds: ControlSeeds, seed: int
) -> dict[str, Floats]:
    made: dict[str, Floats] = {}
    for k in seeds.isotropic:
        made[f"isotropic_{k}"] = isotropic(vector, (seed, 0, k))
    for k in seeds.covariance:
        made[f"covariance_{k}"] = covariance(vector, calibration.sample, (seed, 1, k))
    for k in seeds.shuffled:
        control = shuffled(differences, pairs.question, (seed, 2, k))
        if control is not None:
            made[f"shuffled_{k}"] = control
    return made


def _ids(rows: pd.DataFrame, i: int) -> tuple[list[int], list[int]]:
    return [int(t) for t in rows["prompt_token_ids"].iloc[i]], [int(t) for t in rows["response_token_ids"].iloc[i]]
