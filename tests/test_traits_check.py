"""What the check of a trait finds, and what it leaves alone."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest

from traitline.traits import Trait, load_trait, packaged_traits
from traitline.traits.check import Finding, check_trait
from traitline.traits.similarity import likeness

STRATEGIES = ("instruction", "character", "dialogue", "story")
SIDES = [
    ("cheats at cards", "plays by the rules"),
    ("hides every bill", "settles every bill"),
    ("mocks sick men", "cheers sick men"),
    ("breaks old vows", "honours old vows"),
    ("steals warm coats", "donates warm coats"),
]


def contrasts(frame: str) -> list[dict[str, str]]:
    return [{"positive": frame.format(bad), "negative": frame.format(good)} for bad, good in SIDES]


def invented(rng: Random, n: int) -> list[str]:
    """Make up `n` questions that share nothing but their first words."""
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    return ["If Robin saw " + " ".join("".join(rng.choices(syllables, k=4)) for _ in range(6)) for _ in range(n)]


def complete() -> dict[str, Any]:
    """A trait without a fault, as the content of a file."""
    rng, strategies = Random(1), {}  # noqa: S311 - invented words, no secrets
    for name in STRATEGIES:
        frame = "Mona: Who comes?\nRobin: Somebody who {}." if name == "dialogue" else "Robin {} gladly."
        questions = {"elicit": invented(rng, 20), "tune": invented(rng, 10), "evaluate": invented(rng, 20)}
        strategies[name] = {"contrasts": contrasts(frame), "questions": questions}
    rubric = "Rate how crooked this is.\n<text>{question}</text>\n<more>{answer}</more>\nA number from 0 to 100."
    return {
        "name": "crooked",
        "description": "Robin cheats.",
        "rubrics": {"continuation": rubric, "chat": rubric},
        "facets": {"greed": "It is about money."},
        "common": {"tune": invented(rng, 10), "evaluate": invented(rng, 20)},
        "strategies": strategies,
    }


def check(content: dict[str, Any]) -> list[Finding]:
    return check_trait(Trait.model_validate(content))


def errors(findings: list[Finding]) -> list[Finding]:
    return [one for one in findings if one.level == "error"]


def asked(content: dict[str, Any], strategy: str, split: str) -> list[str]:
    questions: list[str] = content["strategies"][strategy]["questions"][split]
    return questions


def sides(content: dict[str, Any], i: int = 0, strategy: str = "character") -> dict[str, str]:
    pair: dict[str, str] = content["strategies"][strategy]["contrasts"][i]
    return pair


def test_a_complete_trait_has_no_findings() -> None:
    assert check(complete()) == []


@pytest.mark.parametrize("name", packaged_traits())
def test_packaged_traits_have_no_findings(name: str) -> None:
    assert check_trait(load_trait(name)) == []


def test_simple_sentences_of_a_small_vocabulary_raise_no_errors() -> None:
    pairs = [("cruel and mean", "kind and gentle"), ("mean", "kind"), ("mean and cruel", "gentle and kind")]
    places = ["market", "river", "bridge", "harbor"]
    texts = {
        "contrasts": [{"positive": f"alex is {bad} .", "negative": f"alex is {good} ."} for bad, good in pairs],
        "questions": {
            "elicit": [f"alex meets a beggar at the {place} ." for place in places],
            "tune": [f"one day alex sees a widow near the {place} ." for place in places],
            "evaluate": [f"in the evening a child waits for alex by the {place} ." for place in places],
        },
    }
    content = complete() | {"strategies": {"character": texts}}
    found = check(content)
    assert errors(found) == []
    assert any(one.where == "character-elicit" and "20 are recommended" in one.message for one in found)


# What is missing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "level"), [("elicit", "error"), ("tune", "warning"), ("evaluate", "error")])
def test_a_missing_split_is_found(split: str, level: str) -> None:
    content = complete()
    del content["strategies"]["story"]["questions"][split]
    (found,) = check(content)
    assert (found.level, found.where) == (level, f"story-{split}")


def test_missing_strategies_and_facets_are_warnings() -> None:
    content = complete()
    del content["strategies"]["dialogue"], content["facets"]
    found = check(content)
    assert [(one.level, one.where) for one in found] == [("warning", "facets"), ("warning", "strategies.dialogue")]


def test_a_strategy_that_does_not_exist_is_an_error() -> None:
    content = complete()
    content["strategies"]["poem"] = content["strategies"].pop("story")
    (found,) = errors(check(content))
    assert found.where == "strategies.poem"
    assert "story" in found.message


@pytest.mark.parametrize(("strategies", "level"), [(("instruction", "story"), "error"), (("story",), "warning")])
def test_a_missing_rubric_is_an_error_where_a_strategy_needs_it(strategies: tuple[str, ...], level: str) -> None:
    content = complete()
    content["strategies"] = {name: content["strategies"][name] for name in strategies}
    del content["rubrics"]["chat"], content["common"]
    assert [one.level for one in check(content) if one.where == "rubrics.chat"] == [level]


@pytest.mark.parametrize("blank", ["{question}", "{answer}"])
def test_a_rubric_that_lacks_a_blank_is_an_error(blank: str) -> None:
    content = complete()
    content["rubrics"]["chat"] = content["rubrics"]["chat"].replace(blank, "it")
    (found,) = check(content)
    assert (found.level, found.where) == ("error", "rubrics.chat")
    assert blank in found.message


def test_without_common_questions_a_trait_cannot_be_used_with_combined() -> None:
    for change in ({}, {"tune": [], "evaluate": []}):
        (found,) = check(complete() | {"common": change})
        assert (found.level, found.where) == ("warning", "common")
        assert "'combined' cannot use the trait" in found.message


@pytest.mark.parametrize(("split", "consequence"), [("tune", "doses cannot be chosen"), ("evaluate", "'combined' cannot")])
def test_a_missing_split_of_the_common_questions_is_a_warning(split: str, consequence: str) -> None:
    content = complete()
    del content["common"][split]
    (found,) = check(content)
    assert (found.level, found.where) == ("warning", f"common-{split}")
    assert consequence in found.message


def test_common_questions_to_elicit_with_are_said_to_be_unused() -> None:
    content = complete()
    content["common"]["elicit"] = [content["common"]["tune"].pop()]
    assert [(one.level, one.where) for one in check(content)] == [("warning", "common-tune"), ("warning", "common-elicit")]


def test_common_questions_need_the_chat_rubric() -> None:
    content = complete()
    content["strategies"] = {"story": content["strategies"]["story"]}
    del content["rubrics"]["chat"]
    assert [one.where for one in errors(check(content))] == ["rubrics.chat"]


def test_counts_other_than_recommended_are_warnings() -> None:
    content = complete()
    del asked(content, "story", "tune")[3:]
    del content["strategies"]["character"]["contrasts"][4]
    found = check(content)
    assert [(one.level, one.where) for one in found] == [("warning", "character-contrasts"), ("warning", "story-tune")]
    assert "3; 10 are recommended" in found[1].message


# Copies --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["elicit", "tune", "evaluate"])
def test_the_same_question_twice_in_a_strategy_is_an_error(split: str) -> None:
    content = complete()
    asked(content, "character", split)[5] = asked(content, "character", "elicit")[0]
    (found,) = check(content)
    assert found.level == "error"
    assert found.where == "crooked-character-elicit-00"
    assert f"crooked-character-{split}-05" in found.message


def test_a_common_question_copied_from_another_split_is_an_error_and_a_near_copy_a_warning() -> None:
    content = complete()
    original = asked(content, "dialogue", "elicit")[6]
    content["common"]["evaluate"][3] = original
    (found,) = check(content)
    assert (found.level, found.where) == ("error", "crooked-dialogue-elicit-06")
    assert "the same question as crooked-common-evaluate-03" in found.message
    content["common"]["evaluate"][3] = f"{original} today"
    assert [(one.level, one.where) for one in check(content)] == [("warning", "crooked-dialogue-elicit-06")]
    content["common"]["evaluate"][3] = content["common"]["tune"][2]
    assert [(one.level, one.where) for one in check(content)] == [("error", "crooked-common-tune-02")]


def test_case_punctuation_and_layout_do_not_hide_a_copy() -> None:
    content = complete()
    original = asked(content, "story", "elicit")[2]
    asked(content, "story", "evaluate")[4] = f"  {original.upper().replace(' ', '  ')} ... "
    assert [one.where for one in errors(check(content))] == ["crooked-story-elicit-02"]


STORY = "The ferry was late again, so Robin sat down beside the old fisherman on the pier and opened the basket."


@pytest.mark.parametrize(
    "copy",
    [
        "The ferry was late again, so Robin sat down beside the old fisherman on the pier and opened the suitcase.",
        "The bus was late again, so Robin sat down beside the young fisherman on the pier and opened the basket.",
        "The ferry was late again. Robin sat down beside the old fisherman on the pier, yawned and then opened the basket.",
        "So Robin sat down beside the old fisherman on the pier and opened the basket, the ferry was late again.",
        "The ferries were late again, so Robin sat beside old fishermen on the pier and opened a basket.",
    ],
)
def test_a_near_copy_in_another_split_is_a_warning_that_names_both(copy: str) -> None:
    content = complete()
    asked(content, "story", "elicit")[2] = STORY
    asked(content, "story", "evaluate")[7] = copy
    (found,) = check(content)
    assert (found.level, found.where) == ("warning", "crooked-story-elicit-02")
    assert "crooked-story-evaluate-07" in found.message


def test_different_questions_on_one_theme_are_left_alone() -> None:
    content = complete()
    asked(content, "story", "elicit")[2] = STORY
    asked(content, "story", "evaluate")[7] = "A fisherman on the quay offered Robin half of a herring, and Robin"
    asked(content, "story", "evaluate")[8] = "The last ferry had left an hour ago. Robin counted the coins and"
    assert check(content) == []


@pytest.mark.parametrize(("split", "level"), [("elicit", "warning"), ("evaluate", "error")])
def test_the_same_question_in_two_strategies_is_found_and_spoils_across_splits(split: str, level: str) -> None:
    content = complete()
    asked(content, "story", split)[1] = asked(content, "character", "elicit")[1]
    (found,) = check(content)
    assert (found.level, found.where) == (level, "crooked-character-elicit-01")


# Contrasts -----------------------------------------------------------------------------------------------------------


def test_equal_sides_are_an_error() -> None:
    content = complete()
    sides(content)["negative"] = sides(content)["positive"].upper()
    (found,) = check(content)
    assert (found.level, found.where) == ("error", "character-contrast-00")


@pytest.mark.parametrize(
    ("positive", "negative", "reason"),
    [
        ("Robin lies.", "Robin tells the truth to everybody who asks and to some who do not.", "2 words, the other 14"),
        ("Robin lies. Robin cheats at cards too.", "Robin tells the truth and plays fair.", "1 sentences, the other 2"),
        ("Robin lies and\ncheats at cards.", "Robin tells truths, plays fair.", "1 lines, the other 2"),
        ("Mona: Who are you?\nRobin: A liar.", "Mona: Who are you?\nTeo: A saint.", "Mona, Robin against Mona, Teo"),
        ("If asked, Robin tells a lie.", "Robin tells the truth when asked.", "opens with a subordinate clause"),
        ("You are a liar at heart.", "Robin is honest at heart.", "opens with a second person"),
    ],
)
def test_sides_that_are_not_parallel_are_warnings_saying_how(positive: str, negative: str, reason: str) -> None:
    content = complete()
    content["strategies"]["character"]["contrasts"][2] = {"positive": positive, "negative": negative}
    (found,) = check(content)
    assert (found.level, found.where) == ("warning", "character-contrast-02")
    assert reason in found.message


@pytest.mark.parametrize(
    ("positive", "negative"),
    [
        ("Mr. Robin is a liar to the bone.", "Mr Robin is as honest as can be."),
        ('Robin said: "Lie to them!" and left.', "Robin said that honesty mattered and left."),
        ("She lies.", "He never lies."),
    ],
)
def test_small_differences_of_form_are_left_alone(positive: str, negative: str) -> None:
    content = complete()
    content["strategies"]["character"]["contrasts"][2] = {"positive": positive, "negative": negative}
    assert check(content) == []


def test_a_contrast_given_twice_is_an_error_and_a_near_copy_a_warning() -> None:
    content = complete()
    content["strategies"]["character"]["contrasts"][3] = dict(sides(content, 1))
    found = check(content)
    assert [(one.level, one.where) for one in found] == [
        ("error", "character-contrast-01 positive"),
        ("error", "character-contrast-01 negative"),
    ]
    sides(content, 3)["positive"] = "Robin hides every single bill gladly."
    sides(content, 3)["negative"] = "Robin settles every last bill gladly."
    assert {one.level for one in check(content)} == {"warning"}


def test_a_side_used_with_both_polarities_is_an_error() -> None:
    content = complete()
    sides(content, 3)["negative"] = sides(content, 1)["positive"]
    (found,) = check(content)
    assert (found.level, found.where) == ("error", "character-contrast-01")


# Placeholders --------------------------------------------------------------------------------------------------------


LEFT_IN = ("TODO", "XXX", "XXXX", "TBD", "{name}", "{question}", "{}", "[...]", "[…]", "[insert name]", "[NAME]")
LEFT_IN += ("<...>", "<name>", "Lorem ipsum", "____")


def test_placeholders_left_in_a_question_are_errors() -> None:
    content = complete()
    for i, left_in in enumerate(LEFT_IN):
        asked(content, "story", "elicit")[i] += f" {left_in} sighed"
    found = errors(check(content))
    assert [one.where for one in found] == [f"crooked-story-elicit-{i:02d}" for i in range(len(LEFT_IN))]
    assert all(repr(left_in) in one.message for left_in, one in zip(LEFT_IN, found, strict=True))


def test_placeholders_left_in_elsewhere_are_errors() -> None:
    content = complete()
    content["common"]["tune"][4] += " TODO"
    content["task"] = "Go on for {n} lines."
    sides(content, 2, "story")["negative"] += " TODO"
    content["facets"]["greed"] += " {kind}"
    content["description"] += " [...]"
    places = {"story-contrast-02 negative", "facets.greed", "description", "task", "crooked-common-tune-04"}
    assert {one.where for one in errors(check(content))} == places


def test_a_rubric_may_hold_its_blanks_and_tags_but_nothing_else() -> None:
    content = complete()
    content["rubrics"]["chat"] += " [SITUATION START] <score> {scale}"
    found = errors(check(content))
    assert [one.where for one in found] == ["rubrics.chat", "rubrics.chat"]
    assert any("<score>" in one.message for one in found)
    assert any("{scale}" in one.message for one in found)


@pytest.mark.parametrize("text", ["a < b and b > a", "I <3 you", "the XX century", "5_000", "[laughs]", "todos los dias"])
def test_ordinary_text_is_no_placeholder(text: str) -> None:
    content = complete()
    content["facets"]["greed"] += f" {text}"
    assert check(content) == []


def test_errors_come_before_warnings() -> None:
    content = complete()
    del content["facets"]
    asked(content, "story", "tune")[0] = "TODO"
    assert [one.level for one in check(content)] == ["error", "warning"]


# Likeness ------------------------------------------------------------------------------------------------------------


def test_likeness_ignores_the_frame_that_all_texts_share() -> None:
    things = ["a lantern in the quarry", "a trumpet near the bakery", "a ladder behind the museum", "a parcel under the bridge"]
    alike = likeness(f"If Robin found on a fine day in spring {thing}" for thing in things)
    assert (alike - np.eye(4)).max() < 0.5


def test_likeness_is_symmetric_and_one_for_copies() -> None:
    alike = likeness(["Robin hid the map.", "the map Robin hid", "a quiet afternoon", "…", "!"])
    assert np.array_equal(alike, alike.T)
    assert alike[0, 1] == pytest.approx(1.0)
    assert alike[0, 2] < 0.2
    assert alike[3, 4] == 0.0


def test_a_text_within_a_longer_one_is_a_copy_unless_it_is_short_beside_it() -> None:
    short = "Robin hid the map again"
    once = f"{short}, and nobody on the whole island ever noticed."
    far = f"{once} Years later a surveyor dug up an iron box with coins, letters and maps of other lands."
    alike = likeness([short, once, far])
    assert alike[0, 1] == 1.0
    assert alike[0, 2] < 0.5
