"""A grid: checkpoints of one lineage, chosen so that they lie about evenly on a logarithmic scale of tokens.

The untrained checkpoint, the first trained one, the end of every stage and the last one are always in it; what is left of the
number asked for is shared among the stretches between them. Knows nothing of how revisions are named: `rules.py` and
`lineage.py` say what there is to choose from, as a course, where a stage of thousands of checkpoints is asked, not listed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from traitline.errors import InputError
from traitline.lineages.lineage import Checkpoint
from traitline.lineages.stages import NameParts, StageRule


@dataclass(frozen=True, slots=True)
class Point:
    """A checkpoint and how far training had come there.

    Attributes:
        amount: tokens, or steps throughout where the tokens are not known.
        checkpoint: the checkpoint.
    """

    amount: int
    checkpoint: Checkpoint


@dataclass(frozen=True)
class Strand:
    """The checkpoints of one stage, by their rule.

    Attributes:
        rule: which steps were saved.
        start: amount at which its steps begin to count.
        unit: amount of one step.
        at: names the checkpoint of a step.
    """

    rule: StageRule
    start: int
    unit: int
    at: Callable[[int], Checkpoint]

    def point(self, step: int) -> Point:
        """Return the point of one step."""
        return Point(self.start + step * self.unit, self.at(step))

    def between(self, low: int, high: int) -> int:
        """Count the saved steps strictly between two amounts."""
        return self.rule.count(*self._steps(low, high))

    def near(self, amount: float, low: int, high: int) -> list[Point]:
        """Return the points strictly between two amounts that may be closest to a third."""
        first, last = self._steps(low, high)
        wanted = min(max(round((amount - self.start) / self.unit), first), last)
        return [self.point(step) for step in self.rule.nearest_steps(wanted, low=first, high=last)]

    def _steps(self, low: int, high: int) -> tuple[int, int]:
        """Return the steps between which exactly those steps lie that lie between two amounts."""
        return (low - self.start) // self.unit, -((self.start - high) // self.unit)


@dataclass(frozen=True)
class Course:
    """What a grid is chosen from.

    Attributes:
        anchors: what is always in it, in order.
        strands: stages that follow one another.
        listed: checkpoints named one by one.
        measure: what the amounts are: `tokens` or `steps`.
    """

    anchors: tuple[Point, ...]
    strands: tuple[Strand, ...] = ()
    listed: tuple[Point, ...] = ()
    measure: str = "tokens"

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """The amounts of neighbouring anchors, between which checkpoints can be chosen."""
        return [(low.amount, high.amount) for low, high in pairwise(self.anchors) if low.amount > 0]

    @property
    def most(self) -> int:
        """How many checkpoints there are to choose from."""
        return len(self.anchors) + sum(self.between(*gap) for gap in self.gaps)

    def amount(self, checkpoint: Checkpoint) -> int | None:
        """Return how far training had come at a checkpoint; None where that is not known."""
        points = (point.amount for point in (*self.listed, *self.anchors) if point.checkpoint.name == checkpoint.name)
        steps = ((one, one.rule.step_of(checkpoint.name)) for one in self.strands)
        found = (*points, *(one.point(step).amount for one, step in steps if step is not None))
        return next(iter(found), checkpoint.tokens if self.measure == "tokens" else None)

    def between(self, low: int, high: int) -> int:
        """Count what lies strictly between two amounts."""
        return sum(one.between(low, high) for one in self.strands) + len(self._listed(low, high))

    def nearest(self, amount: float, low: int, high: int) -> Point:
        """Return the point strictly between two amounts that is closest to a third on a logarithmic scale."""
        near = [point for one in self.strands for point in one.near(amount, low, high)]
        return min([*near, *self._listed(low, high)], key=lambda p: (abs(math.log(p.amount / amount)), p.amount))

    def _listed(self, low: int, high: int) -> list[Point]:
        return list({p.amount: p for p in reversed(self.listed) if low < p.amount < high}.values())


def anchored(
    ends: Iterable[Point], last: Point, strands: Sequence[Strand], listed: Sequence[Point], measure: str = "tokens"
) -> Course:
    """Make a course of which the ends of stages and the last checkpoint are known: the first ones are looked up."""
    course = Course((), tuple(strands), tuple(listed), measure)
    found = [one.point(0) for one in strands if one.start == 0 and one.rule.saved(0)]
    found += [point for point in listed if point.amount == 0]
    if course.between(0, last.amount):
        found = [*found[:1], course.nearest(1, 0, last.amount)]
    names: dict[str, Point] = {}
    for point in [*found, *(end for end in ends if end.amount <= last.amount), last]:
        names[point.checkpoint.name] = point
    return replace(course, anchors=tuple(sorted(names.values(), key=lambda p: p.amount)))


def listed_course(checkpoints: Sequence[Checkpoint], name: str) -> Course:
    """Make the course of a lineage that lists all its checkpoints, by tokens, or by the steps in their names.

    Raises:
        InputError: neither tokens nor steps are known of a checkpoint that is not the last.
    """
    amounts, measure = [one.tokens for one in checkpoints], "tokens"
    if None in amounts[:-1] and len({one.stage for one in checkpoints}) == 1:
        amounts, measure = [NameParts.of(one.name).step for one in checkpoints], "steps"
    if amounts[-1] is None:  # it comes after all others, however little
        amounts[-1] = max((amount for amount in amounts if amount is not None), default=0) + 1
    points = [Point(amount, one) for amount, one in zip(amounts, checkpoints, strict=True) if amount is not None]
    if len(points) < len(checkpoints):
        lost = next(one.name for one, amount in zip(checkpoints, amounts, strict=True) if amount is None)
        raise InputError(
            f"no grid can be chosen from lineage {name!r}: the tokens of {lost!r} are not known; name the checkpoints one by "
            "one, or give their tokens in the lineage's file"
        )
    return anchored(stage_ends(points), points[-1], (), points, measure)


def stage_ends(points: Sequence[Point]) -> list[Point]:
    """Return the last point of each stage, of points in order."""
    return [before for before, after in pairwise(points) if before.checkpoint.stage != after.checkpoint.stage]


def choose(course: Course, k: int, name: str) -> tuple[Checkpoint, ...]:
    """Choose `k` checkpoints of a course.

    Raises:
        InputError: fewer than must be in it, or more than there are.
    """
    least, most = len(course.anchors), course.most
    if k < least:
        held = ", ".join(point.checkpoint.name for point in course.anchors)
        raise InputError(
            f"a grid of {k} is too small for lineage {name!r}: it always holds the first checkpoint, the end of every stage "
            f"and the last ({held}); ask for at least {least}, or name the checkpoints one by one"
        )
    if k > most:
        raise InputError(
            f"a grid of {k} is too large for lineage {name!r}: {most:,} checkpoints are known to choose from; ask for at most "
            "that many, or name the checkpoints one by one"
        )
    gaps = course.gaps
    room = [course.between(*gap) for gap in gaps]
    widths = [math.log(high / low) for low, high in gaps]
    shares = [0] * len(gaps)
    for _ in range(k - least):
        open_ = [i for i, share in enumerate(shares) if share < room[i]]
        shares[max(open_, key=lambda i: (widths[i] / (shares[i] + 1), -i))] += 1
    chosen = [*course.anchors]
    for (low, high), share in zip(gaps, shares, strict=True):
        chosen += _spread(course, low, high, share)
    return tuple(point.checkpoint for point in sorted(chosen, key=lambda p: p.amount))


def _spread(course: Course, low: int, high: int, n: int) -> list[Point]:
    """Spread `n` points between two amounts, evenly where checkpoints are dense, and one after the other where they are not."""
    found: list[Point] = []
    for left in range(n, 0, -1):
        target, top = low * (high / low) ** (1 / (left + 1)), high
        while course.between((point := course.nearest(target, low, top)).amount, high) < left - 1:
            top = point.amount
        found.append(point)
        low = point.amount
    return found
