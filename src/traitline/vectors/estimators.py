"""From activations of contrast rows to vectors.

Knows which rows are accepted, how they pair, and the estimators: difference of means over accepted pairs (`pairs`), and the
cell-balanced one (`balanced`), with question-bootstrap vectors and split halves. Each is defined once, by its weights: those of
pairs are whole numbers that say how often a pair counts (negative: with its sides exchanged), and the vector is the weighted
mean of the pairs' differences. `extract.py` has the network apply them; the functions of arrays here apply them to
activations in memory. Leaves reading the network to `models/capture.py` and files to `vector.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from traitline.errors import InputError
from traitline.vectors.vector import Floats

THRESHOLD = 50.0
PAIR = ["instruction_id", "question_id", "sample"]

Indices = NDArray[np.intp]
Weights = NDArray[np.float64]
Seed = int | tuple[int, ...]
"""What a random stream starts from; a tuple keeps streams of one cell apart."""


def passing(rows: pd.DataFrame) -> pd.Series:
    """Tell which contrast rows pass on their own: the trait on the right side of 50, coherent, and not empty.

    A missing score never passes.
    """
    trait, coherence = rows["trait_score"].astype(float), rows["coherence"].astype(float)
    positive, negative = rows["polarity"].eq("pos"), rows["polarity"].eq("neg")
    right_side = (positive & trait.ge(THRESHOLD)) | (negative & trait.lt(THRESHOLD))
    spoken = rows["response_token_ids"].map(len).gt(0)
    return right_side & coherence.ge(THRESHOLD) & spoken


def accepted(rows: pd.DataFrame) -> pd.Series:
    """Tell which contrast rows belong to an accepted pair: both its sides pass.

    Raises:
        InputError: two rows of one polarity share instruction, question and sample, so that pairs are ambiguous.
    """
    repeated = rows.duplicated([*PAIR, "polarity"])
    if repeated.any():
        first = rows.loc[repeated, [*PAIR, "polarity"]].iloc[0].to_dict()
        raise InputError(f"{int(repeated.sum())} contrast rows are there twice, such as {first}; number their samples apart")
    passes = passing(rows)
    sides = rows.assign(passes=passes).groupby(PAIR, sort=False)["passes"].transform("sum")
    return passes & sides.eq(2)


def why_no_pair(rows: pd.DataFrame) -> str:
    """Say why contrast rows give no vector; an answer without a score is named, for it may be the judge's failure alone."""
    unscored = int(rows["trait_score"].isna().sum()) if len(rows) else 0
    why = "no accepted pair of contrast rows"
    return f"{why}; {unscored:,} of {len(rows):,} have no score" if unscored else why


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Accepted pairs: row numbers of either side, and the question of each pair as an integer code."""

    positive: Indices
    negative: Indices
    question: Indices

    def __len__(self) -> int:
        return len(self.positive)

    @property
    def questions(self) -> int:
        """Number of distinct questions."""
        return len(np.unique(self.question))


def find_pairs(rows: pd.DataFrame) -> Pairs:
    """Return the accepted pairs of a contrast table, in a fixed order. Row numbers are positions in `rows`."""
    kept = rows.reset_index(drop=True)
    kept = kept[accepted(kept)].rename_axis("row").reset_index()
    sides = [kept[kept["polarity"].eq(p)][["row", *PAIR]] for p in ("pos", "neg")]
    pairs = sides[0].merge(sides[1], on=PAIR, suffixes=("_pos", "_neg"), validate="one_to_one").sort_values(PAIR)
    codes, _ = pd.factorize(pairs["question_id"], sort=True)
    return Pairs(pairs["row_pos"].to_numpy(dtype=np.intp), pairs["row_neg"].to_numpy(dtype=np.intp), codes.astype(np.intp))


def row_weights(pair_weights: Weights, pairs: Pairs, rows: int) -> Weights:
    """Return the weights that pairs give to their rows, [k, rows]: a positive row its pair's, a negative row the opposite.

    The sum over rows with these weights, divided by `counted_pairs`, is the mean over pairs.

    Args:
        pair_weights: how often each pair counts, [k, pairs].
        pairs: row numbers of either side.
        rows: number of rows.
    """
    weights = np.zeros((len(pair_weights), rows))
    weights[:, pairs.positive] = pair_weights
    weights[:, pairs.negative] = -pair_weights
    return weights


def counted_pairs(pair_weights: Weights) -> Weights:
    """Return how many pairs count, with whatever sign, [k, 1, 1]: what sums with these weights are divided by."""
    counted: Weights = np.abs(pair_weights).sum(axis=1)[:, None, None]
    return counted


def balanced_weights(rows: pd.DataFrame) -> Weights:
    """Return the weights of the cell-balanced estimator, [rows]; the weighted sum over rows is the vector.

    Every row that passes on its own counts, paired or not; rows share the weight of their side of an (instruction, question)
    cell. Cells that lack one side are left out; all weights are 0 where no cell has both.
    """
    cells = rows.groupby(["instruction_id", "question_id"], dropna=False).ngroup().to_numpy(dtype=np.intp)
    passes, positive = passing(rows).to_numpy(dtype=bool), rows["polarity"].eq("pos").to_numpy(dtype=bool)
    sides = 2 * cells + positive
    n = np.bincount(sides[passes], minlength=2 * (cells.max(initial=-1) + 1)).reshape(-1, 2)  # [cells, 2]
    complete = n.min(axis=1) > 0
    share = np.where(positive, 1.0, -1.0) / (np.maximum(n.ravel(), 1)[sides] * max(complete.sum(), 1))
    weights: Weights = np.where(passes & complete[cells], share, 0.0)
    return weights


def bootstrap_weights(question: Indices, draws: int, seed: Seed) -> Weights:
    """Return how often each pair counts where questions are drawn with replacement, [draws, pairs]."""
    codes = np.unique(question)
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(codes), size=(draws, len(codes)))  # [draws, questions]
    counts = [np.bincount(pick, minlength=len(codes)) for pick in picks]
    return np.array(counts, dtype=np.float64).reshape(draws, len(codes))[:, np.searchsorted(codes, question)]


def half_weights(question: Indices, seed: Seed, splits: int = 20) -> Weights:
    """Return which pairs belong to either random half of the questions, [splits x 2, pairs], the halves of a split adjacent.

    No splits with fewer than two questions.
    """
    codes = np.unique(question)
    rng = np.random.default_rng(seed)
    firsts = [np.isin(question, rng.permutation(codes)[: len(codes) // 2]) for _ in range(splits if len(codes) > 1 else 0)]
    weights: Weights = np.array([half for first in firsts for half in (first, ~first)], dtype=np.float64)
    return weights.reshape(-1, len(question))


def difference_of_means(means: Floats, pairs: Pairs) -> Floats:
    """Return mean(positive) - mean(negative) over accepted pairs; all NaN where there is no pair.

    Args:
        means: activations per row, [rows, ..., hidden].
        pairs: row numbers of either side.
    """
    if not len(pairs):
        return np.full(means.shape[1:], np.nan, dtype=np.float32)
    differences = means[pairs.positive].astype(np.float64) - means[pairs.negative]
    vector: Floats = weighted_mean(np.ones((1, len(pairs))), differences)[0]
    return vector


def cell_balanced(means: Floats, rows: pd.DataFrame) -> Floats:
    """Return the difference of means with every (instruction, question) weighing the same; see `balanced_weights`.

    All NaN where no cell has both sides.

    Args:
        means: activations per row, [rows, ..., hidden].
        rows: the table of the rows.
    """
    weights = balanced_weights(rows)
    counted = np.flatnonzero(weights)  # a row that does not count may be NaN
    if not len(counted):
        return np.full(means.shape[1:], np.nan, dtype=np.float32)
    vector: Floats = np.tensordot(weights[counted], means[counted].astype(np.float64), 1).astype(np.float32)
    return vector


def question_bootstrap(differences: Floats, question: Indices, draws: int, seed: Seed) -> Floats:
    """Return vectors re-estimated on questions drawn with replacement, [draws, layers + 1, hidden].

    Args:
        differences: positive minus negative of each pair, [pairs, layers + 1, hidden].
        question: integer code of each pair's question, [pairs].
        draws: number of bootstrap vectors.
        seed: of the draws.
    """
    return weighted_mean(bootstrap_weights(question, draws, seed), differences)


def split_half_cosine(differences: Floats, question: Indices, seed: Seed, splits: int = 20) -> Floats:
    """Return the mean cosine between vectors of two random halves of the questions, per layer [layers + 1].

    NaN with fewer than two questions. Not corrected for the halved length: see `analysis/geometry.py`.
    """
    return half_cosine(weighted_mean(half_weights(question, seed, splits), differences))


def half_cosine(halves: Floats) -> Floats:
    """Return the mean cosine between the vectors of two halves, [layers + 1]; NaN without splits, or where one is zero.

    Args:
        halves: vectors with the weights of `half_weights`, [splits x 2, layers + 1, hidden].
    """
    if not len(halves):
        return np.full(halves.shape[1], np.nan, dtype=np.float32)
    a, b = halves[::2].astype(np.float64), halves[1::2].astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)  # [splits, layers + 1]
    dots = np.einsum("slh,slh->sl", a, b)
    cosines = np.divide(dots, norms, out=np.full(norms.shape, np.nan), where=norms > 0)
    mean: Floats = cosines.mean(axis=0).astype(np.float32)
    return mean


def weighted_mean(pair_weights: Weights, differences: NDArray[np.floating[Any]]) -> Floats:
    """Return the means of the pairs' differences with these weights, float32 [k, ...].

    Args:
        pair_weights: how often each pair counts, [k, pairs].
        differences: positive minus negative of each pair, [pairs, ...].
    """
    sums = pair_weights @ differences.reshape(len(differences), -1).astype(np.float64)
    mean: Floats = (sums / counted_pairs(pair_weights)[:, 0]).reshape(-1, *differences.shape[1:]).astype(np.float32)
    return mean


Estimator = Callable[[Floats, pd.DataFrame], Floats]

ESTIMATORS: dict[str, Estimator] = {
    "pairs": lambda means, rows: difference_of_means(means, find_pairs(rows)),
    "balanced": cell_balanced,
}
