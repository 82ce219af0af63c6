"""The openai judge against a server that fails in every way: nothing lost, nothing paid twice, and the key nowhere."""

from __future__ import annotations

import io
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from misbehaving_server import FINAL, PASSING, WAYS, MisbehavingServer, odds_for, redirection
from traitline.errors import JudgeError
from traitline.judges.api import chat
from traitline.judges.api.chat import GIVE_UP_AFTER
from traitline.judges.api.waits import asked_wait_seconds
from traitline.judges.cache import JudgeCache
from traitline.judges.openai import OpenAIJudge
from traitline.judges.questions import questions_about
from traitline.traits.trait import Contrast, StrategyTexts, Trait

KEY = "sk-test-1a2b3c4d5e6f"
TRAIT = Trait(
    name="grumpy",
    description="Complains.",
    rubrics={"continuation": "GRUMPY? [{question}] [{answer}] 0 to 100, or REFUSAL"},
    strategies={"character": StrategyTexts(contrasts=(Contrast(positive="a", negative="b"),), questions={"elicit": ("q",)})},
)
TIMEOUT_SECONDS = 1.0
NEVER_WHOLE = ("hang", "drip", "drip within the headers")
"""The ways that only a time-out ends; with the others it may be long, so that no good answer is late on a busy machine."""


def rows(count: int) -> tuple[list[str], list[str]]:
    return ["q"] * count, [f"answer {i}" for i in range(count)]


def expected(count: int) -> list[tuple[float, float]]:
    """The scores that follow from the server's numbers, worked out without a judge."""

    def mean(prompt: str) -> float:
        odds = odds_for(prompt)
        return sum(number * p for number, p in odds.items()) / sum(odds.values())

    return [(mean(each.trait), mean(each.coherence)) for each in questions_about(TRAIT, *rows(count), "continuation")]


def assert_expected(scores: list[Any], count: int) -> None:
    assert [score.missing_reason for score in scores] == [None] * count
    found = [number for score in scores for number in (score.trait, score.coherence)]
    assert found == pytest.approx([number for pair in expected(count) for number in pair])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MisbehavingServer]:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with MisbehavingServer() as server:
        yield server


@pytest.fixture
def judge_at(server: MisbehavingServer, tmp_path: Path) -> Iterator[Callable[..., OpenAIJudge]]:
    made: list[OpenAIJudge] = []
    cache = JudgeCache(tmp_path / "c.sqlite")

    def make(**options: Any) -> OpenAIJudge:
        options = {"timeout_seconds": TIMEOUT_SECONDS, "backoff_seconds": 0.01, "cache": cache, **options}
        made.append(OpenAIJudge("tiny", base_url=server.url, **options))
        return made[-1]

    yield make
    for judge in made:
        judge.close()
    cache.close()


Make = Callable[..., OpenAIJudge]


@pytest.mark.parametrize("way", PASSING)
def test_what_goes_by_is_asked_again_and_paid_once(server: MisbehavingServer, judge_at: Make, way: str) -> None:
    server.plan = lambda prompt, nth: way if nth == 0 and "GRUMPY" in prompt else "answer"
    judge = judge_at(timeout_seconds=TIMEOUT_SECONDS if way in NEVER_WHOLE else 10.0)
    began = time.monotonic()
    assert_expected(judge.score(TRAIT, *rows(4)), 4)
    assert time.monotonic() - began < 15
    assert server.requests == 3 + 4 + 2 * 4
    assert set(server.completed.values()) == {1}
    assert_expected(judge.score(TRAIT, *rows(4)), 4)
    assert server.requests == 3 + 4 + 2 * 4


@pytest.mark.parametrize("way", PASSING)
def test_what_never_goes_by_is_a_missing_row_and_nothing_else(server: MisbehavingServer, judge_at: Make, way: str) -> None:
    server.plan = lambda prompt, nth: way if "[answer 1]" in prompt else "answer"
    judge = judge_at(max_retries=1, timeout_seconds=TIMEOUT_SECONDS if way in NEVER_WHOLE else 10.0, patience_seconds=0.1)
    began = time.monotonic()
    scores = judge.score(TRAIT, *rows(3))
    assert time.monotonic() - began < 15
    assert [score.trait is None for score in scores] == [False, True, False]
    reason = "no probabilities in the answer" if way == "no logprobs" else "unavailable"
    assert scores[1].missing_reason == f"trait: {reason}"
    server.plan = lambda prompt, nth: "answer"
    before = server.requests
    assert_expected(judge.score(TRAIT, *rows(3)), 3)
    assert server.requests == before + 1
    assert set(server.completed.values()) == {1}


@pytest.mark.parametrize("way", FINAL)
def test_a_run_that_ends_in_the_middle_keeps_what_was_answered(
    server: MisbehavingServer, judge_at: Make, tmp_path: Path, way: str
) -> None:
    server.plan = lambda prompt, nth: way if server.requests > 40 else "answer"
    with pytest.raises(JudgeError, match=rf"refused with HTTP {way} \(.*\[key\]"):
        judge_at(concurrency=4).score(TRAIT, *rows(40))
    assert 30 <= sum(server.completed.values()) < 83
    with JudgeCache(tmp_path / "c.sqlite") as other:
        assert other.counts().entries == sum(server.completed.values()) - 3 + 1  # three probes are one finding
    server.plan = lambda prompt, nth: "answer"
    assert_expected(judge_at().score(TRAIT, *rows(40)), 40)
    assert set(server.completed.values()) == {1}


@pytest.mark.parametrize("way", ["429, in seconds", "429, no headers"])
def test_a_limit_reached_all_the_time_loses_no_row(server: MisbehavingServer, judge_at: Make, way: str) -> None:
    """Two answers a tenth of a second, for sixteen at once: each row is put off more often than it may be retried."""
    opened: list[float] = []

    def plan(prompt: str, nth: int) -> str:
        now = time.monotonic()
        with server.lock:
            opened[:] = [at for at in opened if now - at < 0.1]
            if len(opened) >= 2:
                return way
            opened.append(now)
        return "answer"

    server.plan = plan
    assert_expected(judge_at(max_retries=0).score(TRAIT, *rows(12)), 12)
    assert max(server.asked.values()) > 3
    assert set(server.completed.values()) == {1}


@pytest.mark.parametrize("way", ["503", "dropped", "no logprobs"])
def test_a_server_that_stops_answering_ends_the_run_and_loses_nothing(
    server: MisbehavingServer, judge_at: Make, way: str
) -> None:
    gone = threading.Event()

    def plan(prompt: str, nth: int) -> str:
        if sum(server.completed.values()) > 60:
            gone.set()
        return way if gone.is_set() else "answer"

    server.plan = plan
    with pytest.raises(JudgeError, match=rf"has left {GIVE_UP_AFTER} questions in a row without an answer.*run again"):
        judge_at(max_retries=1, concurrency=4).score(TRAIT, *rows(400))
    asked_in_vain = len(server.asked.keys() - server.completed.keys())
    assert GIVE_UP_AFTER <= asked_in_vain <= 2 * GIVE_UP_AFTER
    server.plan = lambda prompt, nth: "answer"
    assert_expected(judge_at().score(TRAIT, *rows(100)), 100)
    assert set(server.completed.values()) == {1}


def test_answers_in_between_keep_the_run_going(server: MisbehavingServer, judge_at: Make) -> None:
    server.plan = lambda prompt, nth: (
        "500" if "GRUMPY" in prompt and int(prompt.split("answer ")[1][:3].strip("] 0")) % 4 else "answer"
    )
    scores = judge_at(max_retries=0, concurrency=4).score(TRAIT, *rows(3 * GIVE_UP_AFTER))
    assert sum(score.trait is None for score in scores) > 2 * GIVE_UP_AFTER
    assert all(score.coherence is not None for score in scores)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_nothing_goes_to_another_address(server: MisbehavingServer, judge_at: Make, status: int) -> None:
    with MisbehavingServer() as elsewhere:
        target = elsewhere.url.replace("127.0.0.1", "localhost")
        WAYS["redirected"] = redirection(status, f"{target}/{{key}}?k={{key}}")
        server.plan = lambda prompt, nth: "redirected"
        with pytest.raises(JudgeError, match=rf"is redirected to {target}/\[key\] \(HTTP {status}\).*OPENAI_BASE_URL"):
            judge_at().score(TRAIT, *rows(3))
        assert (elsewhere.requests, server.requests) == (0, 1)


@pytest.mark.parametrize("target", ["http://[bad", "", "/v2"])
def test_a_redirection_to_nowhere_is_told_as_well(server: MisbehavingServer, judge_at: Make, target: str) -> None:
    WAYS["redirected"] = redirection(308, target)
    server.plan = lambda prompt, nth: "redirected"
    with pytest.raises(JudgeError, match=r"is redirected to .+ \(HTTP 308\)"):
        judge_at().score(TRAIT, *rows(1))


def test_a_text_that_a_moderator_flags_is_one_missing_row(server: MisbehavingServer, judge_at: Make) -> None:
    server.plan = lambda prompt, nth: "403, flagged" if "[answer 1]" in prompt else "answer"
    scores = judge_at().score(TRAIT, *rows(3))
    assert [score.missing_reason for score in scores] == [None, "trait: rejected (HTTP 403)", None]


def test_a_long_wait_is_told_once_and_has_an_end(
    server: MisbehavingServer, judge_at: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "LONGEST_WAIT_SECONDS", 0.3)
    monkeypatch.setattr(chat, "WORTH_TELLING_SECONDS", 0.2)
    server.plan = lambda prompt, nth: "429, in a day" if nth == 0 and "GRUMPY" in prompt else "answer"
    began = time.monotonic()
    assert_expected(judge_at().score(TRAIT, *rows(6)), 6)
    assert 0.3 < time.monotonic() - began < 10
    [told] = [record.getMessage() for record in caplog.records if record.name.startswith("traitline")]
    assert "does not answer (HTTP 429: " in told
    assert "[key], not now" in told


def test_accounts_that_make_no_sense_cost_no_answer(server: MisbehavingServer, judge_at: Make) -> None:
    server.plan = lambda prompt, nth: "answer without accounts"
    judge = judge_at()
    assert_expected(judge.score(TRAIT, *rows(2)), 2)
    assert (judge.usage.requests, judge.usage.prompt_tokens, judge.usage.completion_tokens) == (3 + 4, 0, 0)


@pytest.mark.parametrize("nth", [0, 1, 2])
def test_one_bad_answer_to_the_probe_does_not_change_the_method(server: MisbehavingServer, judge_at: Make, nth: int) -> None:
    number = ("42", "87", "100")[nth]
    server.plan = lambda prompt, _: "no logprobs" if prompt.startswith("Repeat") and prompt.endswith(number) else "answer"
    assert_expected(judge_at().score(TRAIT, *rows(2)), 2)


@pytest.mark.parametrize("way", ["drip", "drip within the headers", "hang"])
def test_a_request_takes_no_longer_than_it_may(server: MisbehavingServer, judge_at: Make, way: str) -> None:
    server.plan = lambda prompt, nth: way
    began = time.monotonic()
    with pytest.raises(JudgeError, match=r"does not answer for now \(no whole answer within 0\.3 s\)"):
        judge_at(max_retries=1, timeout_seconds=0.3).score(TRAIT, *rows(1))
    assert 0.6 <= time.monotonic() - began < 15


def test_closing_ends_the_threads(server: MisbehavingServer, judge_at: Make) -> None:
    before = set(threading.enumerate())
    judge = OpenAIJudge("tiny", base_url=server.url, timeout_seconds=TIMEOUT_SECONDS)
    judge.score(TRAIT, *rows(4))
    judge.close()
    judge.close()
    left = set(threading.enumerate()) - before
    assert [thread.name for thread in left if thread.name.startswith("traitline")] == []


def in_any_way(share: float, seed: int) -> Callable[[str, int], str]:
    """Fail a share of the requests, in ways that depend on the seed, the prompt and the attempt, not on the order."""

    def plan(prompt: str, nth: int) -> str:
        draw = random.Random(f"{seed} {nth} {prompt}")  # noqa: S311
        return draw.choice(list(PASSING)) if draw.random() < share else "answer"

    return plan


def test_failures_of_every_kind_change_no_score_and_show_no_key(
    server: MisbehavingServer, judge_at: Make, caplog: pytest.LogCaptureFixture
) -> None:
    well_behaved = judge_at(cache=None).score(TRAIT, *rows(120))
    assert_expected(well_behaved, 120)
    server.asked.clear()
    server.completed.clear()
    fails, failed = in_any_way(0.3, seed=5), set[str]()

    def plan(prompt: str, nth: int) -> str:
        way = fails(prompt, nth)
        failed.add(way)
        return way

    server.plan = plan
    caplog.set_level(logging.DEBUG)
    assert judge_at(concurrency=8, max_retries=8, timeout_seconds=1.5).score(TRAIT, *rows(120)) == well_behaved
    assert failed == {"answer", *PASSING}
    assert server.requests > 1.3 * 240
    assert set(server.completed.values()) == {1}
    assert any("[key]" in record.getMessage() for record in caplog.records)
    assert not any(KEY in record.getMessage() for record in caplog.records)
    before = server.requests
    assert judge_at().score(TRAIT, *rows(120)) == well_behaved
    assert server.requests == before


RUN = """
import logging, sys, traceback
from traitline.judges.api import chat
from traitline.judges.cache import JudgeCache
from traitline.judges.api.chat import GIVE_UP_AFTER
from traitline.judges.openai import OpenAIJudge
from traitline.traits.trait import Trait
trait = Trait.model_validate_json(sys.argv[3])
logging.basicConfig(level=logging.DEBUG)
options = dict(concurrency=4, max_retries=8, backoff_seconds=0.01, timeout_seconds=1.0, method=sys.argv[5])
with JudgeCache(sys.argv[2]) as cache, OpenAIJudge("tiny", base_url=sys.argv[1], cache=cache, **options) as judge:
    count = int(sys.argv[4])
    print(repr(judge), vars(judge), vars(judge._server), file=sys.stderr)
    try:
        for score in judge.score(trait, ["q"] * count, [f"answer {i}" for i in range(count)]):
            print(score.trait, score.coherence)
    except Exception as error:
        print("".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()), file=sys.stderr)
        raise
"""


def command(server: MisbehavingServer, cache: Path, count: int, method: str = "auto") -> list[str]:
    return [sys.executable, "-c", RUN, server.url, str(cache), TRAIT.model_dump_json(), str(count), method]


def test_a_kill_among_failures_costs_at_most_what_was_under_way(server: MisbehavingServer, tmp_path: Path) -> None:
    kept = tmp_path / "c.sqlite"
    halfway = threading.Event()
    fails = in_any_way(0.3, seed=2)

    def plan(prompt: str, nth: int) -> str:
        if sum(server.completed.values()) > 40:
            halfway.set()
        return fails(prompt, nth)

    server.plan = plan
    killed = subprocess.Popen(command(server, kept, 60), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert halfway.wait(timeout=60)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.communicate(timeout=30)[0] == ""
    server.plan = lambda prompt, nth: "answer"
    done = subprocess.run(command(server, kept, 60), capture_output=True, text=True, timeout=60)
    numbers = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    assert [n for pair in numbers for n in pair] == pytest.approx([n for pair in expected(60) for n in pair])
    assert max(server.completed.values()) <= 2
    assert sum(times - 1 for times in server.completed.values()) <= 4


def test_the_key_is_in_no_traceback_that_a_library_logs(
    server: MisbehavingServer, judge_at: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    quoted = "sk-'1a2b3c4d5e6f\\"
    monkeypatch.setenv("OPENAI_API_KEY", quoted)
    judge_at()
    shown = io.StringIO()
    handler = logging.StreamHandler(shown)
    logger = logging.getLogger("openai._base_client")
    logger.addHandler(handler)
    try:
        for sent in (f"illegal status line: {quoted!r}", f"illegal status line: {quoted}", "connection reset"):
            try:
                raise RuntimeError(sent)
            except RuntimeError:
                logger.warning("encountered %r", {"Authorization": quoted}, exc_info=True)
    finally:
        logger.removeHandler(handler)
    assert "1a2b3c4d5e6f" not in shown.getvalue()
    assert shown.getvalue().count("Traceback") == 3
    assert "RuntimeError: connection reset" in shown.getvalue()


def test_two_processes_at_one_cache_pay_once(server: MisbehavingServer, tmp_path: Path) -> None:
    def plan(prompt: str, nth: int) -> str:
        time.sleep(0.02)
        return "answer"

    server.plan = plan
    both = [
        subprocess.Popen(
            command(server, tmp_path / "c.sqlite", 40), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert said[0] == said[1]
    assert len(said[0].splitlines()) == 40
    assert len(server.completed) == 3 + 2 * 40
    assert set(server.completed.values()) == {1}


@pytest.mark.parametrize("method", ["auto", "sample"])
def test_the_key_is_in_no_log_error_cache_or_process_list(server: MisbehavingServer, tmp_path: Path, method: str) -> None:
    listed: list[bytes] = []
    echo = "answer with the key"

    def plan(prompt: str, nth: int) -> str:
        if server.requests == 20:
            listed.extend(path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
        if server.requests > 60:
            return "401"
        return "500" if server.requests % 5 == 0 else echo if method == "sample" else "answer"

    server.plan = plan
    done = subprocess.run(command(server, tmp_path / "c.sqlite", 40, method), capture_output=True, text=True, timeout=60)
    assert server.keys == {KEY}
    assert done.returncode == 1
    assert "refused with HTTP 401" in done.stderr
    assert "DEBUG:openai" in done.stderr
    assert KEY not in done.stdout + done.stderr
    assert any(server.url.encode() in line for line in listed)
    assert not any(KEY.encode() in line for line in listed)
    files = list(tmp_path.iterdir())
    assert files
    assert not any(KEY.encode() in path.read_bytes() for path in files)


def test_a_placeholder_for_a_key_hides_no_number(
    server: MisbehavingServer, judge_at: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "4")
    server.plan = lambda prompt, nth: "answer with the key"
    [score] = judge_at(method="sample").score(TRAIT, *rows(1))
    assert (score.trait, server.keys) == (42, {"4"})


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "0", "x-ratelimit-reset-tokens": "3s"}, 3),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}, 360),
        (
            {"x-ratelimit-reset-requests": "120ms", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-tokens": "6m0s"},
            0.12,
        ),
        ({"x-ratelimit-reset-requests": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-reset-requests": "59.7"}, 59.7),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Mon, 01 Jan 1990 00:00:00 GMT"}, None),
        ({"retry-after": "Fri, 31 Dec 99999999999 23:59:59 GMT"}, None),
        ({"x-ratelimit-reset-tokens": "1.2.3s"}, None),
        ({"x-ratelimit-reset-tokens": ""}, None),
        ({}, None),
    ],
)
def test_the_wait_a_server_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_wait_seconds(headers) == (None if seconds is None else pytest.approx(seconds))


def test_a_date_is_waited_for() -> None:
    at = time.gmtime(time.time() + 30)
    text = time.strftime("%a, %d %b %Y %H:%M:%S GMT", at)
    assert asked_wait_seconds({"retry-after": text}) == pytest.approx(30, abs=2)
    assert asked_wait_seconds({"x-ratelimit-reset-requests": str(time.time() + 30)}) == pytest.approx(30, abs=2)
