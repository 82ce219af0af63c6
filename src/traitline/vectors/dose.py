"""How strongly a vector is applied: (vector, layer, coefficient) -> the delta for one target.

Three doses. `norm` scales the unit vector by the target's own activation norm at that layer, so that a coefficient means the
same for every checkpoint; `raw` multiplies the vector as it is; both are registered functions. `kl` takes its coefficient in
nats: the smallest norm dose that moves the target's next-token distribution by so much, which has to be looked for at the
target itself. Leaves where to look to `search.py`, adding the delta to `models/generate.py`, and measuring what it moves to
`models/divergence.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal, Protocol, get_args

import numpy as np

from traitline.errors import InputError, nearest
from traitline.models.divergence import Moved
from traitline.models.generate import Intervention, Positions
from traitline.vectors.search import LARGEST, Curve, Found, Search, coefficient, place_of, search
from traitline.vectors.vector import LAST_AFTER_NORM, Floats, PersonaVector

Dose = Callable[[Floats, float, float], Floats]
"""(direction [hidden], coefficient, the target's activation norm at that layer) -> delta [hidden]."""
Statistic = Literal["p95", "mean"]
"""What of the KL at all positions has to reach the value asked for: the 95th percentile, or the mean."""
Reach = Literal["complete", "unreachable"]

KL = "kl"
FEWEST_NATS = 1e-3
"""The smallest value of KL that can be asked for; half precision rounds what is much smaller away."""


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
"""The doses that follow from a coefficient and the target's activation norm; `kl` does not."""


def dose_function(name: str) -> Dose:
    """Return a dose by name.

    Raises:
        InputError: no such dose, or `kl`, which is no function of a coefficient and a norm.
    """
    if name == KL:
        raise InputError("a kl dose is looked for at the network that is steered; see match_kl")
    if name not in DOSES:
        raise InputError(f"no dose is called {name!r}; {nearest(name, [*DOSES, KL])}")
    return DOSES[name]


class Meter(Protocol):
    """Who measures by how much interventions move a network's next-token distribution."""

    def measure(self, steers: Sequence[Intervention]) -> list[Moved]:
        """Return by how much each of them does, in order."""


@dataclass(frozen=True, slots=True, eq=False)
class Push:
    """A direction at one network, and how far it is to move that network's next-token distribution.

    Attributes:
        direction: of any length but zero, [hidden].
        layer: whose block output it is added to, 1..L.
        activation_norm: of the network at that layer.
        nats: the values of KL to reach; negative ones against the direction.
        positions: where it is added.
    """

    direction: Floats
    layer: int
    activation_norm: float
    nats: tuple[float, ...]
    positions: Positions = "response"

    def at(self, coef: float) -> Intervention:
        """Return what a norm dose of `coef` does."""
        return Intervention(self.layer, norm_dose(self.direction, coef, self.activation_norm), self.positions)


@dataclass(frozen=True, slots=True)
class Match:
    """The norm dose that reaches one value of KL.

    Attributes:
        nats: the value asked for; negative against the direction.
        coef: the norm dose, with its sign; None where none from `search.SMALLEST` to `LARGEST` does.
        moved: the KL reached; where it is `unreachable`, the largest that was found.
        status: `complete` or `unreachable`.
        power: of the coefficient, that KL grows with there, about.
    """

    nats: float
    coef: float | None
    moved: Moved
    status: Reach
    power: float = 2.0


def match_kl(
    pushes: Sequence[Push], meter: Meter, statistic: Statistic = "p95", *, like: Sequence[Sequence[Match]] = ()
) -> list[list[Match]]:
    """Return, per push, the smallest norm dose that reaches each of its values of KL.

    See `search.search` for what "smallest" can mean where KL does not grow with the coefficient. All pushes are measured
    together, so that a network runs once for each step of all of them.

    Args:
        pushes: what to find coefficients for.
        meter: the network at hand.
        statistic: what has to reach the value: `p95` or `mean` over positions.
        like: per push, the matches of a similar one, near which the search begins, to save time.

    Raises:
        InputError: a direction that is zero, a value under `FEWEST_NATS` or not finite, or an unknown statistic.
    """
    if statistic not in get_args(Statistic):
        raise InputError(f"KL is told by its {' or '.join(get_args(Statistic))}, not {statistic!r}")
    for push in pushes:
        for nats in push.nats:
            _check_nats(nats)
    known: dict[tuple[int, int, int], Moved] = {}  # (push, sign, place) -> what was measured
    searches: dict[tuple[int, int], Search] = {}
    for i, push in enumerate(pushes):
        for sign in (1, -1):
            values = sorted({abs(nats) for nats in push.nats if nats * sign > 0})
            if values:
                searches[i, sign] = search(values, _curve(like[i] if like else ()))
    asked = {key: next(one) for key, one in searches.items()}
    found: dict[tuple[int, int], dict[float, Found]] = {}
    while asked:
        steps = [(i, sign, place) for (i, sign), place in asked.items()]
        measured = meter.measure([pushes[i].at(sign * coefficient(place)) for i, sign, place in steps])
        known |= dict(zip(steps, measured, strict=True))
        for i, sign, place in steps:
            try:
                asked[i, sign] = searches[i, sign].send(getattr(known[i, sign, place], statistic))
            except StopIteration as stop:
                del asked[i, sign]
                found[i, sign] = stop.value
    matches = []
    for i, push in enumerate(pushes):
        signs = [1 if nats > 0 else -1 for nats in push.nats]
        tried = {sign: [moved for (j, s, _), moved in known.items() if (j, s) == (i, sign)] for sign in set(signs)}
        places = [found[i, sign][abs(nats)] for nats, sign in zip(push.nats, signs, strict=True)]
        matches.append(
            [
                _unreached(nats, tried[sign], statistic)
                if one is None
                else Match(nats, sign * coefficient(one[0]), known[i, sign, one[0]], "complete", one[1])
                for nats, sign, one in zip(push.nats, signs, places, strict=True)
            ]
        )
    return matches


def _check_nats(nats: float) -> None:
    if not FEWEST_NATS <= abs(nats) < inf:
        raise InputError(f"a kl dose is {FEWEST_NATS:g} nats or more (negative: against the vector), not {nats}")


def _curve(matches: Sequence[Match]) -> Curve:
    """Return the curve through the matches of one direction, those against it left out."""
    kept = sorted((one.nats, place_of(one.coef), one.power) for one in matches if one.coef is not None and one.nats > 0)
    return Curve(tuple((nats, place) for nats, place, _ in kept), (kept[0][2], kept[-1][2])) if kept else Curve()


def _unreached(nats: float, tried: Sequence[Moved], statistic: Statistic) -> Match:
    largest = max(tried, key=lambda moved: getattr(moved, statistic) if isfinite(getattr(moved, statistic)) else -inf)
    return Match(nats, None, largest, "unreachable")


@dataclass(frozen=True, slots=True, eq=False)
class Steer:
    """A vector with the layer, coefficient, dose and positions it is to be applied with."""

    vector: PersonaVector
    layer: int
    coef: float
    dose: str = "norm"
    positions: Positions = "response"

    def resolve(self, activation_norms: Floats, meter: Meter | None = None) -> Intervention:
        """Return the intervention for a target.

        Args:
            activation_norms: the target's, [layers + 1].
            meter: the target, as what `models.divergence.Divergence` makes of it; a kl dose alone needs it.

        Raises:
            InputError: the target has another number of layers, the vector is zero at this layer, or no coefficient moves the
                target by the KL asked for.
        """
        if len(activation_norms) != self.vector.layers + 1:
            raise InputError(
                f"the vector has {self.vector.layers} layers, the target {len(activation_norms) - 1}; "
                "a vector fits only models of its own depth"
            )
        direction, norm = self.vector.at(self.layer), float(activation_norms[self.layer])
        if self.dose != KL:
            return Intervention(self.layer, dose_function(self.dose)(direction, self.coef, norm), self.positions)
        if meter is None:
            raise InputError("a kl dose is looked for at the network that is steered; give resolve its Divergence as meter")
        push = Push(direction, self.layer, norm, (self.coef,), self.positions)
        found = match_kl([push], meter)[0][0]
        if found.coef is None:
            raise InputError(
                f"at layer {self.layer} no coefficient up to {LARGEST:g} activation norms moves the next-token distribution by "
                f"{abs(self.coef):g} nats (95th percentile); the most is {found.moved.p95:.2g}. Ask for less, or steer at "
                "another layer"
            )
        return push.at(found.coef)


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
        coef: the coefficient; negative steers away from the trait. With a kl dose, by how many nats the next-token
            distribution is moved on neutral text, in the 95th percentile over positions.
        dose: `norm`, `raw` or `kl`.
        positions: `response`, `prompt` or `all`.
        allow_after_norm: steer with a last layer that was read after the final norm all the same.

    Raises:
        InputError: a layer out of range, an unknown dose or positions, or a last layer read after the final norm.
    """
    vector.at(layer)
    if dose == KL:
        _check_nats(coef)
    else:
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
