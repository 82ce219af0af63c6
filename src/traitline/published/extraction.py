"""Which vectors of a release rest on which answers: accepted pairs, checked against what its own files say.

Knows the judged answers a vector was made from (`data/model_responses/extract/MODEL/REVISION/NAME_{pos,neg}_instruct.csv`), the
status file beside a vector and the table of pass rates. A pair is row i of the positive with row i of the negative file; it is
accepted where the positive trait score is at least 50, the negative one below 50 and both coherences at least 50 (a missing
score fails). Leaves the vectors themselves to `directions.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from traitline.published.answers import Answers, read_answers
from traitline.published.pass_rates import check_pass_rates
from traitline.published.release import RESPONSES, VECTORS, Release

THRESHOLD = 50.0
FEW_PAIRS, FEW_QUESTIONS = 10, 5
SIDES = {"pos": "positive", "neg": "negative"}
STATUS_ENDING = "_response_avg_diff.status.json"
MEANS = [f"{side}_{score}" for side in SIDES for score in ("trait", "coherence")]
COUNTS = ["pos_trait_ge50", "neg_trait_ge50", "neg_trait_lt50", "pos_coherence_ge50", "neg_coherence_ge50", "n_missing"]
COLUMNS = [
    *("model", "trait", "strategy", "checkpoint", "tokens", "stage", "n_rows", "n_pairs", "n_questions", "fragile"),
    *("status", "reason", "has_vector", *COUNTS),
    *(f"{name}_{what}" for name in MEANS for what in ("mean", "n")),
    *("effective_rows_listed", "status_listed"),
]
INTEGERS = ["n_rows", "n_pairs", "n_questions", *COUNTS, *(f"{name}_n" for name in MEANS), "effective_rows_listed"]
# what a status file lists -> the column that counts the same
LISTED = {
    "effective_rows": "n_pairs",
    "pos_rows": "n_rows",
    "neg_rows": "n_rows",
    "pos_trait_ge_threshold_count": "pos_trait_ge50",
    "neg_trait_lt_inverse_threshold_count": "neg_trait_lt50",
    "pos_coherence_ge_50_count": "pos_coherence_ge50",
    "neg_coherence_ge_50_count": "neg_coherence_ge50",
    **{f"{name}_mean": f"{name}_mean" for name in MEANS},
}
NUMBERS = (*LISTED, "threshold")
LARGEST = 1e15  # a number this large or larger, and one that is none, counts and averages nothing
Key = tuple[str, str]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Sides:
    """The answers under the positive and under the negative instruction; None where a file is missing or cannot be used."""

    pos: Answers | None
    neg: Answers | None

    @property
    def n(self) -> int | None:
        """How many rows have a partner."""
        return None if self.pos is None or self.neg is None else min(self.pos.n, self.neg.n)

    @property
    def accepted(self) -> Flags | None:
        """Which pairs pass, `[pairs]`."""
        if self.pos is None or self.neg is None:
            return None
        pos, neg = self.pos.rows[: self.n], self.neg.rows[: self.n]
        passed = (pos["trait_score"] >= THRESHOLD).to_numpy() & (neg["trait_score"] < THRESHOLD).to_numpy()
        coherent = (pos["coherence"] >= THRESHOLD).to_numpy() & (neg["coherence"] >= THRESHOLD).to_numpy()
        return np.asarray(passed & coherent, dtype=np.bool_)


def extraction_pairs(release: Release, models: Sequence[str]) -> pd.DataFrame:
    """Count the accepted pairs behind every vector, and behind every vector that could not be made.

    Args:
        release: the release; what is wrong with its files goes into its audit.
        models: the models wanted.

    Returns:
        Columns `COLUMNS`, one row per model, trait, strategy and checkpoint with answers, a vector or a status file. `n_rows`
        counts the rows that have a partner; `*_n` the rows a mean is over; `fragile` is empty where there is no pair. `status`
        is `complete` where a vector file exists, else `no_vector`; `reason` says why there is no pair or no vector.
    """
    rows = [row for model in models for row in _model_rows(release, model)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    table[INTEGERS] = table[INTEGERS].astype("Int64")
    table["fragile"] = table["fragile"].astype("boolean")
    for model in models:
        check_pass_rates(release, model, table[table["model"] == model])
    return table


def statuses(release: Release, model: str) -> dict[Key, dict[str, Any]]:
    """Return (revision, trait name) -> content of the status file of every extraction.

    A file that cannot be read is empty; a status that is no text and a count that is no number are left out, and noted.
    """
    found: dict[Key, dict[str, Any]] = {}
    for path in sorted((release.root / VECTORS / model).glob(f"*/*{STATUS_ENDING}")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            content = None
        file = release.file(path)
        if not isinstance(content, dict):
            text = "this status file cannot be read; what it lists is not checked"
            release.audit.add("unreadable_status", file, 1, text, model=model)
            content = {}
        odd = [name for name in ("status", *NUMBERS) if content.get(name) is not None and not _readable(name, content[name])]
        if odd:
            text = f"{', '.join(odd)}: not of the kind that a status file lists there; taken as not listed"
            release.audit.add("unreadable_status", file, len(odd), text, model=model)
        key = (path.parent.name, path.name.removesuffix(STATUS_ENDING))
        found[key] = {name: value for name, value in content.items() if name not in odd}
    return found


def _readable(name: str, value: object) -> bool:
    """Tell whether a status file can list this: a status is text that can be written, everything else a plain number."""
    if name == "status":
        return isinstance(value, str) and value.isprintable()
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _model_rows(release: Release, model: str) -> list[dict[str, Any]]:
    listed = statuses(release, model)
    vectors = {(revision, name): path for revision, name, path in release.vector_files(model)}
    answers = set(_answer_names(release.root / RESPONSES / "extract" / model))
    rows = []
    files: dict[str, list[str]] = {}
    for name in sorted({name for _, name in {*listed, *vectors, *answers}}):
        here = {revision for revision, other in {*listed, *vectors, *answers} if other == name}
        for revision in release.ordered(model, here):
            key = (revision, name)
            sides = _sides(release, model, key)
            for one in (one for one in (sides.pos, sides.neg) if one is not None):
                files.setdefault(_digest(one), []).append(one.file)
            row = _row(release, model, key, sides, key in vectors and os.path.isfile(vectors[key]))
            row["status_listed"] = listed.get(key, {}).get("status")
            row["effective_rows_listed"] = _whole(listed.get(key, {}).get("effective_rows"))
            if row["n_pairs"] is None and row["effective_rows_listed"] is not None:
                row["reason"] += f"; its status file lists {row['effective_rows_listed']} accepted pairs"
            _check_status(release, row, name, listed.get(key))
            rows.append(row)
        _check_vectors(release, model, name, rows[-len(here) :])
    for first, *others in files.values():
        for file in others:
            text = f"the same answers as in {first}; vectors made from both share this side, closer than resampling puts them"
            release.audit.add("shared_answers", file, 1, text, model=model)
    return rows


def _digest(answers: Answers) -> str:
    """Return a digest of the answers alone, whatever their scores."""
    hashed = pd.util.hash_pandas_object(answers.rows["question"] + "\0" + answers.rows["answer"], index=False)
    return hashlib.sha256(hashed.to_numpy().tobytes()).hexdigest()


def _answer_names(folder: Path) -> Iterable[Key]:
    for side in SIDES:
        ending = f"_{side}_instruct.csv"
        for path in folder.glob(f"*/*{ending}"):
            yield path.parent.name, path.name.removesuffix(ending)


def _sides(release: Release, model: str, key: Key) -> Sides:
    """Read both files of answers, and note where only one of them is there or their rows do not belong together."""
    revision, name = key
    traits = (name, release.split(name)[0])
    folder = release.root / RESPONSES / "extract" / model / revision
    paths = {side: folder / f"{name}_{side}_instruct.csv" for side in SIDES}
    there = {side: path.is_file() for side, path in paths.items()}
    read = {
        side: read_answers(release, path, traits, model=model, labels=("question_id",)) if there[side] else None
        for side, path in paths.items()
    }
    if any(there.values()) and not all(there.values()):
        gone = next(side for side in SIDES if not there[side])
        text = f"the answers under the {SIDES[gone]} instruction are missing; no pair can be counted"
        release.audit.add("missing_side", release.file(paths[gone]), 1, text, model=model)
    sides = Sides(read["pos"], read["neg"])
    _check_partners(release, model, sides)
    _check_repeats(release, model, sides)
    return sides


def _check_partners(release: Release, model: str, sides: Sides) -> None:
    if sides.pos is None or sides.neg is None or sides.accepted is None:
        return
    pos, neg = sides.pos.rows[: sides.n], sides.neg.rows[: sides.n]
    told = []
    if sides.pos.n != sides.neg.n:
        told.append(f"the positive file has {sides.pos.n} rows and the negative one {sides.neg.n}; the rest have no partner")
    other = (pos["question"] != neg["question"]).to_numpy()
    if not other.any() and {"question_id"} <= {*pos.columns} & {*neg.columns}:
        other = (_instruction(pos, "pos") != _instruction(neg, "neg")).to_numpy()
    if other.any():
        taken = int((other & sides.accepted).sum())
        told.append(
            f"{int(other.sum())} rows stand beside an answer to another question or instruction, {taken} of them in accepted "
            "pairs, which are counted as the release counts them: by row"
        )
    if told:
        count = abs(sides.pos.n - sides.neg.n) + int(other.sum())
        release.audit.add("mismatched_pairs", sides.pos.file, count, "; ".join(told), model=model)


def _check_repeats(release: Release, model: str, sides: Sides) -> None:
    """Note answers that stand in a file more than once; sampling may give a short one again, so only exact repeats count."""
    accepted = np.zeros(0, dtype=np.bool_) if sides.accepted is None else sides.accepted
    for answers in (one for one in (sides.pos, sides.neg) if one is not None):
        again = answers.rows.duplicated(["question", "prompt", "answer"]).to_numpy()
        if again.any():
            taken = int((again[: len(accepted)] & accepted).sum())
            text = (
                f"the same answer to the same question and prompt again, {taken} of them in accepted pairs, whose number they "
                "inflate; a short answer may be drawn twice, a long one was most likely copied; every row is counted"
            )
            release.audit.add("duplicated_rows", answers.file, int(again.sum()), text, model=model)


def _instruction(rows: pd.DataFrame, side: str) -> pd.Series:
    """Return what a row's identity says beside its side: the same for the two rows of a pair."""
    return rows["question_id"].fillna("").astype(str).str.replace(f"_{side}_", "_", regex=False)


def _row(release: Release, model: str, key: Key, sides: Sides, has_vector: bool) -> dict[str, Any]:
    revision, name = key
    trait, strategy = release.split(name)
    place = release.place(model, revision)
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {
        "model": model,
        "trait": trait,
        "strategy": strategy,
        "checkpoint": revision,
        "tokens": release.tokens(model, revision),
        "stage": "" if place is None else place.stage,
        "n_rows": sides.n,
        "has_vector": has_vector,
        "status": "complete" if has_vector else "no_vector",
        "n_missing": _missing(sides),
        **_side_counts("pos", sides.pos),
        **_side_counts("neg", sides.neg),
    }
    accepted = sides.accepted
    if accepted is not None and sides.pos is not None:
        n_questions = int(sides.pos.rows["question"][: len(accepted)][accepted].nunique())
        n_pairs = int(accepted.sum())
        row |= {"n_pairs": n_pairs, "n_questions": n_questions}
        row["fragile"] = (n_pairs < FEW_PAIRS or n_questions < FEW_QUESTIONS) if n_pairs else None
    row["reason"] = _reason(row, sides)
    return row


def _side_counts(side: str, answers: Answers | None) -> dict[str, Any]:
    if answers is None:
        return {}
    trait, coherence = answers.rows["trait_score"], answers.rows["coherence"]
    counts: dict[str, Any] = {
        f"{side}_trait_ge50": int((trait >= THRESHOLD).sum()),
        f"{side}_coherence_ge50": int((coherence >= THRESHOLD).sum()),
    }
    if side == "neg":
        counts["neg_trait_lt50"] = int((trait < THRESHOLD).sum())
    for score, values in (("trait", trait), ("coherence", coherence)):
        counts |= {f"{side}_{score}_mean": float(values.mean()), f"{side}_{score}_n": int(values.count())}
    return counts


def _missing(sides: Sides) -> int | None:
    """Return how many rows of either side lack a score."""
    read = [one.rows[["trait_score", "coherence"]] for one in (sides.pos, sides.neg) if one is not None]
    return sum(int(rows.isna().any(axis=1).sum()) for rows in read) if read else None


def _reason(row: Mapping[str, Any], sides: Sides) -> str:
    """Say in words why there is no pair, or no vector; empty where there is one with its pairs."""
    if sides.pos is None and sides.neg is None:
        return "no judged answers that can be read"
    if sides.pos is None or sides.neg is None:
        return f"no judged answers of the {'positive' if sides.pos is None else 'negative'} side that can be read"
    if row["n_pairs"] == 0:
        return (
            f"none of {row['n_rows']} pairs is accepted: positive trait >= 50 in {row['pos_trait_ge50']} rows, negative "
            f"trait < 50 in {row['neg_trait_lt50']}, coherence >= 50 in {row['pos_coherence_ge50']} positive and "
            f"{row['neg_coherence_ge50']} negative rows"
        )
    return "" if row["has_vector"] else f"{row['n_pairs']} pairs are accepted, and there is no vector file"


def _whole(value: float | None) -> int | None:
    """Return a count of a status file; None where it is none."""
    return int(value) if value is not None and float(value).is_integer() else None


def _check_status(release: Release, row: Mapping[str, Any], name: str, status: Mapping[str, Any] | None) -> None:
    """Compare what a status file lists with what is there."""
    if not status:
        return
    told = []
    said = status.get("status")
    if said is not None and (said == "complete") != row["has_vector"]:
        told.append(f"it says {said}, and {'there is a' if row['has_vector'] else 'there is no'} vector file")
    if status.get("threshold") not in (None, THRESHOLD):
        told.append(f"it filtered at {status['threshold']}, not at {THRESHOLD:g}")
    for key, column in LISTED.items():
        listed, counted = status.get(key), row[column]
        if listed is not None and counted is not None and not np.isclose(listed, counted, rtol=1e-9, atol=1e-9):
            told.append(f"{key} {listed:.10g} listed, {counted:.10g} counted")
    if told:
        file = VECTORS / row["model"] / row["checkpoint"] / f"{name}{STATUS_ENDING}"
        text = f"{'; '.join(told)}: it was written for other answers than the published ones, which are counted here"
        release.audit.add("status_disagrees", file.as_posix(), len(told), text, model=row["model"])


def _check_vectors(release: Release, model: str, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Note vectors whose answers are not there, or give no pair, and pairs without a vector."""
    folder = (VECTORS / model / "*" / f"{name}_response_avg_diff.pt").as_posix()
    told = {
        "vector_without_rows": (
            [row for row in rows if row["has_vector"] and row["n_rows"] is None],
            "no judged answers of both sides are published for the vectors of {}; their accepted pairs cannot be counted",
        ),
        "vector_without_pairs": (
            [row for row in rows if row["has_vector"] and row["n_pairs"] == 0],
            "there is a vector at {}, and no published pair is accepted; it was made from others or without the filter",
        ),
        "rows_without_vector": (
            [row for row in rows if not row["has_vector"] and row["n_pairs"]],
            "pairs are accepted at {}, and there is no vector; these checkpoints have no cosines",
        ),
    }
    for kind, (found, text) in told.items():
        if found:
            names = ", ".join(row["checkpoint"] for row in found)
            release.audit.add(kind, folder, len(found), text.format(names), model=model)
