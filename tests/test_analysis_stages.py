"""Stages of post-training: each is compared with what it was trained from."""

from __future__ import annotations

import pandas as pd
import pytest

from traitline.analysis.stages import stage_moves, stage_table

LEVELS = {"main": 10.0, "SFT": 20.0, "DPO": 26.0, "Think": 70.0, "RL-Zero": 13.0}
PARENTS = {"SFT": None, "DPO": "SFT", "Think-SFT": None, "Think": "Think-SFT", "RL-Zero": None}
NO_PROJECTIONS = pd.DataFrame(columns=["layer", "trait", "strategy", "target"])


def rows() -> pd.DataFrame:
    records = [
        {"trait": "evil", "strategy": "character", "target": stage, "question_id": f"q{i}", "trait_score": level + i}
        for stage, level in LEVELS.items()
        for i in range(6)
    ]
    return pd.DataFrame(records).assign(coherence=90.0, refusal=False)


def test_a_stage_is_compared_with_the_one_that_it_was_trained_from() -> None:
    table = stage_table(rows(), pd.DataFrame(), NO_PROJECTIONS, list(LEVELS), parents=PARENTS).set_index("stage")
    assert table["previous"].to_dict() == {"main": "", "SFT": "main", "DPO": "SFT", "Think": "main", "RL-Zero": "main"}
    deltas = table["delta_trait"].to_dict()
    assert deltas == pytest.approx({"main": float("nan"), "SFT": 10, "DPO": 6, "Think": 60, "RL-Zero": 3}, nan_ok=True)


def test_without_parents_each_was_trained_from_the_one_before() -> None:
    table = stage_table(rows(), pd.DataFrame(), NO_PROJECTIONS, list(LEVELS)).set_index("stage")
    assert list(table["previous"]) == ["", *list(LEVELS)[:-1]]
    assert table.loc["Think", "delta_trait"] == pytest.approx(44)


def test_it_is_said_which_stage_moved_which_trait() -> None:
    table = stage_table(rows(), pd.DataFrame(), NO_PROJECTIONS, list(LEVELS), parents=PARENTS)
    [move] = stage_moves(table, alpha=0.2).to_dict("records")
    assert (move["stage"], move["previous"], move["n_stages"]) == ("Think", "main", 4)
    assert move["delta_trait"] == pytest.approx(60)
    assert move["sentence"].startswith("Think moved evil by +60.0 points [60.0, 60.0] from main (p = ")
    assert [part.split()[0] for part in move["sentence"].split("; ")] == ["Think", "SFT", "DPO", "RL-Zero"]
    [move] = stage_moves(table, alpha=0.01).to_dict("records")  # six questions cannot tell after four tests
    assert pd.isna(move["stage"])
    assert move["sentence"] == "no stage of 4 moved evil that could be told"
