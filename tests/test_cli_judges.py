"""The commands `judges compare` and `judges sheet`: what they take, print, write and refuse."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from small_study import CountingJudge, make_study
from traitline.cli import app
from traitline.judges import Score
from traitline.judges.base import KINDS
from traitline.study import Study
from traitline.study.run import run_study
from traitline.traits import Trait

EVALUATE = {"samples": 2, "max_new_tokens": 6, "layers": [2], "coefs": [0.5, -0.5]}
ESCAPE = "\x1b]0;owned\x07"


class StingyJudge(CountingJudge):
    """Sees half of what the counting judge sees; leaves answers that begin with w3 without a score."""

    name = "stingy"
    asked = 0
    training_questions: tuple[str, ...] = ()

    def score(self, trait: Trait, questions: Sequence[str], answers: Sequence[str], **_: str) -> list[Score]:
        StingyJudge.asked += len(answers)
        scores = super().score(trait, questions, answers)
        return [
            Score(None, 70.0, missing_reason="will not say") if answer.startswith("w3 ") else Score((one.trait or 0) / 2, 70.0)
            for one, answer in zip(scores, answers, strict=True)
        ]


def make_stingy(_rest: str, _cache: Path | None) -> StingyJudge:
    return StingyJudge()


def make_counting(_rest: str, _cache: Path | None) -> CountingJudge:
    return CountingJudge()


@pytest.fixture(scope="module", autouse=True)
def _judges_of_this_file() -> Any:
    mine = {"stingy": f"{__name__}:make_stingy", "counting": f"{__name__}:make_counting"}
    before = {name: KINDS[name] for name in mine if name in KINDS}
    KINDS.update(mine)
    from traitline.cli import judges

    free = judges.FREE | set(mine)
    kept, judges.FREE = judges.FREE, free
    yield
    judges.FREE = kept
    for name in mine:
        del KINDS[name]
    KINDS.update(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judged")
    study = Study.from_yaml(make_study(folder, strategies=["character"], evaluate=EVALUATE), folder / "run")
    run_study(study.resolved, study.out, lambda _cache: CountingJudge())
    return study.out


def call(*args: object) -> Any:
    return CliRunner().invoke(app, ["judges", *(str(arg) for arg in args)])


def asked(*args: object) -> dict[str, Any]:
    result = call(*args, "--json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refused(*args: object) -> str:
    result = call(*args)
    assert result.exit_code == 2, result.output
    assert not result.stdout
    return " ".join(str(result.stderr).split())


def answers(folder: Path, rows: Sequence[dict[str, Any]], name: str = "answers.csv") -> Path:
    path = folder / name
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_a_runs_judge_is_compared_with_another(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "compared"
    found = asked("compare", "counting", "stingy", "--rows", run, "--out", out, "--top", 3)
    assert found["a"] == {"name": "counting", "stored": True}
    assert found["b"] == {"name": "stingy", "stored": False}
    table = pd.DataFrame(found["agreement"]).set_index(["score", "trait", "condition"])
    everything = table.loc["trait_score", "all", "all"]
    assert everything["n_rows"] == found["rows"]
    assert everything["n_missing_b"] > 0
    assert everything["bias"] < -15
    assert {"baseline", "steered", "pos", "neg", "random", "shuffled", "bootstrap"} <= set(table.index.get_level_values(2))
    assert pd.isna(table.loc["coherence", "all", "all"]["pearson"])
    assert "B says 70 everywhere" in table.loc["coherence", "all", "all"]["reason"]
    told = found["conclusions"]
    assert told["deltas"] > 0
    assert told["pairs_b"] < told["pairs_a"]
    assert len(found["different"]) == 3
    written = {Path(path).name for path in found["files"]}
    tables = {f"{name}.csv" for name in ("agreement", "different", "deltas", "pairs", "verdicts")}
    figures = {f"{name}.{form}" for name in ("agreement", "deltas") for form in ("png", "svg", "pdf")}
    assert written == tables | figures | {"scores.parquet"}
    assert all((out / name).stat().st_size for name in written)
    deltas = pd.read_csv(out / "deltas.csv")
    np.testing.assert_allclose(deltas["difference"], deltas["delta_trait_b"] - deltas["delta_trait_a"])
    assert found["corrected"] is None


def test_it_can_be_read_on_a_screen(run: Path) -> None:
    result = call("compare", "counting", "stingy", "--rows", run, "--trait", "even", "--top", 2)
    assert result.exit_code == 0, result.stderr
    for text in (
        "Agreement on the trait score",
        "Who says 50 or more",
        "Deltas:",
        "Accepted pairs in",
        "Onsets:",
        "differ most",
    ):
        assert text in result.stdout, text
    assert "small" not in result.stdout
    assert "counting (its scores are in the rows)" in result.stderr


def test_scores_are_kept_and_can_be_compared_again(run: Path, tmp_path: Path) -> None:
    first = asked("compare", "counting", "stingy", "--rows", run, "--out", tmp_path)
    before = StingyJudge.asked
    again = asked("compare", "column:trait_score_a", "column:trait_score_b", "--rows", tmp_path / "scores.parquet")
    assert StingyJudge.asked == before
    for one, other in zip(first["agreement"], again["agreement"], strict=True):
        for name in ("score", "trait", "condition", "n", "mae", "kappa", "pearson_low"):
            assert one[name] == pytest.approx(other[name], nan_ok=True), name


def test_equal_texts_are_judged_once(run: Path, tmp_path: Path) -> None:
    row = {"trait": "even", "question": "w5", "answer": "w4 w5"}
    path = answers(tmp_path, [{**row, "trait_score": i, "coherence": 50} for i in range(40)])
    before = StingyJudge.asked
    found = asked("compare", "column:trait_score", "stingy", "--rows", path, "--trait", run.parent / "even.yaml")
    assert StingyJudge.asked == before + 1
    assert found["rows"] == 40
    assert found["agreement"][0]["reason"].startswith("no correlation: B says 25 everywhere")


def test_a_sample_is_even_over_conditions(run: Path) -> None:
    found = asked("compare", "counting", "stingy", "--rows", run, "--limit", 60, "--seed", 2)
    assert found["rows"] == 60
    assert found["conclusions"] is None
    assert any("60 of" in line for line in found["notes"])
    sizes = {r["condition"]: r["n_rows"] for r in found["agreement"] if r["trait"] == "all" and r["score"] == "coherence"}
    assert abs(sizes["baseline"] - sizes["steered"]) <= 2  # though there are twice as many baseline rows
    assert asked("compare", "counting", "stingy", "--rows", run, "--limit", 0)["conclusions"] is not None


def label(sheet: Path, run: Path, out: Path, *, labellers: Sequence[str] = ("",), skip: int = 0) -> Path:
    """Fill a sheet in with the counting judge's own scores, the second labeller being 10 points off."""
    files = [pd.read_parquet(path) for path in run.rglob("evaluation.parquet")]
    truth = pd.concat(files).drop_duplicates("row_key").set_index("row_key")["trait_score"]
    with sheet.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        for i, name in enumerate(labellers):
            for place, line in enumerate(lines):
                score = truth[line["row_key"]]
                filled = "" if place < skip or np.isnan(score) else str(min(100.0, score + 10 * i))
                writer.writerow({**line, "trait_score": filled, "coherence": "80", "labeller": name})
    return out


@pytest.fixture(scope="module")
def cell(run: Path) -> Path:
    """The responses of the last checkpoint to one trait's questions."""
    return next(run.glob("cells/step20/even/character/evaluation.parquet"))


def test_people_label_a_sheet_and_correct_the_deltas(run: Path, cell: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.csv"
    found = asked("sheet", cell, "--out", sheet, "--rows", 60, "--seed", 1)
    assert found["rows"] == 60
    assert {Path(found[name]).name for name in ("sheet", "key", "instructions")} == {"sheet.csv", "sheet.key.csv", "sheet.md"}
    assert "Says even words." in (tmp_path / "sheet.md").read_text()
    filled = label(sheet, run, tmp_path / "filled.csv", labellers=("ann", "bob"), skip=2)
    key = tmp_path / "sheet.key.csv"
    out = tmp_path / "out"
    compared = asked("compare", "stingy", f"labels:{filled}", "--rows", cell, "--key", key, "--out", out)
    assert compared["conclusions"] is None
    assert compared["agreement"][0]["n_missing_b"] >= 2
    assert compared["rows"] == 60
    pearson = {(one["labeller_a"], one["labeller_b"], one["score"]): one["bias"] for one in compared["labellers"]}
    assert 5 < pearson["ann", "bob", "trait_score"] <= 10
    rows = compared["corrected"]
    assert {one["judge"] for one in rows} == {"stingy"}
    assert len(rows) == 2  # two coefficients
    assert all(one["n_gold_steered"] >= 5 for one in rows)
    table = pd.read_csv(out / "corrected.csv")
    assert (table["corrected_low"] < table["corrected"]).all()
    assert (table["corrected"] < table["corrected_high"]).all()
    result = call("compare", "stingy", f"labels:{filled}", "--rows", cell, "--key", key)
    assert "Deltas corrected by the gold rows" in result.stdout
    assert "How the labellers agree" in result.stdout


def test_the_key_beside_the_sheet_is_found_and_its_absence_told(run: Path, cell: Path, tmp_path: Path) -> None:
    asked("sheet", cell, "--out", tmp_path / "sheet.csv", "--rows", 40)
    label(tmp_path / "sheet.csv", run, tmp_path / "sheet.csv.new").replace(tmp_path / "sheet.csv")
    found = asked("compare", f"labels:{tmp_path / 'sheet.csv'}", "stingy", "--rows", cell)
    assert found["corrected"]
    other = label(tmp_path / "sheet.csv", run, tmp_path / "other.csv")
    lost = asked("compare", f"labels:{other}", "stingy", "--rows", cell)
    assert lost["corrected"] is None
    assert any("other.key.csv' tells how" in line for line in lost["notes"])
    assumed = asked(
        *("compare", "stingy", "counting", "--rows", cell, "--gold", f"labels:{tmp_path / 'sheet.csv'}"),
        *("--assume", "same error in every comparison"),
    )
    assert {one["judge"] for one in assumed["corrected"]} == {"stingy", "counting"}
    assert {one["assumption"] for one in assumed["corrected"]} == {"same error in every comparison"}
    assert "the only one is" in refused(
        "compare", "stingy", f"labels:{tmp_path / 'sheet.csv'}", "--rows", cell, "--assume", "all is well"
    )


def test_a_better_judge_can_give_the_gold_scores(cell: Path, tmp_path: Path) -> None:
    asked("sheet", cell, "--out", tmp_path / "sheet.csv", "--rows", 60)
    before = StingyJudge.asked
    names = ("compare", "counting", "column:coherence", "--rows", cell, "--gold", "stingy")
    found = asked(*names, "--key", tmp_path / "sheet.key.csv")
    assert {one["judge"] for one in found["corrected"]} == {"counting", "column:coherence"}
    assert StingyJudge.asked - before <= 60  # the drawn rows alone
    assert "give --key" in refused(*names)


def test_questions_a_judge_was_trained_on_are_kept_out(run: Path, cell: Path, tmp_path: Path, monkeypatch: Any) -> None:
    asked("sheet", cell, "--out", tmp_path / "sheet.csv", "--rows", 80)
    filled = label(tmp_path / "sheet.csv", run, tmp_path / "filled.csv")
    names = ("compare", "stingy", f"labels:{filled}", "--rows", cell, "--key", tmp_path / "sheet.key.csv")
    whole = asked(*names)["corrected"]
    questions = pd.read_parquet(cell)
    seen = tuple(questions.loc[questions["split"] == "evaluate", "question"].unique()[:2])
    monkeypatch.setattr(StingyJudge, "training_questions", seen)
    without = asked(*names)["corrected"]
    assert {one["n_questions"] for one in whole} == {6}
    assert {one["n_questions"] for one in without} == {4}


def test_texts_of_models_do_not_steer_the_terminal_or_a_spreadsheet(tmp_path: Path) -> None:
    hostile = [f"=cmd{ESCAPE}", "[bold red]x[/bold red]", "@SUM(1)", "plain"]
    rows = [{"trait": "evil", "question": "-- who?", "answer": text, "one": 0, "two": 10 * i} for i, text in enumerate(hostile)]
    path = answers(tmp_path, rows)
    result = call("compare", "column:one", "column:two", "--rows", path, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "\x1b" not in result.stdout
    assert "[bold red]x[/bold red]" in result.stdout
    for line in (tmp_path / "out" / "different.csv").read_text().splitlines():
        assert not any(cell.strip('"').startswith(("=", "@")) for cell in line.split(","))


def test_published_rows_keep_their_comparisons(tmp_path: Path) -> None:
    records = [(q, n, c) for q in range(6) for n in range(4) for c in ("baseline", "steered")]
    rows = pd.DataFrame(records, columns=["number", "row", "condition"])
    steered = rows["condition"].eq("steered")
    score = 40 + 25 * steered + np.random.default_rng(0).normal(0, 5, len(rows))
    rows = rows.assign(
        model="m",
        eval_revision="main",
        extract_revision=pd.Series("step3", rows.index).where(steered, None),
        trait="evil",
        judge_column="evil_character",
        source_file="f",
        layer=np.where(steered, 16.0, np.nan),
        coef=np.where(steered, 0.5, np.nan),
        question="Q " + rows["number"].astype(str),
        answer="a " + rows["row"].astype(str) + rows["condition"],
        trait_score=score,
        other=score / 2,
        coherence=80.0,
    )
    path = tmp_path / "rows.parquet"
    rows.to_parquet(path)
    found = asked("compare", "column:trait_score", "column:other", "--rows", path)
    assert found["conclusions"]["deltas"] == 1
    assert found["conclusions"]["mean_difference"] == pytest.approx(-12.5, abs=2)


def test_what_cannot_be_compared_is_told(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    assert "both are the same scores, 'counting'" in refused("compare", "counting", "column:trait_score", "--rows", run)
    assert "no judge is called 'wrods'; nearest: words" in refused("compare", "wrods", "counting", "--rows", run)
    assert "no column 'much'" in refused("compare", "column:much", "counting", "--rows", run)
    assert "no rows of trait 'evil'" in refused("compare", "counting", "stingy", "--rows", run, "--trait", "evil")
    assert "does not exist" in refused("compare", "counting", "stingy", "--rows", tmp_path / "none")
    assert "--key and --assume are for gold rows" in refused("compare", "counting", "stingy", "--rows", run, "--key", "k.csv")
    path = answers(tmp_path, [{"trait": "evil", "question": "q", "reply": "a"}])
    assert "lacks the columns answer" in refused("compare", "column:one", "words", "--rows", path)
    path = answers(tmp_path, [{"trait": "evil", "question": "q", "answer": "a", "one": "much"}])
    assert "column 'one' holds 'much' in row 1" in refused("compare", "column:one", "words", "--rows", path)
    path = answers(tmp_path, [{"trait": "unheard_of", "question": "q", "answer": "a", "one": 1}])
    assert "give --trait path/to/unheard_of.yaml" in refused("compare", "column:one", "words", "--rows", path)
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-real-key")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert "--limit 500 for a sample, or --limit 0" in refused("compare", "openai:some", "counting", "--rows", run)


def test_the_only_run_is_found(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no run lies below runs/" in refused("compare", "counting", "stingy")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "one").symlink_to(run, target_is_directory=True)
    assert asked("compare", "counting", "stingy")["rows"] > 0
    (tmp_path / "runs" / "two").symlink_to(run, target_is_directory=True)
    assert "there are runs/one, runs/two" in refused("compare", "counting", "stingy")


def test_a_sheet_of_a_run_holds_what_deltas_are_made_of(run: Path, tmp_path: Path) -> None:
    found = asked("sheet", run, "--out", tmp_path / "s.csv", "--rows", 5000, "--trait", "small")
    key = pd.read_csv(found["key"])
    assert set(key["condition"]) == {"baseline", "steered"}
    assert set(key["trait"]) == {"small"}
    assert (key["probability"] == 1).all()
    assert found["rows"] == found["of"] == len(key)
    assert "exists already" in refused("sheet", run, "--out", tmp_path / "s.csv")
    result = call("sheet", run, "--out", tmp_path / "t.csv", "--rows", 10)
    assert "10 of" in result.stdout
    assert "traitline judges compare JUDGE labels:" in result.stdout


def test_only_labelled_rows_are_judged_where_nothing_is_corrected(run: Path, cell: Path, tmp_path: Path) -> None:
    asked("sheet", cell, "--out", tmp_path / "sheet.csv", "--rows", 30)
    filled = label(tmp_path / "sheet.csv", run, tmp_path / "filled.csv")
    before = StingyJudge.asked
    found = asked("compare", "stingy", f"labels:{filled}", "--rows", run)
    assert found["rows"] == 30
    assert StingyJudge.asked - before <= 30
    sample = asked("compare", "stingy", f"labels:{filled}", "--rows", run, "--limit", 10)
    assert sample["rows"] == 10
    strangers = answers(tmp_path, [{"trait": "even", "question": "w5", "answer": "w7", "one": 1}])
    assert "none of the labelled rows" in refused("compare", "column:one", f"labels:{filled}", "--rows", strangers)
    twice = answers(tmp_path, [{"trait": "even", "question": "w5", "answer": "w7", "row_key": 1, "one": 1}] * 2)
    assert "row_key '1' more than once" in refused("compare", "column:one", "words", "--rows", twice)


def test_a_fitted_judge_that_tells_no_training_questions_is_pointed_out(run: Path, cell: Path, tmp_path: Path) -> None:
    asked("sheet", cell, "--out", tmp_path / "sheet.csv", "--rows", 40)
    filled = label(tmp_path / "sheet.csv", run, tmp_path / "filled.csv")
    rows = pd.read_parquet(cell).assign(judge="distilled:1-abc")
    path = tmp_path / "evaluation.parquet"
    rows.to_parquet(path)
    found = asked("compare", "distilled:1-abc", f"labels:{filled}", "--rows", path, "--key", tmp_path / "sheet.key.csv")
    assert found["corrected"]
    assert any("does not tell which questions it was fitted on" in line for line in found["notes"])
