"""Judging by batches in a study: what all networks have generated is asked for at once, not network by network.

A batch may take a day, so a study cannot wait for one per part file. Where the judge works by batches, a network whose rows are
generated is put off; when no other is left, everything is asked in one go, and the networks are visited again, with all answers
in the judge's cache. A study so waits for a few batches in all, however many checkpoints it has. Knows which prompts belong to
rows. Leaves rows and files to `run.py`, and batches to the judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import pandas as pd

from traitline.judges import Score
from traitline.judges.base import Purpose, Style
from traitline.study.elicit import score_table
from traitline.study.store import read_rows
from traitline.traits import Trait


@runtime_checkable
class BatchJudge(Protocol):
    """A judge that is better asked many things at once."""

    @property
    def batches(self) -> bool:
        """Whether it is to be asked so."""
        ...

    def prompts(
        self, trait: Trait, questions: Sequence[str], answers: Sequence[str], *, style: Style = "continuation"
    ) -> list[str]:
        """Return what `score` would ask."""
        ...

    def holds(self, prompts: Sequence[str]) -> bool:
        """Tell whether all of it is answered already."""
        ...

    def ask(self, prompts: Sequence[str]) -> None:
        """Have it answered, so that `score` finds the answers."""
        ...


class PutOff(Exception):  # noqa: N818
    """A network's rows are generated, and wait to be judged together with others."""


class Ahead:
    """What a run will have judged.

    Args:
        judge: the study's.
        traits: by name.
        wording: gives the strategy whose prompts a strategy's rows have.
        others: whether rows are also scored on the other traits' rubrics.
    """

    def __init__(self, judge: object, traits: Mapping[str, Trait], wording: Callable[[str], str], *, others: bool) -> None:
        self._judge = judge if isinstance(judge, BatchJudge) and judge.batches else None
        self._traits = dict(traits)
        self._wording = wording
        self._others = others
        self._asked: set[Path] = set()
        self._waiting: dict[str, None] = {}

    @property
    def wanted(self) -> bool:
        """Whether the judge works by batches."""
        return self._judge is not None

    def put_off(self, drafts: Sequence[Path]) -> None:
        """Note the drafts' questions for the next `ask`.

        Raises:
            PutOff: there were some that had not been asked.
        """
        new = [draft for draft in drafts if draft not in self._asked]
        if self._judge is None or not new:
            return
        listener = _Listener(self._judge)
        rows = pd.concat([read_rows(draft) for draft in new], ignore_index=True)
        score_table(rows, listener, self._traits, wording=self._wording, others=self._others)
        self._asked |= set(new)
        if not self._judge.holds(list(listener.prompts)):
            self._waiting |= listener.prompts
            raise PutOff

    def asked(self, drafts: Sequence[Path]) -> None:
        """Take the drafts' questions as asked, by another process."""
        self._asked |= set(drafts)

    def ask(self) -> None:
        """Have everything answered that was noted.

        Raises:
            JudgeError: the judge cannot be used; what was answered is kept.
        """
        if self._judge is not None and self._waiting:
            self._judge.ask(list(self._waiting))
        self._waiting = {}


class _Listener:
    """Takes the judge's place to hear what it would be asked."""

    def __init__(self, judge: BatchJudge) -> None:
        self._judge = judge
        self.prompts: dict[str, None] = {}
        self.name = ""

    def score(
        self,
        trait: Trait,
        questions: Sequence[str],
        answers: Sequence[str],
        *,
        style: Style = "continuation",
        purpose: Purpose = "evaluate",
    ) -> list[Score]:
        self.prompts |= dict.fromkeys(self._judge.prompts(trait, questions, answers, style=style))
        return [Score(None, None)] * len(answers)
