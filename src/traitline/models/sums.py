"""What is kept of the segment means of many rows: weighted sums, and the moments of classes.

Knows how to add a batch to them on the device, in float64 and without cancellation. Leaves where the means come from to
`capture.py`, and what weights mean to `vectors/estimators.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from traitline.models.passes import on_device


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """How rows of each class are distributed at every layer.

    Attributes:
        n: rows of each class, [classes].
        mean: float32 [classes, layers + 1, hidden]; NaN where a class has no row.
        variance: of the population the rows were drawn from (divided by n - 1), float32 [classes, layers + 1, hidden]; NaN
            where a class has fewer than two rows.
    """

    n: NDArray[np.intp]
    mean: NDArray[np.float32]
    variance: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """What `capture_sums` finds.

    Attributes:
        segments: the weighted sums of each segment, float32 [k, layers + 1, hidden].
        moments: of the response means of each class; None where there are no classes.
    """

    segments: dict[str, NDArray[np.float32]]
    moments: Moments | None


class WeightedSums:
    """Sums of activations, each row counted with a weight of its own.

    Args:
        weights: of each row in each sum, [k, rows].
        layers: number of layers read.
        hidden: width of the residual stream.
        device: where sums are kept.
    """

    def __init__(self, weights: NDArray[np.float64], layers: int, hidden: int, device: torch.device) -> None:
        self._weights = weights
        self._sums = torch.zeros(layers, len(weights), hidden, dtype=torch.float64, device=device)

    def add(self, batch: list[int], values: torch.Tensor) -> None:
        """Add the values of these rows, [rows, layers, hidden]."""
        weights = on_device(self._weights[:, batch], values.device)  # [k, rows]
        for layer, sums in enumerate(self._sums):
            sums.addmm_(weights, values[:, layer].double())

    def result(self) -> NDArray[np.float32]:
        """Return the sums, [k, layers, hidden]."""
        return _on_host(self._sums.transpose(0, 1))


class ClassMoments:
    """Mean and squared deviations of the rows of each class, batch by batch.

    Batches are joined by the update of Chan, Golub and LeVeque (1979), which never subtracts large sums from each other:
    M = M_a + M_b + (mean_b - mean_a)^2 n_a n_b / (n_a + n_b), M being the sum of squared deviations from the mean.

    Args:
        classes: of each row, counted from 0; a negative one is in no class. [rows]
        layers: number of layers read.
        hidden: width of the residual stream.
        device: where moments are kept.
    """

    def __init__(self, classes: NDArray[Any], layers: int, hidden: int, device: torch.device) -> None:
        numbers = np.arange(int(classes.max(initial=-1)) + 1)
        self._members = np.equal.outer(numbers, classes).astype(np.float64)  # [classes, rows]
        self._n = np.zeros(len(self._members))
        shape = (layers, len(self._members), hidden)
        self._mean, self._squares = (torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(2))

    def add(self, batch: list[int], values: torch.Tensor) -> None:
        """Add the values of these rows, [rows, layers, hidden]."""
        members = self._members[:, batch]
        n = members.sum(axis=1)
        both = np.maximum(self._n + n, 1)
        coefficients = np.stack([1 / np.maximum(n, 1), n / both, self._n * n / both])[..., None]
        inverse, share, spread = on_device(coefficients, values.device)  # each [classes, 1]
        belongs = on_device(members, values.device)  # [classes, rows]
        for layer, (mean, squares) in enumerate(zip(self._mean, self._squares, strict=True)):
            value = values[:, layer].double()  # [rows, hidden]
            own = belongs @ value * inverse  # [classes, hidden]
            deviation = value - belongs.T @ own
            difference = own - mean
            squares += belongs @ deviation.square() + difference.square() * spread
            mean += difference * share
        self._n += n

    def result(self) -> Moments:
        """Return what was found."""
        n = self._n.astype(np.intp)
        mean, squares = (_on_host(found.transpose(0, 1)) for found in (self._mean, self._squares))
        mean[n < 1], squares[n < 2] = np.nan, np.nan
        return Moments(n, mean, squares / np.maximum(n - 1, 1).astype(np.float32)[:, None, None])


def _on_host(found: torch.Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(found.float().cpu().numpy())
