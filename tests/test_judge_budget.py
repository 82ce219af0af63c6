"""Money: prices, what was spent across processes and versions, and a stop that is exceeded by what was under way at most."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from misbehaving_server import WAYS, MisbehavingServer, chat_completion
from test_judge_server import TRAIT, assert_expected, rows
from traitline.errors import InputError
from traitline.judges.api.budget import Bill, Budget, BudgetError
from traitline.judges.api.prices import PRICES, Price, find_price, load_prices
from traitline.judges.cache import JudgeCache
from traitline.judges.openai import OpenAIJudge
from traitline.judges.spending import Spending

TOKENS = 12
"""Of one answer of the server."""
Make = Callable[..., OpenAIJudge]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MisbehavingServer]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with MisbehavingServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield server


@pytest.fixture
def judge_at(server: MisbehavingServer, tmp_path: Path) -> Iterator[Make]:
    made: list[OpenAIJudge] = []
    cache = JudgeCache(tmp_path / "c.sqlite")

    def make(model: str = "tiny", **options: Any) -> OpenAIJudge:
        made.append(OpenAIJudge(model, **{"cache": cache, "backoff_seconds": 0.01, **options}))
        return made[-1]

    yield make
    for judge in made:
        judge.close()
    cache.close()


# Prices


def test_every_packaged_price_says_where_it_was_seen() -> None:
    for model, price in load_prices().items():
        assert price.source.startswith("https://"), model
        assert price.input_usd < price.output_usd, model
        assert price.cached_input_usd is not None, model
        assert price.cached_input_usd < price.input_usd, model
    assert "seen:" in PRICES.read_text()


def test_money_follows_from_tokens() -> None:
    price = Price(input_usd=0.4, cached_input_usd=0.1, output_usd=1.6, batch_factor=0.5)
    spent = Spending(requests=10, prompt_tokens=1_000_000, completion_tokens=500_000, cached_tokens=250_000)
    assert price.usd(spent) == pytest.approx(0.75 * 0.4 + 0.25 * 0.1 + 0.5 * 1.6)
    assert price.usd(spent, batch=True) == pytest.approx(price.usd(spent) / 2)
    assert Price(input_usd=0.4, output_usd=1.6).usd(spent, batch=True) == pytest.approx(0.4 + 0.8)


def test_a_dated_name_has_the_price_of_its_model_and_an_unknown_one_none(tmp_path: Path) -> None:
    assert find_price("gpt-4.1-mini-2025-04-14") == find_price("gpt-4.1-mini") is not None
    assert find_price("gpt-4.1-mini-turbo") is None
    assert find_price("org/model") is None
    own = tmp_path / "own.yaml"
    own.write_text("models:\n  org/model: {input_usd: 1, output_usd: 2}\n  gpt-4.1-mini: {input_usd: 9, output_usd: 9}\n")
    assert find_price("org/model", own) == Price(input_usd=1, output_usd=2)
    assert find_price("gpt-4.1-mini", own) == Price(input_usd=9, output_usd=9)
    assert find_price("gpt-4.1", own) == find_price("gpt-4.1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("models: {m: {input_usd: -1, output_usd: 2}}", "does not fit:\n.*greater than or equal to 0"),
        ("models: {m: {input_usd: 1}}", "output_usd: Field required"),
        ("models: {m: {input_usd: 1, output_usd: 2, outputs: 3}}", "Extra inputs"),
        ("[1, 2", "not valid YAML"),
        (None, "cannot be read"),
    ],
)
def test_a_file_of_prices_that_does_not_fit_is_told(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "p.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        load_prices(path)


# Limits


def test_a_limit_that_makes_no_sense_is_told() -> None:
    with pytest.raises(InputError, match=r"no price is known for 'm'.*judging: \{prices: FILE\}.*or give budget_tokens"):
        Budget("m", usd=1.0)
    for bad in ({"usd": 0.0}, {"tokens": 0}, {"usd": -1.0}):
        with pytest.raises(InputError, match="must be above 0"):
            Budget("m", price=Price(input_usd=1, output_usd=1), **bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("concurrency", [1, 4, 16])
def test_a_budget_is_exceeded_by_no_more_than_what_was_under_way(
    server: MisbehavingServer, judge_at: Make, concurrency: int
) -> None:
    judge = judge_at(budget_tokens=50 * TOKENS, concurrency=concurrency)
    with pytest.raises(BudgetError) as stopped:
        judge.score(TRAIT, *rows(100))
    paid = sum(server.completed.values())
    assert 50 <= paid < 50 + concurrency
    assert judge.bill.total.tokens == paid * TOKENS
    said = str(stopped.value)
    assert "600 tokens (budget_tokens)" in said
    assert "raise the budget and run again" in said
    with pytest.raises(BudgetError):
        judge_at(budget_tokens=50 * TOKENS).score(TRAIT, *rows(100))
    assert sum(server.completed.values()) == paid
    assert_expected(judge_at(budget_tokens=10**6).score(TRAIT, *rows(100)), 100)
    assert set(server.completed.values()) == {1}


def test_a_budget_in_money_stops_at_the_money(server: MisbehavingServer, judge_at: Make) -> None:
    price = find_price("gpt-4.1-mini")
    assert price is not None
    each = price.usd(Spending(1, 11, 1))
    judge = judge_at("gpt-4.1-mini", budget_usd=40 * each, concurrency=4)
    with pytest.raises(BudgetError, match=r"\$0\.0002 \(budget_usd\) .* is used up: spent by now.*\$0\.000\d for 4\d requests"):
        judge.score(TRAIT, *rows(100))
    assert 40 <= sum(server.completed.values()) < 44
    assert judge.bill.usd == pytest.approx(sum(server.completed.values()) * each)


def test_what_is_in_the_cache_costs_no_budget(judge_at: Make) -> None:
    judge_at().score(TRAIT, *rows(10))
    spent = judge_at().bill.total.tokens
    assert_expected(judge_at(budget_tokens=spent).score(TRAIT, *rows(10)), 10)


def test_answers_of_no_use_are_paid_too(server: MisbehavingServer, judge_at: Make) -> None:
    useless = json.dumps(chat_completion("", probabilities=False)).encode()
    WAYS["useless"] = lambda handler: handler.send(200, useless)
    server.plan = lambda prompt, nth: "useless" if "[answer 1]" in prompt and "GRUMPY" in prompt else "answer"
    judge = judge_at(max_retries=2)
    assert judge.score(TRAIT, *rows(3))[1].trait is None
    assert judge.bill.total.tokens == (3 + 5 + 3) * TOKENS
    assert judge.bill.total.tokens == judge.usage.prompt_tokens + judge.usage.completion_tokens


def test_tokens_that_the_server_had_read_before_are_cheaper(server: MisbehavingServer, judge_at: Make) -> None:
    def discounted(handler: Any) -> None:
        usage = {"prompt_tokens": 1000, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 800}}
        handler.send(200, json.dumps(chat_completion(handler.prompt, probabilities=True) | {"usage": usage}).encode())

    WAYS["discounted"] = discounted
    server.plan = lambda prompt, nth: "answer" if prompt.startswith("Repeat") else "discounted"
    judge = judge_at("gpt-4.1")
    judge.score(TRAIT, *rows(1))
    assert judge.bill.total.cached_tokens == 1600
    expected = (2 * 200 * 2.0 + 2 * 800 * 0.5 + 2 * 8.0 + 3 * (11 * 2.0 + 8.0)) / 1e6
    assert judge.bill.usd == pytest.approx(expected)


def test_without_a_cache_the_budget_is_that_of_the_process(server: MisbehavingServer, judge_at: Make) -> None:
    judge = judge_at(cache=None, budget_tokens=30 * TOKENS, concurrency=2, method="sample", samples=1)
    with pytest.raises(BudgetError):
        judge.score(TRAIT, *rows(50))
    assert 30 <= sum(server.completed.values()) < 32


def test_threads_share_one_budget(server: MisbehavingServer, judge_at: Make) -> None:
    judge = judge_at(budget_tokens=60 * TOKENS, concurrency=8)
    failures: list[BudgetError] = []

    def work(part: int) -> None:
        try:
            judge.score(TRAIT, [f"q{part}"] * 40, rows(40)[1])
        except BudgetError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 3
    assert 60 <= sum(server.completed.values()) < 68


def test_what_a_cache_of_the_first_version_cost_counts(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    with sqlite3.connect(path) as old:
        old.execute(
            "CREATE TABLE judgements (key TEXT PRIMARY KEY, value TEXT NOT NULL, requests INTEGER NOT NULL, "
            "prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL) WITHOUT ROWID"
        )
        old.execute("INSERT INTO judgements VALUES ('a', '1', 1, 100, 5), ('b', '2', 2, 200, 5)")
        old.execute("PRAGMA user_version=1")
    with JudgeCache(path) as cache:
        assert cache.get_many(["a", "b"]) == {"a": 1, "b": 2}
        assert Budget("m").bill(cache) == Bill(Spending(3, 300, 10), Spending(), None)
    with JudgeCache(path) as cache:
        assert Budget("m").bill(cache).total.tokens == 310


# Limits that the server tells


def test_a_server_that_tells_what_is_left_is_never_asked_too_much(server: MisbehavingServer, judge_at: Make) -> None:
    """Eight requests in 0.4 seconds, sixteen at once: without the headers most requests would be refused."""
    window, refused = [0.0, 8.0], [0]

    def take() -> tuple[int, float]:
        now = time.monotonic()
        if now >= window[0]:
            window[:] = [now + 0.4, 8]
        window[1] -= 1
        return int(window[1]), window[0] - now

    def limited(handler: Any) -> None:
        with server.lock:
            left, seconds = take()
        headers = {"x-ratelimit-remaining-requests": str(max(left, 0)), "x-ratelimit-reset-requests": f"{seconds * 1000:.0f}ms"}
        if left < 0:
            refused[0] += 1
            handler.send(429, b'{"error": {"message": "too fast"}}', headers)
            return
        handler.send(200, json.dumps(chat_completion(handler.prompt, probabilities=True)).encode(), headers)

    WAYS["limited"] = limited
    server.plan = lambda prompt, nth: "limited"
    assert_expected(judge_at().score(TRAIT, *rows(30)), 30)
    assert server.requests == 63 + refused[0]
    assert refused[0] <= 3  # without the headers about half of all requests are refused


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "0.3s"},
        {"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": "{date}"},
        {"ratelimit-remaining": "0", "ratelimit-reset": "0.3"},
    ],
)
def test_a_used_up_limit_is_waited_for(server: MisbehavingServer, judge_at: Make, headers: dict[str, str]) -> None:
    came: list[float] = []

    def used_up(handler: Any) -> None:
        came.append(time.monotonic())
        date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 0.3)) + f"{(time.time() + 0.3) % 1:.3f}"[1:] + "Z"
        told = {name: value.format(date=date) for name, value in headers.items()}
        handler.send(200, json.dumps(chat_completion(handler.prompt, probabilities=True)).encode(), told)

    WAYS["used up"] = used_up
    server.plan = lambda prompt, nth: "used up"
    judge_at(method="sample", samples=1, concurrency=1).score(TRAIT, *rows(2))
    assert len(came) == 4
    assert min(later - earlier for earlier, later in pairwise(came)) > 0.25
