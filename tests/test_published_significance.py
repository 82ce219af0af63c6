"""Published tables of significance, recomputed: every status on a small release, and the paper's own numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import small_release
from small_release import answers
from traitline.published.answers import Shelf
from traitline.published.release import Release
from traitline.published.significance import STATISTICS, UNCORRECTED, significance_table


def table_of(root: Path) -> tuple[pd.DataFrame, Release]:
    release = Release(root)
    return significance_table(release, release.models, {name: Shelf(release, name) for name in release.models}), release


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The recomputed table of the small release."""
    return table_of(small_release.build(tmp_path_factory.mktemp("release")))[0]


def test_a_status_is_found_for_every_row(small: pd.DataFrame) -> None:
    found = {run: part["status"].tolist() for run, part in small.groupby("run")}
    assert found["grid"] == ["match", "double_counted", "raw_missing", "differs", "match"]
    assert found["to_main"] == ["baseline_overwritten"] * 3
    assert found["chat_v1"] == ["match", "match"]
    assert small.loc[~small["status"].eq("match"), "reason"].str.len().min() > 10


def test_matching_rows_agree_with_the_listed_sign_vectors(small: pd.DataFrame) -> None:
    rows = small[small["status"].isin(["match", "double_counted"])]
    for name in STATISTICS:
        gap = (rows[f"published_{name}"] - rows[f"recomputed_{name}"]).abs().max()
        assert gap <= (4e-6 if name.startswith("p_") else 1e-9), name


def test_repeated_rows_are_counted_once_in_the_honest_numbers(small: pd.DataFrame) -> None:
    row = small[small["status"] == "double_counted"].iloc[0]
    assert (row["n_rows_steered"], row["honest_n_rows_steered"], row["repeat"]) == (18 + 2 * 30, 18 + 30, "1+2")
    baseline, steered, more = answers(1, 20), answers(11, 30), answers(21, 30, samples=5)
    honest = small_release.compare(baseline, pd.concat([steered, more]), small_release.NAME, 5)
    assert row["honest_delta_trait_mean"] == pytest.approx(honest["delta_trait_mean"], abs=1e-9)
    assert row["honest_p_two_sided"] == pytest.approx(honest["trait_primary_p_two_sided"], abs=4e-6)
    assert abs(row["honest_delta_trait_mean"] - row["recomputed_delta_trait_mean"]) > 1e-3


def test_names_are_split_and_kept_verbatim(small: pd.DataFrame) -> None:
    assert set(small["trait"]) == {"gloomy"}
    assert set(small["strategy"]) == {"character_plain"}
    chat = small[small["run"] == "chat_v1"].iloc[0]
    assert (chat["eval_model"], chat["eval_revision"]) == (small_release.CHILD, small_release.CHILD)
    assert chat["scaling_mode"] == ""


def test_merged_files_keep_the_number_of_tests_of_their_source(tmp_path: Path) -> None:
    root = small_release.build(tmp_path)
    grid = pd.read_csv(root / f"results/{small_release.MODEL}/checkpoint_grid/grid/combined_significance.csv")
    small_release.write_run(root, small_release.MODEL, "checkpoint_grid", "merged", grid.iloc[:2].to_dict("records"))
    table, _ = table_of(root)
    merged = table[table["run"] == "merged"]
    assert merged["bonferroni_tests"].iloc[1] == len(small_release.REVISIONS)
    assert (merged["published_p_bonferroni"] - merged["recomputed_p_bonferroni"]).abs().max() < 1e-9


GRID = f"results/{small_release.MODEL}/checkpoint_grid/grid/combined_significance.csv"


def test_numbers_that_cannot_be_read_are_told_and_not_taken_for_equal(tmp_path: Path) -> None:
    root = small_release.build(tmp_path)
    frame = pd.read_csv(root / GRID)
    frame.astype({"trait_primary_p_two_sided": object}).assign(trait_primary_p_two_sided="bad").to_csv(root / GRID, index=False)
    table, release = table_of(root)
    row = table[table["run"] == "grid"].iloc[0]
    assert row["status"] == "match"
    assert "not compared: p_two_sided" in row["reason"]
    audit = release.audit.table()
    assert audit.loc[audit["kind"] == "unreadable_numbers", "count"].tolist() == [5]


def test_the_reason_names_the_mean_that_differs(tmp_path: Path) -> None:
    root = small_release.build(tmp_path)
    path = root / f"data/model_responses/eval/{small_release.MODEL}/main/main/steered.csv"
    frame = pd.read_csv(path)
    frame.assign(coherence=frame["coherence"] - 5).to_csv(path, index=False)
    row = table_of(root)[0].query("run == 'grid' and extract_revision == 'main'").iloc[0]
    assert row["status"] == "differs"
    assert "steered file has a mean coherence" in row["reason"]


def test_without_a_common_question_there_is_no_p_and_no_corrected_one(tmp_path: Path) -> None:
    root = small_release.build(tmp_path)
    path = root / f"data/model_responses/eval/{small_release.MODEL}/main/main/steered.csv"
    frame = pd.read_csv(path)
    frame.assign(question="Another one " + frame["question"]).to_csv(path, index=False)
    row = table_of(root)[0].query("run == 'grid' and extract_revision == 'main'").iloc[0]
    assert row["n_questions"] == 0
    assert row[["recomputed_p_two_sided", "recomputed_p_bonferroni", "honest_p_bonferroni"]].isna().all()


def test_repeated_table_rows_and_impossible_paths_are_told(tmp_path: Path) -> None:
    root = small_release.build(tmp_path)
    frame = pd.read_csv(root / GRID)
    frame.loc[0, "output_path"] = "data/" + "x" * 400 + ".csv"
    pd.concat([frame, frame.iloc[[4]]]).to_csv(root / GRID, index=False)
    table, release = table_of(root)
    assert table[table["run"] == "grid"]["status"].iloc[0] == "raw_missing"
    assert "duplicated_rows" in set(release.audit.table()["kind"])


def test_a_row_tested_by_signs_is_tested_by_signs(tmp_path: Path) -> None:
    root = small_release.build(tmp_path)
    frame = pd.read_csv(root / GRID).assign(trait_primary_test="sign_test")
    frame["trait_primary_p_two_sided"], frame["trait_primary_p_greater"] = 2 / 64, 1 / 64  # all six questions moved up
    frame["trait_primary_p_two_sided_bonferroni_within_trait"] = 10 / 64
    frame.to_csv(root / GRID, index=False)
    row = table_of(root)[0].query("run == 'grid' and extract_revision == 'main'").iloc[0]
    assert row["status"] == "match"
    assert row["recomputed_p_bonferroni"] == pytest.approx(10 / 64)


@pytest.mark.parametrize("damage", ["empty", "unknown_column", "no_score", "garbage"])
def test_a_damaged_answer_file_costs_its_own_rows_only(tmp_path: Path, damage: str) -> None:
    root = small_release.build(tmp_path)
    path = root / f"data/model_responses/eval/{small_release.MODEL}/main/main/steered.csv"
    frame = pd.read_csv(path)
    if damage == "empty":
        path.write_text("", encoding="utf-8")
    elif damage == "unknown_column":
        frame.assign(mood="odd").to_csv(path, index=False)
    elif damage == "no_score":
        frame.drop(columns=small_release.NAME).to_csv(path, index=False)
    else:
        path.write_bytes(b"\xff\xfe\x00\x01garbage")
    table, release = table_of(root)
    row = table[(table["run"] == "grid") & (table["extract_revision"] == "main")].iloc[0]
    assert row["status"] == ("match" if damage == "unknown_column" else "raw_missing")
    audit = release.audit.table()
    assert audit["file"].str.endswith("main/main/steered.csv").any()
    assert (table["status"] != "raw_missing").sum() >= 8


@pytest.mark.parametrize("content", ["", "trait\n", "nonsense,columns\n1,2\n"])
def test_a_broken_result_table_is_an_audit_row(tmp_path: Path, content: str) -> None:
    root = small_release.build(tmp_path)
    path = root / f"results/{small_release.MODEL}/checkpoint_grid/grid/combined_significance.csv"
    path.write_text(content, encoding="utf-8")
    table, release = table_of(root)
    assert set(table["run"]) == {"to_main", "chat_v1"}
    assert release.audit.table()["file"].str.endswith("grid/combined_significance.csv").any()


@pytest.fixture(scope="module")
def paper(published: Path, published_release: Path) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The recomputed table of the paper's release, and the expected rows."""
    expected = json.loads((published / "expected_significance.json").read_text(encoding="utf-8"))["rows"]
    return table_of(published_release)[0], expected


EXPECTED = {"exact": "match", "exact_with_ext_x2": "double_counted", "missing_files": "raw_missing"}
NAMES = {
    "p_two_sided": "trait_sign_flip_p_two_sided",
    "p_greater": "trait_sign_flip_p_greater",
    "p_bonferroni": "trait_sign_flip_p_two_sided_bonferroni_within_trait",
}


@pytest.mark.published
def test_the_papers_rows_have_the_expected_status_and_numbers(paper: tuple[pd.DataFrame, list[dict[str, Any]]]) -> None:
    table, expected = paper
    keys = ["run", "steered_file", "extract_revision", "eval_revision", "coef"]
    rows = table.set_index(keys).sort_index()
    for one in expected:
        key = one["run_tag"], f"data/model_responses/{one['steered_source']}", one["extract_revision"], one["eval_revision"]
        found = rows.loc[[(*key, one["coef"])]]
        assert len(found) == 1
        row = found.iloc[0]
        assert row["status"] == EXPECTED.get(str(one["status"]), "baseline_overwritten"), key
        if row["status"] not in ("match", "double_counted"):
            continue
        for name in UNCORRECTED:
            tolerance = 4e-6 if name.startswith("p_") else 1e-9
            assert row[f"recomputed_{name}"] == pytest.approx(one["recomputed"][NAMES.get(name, name)], abs=tolerance)
            honest = one.get("recomputed_unique_rows") or one["recomputed"]
            assert row[f"honest_{name}"] == pytest.approx(honest[NAMES.get(name, name)], abs=tolerance)
        corrected = one["published"][NAMES["p_bonferroni"]]
        assert row["recomputed_p_bonferroni"] == pytest.approx(corrected, abs=1e-9)


@pytest.mark.published
def test_every_row_with_answers_reproduces(paper: tuple[pd.DataFrame, list[dict[str, Any]]]) -> None:
    table, _ = paper
    assert len(table) == 984
    assert not (table["status"] == "differs").any()
    matching = table[table["status"].isin(["match", "double_counted"])]
    assert len(matching) == 474
    assert np.allclose(matching["published_p_bonferroni"], matching["recomputed_p_bonferroni"], atol=1e-9, rtol=0)
