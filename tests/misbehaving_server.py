"""A chat server on the loopback that misbehaves as told, request by request, and counts what it answered.

`MisbehavingServer.plan` chooses one of `WAYS`, or "answer", for every request. Every number it gives follows from the prompt
alone, so that a well-behaved server and a misbehaving one must lead to the same scores. It repeats the key it was sent wherever
it can: in headers, in messages and in texts.
"""

from __future__ import annotations

import email.utils
import hashlib
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Plan = Callable[[str, int], str]
"""A prompt, and how often it was asked before -> "answer" or one of `WAYS`."""

DRIP_SECONDS = 0.05


class MisbehavingServer:
    """Answers at `url` until closed; usable as a context manager.

    Attributes:
        asked: requests by prompt.
        completed: whole and readable answers by prompt: what a service would charge for.
        keys: the keys that came with requests.
    """

    handler: type[_Handler]

    def __init__(self, plan: Plan = lambda prompt, nth: "answer") -> None:
        self.plan = plan
        self.asked: Counter[str] = Counter()
        self.completed: Counter[str] = Counter()
        self.keys: set[str] = set()
        self.lock = threading.Lock()
        self.closing = threading.Event()
        handler = type("Handler", (self.handler,), {"owner": self})
        self._http = _Http(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def __enter__(self) -> MisbehavingServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def requests(self) -> int:
        return sum(self.asked.values())


class _Http(ThreadingHTTPServer):
    request_queue_size = 64
    daemon_threads = True


def number_for(prompt: str) -> int:
    """The number that the server mostly gives to a prompt; a request to repeat a number gets that number."""
    if prompt.startswith("Repeat"):
        return int(prompt.split()[-1])
    return hashlib.sha256(prompt.encode()).digest()[0] % 101


def odds_for(prompt: str) -> dict[int, float]:
    """The probabilities of the numbers that the server gives to a prompt."""
    number = number_for(prompt)
    return {number: 0.75, (number + 7) % 101: 0.2}


def chat_completion(prompt: str, *, probabilities: bool, text: str | None = None) -> dict[str, Any]:
    odds = [{"token": str(number), "logprob": math.log(p)} for number, p in odds_for(prompt).items()]
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text or odds[0]["token"]},
        "logprobs": {"content": [{**odds[0], "top_logprobs": odds}]} if probabilities else None,
    }
    usage = {"prompt_tokens": 11, "completion_tokens": 1, "total_tokens": 12}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "tiny", "choices": [choice], "usage": usage}


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    owner: MisbehavingServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.prompt: str = self.body["messages"][0]["content"]
        with self.owner.lock:
            self.owner.keys.add(self.key)
            nth = self.owner.asked[self.prompt]
            self.owner.asked[self.prompt] += 1
        try:
            WAYS[self.owner.plan(self.prompt, nth)](self)
        except OSError:  # the judge has hung up
            self.close_connection = True

    def send(self, status: int, data: bytes, headers: Mapping[str, str] | None = None, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("X-Echo", self.key)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length or len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


MisbehavingServer.handler = _Handler
Way = Callable[[_Handler], None]


def _answer(handler: _Handler, **changes: Any) -> None:
    body = chat_completion(handler.prompt, probabilities=bool(handler.body.get("logprobs"))) | changes
    handler.send(200, json.dumps(body).encode())
    with handler.owner.lock:
        handler.owner.completed[handler.prompt] += 1


def _error(status: int, headers: Callable[[], Mapping[str, str]] = dict) -> Way:
    def send(handler: _Handler) -> None:
        message = f"no, {handler.key}, not now"
        handler.send(status, json.dumps({"error": {"message": message, "code": None}}).encode(), headers())

    return send


def _content(make: Callable[[_Handler], bytes], headers: Mapping[str, str] | None = None, status: int = 200) -> Way:
    return lambda handler: handler.send(status, make(handler), headers)


def redirection(status: int, to: str) -> Way:
    """Send the client elsewhere; `{key}` in `to` stands for the key it sent."""
    return lambda handler: handler.send(status, b"", {"Location": to.replace("{key}", handler.key)})


def _without(field: str, value: Any) -> Callable[[_Handler], bytes]:
    return lambda handler: json.dumps(chat_completion(handler.prompt, probabilities=False) | {field: value}).encode()


def _half(handler: _Handler) -> None:
    data = json.dumps(chat_completion(handler.prompt, probabilities=True)).encode()
    handler.send(200, data[: len(data) // 2], length=len(data))
    handler.close_connection = True


def _drop(handler: _Handler) -> None:
    handler.close_connection = True


def _not_a_status(handler: _Handler) -> None:
    handler.wfile.write(f"HTTP/1.1 {handler.key}\r\n\r\n".encode())
    handler.close_connection = True


def _hang(handler: _Handler) -> None:
    handler.owner.closing.wait(60)
    handler.close_connection = True


def _drip(data: bytes) -> Way:
    """Send some bytes at once, then a blank now and then, for ever."""

    def send(handler: _Handler) -> None:
        handler.wfile.write(data)
        while not handler.owner.closing.wait(DRIP_SECONDS):
            handler.wfile.write(b" ")
        handler.close_connection = True

    return send


def _in_a_second() -> Mapping[str, str]:
    return {"Retry-After": email.utils.formatdate(math.ceil(time.time()), usegmt=True)}


_USED_UP = {
    "x-ratelimit-remaining-requests": "0",
    "x-ratelimit-reset-requests": "150ms",
    "x-ratelimit-remaining-tokens": "90000",
    "x-ratelimit-reset-tokens": "6m0s",
}

PASSING: dict[str, Way] = {
    "429, in seconds": _error(429, lambda: {"Retry-After": "0.15"}),
    "429, with a date": _error(429, _in_a_second),
    "429, reset headers": _error(429, lambda: _USED_UP),
    "429, no headers": _error(429),
    "500": _error(500),
    "502": _error(502),
    "503": _error(503),
    "not JSON": _content(lambda _: b"\xff\xfe{{{"),
    "HTML": _content(lambda _: b"<html><body>We are busy</body></html>"),
    "another JSON": _content(lambda _: b'[{"choices": 1}]'),
    "choices of another kind": _content(_without("choices", {"message": {"content": "42"}})),
    "a choice without message": _content(_without("choices", [{"index": 0, "message": None}])),
    "empty choices": _content(_without("choices", [])),
    "no logprobs": _content(lambda h: json.dumps(chat_completion(h.prompt, probabilities=False)).encode()),
    "not gzip": _content(lambda _: b"plain", {"Content-Encoding": "gzip"}),
    "empty": _content(lambda _: b""),
    "half a body": _half,
    "dropped": _drop,
    "not a status": _not_a_status,
    "hang": _hang,
    "drip": _drip(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"),
    "drip within the headers": _drip(b"HTTP/1.1 200 OK\r\nX-Slow: "),
}
"""What may go by: asking again can help."""

FINAL: dict[str, Way] = {"401": _error(401), "403": _error(403), "404": _error(404)}
"""What no row can survive."""

WAYS: dict[str, Way] = {
    "answer": _answer,
    "answer without accounts": lambda handler: _answer(handler, usage={"prompt_tokens": None, "completion_tokens": -1}),
    "answer with the key": lambda handler: handler.send(
        200,
        json.dumps(chat_completion(handler.prompt, probabilities=False, text=f"42 is my answer to {handler.key}")).encode(),
    ),
    "429, in a day": _error(429, lambda: {"Retry-After": "86400"}),
    "403, flagged": _content(lambda h: json.dumps({"error": {"message": "your input was flagged"}}).encode(), status=403),
    **PASSING,
    **FINAL,
}
