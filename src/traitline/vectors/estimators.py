"""From activations of contrast rows to vectors.

Knows which rows are accepted, how they pair, and the estimators: difference of means over accepted pairs (`pairs`), and the
cell-balanced one (`balanced`), with question-bootstrap vectors and split halves. Takes arrays and tables; leaves reading the
network to `models/capture.py` and files to `vector.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from traitline.errors import InputError
from traitline.vectors.vector import Floats

THRESHOLD = 50.0
PAIR = ["instruction_id", "question_id", "sample"]

Indices = NDArray[np.intp]
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


def difference_of_means(means: Floats, pairs: Pairs) -> Floats:
    """Return mean(positive) - mean(negative) over accepted pairs; all NaN where there is no pair.

    Args:
        means: activations per row, [rows, ..., hidden].
        pairs: row numbers of either side.
    """
    if not len(pairs):
        return np.full(means.shape[1:], np.nan, dtype=np.float32)
    positive, negative = (means[side].mean(axis=0, dtype=np.float64) for side in (pairs.positive, pairs.negative))
    difference: Floats = (positive - negative).astype(np.float32)
    return difference


def cell_balanced(means: Floats, rows: pd.DataFrame) -> Floats:
    """Return the difference of means with every (instruction, question) weighing the same.

    Uses every row that passes on its own, paired or not, averaged within its instruction and question; cells that lack one
    side are left out. All NaN where no cell has both sides.
    """
    cells = rows.groupby(["instruction_id", "question_id"]).ngroup().to_numpy()
    passes, positive = passing(rows).to_numpy(), rows["polarity"].eq("pos").to_numpy()
    differences = []
    for cell in np.unique(cells):
        sides = [means[(cells == cell) & passes & side] for side in (positive, ~positive)]
        if all(len(side) for side in sides):
            differences.append(sides[0].mean(axis=0, dtype=np.float64) - sides[1].mean(axis=0, dtype=np.float64))
    if not differences:
        return np.full(means.shape[1:], np.nan, dtype=np.float32)
    vector: Floats = np.mean(differences, axis=0).astype(np.float32)
    return vector


def question_bootstrap(differences: Floats, question: Indices, draws: int, seed: Seed) -> Floats:
    """Return vectors re-estimated on questions drawn with replacement, [draws, layers + 1, hidden].

    Args:
        differences: positive minus negative of each pair, [pairs, layers + 1, hidden].
        question: integer code of each pair's question, [pairs].
        draws: number of bootstrap vectors.
        seed: of the draws.
    """
    codes = np.unique(question)
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(codes), size=(draws, len(codes)))  # [draws, questions]
    counts = np.stack([np.bincount(pick, minlength=len(codes)) for pick in picks])  # [draws, questions]
    weights = counts[:, np.searchsorted(codes, question)].astype(np.float64)  # [draws, pairs]
    weights /= weights.sum(axis=1, keepdims=True)
    flat = differences.reshape(len(differences), -1)
    return (weights.astype(np.float32) @ flat).reshape(draws, *differences.shape[1:])


def split_half_cosine(differences: Floats, question: Indices, seed: Seed, splits: int = 20) -> Floats:
    """Return the mean cosine between vectors of two random halves of the questions, per layer [layers + 1].

    NaN with fewer than two questions. Not corrected for the halved length: see `analysis/geometry.py`.
    """
    codes = np.unique(question)
    if len(codes) < 2:
        return np.full(differences.shape[1], np.nan, dtype=np.float32)
    rng = np.random.default_rng(seed)
    cosines = []
    for _ in range(splits):
        first = np.isin(question, rng.permutation(codes)[: len(codes) // 2])
        a, b = differences[first].mean(axis=0), differences[~first].mean(axis=0)
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        dots = np.einsum("lh,lh->l", a, b)
        cosines.append(np.divide(dots, norms, out=np.full(len(norms), np.nan), where=norms > 0))
    mean: Floats = np.mean(cosines, axis=0).astype(np.float32)
    return mean


Estimator = Callable[[Floats, pd.DataFrame], Floats]

ESTIMATORS: dict[str, Estimator] = {
    "pairs": lambda means, rows: difference_of_means(means, find_pairs(rows)),
    "balanced": cell_balanced,
}
