"""Fits a judge to labelled answers: two lines on frozen features, each on its own half of the questions.

Knows how questions are halved, ridge regression and what the other half says of each line. Leaves the features and scoring to
`fitted.py`.

Each line's figures are of the other half's questions, which it never saw. So is the error of a delta: how far the mean error of
one group of answers (by the column `group`; else by `condition`; else by question) is from that of another, on average over
pairs of groups, if each were large. What the small size of the groups explains is taken off (one-way analysis of variance).
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from safetensors.torch import save_file

from traitline.errors import InputError
from traitline.files import write_whole
from traitline.judges.base import Purpose
from traitline.judges.fitted import CARD, LINES, Features
from traitline.judges.labels import read_cell
from traitline.traits.trait import Trait

LEAST_ROWS, LEAST_QUESTIONS = 50, 8
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
"""Ridge penalties tried, in units of the number of features."""
PARTS = 5
_OF_NORMAL_PAIRS = 2 / np.sqrt(np.pi)
"""Mean absolute difference of two draws from a normal distribution, in standard deviations."""
_NEEDED = ("question", "answer", "trait_score")
_PURPOSES: tuple[Purpose, Purpose] = ("accept", "evaluate")
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Line:
    """A score as a line on features: weight [features] and start; `strength` is the penalty it was fitted with."""

    weight: Floats
    start: float
    strength: float

    def __call__(self, features: Floats) -> Floats:
        """Return the scores [rows], 0 to 100, of features [rows, features]."""
        return np.clip(features @ self.weight + self.start, 0, 100)


def fit_judge(trait: Trait, rows: pd.DataFrame, directory: Path, *, seed: int = 0) -> dict[str, Any]:
    """Fit a judge to labelled answers and write it.

    Args:
        trait: what the labels are about; the judge is asked for it by its name.
        rows: question, answer and trait_score (0 to 100; rows without one are left out); `group` or `condition` if known.
        directory: a new folder for the judge.
        seed: halves the questions.

    Returns:
        The card: rows, questions, per purpose the figures on the other half's questions, and the error of a delta.

    Raises:
        InputError: fewer than 50 labelled answers or 8 questions, labels out of range or all alike, or a folder that exists.
        JudgeError: the embedded judge cannot be read.
    """
    rows = _checked(rows)
    if directory.exists():
        raise InputError(f"{str(directory)!r} exists already; a judge is never overwritten, so name another folder")
    half = _halves(rows["question"], seed)
    features, labels = Features(), rows["trait_score"].to_numpy(dtype=float)
    judged, lines, figures = np.zeros(len(rows)), dict[str, Line](), dict[str, Any]()
    for purpose, own in zip(_PURPOSES, (half, ~half), strict=True):
        read = features.read(rows["question"].tolist(), rows["answer"].tolist(), purpose)[0].double().numpy()
        lines[purpose] = _fit(read[own], labels[own], rows["question"][own])
        judged[~own] = lines[purpose](read[~own])
        figures[purpose] = {"rows": int(own.sum()), "questions": int(rows["question"][own].nunique())}
        figures[purpose] |= _figures(judged[~own], labels[~own])
    groups = next(name for name in ("group", "condition", "question") if name in rows and rows[name].nunique() > 1)
    card = {
        "trait": trait.name,
        "trait_digest": trait.digest,
        "base": features.judge.name,
        "rows": len(rows),
        "questions": int(rows["question"].nunique()),
        "seed": seed,
        "figures": figures,
        "delta_error": _delta_error(judged, labels, rows[groups]),
        "delta_error_between": groups,
        "training_questions": sorted(rows["question"].unique()),
    }
    directory.mkdir(parents=True)
    save_file(_tensors(lines), directory / LINES)
    write_whole(directory / CARD, json.dumps(card, indent=1) + "\n")
    return card


def read_labelled(path: Path, trait: Trait) -> pd.DataFrame:
    """Read labelled answers from a CSV (a sheet of `traitline judges sheet`, say) or a parquet file.

    Several labels of one answer are averaged. Where there is a column `trait`, other traits' rows are left out.

    Returns:
        question, answer and trait_score, and `group` and `condition` where the file has them.

    Raises:
        InputError: no such file, a column that is missing, a label that is no number, or no row of the trait.
    """
    try:
        rows = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, sep=None, engine="python", dtype=str)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"the labelled answers {str(path)!r} cannot be read: {error}") from error
    rows = rows if "answer" in rows else rows.rename(columns={"response": "answer"})
    absent = [name for name in _NEEDED if name not in rows]
    if absent:
        raise InputError(f"{str(path)!r} has no column {', '.join(absent)}; labelled answers need {', '.join(_NEEDED)}")
    if "trait" in rows:
        of_trait = rows[rows["trait"].eq(trait.name)]
        if of_trait.empty:
            others = ", ".join(map(str, rows["trait"].unique()[:5]))
            raise InputError(f"{str(path)!r} has labels of {others}, not of {trait.name!r}")
        rows = of_trait
    rows = rows.dropna(subset=list(_NEEDED))
    scores = pd.to_numeric(rows["trait_score"], errors="coerce")
    if scores.isna().any():
        raise InputError(f"{str(path)!r}: trait_score {rows['trait_score'][scores.isna()].iloc[0]!r} is not a number")
    texts = {name: rows[name].astype(str).map(read_cell) for name in ("question", "answer")}
    keys = ["question", "answer", *(name for name in ("group", "condition") if name in rows)]
    return rows.assign(trait_score=scores, **texts).groupby(keys, sort=False, dropna=False)["trait_score"].mean().reset_index()


def _checked(rows: pd.DataFrame) -> pd.DataFrame:
    kept = rows.dropna(subset=list(_NEEDED)).reset_index(drop=True)
    n, questions = len(kept), kept["question"].nunique()
    if n < LEAST_ROWS or questions < LEAST_QUESTIONS:
        raise InputError(
            f"{n} labelled answers to {questions} questions; a judge needs {LEAST_ROWS} answers to {LEAST_QUESTIONS} questions "
            "or more (`traitline judges sheet` draws answers to label)"
        )
    outside = ~kept["trait_score"].between(0, 100)
    if outside.any():
        raise InputError(f"trait_score {kept['trait_score'][outside].iloc[0]} is not between 0 and 100")
    if kept["trait_score"].nunique() < 2:
        raise InputError(f"every label is {kept['trait_score'].iloc[0]:g}; a judge needs answers that differ in the trait")
    return kept


def _halves(questions: pd.Series, seed: int) -> npt.NDArray[np.bool_]:
    """Return which rows belong to the first half: whole questions, drawn until half of the rows are in it."""
    counts = questions.value_counts(sort=False).sort_index()
    drawn = counts.sample(frac=1, random_state=seed)
    first = drawn.index[(drawn.cumsum() - drawn / 2) <= len(questions) / 2]
    return questions.isin(first).to_numpy()


def _fit(features: Floats, labels: Floats, questions: pd.Series) -> Line:
    """Fit a line with the penalty that does best on questions left out."""
    names = questions.drop_duplicates().to_numpy()
    parts = [questions.isin(names[i :: min(PARTS, len(names))]).to_numpy() for i in range(min(PARTS, len(names)))]

    def error(strength: float) -> float:
        lines = [(_ridge(features[~part], labels[~part], strength), part) for part in parts]
        return sum(float(((line(features[part]) - labels[part]) ** 2).sum()) for line, part in lines)

    return _ridge(features, labels, min(STRENGTHS, key=error))


def _ridge(features: Floats, labels: Floats, strength: float) -> Line:
    """Fit a ridge regression on standardised features, by its dual, for there are more features than rows."""
    center, scale = features.mean(0), features.std(0) + 1e-6
    x, middle = (features - center) / scale, float(labels.mean())
    dual = np.linalg.solve(x @ x.T + strength * x.shape[1] * np.eye(len(x)), labels - middle)
    weight = (x.T @ dual) / scale
    return Line(weight, middle - float(center @ weight), strength)


def _figures(judged: Floats, labels: Floats) -> dict[str, Any]:
    """Return n, Pearson's r (None where a side is constant), errors and how often both are on the same side of 50."""
    errors = judged - labels
    varies = judged.std() > 0 and labels.std() > 0
    return {
        "n": len(labels),
        "r": round(float(np.corrcoef(judged, labels)[0, 1]), 3) if varies else None,
        "mae": round(float(np.abs(errors).mean()), 2),
        "rmse": round(float(np.sqrt((errors**2).mean())), 2),
        "bias": round(float(errors.mean()), 2),
        "same_side_of_50": round(float(((judged >= 50) == (labels >= 50)).mean()), 3),
    }


def _delta_error(judged: Floats, labels: Floats, groups: pd.Series) -> float:
    """Return the mean absolute difference of two groups' errors, were both large; at least what so many rows can tell."""
    errors = pd.Series(judged - labels)
    by_group = errors.groupby(groups.to_numpy())
    sizes, means = by_group.size(), by_group.mean()
    n, k = len(errors), len(sizes)
    within = float(((errors - by_group.transform("mean")) ** 2).sum()) / max(n - k, 1)
    among = float((sizes * (means - errors.mean()) ** 2).sum()) / (k - 1)
    size = (n - float((sizes**2).sum()) / n) / (k - 1)
    least = float((errors**2).mean()) / n
    return round(float(_OF_NORMAL_PAIRS * np.sqrt(max((among - within) / size, least))), 2)


def _tensors(lines: dict[str, Line]) -> dict[str, torch.Tensor]:
    weights = {f"{purpose}.weight": torch.from_numpy(line.weight).float() for purpose, line in lines.items()}
    return weights | {f"{purpose}.start": torch.tensor(line.start, dtype=torch.float32) for purpose, line in lines.items()}
