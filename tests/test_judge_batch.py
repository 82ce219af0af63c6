"""Judging by batches against a provider that fails half way in every manner: nothing lost, nothing paid twice."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batch_server import BatchServer
from test_judge_server import KEY, TRAIT, assert_expected, rows
from traitline.errors import InputError, JudgeError
from traitline.judges.api import batch, provider
from traitline.judges.api.budget import BudgetError
from traitline.judges.cache import JudgeCache
from traitline.judges.openai import OpenAIJudge

COUNT = 20
"""Answers judged: twice as many prompts."""
PRICES = "models:\n  tiny: {input_usd: 1.0, output_usd: 2.0, batch_factor: 0.5}\n"

Make = Callable[..., OpenAIJudge]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(provider, "SETTLING_SECONDS", 0.3)
    with BatchServer() as server:
        yield server


@pytest.fixture
def judge_at(server: BatchServer, tmp_path: Path) -> Iterator[Make]:
    made: list[OpenAIJudge] = []
    cache = JudgeCache(tmp_path / "c.sqlite")

    def make(**options: Any) -> OpenAIJudge:
        defaults = {"timeout_seconds": 2.0, "backoff_seconds": 0.01, "patience_seconds": 5.0, "cache": cache, "batch": True}
        made.append(OpenAIJudge("tiny", base_url=server.url, **{**defaults, **options}))
        return made[-1]

    yield make
    for judge in made:
        judge.close()
    cache.close()


def paid(server: BatchServer) -> dict[str, int]:
    """How often each prompt was answered, the three probes left out."""
    return {prompt: times for prompt, times in server.completed.items() if not prompt.startswith("Repeat")}


@pytest.mark.parametrize("method", ["logprobs", "sample"])
def test_a_batch_gives_the_scores_that_requests_give(server: BatchServer, judge_at: Make, method: str) -> None:
    judge = judge_at(method=method, samples=2)
    scores = judge.score(TRAIT, *rows(COUNT))
    asked = sum(server.asked.values())
    assert asked == (3 if method == "logprobs" else 0)
    [made] = server.batches.values()
    each = 1 if method == "logprobs" else 2
    assert made["request_counts"]["total"] == 2 * COUNT * each
    assert set(paid(server).values()) == {each}
    assert judge.bill.batch.requests == 2 * COUNT * each
    assert judge.bill.batch.tokens == 2 * COUNT * each * 12
    direct = OpenAIJudge("tiny", base_url=server.url, method=method, samples=2)  # type: ignore[arg-type]
    assert direct.score(TRAIT, *rows(COUNT)) == scores
    direct.close()
    assert judge.score(TRAIT, *rows(COUNT)) == scores
    assert len(server.batches) == 1


@pytest.mark.parametrize(
    ("fate", "batches", "lost"),
    [
        ("expire", 2, 0),
        ("errors in lines", 2, 0),
        ("lose lines", 2, COUNT),
        ("answer twice", 1, 0),
        ("no logprobs in some", 2, 14),
    ],
)
def test_what_a_batch_leaves_open_goes_into_another(
    server: BatchServer, judge_at: Make, fate: str, batches: int, lost: int
) -> None:
    server.fates = [fate]
    judge = judge_at()
    assert_expected(judge.score(TRAIT, *rows(COUNT)), COUNT)
    assert len(server.batches) == batches
    assert sum(paid(server).values()) == 2 * COUNT + lost
    assert sum(times - 1 for times in paid(server).values()) == lost
    assert judge.bill.batch.tokens >= 12 * 2 * COUNT


def test_the_few_that_are_left_are_asked_by_themselves(server: BatchServer, judge_at: Make) -> None:
    server.fates = ["lose lines", "lose lines"]
    assert_expected(judge_at().score(TRAIT, *rows(8)), 8)  # 16, then 8, which are too few for a batch
    assert len(server.batches) == 1
    assert sum(server.asked.values()) == 3 + 8


def test_what_the_provider_refuses_is_missing_and_not_asked_again(server: BatchServer, judge_at: Make) -> None:
    server.fates = ["refuse some"]
    judge = judge_at()
    scores = judge.score(TRAIT, *rows(COUNT))
    reasons = [score.missing_reason for score in scores if score.missing_reason]
    assert len(reasons) >= COUNT // 3
    assert all("rejected (HTTP 400)" in reason for reason in reasons)
    assert judge.score(TRAIT, *rows(COUNT)) == scores
    assert (len(server.batches), sum(server.asked.values())) == (1, 3)


def test_a_setting_that_the_server_does_not_take_is_learned(server: BatchServer, judge_at: Make) -> None:
    server.fates = ["no max_tokens", "no max_tokens"]
    assert_expected(judge_at().score(TRAIT, *rows(COUNT)), COUNT)
    assert len(server.batches) == 2
    sent = [json.loads(line)["body"] for line in server.files[server.batches["batch_1"]["input_file_id"]].splitlines()]
    assert all("max_tokens" not in body and body["max_completion_tokens"] > 0 for body in sent)


def test_a_batch_too_large_for_the_queue_goes_in_parts(server: BatchServer, judge_at: Make) -> None:
    server.fates = ["token limit"]
    assert_expected(judge_at().score(TRAIT, *rows(COUNT)), COUNT)
    assert [one["request_counts"]["total"] for one in server.batches.values()] == [40, 20, 20]
    assert set(paid(server).values()) == {1}


def test_batches_are_cut_to_the_providers_limits(server: BatchServer, judge_at: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MOST_REQUESTS", 15)
    assert_expected(judge_at().score(TRAIT, *rows(COUNT)), COUNT)
    assert [one["request_counts"]["total"] for one in server.batches.values()] == [15, 15, 10]
    monkeypatch.setattr(batch, "MOST_BYTES", 10_000)
    judge_at().score(TRAIT, ["other"] * COUNT, rows(COUNT)[1])
    sizes = [len(server.files[one["input_file_id"]]) for one in list(server.batches.values())[3:]]
    assert len(sizes) > 3
    assert max(sizes) <= 10_000


@pytest.mark.parametrize(
    ("fate", "message"),
    [
        ("fail", "does not work on a batch .*the batch is no good: invalid_url.*without judging.batch"),
        ("cancel", "was cancelled; the 20 answers it had are kept"),
        ("expire at once", "ended \\(expired\\) without one answer .*run again"),
    ],
)
def test_a_batch_that_comes_to_nothing_is_an_error_and_the_next_run_goes_on(
    server: BatchServer, judge_at: Make, fate: str, message: str
) -> None:
    server.fates = [fate]
    with pytest.raises(JudgeError, match=message):
        judge_at().score(TRAIT, *rows(COUNT))
    assert_expected(judge_at().score(TRAIT, *rows(COUNT)), COUNT)
    assert set(paid(server).values()) == {1}


TROUBLES = [
    "500",
    "503",
    "429, in seconds",
    "429, no headers",
    "HTML",
    "not JSON",
    "half a body",
    "dropped",
    "empty",
    "do it and drop",
]


@pytest.mark.parametrize("way", TROUBLES)
def test_a_provider_that_fails_at_every_step_gets_each_request_once(server: BatchServer, judge_at: Make, way: str) -> None:
    server.trouble = lambda method, path, nth: way if nth == 0 else "answer"
    assert_expected(judge_at().score(TRAIT, *rows(COUNT)), COUNT)
    assert len(server.batches) == 1
    assert set(paid(server).values()) == {1}


def test_a_file_that_arrives_in_half_is_fetched_again(server: BatchServer, judge_at: Make) -> None:
    server.trouble = lambda method, path, nth: "half the lines" if path.endswith("content") and nth == 0 else "answer"
    assert_expected(judge_at().score(TRAIT, *rows(COUNT)), COUNT)
    assert len(server.batches) == 1


@pytest.mark.parametrize("step", ["POST /files", "POST /batches", "GET /batches", "GET /files/content"])
def test_a_provider_that_goes_away_is_an_error_and_nothing_is_paid_twice(
    server: BatchServer, judge_at: Make, step: str
) -> None:
    server.trouble = lambda method, path, nth: "503" if f"{method} /{path.strip('/')}" == step else "answer"
    with pytest.raises(JudgeError, match="run again when it does"):
        judge_at(patience_seconds=0.5).score(TRAIT, *rows(COUNT))
    server.trouble = lambda method, path, nth: "answer"
    assert_expected(judge_at().score(TRAIT, *rows(COUNT)), COUNT)
    assert len(server.batches) == 1
    assert set(paid(server).values()) == {1}


def test_a_server_without_batches_says_so(server: BatchServer, judge_at: Make) -> None:
    server.trouble = lambda method, path, nth: "404"
    with pytest.raises(JudgeError, match=r"refuses POST /files.*404"):
        judge_at().score(TRAIT, *rows(COUNT))
    with pytest.raises(InputError, match="needs a cache"):
        judge_at(cache=None, method="sample").score(TRAIT, *rows(COUNT))


def test_a_judge_without_batches_waits_for_one_that_was_submitted(server: BatchServer, judge_at: Make, tmp_path: Path) -> None:
    server.held.clear()
    waiting = threading.Thread(target=lambda: judge_at().score(TRAIT, *rows(COUNT)), daemon=True)
    waiting.start()
    assert server.reached.wait(10)
    with JudgeCache(tmp_path / "c.sqlite") as other, OpenAIJudge("tiny", base_url=server.url, cache=other) as direct:
        threading.Timer(0.2, server.held.set).start()
        assert_expected(direct.score(TRAIT, *rows(COUNT)), COUNT)
        assert direct.bill.total.tokens == 3 * 12 + 2 * COUNT * 12
    waiting.join(10)
    assert sum(server.asked.values()) == 3
    assert set(paid(server).values()) == {1}


def test_a_budget_cuts_a_batch_before_it_is_submitted(server: BatchServer, judge_at: Make, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text(PRICES)
    judge = judge_at(budget_usd=0.0008, prices=prices)
    with pytest.raises(
        BudgetError, match=r"budget_usd.* does not reach for the remaining \d+ requests.*raise the budget and run"
    ):
        judge.score(TRAIT, *rows(COUNT))
    assert 0 < sum(paid(server).values()) < 2 * COUNT
    spent = judge.bill
    assert spent.usd is not None
    assert spent.usd <= 0.0008
    assert spent.batch.requests == sum(paid(server).values())
    assert_expected(judge_at(budget_usd=1.0, prices=prices).score(TRAIT, *rows(COUNT)), COUNT)
    assert set(paid(server).values()) == {1}
    used_up = judge.bill.usd
    with pytest.raises(BudgetError, match="remaining 40 requests"):
        judge_at(budget_usd=used_up, prices=prices).score(TRAIT, ["other"] * COUNT, rows(COUNT)[1])
    assert len(paid(server)) == 2 * COUNT


RUN = """
import logging, sys
from traitline.judges.cache import JudgeCache
from traitline.judges.openai import OpenAIJudge
from traitline.traits.trait import Trait
logging.basicConfig(level=logging.DEBUG)
trait, count = Trait.model_validate_json(sys.argv[3]), int(sys.argv[4])
options = dict(base_url=sys.argv[1], batch=True, backoff_seconds=0.01)
with JudgeCache(sys.argv[2]) as cache, OpenAIJudge("tiny", cache=cache, **options) as judge:
    for score in judge.score(trait, ["q"] * count, [f"answer {i}" for i in range(count)]):
        print(score.trait, score.coherence)
"""


def command(server: BatchServer, cache: Path) -> list[str]:
    return [sys.executable, "-c", RUN, server.url, str(cache), TRAIT.model_dump_json(), str(COUNT)]


@pytest.mark.parametrize(
    ("where", "way"),
    [
        ("POST files", "hang"),
        ("POST batches", "hang"),
        ("POST batches", "do it and hang"),
        ("GET batches", "do it and hang"),
        ("GET files/content", "hang"),
    ],
)
def test_a_kill_at_any_step_costs_nothing(server: BatchServer, judge_at: Make, tmp_path: Path, where: str, way: str) -> None:
    server.trouble = lambda method, path, nth: way if f"{method} {path.strip('/')}" == where else "answer"
    killed = subprocess.Popen(command(server, tmp_path / "c.sqlite"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.reached.wait(60)
    os.kill(killed.pid, signal.SIGKILL)
    out, said = killed.communicate(timeout=30)
    assert out == ""
    assert KEY not in said
    server.trouble = lambda method, path, nth: "answer"
    judge = judge_at()
    assert_expected(judge.score(TRAIT, *rows(COUNT)), COUNT)
    assert len(server.batches) == 1
    assert set(paid(server).values()) == {1}
    assert judge.bill.total.tokens == 12 * (3 + 2 * COUNT)
    assert server.keys == {KEY}
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.iterdir())


def test_two_processes_submit_one_batch(server: BatchServer, tmp_path: Path) -> None:
    server.polls = 4
    both = [
        subprocess.Popen(command(server, tmp_path / "c.sqlite"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert said[0] == said[1]
    assert len(said[0].splitlines()) == COUNT
    assert len(server.batches) == 1
    assert set(paid(server).values()) == {1}


def test_an_order_that_nobody_can_find_any_more_is_given_up(server: BatchServer, judge_at: Make, tmp_path: Path) -> None:
    server.trouble = lambda method, path, nth: "503" if path.strip("/") == "batches" and method == "GET" else "answer"
    with pytest.raises(JudgeError):
        judge_at(patience_seconds=0.2).score(TRAIT, *rows(COUNT))
    with sqlite3.connect(tmp_path / "c.sqlite") as kept:
        kept.execute("UPDATE batches SET planned_at = ?", (time.time() - 40 * 86400,))
    server.batches.clear()
    server.trouble = lambda method, path, nth: "answer"
    assert_expected(judge_at().score(TRAIT, *rows(COUNT)), COUNT)
