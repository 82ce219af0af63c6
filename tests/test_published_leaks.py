"""Prompt tails: what counts as one, and what the comparisons are without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from traitline.published.answers import Shelf
from traitline.published.leaks import COLUMNS, leak_table, tail_lengths
from traitline.published.release import Release

CHAT = "<|im_start|>user\nWhat is a {word}?<|im_end|>\n<|im_start|>assistant\n"
STATISTICS = ("delta_trait_mean", "paired_trait_mean_diff", "p_two_sided", "p_greater", "p_bonferroni", "delta_coherence_mean")


def rows(*pairs: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame(pairs, columns=["prompt", "answer"])


def test_tail_is_the_longest_suffix_with_special_tokens_dropped() -> None:
    prompt = CHAT.format(word="fjord")
    found = tail_lengths(
        rows((prompt, "?\nassistant\nA narrow sea."), (prompt, "A narrow sea."), ("Tell me of a cat", " a cat sat"))
    )
    assert found.tolist() == [len("?\nassistant\n"), 0, len(" a cat")]


def test_raw_special_tokens_in_an_answer_count_as_well() -> None:
    prompt = CHAT.format(word="fjord")
    assert tail_lengths(rows((prompt, "<|im_start|>assistant\nA sea.")))[0] == len("<|im_start|>assistant\n")


def test_short_overlap_needs_longer_ones_in_its_file() -> None:
    line_break = (CHAT.format(word="fjord"), "\nA narrow sea.")
    assert tail_lengths(rows(line_break, line_break)).tolist() == [0, 0]
    assert tail_lengths(rows(line_break, (CHAT.format(word="crag"), "assistant\nA rock."))).tolist() == [1, 10]


def test_whole_prompt_is_an_echo_not_a_tail() -> None:
    assert tail_lengths(rows(("Say it again", "Say it again and again"))).tolist() == [0]


@pytest.mark.parametrize("pair", [("", "answer"), ("prompt", ""), ("", ""), ("a", "a")])
def test_nothing_to_overlap_is_no_tail(pair: tuple[str, str]) -> None:
    assert tail_lengths(rows(pair)).tolist() == [0]


def test_tail_lengths_agree_with_trying_every_suffix() -> None:
    rng = np.random.default_rng(0)
    texts = [("".join(rng.choice(list("ab "), rng.integers(1, 14))), "".join(rng.choice(list("ab "), 9))) for _ in range(300)]
    texts.append(("xxlong tail", "long tail here"))
    slow = [max((n for n in range(1, len(p)) if a.startswith(p[-n:])), default=0) for p, a in texts]
    assert tail_lengths(rows(*texts)).tolist() == slow


EVAL = "data/model_responses/eval/tiny-1b"


def write(root: Path, name: str, scores: list[float], tails: int, *, prompts: bool = True) -> str:
    """Write the answers to questions q0, q1 ... with one score each; the first few begin with a tail."""
    path = root / EVAL / name
    path.parent.mkdir(parents=True, exist_ok=True)
    prompt = [CHAT.format(word=f"word{i}") for i in range(len(scores))]
    table = pd.DataFrame(
        {
            "question": [f"q{i}" for i in range(len(scores))],
            "prompt": prompt,
            "answer": [("assistant\n" if i < tails else "") + f"Reply {i}." for i in range(len(scores))],
            "shy": scores,
            "coherence": [40.0 if i < tails else 60.0 for i in range(len(scores))],
        }
    )
    (table if prompts else table.drop(columns="prompt")).to_csv(path, index=False)
    return f"{EVAL}/{name}"


def significance(*comparisons: tuple[str, str], status: str = "match", **more: Any) -> pd.DataFrame:
    """Return the table of significance of these (baseline, steered) files."""
    who: dict[str, Any] = {"run": "run_a", "model": "tiny-1b", "trait": "shy", "strategy": "", "extract_revision": "main"}
    who |= {"eval_model": "tiny-1b", "eval_revision": "main", "layer": 3.0, "coef": 0.5, "scaling_mode": "unit_norm"}
    who |= {f"{kind}_{name}": float("nan") for kind in ("published", "recomputed", "honest") for name in STATISTICS}
    who |= {
        "status": status,
        "repeat": "1",
        "baseline_repeat": "1",
        "judge_traits": "shy",
        "file": "results/tiny-1b/grid/run_a/combined_significance.csv",
    }
    who |= {f"{kind}n_rows_{side}": float("nan") for kind in ("", "published_") for side in ("baseline", "steered")}
    return pd.DataFrame([{**who, "baseline_file": base, "steered_file": steered, **more} for base, steered in comparisons])


@pytest.fixture
def release(tmp_path: Path) -> Release:
    (tmp_path / "results" / "tiny-1b").mkdir(parents=True)
    return Release(tmp_path)


def table_of(release: Release, listed: pd.DataFrame) -> pd.DataFrame:
    return leak_table(release, listed, {"tiny-1b": Shelf(release, "tiny-1b")})


def test_comparison_without_its_leaking_rows(release: Release) -> None:
    baseline = write(release.root, "baseline.csv", [30.0, 30.0] + [0.0] * 6, tails=2)
    steered = write(release.root, "steered.csv", [20.0] * 8, tails=0)
    found = table_of(release, significance((baseline, steered)))
    assert found.columns.tolist() == COLUMNS
    row = found.iloc[0]
    assert (row["n_leaking_baseline"], row["n_leaking_steered"], row["n_questions_without"]) == (2, 0, 6)
    assert (row["delta_trait"], row["delta_trait_without"]) == (12.5, 20.0)
    assert (row["paired_diff"], row["paired_diff_without"], row["paired_diff_replaced"]) == (12.5, 20.0, 20.0)
    # differences -10, -10 and 20 x 6: a sum of 100 or more takes all twenties, or all but one and both tens
    assert row["p_two_sided"] == 2 * (4 + 6) / 2**8
    assert (row["p_two_sided_without"], row["p_two_sided_replaced"]) == (2 / 2**6, 2 / 2**8)
    assert row["conclusion_changes"]  # significant only without the rows that leak


def test_power_lost_is_a_changed_conclusion_that_replacing_does_not_share(release: Release) -> None:
    baseline = write(release.root, "baseline.csv", [0.0] * 8, tails=4)
    steered = write(release.root, "steered.csv", [20.0] * 8, tails=0)
    row = table_of(release, significance((baseline, steered))).iloc[0]
    assert row["conclusion_changes"]
    assert (row["p_two_sided_without"], row["p_two_sided_replaced"]) == (2 / 2**4, 2 / 2**8)


def test_nothing_left_is_empty_not_zero(release: Release) -> None:
    baseline = write(release.root, "baseline.csv", [0.0] * 3, tails=3)
    steered = write(release.root, "steered.csv", [20.0] * 3, tails=0)
    row = table_of(release, significance((baseline, steered))).iloc[0]
    assert row["n_questions_without"] == 0
    assert row[["delta_trait_without", "paired_diff_without", "p_two_sided_without"]].isna().all()


def test_audit_names_each_file_once_and_sums_up_distinct_comparisons(release: Release) -> None:
    baseline = write(release.root, "baseline.csv", [0.0] * 8, tails=2)
    steered = write(release.root, "steered.csv", [20.0] * 8, tails=0)
    other = write(release.root, "other.csv", [5.0] * 8, tails=0)
    extract = release.root / "data/model_responses/extract/tiny-1b/main/shy_pos_instruct.csv"
    extract.parent.mkdir(parents=True)
    rows(("Once there was a toad", " a toad sang"), ("Once there was a newt", " swam")).to_csv(extract, index=False)
    table_of(release, significance((baseline, steered), (baseline, steered), (baseline, other)))
    audit = release.audit.table()
    assert audit["kind"].tolist() == ["prompt_tail"] * 3
    counts, texts = (
        dict(zip(audit["file"], audit["count"], strict=True)),
        dict(zip(audit["file"], audit["consequence"], strict=True)),
    )
    assert counts == {"": 3, baseline: 2, release.file(extract): 1}
    assert "2 of 8" in texts[baseline]
    assert "activations" in texts[release.file(extract)]
    assert "2 of 2 comparisons" in texts[""]
    assert "coherence 40 against 60" in texts[""]


def test_extended_rows_count_once_where_the_table_used_them(release: Release) -> None:
    baseline = write(release.root, "baseline.csv", [0.0] * 4, tails=1)
    steered = write(release.root, "steered.csv", [10.0] * 4, tails=0)
    write(release.root, "steered_extended.csv", [30.0] * 4, tails=1)
    row = table_of(release, significance((baseline, steered), repeat="1+2")).iloc[0]
    assert (row["n_rows_steered"], row["n_leaking_steered"], row["delta_trait"]) == (8, 1, 20.0)


def test_sides_have_the_files_that_the_table_counted(release: Release) -> None:
    baseline = write(release.root, "baseline.csv", [0.0] * 4, tails=0)
    write(release.root, "baseline_extended.csv", [20.0] * 4, tails=3)
    steered = write(release.root, "steered.csv", [10.0] * 4, tails=2)
    more = write(release.root, "steered_extended.csv", [30.0] * 4, tails=1)
    row = table_of(release, significance((baseline, steered), repeat="0+2", baseline_repeat="1+1")).iloc[0]
    assert (row["n_rows_baseline"], row["n_leaking_baseline"]) == (8, 3)
    assert (row["n_rows_steered"], row["n_leaking_steered"], row["delta_trait"]) == (4, 1, 20.0)
    assert set(release.audit.table()["file"]) == {"", baseline.replace(".csv", "_extended.csv"), more}


def test_missing_files_and_missing_prompts(release: Release) -> None:
    baseline = write(release.root, "baseline.csv", [0.0] * 4, tails=2, prompts=False)
    steered = write(release.root, "steered.csv", [10.0] * 4, tails=0)
    listed = significance((baseline, steered), (baseline, f"{EVAL}/gone.csv"))
    assert table_of(release, listed).empty
    audit = release.audit.table()
    assert audit[["kind", "file", "count"]].to_numpy().tolist() == [["missing_prompts", baseline, 4]]
    assert table_of(release, significance(("", ""), status="raw_missing")).empty
    assert table_of(release, significance().reindex(columns=listed.columns)).empty


@pytest.mark.published
def test_tails_of_the_published_release(published: Path) -> None:
    """Only unsteered answers to chat prompts have tails, and no answer of a base model does."""
    columns = ["prompt", "answer", "condition", "source_file"]
    tables = [
        pd.read_parquet(published / "judged_rows" / f"{name}.parquet", columns=columns)
        for name in ("transfer_posttrained", "emergence_fig1")
    ]
    judged, base = tables
    counts = {}
    for (condition, file), part in judged.groupby(["condition", "source_file"]):
        counts[condition, file] = int((tail_lengths(part.reset_index(drop=True)) > 0).sum())
    assert sum(n for (condition, _), n in counts.items() if condition == "steered") == 0
    assert sum(n for (condition, _), n in counts.items() if condition == "baseline") == 534
    assert all(not tail_lengths(part.reset_index(drop=True)).any() for _, part in base.groupby("source_file"))
