"""One OpenAI-compatible chat server: a question goes in, a short answer with its token probabilities comes out.

Knows retries, waits, and when to give up: retries are counted, jittered, stopped when the caller gives up, and a wait that a
server asks for holds back every thread, not one. Leaves sending to `connection.py`, turns to `pace.py`, what a failure means to
`failures.py`, reading an answer to `completion.py` and `judges/numbers.py`, and to `judges/openai.py` what is asked.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from traitline.errors import JudgeError
from traitline.judges.api.address import shown
from traitline.judges.api.completion import read_completion
from traitline.judges.api.connection import Connection
from traitline.judges.api.failures import Failure, fit_to_show, refused, unconnected
from traitline.judges.api.pace import LONGEST_WAIT_SECONDS, WORTH_TELLING_SECONDS, Pace
from traitline.judges.api.waits import asked_wait_seconds
from traitline.judges.numbers import Position
from traitline.judges.spending import Spending

if TYPE_CHECKING:
    import openai

GIVE_UP_AFTER = 20
"""Questions in a row that a server may leave without an answer, each after all its retries, before it is taken to be gone."""

THINKING_TOKENS = 2048
"""What a server is allowed to spend that counts a model's thinking in the length of its answer."""

_log = logging.getLogger(__name__)
_NOT_TAKEN = re.compile(r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|extra|not permitted|not allowed", re.I)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its text, its tokens (None where the server gave no probabilities), and what it cost with all retries."""

    text: str
    positions: tuple[Position, ...] | None
    spent: Spending


@dataclass(frozen=True, slots=True)
class Usage:
    """What a judge has spent since it was made.

    Attributes:
        requests: HTTP requests sent, retries and probes included.
        cached: judgements taken from the cache instead.
        prompt_tokens: tokens sent, as the server counts them.
        completion_tokens: tokens received.
        cached_tokens: those of the sent ones that the server had read before, and may charge less for.
    """

    requests: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class ChatServer:
    """A chat model on an OpenAI-compatible server. Safe to share between threads.

    Args:
        model: the name the server knows the model by.
        base_url: the server's address up to `/v1`; None reads OPENAI_BASE_URL, then falls back on OpenAI's own.
        max_retries: how often one question is asked again after a passing failure.
        timeout_seconds: how long one request may take, from connecting (half of it at most) to the answer's last byte.
        backoff_seconds: the wait before the first retry; it doubles from one to the next, up to a minute, less a jitter.
        patience_seconds: how long one question may be put off by a busy server (HTTP 429, or any that says when to come
            back); only then does being put off count as a failure.

    Raises:
        JudgeError: OPENAI_API_KEY is not set and the server is not on this machine.
        InputError: an address that is none or holds a secret, or a proxy that is none.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None,
        *,
        max_retries: int,
        timeout_seconds: float,
        backoff_seconds: float,
        patience_seconds: float,
    ) -> None:
        self.model = model
        self.connection = Connection(base_url, timeout_seconds=timeout_seconds)
        self.url = self.connection.url
        self._key = self.connection.key
        self._timeout_seconds = timeout_seconds
        self._patience_seconds = patience_seconds
        self._max_retries = max_retries
        self._backoff_seconds = backoff_seconds
        self._lock = threading.Lock()
        self._spent = Spending()
        self._pace = Pace()
        self._told_until = 0.0
        self._without_answer = 0
        self._not_taken: frozenset[str] = frozenset()

    @property
    def spent(self) -> Spending:
        """What has been spent so far."""
        with self._lock:
            return self._spent

    def __repr__(self) -> str:
        return f"{self.model!r} at {shown(self.url)}"

    def close(self) -> None:
        """Close the connections."""
        self.connection.close()

    def ask(
        self, prompt: str, settings: Mapping[str, Any], stop: threading.Event, *, needs_positions: bool = False
    ) -> Reply | Failure:
        """Ask one question, with retries; give up early once `stop` is set.

        Args:
            prompt: what the model is told, as one user message.
            settings: further fields of the request, such as `max_tokens`.
            stop: set by the caller when it no longer wants an answer.
            needs_positions: an answer without its tokens' probabilities is a passing failure, too.

        Raises:
            JudgeError: no question at all will be answered: wrong key, unknown model, no credit, or a server that has left
                `GIVE_UP_AFTER` questions in a row without an answer.
        """
        outcome = self._ask(prompt, settings, stop, needs_positions)
        answered = isinstance(outcome, Reply) or outcome.rejected
        with self._lock:
            if not stop.is_set() or answered:
                self._without_answer = 0 if answered else self._without_answer + 1
            gone = self._without_answer >= GIVE_UP_AFTER
        if gone and isinstance(outcome, Failure) and not stop.is_set():
            raise JudgeError(
                f"judge model {self} has left {GIVE_UP_AFTER} questions in a row without an answer (the last: "
                f"{outcome.detail or outcome.reason}); run again when it answers: stored judgements are not paid again"
            )
        return outcome

    def _ask(self, prompt: str, settings: Mapping[str, Any], stop: threading.Event, needs_positions: bool) -> Reply | Failure:
        failure = Failure("unavailable", "stopped")
        failed = retries = 0
        spent = Spending()
        patient_until = time.monotonic() + self._patience_seconds
        while not stop.is_set():
            with self._pace.turn(stop):
                if stop.is_set():
                    break
                adapted = self.adapted(settings)
                outcome = self._send(prompt, adapted)
            if isinstance(outcome, JudgeError):
                raise outcome
            if isinstance(outcome, Reply):
                spent += outcome.spent
                if outcome.positions is not None or not needs_positions:
                    return replace(outcome, spent=spent)
                outcome = Failure("no probabilities in the answer", ""), None
            else:
                spent += Spending(requests=1)
            failure, server_wait = replace(outcome[0], spent=spent), outcome[1]
            if failure.rejected:
                if self.learn(failure.detail, adapted):
                    continue
                return failure
            pause = min(60.0, self._backoff_seconds * 2 ** min(failed, 30)) * random.uniform(0.5, 1.0)  # noqa: S311
            wait = pause if server_wait is None else server_wait
            failed += 1
            busy = failure.put_off or server_wait is not None
            if not busy or time.monotonic() + wait >= patient_until:
                retries += 1
                if retries > self._max_retries:
                    return failure
            self._tell(failure, wait)
            if server_wait is None:
                stop.wait(pause)
        return failure

    def _send(self, prompt: str, settings: Mapping[str, Any]) -> Reply | tuple[Failure, float | None] | JudgeError:
        """Send one request; errors come back as values, so that none drags a request with its key along."""
        import openai

        self._count(Spending(requests=1))
        try:
            answer = self.connection.request("POST", "/chat/completions", self.body(prompt, settings))
        except openai.APIStatusError as error:
            failure = refused(error, self, self.url, self._key)
            return failure if isinstance(failure, JudgeError) else (failure, self._held(failure, error))
        except TimeoutError:
            return Failure("unavailable", f"no whole answer within {self._timeout_seconds:g} s"), None
        except openai.APIConnectionError as error:
            return unconnected(error.__cause__ or error, self.url, self._key), None
        except openai.OpenAIError as error:
            return Failure("unavailable", fit_to_show(str(error), self._key)), None
        found = read_completion(answer.content)
        self._pace.note(answer.headers, found.prompt_tokens + found.completion_tokens if found else None)
        if found is None:
            return Failure("unavailable", "the server's answer is not a chat completion"), None
        tokens = Spending(0, found.prompt_tokens, found.completion_tokens, found.cached_tokens)
        self._count(tokens)
        return Reply(self._key.blotted_out(found.text), found.positions, tokens + Spending(requests=1))

    def body(self, prompt: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body of the request that asks one question, in settings that were `adapted`."""
        return {"model": self.model, "messages": [{"role": "user", "content": prompt}], **settings}

    def _held(self, failure: Failure, error: openai.APIStatusError) -> float | None:
        """Hold everybody back for as long as the server asks to be left alone; return the seconds."""
        wait = asked_wait_seconds(error.response.headers) if not failure.rejected else None
        if wait is not None:
            wait = min(max(wait, self._backoff_seconds), LONGEST_WAIT_SECONDS) * random.uniform(1.0, 1.1)  # noqa: S311
            self._pace.hold(wait)
        return wait

    def _tell(self, failure: Failure, wait: float) -> None:
        """Say that there is a long wait, once while it lasts, so that nobody takes it for a hang."""
        now = time.monotonic()
        with self._lock:
            if wait < WORTH_TELLING_SECONDS or now < self._told_until:
                return
            self._told_until = now + max(wait, 60.0)
        _log.warning(
            "judge model %s does not answer (%s); asking again in %.0f s", self, failure.detail or failure.reason, wait
        )

    def adapted(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Word the settings as this server takes them."""
        adapted = {name: value for name, value in settings.items() if name not in self._not_taken}
        if "max_tokens" in self._not_taken:
            adapted["max_completion_tokens"] = max(THINKING_TOKENS, int(settings.get("max_tokens", 0)))
        return adapted

    def learn(self, said: str, sent: Mapping[str, Any]) -> bool:
        """Note a setting that the server says it does not take and that can be left out; True when there is one."""
        if not _NOT_TAKEN.search(said):
            return False
        named = {name for name in ("max_tokens", "temperature", "seed") if re.search(rf"\b{name}\b", said)} & sent.keys()
        with self._lock:
            self._not_taken |= named
        return bool(named)

    def _count(self, spent: Spending) -> None:
        with self._lock:
            self._spent += spent
