"""How far two judges agree on the same responses: correlations, errors, and which side of 50 a score falls on.

Knows the figures and their intervals over questions. Every figure is a function of sums per question, so a bootstrap draw costs
one row of a matrix product and a hundred thousand responses take seconds. Leaves who the judges are to the caller, what their
disagreement does to a study to `conclusions.py`, and how to correct for it to `ppi.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse, stats

from traitline.errors import InputError
from traitline.vectors.estimators import THRESHOLD

Floats = NDArray[np.float64]

SCORES = ("trait_score", "coherence")
FIGURES = ("pearson", "spearman", "mae", "bias", "same_side", "kappa", "weighted_kappa")
CONFUSION = ("both_below", "only_a", "only_b", "both_above")
ALL = "all"
"""What stands in `trait` or `condition` where they are taken together."""
COLUMNS = [
    *["score", "trait", "condition", "n_rows", "n", "n_missing_a", "n_missing_b", "n_questions"],
    *[name for figure in FIGURES for name in (figure, f"{figure}_low", f"{figure}_high")],
    *CONFUSION,
    "reason",
]
FEWEST_QUESTIONS = 3
MOST_UNDEFINED = 0.05
"""Share of bootstrap draws that may leave a figure undefined before it has no interval."""
BANDS = np.array([25.0, THRESHOLD, 75.0])
RANK_BINS = 40
"""Classes of ranks that the interval of Spearman's correlation is made with; they move it by about 1 in 1,600."""
MOST_DRAWS, MOST_WEIGHTS = 200, 4_000_000
"""Draws, and numbers of draws x questions, that are held at a time."""
_TINY = 1e-9


def agreement_table(rows: pd.DataFrame, *, seed: int = 0, draws: int = 1000, level: float = 0.95) -> pd.DataFrame:
    """Compare two judges' scores, for every trait and condition, for each alone, and over all.

    Figures are over the responses that both scored. Intervals come from drawing whole questions with replacement
    (percentile bootstrap, which is slightly narrow over few questions). Nothing undefined becomes a number: it is empty, and
    `reason` says why.

    - `mae` and `bias`: mean absolute difference and mean difference, B minus A, in points.
    - `same_side`: share of responses that both put on the same side of 50. `both_below`, `only_a` (A alone says 50 or
      more), `only_b` and `both_above` count them.
    - `kappa`: Cohen's kappa of the two sides of 50, the agreement beyond chance. With two classes all weightings are alike.
    - `weighted_kappa`: kappa of the four classes cut at 25, 50 and 75, with quadratic weights (Cohen, 1968).

    Args:
        rows: one response a row: `trait`, `condition`, `question`, and for either judge `trait_score_a`, `coherence_a`,
            `trait_score_b`, `coherence_b`, NaN where missing.
        seed: of the draws.
        draws: bootstrap draws.
        level: coverage of the intervals.

    Raises:
        InputError: a column is missing, no rows, or `level` or `draws` out of range.
    """
    needed = ["trait", "condition", "question", *(f"{score}_{judge}" for score in SCORES for judge in "ab")]
    missing = [name for name in needed if name not in rows.columns]
    if missing:
        raise InputError(
            f"the judged rows lack the columns {', '.join(missing)}; they have {', '.join(map(str, rows.columns))}"
        )
    if rows.empty:
        raise InputError("there are no rows to compare judges on; give others")
    if not 0 < level < 1 or draws < 1:
        raise InputError(f"level must lie between 0 and 1 and draws be at least 1, not {level} and {draws}")
    questions = pd.factorize(rows["question"])[0].astype(np.intp)
    records = []
    for trait, condition, places in _groups(rows):
        for score in SCORES:
            a, b = (rows[f"{score}_{judge}"].to_numpy(dtype=np.float64)[places] for judge in "ab")
            found = _compare(a, b, questions[places], seed=seed, draws=draws, level=level)
            records.append({"score": score, "trait": trait, "condition": condition, **found})
    table = pd.DataFrame(records, columns=COLUMNS)
    return table.sort_values("score", key=lambda scores: scores.map(SCORES.index), kind="stable", ignore_index=True)


def largest_differences(rows: pd.DataFrame, count: int, *, score: str = "trait_score") -> pd.DataFrame:
    """Return the responses that two judges differ most on, largest first, with `difference`, B minus A."""
    difference = (rows[f"{score}_b"] - rows[f"{score}_a"]).astype(np.float64)
    order = difference[difference.abs() > 0].abs().sort_values(ascending=False, kind="stable").index[:count]
    return rows.loc[order].assign(score=score, difference=difference.loc[order])


def _groups(rows: pd.DataFrame) -> list[tuple[str, str, NDArray[np.intp]]]:
    """Return (trait, condition, row numbers): everything first, then conditions, traits, and both; none twice."""
    everything = np.arange(len(rows), dtype=np.intp)
    traits, conditions = rows["trait"].astype(str).to_numpy(), rows["condition"].astype(str).to_numpy()
    of_trait = {name: np.flatnonzero(traits == name) for name in pd.unique(traits)}
    of_condition = {name: np.flatnonzero(conditions == name) for name in pd.unique(conditions)}
    groups = [(ALL, ALL, everything)] if len(of_trait) > 1 else []
    groups += (
        [(ALL, name, places) for name, places in of_condition.items()] if min(len(of_trait), len(of_condition)) > 1 else []
    )
    for trait, places in of_trait.items():
        groups.append((trait, ALL, places))
        inner = [(trait, name, places[conditions[places] == name]) for name in of_condition] if len(of_condition) > 1 else []
        groups += [one for one in inner if len(one[2])]
    return groups


def _compare(a: Floats, b: Floats, question: NDArray[np.intp], *, seed: int, draws: int, level: float) -> dict[str, object]:
    """Return the figures of one group of responses, with what is undefined and why."""
    both = np.isfinite(a) & np.isfinite(b)
    counts = {
        "n_rows": len(a),
        "n": int(both.sum()),
        "n_missing_a": int(np.isnan(a).sum()),
        "n_missing_b": int(np.isnan(b).sum()),
    }
    if not both.any():
        return {**counts, "n_questions": 0, "reason": "no response has both scores"}
    sums = _Sums.of(a[both], b[both], np.unique(question[both], return_inverse=True)[1])
    point = sums.figures(np.ones((1, sums.questions)))
    point["spearman"] = np.array([_spearman(a[both], b[both])])
    reasons = _undefined(a[both], b[both], point)
    lows: dict[str, float] = {}
    if sums.questions < FEWEST_QUESTIONS:
        reasons.append(f"no intervals over {sums.questions} question{'s' if sums.questions > 1 else ''}")
    else:
        parts = [sums.figures(weights) for weights in _weights(sums.questions, draws, seed)]
        drawn = {name: np.concatenate([part[name] for part in parts]) for name in FIGURES}
        drawn["spearman"] += point["spearman"] - sums.figures(np.ones((1, sums.questions)))["spearman"]
        for name in FIGURES:
            if np.isnan(point[name][0]):
                continue
            known = drawn[name][~np.isnan(drawn[name])]
            if len(known) < (1 - MOST_UNDEFINED) * draws:
                reasons.append(f"no interval of {name}: undefined in {1 - len(known) / draws:.0%} of the draws")
                continue
            lows[f"{name}_low"], lows[f"{name}_high"] = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    values = {name: float(point[name][0]) for name in FIGURES}
    confusion = dict(zip(CONFUSION, sums.confusion(), strict=True))
    return {**counts, "n_questions": sums.questions, **values, **lows, **confusion, "reason": "; ".join(reasons)}


def _undefined(a: Floats, b: Floats, point: dict[str, Floats]) -> list[str]:
    """Say which figures are undefined."""
    reasons = []
    constant = [name for name, values in (("A", a), ("B", b)) if np.ptp(values) <= _TINY]
    if constant:
        values = " and ".join(f"{name} says {(a if name == 'A' else b)[0]:.4g} everywhere" for name in constant)
        reasons.append(f"no correlation: {values}")
    elif np.isnan(point["pearson"][0]):
        reasons.append(f"no correlation over {len(a)} responses")
    lacking = [name for name in ("kappa", "weighted_kappa") if np.isnan(point[name][0])]
    if lacking:
        reasons.append(f"no {' and '.join(lacking)}: both judges put every response in one class")
    return reasons


def _spearman(a: Floats, b: Floats) -> float:
    if len(a) < FEWEST_QUESTIONS or min(np.ptp(a), np.ptp(b)) <= _TINY:
        return float("nan")
    return float(np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1])


def _weights(questions: int, draws: int, seed: int) -> Iterator[Floats]:
    """Yield how often each question is in each draw, some draws at a time: [draws, questions]."""
    rng, at_once = np.random.default_rng([seed, questions]), max(1, min(MOST_DRAWS, MOST_WEIGHTS // questions))
    for start in range(0, draws, at_once):
        size = min(at_once, draws - start)
        yield rng.multinomial(questions, np.full(questions, 1 / questions), size=size).astype(np.float64)


@dataclass(frozen=True, eq=False)
class _Sums:
    """What the figures need of two judges' scores, summed within each question.

    Attributes:
        moments: n, a, b, aa, bb, ab, |b - a|, b - a (a and b less their means): [questions, 8].
        classes: counts of the four classes of A against those of B: [questions, 16].
        ranks: counts of the classes of ranks of A against those of B: sparse [questions, bins x bins].
        bins: number of classes of ranks.
    """

    moments: Floats
    classes: Floats
    ranks: sparse.csr_array
    bins: int

    @classmethod
    def of(cls, a: Floats, b: Floats, question: NDArray[np.intp]) -> _Sums:
        """Sum up scores, each [rows], with the question of each row as a code from 0."""
        n = int(question.max()) + 1
        x, y = a - a.mean(), b - b.mean()
        parts = (np.ones_like(x), x, y, x * x, y * y, x * y, np.abs(b - a), b - a)
        moments = np.stack([np.bincount(question, part, n) for part in parts], axis=1).astype(np.float64)
        classes = np.digitize(a, BANDS) * 4 + np.digitize(b, BANDS)
        counted = np.bincount(question * 16 + classes, minlength=16 * n).reshape(n, 16).astype(np.float64)
        ranked = _rank_classes(a) * RANK_BINS + _rank_classes(b)
        ranks = sparse.csr_array((np.ones(len(a)), (question, ranked)), shape=(n, RANK_BINS**2))
        ranks.sum_duplicates()
        return cls(moments, counted, ranks, RANK_BINS)

    @property
    def questions(self) -> int:
        """Number of questions."""
        return len(self.moments)

    def confusion(self) -> tuple[int, int, int, int]:
        """Return the counts of `CONFUSION`."""
        square = self.classes.sum(axis=0).reshape(2, 2, 2, 2).sum(axis=(1, 3))  # [A's side, B's side]
        return int(square[0, 0]), int(square[1, 0]), int(square[0, 1]), int(square[1, 1])

    def figures(self, weights: Floats) -> dict[str, Floats]:
        """Return every figure with the questions weighted: weights [draws, questions], figures [draws]."""
        n, a, b, aa, bb, ab, error, bias = (weights @ self.moments).T
        counts = (weights @ self.classes).reshape(-1, 4, 4)
        sides = counts.reshape(-1, 2, 2, 2, 2).sum(axis=(2, 4))
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                "pearson": _correlation(n, a, b, aa, bb, ab),
                "spearman": self._rank_correlation(weights),
                "mae": error / n,
                "bias": bias / n,
                "same_side": (sides[:, 0, 0] + sides[:, 1, 1]) / n,
                "kappa": _kappa(sides),
                "weighted_kappa": _kappa(counts),
            }

    def _rank_correlation(self, weights: Floats) -> Floats:
        """Return the correlation of midranks of the classes of ranks, ranked anew in every draw."""
        joint = (self.ranks.T @ weights.T).T.reshape(-1, self.bins, self.bins)  # [draws, bins of A, bins of B]
        of_a, of_b = joint.sum(axis=2), joint.sum(axis=1)
        x, y = (np.cumsum(side, axis=1) - side / 2 for side in (of_a, of_b))
        n = of_a.sum(axis=1)
        x, y = x - n[:, None] / 2, y - n[:, None] / 2
        xy = np.einsum("da,dab,db->d", x, joint, y, optimize=True)
        sums = ((x * of_a).sum(1), (y * of_b).sum(1), (x * x * of_a).sum(1), (y * y * of_b).sum(1))
        return _correlation(n, *sums, xy)


def _rank_classes(values: Floats) -> NDArray[np.intp]:
    """Return the class of each value's rank, 0 to RANK_BINS - 1; equal values share one."""
    share = (stats.rankdata(values) - 0.5) / len(values)
    return np.minimum((share * RANK_BINS).astype(np.intp), RANK_BINS - 1)


def _correlation(n: Floats, a: Floats, b: Floats, aa: Floats, bb: Floats, ab: Floats) -> Floats:
    """Return Pearson's correlation from sums; NaN under three responses or without spread."""
    spread_a, spread_b = aa - a * a / n, bb - b * b / n
    found = (ab - a * b / n) / np.sqrt(spread_a * spread_b)
    defined = (n >= FEWEST_QUESTIONS) & (spread_a > _TINY * n) & (spread_b > _TINY * n)
    return np.where(defined, np.clip(found, -1, 1), np.nan)


def _kappa(counts: Floats) -> Floats:
    """Return Cohen's kappa with quadratic weights of square tables [draws, classes, classes]; NaN where all fall in one."""
    classes = counts.shape[1]
    n = counts.sum(axis=(1, 2))
    place = np.arange(classes)
    weight = np.square(place[:, None] - place[None, :]).astype(np.float64)
    chance = np.einsum("da,ab,db->d", counts.sum(axis=2), weight, counts.sum(axis=1)) / n
    return np.where(chance > _TINY * n, 1 - (counts * weight).sum(axis=(1, 2)) / chance, np.nan)
