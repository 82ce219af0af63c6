"""Where a checkpoint is drawn: tokens on a log axis, broken for the untrained checkpoint at 0 and for later stages.

Knows tokens, stages and positions, nothing of any plotting library: figures and page draw the same axis from it. Later stages
add few tokens to very many, so on a log axis they would lie on one another: after a break they stand evenly spaced under
their own names. Where tokens are unknown, or there is nothing to put on a log axis, all checkpoints stand so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
MAX_TICKS = 12
EVEN = "checkpoint"
IN_TOKENS = "training tokens (log scale)"
TICK_SPACING = 0.17  # share of the axis
SLOT, SLOTS = 0.11, 0.75  # shares of the log axis that a later checkpoint gets, and all of them at most
MOST_LETTERS = 12


@dataclass(frozen=True, slots=True)
class StageBand:
    """A stage of training on the axis: its name and the two ends of its piece."""

    name: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class TrainingAxis:
    """The checkpoints in order of training and their places on the axis.

    Attributes:
        checkpoints: names, in order of training.
        tokens: cumulative tokens, NaN where unknown.
        positions: name -> place on the axis.
        ticks: (place, label), from left to right, of the log axis; of all checkpoints where there is none.
        gaps: places of the breaks: between 0 and the first trained checkpoint, before the later stages.
        title: what the axis shows.
        slots: (place, label) of the checkpoints that stand evenly spaced after the log axis.
        stages: the pieces that belong to each stage; none where stages are not told apart.
    """

    checkpoints: tuple[str, ...]
    tokens: dict[str, float]
    positions: dict[str, float]
    ticks: tuple[tuple[float, str], ...]
    gaps: tuple[float, ...]
    title: str
    slots: tuple[tuple[float, str], ...] = ()
    stages: tuple[StageBand, ...] = ()

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

    def moment(self, checkpoint: str) -> str:
        """Name a checkpoint in short: its label after the log axis, else its tokens, else its name."""
        slot = dict(self.slots).get(self.positions.get(checkpoint, math.nan))
        if slot is not None:
            return slot or checkpoint
        tokens = self.tokens.get(checkpoint, math.nan)
        return checkpoint if math.isnan(tokens) else tokens_text(tokens)


def training_axis(tokens: Mapping[str, float], stages: Mapping[str, str] | None = None) -> TrainingAxis:
    """Place checkpoints, given in their order of appearance with their tokens, on one axis.

    Args:
        tokens: name -> cumulative tokens, NaN where unknown.
        stages: name -> stage of training; where it is given, checkpoints of later stages, of unknown tokens or of the
            tokens of an earlier checkpoint stand after the log axis.
    """
    if stages is None:
        return _placed(list(tokens), [], tokens, {})

    def place(name: str) -> tuple[bool, float, bool]:
        count, stage = tokens[name], stages.get(name, "")
        if math.isnan(count):
            return True, 0.0, False
        return False, count, not (stage and name.startswith(stage))

    order = sorted(tokens, key=place)  # of the same tokens, a name that only points to another comes last
    named = _named(order, tokens, stages)
    first = next(iter(named.values()), "")
    early: list[str] = []
    for name in order:
        new = not early or tokens[name] > tokens[early[-1]]
        if named[name] == first and new and not math.isnan(tokens[name]):
            early.append(name)
    if len({tokens[name] for name in early if tokens[name] > 0}) < 2:
        early = []
    return _placed(early, [name for name in order if name not in early], tokens, named)


def tokens_text(tokens: float) -> str:
    """Word a count of tokens: 0, 250 k, 1.5 M, 6 T; "?" where it is unknown."""
    if math.isnan(tokens):
        return "?"
    size, unit = next(((size, unit) for size, unit in UNITS if tokens >= size), (1.0, ""))
    return f"{tokens / size:.3g} {unit}".rstrip()


def _named(order: Sequence[str], tokens: Mapping[str, float], stages: Mapping[str, str]) -> dict[str, str]:
    """Return the stage of every checkpoint: as given, else as its name begins, else that of the one before it."""
    found: dict[str, str] = {}
    for name in order:
        heads = [stage for stage in set(stages.values()) if stage and name.startswith(stage)]
        before = next(reversed(found.values()), "") if not math.isnan(tokens[name]) else ""
        found[name] = stages.get(name) or max(heads, key=len, default=before)
    return found


def _placed(early: Sequence[str], late: Sequence[str], tokens: Mapping[str, float], stages: Mapping[str, str]) -> TrainingAxis:
    """Put the early checkpoints on a log axis where they can be, the late ones evenly spaced after it."""
    known = {name: tokens[name] for name in early if not math.isnan(tokens[name])}
    trained = [count for count in known.values() if count > 0]
    order = sorted(early, key=lambda name: tokens[name]) if len(known) == len(early) else list(early)
    if len(known) < len(early) or len(set(trained)) < 2:
        order += late
        places = {name: float(i) for i, name in enumerate(order)}
        ticks = tuple((place, name) for name, place in places.items())
        bands = _bands(order, places, stages, ())
        return TrainingAxis(tuple(order), dict(tokens), places, _thinned(ticks), (), EVEN, stages=bands)
    low, high = math.log10(min(trained)), math.log10(max(trained))
    step = max(0.16 * (high - low), 0.12)
    places = {name: math.log10(known[name]) if known[name] > 0 else low - step for name in order}
    ticks = tuple((math.log10(count), tokens_text(count)) for count in _round_counts(low, high))
    gaps: tuple[float, ...] = ()
    if len(trained) < len(known):
        gaps = (low - step / 2,)
        ticks = ((low - step, "0"), *(tick for tick in ticks if tick[0] > gaps[0]))
    gap_after = high + 0.06 * (high - low)
    slot = min(SLOT, SLOTS / max(len(late), 1)) * (high - low)
    places |= {name: gap_after + 0.05 * (high - low) + slot * i for i, name in enumerate(late)}
    slots = tuple((places[name], label) for name, label in zip(late, _short(late, stages), strict=True))
    if late:
        gaps = (*gaps, gap_after)
        ticks = tuple(tick for tick in ticks if tick[0] <= high)
    names = (*order, *late)
    return TrainingAxis(names, dict(tokens), places, ticks, gaps, IN_TOKENS, slots, _bands(names, places, stages, gaps))


def _bands(
    order: Sequence[str], places: Mapping[str, float], stages: Mapping[str, str], gaps: Sequence[float]
) -> tuple[StageBand, ...]:
    """Return the pieces of the stages in order of training; none where there is only one."""
    runs: list[tuple[str, list[float]]] = []
    for name in order:
        if not runs or runs[-1][0] != stages.get(name, ""):
            runs.append((stages.get(name, ""), []))
        runs[-1][1].append(places[name])
    if len(runs) < 2:
        return ()
    borders = []
    for (_, left), (_, right) in itertools.pairwise(runs):
        inside = [gap for gap in gaps if left[-1] < gap < right[0]]
        borders.append(inside[0] if inside else (left[-1] + right[0]) / 2)
    width = places[order[-1]] - places[order[0]]
    ends = [places[order[0]] - 0.04 * width, *borders, places[order[-1]] + 0.04 * width]
    return tuple(StageBand(name, ends[i], ends[i + 1]) for i, (name, _) in enumerate(runs) if name)


def _short(names: Sequence[str], stages: Mapping[str, str]) -> list[str]:
    """Return short labels: the stage at its last checkpoint, nothing at those before, the name of one that bears no stage."""
    last = {stages.get(name, ""): name for name in names if stages.get(name) and name.startswith(stages[name])}
    labels = []
    for name in names:
        stage = stages.get(name, "")
        inside = bool(stage) and name.startswith(stage)
        label = (stage if last[stage] == name else "") if inside else name
        labels.append(label if len(label) <= MOST_LETTERS else f"{label[: MOST_LETTERS - 1]}…")
    return labels


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
