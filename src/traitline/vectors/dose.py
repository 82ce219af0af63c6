"""How strongly a vector is applied: (vector, layer, coefficient) -> the delta for one target.

A dose is one registered function. `norm` scales the unit vector by the target's own activation norm at that layer, so that a
coefficient means the same for every checkpoint; `raw` multiplies the vector as it is. Leaves adding the delta to
`models/generate.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from traitline.errors import InputError, nearest
from traitline.models.generate import Intervention, Positions
from traitline.vectors.vector import LAST_AFTER_NORM, Floats, PersonaVector

Dose = Callable[[Floats, float, float], Floats]
"""(direction [hidden], coefficient, the target's activation norm at that layer) -> delta [hidden]."""


def norm_dose(direction: Floats, coef: float, activation_norm: float) -> Floats:
    """Return coef x activation norm x unit direction."""
    length = float(np.linalg.norm(direction))
    if length == 0:
        raise InputError("the vector is zero at this layer, so it has no direction to steer in; choose another layer")
    return (direction * (coef * activation_norm / length)).astype(np.float32)


def raw_dose(direction: Floats, coef: float, activation_norm: float) -> Floats:
    """Return coef x direction. Across checkpoints only when asked for: vector norms fall 20-fold in training."""
    return (direction * coef).astype(np.float32)


DOSES: dict[str, Dose] = {"norm": norm_dose, "raw": raw_dose}


def dose_function(name: str) -> Dose:
    """Return a dose by name.

    Raises:
        InputError: no such dose.
    """
    if name not in DOSES:
        raise InputError(f"no dose is called {name!r}; {nearest(name, DOSES)}")
    return DOSES[name]


@dataclass(frozen=True, slots=True, eq=False)
class Steer:
    """A vector with the layer, coefficient, dose and positions it is to be applied with."""

    vector: PersonaVector
    layer: int
    coef: float
    dose: str = "norm"
    positions: Positions = "response"

    def resolve(self, activation_norms: Floats) -> Intervention:
        """Return the intervention for a target with these activation norms, [layers + 1].

        Raises:
            InputError: the target has another number of layers, or the vector is zero at this layer.
        """
        if len(activation_norms) != self.vector.layers + 1:
            raise InputError(
                f"the vector has {self.vector.layers} layers, the target {len(activation_norms) - 1}; "
                "a vector fits only models of its own depth"
            )
        delta = dose_function(self.dose)(self.vector.at(self.layer), self.coef, float(activation_norms[self.layer]))
        return Intervention(self.layer, delta, self.positions)


def steer(
    vector: PersonaVector,
    layer: int,
    coef: float,
    *,
    dose: str = "norm",
    positions: Positions = "response",
    allow_after_norm: bool = False,
) -> Steer:
    """Say how a vector is to be applied.

    Args:
        vector: the direction.
        layer: whose block output it is added to, 1..L.
        coef: the coefficient; negative steers away from the trait.
        dose: `norm` or `raw`.
        positions: `response`, `prompt` or `all`.
        allow_after_norm: steer with a last layer that was read after the final norm all the same.

    Raises:
        InputError: a layer out of range, an unknown dose or positions, or a last layer read after the final norm.
    """
    vector.at(layer)
    dose_function(dose)
    if positions not in ("response", "prompt", "all"):
        raise InputError(f"positions are 'response', 'prompt' or 'all', not {positions!r}")
    if not np.isfinite(coef):
        raise InputError(f"the coefficient must be a finite number, not {coef}")
    after_norm = vector.provenance.layer_convention == LAST_AFTER_NORM
    if after_norm and layer == vector.layers and not allow_after_norm:
        raise InputError(
            f"layer {layer} of this vector was read after the final norm, which is not where steering adds; "
            "choose an earlier layer, or give allow_after_norm=True"
        )
    return Steer(vector, layer, coef, dose, positions)
