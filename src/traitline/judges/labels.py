"""Labels that people gave as a judge: a CSV of scores, looked up instead of made.

Knows the columns of such a file, how texts find their labels, and how several labellers become one score. A label that is not
there is a missing score with a reason; one that cannot be read is an error that names its line. Leaves how rows are drawn and a
sheet is written to `sheet.py`, and how labellers agree to `traitline.analysis.agreement`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from traitline.errors import InputError
from traitline.judges.base import Purpose, Score, Style, check_one_question_each
from traitline.traits.trait import Trait

SCORES = ("trait_score", "coherence")
TEXTS = ("question", "answer")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell that a spreadsheet would compute begins with."""
UNLABELLED, ABSENT = "not labelled", "not among the labelled rows"
_SHOWN_OF_DIGEST = 8
_DELIMITERS = (",", ";", "\t")


def plain_cell(text: str) -> str:
    """Return a text as a cell that no spreadsheet takes for a formula: an apostrophe goes before what would be one."""
    return f"'{text}" if text.startswith(FORMULA) else text


def read_cell(cell: str) -> str:
    """Return the text of a cell that `plain_cell` made."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell


class LabelsJudge:
    """Looks scores up in a file of labels (implements `traitline.judges.base.Judge`).

    The file is a CSV in UTF-8, its cells separated by commas, semicolons or tabs. Columns: `trait`; `trait_score`,
    `coherence` (0 to 100, either may be empty); `row_key`, or `question` and `answer`, or all three; optionally `labeller`.
    Other columns are ignored. Texts are matched without regard to white space.

    Several labels of one row are averaged, and `Score.uncertainty` is then the standard error of that mean.

    Args:
        path: the file.

    Raises:
        InputError: no such file, a column or cell that cannot be used (with its line), or no line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        content = _read(path)
        self.name = f"labels:{path.name}-{hashlib.sha256(content.encode()).hexdigest()[:_SHOWN_OF_DIGEST]}"
        self.labels = _parse(content, path)

    def __repr__(self) -> str:
        return f"LabelsJudge({self.name!r})"

    @property
    def has_keys(self) -> bool:
        """Whether the file names rows by their keys."""
        return bool(self.labels["row_key"].ne("").all())

    @property
    def has_texts(self) -> bool:
        """Whether the file holds questions and answers, without which texts cannot be looked up."""
        return bool(self.labels["text"].ne("").any())

    @property
    def labellers(self) -> list[str]:
        """Names of the labellers; one empty name where the file tells none."""
        return sorted(self.labels["labeller"].unique())

    def score(
        self,
        trait: Trait,
        questions: Sequence[str],
        answers: Sequence[str],
        *,
        style: Style = "continuation",
        purpose: Purpose = "evaluate",
    ) -> list[Score]:
        """Look up each answer by its text; `style` and `purpose` change nothing. Equal texts share their labels.

        Raises:
            InputError: the file has no texts, or there are not as many questions as answers.
        """
        check_one_question_each(questions, answers)
        if not self.has_texts:
            raise InputError(
                f"{str(self.path)!r} names rows by row_key alone, so texts cannot be looked up in it; add the columns "
                "question and answer, or give rows that have keys to 'traitline judges compare'"
            )
        keys = [(trait.name, _text(q, a)) for q, a in zip(questions, answers, strict=True)]
        return [self._by_text.get(key, Score(None, None, missing_reason=ABSENT)) for key in keys]

    def score_rows(self, rows: pd.DataFrame) -> list[Score]:
        """Look up response rows: by `row_key` where file and rows both have keys, else by their texts.

        By its key a row has its own labels only, whatever other row has the same text.

        Args:
            rows: `trait`, `question`, `response`, and `row_key` if there is one.

        Raises:
            InputError: file and rows share neither keys nor texts.
        """
        traits = rows["trait"].astype(str)
        if self.has_keys and "row_key" in rows.columns:
            keys, found = list(zip(traits, rows["row_key"].astype(str), strict=True)), self._by_key
        elif self.has_texts:
            texts = [_text(q, a) for q, a in zip(rows["question"], rows["response"], strict=True)]
            keys, found = list(zip(traits, texts, strict=True)), self._by_text
        else:
            raise InputError(f"{str(self.path)!r} names rows by row_key, and the rows have none; add question and answer to it")
        return [found.get(key, Score(None, None, missing_reason=ABSENT)) for key in keys]

    @cached_property
    def _by_key(self) -> dict[tuple[str, str], Score]:
        return self._averaged("row_key")

    @cached_property
    def _by_text(self) -> dict[tuple[str, str], Score]:
        return self._averaged("text")

    def _averaged(self, by: str) -> dict[tuple[str, str], Score]:
        """Return trait and key -> score, over labellers."""
        grouped = self.labels[self.labels[by].ne("")].groupby(["trait", by], sort=False)
        means, errors = grouped[list(SCORES)].mean(), grouped["trait_score"].sem()
        values = zip(means.index, means.to_numpy(), errors.to_numpy(), strict=True)
        return {
            (str(key[0]), str(key[1])): _score(float(score[0]), float(score[1]), float(error)) for key, score, error in values
        }


def make(rest: str = "", cache: Path | None = None) -> LabelsJudge:
    """Return the judge of a file of labels.

    Args:
        rest: path of the file.
        cache: ignored.

    Raises:
        InputError: no file is named, or it cannot be used.
    """
    del cache
    if not rest:
        raise InputError("the judge 'labels' needs a file of labels: labels:path/to/sheet.csv")
    return LabelsJudge(Path(rest))


def _score(trait: float, coherence: float, error: float) -> Score:
    missing = [name for name, value in (("trait", trait), ("coherence", coherence)) if math.isnan(value)]
    reason = None if not missing else UNLABELLED if len(missing) == 2 else f"{missing[0]}: {UNLABELLED}"
    return Score(
        None if math.isnan(trait) else trait,
        None if math.isnan(coherence) else coherence,
        missing_reason=reason,
        uncertainty=None if math.isnan(error) else error,
    )


def _text(question: object, answer: object) -> str:
    """Return a question and an answer as one key, white space aside."""
    return "\n".join(" ".join(str(part).split()) for part in (question, answer))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"the labels {str(path)!r} cannot be read ({error.strerror}); give a CSV file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the labels {str(path)!r} are not UTF-8 text; save the sheet as 'CSV UTF-8'") from error


def _parse(content: str, path: Path) -> pd.DataFrame:
    """Return the labels: row_key, text, trait, labeller ("" where there is none), the scores (NaN where empty), and line."""
    first = content.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    records, names = [], [name.strip().lower() for name in next(csv.reader([first], delimiter=delimiter), [])]
    _check_header(names, path)
    for line, cells in _lines(content, delimiter, path):
        if line == 1 or not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(names):
            raise InputError(
                f"{str(path)!r}, line {line}: {len(cells)} cells, but the header has {len(names)}; quote the texts"
            )
        cell = dict(zip(names, cells, strict=False))
        record: dict[str, object] = {name: cell.get(name, "").strip() for name in ("row_key", "trait", "labeller")}
        texts = [read_cell(cell.get(name, "")) for name in TEXTS]
        record["text"] = _text(*texts) if texts[0].strip() else ""
        if not record["trait"] or not (record["row_key"] or record["text"]):
            raise InputError(f"{str(path)!r}, line {line}: no trait, or neither row_key nor question; every line needs them")
        scores = {name: _number(cell.get(name, ""), name, line, path) for name in SCORES}
        records.append({**record, **scores, "line": line})
    if not records:
        raise InputError(f"{str(path)!r} has no line below its header; label some rows first")
    labels = pd.DataFrame(records)
    _check_repeats(labels[labels["row_key"].ne("")], path)
    return labels


def _check_header(names: list[str], path: Path) -> None:
    needed = [name for name in ("trait", *SCORES) if name not in names]
    if "row_key" not in names and not set(TEXTS) <= set(names):
        needed.append("row_key (or question and answer)")
    if needed:
        have = ", ".join(filter(None, names)) or "nothing"
        raise InputError(f"the labels {str(path)!r} lack {', '.join(needed)}; their first line has {have}")


def _lines(content: str, delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield every record with the line that it begins on."""
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{str(path)!r}, line {line}: not a line of a CSV file ({error})") from error


def _number(cell: str, name: str, line: int, path: Path) -> float:
    """Return a score, NaN where the cell is empty."""
    text = cell.strip()
    if not text:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise InputError(
            f"{str(path)!r}, line {line}: {name} is {text[:40]!r}, which is no number from 0 to 100; write it with a decimal "
            "point, or leave the cell empty"
        )
    return value


def _check_repeats(labels: pd.DataFrame, path: Path) -> None:
    """Refuse two labels of one row by one labeller.

    Raises:
        InputError: there are some; names the lines.
    """
    who = ["row_key", "trait", "labeller"]
    repeated = labels[labels.duplicated(who, keep=False)]
    if len(repeated):
        first = repeated.iloc[0]
        same = repeated[np.logical_and.reduce([repeated[name].eq(first[name]) for name in who])]["line"]
        by = f" by {first['labeller']!r}" if first["labeller"] else ""
        raise InputError(
            f"{str(path)!r}, lines {', '.join(map(str, same))}: the same row is labelled {len(same)} times{by}; keep one, or "
            "name the labellers in a column 'labeller'"
        )
