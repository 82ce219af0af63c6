"""The responses a reader can browse: a seeded sample of pairs, baseline beside steered.

Knows where response rows lie and how a pair is matched: same network, question and sample. The texts are written by models and
are never trusted: they leave this module as plain strings, and whoever shows them must show them as text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from traitline.report.tables import Run

MOST_PAIRS = 3000
MOST_BYTES = 2_000_000
MOST_CHARACTERS = 4000
IDENTITY = ("row_key", "target", "trait", "strategy", "split", "condition", "control_kind", "control_seed")
STEERING = ("vector_checkpoint", "vector_trait", "vector_strategy", "layer", "dose", "coef", "positions")
CONTENT = ("question_id", "question", "sample", "response", "finish", "trait_score", "coherence", "refusal", "missing_reason")
COLUMNS = (*IDENTITY, *STEERING, *CONTENT)
CELL = ["target", "trait", "strategy", "question_id", "sample"]
GROUP = ["kind", "target", "trait", "strategy", "vector_checkpoint", "condition", "coef"]


@dataclass(frozen=True, slots=True)
class Responses:
    """A sample of pairs.

    Attributes:
        questions: every question asked in the sample.
        sides: every response shown: text, trait score, coherence, finish, refusal, reason of a missing score.
        pairs: kind, trait, strategy, vector checkpoint, target, condition, dose, and the places of the question, the baseline
            and the other response.
        total: how many pairs the run has.
        unread: files that could not be read, with the reason.
    """

    questions: list[str]
    sides: list[list[Any]]
    pairs: list[list[Any]]
    total: int
    unread: list[str]


def sample_responses(run: Run, *, most_pairs: int = MOST_PAIRS, most_bytes: int = MOST_BYTES) -> Responses:
    """Draw pairs of responses: as many from every condition of every cell as there is room for, by the study's seed.

    Args:
        run: the run.
        most_pairs: pairs at most.
        most_bytes: bytes of text at most, as JSON; fewer pairs are drawn where these are long.
    """
    unread: list[str] = []
    frames = list(_pairs(run.path, unread))
    if not frames:
        return Responses([], [], [], 0, unread)
    pairs = pd.concat(frames, ignore_index=True)
    order = _drawing_order(pairs, run.seed)
    chosen = order[:most_pairs]
    while True:
        found = _collected(pairs.loc[np.sort(chosen)], len(pairs), unread)
        size = len(json.dumps([found.questions, found.sides, found.pairs], ensure_ascii=False).encode("utf-8", "replace"))
        if size <= most_bytes or len(chosen) <= 1:
            return found
        chosen = chosen[: max(1, int(len(chosen) * 0.95 * most_bytes / size))]


def _pairs(path: Path, unread: list[str]) -> Iterator[pd.DataFrame]:
    """Yield the pairs of every response file, noting the files that cannot be read."""
    for kind, pattern in (("emergence", "cells/*/*/*/evaluation.parquet"), ("transfer", "targets/*/*/*/transfer.parquet")):
        for file in sorted(path.glob(pattern)):
            try:
                present = [name for name in COLUMNS if name in pq.read_schema(file).names]
                rows = pq.read_table(file, columns=present).to_pandas().reindex(columns=list(COLUMNS))
            except (OSError, pa.ArrowException) as error:
                unread.append(f"{file.relative_to(path)}: {error}")
                continue
            rows = rows[rows["split"] == "evaluate"]
            baseline = rows[rows["condition"] == "baseline"].drop_duplicates(CELL)
            others = rows[~rows["condition"].isin(["baseline", "bootstrap"])]
            joined = others.merge(baseline[[*CELL, *CONTENT[3:]]], on=CELL, suffixes=("", "_baseline"))
            yield joined.assign(kind=kind)


def _drawing_order(pairs: pd.DataFrame, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the pairs in the order they are drawn: one of every group, then another of every group, and so on."""
    ordered = pairs.sort_values(["row_key"], kind="stable").index.to_numpy()
    shuffled = pairs.loc[np.random.default_rng(seed).permutation(ordered)]
    turn = shuffled.groupby(GROUP, dropna=False, sort=False).cumcount().to_numpy()
    return shuffled.index.to_numpy()[np.argsort(turn, kind="stable")].astype(np.int64)


def _collected(pairs: pd.DataFrame, total: int, unread: list[str]) -> Responses:
    """Return the pairs with every question and response stored once."""
    questions: dict[str, int] = {}
    sides: dict[tuple[Any, ...], int] = {}
    rows = []
    for record in pairs.to_dict("records"):
        question = questions.setdefault(_text(record["question"]), len(questions))
        places = [
            sides.setdefault((*(record[name] for name in CELL), record["row_key"] if not end else "", *side), len(sides))
            for end, side in ((end, _side(record, end)) for end in ("_baseline", ""))
        ]
        condition = _text(record["condition"])
        if isinstance(record["control_kind"], str) and record["control_kind"] != condition:
            condition = f"{condition} ({record['control_kind']})"
        names = [_text(record[name]) for name in ("kind", "trait", "strategy", "vector_checkpoint", "target")]
        rows.append([*names, condition, _number(record["layer"]), _number(record["coef"]), question, *places])
    return Responses(list(questions), [list(key[len(CELL) + 1 :]) for key in sides], rows, total, unread)


def _side(record: dict[Any, Any], end: str) -> tuple[Any, ...]:
    refusal = record[f"refusal{end}"]
    return (
        _text(record[f"response{end}"]),
        _number(record[f"trait_score{end}"]),
        _number(record[f"coherence{end}"]),
        _text(record[f"finish{end}"]),
        bool(refusal) if pd.notna(refusal) else False,
        _text(record[f"missing_reason{end}"]),
    )


def _text(value: Any) -> str:
    """Return a text, cut where it is very long; empty where there is none."""
    if not isinstance(value, str):
        return "" if value is None or pd.isna(value) else str(value)
    cut = f" … (cut here; {len(value)} characters in all)"
    return value if len(value) <= MOST_CHARACTERS else value[:MOST_CHARACTERS] + cut


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else round(float(value), 2)
