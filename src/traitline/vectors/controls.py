"""What a vector is compared with: directions that share everything but the trait.

Knows three kinds. `isotropic` and `covariance` are random directions, the second drawn with the covariance of the network's
activations; `shuffled` is the vector of the same pairs with the labels of exactly half of them flipped. All are scaled to the
real vector's norm at every layer. How they are applied is the same as for a real vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from traitline.vectors.estimators import Indices, Seed, Weights, weighted_mean
from traitline.vectors.vector import FRAGILE_PAIRS, Floats

Kind = Literal["isotropic", "covariance", "shuffled"]


def isotropic(vector: Floats, seed: Seed) -> Floats:
    """Return a random direction, every direction equally likely, with the vector's norms, [layers + 1, hidden]."""
    return match_norms(np.random.default_rng(seed).normal(size=vector.shape), vector)


def covariance(vector: Floats, sample: Floats, seed: Seed) -> Floats:
    """Return a random direction drawn from the activation covariance, with the vector's norms, [layers + 1, hidden].

    Args:
        vector: whose norms to match, [layers + 1, hidden].
        sample: activations of the network, [n, layers + 1, hidden].
        seed: of the draw.
    """
    return match_norms(as_activations_vary(sample, [seed])[0], vector)


def as_activations_vary(sample: Floats, seeds: Sequence[Seed]) -> Floats:
    """Return one random direction per seed, drawn from the covariance of activations, [seeds, layers + 1, hidden].

    Args:
        sample: activations of the network, [n, layers + 1, hidden].
        seeds: of the draws.
    """
    weights = np.stack([np.random.default_rng(seed).normal(size=len(sample)).astype(np.float32) for seed in seeds])
    centred = (sample - sample.mean(axis=0)).reshape(len(sample), -1)
    # not `@`, whose rounding changes with the number of threads: one process and many would draw different controls
    drawn: Floats = np.einsum("kn,nx->kx", weights, centred).reshape(len(seeds), *sample.shape[1:])
    return drawn


def shuffled(differences: Floats, question: Indices, seed: Seed) -> Floats | None:
    """Return the vector of pairs of which exactly half are flipped, balanced within question, [layers + 1, hidden].

    Flipping each pair by a coin instead would leave a share of the real vector in it. None under 10 pairs, where the
    control means nothing.

    Args:
        differences: positive minus negative of each pair, [pairs, layers + 1, hidden].
        question: integer code of each pair's question, [pairs].
        seed: of the choice.
    """
    if len(differences) < FRAGILE_PAIRS:
        return None
    flipped, vector = weighted_mean(np.stack([balanced_signs(question, seed), np.ones(len(question))]), differences)
    return match_norms(flipped, vector)


def balanced_signs(question: Indices, seed: Seed) -> Weights:
    """Return +1 or -1 per pair: half of all pairs negative (up to one), and half of each question's (up to one)."""
    rng = np.random.default_rng(seed)
    signs = np.ones(len(question))
    spare: list[int] = []  # the odd pair of each question that has one
    for code in np.unique(question):
        members = rng.permutation(np.flatnonzero(question == code))
        half = len(members) // 2
        signs[members[:half]] = -1
        if len(members) % 2:
            spare.append(int(members[-1]))
    signs[rng.permutation(np.array(spare, dtype=np.intp))[: len(spare) // 2]] = -1
    return signs


def match_norms(direction: NDArray[np.floating[Any]], vector: Floats) -> Floats:
    """Return a direction scaled to the vector's norm at each layer, [layers + 1, hidden]; a zero direction stays zero."""
    norms = np.linalg.norm(direction, axis=1, keepdims=True)
    target = np.linalg.norm(vector, axis=1, keepdims=True)
    unit = np.divide(direction, norms, out=np.zeros_like(direction), where=norms > 0)
    matched: Floats = (unit * target).astype(np.float32)
    return matched
