"""From contrast rows and a network to everything that is kept of a cell: vectors, controls, bootstraps, reliability.

One pass over the rows that count. Everything is a weighted sum over rows, added up where the network is, so that neither
hidden states nor means of rows are kept. Knows the names of the arrays in a cell's file. Leaves weights and formulas to
`estimators.py` and `controls.py`, and generating or judging the rows to the study.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from traitline.models.capture import SEGMENTS, Calibration, capture_sums
from traitline.models.loading import Model
from traitline.models.sums import Moments
from traitline.vectors.controls import balanced_signs, covariance, isotropic, match_norms
from traitline.vectors.estimators import (
    Pairs,
    Weights,
    balanced_weights,
    bootstrap_weights,
    counted_pairs,
    find_pairs,
    half_cosine,
    half_weights,
    row_weights,
)
from traitline.vectors.neutral import NeutralSides
from traitline.vectors.vector import FRAGILE_PAIRS, Floats

VECTORS = (*SEGMENTS, "balanced_response_avg")
"""The arrays of a cell that are persona vectors."""
SIDES = ("negative", "positive")
"""The classes whose moments are kept, by their number."""


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
        [draws, layers + 1, hidden]; one [layers + 1, hidden] per control, named `isotropic_0`, `shuffled_4` ... (a shuffled
        control that is undefined, under 10 pairs, is left out); where there are neutral rows `positive_neutral` and
        `neutral_negative` [layers + 1, hidden], each also with `_bootstrap` behind its name; and `positive_mean`,
        `positive_variance`, `negative_mean`,
        `negative_variance` [layers + 1, hidden] over the response means of the accepted pairs' rows, each variance divided by
        the pairs less one, NaN with one pair.
    """
    rows = rows.reset_index(drop=True)
    pairs = find_pairs(rows)
    if not len(pairs):
        return {}, pairs
    of_pairs = _pair_weights(pairs, seeds, seed)
    stacked = np.concatenate(list(of_pairs.values()))  # [k, pairs]
    main, balanced = row_weights(of_pairs["response_avg"], pairs, len(rows)), balanced_weights(rows)[None]
    weights = dict.fromkeys(SEGMENTS, main)
    sides = NeutralSides(rows, pairs, of_pairs["bootstrap"])
    weights["response_avg"] = np.concatenate([row_weights(stacked, pairs, len(rows)), balanced, *sides.weights])
    classes = np.full(len(rows), -1)
    classes[pairs.positive], classes[pairs.negative] = SIDES.index("positive"), SIDES.index("negative")

    ids = list(zip(rows["prompt_token_ids"], rows["response_token_ids"], strict=True))
    sums = capture_sums(model, ids, weights, classes=classes)

    arrays = {segment: found[0] / np.float32(len(pairs)) for segment, found in sums.segments.items()}
    arrays["balanced_response_avg"] = sums.segments["response_avg"][len(stacked)]
    means = (sums.segments["response_avg"][: len(stacked)] / counted_pairs(stacked)).astype(np.float32)
    found = dict(zip(of_pairs, np.split(means, np.cumsum([len(one) for one in of_pairs.values()])[:-1]), strict=True))
    arrays["split_half_cosine"] = half_cosine(found["halves"])
    arrays["activation_norms"] = calibration.norms
    if seeds.bootstraps:
        arrays["bootstrap"] = found["bootstrap"]
    arrays |= sides.arrays(sums.segments["response_avg"][len(stacked) + 1 :])
    arrays |= _controls(arrays["response_avg"], found, calibration, seeds, seed)
    if sums.moments:
        arrays |= _moments(sums.moments)
    return arrays, pairs


def _pair_weights(pairs: Pairs, seeds: ControlSeeds, seed: int) -> dict[str, Weights]:
    """Return the weights of pairs behind everything that is made of response means, each [k, pairs]."""
    weights = {
        "response_avg": np.ones((1, len(pairs))),
        "halves": half_weights(pairs.question, (seed, 4)),
        "bootstrap": bootstrap_weights(pairs.question, seeds.bootstraps, (seed, 3)),
    }
    if len(pairs) >= FRAGILE_PAIRS:
        weights |= {f"shuffled_{k}": balanced_signs(pairs.question, (seed, 2, k))[None] for k in seeds.shuffled}
    return weights


def _controls(
    vector: Floats, found: dict[str, Floats], calibration: Calibration, seeds: ControlSeeds, seed: int
) -> dict[str, Floats]:
    made = {f"isotropic_{k}": isotropic(vector, (seed, 0, k)) for k in seeds.isotropic}
    made |= {f"covariance_{k}": covariance(vector, calibration.sample, (seed, 1, k)) for k in seeds.covariance}
    return made | {name: match_norms(one[0], vector) for name, one in found.items() if name.startswith("shuffled_")}


def _moments(moments: Moments) -> dict[str, Floats]:
    kept = {"mean": moments.mean, "variance": moments.variance}
    return {f"{side}_{name}": kept[name][i] for i, side in enumerate(SIDES) for name in kept}
