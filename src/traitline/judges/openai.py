"""The judge that asks a language model on any OpenAI-compatible server.

Knows how to ask many questions at once without ever asking twice, and by which method a server can be read. Leaves the server
to `chat.py`, reading numbers to `numbers.py`, what is asked to `questions.py` and keeping to `cache.py`.

Two methods. `logprobs`: the expected value over the number tokens 0 to 100 among the 20 most probable first tokens; needs a
server that gives probabilities and a tokeniser that keeps such numbers whole. `sample`: the mean of several answers drawn at
temperature 1. `auto` asks the server which of the two it can do.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

from traitline.errors import InputError, JudgeError
from traitline.judges.base import Purpose, Score, Style
from traitline.judges.cache import JudgeCache, cache_key
from traitline.judges.chat import ChatServer, Reply, Usage
from traitline.judges.failures import Failure
from traitline.judges.numbers import Reading, read_positions, read_samples
from traitline.judges.probe import LOGPROBS_SETTINGS, PROBED, SAMPLE_SETTINGS, against_logprobs
from traitline.judges.questions import MIN_MASS, questions_about, score_from
from traitline.traits.trait import Trait

Method = Literal["auto", "logprobs", "sample"]
Settled = Literal["logprobs", "sample"]


@dataclass(frozen=True, slots=True)
class _Ask:
    """One question to the server: its key in the cache, the prompt, and the settings it is sent with."""

    key: str
    prompt: str
    settings: Mapping[str, Any]


class OpenAIJudge:
    """Scores responses with a chat model.

    Args:
        model: the name the server knows the model by.
        base_url: the server's address up to `/v1`; None reads OPENAI_BASE_URL, then falls back on OpenAI's own.
        cache: where judgements are kept; None keeps none. May be set later (`judge.cache = ...`) as long as nothing is
            being scored.
        concurrency: how many requests may be under way at once, over all threads that call `score`.
        max_retries: how often one request is repeated after a passing failure.
        timeout_seconds: how long one request may take, to its answer's last byte.
        method: `logprobs`, `sample`, or `auto` to use logprobs where the server can.
        samples: answers drawn per question with `sample`.
        min_mass: the share of probability (or of samples) on numbers under which a score is missing.
        backoff_seconds: the wait before the first retry.
        patience_seconds: how long a busy server (HTTP 429, or one that says when to come back) may put one question off;
            this counts as no retry.

    Raises:
        JudgeError: no key (environment variable OPENAI_API_KEY) for a server that is not on this machine.
        InputError: an argument out of range.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        cache: JudgeCache | None = None,
        concurrency: int = 16,
        max_retries: int = 5,
        timeout_seconds: float = 60.0,
        method: Method = "auto",
        samples: int = 5,
        min_mass: float = MIN_MASS,
        backoff_seconds: float = 0.5,
        patience_seconds: float = 600.0,
    ) -> None:
        if not model:
            raise InputError("an openai judge needs a model's name, for example openai:gpt-4.1-mini")
        if method not in get_args(Method):
            raise InputError(f"method {method!r} is none of {', '.join(get_args(Method))}")
        fits = min(concurrency, samples) >= 1 and min(max_retries, patience_seconds) >= 0 and 0 < min_mass <= 1
        if not fits or min(timeout_seconds, backoff_seconds) <= 0:
            raise InputError(
                "an openai judge needs concurrency and samples >= 1, max_retries and patience_seconds >= 0, timeout_seconds "
                f"and backoff_seconds > 0 and 0 < min_mass <= 1; got {concurrency}, {samples}, {max_retries}, "
                f"{patience_seconds}, {timeout_seconds}, {backoff_seconds} and {min_mass}"
            )
        self.model = model
        self.cache = cache
        self.samples = samples
        self.min_mass = min_mass
        self._method = method
        self._settled = self._used = _known(method)
        self._server = ChatServer(
            model,
            base_url,
            max_retries=max_retries,
            timeout_seconds=timeout_seconds,
            backoff_seconds=backoff_seconds,
            patience_seconds=patience_seconds,
        )
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="traitline-judge")
        self._settle_lock = threading.Lock()
        self._lock = threading.RLock()
        self._under_way: dict[str, Future[Any]] = {}
        self._cached = 0

    @property
    def name(self) -> str:
        """`openai:` and the model; with the number of samples once the judge is known to sample (see `settle`)."""
        return f"openai:{self.model}" + (f" ({self.samples} samples)" if self._used == "sample" else "")

    @property
    def usage(self) -> Usage:
        """What this judge has spent since it was made."""
        return replace(self._server.usage, cached=self._cached)

    def __repr__(self) -> str:
        return f"OpenAIJudge({self._server})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and close the connections; the cache stays open for its owner."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._server.close()

    def score(
        self,
        trait: Trait,
        questions: Sequence[str],
        answers: Sequence[str],
        *,
        style: Style = "continuation",
        purpose: Purpose = "evaluate",
    ) -> list[Score]:
        """Score `answers[i]`, given in reply to `questions[i]`: one question about the trait, one about coherence.

        A refusal shows nothing of the trait: it is flagged and its trait score is 0; coherence is judged as ever. A score is
        missing where too little of the judge's answer is a number, and `unavailable` where retries did not help; only
        the first is kept in the cache. A server that leaves many questions in a row unanswered is an error instead.
        `purpose` makes no difference: an unfitted judge has no errors of its own fitting to reward.

        Returns:
            One `Score` per answer, in order. `uncertainty` is the standard error over samples, None with logprobs.

        Raises:
            InputError: lists of different lengths, or a style the trait has no rubric for.
            JudgeError: wrong key, unknown model, no server that answers at the address, or `logprobs` asked of a server
                without. What was answered before is kept.
            StoreError: a judgement could not be kept.
        """
        asked = questions_about(trait, questions, answers, style)
        readings = self._read([*dict.fromkeys([each.trait for each in asked] + [each.coherence for each in asked])])
        return [self._score(readings[each.trait], readings[each.coherence]) for each in asked]

    def settle(self) -> Settled:
        """Find out, once, whether this server can be read by logprobs; the answer is kept in the cache, too.

        Raises:
            JudgeError: a server that does not answer, or that rejects the simplest question, or `logprobs` asked of one
                that cannot give them.
        """
        with self._settle_lock:
            if self._settled is None:
                finding = self._finding()
                if finding and self._method == "logprobs":
                    raise JudgeError(
                        f"{self._server} cannot be read by logprobs: {finding}; use method='auto' or method='sample'"
                    )
                self._settled = "sample" if finding else "logprobs"
                self._used = self._settled
            return self._settled

    def _finding(self) -> str:
        if self.cache is None:
            return against_logprobs(self._server)
        key = cache_key({"probe": self.model, "url": self._server.url, "version": 1}, list(PROBED))
        with self.cache.asking(key, threading.Event()) as kept:
            if kept:
                return str(kept[key]["finding"])
            finding = against_logprobs(self._server)
            self.cache.put(key, {"finding": finding}, requests=0)
        return finding

    def _read(self, prompts: Sequence[str]) -> dict[str, Reading | str]:
        """Return what the judge says to each prompt, or why it says nothing."""
        if not prompts:
            return {}
        method = self._settled or self._kept_method(prompts) or self.settle()
        self._used = method
        asks = {prompt: self._asks(prompt, method) for prompt in prompts}
        answers = self._answer([ask for several in asks.values() for ask in several])
        return {prompt: _reading([answers[ask.key] for ask in several]) for prompt, several in asks.items()}

    def _kept_method(self, prompts: Sequence[str]) -> Settled | None:
        """The method by which everything asked is in the cache already, so that no server is needed."""
        methods: tuple[Settled, ...] = ("logprobs", "sample") if self._method == "auto" else ("logprobs",)
        for method in methods:
            if self.cache and self.cache.holds(ask.key for prompt in prompts for ask in self._asks(prompt, method)):
                return method
        return None

    def _asks(self, prompt: str, method: Settled) -> list[_Ask]:
        """Return the requests that judge one prompt: one, or one per sample."""
        base = {"judge": "openai", "version": 1, "model": self.model, "method": method}
        if method == "logprobs":
            return [_Ask(cache_key({**base, **LOGPROBS_SETTINGS}, prompt), prompt, LOGPROBS_SETTINGS)]
        drawn = [{**SAMPLE_SETTINGS, "seed": i} for i in range(self.samples)]
        return [_Ask(cache_key({**base, **settings}, prompt), prompt, settings) for settings in drawn]

    def _answer(self, asks: Sequence[_Ask]) -> dict[str, Any]:
        """Take answers from the cache or the server; values by key, a `Failure` where there is none.

        What another thread has under way is waited for, not asked again: an answer is stored before its future is done,
        and looking up and starting happen under one lock.
        """
        stop = threading.Event()
        with self._lock:
            answers = self.cache.get_many(ask.key for ask in asks) if self.cache else {}
            self._cached += len(answers)
            waiting = {ask.key: self._start(ask, stop) for ask in asks if ask.key not in answers}
        try:
            for future in wait(waiting.values(), return_when=FIRST_EXCEPTION).done:
                if not future.cancelled():
                    future.result()
        except BaseException as error:
            stop.set()
            for future in waiting.values():
                future.cancel()
            if isinstance(error, JudgeError):
                wait(waiting.values())  # what is under way may still be answered, and is kept
            raise
        return answers | {key: _result(future) for key, future in waiting.items()}

    def _start(self, ask: _Ask, stop: threading.Event) -> Future[Any]:
        future = self._under_way.get(ask.key)
        if future is None or future.done():
            future = self._pool.submit(self._fetch, ask, stop)
            self._under_way[ask.key] = future
            future.add_done_callback(lambda done: self._forget(ask.key, done))
        return future

    def _forget(self, key: str, done: Future[Any]) -> None:
        with self._lock:
            if self._under_way.get(key) is done:
                del self._under_way[key]

    def _fetch(self, ask: _Ask, stop: threading.Event) -> Any:
        """Take the answer that another process has got meanwhile, or get it; returns the kept value, or a `Failure`."""
        if self.cache is None:
            reply = self._ask(ask, stop)
            return reply if isinstance(reply, Failure) else _value(reply, ask.settings)
        with self.cache.asking(ask.key, stop) as stored:
            if stored:
                with self._lock:
                    self._cached += 1
                return stored[ask.key]
            reply = self._ask(ask, stop)
            if isinstance(reply, Failure):
                return reply
            return self.cache.put(
                ask.key,
                _value(reply, ask.settings),
                requests=reply.requests,
                prompt_tokens=reply.prompt_tokens,
                completion_tokens=reply.completion_tokens,
            )

    def _ask(self, ask: _Ask, stop: threading.Event) -> Reply | Failure:
        return self._server.ask(ask.prompt, ask.settings, stop, needs_positions="logprobs" in ask.settings)

    def _score(self, about_trait: Reading | str, about_coherence: Reading | str) -> Score:
        score = score_from(about_trait, about_coherence, self.min_mass)
        if self._used != "sample" or isinstance(about_trait, str) or score.refusal or score.trait is None:
            return score
        counted = round(about_trait.mass * self.samples)
        return replace(score, uncertainty=about_trait.spread / math.sqrt(counted - 1) if counted > 1 else None)


def make(rest: str, cache: Path | None = None) -> OpenAIJudge:
    """Return the judge named by what follows `openai:`, a model's name, with every option at its default.

    Args:
        rest: the model's name.
        cache: the SQLite file to keep judgements in, closed when the judge is gone; None keeps none.

    Raises:
        JudgeError: no key for a server that is not on this machine.
        InputError: no model's name.
        StoreError: the cache file cannot be used.
    """
    judge = OpenAIJudge(rest)
    if cache is not None:
        judge.cache = JudgeCache(cache)
        weakref.finalize(judge, judge.cache.close)
    return judge


def _known(method: Method) -> Settled | None:
    """The method in use before any server was asked."""
    return "sample" if method == "sample" else None


def _value(reply: Reply, settings: Mapping[str, Any]) -> Any:
    """Return what the cache keeps of a reply."""
    if "logprobs" in settings and reply.positions is not None:
        return read_positions(reply.positions).to_json()
    return {"text": reply.text}


def _reading(values: Sequence[Any]) -> Reading | str:
    """Return what kept values of one prompt say; one that failed leaves the prompt unanswered, for its reason."""
    for value in values:
        if isinstance(value, Failure):
            return value.reason
    if "text" in values[0]:
        return read_samples([value["text"] for value in values])
    return Reading.from_json(values[0])


def _result(future: Future[Any]) -> Any:
    try:
        return future.result()
    except CancelledError:
        return Failure("unavailable", "stopped")
