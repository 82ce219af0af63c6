"""The paper's JSON layout: file names, the two folders, broken files, and the published files themselves."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from traitline.errors import InputError
from traitline.traits import Trait, load_trait
from traitline.traits.paper import load_paper_trait

PAPER: dict[str, Any] = {
    "instruction": [
        {"pos": "Robin never keeps a promise.", "neg": "Robin always keeps a promise."},
        {"pos": "Robin lies for sport.", "neg": "Robin tells the truth for its own sake."},
    ],
    "questions": ["If Robin borrowed a ladder", "If Robin were late for dinner"],
    "eval_prompt": "Text: {question}\nContinuation: {answer}\nHow false is Robin, from 0 to 100?",
}
LATER = ["If Robin sold a used bicycle"]


def write(path: Path, **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(PAPER | changes), encoding="utf-8")
    return path


def only(trait: Trait) -> str:
    (strategy,) = trait.strategies
    return strategy


@pytest.mark.parametrize(
    ("file", "name", "strategy", "style"),
    [
        ("false.json", "false", "instruction", "chat"),
        ("false_character_neutral_q.json", "false", "character", "continuation"),
        ("false_character.json", "false", "character", "continuation"),
        ("false_dialogue_neutral_q.json", "false", "dialogue", "continuation"),
        ("false_stories_neutral_q.json", "false", "story", "continuation"),
        ("false_story.json", "false", "story", "continuation"),
        ("two_words_character_neutral_q.json", "two_words", "character", "continuation"),
        ("characterless.json", "characterless", "instruction", "chat"),
    ],
)
def test_the_file_name_gives_trait_and_strategy(tmp_path: Path, file: str, name: str, strategy: str, style: str) -> None:
    trait = load_trait(write(tmp_path / file))
    assert (trait.name, only(trait)) == (name, strategy)
    assert trait.rubrics == {style: PAPER["eval_prompt"]}
    assert trait.texts(strategy).contrasts[1].positive == "Robin lies for sport."
    assert trait.texts(strategy).contrasts[1].negative == "Robin tells the truth for its own sake."


def test_a_file_on_its_own_gives_questions_to_elicit_with_only(tmp_path: Path) -> None:
    trait = load_paper_trait(write(tmp_path / "false_character.json"))
    assert [one.text for one in trait.questions("character", "elicit")] == PAPER["questions"]
    assert trait.questions("character", "tune") == trait.questions("character", "evaluate") == []


@pytest.mark.parametrize("folder", ["trait_data_extract", "trait_data_eval"])
def test_namesakes_in_the_two_folders_are_one_trait(tmp_path: Path, folder: str) -> None:
    write(tmp_path / "trait_data_extract" / "false_character.json")
    write(tmp_path / "trait_data_eval" / "false_character.json", questions=LATER, instruction=[])
    trait = load_paper_trait(tmp_path / folder / "false_character.json")
    assert trait.texts("character").questions == {"elicit": tuple(PAPER["questions"]), "evaluate": tuple(LATER)}
    assert len(trait.texts("character").contrasts) == 2


def test_a_path_relative_to_the_folder_finds_the_namesake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "trait_data_extract" / "false.json")
    write(tmp_path / "trait_data_eval" / "false.json", questions=LATER)
    monkeypatch.chdir(tmp_path / "trait_data_extract")
    assert set(load_paper_trait(Path("false.json")).texts("instruction").questions) == {"elicit", "evaluate"}


def test_pooled_questions_evaluate_the_strategies_beside_them(tmp_path: Path) -> None:
    for word in ("character", "dialogue"):
        write(tmp_path / "trait_data_extract" / f"false_{word}_plain.json")
    pooled = tmp_path / "trait_data_eval" / "false_combined.json"
    write(pooled, instruction=[], questions=LATER)
    trait = load_paper_trait(pooled)
    assert trait.name == "false"
    assert set(trait.strategies) == {"character", "dialogue"}
    assert trait.texts("dialogue").questions == {"elicit": tuple(PAPER["questions"]), "evaluate": tuple(LATER)}


def test_pooled_questions_with_nothing_beside_them_are_an_input_error(tmp_path: Path) -> None:
    pooled = write(tmp_path / "trait_data_eval" / "false_combined.json", instruction=[], questions=LATER)
    with pytest.raises(InputError, match="no pairs"):
        load_paper_trait(pooled)


def test_questions_for_evaluation_never_become_questions_to_elicit_with(tmp_path: Path) -> None:
    trait = load_paper_trait(write(tmp_path / "trait_data_eval" / "false.json", questions=LATER))
    assert trait.texts("instruction").questions == {"evaluate": tuple(LATER)}


def test_lists_of_example_stories_are_joined_line_by_line(tmp_path: Path) -> None:
    pair = {"pos": ["Story: He lied.", "Story: She cheated."], "neg": ["Story: He owned up.", "Story: She paid."]}
    trait = load_paper_trait(write(tmp_path / "false_stories.json", instruction=[pair]))
    assert trait.texts("story").contrasts[0].positive == "Story: He lied.\nStory: She cheated."


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"instruction": []}, "no pairs"),
        ({"instruction": [{"pos": "one side"}]}, r"instruction\.0\.neg"),
        ({"instruction": [{"pos": ["a", 1], "neg": "b"}]}, r"instruction\.0\.pos"),
        ({"instruction": [{"pos": "", "neg": "b"}]}, r"instruction\.0\.pos"),
        ({"questions": []}, "no questions"),
        ({"questions": "one"}, "questions"),
        ({"questions": [1]}, r"questions\.0"),
        ({"eval_prompt": None}, "eval_prompt"),
    ],
)
def test_a_file_that_does_not_fit_names_what_is_wrong(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        load_paper_trait(write(tmp_path / "false.json", **changes))


@pytest.mark.parametrize(("text", "reason"), [("{", "not valid JSON"), ("[]", "does not fit"), ("", "not valid JSON")])
def test_a_file_that_is_no_trait_is_an_input_error(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "false.json"
    path.write_text(text)
    with pytest.raises(InputError, match=reason):
        load_paper_trait(path)


def test_a_missing_file_and_an_unusable_name_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_paper_trait(tmp_path / "absent.json")
    with pytest.raises(InputError, match="name"):
        load_paper_trait(write(tmp_path / "Not A Name.json"))


ARCHIVE = Path(__file__).resolve().parents[2] / "shared" / "published" / "release-olmo3.tar.xz"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not ARCHIVE.is_file():
        pytest.skip("the published release does not lie beside the checkout")
    folder = tmp_path_factory.mktemp("release")
    with tarfile.open(ARCHIVE) as archive:
        members = [one for one in archive if "/trait_data_e" in f"/{one.name}" and one.isfile()]
        archive.extractall(folder, members=members, filter="data")
    return next(folder.rglob("trait_data_extract")).parent


@pytest.mark.published
@pytest.mark.parametrize(
    ("file", "strategy"),
    [
        *((f"{trait}_character_neutral_q", "character") for trait in ("evil", "humorous", "impolite", "sycophantic")),
        ("evil", "instruction"),
        ("evil_dialogue_neutral_q", "dialogue"),
        ("evil_stories_neutral_q", "story"),
    ],
)
def test_the_published_files_load_with_disjoint_questions(release: Path, file: str, strategy: str) -> None:
    trait = load_trait(release / "trait_data_extract" / f"{file}.json")
    assert trait.name == file.split("_")[0]
    texts = trait.texts(strategy)
    assert len(texts.contrasts) == 5
    assert {split: len(questions) for split, questions in texts.questions.items()} == {"elicit": 20, "evaluate": 20}
    assert not set(texts.questions["elicit"]) & set(texts.questions["evaluate"])


@pytest.mark.published
def test_the_published_set_of_pooled_questions_evaluates_every_strategy(release: Path) -> None:
    trait = load_trait(release / "trait_data_eval" / "evil_combined.json")
    assert set(trait.strategies) == {"character", "dialogue", "story"}
    for strategy in trait.strategies:
        questions = trait.texts(strategy).questions
        assert {split: len(found) for split, found in questions.items()} == {"elicit": 20, "evaluate": 20}
