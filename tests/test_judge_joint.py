"""Two numbers off one answer, each from its own place, and a judge that is known to have asked for both."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from misbehaving_server import WAYS, MisbehavingServer
from test_judge_server import TRAIT, rows
from traitline.judges.api.joint import joint_prompt, read_pair, read_pair_samples
from traitline.judges.cache import JudgeCache
from traitline.judges.numbers import Position
from traitline.judges.openai import OpenAIJudge
from traitline.judges.questions import questions_about
from traitline.traits import load_trait


def positions(*tokens: str | dict[str, float]) -> tuple[Position, ...]:
    """Tokens of an answer: a text, or its alternatives, the most probable of which was chosen."""
    made = []
    for token in tokens:
        odds = token if isinstance(token, dict) else {token: 1.0}
        made.append(Position(max(odds, key=lambda text: odds[text]), tuple(odds.items())))
    return tuple(made)


def test_each_number_is_the_expected_value_at_its_own_place() -> None:
    first, second = read_pair(positions({"80": 0.7, "90": 0.3}, {" 60": 0.5, " 50": 0.4, "!": 0.1}))
    assert first.mean == pytest.approx(83)
    assert (second.mean, second.mass) == (pytest.approx(500 / 9), pytest.approx(0.9))


@pytest.mark.parametrize(
    "between",
    [("\n",), (", ",), (" ",), ("\n", "\n"), (" ", "Coherence", ":", " ")],
    ids=["line", "comma", "blank", "two", "label"],
)
def test_whatever_stands_between_the_numbers_is_passed_over(between: tuple[str, ...]) -> None:
    first, second = read_pair(positions({"10": 0.9, "20": 0.1}, *between, {"95": 0.8, "85": 0.2}))
    assert (first.mean, second.mean) == (pytest.approx(11), pytest.approx(93))


def test_a_refusal_leaves_coherence_its_number() -> None:
    first, second = read_pair(positions({"REF": 0.9, "5": 0.1}, "USAL", " ", {"90": 1.0}))
    assert first.refuses(0.25)
    assert second.mean == 90


@pytest.mark.parametrize("opening", ["Trait", "The", "I", "{"])
def test_an_answer_that_does_not_open_with_a_number_is_no_answer(opening: str) -> None:
    first, second = read_pair(positions(opening, ":", " 80", "\n", "90"))
    assert (first.mass, second.mass) == (0.0, 0.0)


def test_one_number_is_no_coherence() -> None:
    first, second = read_pair(positions("80", "."))
    assert (first.mass, second.mass) == (1.0, 0.0)
    assert read_pair(())[0].mass == 0


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("80 90", (80, 90)),
        ("80, 90", (80, 90)),
        ("80\n90", (80, 90)),
        ("Trait: 80\nCoherence: 90", (80, 90)),
        (" 7.5 100 ", (7.5, 100)),
        ("80", (None, None)),
        ("80 90 70", (None, None)),
        ("I think 80 or so", (None, None)),
        ("80 120", (80, None)),
    ],
)
def test_sampled_answers(text: str, pair: tuple[float | None, float | None]) -> None:
    read = read_pair_samples([text])
    assert tuple(one.mean if one.mass else None for one in read) == pair


def test_samples_are_averaged_each_for_itself() -> None:
    first, second = read_pair_samples(["80 90", "60 70", "REFUSAL 50", "nonsense"])
    assert (first.mean, first.mass, first.refusal) == (70, 0.5, 0.25)
    assert (second.mean, second.mass) == (70, 0.75)


@pytest.mark.parametrize("style", ["continuation", "chat"])
@pytest.mark.parametrize("name", ["evil", "humorous"])
def test_the_prompt_holds_both_rubrics_and_the_response_once(name: str, style: Any) -> None:
    answer = "An answer {question} with braces that is seen once."
    [asked] = questions_about(load_trait(name), ["A question"], [answer], style)
    prompt = joint_prompt(asked.trait, style)
    assert prompt.count(answer) == 1
    assert asked.trait in prompt
    assert "how coherent a piece of writing is" in prompt
    assert prompt.rstrip().endswith("a low first number is no reason for a low second one.")
    assert len(prompt) < len(asked.trait) + len(asked.coherence) + 700


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MisbehavingServer]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def two_numbers(handler: Any) -> None:
        def token(odds: dict[str, float]) -> dict[str, Any]:
            listed = [{"token": text, "logprob": math.log(p)} for text, p in odds.items()]
            return {**listed[0], "top_logprobs": listed}

        content = [token({"80": 0.75, "60": 0.25}), token({" 90": 0.5, " 100": 0.5})]
        shown = {"content": content} if handler.body.get("logprobs") else None
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "80 90"}, "logprobs": shown}
        usage = {"prompt_tokens": 20, "completion_tokens": 2}
        handler.send(200, json.dumps({"id": "x", "choices": [choice], "usage": usage}).encode())

    WAYS["two numbers"] = two_numbers
    with MisbehavingServer(lambda prompt, nth: "two numbers" if "FIRST RUBRIC" in prompt else "answer") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield server


def test_a_joint_judge_sends_half_the_requests_and_says_so(server: MisbehavingServer, tmp_path: Any) -> None:
    with JudgeCache(tmp_path / "c.sqlite") as cache:
        with OpenAIJudge("tiny", joint=True, cache=cache) as judge:
            scores = judge.score(TRAIT, *rows(5))
            assert judge.name == "openai:tiny (joint)"
            assert server.requests == 3 + 5
            assert judge.score(TRAIT, *rows(5)) == scores
        with OpenAIJudge("tiny", joint=True, cache=cache, method="sample", samples=2) as judge:
            judge.score(TRAIT, *rows(5))
            assert judge.name == "openai:tiny (joint, 2 samples)"
        asked = server.requests
        with OpenAIJudge("tiny", cache=cache) as apart:
            apart.score(TRAIT, *rows(5))
            assert apart.name == "openai:tiny"
    assert {(score.trait, score.coherence) for score in scores} == {(75.0, 95.0)}
    assert server.requests == asked + 10  # nothing is shared
