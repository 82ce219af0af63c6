"""Sheets to label: rows drawn at the probability that the key states, nothing that tells where they are from, safe cells."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from traitline.errors import InputError
from traitline.judges.labels import LabelsJudge
from traitline.judges.sheet import COLUMNS, draw, key_path, read_key, write_sheet
from traitline.traits import load_trait


def responses(questions: int = 6) -> pd.DataFrame:
    """Return responses of two traits: many baseline rows, fewer steered ones, and three of a control."""
    sizes = {("evil", "baseline"): 16, ("evil", "steered"): 4, ("impolite", "baseline"): 8}
    rows = [
        {"trait": trait, "condition": condition, "question": f"{trait} {i}", "response": f"answer {i} {n}"}
        for (trait, condition), size in sizes.items()
        for i in range(questions)
        for n in range(size)
    ]
    rows += [{"trait": "evil", "condition": "random", "question": "evil 0", "response": f"other {n}"} for n in range(3)]
    table = pd.DataFrame(rows)
    return table.assign(row_key=[f"k{i:04}" for i in range(len(table))], coef=0.3, checkpoint="step8", trait_score=77.0)


def test_every_condition_gets_its_share_and_questions_take_turns() -> None:
    rows = responses()
    drawn = draw(rows, 60, seed=3)
    picked = rows.loc[drawn.index]
    counts = picked.groupby(["trait", "condition"]).size().to_dict()
    assert counts == {("evil", "baseline"): 19, ("evil", "steered"): 19, ("evil", "random"): 3, ("impolite", "baseline"): 19}
    per_question = picked[picked["condition"] == "steered"].groupby("question").size()
    assert set(per_question) <= {3, 4}
    assert len(per_question) == 6
    assert drawn.index.is_unique


def test_the_stated_probability_is_that_of_being_drawn() -> None:
    rows = responses(questions=3)
    times = np.zeros(len(rows))
    stated = np.full(len(rows), np.nan)
    for seed in range(1500):
        drawn = draw(rows, 17, seed)
        assert len(drawn) == 17
        times[drawn.index] += 1
        stated[drawn.index] = drawn
    assert times / 1500 == pytest.approx(stated, abs=0.06)  # 4 standard errors of the largest
    sums = rows.assign(p=stated).groupby(["trait", "condition"])["p"].agg(["sum", "std"])
    assert sums["std"].to_numpy() == pytest.approx(0)
    assert sums["sum"].sum() == pytest.approx(17)


def test_one_seed_draws_the_same_rows_in_the_same_order() -> None:
    rows = responses()
    assert draw(rows, 20, 1).index.tolist() == draw(rows, 20, 1).index.tolist()
    assert draw(rows, 20, 1).index.tolist() != draw(rows, 20, 2).index.tolist()
    order = draw(rows, 60, 1).index.tolist()
    assert order != sorted(order)


def test_all_rows_are_drawn_where_there_are_no_more() -> None:
    drawn = draw(responses(), 10_000)
    assert len(drawn) == len(responses())
    assert (drawn == 1).all()
    with pytest.raises(InputError, match="cannot draw 0 of"):
        draw(responses(), 0)


def test_the_sheet_says_nothing_of_where_rows_are_from(tmp_path: Path) -> None:
    rows, out = responses(), tmp_path / "sheet.csv"
    sheet, key, how = write_sheet(rows, 30, out, [load_trait("evil"), load_trait("impolite")], seed=5)
    with sheet.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == COLUMNS
    assert len(lines) == 30
    assert all(line[name] == "" for line in lines for name in ("trait_score", "coherence", "labeller"))
    text = sheet.read_text()
    assert not [word for word in ("baseline", "steered", "random", "step8", "0.3", "77") if word in text]
    probability = read_key(key)
    assert set(probability.index) == {line["row_key"] for line in lines}
    assert key == key_path(out)
    told = how.read_text()
    assert load_trait("evil").description in told
    assert "### impolite" in told
    assert key.name in told


def test_no_cell_is_a_formula_and_labels_find_their_rows(tmp_path: Path) -> None:
    texts = ["=HYPERLINK(1)", "+1", "-1", "@x", 'a "quoted", text\nof two lines', "plain"]
    rows = pd.DataFrame({"row_key": [f"k{i}" for i in range(6)], "response": texts})
    rows = rows.assign(trait="evil", condition="all", question="-- who?")
    sheet, *_ = write_sheet(rows, 6, tmp_path / "s.csv", [load_trait("evil")])
    with sheet.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert not [cell for line in lines for cell in line.values() if cell.startswith(("=", "+", "-", "@"))]
    filled = tmp_path / "filled.csv"
    with filled.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({**line, "trait_score": line["row_key"][1:], "coherence": "100"} for line in lines)
    scores = LabelsJudge(filled).score(load_trait("evil"), ["-- who?"] * 6, texts)
    assert [score.trait for score in scores] == [0, 1, 2, 3, 4, 5]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "sheet.csv"
    key_path(out).write_text("someone's key")
    with pytest.raises(InputError, match=r"sheet\.key\.csv' exists already"):
        write_sheet(responses(), 5, out, [])
    assert not out.exists()
    with pytest.raises(InputError, match=r"a sheet is a \.csv file"):
        write_sheet(responses(), 5, tmp_path / "sheet.xlsx", [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("row_key\nk1\n", "lacks probability"),
        ("row_key,probability\nk1,0.5\nk2,0\n", "line 3: a row twice, or a probability"),
        ("row_key,probability\nk1,0.5\nk1,0.5\n", "line 3"),
        ("row_key,probability\nk1,much\n", "line 2"),
    ],
)
def test_a_key_that_was_changed_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "key.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_key(tmp_path / "key.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_key(tmp_path / "none.csv")
