"""A lineage as a picture in a few lines of text: its stages along a logarithmic axis, and where the chosen checkpoints lie.

Knows what is drawn in which column. Leaves characters, colours and the descendants to the command line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from traitline.lineages.grid import Course, listed_course
from traitline.lineages.lineage import Checkpoint, Lineage

UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))
NARROWEST = 10
"""Columns below which an axis tells nothing."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One stage.

    Attributes:
        stage: its name; empty where it has none.
        first: the column where it begins.
        last: the column where it ends.
        marks: the columns of chosen checkpoints, in order; -1 for the untrained one, which lies before the axis.
    """

    stage: str
    first: int
    last: int
    marks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """What is drawn.

    Attributes:
        axis: one line of labels, as wide as asked for.
        lanes: the stages in order.
        measure: what the axis shows: `tokens` or `steps`.
        known: how many checkpoints there are to choose from.
    """

    axis: str
    lanes: tuple[Lane, ...]
    measure: str
    known: int


def short(amount: int) -> str:
    """Return an amount with two digits and a unit: `4.2B`."""
    for size, unit in UNITS:
        if amount >= size:
            value = amount / size
            return f"{value:.1f}{unit}".replace(".0", "") if value < 10 else f"{value:.0f}{unit}"
    return str(amount)


def draw(lineage: Lineage, chosen: Sequence[Checkpoint], width: int) -> Timeline:
    """Place a lineage's stages and chosen checkpoints on an axis.

    Args:
        lineage: the lineage.
        chosen: the checkpoints to mark.
        width: columns of the axis; at least 10 are taken.

    Raises:
        InputError: neither tokens nor steps are known of a checkpoint.
    """
    course = lineage.revisions.course() if lineage.revisions else listed_course(lineage.checkpoints, lineage.name)
    reach = _reach(course)
    known = [amount for pair in reach.values() for amount in pair]
    low, high = min((amount for amount in known if amount > 0), default=1), max([*known, 1])
    columns = max(width, NARROWEST) - 1

    def column(amount: int) -> int:
        return 0 if high <= low or amount <= low else round(columns * math.log(amount / low) / math.log(high / low))

    marks: dict[str, list[int]] = {stage: [] for stage in reach}
    for one in chosen:
        amount = course.amount(one)
        if amount is not None:
            marks.setdefault(one.stage or "", []).append(-1 if amount == 0 else column(amount))
    lanes = []
    for stage, places in marks.items():
        first, last = map(column, reach.get(stage, (low, low)))
        lanes.append(Lane(stage, first, last, tuple(sorted(set(places)))))
    return Timeline(_axis(low, high, columns + 1, column), tuple(lanes), course.measure, max(course.most, len(chosen)))


def _reach(course: Course) -> dict[str, tuple[int, int]]:
    """Return where each stage begins and ends, in order."""
    spans: dict[str, tuple[int, int]] = {}
    for one in course.strands:
        first = one.point(one.rule.nearest_steps(one.rule.first_step or 1, 1)[0]).amount
        spans[one.rule.name] = (
            max(one.start, min(first, one.point(one.rule.last_step).amount)),
            one.point(one.rule.last_step).amount,
        )
    for point in (*course.listed, *course.anchors):
        stage, amount = point.checkpoint.stage or "", point.amount
        low, high = spans.get(stage, (amount, amount))
        spans[stage] = (min(low or amount, amount or low), max(high, amount))
    return spans


def _axis(low: int, high: int, width: int, column: Callable[[int], int]) -> str:
    """Label both ends, and the powers of ten between them for which there is room."""
    line = [" "] * width

    def put(text: str, start: int) -> None:
        start = max(0, min(start, width - len(text)))
        if all(c == " " for c in line[max(0, start - 1) : start + len(text) + 1]):
            line[start : start + len(text)] = text

    put(short(low), 0)
    if high > low:
        put(short(high), width)
    for power in range(len(str(low)), len(str(high))):
        put(short(10**power), column(10**power) - len(short(10**power)) // 2)
    return "".join(line)
