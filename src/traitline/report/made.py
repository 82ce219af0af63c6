"""How a study was made, as the page tells it: settings, versions, what was generated and judged, and what is missing.

Knows the response files and the ledger of a run directory. A file that cannot be read costs its own numbers alone. Leaves the
words around the numbers to `html/page.html`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from traitline.report.responses import read_columns
from traitline.report.tables import Run

# what the page calls them, and where they lie
ROWS = (
    ("contrast rows", "cells/*/*/*/contrast.parquet"),
    ("evaluated rows", "cells/*/*/*/evaluation.parquet"),
    ("transfer rows", "targets/*/*/*/transfer.parquet"),
)
COUNTED = ("condition", "polarity", "trait_score", "refusal", "finish", "missing_reason")
SIDES = {"pos": "told to show the trait", "neg": "told not to"}


@dataclass(frozen=True)
class Made:
    """How a study was made.

    Attributes:
        written_by: the software that wrote the page.
        settings: every field of `study.yaml` under its dotted name.
        counts: per kind of rows and condition: rows, missing scores, refusals, answers cut at the length limit.
        reasons: why scores are missing -> how many.
        effort: per judge or phase of the run, what the ledger says it took, in words.
        failed: the cells that failed, with their reasons.
    """

    written_by: str
    settings: dict[str, str]
    counts: list[dict[str, Any]]
    reasons: dict[str, int]
    effort: list[str]
    failed: list[str]


def how_made(run: Run) -> Made:
    """Collect how a study was made from its directory, whatever of it is there."""
    table = _rows(run.path)
    reasons = table.loc[table["reason"] != ""].groupby("reason")["rows"].sum().sort_values(ascending=False)
    return Made(
        written_by=written_by(),
        settings=flat(run.settings),
        counts=_counts(table),
        reasons={str(reason): int(rows) for reason, rows in reasons.items()},
        effort=_effort(run.path / "ledger.sqlite"),
        failed=_failed(run),
    )


def flat(settings: object, name: str = "") -> dict[str, str]:
    """Return nested settings as dotted name -> value in words; a list of plain values is one value.

    Lists of mappings with a `name` are told by those names, so that two lists can be compared entry by entry.
    """
    if isinstance(settings, dict):
        items = [(str(key), value) for key, value in settings.items()]
    elif isinstance(settings, list) and settings and all(isinstance(one, dict) and "name" in one for one in settings):
        items = [(str(one["name"]), {key: value for key, value in one.items() if key != "name"} or None) for one in settings]
    else:
        return {name: _worded(settings)}
    found: dict[str, str] = {}
    for key, value in items:
        found |= flat(value, f"{name}.{key}" if name else key)
    return found


def written_by() -> str:
    """Name the software that writes the page, with its version."""
    try:
        return f"traitline {version('traitline')}"
    except PackageNotFoundError:
        return "traitline"


def _worded(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_worded, value)) or "none"
    if value is None:
        return "not set"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _rows(path: Path) -> pd.DataFrame:
    """Count the response rows of every kind, condition and reason of a missing score."""
    frames = [frame.assign(what=what) for what, pattern in ROWS for frame in _counted(path, pattern)]
    columns = ["what", "condition", "reason", "rows", "missing", "refusals", "cut"]
    if not frames:
        return pd.DataFrame({name: [] for name in columns})
    rows = pd.concat(frames, ignore_index=True)
    side = rows["polarity"].map(SIDES)
    rows["condition"] = side.where(side.notna(), rows["condition"].fillna("").astype(str))
    rows["reason"] = rows["missing_reason"].fillna("").astype(str)
    return rows[columns].groupby(["what", "condition", "reason"], sort=False, as_index=False).sum()


def _counted(path: Path, pattern: str) -> Iterator[pd.DataFrame]:
    """Yield, per file, the counts of every condition, polarity and reason."""
    for file in sorted(path.glob(pattern)):
        try:
            rows = read_columns(file, COUNTED)
        except (OSError, pa.ArrowException):
            continue
        marks = {
            "rows": pa.array(np.ones(len(rows), dtype=np.int64)),
            "missing": pc.is_null(rows["trait_score"], nan_is_null=True).cast(pa.int64()),
            "refusals": pc.equal(rows["refusal"].cast(pa.bool_()), True).fill_null(False).cast(pa.int64()),
            "cut": pc.equal(rows["finish"].cast(pa.string()), "length").fill_null(False).cast(pa.int64()),
        }
        keys = ("condition", "polarity", "missing_reason")
        table = pa.table({**{name: rows[name].cast(pa.string()) for name in keys}, **marks})
        counts: pd.DataFrame = table.group_by(list(keys)).aggregate([(name, "sum") for name in marks]).to_pandas()
        yield counts.rename(columns={f"{name}_sum": name for name in marks})


def _counts(table: pd.DataFrame) -> list[dict[str, Any]]:
    numbers = ["rows", "missing", "refusals", "cut"]
    if table.empty:
        return []
    order = {what: i for i, (what, _) in enumerate(ROWS)}
    grouped = table.groupby(["what", "condition"], sort=False, as_index=False)[numbers].sum()
    grouped = grouped.sort_values("what", key=lambda names: names.map(order), kind="stable")
    return [{str(name): value for name, value in record.items()} for record in grouped.to_dict("records")]


def _effort(path: Path) -> list[str]:
    """Say what the ledger tells of the time of batches and the cost of judging; nothing where there is none."""
    if not path.is_file():
        return []
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5)) as ledger:
            batches = ledger.execute("select count(*), sum(rows), sum(generate_seconds), sum(judge_seconds) from batches")
            number, rows, generating, judging = batches.fetchone()
            judges = ledger.execute("select judge, rows, requests, prompt_tokens, completion_tokens from judging").fetchall()
    except sqlite3.Error:
        return []
    said = []
    if number:
        said.append(
            f"{rows or 0:,} rows in {number:,} batches: {_minutes(generating)} of generating, {_minutes(judging)} of judging."
        )
    for judge, scored, requests, prompt, completion in judges:
        cost = f", {requests:,} requests, {prompt:,} + {completion:,} tokens" if requests else ""
        said.append(f"Judge {judge}: {scored or 0:,} rows scored{cost}.")
    return said


def _minutes(seconds: float | None) -> str:
    return "an unknown time" if seconds is None else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _failed(run: Run) -> list[str]:
    """Name the failed cells, with the reasons that the extraction table gives."""
    table, reasons = run.tables["emergence"], run.tables["extraction"]
    told: dict[tuple[str, ...], str] = {}
    if "reason" in reasons.columns:
        keys = zip(reasons["checkpoint"], reasons["trait"], reasons["strategy"], strict=True)
        told = dict(zip((tuple(map(str, key)) for key in keys), reasons["reason"].fillna("").astype(str), strict=True))
    failed = table.loc[table["status"] == "failed", ["vector_checkpoint", "trait", "strategy"]].drop_duplicates()
    cells = [tuple(map(str, key)) for key in failed.to_numpy()]
    return [" / ".join(key) + (f": {told[key]}" if told.get(key) else "") for key in cells]
