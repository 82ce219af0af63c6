"""Anybody's table of answers as response rows, so that judges can be compared on it.

Knows the columns that such a table needs and those it may have, and the layout of the published rows, which tells comparisons
and pairs. Leaves reading files to `responses.py`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from traitline.analysis import effects
from traitline.analysis.conclusions import CONTRAST, EVALUATION
from traitline.errors import InputError

NEEDED = ("trait", "question", "answer")
ALL_CONDITIONS = "all"


def answer_rows(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return a table of answers in the columns of response rows; those of the published layout keep their comparisons.

    Raises:
        InputError: a column is missing.
    """
    if "response" in table.columns and "answer" not in table.columns:
        table = table.rename(columns={"response": "answer"})
    lacking = [name for name in NEEDED if name not in table.columns]
    if lacking:
        have = ", ".join(map(str, table.columns))
        raise InputError(f"{str(path)!r} lacks the columns {', '.join(lacking)}; it has {have}. Needed are {', '.join(NEEDED)}")
    rows = table.rename(columns={"answer": "response"})
    for name in ("trait", "question", "response"):
        rows[name] = rows[name].fillna("").astype(str)
    published = {"extract_revision", "eval_revision", "judge_column", "model"} <= set(rows.columns)
    rows = _published(rows) if published else rows
    condition = rows["condition"].astype(object) if "condition" in rows else pd.Series(ALL_CONDITIONS, index=rows.index)
    rows["condition"] = condition.where(condition.notna() & condition.ne(""), ALL_CONDITIONS).astype(str)
    contrast = rows["condition"].isin(["pos", "neg"])
    rows["table"] = np.where(contrast, CONTRAST, EVALUATION) if "table" not in rows else rows["table"]
    if "polarity" not in rows:
        rows["polarity"] = rows["condition"].where(contrast, None)
    defaults: dict[str, Any] = {"refusal": False, "finish": "eos", "judge": ""}
    defaults["split"] = np.where(contrast, "elicit", "evaluate")
    for name, value in defaults.items():
        if name not in rows:
            rows[name] = value
    for name in ("trait_score", "coherence", "layer", "coef", "control_seed", "tokens"):
        rows[name] = numbers(rows[name], name) if name in rows else np.nan
    for name in (*effects.ROW_COLUMNS, "checkpoint", "instruction_id", "sample"):
        if name not in rows:
            rows[name] = rows["question"] if name == "question_id" else None
    rows["response_token_ids"] = rows["response"].str.split()
    rows["row_key"] = rows["row_key"].astype(str) if "row_key" in rows else _keys(rows)
    again = rows["row_key"].duplicated()
    if again.any():
        key = rows.loc[again, "row_key"].iloc[0]
        raise InputError(
            f"{str(path)!r} has the row_key {key!r} more than once; every row needs its own, or leave the column out"
        )
    return rows.reset_index(drop=True)


def numbers(column: pd.Series, name: str) -> pd.Series:
    """Return a column as numbers, NaN where it is empty.

    Raises:
        InputError: a cell holds something else; names its row.
    """
    if pd.api.types.is_numeric_dtype(column):
        return column.astype(float)
    values = pd.to_numeric(column, errors="coerce").astype(float)
    bad = values.isna() & column.notna() & column.astype(str).str.strip().ne("")
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"column {name!r} holds {str(column.iloc[row])[:40]!r} in row {row + 1}, which is no number; correct it"
        )
    return values


def _published(rows: pd.DataFrame) -> pd.DataFrame:
    """Name what the published layout tells: whose vector steers whom, and which files are pairs of one another."""
    steered = rows["condition"].eq("steered")
    contrast = rows["condition"].isin(["pos", "neg"])
    pair = rows["source_file"].astype(str).str.replace(r"_(pos|neg)_instruct", "", regex=True)
    return rows.assign(
        lineage=rows["model"],
        checkpoint=rows["eval_revision"],
        target=rows["eval_revision"],
        strategy=rows["judge_column"],
        vector_checkpoint=rows["extract_revision"].where(steered, None),
        vector_trait=rows["trait"].where(steered, None),
        vector_strategy=rows["judge_column"].where(steered, None),
        dose=pd.Series("published", index=rows.index).where(steered, None),
        positions=pd.Series("response", index=rows.index).where(steered, None),
        question_id=rows["question"].where(~contrast, "pair"),
        instruction_id=pair,
        sample=rows["row"],
        style=rows["judge_column"].str.contains("character|stor|dialog", regex=True).map({True: "continuation", False: "chat"}),
        control_kind=None,
    )


def _keys(rows: pd.DataFrame) -> list[str]:
    """Return a key per row that depends on its texts alone, the number of its repetition included."""
    texts = rows["trait"] + "\x00" + rows["question"] + "\x00" + rows["response"]
    numbered = texts + "\x00" + rows.groupby(texts).cumcount().astype(str)
    return [hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest() for text in numbered]
