"""Texts in pairs, and which of them are held out: those of other questions, or of other words, than a probe is fitted to.

A text gives its side away by single words, which tell it apart in any network, an untrained one too. So there are two ways of
holding texts out. Other questions: no question is in two parts, but its words are. Other words: the words that tell the sides
apart are cut into halves, and texts with words of one half alone are tested with a probe fitted to texts of the other half
alone. Either comes with its own null: sides exchanged in half of the pairs of every question; words dealt to the sides anew.
Knows texts as token ids. Leaves probes and measures to the others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse import csgraph

from traitline.analysis.significance import benjamini_hochberg
from traitline.vectors.controls import balanced_signs

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Members = NDArray[np.bool_]
"""Which of the texts belong to something, [n]."""
Held = Literal["questions", "words"]

SHUFFLES, RELABELLINGS = 99, 999
DRAWS, TRIED = 5, 200
"""So many ways of cutting the words into halves, the ones that leave most texts, of so many."""
FEWEST = 3
"""A probe is fitted to at least so many texts of either side."""
TELLING = 0.05
"""False discovery rate at which a token tells the sides apart."""
TOGETHER = 0.5
"""Tokens of which at least this share of texts is common belong to one word."""


@dataclass(frozen=True, eq=False)
class Texts:
    """The fixed texts of one trait and strategy: a positive one, its negative partner, the next pair, and so on.

    Attributes:
        question: code of each text's question, [n].
        fold: which part of the questions it is in, [n]; no question is in two.
        tokens: token ids of each text.
    """

    question: Indices
    fold: Indices
    tokens: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.question)

    @property
    def labels(self) -> Floats:
        """Return 1 for a positive text, -1 for a negative one, [n]."""
        return np.where(np.arange(len(self)) % 2, -1.0, 1.0)

    @cached_property
    def shares(self) -> Floats:
        """What share of a text each token is: all that the words alone say of it, [n, tokens]."""
        known, column = np.unique(np.concatenate([np.asarray(one, dtype=np.int64) for one in self.tokens]), return_inverse=True)
        row = np.repeat(np.arange(len(self)), [len(one) for one in self.tokens])
        counts = np.zeros((len(self), len(known)))
        np.add.at(counts, (row, column), 1.0)
        shares: Floats = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
        return shares


@dataclass(frozen=True, eq=False)
class Part:
    """Texts that a probe is fitted to, texts that it is tested on, and the tested ones of the same question two by two.

    Attributes:
        train: the texts fitted to, [fitted].
        test: the texts tested, [tested].
        first: places among the tested ones, [comparisons].
        second: those that they are compared with.
        due: 1 where the first of the two is the positive one, -1 where the second is, 0 where they are not of opposite sides,
            or where the labelling leaves one side without a text to fit to, [labellings, comparisons].
        question: 1 in the column of each comparison's question, [comparisons, questions].
        compared: how many comparisons of each question count, [labellings, questions].
    """

    train: Indices
    test: Indices
    first: Indices
    second: Indices
    due: Floats
    question: Floats
    compared: Floats

    def without(self, gone: Members) -> Part:
        """Return the part without some of its comparisons, [comparisons]."""
        due = np.where(gone, 0.0, self.due)
        return replace(self, due=due, compared=np.abs(due) @ self.question)


@dataclass(frozen=True, eq=False)
class Split:
    """One way of holding texts out.

    Attributes:
        held: what the tested texts have of their own.
        parts: fits and tests.
        labels: the true sides and, after them, those of the null: 1, -1, or 0 for a text that is on neither, [1 + null, n].
        units: how many questions, or words, are held out in turn.
    """

    held: Held
    parts: tuple[Part, ...]
    labels: Floats
    units: int

    @classmethod
    def of(cls, held: Held, texts: Texts, cuts: Iterable[tuple[Members, Members]], labels: Floats, units: int) -> Split:
        """Make one of which texts each probe is fitted to and tested on, [n] and [n]."""
        return cls(held, tuple(_part(texts, train, test, labels) for train, test in cuts), labels, units)

    def true_alone(self) -> Split:
        """Return the split without its null."""
        parts = tuple(replace(part, due=part.due[:1], compared=part.compared[:1]) for part in self.parts)
        return replace(self, parts=parts, labels=self.labels[:1])


def _part(texts: Texts, train: Members, test: Members, labels: Floats) -> Part:
    tested = np.flatnonzero(test)
    first, second = np.triu_indices(len(tested), 1)
    same = texts.question[tested[first]] == texts.question[tested[second]]
    first, second = first[same], second[same]
    due = (labels[:, tested[first]] - labels[:, tested[second]]) / 2
    sides = labels[:, train]
    fitted = (sides.max(axis=1, initial=0) > 0) & (sides.min(axis=1, initial=0) < 0)
    due = np.where((np.abs(due) == 1) & fitted[:, None], due, 0.0)
    question = np.equal.outer(texts.question[tested[first]], np.arange(int(texts.question.max()) + 1)).astype(np.float64)
    return Part(np.flatnonzero(train), tested, first, second, due, question, np.abs(due) @ question)


def other_questions(texts: Texts, seed: int) -> Split:
    """Hold out the questions of each fold in turn; in the null the sides of half of each question's pairs are exchanged."""
    folds = np.unique(texts.fold)
    cuts = [(texts.fold != k, texts.fold == k) for k in folds if len(folds) > 1]
    pairs = texts.question[::2].astype(np.intp)
    signs = [np.repeat(balanced_signs(pairs, (seed, 5, k)), 2) for k in range(SHUFFLES)]
    labels = texts.labels * np.stack([np.ones(len(texts)), *signs])
    return Split.of("questions", texts, cuts, labels, len(np.unique(pairs)))


def other_words(texts: Texts, seed: int) -> Split | None:
    """Hold out half of the words that tell the sides apart, in several ways; in the null these words are dealt anew.

    Returns:
        None where hardly a text has words of one half alone, as with long texts or few words.
    """
    held, side = telling_words(texts)
    if min((side > 0).sum(), (side < 0).sum()) < 2:
        return None
    rng = np.random.default_rng((seed, 6))
    found = {}
    for _ in range(TRIED):
        half = np.zeros(len(side), dtype=bool)
        for sign in (1, -1):
            words = rng.permutation(np.flatnonzero(side == sign))
            half[words[: (len(words) + int(rng.integers(2))) // 2]] = True
        a, b = (np.asarray(held[:, one].any(axis=1)) for one in (half, ~half))
        fewest = min(int((one & (texts.labels == sign)).sum()) for one in (a & ~b, b & ~a) for sign in (1, -1))
        found[(half ^ half[0]).tobytes()] = fewest, (a & ~b, b & ~a)  # a half and the other one are the same cut
    best = sorted((one for one in found.values() if one[0] >= FEWEST), key=lambda one: -one[0])[:DRAWS]
    if not best:
        return None
    dealt = dealings(side, RELABELLINGS, rng)
    votes = [((dealt == sign).astype(float) @ held.T) > 0 for sign in (1, -1)]
    null = np.where(votes[0] & ~votes[1], 1.0, np.where(votes[1] & ~votes[0], -1.0, 0.0))
    cuts = [ends for _, alone in best for ends in (alone, alone[::-1])]
    return Split.of("words", texts, cuts, np.vstack([texts.labels, null]), len(side))


def dealings(side: Indices, most: int, rng: np.random.Generator) -> Indices:
    """Return other ways of dealing words to the sides, as many to each as they are: all, or that many different ones.

    Args:
        side: the true side of each word, 1 or -1, [words].
        most: how many to return at most.
        rng: the source of chance.

    Returns:
        [ways, words]
    """
    positive = int((side > 0).sum())
    if math.comb(len(side), positive) - 1 <= most:
        every = np.full((math.comb(len(side), positive), len(side)), -1, dtype=np.int64)
        for row, chosen in zip(every, itertools.combinations(range(len(side)), positive), strict=True):
            row[list(chosen)] = 1
        others: Indices = every[(every != side).any(axis=1)]
        return others
    seen: dict[bytes, Indices] = {}
    while len(seen) < most:
        dealt = rng.permutation(side)
        if (dealt != side).any():
            seen[dealt.tobytes()] = dealt
    return np.stack(list(seen.values()))


def telling_words(texts: Texts) -> tuple[NDArray[np.bool_], Indices]:
    """Return which text holds which word that tells the sides apart, [n, words], and the side of each, [words].

    Such are tokens that texts of one side hold more often (Fisher's exact test, Benjamini and Hochberg); tokens that mostly
    come together are one word.
    """
    holds = texts.shares > 0
    n, positive, negative = len(texts), holds[texts.labels > 0].sum(axis=0), holds[texts.labels < 0].sum(axis=0)
    drawn = (n, positive + negative, n // 2)
    tails = np.minimum(stats.hypergeom.sf(positive - 1, *drawn), stats.hypergeom.cdf(positive, *drawn))
    telling = np.flatnonzero(benjamini_hochberg(np.minimum(1.0, 2 * tails)) < TELLING)
    side = np.where(positive > negative, 1, -1)[telling]
    chosen = holds[:, telling].astype(float)
    common, counts = chosen.T @ chosen, chosen.sum(axis=0)
    alike = common >= TOGETHER * (counts[:, None] + counts - common)
    number, word = csgraph.connected_components(alike & (side[:, None] == side), directed=False)
    held = np.stack([holds[:, telling[word == w]].any(axis=1) for w in range(number)], axis=1) if number else holds[:, :0]
    return held, np.array([side[word == w][0] for w in range(number)], dtype=np.int64)
