"""The two sides of a vector: positive minus neutral, and neutral minus negative, of answers without an instruction.

Knows which neutral rows count and how they weigh: each accepted pair meets the mean of its question's neutral answers, so that
both sides add up to the vector of the pairs whose question has any. Leaves reading the network to `extract.py`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from traitline.vectors.estimators import THRESHOLD, Pairs, Weights
from traitline.vectors.vector import Floats

NEUTRAL = "neutral"
"""The polarity of rows without instruction."""
SIDES = ("positive_neutral", "neutral_negative")
"""The arrays of a cell that are the vector's two sides; those of bootstrap vectors are named with `BOOTSTRAP` behind."""
BOOTSTRAP = "_bootstrap"


def counts_as_neutral(rows: pd.DataFrame) -> pd.Series:
    """Tell which rows are neutral answers that count: coherent and not empty, whatever their trait score."""
    coherent = rows["coherence"].astype(float).ge(THRESHOLD)
    return rows["polarity"].eq(NEUTRAL) & coherent & rows["response_token_ids"].map(len).gt(0)


def side_weights(rows: pd.DataFrame, pairs: Pairs, pair_weights: Weights) -> tuple[Weights, Weights, Weights] | None:
    """Return the weights of rows that make both sides, each [k, rows], and what to divide by, [k, 1, 1]; None without any.

    Args:
        rows: contrast rows.
        pairs: the accepted ones among them.
        pair_weights: how often each pair counts, none negative, [k, pairs].
    """
    question = rows["question_id"].to_numpy()
    neutral = np.flatnonzero(counts_as_neutral(rows).to_numpy(dtype=bool))
    same = question[pairs.positive][:, None] == question[neutral][None]  # [pairs, neutral rows]
    has = same.any(axis=1)
    counted = pair_weights * has
    if not has.any():
        return None
    shares = same / np.maximum(same.sum(axis=1, keepdims=True), 1)
    up, down = (np.zeros((len(pair_weights), len(rows))) for _ in SIDES)
    up[:, pairs.positive], down[:, pairs.negative] = counted, -counted
    up[:, neutral] = -(counted @ shares)
    down[:, neutral] = counted @ shares
    return up, down, counted.sum(axis=1)[:, None, None]


class NeutralSides:
    """The sides of a cell's vector, of all pairs and of its bootstrap draws, as weights of rows.

    Args:
        rows: contrast rows.
        pairs: the accepted ones among them.
        bootstrap: how often each pair counts in each draw, [draws, pairs].
    """

    def __init__(self, rows: pd.DataFrame, pairs: Pairs, bootstrap: Weights) -> None:
        self._draws = len(bootstrap)
        self._found = side_weights(rows, pairs, np.concatenate([np.ones((1, len(pairs))), bootstrap]))

    @property
    def weights(self) -> list[Weights]:
        """What to add to the weights that a pass sums with, [k, rows] each; nothing without neutral rows."""
        return [] if self._found is None else list(self._found[:2])

    def arrays(self, sums: Floats) -> dict[str, Floats]:
        """Return the arrays by name, of sums with these weights, [2 (1 + draws), layers + 1, hidden]."""
        if self._found is None:
            return {}
        counts, arrays = self._found[2], dict[str, Floats]()
        for name, part in zip(SIDES, np.split(sums, 2), strict=True):
            means = np.divide(part, counts, out=np.full(part.shape, np.nan), where=counts > 0).astype(np.float32)
            arrays[name] = means[0]
            if self._draws:
                arrays[name + BOOTSTRAP] = means[1:]
        return arrays
