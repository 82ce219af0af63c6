"""Multidimensional scaling: places on a plane whose distances are as near as possible to given dissimilarities.

Knows a square of dissimilarities, nothing of vectors or checkpoints. Starts from classical scaling and improves it by SMACOF,
so the result is the same every time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import distance

from traitline.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scaling:
    """Places found.

    Attributes:
        places: `[points, dimensions]`, centred; the first axis is the longest, and the last point lies to its right.
        stress: Kruskal's stress-1: the root of the squared differences over the squared dissimilarities. 0 is exact.
    """

    places: Floats
    stress: float


def classical_scaling(dissimilarities: Floats, *, dimensions: int = 2) -> Floats:
    """Return places by classical scaling (Torgerson 1952): the leading eigenvectors of the doubly centred squares.

    Args:
        dissimilarities: `[points, points]`, symmetric, finite, zero on the diagonal.
        dimensions: of the places; where the data have fewer, the others are 0.

    Raises:
        InputError: not such a square.
    """
    square = _checked(dissimilarities)
    n = len(square)
    centre = np.eye(n) - 1.0 / n
    values, axes = np.linalg.eigh(-0.5 * centre @ square**2 @ centre)
    leading = np.argsort(values)[::-1][:dimensions]
    places = axes[:, leading] * np.sqrt(np.maximum(values[leading], 0.0))
    return _turned(np.pad(places, ((0, 0), (0, dimensions - places.shape[1]))))


def metric_scaling(dissimilarities: Floats, *, dimensions: int = 2, steps: int = 300, tolerance: float = 1e-9) -> Scaling:
    """Return places of least stress near the classical ones, by majorisation (SMACOF, de Leeuw 1977).

    Args:
        dissimilarities: `[points, points]`, symmetric, finite, zero on the diagonal.
        dimensions: of the places.
        steps: at most so many; stress falls at each.
        tolerance: stop once a step lowers the stress by less.

    Raises:
        InputError: not such a square.
    """
    square = _checked(dissimilarities)
    places = classical_scaling(square, dimensions=dimensions)
    distances = _distances(places)
    stress = _stress(square, distances)
    for _ in range(steps):
        ratio = np.divide(square, distances, out=np.zeros_like(square), where=distances > 0)
        bend = np.diag(ratio.sum(axis=1)) - ratio
        moved = bend @ places / len(square)
        distances = _distances(moved)
        before, places, stress = stress, moved, _stress(square, distances)
        if before - stress < tolerance:
            break
    return Scaling(_turned(places), stress)


def _checked(dissimilarities: Floats) -> Floats:
    square = np.asarray(dissimilarities, dtype=np.float64)
    if square.ndim != 2 or square.shape[0] != square.shape[1] or not square.size:
        raise InputError(f"dissimilarities are {list(square.shape)}; scaling needs a square, [points, points]")
    if not np.isfinite(square).all():
        raise InputError("a dissimilarity is missing or not finite; leave that point out")
    if (square < 0).any() or not np.allclose(square, square.T, atol=1e-6) or np.abs(np.diag(square)).max() > 1e-6:
        raise InputError("dissimilarities must be symmetric, not negative, and zero on the diagonal")
    return (square + square.T) / 2


def _distances(places: Floats) -> Floats:
    return np.asarray(distance.cdist(places, places))


def _stress(square: Floats, distances: Floats) -> float:
    total = float((square**2).sum())
    return float(np.sqrt(((square - distances) ** 2).sum() / total)) if total > 0 else 0.0


def _turned(places: Floats) -> Floats:
    """Centre the places and turn them: longest axis first, the last point to the right and above."""
    centred = places - places.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    turned = centred @ axes.T
    turned = np.pad(turned, ((0, 0), (0, places.shape[1] - turned.shape[1])))
    return np.asarray(turned * np.where(turned[-1] < 0, -1.0, 1.0))
