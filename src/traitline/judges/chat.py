"""One OpenAI-compatible chat server: a question goes in, a short answer with its token probabilities comes out.

Knows the `openai` client, keys, addresses, retries and what each failure means to a user. Leaves reading an answer to
`completion.py` and `numbers.py`, and to `openai.py` what is asked. The client's own retries are off: here they are counted,
jittered, stopped when the caller gives up, and a wait that a server asks for holds back every thread, not one.

Requests run on an event loop of their own, which can drop one at any moment: a server that sends a byte now and then cannot
keep a request alive beyond its time, as it could with a timeout between bytes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import re
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from traitline.errors import InputError, JudgeError
from traitline.judges.completion import read_completion
from traitline.judges.numbers import Position
from traitline.judges.secrets import Key, keep_out_of_logs
from traitline.judges.waits import asked_wait_seconds

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
        timeout_seconds: how long one request may take, from connecting (half of it at most) to the answer's last byte.
        backoff_seconds: the wait before the first retry; it doubles from one to the next, up to a minute, less a jitter.
        patience_seconds: how long one question may be put off by a server that says when to come back; only then does being
            put off count as a failure.

    Raises:
        JudgeError: OPENAI_API_KEY is not set and the server is not on this machine.
        InputError: an address that is none.
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
        import openai

        self.model = model
        self.url = (base_url or os.environ.get(URL_VARIABLE, "").strip() or DEFAULT_URL).rstrip("/")
        local = _on_this_machine(self.url)
        self._key = _key(self.url, local)
        self._client = openai.AsyncOpenAI(
            api_key=self._key.reveal() or "none",
            base_url=self.url,
            timeout=openai.Timeout(timeout_seconds, connect=timeout_seconds / 2),
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(trust_env=False) if local else None,
        )
        keep_out_of_logs(self._key)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(self._loop,), name="traitline-requests", daemon=True)
        self._thread.start()
        self._end = weakref.finalize(self, _end, self._loop, self._client)
        self._timeout_seconds = timeout_seconds
        self._patience_seconds = patience_seconds
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
        self._end()
        self._thread.join(timeout=self._timeout_seconds)

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
            JudgeError: no question at all will be answered: wrong key, unknown model, no credit.
        """
        failure = Failure("unavailable", "stopped")
        retries = requests = 0
        patient_until = time.monotonic() + self._patience_seconds
        while not stop.is_set():
            self._wait_for_turn(stop)
            adapted = self._adapted(settings)
            requests += 1
            outcome = self._send(prompt, adapted, requests)
            if isinstance(outcome, JudgeError):
                raise outcome
            if isinstance(outcome, Reply):
                if outcome.positions is not None or not needs_positions:
                    return outcome
                outcome = Failure("no probabilities in the answer", ""), None
            failure, server_wait = outcome
            if failure.rejected:
                if self._learn(failure.detail, adapted):
                    continue
                return failure
            if server_wait is not None and time.monotonic() + server_wait < patient_until:
                continue
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
            content = asyncio.run_coroutine_threadsafe(self._post(prompt, settings), self._loop).result()
        except openai.APIStatusError as error:
            return self._refused(error)
        except TimeoutError:
            return Failure("unavailable", f"no whole answer within {self._timeout_seconds:g} s"), None
        except openai.APIConnectionError as error:
            kind = type(error.__cause__).__name__
            return Failure("unavailable", kind, unreachable=kind in {"ConnectError", "ConnectTimeout"}), None
        except openai.OpenAIError as error:
            return Failure("unavailable", self._clean(str(error))), None
        found = read_completion(content)
        if found is None:
            return Failure("unavailable", "the server's answer is not a chat completion"), None
        self._count(prompt_tokens=found.prompt_tokens, completion_tokens=found.completion_tokens)
        return Reply(self._key.blotted_out(found.text), found.positions, requests, found.prompt_tokens, found.completion_tokens)

    async def _post(self, prompt: str, settings: Mapping[str, Any]) -> bytes:
        """Return the body of the answer.

        Raises:
            TimeoutError: it was not there whole within `timeout_seconds`.
            OpenAIError: the server could not be reached, broke off, or refused.
        """
        create: Any = self._client.chat.completions.with_raw_response.create
        async with asyncio.timeout(self._timeout_seconds):
            raw = await create(model=self.model, messages=[{"role": "user", "content": prompt}], **settings)
        return bytes(raw.content)

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
        wait = asked_wait_seconds(error.response.headers)
        if wait is not None:
            wait = min(max(wait, self._backoff_seconds), LONGEST_WAIT_SECONDS) * random.uniform(1.0, 1.1)  # noqa: S311
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
        return " ".join(self._key.blotted_out(text).split())[:200]


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _end(loop: asyncio.AbstractEventLoop, client: openai.AsyncOpenAI) -> None:
    """Close the connections and stop the loop, without waiting for either: this may run on any thread."""

    async def close() -> None:
        await client.close()
        loop.stop()

    asyncio.run_coroutine_threadsafe(close(), loop)


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


def _key(url: str, local: bool) -> Key:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key and not local:
        raise JudgeError(
            f"the judge at {shown(url)} needs a key; set the environment variable {KEY_VARIABLE}, "
            f"or point {URL_VARIABLE} at a server on this machine"
        )
    if any(not "!" <= letter <= "~" for letter in key):
        raise JudgeError(f"{KEY_VARIABLE} holds blanks or letters that no key has; copy the key again")
    return Key(key)
