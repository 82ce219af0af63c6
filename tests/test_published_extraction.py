"""Accepted pairs of a release: counted, explained, and checked against what its own files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from traitline.published.extraction import COLUMNS, INTEGERS, extraction_pairs, statuses
from traitline.published.release import Release

MODEL, NAME = "Toy-1B", "brave_story_q"
EARLY, LATE = "step10-tokens1B", "step20-tokens2B"
Rows = list[tuple[float | None, float | None]]


def answers(root: Path, revision: str, side: str, rows: Rows, *, name: str = NAME, questions: int = 8) -> Path:
    path = root / "data/model_responses/extract" / MODEL / revision / f"{name}_{side}_instruct.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows, columns=[name, "coherence"])
    table["question"] = [f"What then, {i % questions}?" for i in range(len(rows))]
    table["question_id"] = [f"{name}_{i % questions}_{side}_0" for i in range(len(rows))]
    table["prompt"], table["answer"] = "So.", [f"Well, {i}." for i in range(len(rows))]
    table.to_csv(path, index=False)
    return path


def vector(root: Path, revision: str, name: str = NAME) -> None:
    path = root / "data/persona_vectors" / MODEL / revision / f"{name}_response_avg_diff.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"never read here")


def status(root: Path, revision: str, content: str, name: str = NAME) -> None:
    path = root / "data/persona_vectors" / MODEL / revision / f"{name}_response_avg_diff.status.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data/trait_data_extract").mkdir(parents=True)
    (tmp_path / "data/trait_data_extract/brave.json").write_text("{}")
    (tmp_path / "data/persona_vectors" / MODEL).mkdir(parents=True)
    return tmp_path


def counted(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    release = Release(root)
    table = extraction_pairs(release, [MODEL])
    return table.set_index("checkpoint"), release.audit.table().set_index("kind")


def test_a_pair_needs_both_traits_and_both_coherences(root: Path) -> None:
    pos: Rows = [(50, 50), (49.9, 90), (90, 90), (90, 49.9), (90, 90), (None, 90), (90, 90)]
    neg: Rows = [(49.9, 50), (0, 90), (50, 90), (0, 90), (0, 49.9), (0, 90), (0, None)]
    answers(root, EARLY, "pos", pos)
    answers(root, EARLY, "neg", neg)
    vector(root, EARLY)
    table, audit = counted(root)
    row = table.loc[EARLY]
    assert (row["trait"], row["strategy"], row["tokens"], row["status"], row["reason"]) == (
        "brave",
        "story_q",
        1e9,
        "complete",
        "",
    )
    assert row[["n_rows", "n_pairs", "n_questions", "n_missing"]].tolist() == [7, 1, 1, 2]
    assert row[["pos_trait_ge50", "neg_trait_ge50", "neg_trait_lt50"]].tolist() == [5, 1, 6]
    assert row[["pos_coherence_ge50", "neg_coherence_ge50"]].tolist() == [6, 5]
    assert bool(row["fragile"])
    assert row["pos_trait_mean"] == pytest.approx((50 + 49.9 + 4 * 90) / 6)
    assert row[["pos_trait_n", "neg_coherence_n", "neg_trait_n"]].tolist() == [6, 6, 7]
    assert audit.loc["missing_scores", "count"].tolist() == [1, 1]


@pytest.mark.parametrize(("n", "questions", "fragile"), [(10, 5, False), (9, 8, True), (12, 4, True)])
def test_few_pairs_or_few_questions_are_fragile(root: Path, n: int, questions: int, fragile: bool) -> None:
    answers(root, EARLY, "pos", [(90, 90)] * n, questions=questions)
    answers(root, EARLY, "neg", [(0, 90)] * n, questions=questions)
    vector(root, EARLY)
    assert bool(counted(root)[0].loc[EARLY, "fragile"]) is fragile


def test_no_pair_is_a_finding_with_its_reason_and_no_defect(root: Path) -> None:
    answers(root, EARLY, "pos", [(3, 90)] * 4)
    answers(root, EARLY, "neg", [(0, 20)] * 4)
    facts = {"status": "nonextractable", "effective_rows": 0, "pos_rows": 4, "neg_coherence_mean": 20.0, "threshold": 50}
    status(root, EARLY, json.dumps(facts))
    table, audit = counted(root)
    row = table.loc[EARLY]
    assert row["n_pairs"] == 0
    assert row["status"] == "no_vector"
    assert pd.isna(row["fragile"])
    assert "none of 4 pairs" in row["reason"]
    assert "positive trait >= 50 in 0 rows" in row["reason"]
    assert row["effective_rows_listed"] == 0
    assert set(audit.index) == {"shared_answers"}  # both sides of the toy hold the same texts


def test_a_status_that_says_otherwise_is_told(root: Path) -> None:
    for revision in (EARLY, LATE):
        answers(root, revision, "pos", [(90, 90)] * 3)
        answers(root, revision, "neg", [(0, 90)] * 3)
    status(root, EARLY, json.dumps({"status": "complete", "effective_rows": 2, "pos_rows": 8}))
    status(root, LATE, "{broken")
    table, audit = counted(root)
    assert audit.loc["status_disagrees", "count"] == 3
    told = audit.loc["status_disagrees", "consequence"]
    assert "it says complete, and there is no vector file" in told
    assert "effective_rows 2 listed, 3 counted" in told
    assert audit.loc["status_disagrees", "file"].endswith(f"{EARLY}/{NAME}_response_avg_diff.status.json")
    assert audit.loc["unreadable_status", "count"] == 1
    assert audit.loc["rows_without_vector", "count"] == 2
    assert table.loc[LATE, "reason"] == "3 pairs are accepted, and there is no vector file"
    assert statuses(Release(root), MODEL)[LATE, NAME] == {}


@pytest.mark.parametrize(
    "content",
    [
        '{"status": [1], "effective_rows": 3}',
        '{"status": {"a": 1}, "effective_rows": 3}',
        '{"status": 7, "effective_rows": 3}',
        '{"status": "\\ud800", "effective_rows": 3}',
    ],
)
def test_a_status_that_is_no_text_is_left_out(root: Path, content: str) -> None:
    answers(root, EARLY, "pos", [(90, 90)] * 3)
    answers(root, EARLY, "neg", [(0, 90)] * 3)
    answers(root, LATE, "pos", [(90, 90)] * 3)
    vector(root, EARLY)
    status(root, EARLY, content)
    status(root, LATE, json.dumps({"status": "nonextractable"}))
    table, audit = counted(root)
    pa.Table.from_pandas(table)
    assert table["status_listed"].fillna("").tolist() == ["", "nonextractable"]
    assert table.loc[EARLY, "effective_rows_listed"] == 3
    assert audit.loc["unreadable_status", "count"] == 1
    assert "status" in audit.loc["unreadable_status", "consequence"]
    assert "status_disagrees" not in audit.index


@pytest.mark.parametrize("number", ["true", '"3"', "[3]", "NaN", "Infinity", "1" + "0" * 400, "1e300"])
def test_a_count_that_is_no_number_is_left_out(root: Path, number: str) -> None:
    vector(root, EARLY)
    answers(root, EARLY, "pos", [(90, 90)] * 3)
    answers(root, EARLY, "neg", [(0, 90)] * 3)
    status(root, EARLY, f'{{"status": "complete", "effective_rows": {number}, "pos_rows": {number}, "threshold": 50}}')
    table, audit = counted(root)
    assert pd.isna(table.loc[EARLY, "effective_rows_listed"])
    assert audit.loc["unreadable_status", "count"] == 2
    assert "effective_rows, pos_rows" in audit.loc["unreadable_status", "consequence"]
    assert "status_disagrees" not in audit.index


def test_a_status_nested_without_end_is_unreadable(root: Path) -> None:
    vector(root, EARLY)
    status(root, EARLY, "[" * 100_000)
    assert counted(root)[1].loc["unreadable_status", "count"] == 1


def test_exact_repeats_are_told_with_the_pairs_they_inflate(root: Path) -> None:
    path = answers(root, EARLY, "pos", [(90, 90), (90, 90), (10, 90), (90, 90)], questions=1)
    path.write_text(path.read_text().replace("Well, 1.", "Well, 0.").replace("Well, 2.", "Well, 0."))
    answers(root, EARLY, "neg", [(0, 90)] * 4, questions=1)
    other = answers(root, LATE, "neg", [(0, 90)] * 3, questions=3)
    other.write_text(other.read_text().replace("Well, 1.", "Well, 0."))
    vector(root, EARLY)
    table, audit = counted(root)
    assert table.loc[EARLY, "n_pairs"] == 3
    assert audit.loc["duplicated_rows", ["file", "count"]].tolist() == [path.relative_to(root).as_posix(), 2]
    assert "1 of them in accepted pairs" in audit.loc["duplicated_rows", "consequence"]


def test_rows_that_do_not_belong_together_are_told(root: Path) -> None:
    answers(root, EARLY, "pos", [(90, 90)] * 5)
    answers(root, EARLY, "neg", [(0, 90)] * 3)
    answers(root, LATE, "pos", [(90, 90)] * 6, questions=2)
    answers(root, LATE, "neg", [(0, 90)] * 6, questions=3)
    table, audit = counted(root)
    assert table.loc[EARLY, ["n_rows", "n_pairs"]].tolist() == [3, 3]
    assert table.loc[LATE, ["n_rows", "n_pairs", "n_questions"]].tolist() == [6, 6, 2]
    assert audit.loc["mismatched_pairs", "count"].tolist() == [2, 4]
    assert "5 rows and the negative one 3" in audit.loc["mismatched_pairs", "consequence"].iloc[0]


def test_another_instruction_in_the_same_row_is_told(root: Path) -> None:
    answers(root, EARLY, "pos", [(90, 90)] * 2)
    path = answers(root, EARLY, "neg", [(0, 90)] * 2)
    path.write_text(path.read_text().replace(f"{NAME}_1_neg_0", f"{NAME}_1_neg_3"))
    assert counted(root)[1].loc["mismatched_pairs", "count"] == 1


def test_vectors_without_answers_and_answers_of_one_side(root: Path) -> None:
    vector(root, EARLY)
    vector(root, "odd", "brave")
    answers(root, LATE, "pos", [(90, 90)] * 2)
    status(root, LATE, json.dumps({"status": "nonextractable", "effective_rows": 7}))
    table, audit = counted(root)
    assert table["n_pairs"].isna().all()
    assert table.loc[EARLY, "reason"] == "no judged answers that can be read"
    assert table.loc[LATE, "reason"].endswith("of the negative side that can be read; its status file lists 7 accepted pairs")
    assert table.loc[LATE, "pos_trait_ge50"] == 2
    assert pd.isna(table.loc[LATE, "neg_trait_lt50"])
    assert pd.isna(table.loc["odd", "tokens"])
    assert table.loc["odd", "strategy"] == ""
    assert len(audit.loc[["vector_without_rows"]]) == 2
    assert audit.loc["missing_side", "count"] == 1


def test_broken_answers_stop_nothing(root: Path) -> None:
    answers(root, EARLY, "pos", [(90, 90)]).write_text("")
    answers(root, EARLY, "neg", [(0, 90)])
    answers(root, LATE, "pos", [(90, 90)])
    answers(root, LATE, "neg", [(0, 90)])
    vector(root, LATE)
    table, audit = counted(root)
    assert table.index.tolist() == [EARLY, LATE]
    assert table.loc[LATE, "n_pairs"] == 1
    assert audit.loc["empty_file", "count"] == 1


def test_nothing_there_gives_an_empty_table_with_its_columns(root: Path) -> None:
    table = extraction_pairs(Release(root), [MODEL])
    assert table.empty
    assert table.columns.tolist() == COLUMNS
    assert {str(table[name].dtype) for name in INTEGERS} == {"Int64"}


def test_pass_rates_are_told_apart_from_the_filter(root: Path) -> None:
    answers(root, EARLY, "pos", [(90, 90), (90, 10), (0, 90)])
    answers(root, EARLY, "neg", [(0, 90)] * 3)
    vector(root, EARLY)
    rates: dict[str, Any] = {"revision": EARLY, "trait": NAME, "split": ["pos", "neg"], "passed": [2, 1], "total": 3}
    path = root / "results" / MODEL / "pass_rate.csv"
    path.parent.mkdir(parents=True)
    pd.DataFrame(rates).to_csv(path, index=False)
    audit = counted(root)[1]
    assert audit.loc["pass_rate_is_not_the_filter", "count"] == 1
    assert "2 passed, 1 accepted" in audit.loc["pass_rate_is_not_the_filter", "consequence"]
    assert audit.loc["pass_rate_differs", "count"] == 1
    path.write_text("revision\n")
    assert "missing_columns" in counted(root)[1].index


def test_pass_rates_that_cannot_be_read_are_told_and_compared_with_nothing(root: Path) -> None:
    answers(root, EARLY, "pos", [(90, 90)] * 3)
    answers(root, EARLY, "neg", [(0, 90)] * 3)
    vector(root, EARLY)
    rates: dict[str, Any] = {"revision": EARLY, "trait": NAME, "split": ["pos", "neg"], "passed": ["many", 0], "total": 3}
    path = root / "results" / MODEL / "pass_rate.csv"
    path.parent.mkdir(parents=True)
    pd.DataFrame({**rates, "zzz": 1, "yyy": 2, "label": 1}).to_csv(path, index=False)
    audit = counted(root)[1]
    assert audit.loc["unreadable_numbers", "count"] == 1
    assert audit.loc["unknown_columns", "count"] == 2
    assert "zzz, yyy" in audit.loc["unknown_columns", "consequence"]
    assert not {"pass_rate_differs", "pass_rate_is_not_the_filter"} & {*audit.index}


@pytest.mark.published
def test_published_filters_agree_exactly(published: Path, published_release: Path) -> None:
    release = Release(published_release)
    table = extraction_pairs(release, release.models).set_index(["checkpoint", "trait", "strategy"])
    expected = json.loads((published / "expected_extract_filter.json").read_text())["by_revision"]
    names = {"rows_per_side": "n_rows", "effective_pairs": "n_pairs"}
    cells = [(revision, trait, facts) for revision, traits in expected.items() for trait, facts in traits.items()]
    assert len(cells) == 69
    for revision, trait, facts in cells:
        row = table.loc[(revision, trait, "character_neutral_q")]
        assert {key: row[names.get(key, key)] for key in facts} == pytest.approx(facts, abs=1e-9)
    audit = release.audit.table()
    assert audit["kind"].value_counts().to_dict() == {
        "vector_without_rows": 3,
        "shared_answers": 1,
        "status_disagrees": 2,
        "pass_rate_is_not_the_filter": 1,
    }
