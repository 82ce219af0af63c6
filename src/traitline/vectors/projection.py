"""A vector at one layer of one model as an axis: in which unit projections are told, and what neutral texts project to.

Knows that a projection is told as a share of the model's activation norm, the unit of a `norm` dose, so that projections
and coefficients compare. Leaves reading the residual stream to `models/`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from traitline.errors import InputError
from traitline.models.capture import Calibration
from traitline.models.generate import Probe
from traitline.vectors.vector import Floats, PersonaVector

MIDDLE = (2.5, 50.0, 97.5)
"""Percentiles of the neutral projections: the ends of the middle 95 %, and the median."""


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """What tokens are projected onto.

    Attributes:
        layer: whose output is projected, 1..L.
        direction: the unit vector, float32 [hidden].
        activation_norm: the model's activation norm at that layer; 1 in the unit of projections.
        neutral: the median projection of the positions of neutral texts, as a share of the activation norm.
        low, high: between which the middle 95 % of them lie, likewise; seldom as far from the median on both sides.
    """

    layer: int
    direction: Floats
    activation_norm: float
    neutral: float
    low: float
    high: float

    def place(self, projection: float) -> float:
        """Return where a projection lies among neutral ones: 0 at their median, -1 and 1 at the ends of the middle 95 %."""
        reach = self.high - self.neutral if projection > self.neutral else self.neutral - self.low
        return (projection - self.neutral) / reach if reach else 0.0

    @property
    def probe(self) -> Probe:
        """What generation reads along to get projections as shares of the activation norm."""
        return Probe(self.layer, (self.direction / self.activation_norm).astype(np.float32))


def axis(vector: PersonaVector, layer: int, calibration: Calibration) -> Axis:
    """Return a vector's axis at one layer of the model that was calibrated.

    Raises:
        InputError: no such layer, or the vector has no direction there.
    """
    direction = vector.at(layer)
    length, norm = float(np.linalg.norm(direction)), float(calibration.norms[layer])
    if not length:
        raise InputError(f"the vector is zero at layer {layer}, so nothing can be projected onto it; choose another layer")
    unit = (direction / length).astype(np.float32)
    low, neutral, high = np.percentile(calibration.sample[:, layer] @ unit / norm, MIDDLE)
    return Axis(layer, unit, norm, float(neutral), float(low), float(high))
