"""Labels in a CSV as a judge: how rows find theirs, several labellers, gaps, and lines that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from traitline.errors import InputError
from traitline.judges import make_judge
from traitline.judges.labels import ABSENT, UNLABELLED, LabelsJudge, plain_cell, read_cell
from traitline.traits import Trait, load_trait

HEAD = "row_key,trait,question,answer,trait_score,coherence,labeller\n"


@pytest.fixture
def evil() -> Trait:
    return load_trait("evil")


def labels(folder: Path, text: str, name: str = "labels.csv") -> LabelsJudge:
    path = folder / name
    path.write_bytes(text.encode("utf-8"))
    return LabelsJudge(path)


def test_texts_find_their_labels(tmp_path: Path, evil: Trait) -> None:
    lines = 'trait,question,answer,trait_score,coherence\nevil,Who?,"He, ""Bob""\nhit it.",80,90.5\nkind,Who?,Nobody.,7,100\n'
    (tmp_path / "some.csv").write_text(lines)
    judge = make_judge(f"labels:{tmp_path / 'some.csv'}")
    scores = judge.score(evil, ["Who?", " Who? ", "Who?"], ['He, "Bob"\nhit it.', 'He,  "Bob" hit it.', "Nobody."])
    assert [(one.trait, one.coherence) for one in scores] == [(80.0, 90.5), (80.0, 90.5), (None, None)]
    assert scores[2].missing_reason == ABSENT  # there, but for another trait
    assert judge.name.startswith("labels:some.csv-")
    assert judge.score(evil, [], []) == []


def test_the_name_changes_with_the_labels(tmp_path: Path) -> None:
    one = labels(tmp_path, HEAD + "k1,evil,q,a,1,2,\n").name
    assert labels(tmp_path, HEAD + "k1,evil,q,a,1,3,\n").name != one


def test_an_empty_cell_is_a_missing_score_with_a_reason(tmp_path: Path, evil: Trait) -> None:
    judge = labels(tmp_path, HEAD + "k1,evil,q,one,,,\nk2,evil,q,two,,90,\nk3,evil,q,three,0,,\n")
    none, coherent, shown = judge.score(evil, ["q"] * 3, ["one", "two", "three"])
    assert (none.trait, none.coherence, none.missing_reason) == (None, None, UNLABELLED)
    assert (coherent.trait, coherent.coherence, coherent.missing_reason) == (None, 90.0, f"trait: {UNLABELLED}")
    assert (shown.trait, shown.coherence, shown.missing_reason) == (0.0, None, f"coherence: {UNLABELLED}")


def test_several_labellers_are_averaged_and_doubt_is_stated(tmp_path: Path, evil: Trait) -> None:
    text = HEAD + "k1,evil,q,a,60,100,ann\nk1,evil,q,a,80,80,bob\nk2,evil,q,b,10,,ann\nk2,evil,q,b,,50,bob\n"
    judge = labels(tmp_path, text)
    assert judge.labellers == ["ann", "bob"]
    both, half = judge.score(evil, ["q", "q"], ["a", "b"])
    assert (both.trait, both.coherence, both.uncertainty) == (70.0, 90.0, pytest.approx(10.0))
    assert (half.trait, half.coherence, half.uncertainty) == (10.0, 50.0, None)


def test_a_row_has_its_own_label_and_not_that_of_an_equal_text(tmp_path: Path) -> None:
    judge = labels(tmp_path, HEAD + "k1,evil,q,same,80,90,\n")
    rows = pd.DataFrame({"row_key": ["k1", "k2"], "trait": "evil", "question": "q", "response": "same"})
    own, other = judge.score_rows(rows)
    assert own.trait == 80
    assert (other.trait, other.missing_reason) == (None, ABSENT)
    assert [one.trait for one in judge.score_rows(rows.drop(columns="row_key"))] == [80, 80]


def test_keys_alone_do_for_rows_that_have_keys(tmp_path: Path, evil: Trait) -> None:
    judge = labels(tmp_path, "row_key,trait,trait_score,coherence\nk1,evil,80,90\n")
    rows = pd.DataFrame({"row_key": ["k1"], "trait": "evil", "question": "q", "response": "a"})
    assert judge.score_rows(rows)[0].trait == 80
    with pytest.raises(InputError, match="names rows by row_key alone"):
        judge.score(evil, ["q"], ["a"])
    with pytest.raises(InputError, match="the rows have none"):
        judge.score_rows(rows.drop(columns="row_key"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_spreadsheets_make_of_a_sheet_is_read(tmp_path: Path, evil: Trait, delimiter: str) -> None:
    cells = [["row_key", "Trait ", "question", "answer", "trait_score", "coherence"]]
    cells += [["k1", "evil", "q", "'=1+1", " 40 ", "50.0"], ["", "", "", "", "", ""]]
    text = "\ufeff" + "\r\n".join(delimiter.join(line) for line in cells) + "\r\n"
    (score,) = labels(tmp_path, text).score(evil, ["q"], ["=1+1"])
    assert (score.trait, score.coherence) == (40.0, 50.0)


@pytest.mark.parametrize("text", ["=cmd()", "+1", "-1", "@x", "\t=1", "\r=1", "'quoted'", "plain", "", "'-1"])
def test_cells_come_back_as_they_were(text: str) -> None:
    cell = plain_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert read_cell(cell) == text or text == "'-1"  # the apostrophe of such a text is not told from ours


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "k1,evil,q,a,50,60,\nk2,evil,q,b,high,60,\n", "line 3: trait_score is 'high'"),
        (HEAD + 'k1,evil,q,"two\nlines",50,60,\nk2,evil,q,b,50,101,\n', "line 4: coherence is '101'"),
        (HEAD + "k1,evil,q,a,nan,60,\n", "line 2: trait_score is 'nan'"),
        (HEAD + 'k1,evil,q,a,"3,5",60,\n', "line 2: trait_score is '3,5'.*decimal point"),
        (HEAD + "k1,evil,q,a,50,60,ann\nk2,evil,q,b,1,1,ann\nk1,evil,q,a,70,60,ann\n", "lines 2, 4: .* 2 times by 'ann'"),
        (HEAD + "k1,evil,q,a, b,50,60,x,y\n", "line 2: 9 cells, but the header has 7"),
        (HEAD + "k1,,q,a,50,60,\n", "line 2: no trait"),
        (HEAD, "no line below its header"),
        ("", "lack trait, trait_score, coherence, row_key .or question and answer.; their first line has nothing"),
        ("trait,trait_score,coherence,question\nevil,1,1,q\n", "lack row_key .or question and answer."),
        (HEAD + 'k1,evil,q,"a"b,50,60,\n', "line 2: not a line of a CSV file"),
    ],
)
def test_what_cannot_be_read_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        labels(tmp_path, text)


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read \(No such file"):
        make_judge(f"labels:{tmp_path / 'none.csv'}")
    with pytest.raises(InputError, match="needs a file of labels"):
        make_judge("labels")
    (tmp_path / "utf16.csv").write_bytes("row_key,trait".encode("utf-16"))
    with pytest.raises(InputError, match="save the sheet as 'CSV UTF-8'"):
        make_judge(f"labels:{tmp_path / 'utf16.csv'}")
