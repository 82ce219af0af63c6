"""Where to look for the smallest coefficient whose KL reaches a value: numbers alone.

Knows a curve of which single points can be measured, at a price: it should grow like a power of the coefficient, and need not.
Coefficients are looked for among the powers of 2 ** (1 / STEPS), so that rounding in a sum seldom decides which one is found.
Leaves measuring, and doing so for many searches at once, to `dose.py`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, inf, isfinite, log2

STEPS = 64
FIRST, LARGEST, SMALLEST = 2.0**-3, 2.0**3, 2.0**-20
"""The coefficient that a search begins with, and the largest and the smallest one that are tried."""
CLOSE = 1.1
"""A coefficient whose KL is at most this times the value asked for needs no smaller one."""

Found = tuple[int, float] | None
"""The place of a coefficient, and the power of it that KL grows with there; None where there is none."""
Search = Generator[int, float, dict[float, Found]]


def coefficient(place: int) -> float:
    """Return the coefficient at a place."""
    return float(2.0 ** (place / STEPS))


def place_of(coef: float) -> int:
    """Return the place next to a coefficient."""
    return round(STEPS * log2(coef))


@dataclass(frozen=True, slots=True)
class Curve:
    """How KL is expected to grow: points (KL, place) in rising order, and the powers of the coefficient beyond the two ends."""

    points: tuple[tuple[float, int], ...] = ()
    powers: tuple[float, float] = (2.0, 2.0)

    def at(self, kl: float) -> float:
        """Return the place where a KL should be reached; without points, up to a constant."""
        for (low, left), (high, right) in pairwise(self.points):
            if low <= kl <= high:
                return left + (right - left) * log2(kl / low) / log2(high / low)
        below = bool(self.points) and kl < self.points[0][0]
        nats, place = self.points[0 if below else -1] if self.points else (1.0, 0)
        return place + STEPS * log2(kl / nats) / self.powers[0 if below else 1]


def search(values: Sequence[float], curve: Curve) -> Search:
    """Look for the smallest coefficient that reaches each value: yields the place to measure next, and is sent its KL.

    It goes up from a small coefficient, or from where a curve through points expects the value, at most doubling it until the
    value is reached, and narrows the last step down by secants on logarithms: to one place, about 1 % of the coefficient, or
    to a KL of at most `CLOSE` times the value. A value that is reached only between two steps, or only below the first one,
    goes unseen.

    Args:
        values: of KL, above 0, rising.
        curve: how it is expected to grow.

    Returns:
        Value -> what was found: None where no coefficient reaches it, or where even the smallest does too much.
    """
    seen: dict[int, float] = {}
    found: dict[float, Found] = {}
    for value in values:
        tries = 0
        while True:
            above = min((place for place, kl in seen.items() if kl >= value), default=None)
            below = max((place for place in seen if above is None or place < above), default=None)
            if above is not None and (seen[above] <= CLOSE * value or above - 1 == below or above <= place_of(SMALLEST)):
                fits = isfinite(seen[above]) and above > place_of(SMALLEST)
                found[value] = (above, _power(above, seen, curve)) if fits else None
                break
            if above is None and below is not None and below >= place_of(LARGEST):
                found[value] = None
                break
            place = _next(value, seen, below, above, tries, curve)
            kl = yield place
            seen[place] = kl if isfinite(kl) else inf
            tries += 1
    return found


def _next(value: float, seen: dict[int, float], below: int | None, above: int | None, tries: int, curve: Curve) -> int:
    """Return the place to measure next, given the highest one that does not reach a value and the lowest one that does."""
    aim = (1 + CLOSE) / 2 * value
    least = min(1 << min(tries, 6), STEPS)  # so that no plateau beside the value is crept along
    if below is None:
        if above is None:
            place = round(curve.at(aim)) if curve.points else place_of(FIRST)
        else:
            step = ceil(curve.at(aim) - curve.at(seen[above])) if isfinite(seen[above]) else -STEPS
            place = above + min(max(step, -STEPS), -least)
        return min(max(place, place_of(SMALLEST)), place_of(LARGEST))
    if above is None:
        before = max((place for place in seen if place < below), default=None)
        line = curve if before is None or (curve.points and tries < 2) else Curve(powers=(_slope(before, below, seen),) * 2)
        step = ceil(line.at(aim) - line.at(seen[below])) if seen[below] > 0 else STEPS
        return min(below + min(max(step, least), STEPS), place_of(LARGEST))
    place = (below + above) // 2
    if isfinite(seen[above]) and seen[below] > 0 and tries % 3:
        line = Curve(powers=(_slope(below, above, seen),) * 2)
        place = below + ceil(line.at(aim) - line.at(seen[below]))
    return min(max(place, below + 1), above - 1)


def _power(place: int, seen: dict[int, float], curve: Curve) -> float:
    """Return which power of the coefficient the KL grows with at a place, as far as its neighbours tell."""
    lower, higher = max((p for p in seen if p < place), default=None), min((p for p in seen if p > place), default=None)
    if lower is not None:
        return _slope(lower, place, seen)
    return curve.powers[0] if higher is None else _slope(place, higher, seen)


def _slope(low: int, high: int, seen: dict[int, float]) -> float:
    """Return the power between two places; 2, as near 0, where that is unclear."""
    if not 0 < seen[low] < seen[high] < inf:
        return 2.0
    return min(max(STEPS * log2(seen[high] / seen[low]) / (high - low), 0.5), 16.0)
