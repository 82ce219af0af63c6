"""Labelled answers of a release: which columns are labels, shares by file, and what cannot be compared."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from traitline.published.facets import COLUMNS, facet_table
from traitline.published.release import Release

QUESTIONS = [f"question {i}" for i in range(4)]


def write(root: Path, name: str, n: int = 8, model: str = "Toy-1B", **columns: Sequence[Any]) -> Path:
    path = root / "results" / model / "facet_annotation" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    base = {
        "question": [QUESTIONS[i % 4] for i in range(n)],
        "prompt": "p",
        "answer": [f"{name} {i}" for i in range(n)],
        "question_id": range(n),
        "brave_story_q": [60.0 + i for i in range(n)],
        "coherence": 70.0,
    }
    pd.DataFrame({**base, **columns}).to_csv(path, index=False)
    return path


def release(root: Path) -> Release:
    for revision in ("step10-tokens1B", "step20-tokens2B", "oddity"):
        (root / "data/persona_vectors/Toy-1B" / revision).mkdir(parents=True, exist_ok=True)
    (root / "data/trait_data_extract").mkdir(parents=True, exist_ok=True)
    for name in ("brave", "brave_story_q"):
        (root / "data/trait_data_extract" / f"{name}.json").write_text("{}")
    return Release(root)


def kinds(made: Release) -> dict[str, int]:
    table = made.audit.table()
    return table.groupby("kind")["count"].sum().to_dict()


def test_labels_in_one_column_are_counted_with_the_facets_of_the_whole_scheme(tmp_path: Path) -> None:
    write(tmp_path, "roots_set_a_step10-tokens1B", roots=["x|y", "x", "", "y|x", "", "", "x|x", ""])
    write(tmp_path, "roots_set_a_step20-tokens2B", roots=["z", "", "", "", "", "", "", ""])
    table = facet_table(release(tmp_path), ["Toy-1B"])
    assert list(table.columns) == COLUMNS
    first = table[table["checkpoint"] == "step10-tokens1B"].set_index("facet")
    assert first["count"].to_dict() == {"x": 4, "y": 2, "z": 0}
    assert set(first["total"]) == {8}
    assert set(first["tokens"]) == {1e9}
    assert (first["trait"].iloc[0], first["strategy"].iloc[0]) == ("brave", "story_q")
    assert (first["scheme"].iloc[0], first["set"].iloc[0], first["n_questions"].iloc[0]) == ("roots", "set_a", 4)


def test_flags_leave_blanks_out_and_say_so(tmp_path: Path) -> None:
    write(tmp_path, "style_main", n=20, warm=[1, 0, ""] + [0] * 17, cold=[1] * 19 + ["perhaps"])
    made = release(tmp_path)
    table = facet_table(made, ["Toy-1B"]).set_index("facet")
    assert table.loc["warm", ["count", "total", "n_missing"]].tolist() == [1, 19, 1]
    assert table.loc["cold", ["count", "total", "n_missing"]].tolist() == [19, 19, 1]
    assert table["checkpoint"].unique().tolist() == ["main"]
    assert kinds(made)["missing_labels"] == 1
    assert kinds(made)["unreadable_labels"] == 1


def test_a_judge_column_of_zeros_is_not_a_facet(tmp_path: Path) -> None:
    write(tmp_path, "style_main", brave_story_q=[0.0] * 8, warm=[1, 0] * 4)
    assert facet_table(release(tmp_path), ["Toy-1B"])["facet"].tolist() == ["warm"]


def test_names_without_revision_and_revisions_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path, "style_early", warm=[1, 0] * 4)
    write(tmp_path, "style_early_oddity", warm=[1, 0] * 4)
    made = release(tmp_path)
    table = facet_table(made, ["Toy-1B"])
    assert table[["set", "checkpoint"]].to_numpy().tolist() == [["early", ""], ["early", "oddity"]]
    assert table["tokens"].isna().all()
    assert "unreadable_revision" in kinds(made)


def test_broken_files_are_audited_and_the_rest_is_counted(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path, f"style_{name}", warm=[1, 0] * 4)
    write(
        tmp_path, "style_d", warm=[1, 0] * 4, comment=["a long remark, in words, that is no label at all"] * 8, extra=range(8)
    )
    write(tmp_path, "style_e")
    folder = tmp_path / "results/Toy-1B/facet_annotation"
    (folder / "style_f.csv").write_text("")
    (folder / "style_g.csv").write_text("question,answer,warm\n")
    (folder / "style_h.csv").write_text("text,warm\nq,1\n")
    (folder / "style_i.csv").write_bytes(b'question,answer\n"unclosed\xff\xfe')
    made = release(tmp_path)
    table = facet_table(made, ["Toy-1B", "Other"])
    assert table["file"].str[-5].tolist() == ["a", "b", "c", "d"]
    found = made.audit.table()
    files = {(kind, file[-5]) for kind, file in zip(found["kind"], found["file"], strict=True)}
    assert {("empty_file", "f"), ("empty_file", "g"), ("missing_columns", "h"), ("unreadable_file", "i")} <= files
    assert {("unknown_columns", "d"), ("missing_columns", "e")} <= files


def test_a_column_in_few_files_of_a_scheme_is_no_facet(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path, f"style_{name}", warm=[1, 0] * 4)
    write(tmp_path, "style_d", warm=[1, 0] * 4, checked=[1] * 8)
    made = release(tmp_path)
    assert facet_table(made, ["Toy-1B"])["facet"].unique().tolist() == ["warm"]
    assert kinds(made)["unknown_columns"] == 1


def test_answers_labelled_twice_are_compared(tmp_path: Path) -> None:
    answers = [f"same {i}" for i in range(8)]
    write(tmp_path, "roots_a_step10-tokens1B", answer=answers, roots=["x", "x", "y", "y", "x|y", "", "x", "y"])
    write(tmp_path, "roots_a_step20-tokens2B", answer=answers, roots=["x", "y", "y", "y", "y|x", "", "x", "x|y"])
    made = release(tmp_path)
    facet_table(made, ["Toy-1B"])
    found = kinds(made)
    assert (found["labels_differ"], found["same_answers"]) == (2, 8)
    text = made.audit.table().set_index("kind").loc["labels_differ", "consequence"]
    assert "2 of 8 answers" in text
    assert "y moves by +12.5 points" in text


def test_selection_repeats_and_few_questions_are_audited(tmp_path: Path) -> None:
    write(tmp_path, "style_a_step10-tokens1B", warm=[1, 0] * 4, coherence=[30.0] * 2 + [70.0] * 6)
    write(
        tmp_path, "style_a_step20-tokens2B", warm=[1, 0] * 4, question=["question 0"] * 8, answer=["again"] * 2 + list("abcdef")
    )
    made = release(tmp_path)
    table = facet_table(made, ["Toy-1B"])
    found = kinds(made)
    assert (found["labelled_selection"], found["labelled_incoherent"]) == (16, 2)
    assert (found["duplicated_rows"], found["few_questions"]) == (1, 1)
    assert table["cluster_low"].isna().tolist() == [False, True]


def test_no_folder_is_audited_once(tmp_path: Path) -> None:
    (tmp_path / "results/Toy-1B").mkdir(parents=True)
    made = release(tmp_path)
    table = facet_table(made, ["Toy-1B"])
    assert table.empty
    assert list(table.columns) == COLUMNS
    assert kinds(made) == {"missing_folder": 1}


@pytest.mark.published
def test_published_shares_agree_exactly(published: Path, tmp_path: Path) -> None:
    archive = published / "release-olmo3.tar.xz"
    subprocess.run(
        ["tar", "-xJf", archive, "-C", tmp_path, "--wildcards", "*/facet_annotation/*.csv", "*/trait_data_extract/*"],
        check=True,
    )
    made = Release(tmp_path)
    table = facet_table(made, made.models)
    expected = json.loads((published / "expected_facets.json").read_text())["checkpoints"]
    checked = 0
    for scheme, checkpoints in expected.items():
        for checkpoint, numbers in checkpoints.items():
            wanted = {facet: one for facet, one in numbers.items() if isinstance(one, dict)}
            rows = table[(table["scheme"] == scheme) & (table["checkpoint"] == checkpoint)]
            rows = rows[rows["set"] == ("checkpoints_extract" if scheme == "baumeister" else "checkpoints")].set_index("facet")
            assert set(rows.index) == set(wanted)
            for facet, one in wanted.items():
                row = rows.loc[facet]
                assert (row["count"], row["total"], row["share"]) == (one["count"], numbers["total"], one["share"])
                assert (row["wilson_low"], row["wilson_high"]) == pytest.approx(one["wilson95"], abs=1e-15)
                checked += 1
    assert checked == 112
