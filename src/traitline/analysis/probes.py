"""Linear probes in their dual form: scores of texts that a probe was not fitted on, from products of activations alone.

Knows a probe as a function of products and labels, for many labellings at once, so that shuffled labels cost little more than
the true ones. Leaves which texts are held out, and what scores mean, to `detection.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Probe = Callable[[Floats, Floats, Floats, Indices], Floats]
"""(products of the training texts [n, n], of test with training texts [m, n], labels +1 and -1 of the training texts
[labellings, n], questions of the training texts [n]) -> scores of the test texts, 0 between the sides, [labellings, m]."""

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""The ridge penalties to choose from, as shares of the mean eigenvalue."""


def difference_of_means(train: Floats, test: Floats, labels: Floats, question: Indices) -> Floats:
    """Score texts along the mean of one side minus that of the other, from the midpoint of both."""
    del question
    means = [_shares(labels > 0), _shares(labels < 0)]
    weights, middle = means[0] - means[1], (means[0] + means[1]) / 2
    scores: Floats = weights @ test.T - ((weights @ train) * middle).sum(axis=1, keepdims=True)
    return scores


def ridge(train: Floats, test: Floats, labels: Floats, question: Indices) -> Floats:
    """Score texts by ridge regression of the labels, with an intercept.

    The penalty is the one of `STRENGTHS` whose squared error is smallest when each question in turn is left out, for the first
    labelling, which is the true one; all others are fitted with it. Left-out errors follow from the fit to all texts: they are
    the residuals of a question, divided by one minus its part of the hat matrix.
    """
    n = len(train)
    row = train.mean(axis=0)
    values, vectors = np.linalg.eigh(train - row - row[:, None] + row.mean())
    values = np.maximum(values, 0.0)
    scale = values.mean() or 1.0
    level = labels.mean(axis=1, keepdims=True)
    along = (labels - level) @ vectors  # [labellings, n]
    groups, present = _padded(question)
    errors = []
    for strength in STRENGTHS:
        kept = values / (values + strength * scale)
        residuals = labels[0] - level[0] - (along[0] * kept) @ vectors.T  # [n]
        errors.append(_left_out(residuals, vectors, kept, groups, present, n))
    shrunk = 1.0 / (values + STRENGTHS[int(np.argmin(errors))] * scale)
    centred = test - row - test.mean(axis=1, keepdims=True) + row.mean()
    scores: Floats = (along * shrunk) @ (centred @ vectors).T + level
    return scores


PROBES: dict[str, Probe] = {"difference": difference_of_means, "ridge": ridge}


def _shares(members: NDArray[np.bool_]) -> Floats:
    """Return weights that make a mean of the members of each row."""
    shares: Floats = members / np.maximum(members.sum(axis=1, keepdims=True), 1)
    return shares


def _padded(question: Indices) -> tuple[Indices, NDArray[np.bool_]]:
    """Return the texts of each question, filled up with any text to the same number, and which of them are meant."""
    members = [np.flatnonzero(question == code) for code in np.unique(question)]
    groups = np.zeros((len(members), max(map(len, members))), dtype=np.int64)
    present = np.zeros(groups.shape, dtype=bool)
    for row, here, one in zip(groups, present, members, strict=True):
        row[: len(one)], here[: len(one)] = one, True
    return groups, present


def _left_out(residuals: Floats, vectors: Floats, kept: Floats, groups: Indices, present: NDArray[np.bool_], n: int) -> float:
    """Return the squared error when every question in turn is left out of the fit.

    Args:
        residuals: of the fit to all texts, [n].
        vectors: eigenvectors of the centred products, [n, n].
        kept: what the fit keeps of each, [n].
        groups: texts of each question, [questions, most].
        present: which of these are meant.
        n: number of texts.
    """
    own = vectors[groups]  # [questions, most, n]
    hat = (own * kept) @ own.transpose(0, 2, 1) + 1.0 / n
    both = present[:, :, None] & present[:, None, :]
    right = np.where(present, residuals[groups], 0.0)[..., None]
    return float((np.linalg.solve(np.eye(groups.shape[1]) - np.where(both, hat, 0.0), right) ** 2).sum())
