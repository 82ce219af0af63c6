"""Several runs beside each other: one axis for all, the curves that belong together, and what differs in results and settings.

Knows how runs are named, which of their curves answer the same question, and how a difference is told. Runs may be of
different lineages: what joins them is tokens. Leaves the page to `comparison_page.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from traitline.errors import InputError
from traitline.report.axis import TrainingAxis, tokens_text, training_axis
from traitline.report.made import flat
from traitline.report.panels import LABELS, Panel, panels, targets, verdict_of
from traitline.report.tables import Run, numbers, read_run, unique

LAST = "the last checkpoint"
SAME_TOKENS = 0.01  # share of tokens by which two checkpoints may differ and still be set against each other


@dataclass(frozen=True)
class Question:
    """What is asked of every run: emergence, or transfer to one target, of one trait and strategy.

    Attributes:
        target: empty for emergence; a target's name, or `LAST`, for transfer.
        trait: its name.
        strategy: its name.
        answers: one panel per run, None where a run has none.
    """

    target: str
    trait: str
    strategy: str
    answers: tuple[Panel | None, ...]

    @property
    def what(self) -> str:
        """The question as readers see it."""
        return f"transfer to {self.target}" if self.target else "emergence"

    @property
    def label(self) -> str:
        """Trait and strategy as readers see them."""
        return f"{self.trait}, {LABELS.get(self.strategy, self.strategy)}"


@dataclass(frozen=True)
class Difference:
    """One checkpoint of each run set against the first run's.

    Attributes:
        question: what is asked.
        moment: the checkpoint, in words.
        rows: one row of the effect table per run, None where there is none.
        final: whether these are the runs' last checkpoints.
    """

    question: Question
    moment: str
    rows: tuple[pd.Series | None, ...]
    final: bool

    def apart(self, i: int) -> tuple[float, float, float]:
        """Return run i's delta minus the first run's, and its 95 % interval as if the runs were independent; NaN if unknown."""
        first, other = self.rows[0], self.rows[i]
        if first is None or other is None:
            return math.nan, math.nan, math.nan
        difference = _number(other, "delta_trait") - _number(first, "delta_trait")
        below = math.hypot(_arm(other, "ci_low"), _arm(first, "ci_high"))
        above = math.hypot(_arm(other, "ci_high"), _arm(first, "ci_low"))
        return difference, difference - below, difference + above

    @property
    def states(self) -> tuple[str, ...]:
        """Whether each run's vector steers, as a word; empty where it was not measured."""
        return tuple("" if row is None else state_of(row) for row in self.rows)

    @property
    def differs(self) -> bool:
        """Whether runs that measured it come to different verdicts."""
        return len({state for state in self.states if state}) > 1


@dataclass(frozen=True)
class Comparison:
    """Runs beside each other.

    Attributes:
        runs: as the report sees them, in the order they were given.
        names: what each is called; all different.
    """

    runs: tuple[Run, ...]
    names: tuple[str, ...]

    @cached_property
    def axis(self) -> TrainingAxis:
        """One axis for the checkpoints of all runs: tokens if every run knows its own, else the checkpoints in their order."""
        if self.in_tokens:
            return training_axis(
                {self.key(i, name): run.axis.tokens[name] for i, run in enumerate(self.runs) for name in run.axis.checkpoints}
            )
        order: list[str] = []
        for run in self.runs:
            place = 0
            for name in run.axis.checkpoints:
                if name not in order:
                    order.insert(place, name)
                place = order.index(name) + 1
        return training_axis(dict.fromkeys(order, math.nan))

    @cached_property
    def in_tokens(self) -> bool:
        """Whether every run knows the tokens of all its checkpoints."""
        known = [run.axis.tokens.get(name, math.nan) for run in self.runs for name in run.axis.checkpoints]
        return bool(known) and all(map(math.isfinite, known)) and len({count for count in known if count > 0}) > 1

    def key(self, i: int, checkpoint: str) -> str:
        """Return the name of a run's checkpoint on the common axis."""
        return f"{self.names[i]}: {checkpoint}" if self.in_tokens else checkpoint

    @cached_property
    def questions(self) -> list[Question]:
        """Every question that any run answers, those of emergence first."""
        cut: dict[tuple[str, str, str], list[Panel | None]] = {}
        for i, run in enumerate(self.runs):
            found = [("", panel) for panel in panels(run, "emergence")]
            found += [(_common(run, name), panel) for name in targets(run) for panel in panels(run, "transfer", target=name)]
            for target, panel in found:
                if panel.main is not None:
                    cut.setdefault((target, panel.trait, panel.strategy), [None] * len(self.runs))[i] = panel
        order = unique(target for target, *_ in cut)
        traits = unique(trait for run in self.runs for trait in run.traits)
        place = {key: (order.index(key[0]), traits.index(key[1])) for key in cut}
        return [Question(*key, tuple(cut[key])) for key in sorted(cut, key=lambda key: place[key])]

    @cached_property
    def differences(self) -> list[Difference]:
        """The runs' last checkpoints set against each other, then every checkpoint that they share."""
        last = [found for question in self.questions if (found := self._final(question)) is not None]
        return last + [found for question in self.questions for found in self._shared(question)]

    @cached_property
    def settings(self) -> list[tuple[str, tuple[str, ...]]]:
        """The settings that differ: dotted name, and each run's value, `absent` where it has none."""
        each = [flat(run.settings) for run in self.runs]
        names = unique(name for found in each for name in found)
        rows = [(name, tuple(found.get(name, "absent") for found in each)) for name in names]
        return [(name, values) for name, values in rows if len(set(values)) > 1]

    def sentences(self, question: Question) -> tuple[str, ...]:
        """Return each run's verdict in words; empty where it has none."""
        kind = "transfer" if question.target else "emergence"
        said = []
        for run in self.runs:
            own = next((name for name in targets(run) if _common(run, name) == question.target), None)
            found = verdict_of(run, kind, question.trait, question.strategy, own) if own or not question.target else None  # type: ignore[arg-type]
            said.append("" if found is None else str(found["sentence"]))
        return tuple(said)

    def _final(self, question: Question) -> Difference | None:
        rows = tuple(None if curve is None or curve.empty else curve.iloc[-1] for curve in map(_main_curve, question.answers))
        return Difference(question, "last", rows, final=True) if any(row is not None for row in rows) else None

    def _shared(self, question: Question) -> list[Difference]:
        """Set the checkpoints against each other that several runs have: same tokens, else the same name."""
        groups: list[tuple[float | str, dict[int, pd.Series]]] = []
        for i, curve in enumerate(map(_main_curve, question.answers)):
            for _, row in curve.iterrows() if curve is not None else ():
                where = _number(row, "tokens") if self.in_tokens else str(row["vector_checkpoint"])
                same = next((own for at, own in groups if i not in own and _same(at, where)), None)
                if same is None:
                    groups.append((where, {i: row}))
                else:
                    same[i] = row
        if self.in_tokens:
            groups.sort(key=lambda group: float(group[0]))
        shared = [(at, own) for at, own in groups if len(own) > 1]
        every = range(len(self.runs))
        return [Difference(question, _moment(at), tuple(own.get(i) for i in every), final=False) for at, own in shared]


def compare(paths: Sequence[Path]) -> Comparison:
    """Read runs to set beside each other, in the order given.

    Raises:
        InputError: fewer than two runs, one of them twice, one that does not exist or has no tables.
    """
    if len(paths) < 2:
        raise InputError("a comparison needs two run directories or more; give another one")
    resolved = [path.resolve() for path in paths]
    for path in paths:
        if resolved.count(path.resolve()) > 1:
            raise InputError(f"run directory {str(path)!r} is given twice; give each run once")
    runs = tuple(read_run(path) for path in paths)
    for run in runs:
        if not run.axis.checkpoints:
            raise InputError(f"{str(run.path)!r} has no tables to compare; give the folder of a study that has been run")
    return Comparison(runs, run_names(runs))


def run_names(runs: Sequence[Run]) -> tuple[str, ...]:
    """Name runs so that no two are called the same: by study, else by folder, else by as many folders as it takes."""
    studies = tuple(run.name for run in runs)
    if len(set(studies)) == len(runs):
        return studies
    parts = [run.path.resolve().parts for run in runs]
    deep = 1
    while len({own[-deep:] for own in parts}) < len(runs):
        deep += 1
    return tuple("/".join(own[-deep:]).replace("//", "/") for own in parts)


def state_of(row: pd.Series) -> str:
    """Say of a row of an effect table whether the vector steers."""
    if row["status"] != "complete":
        return str(row["status"])
    return "steerable" if bool(row.get("steerable", False)) else "not_steerable"


def _common(run: Run, target: str) -> str:
    """Return the name by which a target is found in other runs."""
    return LAST if run.axis.checkpoints and target == run.axis.checkpoints[-1] else target


def _main_curve(panel: Panel | None) -> pd.DataFrame | None:
    return None if panel is None or panel.main is None else panel.curves[panel.main]


def _same(a: float | str, b: float | str) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    return abs(a - b) <= SAME_TOKENS * max(a, b)


def _moment(at: float | str) -> str:
    return at if isinstance(at, str) else f"{tokens_text(at)} tokens"


def _number(row: pd.Series, name: str) -> float:
    return float(numbers(row.to_frame().T, name).iloc[0])


def _arm(row: pd.Series, end: str) -> float:
    return _number(row, end) - _number(row, "delta_trait")
