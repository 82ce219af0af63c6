"""How alike two short texts are, with the words that all texts of a set share counting little.

Knows texts only. Questions of one strategy share a frame ("If Alex found ..."), so plain overlap would call them all alike;
here every word and every run of four letters weighs as much as it is rare in the set.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

LETTERS = 4
LONG_ENOUGH = 5
LONGER_BY = 3

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def words(text: str) -> list[str]:
    """Split a text into lower-case words; apostrophes stay within a word."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).replace("’", "'").casefold())


def normalised(text: str) -> str:
    """Return a text without case, punctuation and layout: what two copies of it have in common."""
    return " ".join(words(text))


def likeness(texts: Iterable[str]) -> NDArray[np.float64]:
    """Compare every text of a set with every other.

    Two texts are as alike as the weight of the terms both hold over the weight of the terms either holds (a weighted Jaccard
    index), by words or by runs of letters, whichever is larger. A term weighs `log((texts + 1) / texts that hold it)`. A text
    of five words or more that lies within one at most three times as long counts as a copy of it.

    Returns:
        `[texts, texts]`, symmetric, from 0 (nothing in common) to 1 (a copy).
    """
    listed = [words(text) for text in texts]
    by_word, count, common = _overlap([set(one) for one in listed])
    by_letters, _, _ = _overlap([set(_runs(" ".join(one))) for one in listed])
    shorter = np.minimum.outer(count, count)
    longer = np.maximum.outer(count, count)
    within = (common == shorter) & (shorter >= LONG_ENOUGH) & (longer <= LONGER_BY * shorter)
    return np.where(within, 1.0, np.maximum(by_word, by_letters))


def near_pairs(texts: Sequence[str], threshold: float) -> Iterator[tuple[int, int, float]]:
    """Yield every pair of texts at least `threshold` alike, as two indices and their likeness."""
    alike = likeness(texts)
    for i, j in np.argwhere(np.triu(alike >= threshold, k=1)):
        yield int(i), int(j), float(alike[i, j])


def _overlap(sets: Sequence[set[str]]) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the weighted overlap of sets of terms, the size of each set, and the number of terms each two share."""
    held_by = Counter(term for one in sets for term in one)
    weight = {term: math.log((len(sets) + 1) / count) for term, count in held_by.items()}
    shared = sorted(term for term, count in held_by.items() if count > 1)  # the others are in no overlap
    column = {term: k for k, term in enumerate(shared)}
    held = np.zeros((len(sets), len(shared)))  # [texts, shared terms]
    for row, terms in enumerate(sets):
        held[row, [column[term] for term in terms if term in column]] = 1.0
    both = (held * [weight[term] for term in shared]) @ held.T
    total = np.array([sum(weight[term] for term in terms) for terms in sets])
    either = np.add.outer(total, total) - both
    alike = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
    return alike, np.array([len(terms) for terms in sets]), np.rint(held @ held.T).astype(np.int64)


def _runs(text: str) -> Iterator[str]:
    padded = f"  {text}  "
    return (padded[k : k + LETTERS] for k in range(len(padded) - LETTERS + 1) if text)
