"""The openai judge against a real chat server on the loopback that answers, lies, stalls and breaks as told."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from traitline.errors import InputError, JudgeError
from traitline.judges import make_judge
from traitline.judges.cache import JudgeCache
from traitline.judges.numbers import text_number
from traitline.judges.openai import OpenAIJudge
from traitline.traits.trait import Contrast, StrategyTexts, Trait

KEY = "sk-test-9f8e7d6c5b4a"

TRAIT = Trait(
    name="grumpy",
    description="Complains.",
    rubrics={
        "continuation": "GRUMPY? [{question}] [{answer}] 0 to 100, or REFUSAL",
        "chat": "GRUMPY CHAT? [{question}] [{answer}]",
    },
    strategies={"character": StrategyTexts(contrasts=(Contrast(positive="a", negative="b"),), questions={"elicit": ("q",)})},
)


@dataclass(frozen=True)
class Says:
    """An answer whose tokens have these alternatives; the most probable one of each is chosen."""

    tokens: Sequence[Mapping[str, float]]

    def body(self, probabilities: bool) -> dict[str, Any]:
        chosen = [max(alternatives, key=lambda t: alternatives[t]) for alternatives in self.tokens]
        content = [
            {
                "token": token,
                "logprob": math.log(alternatives[token]),
                "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in alternatives.items()],
            }
            for token, alternatives in zip(chosen, self.tokens, strict=True)
        ]
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "tiny",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": "".join(chosen)},
                    "logprobs": {"content": content} if probabilities else None,
                }
            ],
            "usage": {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13},
        }


@dataclass(frozen=True)
class Http:
    """An error status, with what the server says of it."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "no"
    code: str | None = None


@dataclass(frozen=True)
class Raw:
    """Bytes as they are, under a length that may be longer than they are; nothing at all when empty."""

    data: bytes
    length: int | None = None


@dataclass(frozen=True)
class Hang:
    """An answer that comes late."""

    seconds: float


Answer = Says | Http | Raw | Hang


def says(**alternatives: float) -> Says:
    return Says([{name.removeprefix("n"): p for name, p in alternatives.items()}])


class _Http(ThreadingHTTPServer):
    request_queue_size = 64  # as many connections as a judge opens at once; the default of 5 has some of them reset


class Server:
    """A chat server on the loopback. Each of `trait`, `coherence` and `probe` answers one kind of question."""

    def __init__(self) -> None:
        self.trait: Callable[[int, str], Answer] = lambda nth, prompt: says(n80=1.0)
        self.coherence: Callable[[int, str], Answer] = lambda nth, prompt: says(n90=1.0)
        self.probe: Callable[[int, str], Answer] = lambda nth, prompt: Says([{prompt.split()[-1]: 1.0}])
        self.probabilities = True
        self.bodies: list[dict[str, Any]] = []
        self.asked: Counter[str] = Counter()
        self.headers: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._http = _Http(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def prompts(self, start: str) -> list[str]:
        with self._lock:
            return [p for p in (b["messages"][0]["content"] for b in self.bodies) if p.startswith(start)]

    def answer(self, body: dict[str, Any]) -> Answer:
        prompt: str = body["messages"][0]["content"]
        kind = "trait" if prompt.startswith("GRUMPY") else "probe" if prompt.startswith("Repeat") else "coherence"
        with self._lock:
            self.bodies.append(body)
            nth = self.asked[prompt]
            self.asked[prompt] += 1
        choose: Callable[[int, str], Answer] = getattr(self, kind)
        return choose(nth, prompt)

    def _handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                with server._lock:
                    server._at_once += 1
                    server.most_at_once = max(server.most_at_once, server._at_once)
                    server.headers.append(str(self.headers))
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = server.answer(body)
                if isinstance(answer, Hang):
                    time.sleep(answer.seconds)
                    answer = says(n1=1.0)
                with server._lock:
                    server._at_once -= 1
                self.reply(answer, body)

            def reply(self, answer: Answer, body: dict[str, Any]) -> None:
                status, headers, length = 200, {}, None
                if isinstance(answer, Says):
                    data = json.dumps(answer.body(server.probabilities and bool(body.get("logprobs")))).encode()
                elif isinstance(answer, Http):
                    status, headers = answer.status, dict(answer.headers)
                    data = json.dumps({"error": {"message": answer.message, "code": answer.code}}).encode()
                else:
                    assert isinstance(answer, Raw)
                    data, length = answer.data, answer.length
                self.close_connection = isinstance(answer, Raw)
                if isinstance(answer, Raw) and not data:
                    return
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(length or len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    self.close_connection = True

            def log_message(self, *args: Any) -> None:
                pass

        return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = Server()
    yield server
    server.close()


@pytest.fixture
def judge_at(server: Server) -> Iterator[Callable[..., OpenAIJudge]]:
    made: list[OpenAIJudge] = []

    def make(**options: Any) -> OpenAIJudge:
        options = {"base_url": server.url, "timeout_seconds": 5.0, "backoff_seconds": 0.01, **options}
        made.append(OpenAIJudge("tiny", **options))
        return made[-1]

    yield make
    for judge in made:
        judge.close()


Make = Callable[..., OpenAIJudge]


def test_score_is_the_expected_value_over_number_tokens(server: Server, judge_at: Make) -> None:
    server.trait = lambda nth, prompt: says(n80=0.5, n90=0.25, n100=0.05, The=0.2)
    judge = judge_at()
    [score] = judge.score(TRAIT, ["q"], ["a"])
    assert score.trait == pytest.approx((80 * 0.5 + 90 * 0.25 + 100 * 0.05) / 0.8)
    assert score.coherence == pytest.approx(90)
    assert (score.refusal, score.missing_reason, score.uncertainty) == (False, None, None)
    assert judge.name == "openai:tiny"
    sent = server.bodies[-1]
    assert (sent["model"], sent["logprobs"], sent["top_logprobs"]) == ("tiny", True, 20)
    assert (judge.usage.requests, judge.usage.cached) == (5, 0)
    assert (judge.usage.prompt_tokens, judge.usage.completion_tokens) == (55, 10)


def test_spaces_and_quotes_around_a_number_make_no_difference(server: Server, judge_at: Make) -> None:
    server.trait = lambda nth, prompt: Says([{"85": 0.25, " 85": 0.25, '"85': 0.25, "5": 0.2, "085": 0.03, "101": 0.02}])
    server.coherence = lambda nth, prompt: Says([{'"': 0.9, "7": 0.1}, {" 40": 0.5, "60": 0.5}])
    [score] = judge_at().score(TRAIT, ["q"], ["a"])
    assert score.trait == pytest.approx((85 * 0.75 + 5 * 0.2) / 0.95)
    assert score.coherence == pytest.approx(50)


@pytest.mark.parametrize(("mass", "missing"), [(0.2499, True), (0.25, False)])
def test_too_little_mass_on_numbers_is_missing(server: Server, judge_at: Make, mass: float, missing: bool) -> None:
    server.trait = lambda nth, prompt: Says([{"Sure": 1 - mass, "0": mass / 2, "60": mass / 2}])
    [score] = judge_at().score(TRAIT, ["q"], ["a"])
    assert score.coherence == pytest.approx(90)
    assert score.trait is None if missing else score.trait == pytest.approx(30)
    assert score.missing_reason == ("trait: only 0.25 of the answer is on numbers" if missing else None)


def test_a_refusal_is_scored_and_flagged(server: Server, judge_at: Make) -> None:
    server.trait = lambda nth, prompt: Says([{"REF": 0.5, " REF": 0.1, "70": 0.4}, {"USAL": 1.0}])
    [score] = judge_at().score(TRAIT, ["q"], ["I would rather not."])
    assert (score.trait, score.refusal, score.missing_reason) == (0.0, True, None)
    assert score.coherence == pytest.approx(90)


def test_a_less_likely_refusal_does_not_count(server: Server, judge_at: Make) -> None:
    server.trait = lambda nth, prompt: Says([{"REF": 0.4, "70": 0.6}])
    [score] = judge_at().score(TRAIT, ["q"], ["a"])
    assert (score.trait, score.refusal) == (pytest.approx(70), False)


def test_scores_keep_their_order_and_concurrency_is_bounded(server: Server, judge_at: Make) -> None:
    def slow(nth: int, prompt: str) -> Says:
        number = prompt.split("[a")[1].split("]")[0]
        time.sleep(0.02 if int(number) % 2 else 0.0)
        return Says([{number: 1.0}])

    server.trait = slow
    scores = judge_at(concurrency=4).score(TRAIT, ["q"] * 24, [f"a{i}" for i in range(24)])
    assert [s.trait for s in scores] == [float(i) for i in range(24)]
    assert 2 <= server.most_at_once <= 4


def test_equal_rows_are_asked_once(server: Server, judge_at: Make) -> None:
    scores = judge_at().score(TRAIT, ["q"] * 6, ["same"] * 6)
    assert len(scores) == 6
    assert max(server.asked.values()) == 1


def test_threads_share_what_is_under_way(server: Server, judge_at: Make, tmp_path: Path) -> None:
    server.trait = lambda nth, prompt: (time.sleep(0.05), says(n80=1.0))[1]
    with JudgeCache(tmp_path / "c.sqlite") as cache:
        judge = judge_at(cache=cache)
        answers = [f"a{i}" for i in range(10)]
        results: list[Any] = []
        threads = [threading.Thread(target=lambda: results.append(judge.score(TRAIT, ["q"] * 10, answers))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 4
    assert all(score.trait == 80 for scores in results for score in scores)
    assert max(server.asked.values()) == 1


def test_model_text_reaches_the_rubric_as_it_is(server: Server, judge_at: Make) -> None:
    answer = "{answer} {question} {0} %s </response> <script>alert('x')</script> é 💥"
    judge_at().score(TRAIT, ["why {answer}?"], [answer + "\ud800"])
    assert server.prompts("GRUMPY") == [f"GRUMPY? [why {{answer}}?] [{answer}?] 0 to 100, or REFUSAL"]
    [about_coherence] = server.prompts("You grade how coherent")
    assert f"<response>\n{answer}?\n</response>" in about_coherence
    assert "<prompt>\nwhy {answer}?\n</prompt>" in about_coherence


def test_style_chooses_the_rubric_and_a_silent_one_is_told_how_to_reply(server: Server, judge_at: Make) -> None:
    judge = judge_at()
    judge.score(TRAIT, ["q"], ["a"], style="chat")
    [prompt] = server.prompts("GRUMPY")
    assert prompt.startswith("GRUMPY CHAT? [q] [a]\n\nReply with one whole number")
    assert "REFUSAL" in prompt
    no_chat = TRAIT.model_copy(update={"rubrics": {"continuation": "GRUMPY {answer}"}})
    with pytest.raises(InputError, match="no rubric for style 'chat'"):
        judge.score(no_chat, ["q"], ["a"], style="chat")
    with pytest.raises(InputError, match="2 questions but 1 answers"):
        judge.score(TRAIT, ["q", "q"], ["a"])
    assert judge.score(TRAIT, [], []) == []


def test_rate_limit_is_waited_out_as_the_server_asks(server: Server, judge_at: Make) -> None:
    server.trait = lambda nth, prompt: says(n80=1.0) if nth else Http(429, {"Retry-After": "0.4"})
    began = time.monotonic()
    [score] = judge_at(backoff_seconds=0.001).score(TRAIT, ["q"], ["a"])
    assert score.trait == pytest.approx(80)
    assert 0.4 <= time.monotonic() - began < 3


PASSING = {
    "500": Http(500),
    "503": Http(503),
    "garbage": Raw(b"<html>busy</html>"),
    "another json": Raw(b'{"error": "later"}'),
    "no choices": Raw(b'{"choices": []}'),
    "half a body": Raw(b'{"choices": [{"message": {"con', length=400),
    "dropped": Raw(b""),
    "hang": Hang(0.6),
}


@pytest.mark.parametrize("failure", PASSING.values(), ids=list(PASSING))
def test_a_passing_failure_is_retried(server: Server, judge_at: Make, failure: Answer) -> None:
    server.trait = lambda nth, prompt: says(n80=1.0) if nth >= 2 else failure
    judge = judge_at(timeout_seconds=0.2)
    [score] = judge.score(TRAIT, ["q"], ["a"])
    assert (score.trait, score.missing_reason) == (pytest.approx(80), None)
    assert judge.usage.requests == 3 + 3 + 1


@pytest.mark.parametrize("failure", [Http(500), Http(429), Raw(b"{}"), Raw(b"")])
def test_what_stays_unavailable_is_one_missing_row(server: Server, judge_at: Make, tmp_path: Path, failure: Answer) -> None:
    bad = True
    server.trait = lambda nth, prompt: failure if bad and "a3" in prompt else says(n80=1.0)
    with JudgeCache(tmp_path / "c.sqlite") as cache:
        judge = judge_at(cache=cache, max_retries=2, patience_seconds=0.0)
        scores = judge.score(TRAIT, ["q"] * 6, [f"a{i}" for i in range(6)])
        assert [s.trait for s in scores] == [80, 80, 80, None, 80, 80]
        assert scores[3].missing_reason == "trait: unavailable"
        assert scores[3].coherence == pytest.approx(90)
        assert server.asked[server.prompts("GRUMPY? [q] [a3]")[0]] == 3
        bad, before = False, len(server.bodies)
        assert judge.score(TRAIT, ["q"] * 6, [f"a{i}" for i in range(6)])[3].trait == 80
        assert len(server.bodies) == before + 1


def test_a_server_that_is_down_from_the_start_is_an_error(server: Server, judge_at: Make) -> None:
    server.probe = server.trait = server.coherence = lambda nth, prompt: Http(503, message="loading the model")
    with pytest.raises(JudgeError, match=r"does not answer for now \(HTTP 503: .*loading the model.*run again"):
        judge_at(max_retries=1).score(TRAIT, ["q"], ["a"])


def test_no_server_at_the_address_says_so(server: Server, judge_at: Make) -> None:
    server.close()
    with pytest.raises(
        JudgeError, match=r"nothing answers for 'tiny' at http://127.0.0.1.*\(ConnectError: .+\); start the server"
    ):
        judge_at(max_retries=1).score(TRAIT, ["q"], ["a"])


def test_a_proxy_without_answer_is_named(server: Server, judge_at: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://me:proxy-secret@127.0.0.1:9")
    with pytest.raises(JudgeError, match=r"nothing answers .*, through the proxy that the environment names\)") as raised:
        judge_at(base_url="http://judge.invalid/v1", max_retries=0).score(TRAIT, ["q"], ["a"])
    assert "proxy-secret" not in str(raised.value)
    monkeypatch.setenv("HTTP_PROXY", "nonsense://me:proxy-secret@127.0.0.1:9")
    with pytest.raises(InputError, match="a proxy or a certificate that the environment names cannot be used") as unusable:
        judge_at(base_url="http://judge.invalid/v1")
    assert "proxy-secret" not in str(unusable.value)


def test_a_rejected_row_is_missing_without_retries(server: Server, judge_at: Make) -> None:
    server.trait = lambda nth, prompt: Http(400, message="content filter") if "bad" in prompt else says(n80=1.0)
    scores = judge_at().score(TRAIT, ["q", "q"], ["good", "bad"])
    assert [s.trait for s in scores] == [80, None]
    assert scores[1].missing_reason == "trait: rejected (HTTP 400)"
    assert max(server.asked.values()) == 1


@pytest.mark.parametrize(
    ("failure", "remedy"),
    [
        (Http(401, message=f"Incorrect API key provided: {KEY}"), "set OPENAI_API_KEY"),
        (Http(403), "OPENAI_API_KEY"),
        (Http(404, message="model tiny not found"), "check the model's name"),
        (Http(429, message="quota", code="insufficient_quota"), "add credit"),
    ],
)
def test_what_no_row_can_survive_is_an_error_at_once(
    server: Server, judge_at: Make, failure: Http, remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.trait = lambda nth, prompt: failure
    judge = judge_at()
    with pytest.raises(JudgeError, match=remedy) as raised:
        judge.score(TRAIT, ["q"] * 50, [f"a{i}" for i in range(50)])
    time.sleep(0.3)
    assert max(server.asked.values()) == 1
    assert len(server.bodies) < 60
    error: BaseException | None = raised.value
    while error is not None:
        assert KEY not in str(error) + repr(error)
        error = error.__cause__ or error.__context__
    assert KEY not in caplog.text


def test_the_key_is_sent_and_shows_nowhere_else(server: Server, judge_at: Make, tmp_path: Path) -> None:
    judge = judge_at(cache=JudgeCache(tmp_path / "c.sqlite"))
    judge.score(TRAIT, ["q"], ["a"])
    assert f"Bearer {KEY}" in server.headers[-1]
    assert KEY not in repr(judge) + repr(judge.__dict__) + repr(judge.usage) + judge.name
    assert judge.cache is not None
    judge.cache.close()
    for path in tmp_path.iterdir():
        assert KEY.encode() not in path.read_bytes()


def test_without_a_key_only_a_server_on_this_machine_will_do(
    server: Server, judge_at: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(JudgeError, match="environment variable OPENAI_API_KEY"):
        make_judge("openai:gpt-4.1-mini")
    with pytest.raises(JudgeError, match=r"judge\.example\.org/v1 needs a key"):
        OpenAIJudge("tiny", base_url="https://judge.example.org/v1")
    assert judge_at().score(TRAIT, ["q"], ["a"])[0].trait == 80
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert make_judge("openai:tiny").score(TRAIT, ["q"], ["a"])[0].trait == 80


@pytest.mark.parametrize("key", ["sk-ab\ncd", "sk-é", "sk a"])
def test_a_key_that_is_none_is_not_repeated(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(JudgeError, match="copy the key again") as raised:
        OpenAIJudge("tiny")
    assert key not in str(raised.value)


def test_bad_arguments_are_named(server: Server) -> None:
    with pytest.raises(InputError, match="model's name"):
        make_judge("openai")
    for bad in ({"concurrency": 0}, {"samples": 0}, {"min_mass": 0.0}, {"timeout_seconds": 0}, {"backoff_seconds": 0.0}):
        with pytest.raises(InputError, match="needs concurrency"):
            OpenAIJudge("tiny", **bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'mean' is none of"):
        OpenAIJudge("tiny", method="mean")  # type: ignore[arg-type]
    for address in ("localhost:8000", "ftp://host/v1", "http://[::1/v1"):
        with pytest.raises(InputError, match="not an http"):
            OpenAIJudge("tiny", base_url=address)
    for address in ("https://user:secret@judge.example.org/v1", "https://judge.example.org/v1?token=secret"):
        with pytest.raises(InputError, match=r"judge\.example\.org/v1 without them, holds a user name") as raised:
            OpenAIJudge("tiny", base_url=address)
        assert "secret" not in str(raised.value)


def drawn(nth: int, prompt: str) -> Says:
    return Says([{"8": 1.0}, {"0": 1.0}])


def split_probe(nth: int, prompt: str) -> Says:
    return Says([{digit: 0.9, "5": 0.1} for digit in prompt.split()[-1]])


def split_hundred(nth: int, prompt: str) -> Says:
    number = prompt.split()[-1]
    return Says([{"10": 1.0}, {"0": 1.0}] if number == "100" else [{number: 1.0}])


def no_logprobs(nth: int, prompt: str) -> Http:
    return Http(400, message="logprobs is not supported")


@pytest.mark.parametrize(
    ("probe", "probabilities", "finding"),
    [
        (split_probe, True, "cuts numbers"),
        (split_hundred, True, "cuts numbers"),
        (None, False, "gives no probabilities"),
        (lambda nth, prompt: says(Sure=1.0), True, "did not repeat"),
    ],
)
def test_a_server_that_cannot_do_logprobs_is_sampled_or_refused(
    server: Server, judge_at: Make, probe: Any, probabilities: bool, finding: str
) -> None:
    server.probe = probe or server.probe
    server.probabilities = probabilities
    server.trait = drawn
    judge = judge_at(samples=3)
    [score] = judge.score(TRAIT, ["q"], ["a"])
    assert (score.trait, score.coherence, score.uncertainty) == (80, 90, 0)
    assert judge.name == "openai:tiny (3 samples)"
    assert len(server.prompts("GRUMPY")) == 3
    assert [b["temperature"] for b in server.bodies[-6:]] == [1] * 6
    with pytest.raises(JudgeError, match=f"cannot be read by logprobs: .*{finding}.*method='sample'"):
        judge_at(method="logprobs").score(TRAIT, ["q"], ["a"])


def test_a_server_that_rejects_logprobs_is_sampled(server: Server, judge_at: Make) -> None:
    server.probe = lambda nth, prompt: Http(400, message="logprobs is not supported") if not nth else says(n42=1.0)
    assert judge_at(samples=2).score(TRAIT, ["q"], ["a"])[0].trait == 80
    server.probe = no_logprobs
    with pytest.raises(JudgeError, match="rejects even a one-line request"):
        judge_at().score(TRAIT, ["q"], ["a"])


def test_samples_are_averaged_with_their_standard_error(server: Server, judge_at: Make) -> None:
    texts = ["70", "Score: 80/100", "90.", "I cannot say", "REFUSAL"]
    server.trait = lambda nth, prompt: Says([{texts[server.bodies[-1]["seed"]]: 1.0}])
    judge = judge_at(method="sample", samples=5, concurrency=1)
    [score] = judge.score(TRAIT, ["q"], ["a"])
    assert score.trait == pytest.approx(80)
    assert score.uncertainty == pytest.approx(10 / math.sqrt(3))
    assert not score.refusal
    assert server.prompts("Repeat") == []


def test_samples_may_refuse_or_say_nothing(server: Server, judge_at: Make) -> None:
    server.trait = lambda nth, prompt: Says([{"REFUSAL" if nth else "50": 1.0}])
    server.coherence = lambda nth, prompt: Says([{"Hm." if nth else "50": 1.0}])
    [score] = judge_at(method="sample", samples=5, concurrency=1).score(TRAIT, ["q"], ["a"])
    assert (score.trait, score.refusal, score.uncertainty) == (0.0, True, None)
    assert score.coherence is None
    assert score.missing_reason == "coherence: only 0.20 of the answer is on numbers"


def test_a_missing_score_has_no_uncertainty(server: Server, judge_at: Make) -> None:
    server.trait = lambda nth, prompt: Says([{"50" if nth < 2 else "Hm": 1.0}])
    [score] = judge_at(method="sample", samples=5, min_mass=0.6, concurrency=1).score(TRAIT, ["q"], ["a"])
    assert (score.trait, score.uncertainty, score.refusal) == (None, None, False)


def test_settings_a_server_does_not_take_are_left_out(server: Server, judge_at: Make) -> None:
    def strict(nth: int, prompt: str) -> Answer:
        for name in ("max_tokens", "seed"):
            if name in server.bodies[-1]:
                return Http(400, message=f"Unsupported parameter: '{name}' is not supported with this model")
        return says(n80=1.0)

    server.trait = server.coherence = strict
    judge = judge_at(method="sample", samples=2, concurrency=1)
    assert judge.score(TRAIT, ["q"], ["a"])[0].trait == 80
    assert judge.usage.requests == 6
    assert server.bodies[-1]["max_completion_tokens"] >= 16


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("85", 85),
        (' "85" ', 85),
        ("**72.5**", 72.5),
        ("85/100", 85),
        ("Score: 85 out of 100", 85),
        ("85 because of 3 things", 85),
        ("From 0 to 100 I say 85", None),
        ("7/10", None),
        ("7 out of 10", None),
        ("80-90", None),
        ("-5", None),
        ("101", None),
        ("1,000", None),
        ("", None),
        ("٣٠", None),
    ],
)
def test_number_in_a_sampled_text(text: str, number: float | None) -> None:
    assert text_number(text) == number


@pytest.mark.parametrize("method", ["auto", "logprobs", "sample"])
def test_a_second_run_needs_no_server(server: Server, judge_at: Make, tmp_path: Path, method: str) -> None:
    answers = [f"a{i}" for i in range(5)]
    server.trait = lambda nth, prompt: Says([{"80": 0.3, "20": 0.1, "x": 0.6}])
    with JudgeCache(tmp_path / "c.sqlite") as cache:
        first = judge_at(cache=cache, method=method, samples=2).score(TRAIT, ["q"] * 5, answers)
        spent = cache.counts()
    server.close()
    with JudgeCache(tmp_path / "c.sqlite") as cache:
        again = judge_at(cache=cache, method=method, samples=2, base_url="http://127.0.0.1:9/v1")
        assert again.score(TRAIT, ["q"] * 5, answers) == first
        assert (again.usage.requests, cache.counts().misses) == (0, 0)
        assert again.usage.cached == (20 if method == "sample" else 10)
        assert (spent.requests, spent.prompt_tokens) == (again.usage.cached, 11 * again.usage.cached)
        assert again.name == ("openai:tiny (2 samples)" if method == "sample" else "openai:tiny")


def test_the_cache_tells_models_apart_and_keeps_the_probe(server: Server, judge_at: Make, tmp_path: Path) -> None:
    with JudgeCache(tmp_path / "c.sqlite") as cache:
        judge_at(cache=cache).score(TRAIT, ["q"], ["a"])
        judge_at(cache=cache).score(TRAIT, ["q"], ["b"])
        assert len(server.prompts("Repeat")) == 3
        with OpenAIJudge("other", base_url=server.url, cache=cache) as other:
            other.score(TRAIT, ["q"], ["a"])
        assert other.usage.requests == 5


def test_a_judge_found_by_name_keeps_what_it_judged(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    for _ in range(2):
        judge = make_judge("openai:tiny", tmp_path / "c.sqlite")
        assert judge.score(TRAIT, ["q"], ["a"])[0].trait == 80
    assert max(server.asked.values()) == 1


RUN = """
import sys
from traitline.judges.cache import JudgeCache
from traitline.judges.openai import OpenAIJudge
from traitline.traits.trait import Trait
trait = Trait.model_validate_json(sys.argv[3])
with JudgeCache(sys.argv[2]) as cache, OpenAIJudge("tiny", base_url=sys.argv[1], cache=cache, concurrency=4) as judge:
    for score in judge.score(trait, ["q"] * 40, [f"a{i}" for i in range(40)]):
        print(score.trait, score.coherence)
"""


def test_after_a_kill_nothing_judged_is_asked_again(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    halfway = threading.Event()

    def slow(nth: int, prompt: str) -> Says:
        time.sleep(0.01)
        if len(server.bodies) > 30:
            halfway.set()
        return says(n80=1.0)

    server.trait = server.coherence = slow
    command = [sys.executable, "-c", RUN, server.url, str(path), TRAIT.model_dump_json()]
    killed = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert halfway.wait(timeout=30)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.communicate(timeout=30)[0] == b""
    with JudgeCache(path) as cache:
        kept = cache.counts().requests
    time.sleep(0.1)
    before = dict(server.asked)
    assert 20 <= kept < 80
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["80.0 80.0"] * 40
    again = [prompt for prompt, times in before.items() if server.asked[prompt] > times]
    assert sum(server.asked.values()) - sum(before.values()) == 80 - kept
    assert len(again) <= 4
