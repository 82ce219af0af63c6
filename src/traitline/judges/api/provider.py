"""The batch endpoint of a provider: files go up, a batch is made of one, looked at, and its answers come down.

Knows `/files` and `/batches` as OpenAI has them, and how to bear a server that is away for a while. Leaves what is in the files
to `batch.py`, and what was submitted to `orders.py`. Every batch carries a tag in its metadata, by which it is found again
where nobody knows whether its submission arrived: a submission is never simply repeated.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from traitline.errors import JudgeError
from traitline.judges.api.address import shown
from traitline.judges.api.completion import read_completion
from traitline.judges.api.connection import Connection
from traitline.judges.api.failures import Failure, fit_to_show, refused, unconnected
from traitline.judges.api.waits import asked_wait_seconds
from traitline.judges.spending import Spending

TAG = "traitline"
TRANSFER_SECONDS = 600.0
SETTLING_SECONDS = 15.0
"""How long after its submission a batch may take to show in the provider's list."""

_LISTED = 100
_LONGEST_PAUSE_SECONDS = 60.0
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchState:
    """What a provider says of a batch.

    Attributes:
        id: what it calls it.
        status: its word for the state.
        total: requests in it.
        done: those that have an answer.
        files: the files with answers and with errors, as far as there are any.
        errors: (code, message) of what is wrong with the batch as a whole.
    """

    id: str
    status: str
    total: int
    done: int
    files: tuple[str, ...]
    errors: tuple[tuple[str, str], ...]

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.status in _ENDED


@dataclass(frozen=True, slots=True)
class Line:
    """What a batch says of one request.

    Attributes:
        key: the request's.
        status: HTTP's; 503 where it was never worked on.
        body: the answer.
        cost: what it cost.
        said: the message of an error.
        code: the server's own name for the error.
    """

    key: str
    status: int
    body: bytes
    cost: Spending
    said: str
    code: str | None


class RefusedError(JudgeError):
    """The provider does not take a batch."""


class Provider:
    """The batch endpoint of one server.

    Args:
        connection: to the server.
        backoff_seconds: the pause after a first failure; it doubles, up to a minute.
        patience_seconds: how long the server may be away before that is an error.
    """

    def __init__(self, connection: Connection, *, backoff_seconds: float, patience_seconds: float) -> None:
        self._connection = connection
        self._backoff_seconds = backoff_seconds
        self._patience_seconds = patience_seconds

    def __str__(self) -> str:
        return f"the batch endpoint at {shown(self._connection.url)}"

    def upload(self, name: str, content: bytes) -> str:
        """Upload a file of requests and return its id.

        Raises:
            JudgeError: the server refuses it or stays away.
        """
        return str(self._json("POST", "/files", {"purpose": "batch"}, file=(name, content))["id"])

    def create(self, file: str, tag: str) -> BatchState:
        """Submit a batch, exactly once: where it is not known whether that worked, it is looked for by its tag.

        Raises:
            RefusedError: the server does not take it, and there is no such batch.
            JudgeError: the server stays away.
        """
        body = {
            "input_file_id": file,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {TAG: tag},
        }
        for _ in range(3):
            sent = self._attempt("POST", "/batches", body)
            if isinstance(sent, bytes) and (state := self._state(sent)) is not None:
                return state
            if isinstance(sent, Failure) and (sent.rejected or sent.put_off):
                if sent.rejected:
                    raise RefusedError(
                        f"{self} does not take a batch ({sent.detail}); correct that, or leave judging.batch out"
                    )
                time.sleep(self._pause(2))
                continue
            if (found := self.find(tag, time.time())) is not None:
                return found
        raise JudgeError(f"{self} does not take a batch for now; run again when it does: stored judgements are not paid again")

    def find(self, tag: str, planned_at: float) -> BatchState | None:
        """Look for a batch by its tag.

        Args:
            tag: what its metadata say.
            planned_at: when it was about to be submitted, in seconds since 1970. A young one is waited for.

        Raises:
            JudgeError: the server has no list of batches, or stays away.
        """
        while True:
            for batch in self._listed(planned_at):
                if isinstance(metadata := batch.get("metadata"), dict) and metadata.get(TAG) == tag:
                    return _read_state(batch)
            if time.time() - planned_at > SETTLING_SECONDS:
                return None
            time.sleep(min(1.0, SETTLING_SECONDS))

    def state(self, batch: str) -> BatchState:
        """Return what the server says of a batch now.

        Raises:
            JudgeError: it knows no such batch, or stays away.
        """
        found = _read_state(self._json("GET", f"/batches/{batch}"))
        if found is None:
            raise JudgeError(f"{self} says nothing of use about batch {batch}; is it one as OpenAI's?")
        return found

    def content(self, file: str) -> bytes:
        """Return a file with answers, or nothing where the server has it no more.

        Raises:
            JudgeError: the server stays away.
        """
        return self._insist("GET", f"/files/{file}/content", absent=b"")

    def _listed(self, planned_at: float) -> Iterator[Mapping[str, Any]]:
        """Yield the batches the server lists, newest first, as far back as a day before `planned_at`."""
        after = ""
        while True:
            page = self._json("GET", f"/batches?limit={_LISTED}{after}")
            batches = [one for one in page.get("data") or [] if isinstance(one, dict)]
            yield from batches
            created = batches[-1].get("created_at") if batches else None
            if not batches or not page.get("has_more") or (isinstance(created, int) and created < planned_at - 86400):
                return
            after = f"&after={batches[-1].get('id')}"

    def _state(self, content: bytes) -> BatchState | None:
        try:
            body = json.loads(content)
        except ValueError:
            return None
        return _read_state(body) if isinstance(body, dict) else None

    def _json(self, method: Literal["GET", "POST"], path: str, body: Any = None, file: Any = None) -> dict[str, Any]:
        """Return an answer that is a JSON object, however often it takes to get one."""
        until = time.monotonic() + self._patience_seconds
        while True:
            try:
                found = json.loads(self._insist(method, path, body, file=file))
            except ValueError:
                found = None
            if isinstance(found, dict):
                return found
            if time.monotonic() > until:
                raise JudgeError(f"{self} answers {method} {path.partition('?')[0]} with something that is no JSON object")
            time.sleep(self._pause(1))

    def _insist(
        self, method: Literal["GET", "POST"], path: str, body: Any = None, *, file: Any = None, absent: bytes | None = None
    ) -> bytes:
        """Send a request until it is answered, as long as the server may be away; `absent` stands for HTTP 404."""
        until, failed = time.monotonic() + self._patience_seconds, 0
        while True:
            sent = self._attempt(method, path, body, file)
            if isinstance(sent, bytes):
                return sent
            if sent.rejected:
                if absent is not None and "404" in sent.reason:
                    _log.warning("%s has %s no more; what it held is asked again", self, path)
                    return absent
                raise JudgeError(f"{self} refuses {method} {path.partition('?')[0]}: {sent.reason}, {sent.detail}")
            pause = self._pause(failed)
            if time.monotonic() + pause > until:
                raise JudgeError(
                    f"{self} does not answer for now ({sent.detail}); run again when it does: what was submitted is found "
                    "again and not paid twice"
                )
            failed += 1
            time.sleep(pause)

    def _attempt(self, method: Literal["GET", "POST"], path: str, body: Any = None, file: Any = None) -> bytes | Failure:
        """Send a request once.

        Raises:
            JudgeError: no request will be answered: wrong key, no credit, a redirection.
        """
        import openai

        key, url = self._connection.key, self._connection.url
        try:
            return self._connection.request(method, path, body, file=file, timeout_seconds=TRANSFER_SECONDS).content
        except openai.APIStatusError as error:
            said = fit_to_show(error.message, key)
            if error.status_code == 404:
                return Failure("rejected (HTTP 404)", said or "not found", rejected=True)
            failure = refused(error, self, url, key)
            if isinstance(failure, JudgeError):
                raise failure from None
            wait = asked_wait_seconds(error.response.headers)
            if wait is not None and not failure.rejected:
                time.sleep(min(wait, _LONGEST_PAUSE_SECONDS))
            return failure
        except TimeoutError:
            return Failure("unavailable", f"no whole answer within {TRANSFER_SECONDS:g} s")
        except openai.APIConnectionError as error:
            return unconnected(error.__cause__ or error, url, key)
        except openai.OpenAIError as error:
            return Failure("unavailable", fit_to_show(str(error), key))

    def _pause(self, failed: int) -> float:
        longest: float = min(_LONGEST_PAUSE_SECONDS, self._backoff_seconds * 2 ** min(failed, 30))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311


def _read_state(body: Mapping[str, Any]) -> BatchState | None:
    """Return what a server's description of a batch says; None where it is not one."""
    if not isinstance(body.get("id"), str) or not isinstance(body.get("status"), str):
        return None
    counts = body.get("request_counts")
    counts = counts if isinstance(counts, dict) else {}
    errors = body.get("errors")
    listed = errors.get("data") if isinstance(errors, dict) else None
    return BatchState(
        id=body["id"],
        status=body["status"],
        total=_count(counts.get("total")),
        done=_count(counts.get("completed")),
        files=tuple(body[name] for name in ("output_file_id", "error_file_id") if isinstance(body.get(name), str)),
        errors=tuple(
            (str(one.get("code") or ""), str(one.get("message") or "")) for one in listed or [] if isinstance(one, dict)
        ),
    )


def read_line(text: bytes) -> Line | None:
    """Read one line of a file that a batch brought; None where it is none."""
    try:
        found = json.loads(text)
        key, response, error = found["custom_id"], found.get("response"), found.get("error")
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    if not isinstance(key, str):
        return None
    if not isinstance(response, dict) or not isinstance(response.get("status_code"), int):
        return Line(key, 503, b"", Spending(), *_told(error))
    body = response.get("body")
    content = json.dumps(body).encode()
    completion = read_completion(content)
    cost = Spending(1)
    if completion is not None:
        cost = Spending(1, completion.prompt_tokens, completion.completion_tokens, completion.cached_tokens)
    return Line(key, response["status_code"], content, cost, *_told(body.get("error") if isinstance(body, dict) else None))


def _told(error: Any) -> tuple[str, str | None]:
    """Return the message and the code of an error."""
    if not isinstance(error, dict):
        return "", None
    code = error.get("code")
    return str(error.get("message") or ""), str(code) if code else None


def _count(number: Any) -> int:
    return number if isinstance(number, int) and number > 0 else 0
