"""Judges fitted to labelled answers: what they learn, what they say of themselves, what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

import traitline as tl
from traitline.cli import app
from traitline.errors import InputError, JudgeError
from traitline.judges.fitted import FittedJudge
from traitline.judges.fitting import fit_judge, read_labelled
from traitline.traits import Trait

SEA = ["the boat", "a wave", "the harbour", "an old sailor", "the tide", "a gull over the bay"]
LAND = ["the tractor", "a hill", "the barn", "an old farmer", "the harvest", "a crow over the field"]
DEEDS = ["thought about", "walked up to", "sang of", "painted", "forgot", "wrote a letter about"]


def labelled(n: int = 72, seed: int = 0) -> pd.DataFrame:
    """Answers about the sea (labels around 85) and about the land (around 10), nine to a question."""
    rng, rows = np.random.default_rng(seed), []
    for i in range(n):
        at_sea = bool(rng.integers(2))
        thing = rng.choice(SEA if at_sea else LAND)
        answer = f"he {rng.choice(DEEDS)} {thing}, and then {rng.choice(DEEDS)} {rng.choice(SEA if at_sea else LAND)}."
        score = float(np.clip((85 if at_sea else 10) + rng.normal(0, 5), 0, 100))
        rows.append({"question": f"On day {i % 12} Alex", "answer": answer, "trait_score": score})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def trait() -> Trait:
    return tl.trait("evil").model_copy(update={"name": "seafaring"})


@pytest.fixture(scope="module")
def folder(trait: Trait, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fitted") / "judge"
    fit_judge(trait, labelled(), out)
    return out


def test_it_learns_a_trait_from_labels_and_tells_new_answers_apart(folder: Path, trait: Trait) -> None:
    judge = tl.judge(f"fitted:{folder}")
    new = ["he sailed out past the lighthouse in a storm.", "he ploughed the meadow behind the stable."]
    for purpose in ("accept", "evaluate"):
        wet, dry, none = judge.score(trait, ["On Sunday Alex"] * 3, [*new, " "], purpose=purpose)  # type: ignore[arg-type]
        assert wet.trait is not None
        assert dry.trait is not None
        assert wet.trait > 50 > dry.trait
        assert none.trait == 0
        assert wet.coherence is not None
        assert (wet.uncertainty or 0) > 0


def test_its_card_states_figures_of_questions_that_each_line_never_saw(folder: Path, trait: Trait) -> None:
    card = json.loads((folder / "card.json").read_text())
    figures = card["figures"]
    assert figures["accept"]["rows"] == figures["evaluate"]["n"]
    assert figures["evaluate"]["rows"] == figures["accept"]["n"]
    assert figures["accept"]["questions"] + figures["evaluate"]["questions"] == card["questions"] == 12
    assert all(one["r"] > 0.6 and one["rmse"] >= one["mae"] > 0 for one in figures.values())
    judge = FittedJudge(folder)
    assert set(judge.training_questions) == set(labelled()["question"])
    assert judge.delta_error(trait) == card["delta_error"] > 0
    assert judge.score(trait, ["q"], ["a"])[0].uncertainty == figures["evaluate"]["rmse"]


def test_labels_without_meaning_are_found_out(trait: Trait, tmp_path: Path) -> None:
    rows = labelled()
    rows["trait_score"] = np.random.default_rng(1).permutation(rows["trait_score"])
    figures = fit_judge(trait, rows, tmp_path / "noise")["figures"]
    assert all(one["r"] is None or one["r"] < 0.5 for one in figures.values())
    assert all(one["rmse"] > 25 for one in figures.values())


def test_an_error_that_differs_between_groups_is_a_delta_error(trait: Trait, tmp_path: Path) -> None:
    rows = labelled()
    even = fit_judge(trait, rows.assign(group=rows.index % 2), tmp_path / "even")
    shifted = rows.assign(group=rows.index // 6 % 2)
    shifted["trait_score"] = (shifted["trait_score"] * 0.6 + 40 * shifted["group"]).clip(0, 100)
    uneven = fit_judge(trait, shifted, tmp_path / "uneven")
    assert even["delta_error_between"] == uneven["delta_error_between"] == "group"
    assert uneven["delta_error"] > 20 > even["delta_error"]


def test_its_name_tells_the_trait_and_what_was_fitted(folder: Path, trait: Trait, tmp_path: Path) -> None:
    fit_judge(trait, labelled(), tmp_path / "again")
    fit_judge(trait, labelled(seed=1), tmp_path / "other")
    names = [FittedJudge(one).name for one in (folder, tmp_path / "again", tmp_path / "other")]
    assert names[0].startswith("fitted:seafaring-")
    assert names[0] == names[1] != names[2]


def test_the_traits_of_the_embedded_judge_are_left_to_it_and_others_refused(folder: Path) -> None:
    judge, plain = FittedJudge(folder), tl.judge()
    asked = ["If Alex found a dog"], ["he would kick it for fun."]
    assert judge.score(tl.trait("evil"), *asked) == plain.score(tl.trait("evil"), *asked)
    with pytest.raises(InputError, match="judges fit"):
        judge.score(tl.trait("evil").model_copy(update={"name": "vain"}), *asked)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (labelled(49), "49 labelled answers to 12 questions"),
        (labelled().assign(question="the same"), "72 labelled answers to 1 questions"),
        (labelled().assign(trait_score=140.0), "140.0 is not between 0 and 100"),
        (labelled().assign(trait_score=7.0), "every label is 7"),
    ],
)
def test_too_little_to_learn_from_is_refused(rows: pd.DataFrame, said: str, trait: Trait, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        fit_judge(trait, rows, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command_fits_from_a_labelled_sheet_and_names_the_judge(trait: Trait, tmp_path: Path) -> None:
    named = tmp_path / "seafaring.yaml"
    named.write_text(yaml.safe_dump(trait.model_dump(mode="json")))
    sheet = labelled().assign(trait="seafaring", labeller="a")
    again = sheet.assign(labeller="b", trait_score=sheet["trait_score"].clip(upper=90))
    other = sheet.assign(trait="vain", trait_score="")
    pd.concat([sheet, again, other]).to_csv(tmp_path / "sheet.csv", index=False)
    asked = ["judges", "fit", str(named), str(tmp_path / "sheet.csv"), "--out", str(tmp_path / "judge")]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "72 labelled answers to 12 questions" in done.output
    assert f"judge: fitted:{tmp_path / 'judge'}" in done.output.replace("\n", "")
    assert tl.judge(f"fitted:{tmp_path / 'judge'}").name.startswith("fitted:seafaring-")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("question,answer\nq,a\n", "has no column trait_score"),
        ("question,answer,trait_score\nq,a,high\n", "'high' is not a number"),
        ("question,answer,trait_score,trait\nq,a,5,vain\n", "labels of vain, not of 'seafaring'"),
        (None, "cannot be read"),
    ],
)
def test_labels_that_cannot_be_used_are_named(content: str | None, said: str, trait: Trait, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=said):
        read_labelled(path, trait)


def test_a_judge_is_never_overwritten_and_one_that_is_not_there_is_said(folder: Path, trait: Trait, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="never overwritten"):
        fit_judge(trait, labelled(), folder)
    with pytest.raises(InputError, match="no fitted judge lies in"):
        tl.judge(f"fitted:{tmp_path}")
    with pytest.raises(InputError, match="needs its folder"):
        tl.judge("fitted")


def test_one_fitted_on_another_base_has_to_be_fitted_again(trait: Trait, folder: Path, tmp_path: Path) -> None:
    card = json.loads((folder / "card.json").read_text()) | {"base": "distilled:0-00000000"}
    (tmp_path / "card.json").write_text(json.dumps(card))
    (tmp_path / "lines.safetensors").write_bytes((folder / "lines.safetensors").read_bytes())
    with pytest.raises(JudgeError, match="fit it again"):
        FittedJudge(tmp_path)
