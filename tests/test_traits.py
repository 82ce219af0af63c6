"""Trait files and strategies: what loads, what is refused, and how a prompt is worded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from traitline.errors import InputError
from traitline.traits import Contrast, Question, Trait, load_trait, packaged_traits
from traitline.traits.strategies import STRATEGIES, Strategy, register, strategy

CONTENT: dict[str, Any] = {
    "name": "tidy",
    "description": "Puts things in order.",
    "rubrics": {"continuation": "Text: {question} More: {answer}", "chat": "Asked: {question} Said: {answer}"},
    "facets": {"order": "Sorts things."},
    "strategies": {
        "character": {
            "contrasts": [{"positive": "Kim sorts every drawer.", "negative": "Kim empties every drawer."}],
            "questions": {"elicit": ["If Kim found a sock", "If Kim packed a suitcase"], "evaluate": ["If Kim cooked"]},
        }
    },
}


def write(folder: Path, content: object, name: str = "tidy.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


# Packaged traits -----------------------------------------------------------------------------------------------------


def test_the_four_traits_are_packaged() -> None:
    assert packaged_traits() == ["evil", "humorous", "impolite", "sycophantic"]


@pytest.mark.parametrize("name", packaged_traits())
def test_every_packaged_trait_is_complete(name: str) -> None:
    trait = load_trait(name)
    assert trait.name == name
    assert set(trait.rubrics) == {"continuation", "chat"}
    assert len(trait.facets) >= 2
    assert set(trait.strategies) == {"instruction", "character", "dialogue", "story"}
    for texts in trait.strategies.values():
        assert len(texts.contrasts) == 5
        assert {split: len(asked) for split, asked in texts.questions.items()} == {"elicit": 20, "tune": 10, "evaluate": 20}
    assert {split: len(asked) for split, asked in trait.common.items()} == {"tune": 10, "evaluate": 20}


@pytest.mark.parametrize("name", packaged_traits())
def test_common_questions_of_packaged_traits_stand_on_their_own(name: str) -> None:
    trait = load_trait(name)
    for question in trait.questions("common", "tune") + trait.questions("common", "evaluate"):
        assert 8 <= len(question.text.split()) <= 30, question.id
        assert "?" in question.text, question.id
        assert "Alex" not in question.text, question.id  # answered by the author, not about a person made up


def test_question_ids_are_unique_across_all_packaged_traits() -> None:
    ids = [
        question.id
        for trait in map(load_trait, packaged_traits())
        for name in (*trait.strategies, "common")
        for split in ("elicit", "tune", "evaluate")
        for question in trait.questions(name, split)  # type: ignore[arg-type]
    ]
    assert len(ids) == 4 * (4 * 50 + 30)
    assert len(set(ids)) == len(ids)


# A trait of one's own ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tidy.yaml", "another.yml"])
def test_a_file_loads_by_path_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, CONTENT, name)
    assert load_trait(path) == load_trait(str(path)) == Trait.model_validate(CONTENT)
    assert load_trait(path).name == "tidy"


def test_questions_carry_an_id_that_says_where_they_stand(tmp_path: Path) -> None:
    trait = load_trait(write(tmp_path, CONTENT))
    assert trait.questions("character", "elicit") == [
        Question(id="tidy-character-elicit-00", text="If Kim found a sock"),
        Question(id="tidy-character-elicit-01", text="If Kim packed a suitcase"),
    ]
    assert trait.questions("character", "tune") == []


def test_common_questions_have_ids_of_their_own_and_are_asked_like_those_of_instruction(tmp_path: Path) -> None:
    trait = load_trait(write(tmp_path, CONTENT | {"common": {"evaluate": ["Where do socks go?"]}}))
    (question,) = trait.questions("common", "evaluate")
    assert question == Question(id="tidy-common-evaluate-00", text="Where do socks go?")
    assert trait.questions("common", "tune") == []
    assert "common" not in trait.strategies
    common = strategy("common")
    assert common.style == "chat"
    for form in ("plain", "chat"):
        assert common.prompt(None, question.text, form) == strategy("instruction").prompt(None, question.text, form)  # type: ignore[arg-type]


def test_a_trait_without_common_questions_loads(tmp_path: Path) -> None:
    assert load_trait(write(tmp_path, CONTENT)).questions("common", "evaluate") == []


def test_a_contrast_gives_the_instruction_of_a_polarity() -> None:
    contrast = Contrast(positive="be tidy", negative="be messy")
    assert (contrast.side("pos"), contrast.side("neg")) == ("be tidy", "be messy")


def test_space_around_a_text_is_dropped_and_space_within_it_kept() -> None:
    contrast = Contrast(positive="  Ann: Hello.\n\nKim: Hello.\n", negative="no")
    assert contrast.positive == "Ann: Hello.\n\nKim: Hello."


def test_the_digest_depends_on_every_text_and_not_on_the_files_layout(tmp_path: Path) -> None:
    trait = load_trait(write(tmp_path, CONTENT))
    again = load_trait(write(tmp_path, dict(reversed(CONTENT.items())), "reordered.yaml"))
    changed = load_trait(write(tmp_path, yaml.safe_dump(CONTENT).replace("a sock", "a glove"), "changed.yaml"))
    assert len(trait.digest) == 16
    assert trait.digest == again.digest
    assert trait.digest != changed.digest


def test_a_trait_cannot_be_changed(tmp_path: Path) -> None:
    trait = load_trait(write(tmp_path, CONTENT))
    with pytest.raises(ValidationError, match="frozen"):
        trait.name = "other"  # type: ignore[misc]


# What is refused -----------------------------------------------------------------------------------------------------


def test_an_unknown_name_lists_the_nearest_and_says_how_to_give_a_file() -> None:
    with pytest.raises(InputError, match=r"nearest: humorous.*\.yaml file"):
        load_trait("humourous")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.yaml.*does not exist"):
        load_trait(tmp_path / "absent.yaml")


def test_an_unknown_strategy_of_a_trait_lists_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'tidy' has no texts for strategy 'story'; nearest: character"):
        load_trait(write(tmp_path, CONTENT)).questions("story", "elicit")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("name: tidy", "name: Tidy Up"), "name: String should match"),
        (("name: tidy", "name: ../tidy"), "name: String should match"),
        (("name: tidy", "nome: tidy"), "nome: Extra inputs"),
        (("description: Puts things in order.", "description: ' '"), "description"),
        (("chat: 'Asked", "letter: 'Asked"), "rubrics.letter"),
        (("    contrasts:", "    examples: []\n    contrasts:"), "strategies.character.examples"),
        (("negative: Kim empties every drawer.", "negative: ''"), r"strategies.character.contrasts.0.negative"),
        (("      evaluate:", "      test:"), "strategies.character.questions.test"),
        (("description:", "common: {test: [Where to]}\ndescription:"), "common.test"),
        (("- If Kim cooked", "- 12"), "strategies.character.questions.evaluate.0"),
    ],
)
def test_a_file_that_does_not_fit_says_where(tmp_path: Path, change: tuple[str, str], reason: str) -> None:
    text = yaml.safe_dump(CONTENT)
    assert change[0] in text
    with pytest.raises(InputError, match="does not fit the schema") as caught:
        load_trait(write(tmp_path, text.replace(*change)))
    assert reason.split(":")[0] in str(caught.value)


@pytest.mark.parametrize("empty", [{}, {"elicit": []}])
def test_a_strategy_without_any_question_is_refused(tmp_path: Path, empty: dict[str, list[str]]) -> None:
    texts = CONTENT["strategies"]["character"] | {"questions": empty}
    with pytest.raises(InputError, match="no questions in any split"):
        load_trait(write(tmp_path, CONTENT | {"strategies": {"character": texts}}))


@pytest.mark.parametrize(
    ("text", "reason"), [("name: [tidy", "not valid YAML"), ("", "does not fit"), ("- a\n- b\n", "does not fit")]
)
def test_a_file_that_is_no_trait_is_an_input_error(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        load_trait(write(tmp_path, text))


def test_a_yaml_file_cannot_run_code(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not valid YAML"):
        load_trait(write(tmp_path, "name: !!python/object/apply:os.getcwd []\n"))


# Strategies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "instructed", "bare"),
    [
        ("instruction", "I.\n\nQuestion: Q\nAnswer:", "Question: Q\nAnswer:"),
        ("character", "I. Q", "Q"),
        ("dialogue", "I.\n\nQ", "Q"),
        ("story", "I.\n\nQ", "Q"),
    ],
)
def test_a_base_model_gets_one_text_to_continue(name: str, instructed: str, bare: str) -> None:
    assert strategy(name).prompt("I.", "Q", "plain") == instructed
    assert strategy(name).prompt(None, "Q", "plain") == bare


def test_a_chat_model_gets_the_instruction_as_its_system_message() -> None:
    question = {"role": "user", "content": "Q"}
    assert strategy("instruction").prompt("I.", "Q", "chat") == [{"role": "system", "content": "I."}, question]
    assert strategy("instruction").prompt(None, "Q", "chat") == [question]


@pytest.mark.parametrize("name", ["character", "dialogue", "story"])
@pytest.mark.parametrize("instruction", [None, "I."])
def test_a_chat_model_is_asked_to_continue_the_same_text(name: str, instruction: str | None) -> None:
    (message,) = strategy(name).prompt(instruction, "Q", "chat")
    assert isinstance(message, dict)
    assert message["role"] == "user"
    assert message["content"].endswith("\n\n" + str(strategy(name).prompt(instruction, "Q", "plain")))


def test_each_strategy_names_the_rubric_that_fits_its_responses() -> None:
    assert {name: one.style for name, one in STRATEGIES.items()} == {
        "instruction": "chat",
        "character": "continuation",
        "dialogue": "continuation",
        "story": "continuation",
    }


def test_an_unknown_strategy_lists_the_nearest() -> None:
    with pytest.raises(InputError, match="'charakter'; nearest: character"):
        strategy("charakter")


def test_a_registered_strategy_is_found_by_name() -> None:
    riddle = Strategy("riddle", "chat", lambda _, question: f"{question}?", lambda _, question: [])
    try:
        assert register(riddle) is riddle
        assert strategy("riddle").prompt(None, "Who", "plain") == "Who?"
    finally:
        STRATEGIES.pop("riddle")
