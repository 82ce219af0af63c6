"""Two judges compared on the same responses, from their scores to what a study would conclude: one object, one folder of files.

Knows what is compared where (every row, a drawn sample, the rows that people labelled), and why something is not. Leaves
scores to `rejudge.py`, every number to `traitline.analysis`, and the figures to `traitline.report.agreement`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from traitline.analysis import agreement, conclusions
from traitline.analysis.conclusions import CONTRAST, Conclusions
from traitline.errors import InputError
from traitline.files import write_whole
from traitline.judges.labels import ABSENT, LabelsJudge, plain_cell
from traitline.judges.sheet import draw, key_path, read_key
from traitline.study.rejudge import Scorer, Settle, score, side_by_side
from traitline.study.responses import Responses

SHARED = ["row_key", "trait", "strategy", "condition", "checkpoint", "target", "vector_checkpoint", "layer", "coef", "question"]
SCORED = [f"{name}_{judge}" for name in agreement.SCORES for judge in "ab"]
MOST_DIFFERENT = 100
"""Rows of largest difference that are kept, for the trait score and for coherence."""
FEWEST_LABELLERS = 2
NO_LABELS = "none of the labelled rows is among the responses; give --rows with those that the sheet was drawn from"
TRAINED = {"distilled", "fitted"}
"""Kinds of judges that were fitted on scores."""


@dataclass(frozen=True, eq=False)
class JudgeComparison:
    """What comparing two judges found.

    Attributes:
        a: one judge.
        b: the other.
        rows: the responses that both were to score, with `trait_score_a` and the like.
        agreement: see `agreement_table`.
        different: the rows that they differ most on, by either score.
        conclusions: what their disagreement does to the study; None where `notes` says why not.
        corrected: plain and corrected deltas; None where there are no gold rows.
        labellers: how the labellers of one file agree; None where there are not several.
        notes: what a reader must know, a sentence each.
    """

    a: Scorer
    b: Scorer
    rows: pd.DataFrame
    agreement: pd.DataFrame
    different: pd.DataFrame
    conclusions: Conclusions | None
    corrected: pd.DataFrame | None
    labellers: pd.DataFrame | None
    notes: tuple[str, ...]


def compare_judges(
    responses: Responses,
    a: Scorer,
    b: Scorer,
    *,
    limit: int | None = None,
    seed: int = 0,
    gold: Scorer | None = None,
    key: Path | None = None,
    assume: str | None = None,
    settle: Settle = lambda _what, _rows: None,
) -> JudgeComparison:
    """Score responses with two judges and compare what they say and what follows from it.

    Args:
        responses: what they score.
        a: one judge.
        b: the other; differences are B minus A.
        limit: score a sample of so many rows, drawn evenly over traits, conditions and questions; None scores all.
        seed: of the sample and of the intervals.
        gold: whose scores correct the deltas of the others; a file of labels among `a` and `b` where left out.
        key: the sheet's key, which tells each gold row's probability; beside the labels where left out.
        assume: see `ppi.corrected_deltas`.
        settle: told of progress.

    Raises:
        InputError: the same judge twice, a key that is missing, or rows that do not fit the labels.
        JudgeError: a judge cannot be used.
    """
    if a.columns == b.columns and (a.stored or a.name == b.name):
        raise InputError(f"both are the same scores, {a.name!r} and {b.name!r}; name two judges that differ")
    notes: list[str] = []
    gold = gold or next((one for one in (b, a) if one.labels is not None), None)
    probability = None if gold is None else _probability(gold, key, notes)
    rows = _rows(responses, (a, b), limit, seed, whole=probability is not None)
    scores = {name: score(responses, one, rows, settle) for name, one in (("a", a), ("b", b))}
    both = side_by_side(rows, scores["a"], scores["b"])
    both = both[~both["row_key"].duplicated()]
    for name, one in (("a", a), ("b", b)):
        both = both[both[f"missing_reason_{name}"].ne(ABSENT)] if one.labels is not None else both
    if both.empty:
        raise InputError(NO_LABELS)
    found = None
    if len(both) == len(responses.once):
        found = _what_follows(responses, rows, scores, (a, b), notes)
    else:
        what = "is said of what follows for a study, which needs all"
        notes.append(f"{len(both):,} of {len(responses.once):,} rows are compared; nothing {what}")
    corrected = None
    if gold is not None and probability is not None and limit is None:
        notes += [_untold(one) for one in (a, b) if one.name != gold.name and one.name.partition(":")[0] in TRAINED]
        corrected = _corrected(responses, rows, scores, (a, b), gold, probability, assume, settle)
        if corrected.empty:
            notes.append("no comparison of steered with baseline rows has gold rows, so no delta is corrected")
    kept = both.rename(columns={"response": "answer"})
    parts = [agreement.largest_differences(kept, MOST_DIFFERENT, score=name) for name in agreement.SCORES]
    columns = ["score", "difference", *SCORED, *(name for name in SHARED if name in kept), "answer"]
    table = agreement.agreement_table(both, seed=seed)
    different = pd.concat(parts, ignore_index=True)[columns]
    people = _labellers([one.labels for one in (a, b, gold) if one is not None], seed)
    return JudgeComparison(a, b, kept, table, different, found, corrected, people, tuple(notes))


def write_comparison(found: JudgeComparison, folder: Path) -> list[Path]:
    """Write the tables, the scores and the figures of a comparison.

    Returns:
        The files written.

    Raises:
        StoreError: one cannot be written.
    """
    from traitline.report.agreement import write_agreement_figures

    tables = {"agreement": found.agreement, "different": found.different}
    if found.conclusions is not None:
        tables |= {"deltas": found.conclusions.deltas, "pairs": found.conclusions.pairs, "verdicts": found.conclusions.verdicts}
    if found.corrected is not None:
        tables["corrected"] = found.corrected
    if found.labellers is not None:
        tables["labellers"] = found.labellers
    written = []
    for name, table in tables.items():
        texts = {column: table[column].map(_safe) for column in table.columns if table[column].dtype.kind not in "biuf"}
        written.append(folder / f"{name}.csv")
        write_whole(written[-1], table.assign(**texts).to_csv(index=False, lineterminator="\n"))
    buffer = io.BytesIO()
    found.rows[[*(name for name in SHARED if name in found.rows), "answer", *SCORED]].to_parquet(buffer, index=False)
    written.append(folder / "scores.parquet")
    write_whole(written[-1], buffer.getvalue())
    deltas = None if found.conclusions is None else found.conclusions.deltas
    return written + write_agreement_figures(folder, found.rows, found.agreement, deltas, (found.a.name, found.b.name))


def _rows(responses: Responses, judges: Sequence[Scorer], limit: int | None, seed: int, *, whole: bool) -> pd.DataFrame:
    """Return the rows to score: all; a sample; or, unless all are wanted, those that people labelled.

    Raises:
        InputError: the labels are of other rows.
    """
    files = [one.labels for one in judges if one.labels is not None]
    if limit is None and (whole or not files):
        return responses.rows
    rows = responses.once
    for file in files:
        rows = rows[[score.missing_reason != ABSENT for score in file.score_rows(rows)]]
    if rows.empty:
        raise InputError(NO_LABELS)
    return rows if limit is None else rows.loc[draw(rows, limit, seed).index.sort_values()]


def _safe(cell: object) -> object:
    return plain_cell(cell) if isinstance(cell, str) else cell


def _probability(gold: Scorer, key: Path | None, notes: list[str]) -> pd.Series | None:
    """Return the probability of every gold row, or say why deltas are not corrected.

    Raises:
        InputError: a key is needed and there is none.
    """
    path = key or (key_path(gold.labels.path) if gold.labels is not None else None)
    if path is None:
        raise InputError("gold rows need the probability that they were drawn with: give --key, from 'traitline judges sheet'")
    if key is None and not path.is_file():
        notes.append(
            f"no key {str(path)!r} tells how the labelled rows were drawn, so no delta is corrected; give it with --key"
        )
        return None
    return read_key(path)


def _what_follows(
    responses: Responses,
    rows: pd.DataFrame,
    scores: dict[str, pd.DataFrame],
    judges: Sequence[Scorer],
    notes: list[str],
) -> Conclusions | None:
    """Return what either judge's scores of all rows lead to; None, with a note, where rows have nothing to conclude from."""
    planned, sides = responses.planned, []
    for name, one in zip("ab", judges, strict=True):
        under = rows.assign(**{column: scores[name][column] for column in agreement.SCORES})
        sides.append(conclusions.judged(under, planned, one.errors))
    found = conclusions.compare(*sides)
    if planned.compared.empty and found.pairs.empty:
        notes.append("the rows tell of no steered vectors and no pairs, so nothing is said of what follows for a study")
        return None
    if not planned.order:
        notes.append("the order of the checkpoints is not known, so nothing is called steerable and there are no onsets")
    return found


def _corrected(
    responses: Responses,
    rows: pd.DataFrame,
    scores: dict[str, pd.DataFrame],
    who: Sequence[Scorer],
    gold: Scorer,
    probability: pd.Series,
    assume: str | None,
    settle: Settle,
) -> pd.DataFrame:
    """Correct the deltas of the judges that are not the gold one themselves."""
    drawn = rows[rows["row_key"].isin(probability.index) & rows["table"].ne(CONTRAST)]
    truth = pd.Series(np.nan, index=rows.index)
    if len(drawn):
        truth.loc[drawn.index] = score(responses, gold, drawn, settle)["trait_score"]
    cheap = {one.name: (f"score_{name}", one) for name, one in zip("ab", who, strict=True) if one.name != gold.name}
    columns = {column: scores[name]["trait_score"] for name, column in (("a", "score_a"), ("b", "score_b"))}
    used = rows.assign(gold=truth, probability=rows["row_key"].map(probability).astype(float), **columns)
    return conclusions.corrected_table(
        used,
        responses.planned,
        judges={name: column for name, (column, _) in cheap.items()},
        assume=assume,
        trained_on={name: _trained_on(one) for name, (_, one) in cheap.items()},
    )


def _trained_on(one: Scorer) -> tuple[str, ...]:
    """Return the questions that a judge says it was fitted on."""
    return tuple(getattr(one.judge, "training_questions", ()))


def _untold(one: Scorer) -> str:
    """Say what becomes of the questions that a fitted judge was fitted on."""
    told = len(_trained_on(one))
    if told:
        return f"{one.name} was fitted on {told} questions; their rows are left out of its corrected deltas"
    return f"{one.name} does not tell which questions it was fitted on; gold rows must not be of them"


def _labellers(files: Sequence[LabelsJudge | None], seed: int) -> pd.DataFrame | None:
    """Return how every two labellers of one file agree, on the rows that both labelled; None where there are not several."""
    parts = []
    for file in dict.fromkeys(one for one in files if one is not None):
        names = file.labellers if len(file.labellers) >= FEWEST_LABELLERS else []
        labels = file.labels.assign(item=file.labels["row_key" if file.has_keys else "text"])
        labels = labels.drop_duplicates(["labeller", "trait", "item"])
        for one, other in combinations(names, 2):
            sides = [labels[labels["labeller"].eq(name)] for name in (one, other)]
            shared = sides[0].merge(sides[1], on=["trait", "item"], suffixes=("_a", "_b"))
            if len(shared):
                question = shared["text_a" if file.has_texts else "item"].str.partition("\n")[0]
                rows = shared.assign(condition=agreement.ALL, question=question)
                parts.append(agreement.agreement_table(rows, seed=seed).assign(labeller_a=one, labeller_b=other))
    return pd.concat(parts, ignore_index=True) if parts else None
