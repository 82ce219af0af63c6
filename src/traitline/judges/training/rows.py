"""The published scores as one clean table: prompt tails cut off, held-out rows and folds marked.

Knows the columns of the published tables and which rows a judge may be fitted on. Leaves what is done with them to others.

Three kinds of rows are never fitted on: those of two whole checkpoints (made by them, or steered with a vector made from
them), those of one post-trained model, and, for each purpose, those of the other purpose's questions.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pandas as pd

from traitline.errors import InputError

TABLES = ("emergence_fig1", "extract_pos_neg", "transfer_posttrained", "transfer_to_main")
SOURCE = "epfl-dlab/pretraining_persona at c793393, OLMo-3 part (Apache-2.0)"
JUDGE = "gpt-4.1-mini-2025-04-14"
HELD_CHECKPOINTS = ("stage1-step15000", "stage1-step707000")
HELD_MODELS = ("Olmo-3-7B-Instruct-DPO",)
_MARKUP = re.compile(r"<\|[^|>]*\|>")
_SHORTEST_TAIL = 4


def read_rows(directory: Path, limit: int | None = None, seed: int = 0) -> pd.DataFrame:
    """Read the published tables.

    Args:
        directory: holds the four parquet files.
        limit: how many rows to draw; None keeps all.
        seed: which ones.

    Returns:
        A row per answer: trait, question, answer (without the tail of its prompt), raw_answer, trait_score and coherence (0 to
        100), condition, format (character or chat), model, eval_revision, source_file, table, `split` (`train`, `checkpoint`
        or `model`) and `fold` (`accept` or `evaluate`).

    Raises:
        InputError: a table is missing.
    """
    parts = []
    for name in TABLES:
        path = directory / f"{name}.parquet"
        if not path.is_file():
            raise InputError(f"{path} is not there; name the folder judged_rows of the published scores")
        parts.append(pd.read_parquet(path).assign(table=name))
    rows = pd.concat(parts, ignore_index=True).dropna(subset=["trait_score", "coherence", "answer"])
    if limit is not None and limit < len(rows):
        rows = rows.sample(limit, random_state=seed).reset_index(drop=True)
    rows["format"] = rows["judge_column"].str.contains("character").map({True: "character", False: "chat"})
    rows["raw_answer"] = rows["answer"]
    rows["answer"] = [cut_tail(*pair) for pair in zip(rows["prompt"], rows["answer"], strict=True)]
    rows["split"] = _splits(rows)
    rows["fold"] = _folds(rows)
    texts = ["question", "answer", "raw_answer"]
    kept = [
        "trait",
        *texts,
        "trait_score",
        "coherence",
        "condition",
        "format",
        "model",
        "eval_revision",
        "source_file",
        "table",
    ]
    return rows[[*kept, "split", "fold"]].reset_index(drop=True)


def cut_tail(prompt: str, answer: str) -> str:
    """Return an answer without the end of its prompt, which some published answers begin with (4 characters or more)."""
    longest = 0
    for text in (prompt.rstrip(), _MARKUP.sub("", prompt).rstrip()):
        sizes = range(min(len(text), len(answer)), _SHORTEST_TAIL - 1, -1)
        longest = max(longest, next((size for size in sizes if answer.startswith(text[-size:])), 0))
    return answer[longest:].lstrip("\n") if longest else answer


def _splits(rows: pd.DataFrame) -> pd.Series:
    of_checkpoint = rows["eval_revision"].isin(HELD_CHECKPOINTS) | rows["extract_revision"].isin(HELD_CHECKPOINTS)
    split = pd.Series("train", index=rows.index)
    split[of_checkpoint] = "checkpoint"
    split[rows["model"].isin(HELD_MODELS)] = "model"
    return split


def _folds(rows: pd.DataFrame) -> pd.Series:
    """Half of each trait's extraction questions are for acceptance, all other questions for evaluation."""
    extraction = rows["table"].eq("extract_pos_neg")
    accepting: set[tuple[str, str]] = set()
    for trait, part in rows[extraction].groupby("trait"):
        questions = sorted(set(part["question"]), key=lambda text: hashlib.sha256(text.encode()).hexdigest())
        accepting |= {(str(trait), question) for question in questions[: len(questions) // 2]}
    return pd.Series(
        ["accept" if pair in accepting else "evaluate" for pair in zip(rows["trait"], rows["question"], strict=True)],
        index=rows.index,
    )
