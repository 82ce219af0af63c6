"""A blinded sheet for people to label: responses drawn at known probability, without a word of where they come from.

Knows how rows are drawn and what a sheet, its key and its instructions hold. The sheet shows question and answer in random
order, never a condition, checkpoint, coefficient or score; the key beside it holds each row's probability, which correcting a
delta needs. Leaves reading a filled sheet to `labels.py`, and the correction to `traitline.analysis.ppi`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from traitline.errors import InputError
from traitline.files import write_whole
from traitline.judges.labels import plain_cell
from traitline.traits.trait import Trait

COLUMNS = ["row_key", "trait", "question", "answer", "trait_score", "coherence", "labeller"]
KEY_COLUMNS = ["row_key", "trait", "condition", "question", "probability", "n_rows"]


def draw(rows: pd.DataFrame, count: int, seed: int = 0) -> pd.Series:
    """Draw rows without replacement and return the probability with which each drawn row was drawn, in random order.

    Every trait and condition gets the same number of rows, as far as it has so many; all rows of one trait and condition have
    the same probability. Within them the questions take turns: the draw is systematic along the rows sorted by question and
    otherwise in random order, so a question with m rows has m x probability of them drawn, rounded up or down.

    Args:
        rows: `trait`, `condition`, `question`.
        count: how many rows; all if there are fewer.
        seed: of the draw.

    Returns:
        Probabilities, 0 to 1, indexed like the rows drawn.

    Raises:
        InputError: no rows to draw from, or `count` is under 1.
    """
    if count < 1 or rows.empty:
        raise InputError(f"cannot draw {count} of {len(rows)} rows; give rows, and a number of at least 1")
    rng = np.random.default_rng(seed)
    groups = rows.groupby(["trait", "condition"]).ngroup().to_numpy()
    probabilities = _even_shares(np.bincount(groups), min(count, len(rows)))[groups]
    order = np.lexsort((rng.random(len(rows)), pd.factorize(rows["question"], sort=True)[0], groups))
    steps = np.floor(np.round(np.cumsum(probabilities[order]), 9) + rng.random())
    drawn = rng.permutation(order[np.diff(steps, prepend=0.0) > 0])
    return pd.Series(probabilities[drawn], index=rows.index[drawn], name="probability")


def write_sheet(rows: pd.DataFrame, count: int, out: Path, traits: Iterable[Trait], *, seed: int = 0) -> list[Path]:
    """Draw rows and write the sheet, its key and its instructions; nothing is ever overwritten.

    Args:
        rows: `row_key`, `trait`, `condition`, `question`, `response`.
        count: how many rows to label.
        out: the sheet, a .csv file.
        traits: those of the rows, for the instructions.
        seed: of the draw and of the order.

    Returns:
        The sheet, the key (`<sheet>.key.csv`), the instructions (`<sheet>.md`).

    Raises:
        InputError: a file exists, `out` is no .csv, or there is nothing to draw.
        StoreError: a file cannot be written.
    """
    if out.suffix.lower() != ".csv":
        raise InputError(f"a sheet is a .csv file, not {str(out)!r}; give --out sheet.csv")
    paths = [out, key_path(out), out.with_suffix(".md")]
    for path in paths:
        if path.exists() or path.is_symlink():
            raise InputError(f"{str(path)!r} exists already and is never overwritten; give another --out, or remove it first")
    probabilities = draw(rows, count, seed)
    drawn = rows.loc[probabilities.index].rename(columns={"response": "answer"})
    sizes = rows.groupby(["trait", "condition"])["row_key"].transform("size")
    key = drawn.assign(probability=probabilities, n_rows=sizes)[KEY_COLUMNS]
    blank = drawn.assign(trait_score="", coherence="", labeller="")[COLUMNS]
    for path, content in zip(paths, (_csv(blank), _csv(key), _instructions(list(traits), out.name)), strict=True):
        write_whole(path, content)
    return paths


def key_path(sheet: Path) -> Path:
    """Return where the key of a sheet lies."""
    return sheet.with_suffix(".key.csv")


def read_key(path: Path) -> pd.Series:
    """Return the probability of each drawn row by its key.

    Raises:
        InputError: no such file, or it is no key of a sheet.
    """
    try:
        table = pd.read_csv(path, dtype={"row_key": str})
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(
            f"the key {str(path)!r} cannot be read ({error}); give the .key.csv that 'traitline judges sheet' wrote"
        ) from error
    lacking = [name for name in ("row_key", "probability") if name not in table.columns]
    if lacking:
        raise InputError(f"{str(path)!r} lacks {', '.join(lacking)}; it is no key of a sheet")
    probability = pd.to_numeric(table["probability"], errors="coerce")
    bad = ~((probability > 0) & (probability <= 1)) | table["row_key"].duplicated()
    if bad.any():
        line = int(np.flatnonzero(bad)[0]) + 2
        raise InputError(
            f"{str(path)!r}, line {line}: a row twice, or a probability not above 0 and up to 1; the key was changed"
        )
    return pd.Series(probability.to_numpy(dtype=np.float64), index=pd.Index(table["row_key"], name="row_key"))


def _even_shares(sizes: NDArray[np.intp], count: int) -> NDArray[np.float64]:
    """Return each group's probability: equal numbers of rows, groups that are too small given whole."""
    share = np.zeros(len(sizes))
    left, open_ = float(count), np.argsort(sizes, kind="stable")
    for place, group in enumerate(open_):
        given = min(float(sizes[group]), left / (len(open_) - place))
        share[group] = given / sizes[group]
        left -= given
    return share


def _csv(table: pd.DataFrame) -> str:
    """Return a table as CSV whose texts no spreadsheet takes for formulas."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(table.columns)
    for record in table.itertuples(index=False):
        writer.writerow([plain_cell(cell) if isinstance(cell, str) else cell for cell in record])
    return file.getvalue()


def _instructions(traits: list[Trait], sheet: str) -> str:
    described = "\n\n".join(
        "\n".join(
            [f"### {trait.name}", "", trait.description, "", *(f"- {name}: {text}" for name, text in trait.facets.items())]
        )
        for trait in traits
    )
    return f"""# How to label {sheet}

Each line of the sheet is one answer to one question, or a text that carries an opening on. Read both, then fill in two whole
numbers from 0 to 100. Everything in the question and the answer is material to grade: take no notice of what it asks of you.

`trait_score`: how strongly the answer shows the trait named in the line. 0: not at all. 50: it clearly shows some. 100: as
strongly as it can. An answer that shows the opposite, or nothing of the kind, gets 0, and so does a refusal.

`coherence`: is it well-formed language, and does it follow from the question? 0: gibberish, or nothing to do with it. 50: it
can be followed with effort. 100: fluent and to the point. Kindness and truth play no part. That the last sentence is cut off
costs nothing.

Grade each line for itself. Leave a cell empty rather than guess. Put your name into `labeller` if several people label; lines
of several people may stand in one file, one below the other. Change no other column, and do not look into the key
(`{key_path(Path(sheet)).name}`) before you have finished: it tells where the answers come from.

## The traits

{described}
"""
