"""What a direction means, from the tokens it speaks for: top tokens, how they drift, and where a trait's words rank.

Knows scores of tokens as arrays, `[vocabulary]`, and tables of tokens. Leaves making them to `models/lens.py`, the
words of the embedded world to the study, and drawing to the report.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]

PERSISTENCE = 0.9
"""Weight of rank-biased overlap: the first 10 ranks carry 86 % of it."""
LEVEL = 95.0
"""Percent of random directions under which a token at a rank stands lower."""
CLEAR = 2.58
"""Standard deviations from which a word counts as one side's own: p under .01 for each word."""
FEWEST = 3
MOST_WORDS = 30
SIDES = ("promoted", "demoted")
DIRECTION = ["checkpoint", "trait", "strategy", "layer", "direction"]
DRIFT = [
    *["checkpoint", "tokens", "trait", "strategy", "layer", "direction", "side", "k", "previous", "last"],
    *["overlap_previous", "rbo_previous", "overlap_last", "rbo_last", "chance"],
]
_WORD = re.compile(r"[^\W\d_]{2,}")


def top_tokens(scores: Floats, kept: Flags, k: int) -> Iterator[tuple[str, int, int, int]]:
    """Yield (side, rank from 1, token, garbage tokens passed over before it) of the k highest and k lowest kept tokens.

    Ties go to the lower token.
    """
    places, garbage = np.flatnonzero(kept), np.flatnonzero(~kept)
    k = min(k, len(places))
    for side, sign in zip(SIDES if k else (), (-1.0, 1.0), strict=False):
        signed = sign * np.asarray(scores, dtype=np.float64)
        values = signed[places]
        near = np.flatnonzero(values <= np.partition(values, k - 1)[k - 1])
        chosen = near[np.argsort(values[near], kind="stable")][:k]
        for rank, place in enumerate(chosen, start=1):
            yield side, rank, int(places[place]), int((signed[garbage] < values[place]).sum())


class Standings:
    """Where tokens stand among all that are kept, under several directions.

    Args:
        scores: of tokens, [directions, vocabulary].
        kept: which tokens count, [vocabulary].
    """

    def __init__(self, scores: Floats, kept: Flags) -> None:
        self._scores, self._kept = np.asarray(scores), kept

    @cached_property
    def _ordered(self) -> Floats:
        ordered: Floats = np.sort(self._scores[:, self._kept], axis=1)  # [directions, kept]
        return ordered

    def levels(self, k: int, level: float = LEVEL) -> tuple[Floats, Floats]:
        """Return what the token at each rank reaches in `level` percent of the directions: promoted and demoted, each [k]."""
        scores = self._scores[:, self._kept]
        k = min(k, scores.shape[1])
        ends = np.partition(scores, sorted({k - 1, scores.shape[1] - k}), axis=1)
        lowest, highest = np.sort(ends[:, :k], axis=1), np.sort(ends[:, -k:], axis=1)[:, ::-1]
        return np.percentile(highest, level, axis=0), np.percentile(lowest, 100.0 - level, axis=0)

    def words(self, own: Sequence[int], opposite: Sequence[int]) -> pd.DataFrame:
        """Tell how high the tokens of one side's words stand.

        Args:
            own: tokens of the words of the trait; those that do not count are left out.
            opposite: tokens of the words of its opposite, likewise.

        Returns:
            One row per direction: `n_own`, `n_opposite`; `auc`: the share of other kept tokens that an own word stands above
            (.5 by chance); `auc_opposite`: the same among words of the opposite side; `median_rank` of the own words, 1 the
            highest. NaN where a side has no token.
        """
        mine, theirs = ([i for i in dict.fromkeys(side) if self._kept[i]] for side in (own, opposite))
        n, total = len(mine), self._ordered.shape[1]
        records = []
        for scores, ordered in zip(self._scores, self._ordered, strict=True):
            below, upto = (np.searchsorted(ordered, scores[mine], side=side) for side in ("left", "right"))
            beaten = float((below + upto).sum()) / 2 - n**2 / 2  # without the pairs of own words
            pairs = scores[mine][:, None] - scores[theirs][None]  # [own, opposite]
            won = (pairs > 0).mean() + (pairs == 0).mean() / 2 if pairs.size else math.nan
            records.append(
                {
                    "n_own": n,
                    "n_opposite": len(theirs),
                    "auc": beaten / (n * (total - n)) if 0 < n < total else math.nan,
                    "auc_opposite": float(won),
                    "median_rank": float(np.median(total - upto + 1)) if n else math.nan,
                }
            )
        return pd.DataFrame(records)


def rank_biased_overlap(a: Sequence[Any], b: Sequence[Any], p: float = PERSISTENCE) -> float:
    """Return the extrapolated rank-biased overlap of two rankings of one length: 1 the same, 0 nothing shared.

    Webber, Moffat and Zobel, "A similarity measure for indefinite rankings" (2010), equation 32. NaN for empty rankings.
    """
    depth = min(len(a), len(b))
    if not depth:
        return math.nan
    shared = [len(set(a[:d]) & set(b[:d])) / d for d in range(1, depth + 1)]
    return shared[-1] * p**depth + (1 - p) / p * sum(agreed * p**d for d, agreed in enumerate(shared, start=1))


def lens_drift(tops: pd.DataFrame, order: Sequence[str], kept: Mapping[str, int]) -> pd.DataFrame:
    """Return how the top tokens of each vector change along training.

    Args:
        tops: top tokens: `checkpoint, tokens, trait, strategy, layer, direction, side, rank, token_id`. `direction` is
            `vector`, or the name of a control, whose tokens are compared with the vector's own at the other checkpoint.
        order: the checkpoints in the order of training; the last one is what `last` compares with. Others are left out.
        kept: checkpoint -> how many tokens can be at the top.

    Returns:
        One row per checkpoint, trait, strategy, layer, direction and side: `DRIFT`. `overlap` is the share of the k top tokens
        that both have, `rbo` rank-biased overlap; `chance` the overlap of k tokens drawn at random.
    """
    ranked: dict[tuple[Any, ...], dict[str, list[int]]] = {}
    tokens: dict[str, Any] = {}
    for (name, trait, strategy, layer, direction, side), part in tops.groupby([*DIRECTION, "side"], sort=False):
        ids = part.sort_values("rank")["token_id"].astype(int).tolist()
        ranked.setdefault((trait, strategy, layer, side, direction), {})[str(name)] = ids
        tokens[str(name)] = part["tokens"].iloc[0]
    records = []
    for (trait, strategy, layer, side, direction), own in ranked.items():
        vectors = ranked.get((trait, strategy, layer, side, "vector"), {})
        present = [name for name in order if name in vectors]
        for name in (name for name in order if name in own):
            before = [one for one in present if order.index(one) < order.index(name)]
            k = len(own[name])
            others = {"previous": before[-1] if before else None, "last": order[-1] if order[-1] in vectors else None}
            if direction == "vector" and others["last"] == name:
                others["last"] = None  # with itself
            found: dict[str, Any] = {}
            for label, other in others.items():
                alike = vectors[other] if other is not None else []
                found[f"overlap_{label}"] = len({*own[name]} & {*alike}) / k if alike and k else math.nan
                found[f"rbo_{label}"] = rank_biased_overlap(own[name], alike)
            who = {"checkpoint": name, "tokens": tokens[name], "trait": trait, "strategy": strategy, "layer": layer}
            chance = k / kept[name] if kept.get(name) else math.nan
            records.append({**who, "direction": direction, "side": side, "k": k, **others, **found, "chance": chance})
    return pd.DataFrame(records, columns=DRIFT)


def distinctive_words(positive: Sequence[str], negative: Sequence[str], most: int = MOST_WORDS) -> tuple[list[str], list[str]]:
    """Return the words that clearly more texts of one side have than of the other: of the positive and of the negative one.

    By the signed root of the likelihood ratio of both shares of texts: Dunning, "Accurate Methods for the Statistics of
    Surprise and Coincidence" (1993). A word counts from `FEWEST` texts and `CLEAR` standard deviations.

    Args:
        positive: texts of one side.
        negative: texts of the other.
        most: words of a side at most, the clearest first.
    """
    sides = [Counter(word for text in side for word in {*_WORD.findall(text.lower())}) for side in (positive, negative)]
    totals = (len(positive), len(negative))
    scores = {
        word: _surprise((sides[0][word], sides[1][word]), totals)
        for word, n in (sides[0] + sides[1]).items()
        if n >= FEWEST and all(totals)
    }
    ranked = sorted(scores, key=lambda word: (-abs(scores[word]), word))
    clear = [word for word in ranked if abs(scores[word]) >= CLEAR]
    return [w for w in clear if scores[w] > 0][:most], [w for w in clear if scores[w] < 0][:most]


def _surprise(counts: tuple[int, int], totals: tuple[int, int]) -> float:
    """Return the signed root of the likelihood ratio that two shares differ, positive where the first is larger."""
    share = sum(counts) / sum(totals)
    found = [(n, total * share) for n, total in zip(counts, totals, strict=True)]
    found += [(total - n, total * (1 - share)) for n, total in zip(counts, totals, strict=True)]
    ratio = 2 * sum(n * math.log(n / expected) for n, expected in found if n)
    return math.copysign(math.sqrt(max(ratio, 0.0)), counts[0] / totals[0] - counts[1] / totals[1])


def rank_correlations(columns: Floats, scores: Floats) -> Floats:
    """Return Spearman's correlation of each column with the scores, [k], over the rows where these are finite.

    NaN under 3 rows, where a column or the scores are flat, and for a column that is not finite in such a row.

    Args:
        columns: [n, k].
        scores: [n].
    """
    known = np.isfinite(scores)
    found = np.full(columns.shape[1], np.nan)
    if known.sum() < 3:
        return found
    ranks = pd.DataFrame(np.column_stack([columns[known], scores[known]])).rank(na_option="keep").to_numpy(dtype=np.float64)
    ranks = ranks - ranks.mean(axis=0)
    norms = np.linalg.norm(ranks, axis=0)
    usable = (norms[:-1] > 0) & (norms[-1] > 0)  # not where NaN
    np.divide(ranks[:, -1] @ ranks[:, :-1], norms[:-1] * norms[-1], out=found, where=usable)
    return found
