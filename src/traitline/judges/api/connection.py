"""One connection to an OpenAI-compatible server: a request goes out with the key, and bytes and headers come back.

Knows the `openai` client. Its own retries are off (callers count theirs), and redirections are not followed: what is sent goes
to the given address and to no other. Leaves addresses to `address.py`, keys to `secrets.py`, what an error means to
`failures.py`, chat to `chat.py`, and files and batches to `provider.py`.

Requests run on an event loop of their own, which can drop one at any moment: a server that sends a byte now and then cannot
keep a request alive beyond its time, as it could with a timeout between bytes.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from traitline.errors import InputError, JudgeError
from traitline.judges.api.address import URL_VARIABLE, on_this_machine, server_url, shown
from traitline.judges.api.secrets import KEY_VARIABLE, keep_out_of_logs, key_from_environment

if TYPE_CHECKING:
    import openai


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the body, and headers by their name in lower case."""

    content: bytes
    headers: Mapping[str, str]


class Connection:
    """A client with its key. Safe to share between threads.

    Args:
        base_url: the server's address up to `/v1`; None reads OPENAI_BASE_URL, then falls back on OpenAI's own.
        timeout_seconds: how long one request may take, from connecting (half of it at most) to the answer's last byte.

    Attributes:
        url: the address.
        key: what no message may hold.

    Raises:
        JudgeError: OPENAI_API_KEY is not set and the server is not on this machine.
        InputError: an address that is none or holds a secret, or a proxy that is none.
    """

    def __init__(self, base_url: str | None, *, timeout_seconds: float) -> None:
        import openai

        self.url = server_url(base_url)
        self.timeout_seconds = timeout_seconds
        local = on_this_machine(self.url)
        self.key = key_from_environment()
        if not self.key and not local:
            raise JudgeError(
                f"the judge at {shown(self.url)} needs a key; set the environment variable {KEY_VARIABLE}, "
                f"or point {URL_VARIABLE} at a server on this machine"
            )
        try:
            self._client = openai.AsyncOpenAI(
                api_key=self.key.reveal() or "none",
                base_url=self.url,
                timeout=openai.Timeout(timeout_seconds, connect=timeout_seconds / 2),
                max_retries=0,
                http_client=openai.DefaultAsyncHttpxClient(trust_env=not local, follow_redirects=False),
            )
        except (ValueError, ImportError) as error:
            raise InputError(f"a proxy or a certificate that the environment names cannot be used: {error}") from None
        keep_out_of_logs(self.key)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(self._loop,), name="traitline-requests", daemon=True)
        self._thread.start()
        self._end = weakref.finalize(self, _end, self._loop, self._client)

    def close(self) -> None:
        """Close the connections."""
        self._end()
        self._thread.join(timeout=self.timeout_seconds)

    def request(
        self,
        method: Literal["GET", "POST"],
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        file: tuple[str, bytes] | None = None,
        timeout_seconds: float | None = None,
    ) -> Answer:
        """Send one request and return its answer.

        Args:
            method: HTTP's.
            path: what follows the address, with a query if wanted.
            body: fields, sent as JSON, or as a form beside a file.
            file: a name and the content of a file to upload.
            timeout_seconds: the time for this request, if not the connection's.

        Raises:
            TimeoutError: the answer was not there whole in time.
            openai.OpenAIError: the server could not be reached, broke off, or refused.
        """
        sent = self._send(method, path, body, file, timeout_seconds or self.timeout_seconds)
        return asyncio.run_coroutine_threadsafe(sent, self._loop).result()

    async def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, file: tuple[str, bytes] | None, seconds: float
    ) -> Answer:
        import openai

        kind = openai.HttpxBinaryResponseContent
        limit: Any = {"timeout": openai.Timeout(seconds, connect=seconds / 2)}
        async with asyncio.timeout(seconds):
            if method == "GET":
                answer = await self._client.get(path, cast_to=kind, options=limit)
            elif file is None:
                answer = await self._client.post(path, cast_to=kind, body=body, options=limit)
            else:
                form: Any = {**limit, "headers": {"Content-Type": "multipart/form-data"}}
                answer = await self._client.post(path, cast_to=kind, body=body, files={"file": file}, options=form)
        return Answer(bytes(answer.content), dict(answer.response.headers))


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _end(loop: asyncio.AbstractEventLoop, client: openai.AsyncOpenAI) -> None:
    """Close the connections and stop the loop, without waiting for either: this may run on any thread."""

    async def close() -> None:
        await client.close()
        loop.stop()

    asyncio.run_coroutine_threadsafe(close(), loop)
