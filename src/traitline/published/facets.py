"""The labelled answers of a release: which facets of a trait they show, at each checkpoint.

Knows the files of `results/MODEL/facet_annotation`: judged answers with labels beside them, either 0/1 columns or a column of
labels separated by `|`. Which columns those are is read from what they hold, over all files of one scheme, so that a facet that
nobody has in one file is counted as 0 there. Says in the audit where labels cannot be compared. Leaves shares and intervals to
`analysis/facets.py`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from traitline.analysis.facets import COLUMNS as SHARES
from traitline.analysis.facets import share_table
from traitline.published.answers import KNOWN
from traitline.published.release import RESPONSES, RESULTS, VECTORS, Release

FOLDER = "facet_annotation"
COLUMNS = ["model", "trait", "strategy", "checkpoint", "tokens", "scheme", "set", "file", *SHARES]
SEPARATOR = "|"
LABEL = re.compile(r"\w[\w.&/+-]{0,39}(?: [\w.&/+-]{1,40}){0,3}")
"""A label is up to four short words; anything longer is a sentence."""
MOST_LABELS = 50
NEARLY_ALL = 0.9
"""Share of a column's cells that must read as labels for it to hold labels."""
SHOWN = 50.0
"""Scores at or above this show the trait, or are coherent."""


@dataclass
class Sheet:
    """One file of labelled answers.

    Attributes:
        file: path inside the release.
        scheme: the first word of the file name: whose facets these are.
        set: the rest of the file name without the revision: which answers were labelled.
        checkpoint: the revision in the file name; empty where there is none.
        rows: the table as read.
        judge: the column of the trait's score; empty where there is none.
        labels: one column of 1, 0 or NaN per facet.
    """

    file: str
    scheme: str
    set: str
    checkpoint: str
    rows: pd.DataFrame
    judge: str = ""
    labels: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def extra(self) -> list[str]:
        """The columns that are not those of an answer: the judge's score, labels, and what nobody knows."""
        return [str(name) for name in self.rows.columns if name not in KNOWN]


def facet_table(release: Release, models: Sequence[str]) -> pd.DataFrame:
    """Return the share of labelled answers that show each facet, file by file.

    Args:
        release: the release.
        models: whose results.

    Returns:
        One row per file and facet: `COLUMNS`. `total` counts the rows with a label, `n_missing` those whose label is blank.
    """
    parts = [part for model in models for part in _of_model(release, model)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)


def _of_model(release: Release, model: str) -> Iterator[pd.DataFrame]:
    sheets = _read(release, model)
    for scheme in dict.fromkeys(sheet.scheme for sheet in sheets):
        of_scheme = [sheet for sheet in sheets if sheet.scheme == scheme]
        _label(release, model, of_scheme)
        labelled = [sheet for sheet in of_scheme if len(sheet.labels.columns)]
        _compare(release, model, labelled)
        yield from (_shares(release, model, sheet) for sheet in labelled)


def _shares(release: Release, model: str, sheet: Sheet) -> pd.DataFrame:
    trait, strategy = release.split(sheet.judge) if sheet.judge else ("", "")
    who = {"model": model, "trait": trait, "strategy": strategy, "checkpoint": sheet.checkpoint}
    who |= {"scheme": sheet.scheme, "set": sheet.set, "file": sheet.file}
    shares = share_table(sheet.labels, sheet.rows["question"])
    return shares.assign(**who, tokens=release.tokens(model, sheet.checkpoint))[COLUMNS]


def _read(release: Release, model: str) -> list[Sheet]:
    """Read every file of a model that can be read, in order of training within what the file names tell."""
    results = release.root / RESULTS / model
    folder = results / FOLDER
    if not folder.is_dir():
        if not (release.root / VECTORS / model).is_dir():
            return []
        text = "there are no labelled answers; no facet of this model is computed"
        release.audit.add("missing_folder", release.file(folder), 1, text, model=model)
        return []
    known = _revisions(release, model)
    sheets = []
    for path in sorted(folder.rglob("*.csv")):
        table = release.table(path, ("question", "answer"), model=model)
        if table is None:
            continue
        revision = _revision(release, model, path.stem, known)
        if revision and release.place(model, revision) is None:
            text = f"nothing tells where revision {revision!r} stands in training; its facets have no tokens"
            release.audit.add("unreadable_revision", release.file(path), 1, text, model=model)
        scheme, _, name = path.stem.removesuffix(revision).strip("_").partition("_")
        for column in ("question", "answer"):
            table[column] = table[column].astype(object).where(table[column].notna(), "").astype(str)
        sheets.append(Sheet(release.file(path), scheme, name, revision, table))
    place = {name: i for i, name in enumerate(release.ordered(model, (sheet.checkpoint for sheet in sheets)))}
    return sorted(sheets, key=lambda sheet: (sheet.scheme, sheet.set, place[sheet.checkpoint]))


def _revisions(release: Release, model: str) -> set[str]:
    """Return the revisions of a model that have a folder of vectors or of answers."""
    folders = [release.root / VECTORS / model, *(release.root / RESPONSES).glob(f"*/{model}")]
    return {path.name for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir()}


def _revision(release: Release, model: str, stem: str, known: set[str]) -> str:
    """Return the revision that a file name ends with; empty where it names none."""
    ends = [end for end in known if stem == end or stem.endswith(f"_{end}")]
    if ends:
        return max(ends, key=len)
    words = stem.split("_")
    ends = ["_".join(words[i:]) for i in range(len(words) - 1, -1, -1)]
    return next((end for end in ends if release.place(model, end) is not None), "")


def _label(release: Release, model: str, sheets: Sequence[Sheet]) -> None:
    """Find the judge's column and the labels of the files of one scheme."""
    names = list(dict.fromkeys(name for sheet in sheets for name in sheet.extra))
    cells = {name: pd.concat([sheet.rows[name] for sheet in sheets if name in sheet.rows]) for name in names}
    kinds = {name: _kind(column) for name, column in cells.items()}
    labels = {name: kind for name, kind in kinds.items() if kind in ("flags", "texts")}
    facets = {name: _facets(cells[name]) if kind == "texts" else [] for name, kind in labels.items()}
    rare = [name for name in labels if 2 * sum(name in sheet.rows for sheet in sheets) < len(sheets)]
    for sheet in sheets:
        sheet.judge = _judge(release, sheet, kinds)
        found = {name: kind for name, kind in labels.items() if name not in rare and name != sheet.judge}
        _note_columns(release, model, sheet, found)
        for name in found:
            if name in sheet.rows:
                _add_labels(release, model, sheet, name, facets[name])


def _kind(column: pd.Series) -> str:
    """Return what a column holds: `flags`, `texts` (labels), `scores`, or `unknown`."""
    cells = column.dropna()
    if cells.empty:
        return "unknown"
    if _flags(cells).notna().mean() >= NEARLY_ALL:
        return "flags"
    if pd.to_numeric(cells, errors="coerce").notna().mean() >= NEARLY_ALL:
        return "scores"
    readable = cells.map(_readable)
    several = cells.astype(str).str.contains(SEPARATOR, regex=False).any()
    facets = _facets(cells)
    is_labels = readable.mean() >= NEARLY_ALL and len(facets) <= MOST_LABELS and (several or cells.nunique() > 1)
    return "texts" if is_labels else "unknown"


def _judge(release: Release, sheet: Sheet, kinds: dict[str, str]) -> str:
    """Return the column of the judge's score: numbers, the name of a trait, just before the coherence; the best of these."""
    columns = [str(name) for name in sheet.rows.columns]
    before = columns[columns.index("coherence") - 1] if "coherence" in columns else ""
    likely = [(kinds[name] == "scores", name in release.traits, name == before, name) for name in sheet.extra]
    likely = [one for one in likely if one[0] or one[1]]
    return max(likely, key=lambda one: one[:3])[3] if likely else ""


def _note_columns(release: Release, model: str, sheet: Sheet, labels: dict[str, str]) -> None:
    """Say in the audit which columns are missing from a file, and which it has that nobody knows."""
    absent = [name for name in labels if name not in sheet.rows]
    unknown = [name for name in sheet.extra if name != sheet.judge and name not in labels]
    if not sheet.judge:
        text = "no column holds the score of a trait; its facets are counted without a trait"
        release.audit.add("missing_columns", sheet.file, 1, text, model=model)
    if absent:
        text = f"the columns {', '.join(absent)} of scheme {sheet.scheme} are missing; these facets are not counted here"
        release.audit.add("missing_columns", sheet.file, len(absent), text, model=model)
    elif not labels:
        text = "no column holds labels (0 and 1, or words separated by |); no facet is counted"
        release.audit.add("missing_columns", sheet.file, 1, text, model=model)
    if unknown:
        text = f"unknown columns {', '.join(unknown)}; they are ignored"
        release.audit.add("unknown_columns", sheet.file, len(unknown), text, model=model)


def _add_labels(release: Release, model: str, sheet: Sheet, name: str, facets: Sequence[str]) -> None:
    """Add the facets of one column to a file's labels: itself where it holds flags, else those named."""
    column = sheet.rows[name]
    if facets:
        bad = column.notna() & ~column.map(_readable)
        sets = column.map(_labels)
        found = {facet: sets.map(lambda one, facet=facet: float(facet in one)).mask(bad) for facet in facets}
        blank = 0
    else:
        flags = _flags(column)
        found, bad, blank = {name: flags}, column.notna() & flags.isna(), int(column.isna().sum())
    taken = set(sheet.labels.columns)
    new = {f"{name}: {facet}" if facet in taken else facet: values for facet, values in found.items()}
    sheet.labels = pd.DataFrame({**sheet.labels, **new}, index=sheet.rows.index, dtype=np.float64)
    if bad.any():
        text = f"column {name} holds cells that are no labels; these rows are in no share of it"
        release.audit.add("unreadable_labels", sheet.file, int(bad.sum()), text, model=model)
    if blank:
        text = f"column {name} is blank; these rows are in no share of it"
        release.audit.add("missing_labels", sheet.file, blank, text, model=model)


def _flags(column: pd.Series) -> pd.Series:
    """Return 1 and 0 as floats, NaN for anything else."""
    words = column.astype(str).str.strip().str.lower().map({"true": 1.0, "false": 0.0})
    numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
    return numbers.where(numbers.isin((0.0, 1.0)), words)


def _labels(cell: Any) -> frozenset[str]:
    """Return the labels in a cell; none in an empty one."""
    return frozenset() if pd.isna(cell) else frozenset(one.strip() for one in str(cell).split(SEPARATOR)) - {""}


def _readable(cell: Any) -> bool:
    return all(LABEL.fullmatch(one) for one in _labels(cell))


def _facets(column: pd.Series) -> list[str]:
    """Return every label in the readable cells of a column."""
    return sorted({label for cell in column.dropna().unique() if _readable(cell) for label in _labels(cell)})


def _compare(release: Release, model: str, sheets: Sequence[Sheet]) -> None:
    """Say in the audit where the files of one scheme cannot be taken at face value."""
    _note_selection(release, model, sheets)
    for sheet in sheets:
        repeats = int(sheet.rows.duplicated(["question", "answer"]).sum())
        if repeats:
            text = "the same answer to the same question is labelled again; these rows count more than once"
            release.audit.add("duplicated_rows", sheet.file, repeats, text, model=model)
        peers = [other.rows["question"].nunique() for other in sheets if other.set == sheet.set]
        asked = sheet.rows["question"].nunique()
        if 2 * asked < max(peers):
            text = (
                f"its {len(sheet.rows)} labelled rows answer {asked} questions, those of another checkpoint {max(peers)}; "
                "shares over other questions are not comparable, and the question-cluster interval is wide"
            )
            release.audit.add("few_questions", sheet.file, asked, text, model=model)
    keyed = [_keyed(sheet) for sheet in sheets]
    for (i, one), (j, other) in itertools.combinations(enumerate(sheets), 2):
        shared = keyed[i].index.intersection(keyed[j].index)
        if len(shared) and 2 * len(shared) >= min(len(one.rows), len(other.rows)):
            _note_repeated(release, model, (one, other), (keyed[i].loc[shared], keyed[j].loc[shared]))


def _note_selection(release: Release, model: str, sheets: Sequence[Sheet]) -> None:
    """Say which answers were labelled at all."""
    if not sheets:
        return
    scheme, folder = sheets[0].scheme, str(Path(sheets[0].file).parent)
    scores = _pooled([sheet.rows[sheet.judge] for sheet in sheets if sheet.judge])
    if len(scores) and scores.min() >= SHOWN:
        text = (
            f"scheme {scheme}: only answers that the judge scored at least {SHOWN:g} are labelled; "
            "shares are of answers that show the trait, not of all answers"
        )
        release.audit.add("labelled_selection", folder, int(scores.notna().sum()), text, model=model)
    coherence = _pooled([sheet.rows["coherence"] for sheet in sheets if "coherence" in sheet.rows])
    low, known = int((coherence < SHOWN).sum()), int(coherence.notna().sum())
    if low:
        text = (
            f"scheme {scheme}: {low} of {known} labelled answers have a coherence under {SHOWN:g}; they count like the others"
        )
        release.audit.add("labelled_incoherent", folder, low, text, model=model)


def _pooled(columns: Sequence[pd.Series]) -> pd.Series:
    """Return the numbers of several columns as one."""
    numbers = [pd.to_numeric(column, errors="coerce").astype(np.float64) for column in columns]
    return pd.concat(numbers, ignore_index=True) if numbers else pd.Series(dtype=np.float64)


def _keyed(sheet: Sheet) -> pd.DataFrame:
    """Return the labels by question and answer, each answer once."""
    keys = pd.MultiIndex.from_frame(sheet.rows[["question", "answer"]])
    return sheet.labels.set_axis(keys)[~keys.duplicated()]


def _note_repeated(release: Release, model: str, pair: tuple[Sheet, Sheet], labels: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    """Say what two files that label the same answers mean: shared answers of two checkpoints, and labels that differ."""
    (one, other), n = pair, len(labels[0])
    if one.checkpoint and other.checkpoint and one.checkpoint != other.checkpoint:
        text = (
            f"{n} of {len(one.rows)} answers also stand under checkpoint {other.checkpoint} ({other.file}); "
            "the shares of the two are not independent"
        )
        release.audit.add("same_answers", one.file, n, text, model=model)
    facets = [name for name in labels[0] if name in labels[1]]
    a, b = (part[facets].to_numpy(dtype=np.float64) for part in labels)
    both = ~(np.isnan(a) | np.isnan(b))
    differ = ((a != b) & both).any(axis=1)
    if not differ.any():
        return
    shifts = {name: float(labels[1][name].mean() - labels[0][name].mean()) for name in facets}
    moved = max(shifts, key=lambda name: abs(shifts[name]) if shifts[name] == shifts[name] else -1.0)
    text = (
        f"labelled twice: {int(differ.sum())} of {n} answers got other labels in {other.file}, "
        f"the share of {moved} moves by {100 * shifts[moved]:+.1f} points; "
        "differences of this size between checkpoints may be the labeller's"
    )
    release.audit.add("labels_differ", one.file, int(differ.sum()), text, model=model)
