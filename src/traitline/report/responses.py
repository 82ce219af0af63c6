"""The responses a reader can browse: every pair of an evaluated response and its baseline, as far as the page has room.

Knows where response rows lie and how a pair is matched: same network, question and sample. Files are read twice, first without
their texts to choose the pairs, then for the chosen texts alone, so that a run of any size fits in memory. The texts are
written by models and are never trusted: they leave this module packed, and whoever shows them must show them as text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from traitline.report.packing import Dictionary, packed
from traitline.report.panels import Dose
from traitline.report.tables import Run

MOST_PAIRS = 400_000
MOST_BYTES = 48_000_000
MOST_CHARACTERS = 4000
PATTERNS = (("emergence", "cells/*/*/*/evaluation.parquet"), ("transfer", "targets/*/*/*/transfer.parquet"))
CELL = ["target", "trait", "strategy", "question_id", "sample"]
IDENTITY = (*CELL, "split", "condition", "control_kind", "vector_checkpoint", "layer", "dose", "coef", "positions")
CONTENT = ("response", "finish", "trait_score", "coherence", "refusal", "missing_reason")
NAMES = ("kind", "trait", "strategy", "vector", "target", "condition", "dose")
LEFT_OUT = ("baseline", "bootstrap")
NONE = -1
REFUSAL, CUT = 1, 2  # bits of a side's flags


@dataclass(frozen=True, slots=True)
class Responses:
    """What of a run can be browsed.

    Attributes:
        packed: the pairs as `html/browser.js` unpacks them; empty where there are none.
        n_pairs: how many pairs that holds.
        total: how many the run has.
        n_responses: how many different responses it holds, baselines among them.
        unread: files that could not be read, with the reason.
    """

    packed: str = ""
    n_pairs: int = 0
    total: int = 0
    n_responses: int = 0
    unread: list[str] = field(default_factory=list)


def browsable_responses(run: Run, *, most_pairs: int = MOST_PAIRS, most_bytes: int = MOST_BYTES) -> Responses:
    """Pack the pairs of a run: all where there is room, else as many of every condition of every cell, by the study's seed.

    Args:
        run: the run.
        most_pairs: pairs at most.
        most_bytes: bytes of text at most, before packing.
    """
    unread: list[str] = []
    names = {name: Dictionary() for name in NAMES}
    files: list[Path] = []
    frames = []
    for kind, file, rows in _read(run.path, (*IDENTITY, "response"), unread):
        frames.append(_pairs(rows, names, kind).assign(file=len(files)))
        files.append(file)
    pairs = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    if pairs.empty:
        return Responses(unread=unread)
    kept = pairs.loc[_chosen(pairs, run.seed, most_pairs, most_bytes)]
    return _collected(kept, files, {name: found.names for name, found in names.items()}, len(pairs), unread)


def _read(path: Path, columns: Sequence[str], unread: list[str]) -> Iterator[tuple[str, Path, pa.Table]]:
    """Yield kind, file and rows of every response file, noting the files that cannot be read."""
    for kind, pattern in PATTERNS:
        for file in sorted(path.glob(pattern)):
            try:
                yield kind, file, read_columns(file, columns)
            except (OSError, pa.ArrowException) as error:
                unread.append(f"{file.relative_to(path)}: {error}")


def read_columns(file: Path, columns: Sequence[str]) -> pa.Table:
    """Read columns of a file of rows; those it lacks are empty.

    Raises:
        OSError: the file cannot be read.
        pyarrow.ArrowException: it is no Parquet file.
    """
    with pq.ParquetFile(file) as opened:
        found = opened.read([name for name in columns if name in opened.schema_arrow.names], use_threads=False)
    found = found.replace_schema_metadata(None)  # pandas' own, which tells of columns that were not read
    for name in columns:
        if name not in found.column_names:
            found = found.append_column(name, pa.nulls(len(found)))
    return found


def _pairs(rows: pa.Table, names: dict[str, Dictionary], kind: str) -> pd.DataFrame:
    """Return the pairs of a file: the places of both rows in it, the bytes of their texts, and the codes of their names."""
    frame = rows.drop_columns(["response"]).to_pandas()
    frame["bytes"] = pc.fill_null(pc.binary_length(rows["response"].cast(pa.string())), 0).to_numpy()
    frame["place"] = np.arange(len(frame))
    frame = frame[frame["split"] == "evaluate"]
    baseline = frame.loc[frame["condition"] == "baseline", [*CELL, "place", "bytes"]].drop_duplicates(CELL)
    others = frame[~frame["condition"].isin(LEFT_OUT)]
    joined = others.merge(baseline, on=CELL, how="left", suffixes=("", "_baseline"))
    shown: dict[str, Sequence[str] | NDArray[np.object_]] = {
        "kind": [kind] * len(joined),
        "trait": _worded(joined, ["trait"], str),
        "strategy": _worded(joined, ["strategy"], str),
        "vector": _worded(joined, ["vector_checkpoint"], str),
        "target": _worded(joined, ["target"], str),
        "condition": _worded(joined, ["condition", "control_kind"], _condition),
        "dose": _worded(joined, ["layer", "dose", "coef", "positions"], _dose),
    }
    coded = {name: names[name].codes(values) for name, values in shown.items()}
    places = {
        "other": joined["place"].astype(np.int64),
        "baseline": joined["place_baseline"].fillna(NONE).astype(np.int64),
        "bytes": joined["bytes"].astype(np.int64),
        "bytes_baseline": joined["bytes_baseline"].fillna(0).astype(np.int64),
    }
    return pd.DataFrame({**coded, **places})


def _worded(rows: pd.DataFrame, columns: Sequence[str], word: Callable[..., str]) -> NDArray[np.object_]:
    """Return each row's words for the values of some columns, found once for equal rows; a missing value is an empty text."""
    codes = np.zeros(len(rows), dtype=np.int64)
    for name in columns:
        of_column, found = pd.factorize(rows[name])
        codes = codes * (len(found) + 1) + of_column + 1
    _, firsts, groups = np.unique(codes, return_index=True, return_inverse=True)
    values = zip(*(rows[name].iloc[firsts] for name in columns), strict=True)
    said = [word(*("" if value is None or value != value else value for value in one)) for one in values]
    return np.array(said, dtype=object)[groups]


def _condition(condition: str, kind: str) -> str:
    """Name what was done to a row, with the kind of its control."""
    return f"{condition} ({kind})" if kind not in ("", condition) else condition


def _dose(layer: Any, dose: str, coef: Any, positions: str) -> str:
    """Name the dose of a row; empty where it has none."""
    return "" if layer == "" or coef == "" else Dose(int(layer), dose, float(coef), positions).label


def _chosen(pairs: pd.DataFrame, seed: int, most_pairs: int, most_bytes: int) -> NDArray[np.int64]:
    """Return the pairs there is room for, in their own order: one of every group, then another of every group, and so on."""
    drawn = pairs
    if len(pairs) > most_pairs or _text_bytes(pairs).sum() > most_bytes:
        shuffled = pairs.iloc[np.random.default_rng(seed).permutation(len(pairs))]
        turn = shuffled.groupby(list(NAMES), sort=False).cumcount().to_numpy()
        drawn = shuffled.iloc[np.argsort(turn, kind="stable")].iloc[:most_pairs]
        room = _text_bytes(drawn).cumsum() <= most_bytes
        drawn = drawn[room] if room.any() else drawn.iloc[:1]
    return np.sort(drawn.index.to_numpy().astype(np.int64))


def _text_bytes(pairs: pd.DataFrame) -> pd.Series:
    """Return the bytes that each pair adds; a baseline that several share counts once."""
    fresh = ~pairs.duplicated(["file", "baseline"])
    return pairs["bytes"] + pairs["bytes_baseline"] * fresh


def _collected(
    pairs: pd.DataFrame, files: Sequence[Path], names: dict[str, list[str]], total: int, unread: list[str]
) -> Responses:
    """Pack the pairs with every question and response stored once."""
    texts, reasons = Dictionary(), Dictionary()
    reasons.codes([""])
    sides: list[dict[str, NDArray[Any]]] = []
    ends: list[dict[str, NDArray[Any]]] = []
    n_sides = 0
    for number, part in pairs.groupby("file", sort=True):
        used = np.unique(part[["baseline", "other"]].to_numpy())
        used = used[used != NONE]
        rows = read_columns(files[int(str(number))], ("question", *CONTENT)).take(pa.array(used))
        sides.append(_sides(rows, texts, reasons))
        other, baseline = (np.searchsorted(used, part[end].to_numpy()) for end in ("other", "baseline"))
        question = texts.codes(_cut(rows["question"]))[other]
        missing = part["baseline"].to_numpy() == NONE
        ends.append({"question": question, "other": n_sides + other, "baseline": np.where(missing, NONE, n_sides + baseline)})
        n_sides += len(used)
    columns = {name: pairs[name].to_numpy() for name in NAMES}
    columns |= {name: np.concatenate([one[name] for one in ends]) for name in ends[0]}
    columns |= {f"side_{name}": np.concatenate([one[name] for one in sides]) for name in sides[0]}
    meaning = {"names": names, "reasons": reasons.names}
    return Responses(packed(columns, texts.names, meaning), len(pairs), total, n_sides, unread)


def _sides(rows: pa.Table, texts: Dictionary, reasons: Dictionary) -> dict[str, NDArray[Any]]:
    """Return what is shown of each response: text, scores in hundredths, flags, and the reason of a missing score."""
    refusal = rows["refusal"].to_pandas().eq(True).to_numpy()
    cut = rows["finish"].to_pandas().eq("length").to_numpy()
    return {
        "text": texts.codes(_cut(rows["response"])),
        "trait": _hundredths(rows["trait_score"]),
        "coherence": _hundredths(rows["coherence"]),
        "flags": REFUSAL * refusal.astype(np.uint8) + CUT * cut.astype(np.uint8),
        "reason": reasons.codes([value or "" for value in rows["missing_reason"].to_pylist()]),
    }


def _hundredths(column: pa.ChunkedArray) -> NDArray[np.int32]:
    """Return scores as whole hundredths, `NONE` where one is missing."""
    values = pd.to_numeric(column.to_pandas(), errors="coerce").to_numpy(dtype=np.float64)
    return np.where(np.isfinite(values), np.rint(100 * np.nan_to_num(values)), NONE).astype(np.int32)


def _cut(column: pa.ChunkedArray) -> list[str]:
    """Return texts, each cut where it is very long; empty where there is none."""
    return [
        text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} … (cut here; {len(text)} characters in all)"
        for text in (value or "" for value in column.to_pylist())
    ]
