"""Two judges on the same responses: whose scores are stored, whose are made now, and the rows with both.

Knows how a judge is named where judges are compared: any judge, a file of labels, or scores that a table holds already. Every
distinct text is judged once. Leaves the responses to `responses.py`, and what the scores tell to `traitline.analysis`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from traitline.errors import InputError
from traitline.judges import Judge, Score, make_judge
from traitline.judges.base import StatesError
from traitline.judges.labels import LabelsJudge
from traitline.study.answer_tables import numbers
from traitline.study.responses import Responses

COLUMN = "column"
ROWS_AT_ONCE = 512
Settle = Callable[[str, int], None]
"""Told who judges and how many rows are settled by it."""
_TEXT = ["trait", "style", "purpose", "question", "response"]


@dataclass(frozen=True, eq=False)
class Scorer:
    """One of the judges that are compared.

    Attributes:
        name: what results call it.
        judge: the judge; None where its scores are in the rows.
        columns: where they are: the columns of trait score and coherence.
        errors: its own delta error by trait, in points, as far as it states any.
    """

    name: str
    judge: Judge | None = None
    columns: tuple[str, str] | None = None
    errors: dict[str, float] = field(default_factory=dict)

    @property
    def stored(self) -> bool:
        """Whether the rows hold its scores already."""
        return self.columns is not None

    @property
    def labels(self) -> LabelsJudge | None:
        """The file of labels, if it is one."""
        return self.judge if isinstance(self.judge, LabelsJudge) else None


def scorer(name: str, responses: Responses, cache: Path | None = None) -> Scorer:
    """Find a judge by its name.

    `column:NAME` is scores that the rows hold: trait scores in that column, coherence in the column called like it with
    `coherence` for `trait_score` (or `NAME_coherence`). A judge whose name stands in the rows' column `judge` is not asked
    again: its scores are there.

    Args:
        name: as in a study, `labels:FILE` or `column:NAME`.
        responses: the rows.
        cache: where a judge that keeps its judgements keeps them.

    Raises:
        InputError: no such judge or column.
        JudgeError: the judge cannot be used.
    """
    kind, _, rest = name.partition(":")
    if kind == COLUMN:
        return Scorer(name, columns=_columns(rest, responses.rows))
    who = pd.unique(responses.rows["judge"].dropna())
    judge = None if name in who else make_judge(name, cache)
    known = name if judge is None else judge.name
    if len(who) == 1 and known == who[0] and "judge" in responses.rows:
        return Scorer(known, columns=("trait_score", "coherence"), errors=responses.judge_errors())
    judge = judge or make_judge(name, cache)
    return Scorer(known, judge, errors=_errors(judge, responses))


def score(responses: Responses, who: Scorer, rows: pd.DataFrame, settle: Settle = lambda _what, _rows: None) -> pd.DataFrame:
    """Return the scores of rows: `trait_score`, `coherence` (NaN: missing), `missing_reason`, indexed like the rows.

    Args:
        responses: where the rows are from.
        who: whose scores.
        rows: those to score.
        settle: told of progress, in rows.

    Raises:
        InputError: the judge does not know a trait, or a stored score is no number.
        JudgeError: the judge cannot be used; what it kept is kept.
    """
    if who.columns is not None:
        return _stored(who.columns, rows)
    if who.labels is not None:
        return _frame(who.labels.score_rows(rows), rows.index)
    texts = rows[_TEXT].drop_duplicates()
    settle(who.name, len(rows) - len(texts))
    found: list[pd.DataFrame] = []
    for (trait, style, purpose), part in texts.groupby(_TEXT[:3], sort=False):
        looked_for = responses.trait(str(trait))
        for start in range(0, len(part), ROWS_AT_ONCE):
            some = part.iloc[start : start + ROWS_AT_ONCE]
            assert who.judge is not None  # noqa: S101 - neither stored nor labels
            questions, answers = some["question"].tolist(), some["response"].tolist()
            scores = who.judge.score(looked_for, questions, answers, style=style, purpose=purpose)  # type: ignore[arg-type]
            found.append(_frame(scores, some.index))
            settle(who.name, len(some))
    known = texts.join(pd.concat(found))
    return rows[_TEXT].merge(known, on=_TEXT, how="left").drop(columns=_TEXT).set_index(rows.index)


def side_by_side(rows: pd.DataFrame, a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Return rows with both judges' scores, as `agreement_table` takes them: the condition is the one shown."""
    sides = {f"{column}_{name}": one[column] for name, one in (("a", a), ("b", b)) for column in one.columns}
    return rows.assign(condition=rows["shown"], **sides)


def _columns(name: str, rows: pd.DataFrame) -> tuple[str, str]:
    if name not in rows.columns:
        have = ", ".join(str(one) for one in rows.columns)
        raise InputError(f"the rows have no column {name!r}; they have {have}")
    renamed = name.replace("trait_score", "coherence")
    return name, renamed if renamed != name and renamed in rows.columns else f"{name}_coherence"


def _stored(columns: tuple[str, str], rows: pd.DataFrame) -> pd.DataFrame:
    """Return scores that the rows hold; a column of coherence that is not there is missing throughout."""
    trait, coherence = (numbers(rows[name], name) if name in rows else pd.Series(np.nan, rows.index) for name in columns)
    reason = rows["missing_reason"] if "missing_reason" in rows and columns[0] == "trait_score" else None
    return pd.DataFrame({"trait_score": trait, "coherence": coherence, "missing_reason": reason}, index=rows.index)


def _frame(scores: list[Score], index: pd.Index) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "trait_score": np.array([one.trait for one in scores], dtype=np.float64),
            "coherence": np.array([one.coherence for one in scores], dtype=np.float64),
            "missing_reason": pd.Series([one.missing_reason for one in scores], index=index, dtype=object),
        },
        index=index,
    )


def _errors(judge: Judge, responses: Responses) -> dict[str, float]:
    if not isinstance(judge, StatesError):
        return {}
    told = {name: judge.delta_error(responses.trait(name)) for name in responses.traits}
    return {name: error for name, error in told.items() if error is not None}
