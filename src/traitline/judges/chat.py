"""One OpenAI-compatible chat server: a question goes in, a short answer with its token probabilities comes out.

Knows the `openai` client, keys, addresses, retries and what each failure means to a user. Leaves to `numbers.py` what an
answer says and to `openai.py` what is asked. The client's own retries are off: here they are counted, jittered, stopped when
the caller gives up, and a server's Retry-After holds back every thread, not one.
"""

from __future__ import annotations

import email.utils
import ipaddress
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from traitline.errors import InputError, JudgeError
from traitline.judges.numbers import Position

if TYPE_CHECKING:
    import openai

KEY_VARIABLE = "OPENAI_API_KEY"
URL_VARIABLE = "OPENAI_BASE_URL"
DEFAULT_URL = "https://api.openai.com/v1"
LONGEST_WAIT_SECONDS = 120.0
THINKING_TOKENS = 2048
"""What a server is allowed to spend that counts a model's thinking in the length of its answer."""

_PASSING = {408, 409, 425, 429}
_NOT_TAKEN = re.compile(r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|extra|not permitted|not allowed", re.I)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its text, its tokens (None where the server gave no probabilities), and what it cost."""

    text: str
    positions: tuple[Position, ...] | None
    requests: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer.

    Attributes:
        reason: a few words for a result table: `unavailable`, or `rejected (HTTP 400)`.
        detail: what the server or the connection said, shortened, without the key.
        rejected: the server took the request and would not answer it; asking again will not help.
        unreachable: nothing answered at the address.
    """

    reason: str
    detail: str
    rejected: bool = False
    unreachable: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What a judge has spent since it was made.

    Attributes:
        requests: HTTP requests sent, retries and probes included.
        cached: judgements taken from the cache instead.
        prompt_tokens: tokens sent, as the server counts them.
        completion_tokens: tokens received.
    """

    requests: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatServer:
    """A chat model on an OpenAI-compatible server. Safe to share between threads.

    Args:
        model: the name the server knows the model by.
        base_url: the server's address up to `/v1`; None reads OPENAI_BASE_URL, then falls back on OpenAI's own.
        max_retries: how often one question is asked again after a passing failure.
        timeout_seconds: how long a server may stay silent before a request counts as failed.
        backoff_seconds: the wait before the first retry; it doubles from one to the next, up to a minute, less a jitter.

    Raises:
        JudgeError: OPENAI_API_KEY is not set and the server is not on this machine.
        InputError: an address that is none.
    """

    def __init__(
        self, model: str, base_url: str | None, *, max_retries: int, timeout_seconds: float, backoff_seconds: float
    ) -> None:
        import openai

        self.model = model
        self.url = (base_url or os.environ.get(URL_VARIABLE, "").strip() or DEFAULT_URL).rstrip("/")
        local = _on_this_machine(self.url)
        self._key = _key(self.url, local)
        self._client = openai.OpenAI(
            api_key=self._key or "none",
            base_url=self.url,
            timeout=timeout_seconds,
            max_retries=0,
            http_client=openai.DefaultHttpxClient(trust_env=False) if local else None,
        )
        self._create: Callable[..., Any] = self._client.chat.completions.with_raw_response.create
        self._max_retries = max_retries
        self._backoff_seconds = backoff_seconds
        self._lock = threading.Lock()
        self._usage = Usage()
        self._hold_until = 0.0
        self._not_taken: frozenset[str] = frozenset()

    @property
    def usage(self) -> Usage:
        """What has been spent so far."""
        with self._lock:
            return self._usage

    def __repr__(self) -> str:
        return f"{self.model!r} at {shown(self.url)}"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, prompt: str, settings: Mapping[str, Any], stop: threading.Event) -> Reply | Failure:
        """Ask one question, with retries; give up early once `stop` is set.

        Args:
            prompt: what the model is told, as one user message.
            settings: further fields of the request, such as `max_tokens`.
            stop: set by the caller when it no longer wants an answer.

        Raises:
            JudgeError: no question at all will be answered: wrong key, unknown model, no credit.
        """
        failure = Failure("unavailable", "stopped")
        retries = 0
        requests = 0
        while not stop.is_set():
            self._wait_for_turn(stop)
            adapted = self._adapted(settings)
            requests += 1
            outcome = self._send(prompt, adapted, requests)
            if isinstance(outcome, Reply):
                return outcome
            if isinstance(outcome, JudgeError):
                raise outcome
            failure, server_wait = outcome
            if failure.rejected:
                if self._learn(failure.detail, adapted):
                    continue
                return failure
            retries += 1
            if retries > self._max_retries:
                return failure
            if server_wait is None:
                stop.wait(min(60.0, self._backoff_seconds * 2 ** (retries - 1)) * random.uniform(0.5, 1.0))  # noqa: S311
        return failure

    def _send(
        self, prompt: str, settings: Mapping[str, Any], requests: int
    ) -> Reply | tuple[Failure, float | None] | JudgeError:
        """Send one request; errors come back as values, so that none drags a request with its key along."""
        import openai

        self._count(requests=1)
        try:
            raw = self._create(model=self.model, messages=[{"role": "user", "content": prompt}], **settings)
            body = _Body.model_validate_json(raw.content)
        except openai.APIStatusError as error:
            return self._refused(error)
        except ValidationError:
            return Failure("unavailable", "the server's answer is not a chat completion"), None
        except openai.APIConnectionError as error:
            kind = type(error.__cause__).__name__
            return Failure("unavailable", kind, unreachable=kind in {"ConnectError", "ConnectTimeout"}), None
        except openai.OpenAIError as error:
            return Failure("unavailable", self._clean(str(error))), None
        tokens = body.usage or _Tokens()
        self._count(prompt_tokens=tokens.prompt_tokens, completion_tokens=tokens.completion_tokens)
        choice = body.choices[0]
        return Reply(choice.message.content or "", choice.positions(), requests, tokens.prompt_tokens, tokens.completion_tokens)

    def _refused(self, error: openai.APIStatusError) -> tuple[Failure, float | None] | JudgeError:
        """Tell what an HTTP error means: the end, a rejected question, or something to wait for."""
        status = error.status_code
        said = self._clean(error.message)
        remedy = {
            401: f"set {KEY_VARIABLE} to a key that this server accepts",
            402: "add credit to the account, then run again: stored judgements are not paid again",
            403: f"use a key ({KEY_VARIABLE}) that may use this model",
            404: f"check the model's name and the server's address ({URL_VARIABLE})",
        }.get(402 if error.code == "insufficient_quota" else status)
        if remedy is not None:
            return JudgeError(f"judge model {self} was refused with HTTP {status} ({said}); {remedy}")
        if status < 500 and status not in _PASSING:
            return Failure(f"rejected (HTTP {status})", said, rejected=True), None
        wait = _retry_after_seconds(error.response.headers)
        if wait is not None:
            wait = min(wait, LONGEST_WAIT_SECONDS) * random.uniform(1.0, 1.1)  # noqa: S311
            with self._lock:
                self._hold_until = max(self._hold_until, time.monotonic() + wait)
        return Failure("unavailable", f"HTTP {status}: {said}"), wait

    def _wait_for_turn(self, stop: threading.Event) -> None:
        while (wait := self._hold_until - time.monotonic()) > 0 and not stop.wait(wait):
            pass

    def _adapted(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Word the settings as this server takes them."""
        adapted = {name: value for name, value in settings.items() if name not in self._not_taken}
        if "max_tokens" in self._not_taken:
            adapted["max_completion_tokens"] = THINKING_TOKENS
        return adapted

    def _learn(self, said: str, sent: Mapping[str, Any]) -> bool:
        """Note a setting that the server says it does not take and that can be left out; True when there is one."""
        if not _NOT_TAKEN.search(said):
            return False
        named = {name for name in ("max_tokens", "temperature", "seed") if re.search(rf"\b{name}\b", said)} & sent.keys()
        with self._lock:
            self._not_taken |= named
        return bool(named)

    def _count(self, requests: int = 0, prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
        with self._lock:
            was = self._usage
            self._usage = Usage(
                was.requests + requests,
                0,
                was.prompt_tokens + prompt_tokens,
                was.completion_tokens + completion_tokens,
            )

    def _clean(self, text: str) -> str:
        text = text.replace(self._key, "[key]") if self._key else text
        return " ".join(text.split())[:200]


def shown(url: str) -> str:
    """Return an address fit for a message: without user, password or query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _on_this_machine(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in {"http", "https"}:
        raise InputError("the judge's base URL is not an http(s) address; give one such as http://localhost:8000/v1")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _key(url: str, local: bool) -> str:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key and not local:
        raise JudgeError(
            f"the judge at {shown(url)} needs a key; set the environment variable {KEY_VARIABLE}, "
            f"or point {URL_VARIABLE} at a server on this machine"
        )
    if any(not "!" <= letter <= "~" for letter in key):
        raise JudgeError(f"{KEY_VARIABLE} holds blanks or letters that no key has; copy the key again")
    return key


def _retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Read Retry-After: milliseconds or seconds from now, or a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "")
        try:
            seconds = float(text) * unit
        except ValueError:
            date = email.utils.parsedate_tz(text)
            if date is None:
                continue
            seconds = email.utils.mktime_tz(date) - time.time()
        if math.isfinite(seconds) and seconds > 0:
            return seconds
    return None


class _Alternative(BaseModel):
    token: str
    logprob: float

    @property
    def probability(self) -> float:
        return math.exp(min(self.logprob, 0.0)) if self.logprob == self.logprob else 0.0


class _Chosen(_Alternative):
    top_logprobs: list[_Alternative] | None = None

    def position(self) -> Position:
        listed = [(other.token, other.probability) for other in self.top_logprobs or []]
        own = [] if any(token == self.token for token, _ in listed) else [(self.token, self.probability)]
        return Position(self.token, tuple(own + listed))


class _Logprobs(BaseModel):
    content: list[_Chosen] | None = None


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    logprobs: _Logprobs | None = None

    def positions(self) -> tuple[Position, ...] | None:
        """The answer's tokens, or None where there are no probabilities of alternatives."""
        chosen = (self.logprobs.content if self.logprobs else None) or []
        if not any(token.top_logprobs for token in chosen):
            return None
        return tuple(token.position() for token in chosen)


class _Tokens(BaseModel):
    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)


class _Body(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Tokens | None = None
