"""Where a checkpoint is drawn: tokens on a log axis, with a broken piece for the untrained checkpoint at 0.

Knows tokens and positions, nothing of any plotting library: figures and page draw the same axis from it. Where tokens are
unknown, or there is nothing to put on a log axis, checkpoints stand evenly spaced under their names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
MAX_TICKS = 6
EVEN = "checkpoint"
TICK_SPACING = 0.17  # share of the axis


@dataclass(frozen=True, slots=True)
class TrainingAxis:
    """The checkpoints in order of training and their places on the axis.

    Attributes:
        checkpoints: names, in order of training.
        tokens: cumulative tokens, NaN where unknown.
        positions: name -> place on the axis.
        ticks: (place, label), from left to right.
        gap: place of the break between 0 and the first trained checkpoint; None without one.
        title: what the axis shows.
    """

    checkpoints: tuple[str, ...]
    tokens: dict[str, float]
    positions: dict[str, float]
    ticks: tuple[tuple[float, str], ...]
    gap: float | None
    title: str

    @property
    def in_tokens(self) -> bool:
        """Whether places stand for tokens; else the checkpoints are evenly spaced."""
        return self.title != EVEN

    @property
    def limits(self) -> tuple[float, float]:
        """The two ends of the axis, with a margin."""
        places = [*self.positions.values(), 0.0] if not self.positions else list(self.positions.values())
        margin = 0.04 * ((max(places) - min(places)) or 1.0)
        return min(places) - margin, max(places) + margin


def training_axis(tokens: Mapping[str, float]) -> TrainingAxis:
    """Place checkpoints, given in their order of appearance with their tokens, on one axis."""
    known = {name: count for name, count in tokens.items() if not math.isnan(count)}
    trained = [count for count in known.values() if count > 0]
    order = sorted(tokens, key=lambda name: tokens[name]) if len(known) == len(tokens) else list(tokens)
    if len(known) < len(tokens) or len(set(trained)) < 2:
        places = {name: float(i) for i, name in enumerate(order)}
        ticks = tuple((place, name) for name, place in places.items())
        return TrainingAxis(tuple(order), dict(tokens), places, _thinned(ticks), None, EVEN)
    low, high = math.log10(min(trained)), math.log10(max(trained))
    step = max(0.16 * (high - low), 0.12)
    places = {name: math.log10(known[name]) if known[name] > 0 else low - step for name in order}
    ticks = tuple((math.log10(count), tokens_text(count)) for count in _round_counts(low, high))
    gap = None
    if len(trained) < len(known):
        gap = low - step / 2
        ticks = ((low - step, "0"), *(tick for tick in ticks if tick[0] > gap))
    return TrainingAxis(tuple(order), dict(tokens), places, ticks, gap, "training tokens (log scale)")


def tokens_text(tokens: float) -> str:
    """Word a count of tokens: 0, 250 k, 1.5 M, 6 T; "?" where it is unknown."""
    if math.isnan(tokens):
        return "?"
    size, unit = next(((size, unit) for size, unit in UNITS if tokens >= size), (1.0, ""))
    return f"{tokens / size:.3g} {unit}".rstrip()


def _round_counts(low: float, high: float) -> list[float]:
    """Return round counts between two powers of ten, powers of ten first, none too near another to be read."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    chosen: list[float] = []
    for step in (1, 2, 5, 3):
        for count in (step * 10.0**decade for decade in decades):
            place = math.log10(count)
            apart = all(abs(place - math.log10(other)) >= TICK_SPACING * (high - low) for other in chosen)
            if low - 0.02 <= place <= high + 0.02 and apart:
                chosen.append(count)
    return sorted(chosen) if len(chosen) >= 2 else [10.0**low, 10.0**high]


def _thinned(ticks: tuple[tuple[float, str], ...]) -> tuple[tuple[float, str], ...]:
    """Keep at most `MAX_TICKS` labels, the last among them."""
    every = max(1, math.ceil(len(ticks) / MAX_TICKS))
    return tuple(reversed(tuple(reversed(ticks))[::every]))
