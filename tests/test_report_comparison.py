"""Runs side by side: what is set against what, what differs, and where the page may be written."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from report_run import CHECKPOINTS, make_run
from test_report import Page
from traitline.cli import app
from traitline.errors import InputError, StoreError
from traitline.report import write_comparison
from traitline.report.comparison import LAST, compare

EVIL = ("evil", "character")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "first", questions=1, traits=("evil", "humorous"), strategies=("character",))
    make_run(folder / "second", questions=1, traits=("evil",), strategies=("character",), seed=4)
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> tuple[Path, Path]:
    for name in ("first", "second"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path / "first", tmp_path / "second"


def change(run: Path, table: str, **values: object) -> None:
    rows = pd.read_csv(run / "tables" / f"{table}.csv").assign(**values)
    rows.to_csv(run / "tables" / f"{table}.csv", index=False)


def last_delta(run: Path) -> pd.Series:
    table = pd.read_csv(run / "tables/emergence.csv").query("trait == 'evil' and strategy == 'character' and coef == 0.5")
    return table[table["vector_checkpoint"] == CHECKPOINTS[-1]].iloc[0]


def test_the_last_checkpoints_are_set_against_each_other(runs: tuple[Path, Path]) -> None:
    found = compare(runs)
    assert found.names == ("first", "second")
    line = next(one for one in found.differences if one.final and (one.question.trait, one.question.target) == ("evil", ""))
    a, b = (last_delta(run) for run in runs)
    difference, low, high = line.apart(1)
    assert difference == pytest.approx(b["delta_trait"] - a["delta_trait"])
    arm = math.hypot(a["ci_high"] - a["delta_trait"], b["delta_trait"] - b["ci_low"])
    assert (low, high) == (pytest.approx(difference - arm), pytest.approx(difference + arm))
    alone = next(one for one in found.differences if one.final and one.question.trait == "humorous")
    assert alone.rows[1] is None
    assert not alone.differs
    assert all(map(math.isnan, alone.apart(1)))


def test_a_verdict_differs_only_where_both_runs_have_one(runs: tuple[Path, Path]) -> None:
    def differing() -> set[tuple[str, str]]:
        return {(one.question.trait, one.question.target) for one in compare(runs).differences if one.final and one.differs}

    assert differing() == set()
    change(runs[1], "emergence", steerable=False)
    assert differing() == {("evil", "")}
    change(runs[1], "emergence", status="no_vector", delta_trait=np.nan)
    assert differing() == {("evil", "")}


def test_checkpoints_of_other_lineages_meet_where_their_tokens_do(runs: tuple[Path, Path]) -> None:
    for table in ("emergence", "transfer", "extraction", "cosine_to_final"):
        rows = pd.read_csv(runs[1] / "tables" / f"{table}.csv")
        for column in {"checkpoint", "vector_checkpoint", "target"} & set(rows.columns):
            rows[column] = "other-" + rows[column]
        rows["tokens"] *= 2.002  # every doubled count is, within 1 %, one of the first run where that has it
        rows.assign(lineage="other").to_csv(runs[1] / "tables" / f"{table}.csv", index=False)
    found = compare(runs)
    shared = [one for one in found.differences if not one.final and one.question.target == ""]
    met = [
        (str(one.rows[0]["vector_checkpoint"]), str(one.rows[1]["vector_checkpoint"]))
        for one in shared
        if one.rows[0] is not None and one.rows[1] is not None
    ]
    assert ("step32", "other-step16") in met
    assert ("step976", "other-step488") in met
    assert ("step61", "other-step32") not in met
    key = {found.key(0, "step976"), found.key(1, "other-step488")}
    assert np.ptp([found.axis.positions[name] for name in key]) < 0.01
    assert {question.target for question in found.questions} >= {"", LAST}
    assert "The lineages differ (nano, other)" in Page(write_comparison(runs, runs[0].parent / "c").read_text()).text


def test_without_tokens_checkpoints_stand_in_their_order(runs: tuple[Path, Path]) -> None:
    for table in ("emergence", "transfer", "extraction", "cosine_to_final"):
        change(runs[1], table, tokens=np.nan)
    found = compare(runs)
    assert not found.in_tokens
    assert found.axis.checkpoints == CHECKPOINTS
    text = Page(write_comparison(runs, runs[0].parent / "c").read_text()).text
    assert "does not tell its tokens" in text


def test_settings_that_differ_are_listed_and_others_are_not(runs: tuple[Path, Path]) -> None:
    study = (runs[1] / "study.yaml").read_text()
    (runs[1] / "study.yaml").write_text(study.replace("seed: 17", "seed: 18").replace("judge: nano", "judge: nano\n  extra: 1"))
    settings = dict(compare(runs).settings)
    assert settings["study.seed"] == ("17", "18")
    assert settings["study.extra"] == ("absent", "1")
    assert settings["study.traits"] == ("evil, humorous", "evil")
    assert "study.judge" not in settings


def test_the_page_tells_every_run_and_links_to_pages_that_exist(runs: tuple[Path, Path]) -> None:
    folder = runs[0].parent / "both"
    file = write_comparison(runs, folder)
    page = Page(file.read_text(encoding="utf-8"))
    assert file == folder / "report.html"
    assert [folder / load.split("href=")[1] for load in page.loads] == [
        folder / "../first/report.html",
        folder / "../second/report.html",
    ]
    assert all((folder / load.split("href=")[1]).is_file() for load in page.loads)
    sentences = pd.read_csv(runs[0] / "tables/verdicts.csv")["sentence"].unique()
    assert all(sentence in page.text for sentence in sentences)
    assert len(page.data["runs"]) == 2
    assert page.data["runs"][0]["dash"] != page.data["runs"][1]["dash"]
    assert [
        curve is None for question in page.data["questions"] if "humorous" in question["label"] for curve in question["curves"]
    ][:2] == [False, True]


def test_three_runs_are_told_apart(runs: tuple[Path, Path]) -> None:
    third = shutil.copytree(runs[0], runs[0].parent / "deep" / "first")
    found = compare([*runs, third])
    assert found.names[1].endswith("second")
    assert len(set(found.names)) == 3
    line = next(one for one in found.differences if one.final)
    assert line.apart(2)[0] == 0
    styles = [
        (one["colour"], one["dash"])
        for one in Page(write_comparison([*runs, third], third.parent / "c").read_text()).data["runs"]
    ]
    assert len(set(styles)) == 3


def test_a_folder_that_is_not_the_comparison_of_these_runs_is_refused(runs: tuple[Path, Path]) -> None:
    before = {file: file.read_bytes() for file in runs[0].rglob("*") if file.is_file()}
    with pytest.raises(InputError, match="other than a comparison; give another --out"):
        write_comparison(runs, runs[0])
    assert {file: file.read_bytes() for file in runs[0].rglob("*") if file.is_file()} == before
    folder = runs[0].parent / "both"
    first = write_comparison(runs, folder).read_text()
    assert write_comparison(runs, folder).read_text() == first
    write_comparison(runs[::-1], folder)
    third = shutil.copytree(runs[0], runs[0].parent / "third")
    with pytest.raises(InputError, match="comparison of other runs"):
        write_comparison([runs[0], third], folder)
    (folder / "comparison.json").write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        write_comparison(runs, folder)
    (runs[0].parent / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        write_comparison(runs, runs[0].parent / "file")


def test_runs_that_cannot_be_compared_are_named(runs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two run directories"):
        compare(runs[:1])
    with pytest.raises(InputError, match="given twice"):
        compare([runs[0], runs[0].parent / "second" / ".." / "first"])
    with pytest.raises(InputError, match="does not exist"):
        compare([runs[0], tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no tables to compare"):
        compare([runs[0], tmp_path / "empty"])


def test_the_command_writes_beside_the_runs_by_default(runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs[0].parent)
    done = CliRunner().invoke(app, ["report", "first", "second", "--json"])
    assert done.exit_code == 0, done.output
    assert (runs[0].parent / "comparison-first-second" / "report.html").is_file()
    refused = CliRunner().invoke(app, ["report", "first", "--out", "x"])
    assert refused.exit_code != 0
    assert not (runs[0].parent / "x").exists()
