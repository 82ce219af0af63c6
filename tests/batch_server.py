"""A server with files and batches on the loopback, whose batches end as told and whose answers get lost as told.

`BatchServer.fates` says how the batches end, in the order in which they are made; `BatchServer.trouble` is asked how each
request about files and batches is answered. `completed` counts every line that was worked on: what a service would charge for.
"""

from __future__ import annotations

import email
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from misbehaving_server import WAYS, MisbehavingServer, _Handler, chat_completion

Trouble = Callable[[str, str, int], str]
"""HTTP's method, the path without ids, and how often it was asked before -> "answer", one of `WAYS`, or "do it and drop"."""


class BatchServer(MisbehavingServer):
    """Answers chats, takes files and makes batches.

    Attributes:
        batches: what was made, as the server describes it.
        files: content by id.
        polls: how often a batch is looked at before it ends.
        held: as long as it is cleared, no batch ends.
        reached: set when a request hangs, or a batch that is held is looked at.
    """

    def __init__(self) -> None:
        self.fates: list[str] = []
        self.trouble: Trouble = lambda method, path, nth: "answer"
        self.batches: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.polls = 1
        self.held = threading.Event()
        self.held.set()
        self.seen: Counter[str] = Counter()
        self.looked: Counter[str] = Counter()
        self.reached = threading.Event()
        super().__init__()

    def make(self, body: dict[str, Any]) -> dict[str, Any]:
        number = len(self.batches)
        lines = self.files[body["input_file_id"]].splitlines()
        batch = {
            "id": f"batch_{number}",
            "object": "batch",
            "status": "in_progress",
            "input_file_id": body["input_file_id"],
            "created_at": int(time.time()),
            "metadata": body.get("metadata"),
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
            "output_file_id": None,
            "error_file_id": None,
            "errors": None,
        }
        self.batches[batch["id"]] = batch
        return batch

    def end(self, batch: dict[str, Any]) -> None:
        """Let a batch end as it is fated to."""
        number = int(batch["id"].partition("_")[2])
        fate = self.fates[number] if number < len(self.fates) else "complete"
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        worked = {"expire": lines[::2], "cancel": lines[::2], "expire at once": [], "fail": [], "token limit": []}.get(
            fate, lines
        )
        answered, errors = [], []
        for nth, line in enumerate(worked):
            answer = self.work(line, fate, nth)
            (answered if answer["response"] and answer["response"]["status_code"] == 200 else errors).append(answer)
        for line in lines if fate.startswith("expire") else []:
            if line not in worked:
                error = {"code": "batch_expired", "message": "not worked on in time"}
                errors.append({"id": "x", "custom_id": line["custom_id"], "response": None, "error": error})
        batch["request_counts"]["completed"] = len(answered)
        if fate == "lose lines":
            answered = answered[::2]
        if fate == "answer twice":
            answered += answered[::3]
        ends = {"expire": "expired", "expire at once": "expired", "cancel": "cancelled"}
        batch["status"] = ends.get(fate, "failed" if fate in {"fail", "token limit"} else "completed")
        if batch["status"] == "failed":
            code = "token_limit_exceeded" if fate == "token limit" else "invalid_url"
            batch["errors"] = {
                "object": "list",
                "data": [{"code": code, "message": f"the batch is no good: {code}", "line": None}],
            }
        for name, found in (("output_file_id", answered), ("error_file_id", errors)):
            if found:
                file = f"file-{batch['id']}-{name[:5]}"
                self.files[file] = b"".join(json.dumps(one).encode() + b"\n" for one in found)
                batch[name] = file

    def work(self, line: dict[str, Any], fate: str, nth: int) -> dict[str, Any]:
        settings, prompt = line["body"], line["body"]["messages"][0]["content"]
        status, body = 200, chat_completion(prompt, probabilities=bool(settings.get("logprobs")))
        if fate == "errors in lines" and nth % 3 == 0:
            status, body = 500, {"error": {"message": "a line went wrong"}}
        elif fate == "refuse some" and nth % 3 == 0:
            status, body = 400, {"error": {"message": "this text is not for us", "code": "invalid_prompt"}}
        elif fate == "no max_tokens" and "max_tokens" in settings:
            status, body = 400, {"error": {"message": "Unsupported parameter: 'max_tokens'", "code": "unsupported_parameter"}}
        elif fate == "no logprobs in some" and nth % 3 == 0:
            body = chat_completion(prompt, probabilities=False)
        if status == 200:
            self.completed[prompt] += 1
        response = {"status_code": status, "request_id": "r", "body": body}
        return {"id": "x", "custom_id": line["custom_id"], "response": response, "error": None}


class _BatchHandler(_Handler):
    owner: BatchServer

    def do_POST(self) -> None:  # noqa: N802
        path = self.path.removeprefix("/v1").partition("?")[0]
        if path.startswith("/chat"):
            super().do_POST()
            return
        self.key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.answered("POST", path, lambda: self.posted(path, data))

    def do_GET(self) -> None:  # noqa: N802
        self.key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        path = self.path.removeprefix("/v1").partition("?")[0]
        self.answered("GET", path, lambda: self.got(path))

    def answered(self, method: str, path: str, answer: Callable[[], bytes]) -> None:
        kind = "/".join(part for part in path.split("/") if "_" not in part and "-" not in part)
        with self.owner.lock:
            self.owner.keys.add(self.key)
            nth = self.owner.seen[f"{method} {kind}"]
            self.owner.seen[f"{method} {kind}"] += 1
        way = self.owner.trouble(method, kind, nth)
        try:
            if way in {"answer", "do it and drop", "do it and hang"}:
                with self.owner.lock:
                    content = answer()
                if way == "do it and hang":
                    self.owner.reached.set()
                    self.owner.closing.wait(60)
                if way == "answer":
                    self.send(200, content)
                else:
                    self.close_connection = True
            elif way == "half the lines":
                with self.owner.lock:
                    content = answer()
                self.send(200, content[: len(content) // 2])
            else:
                if way == "hang":
                    self.owner.reached.set()
                self.prompt, self.body = "", {}
                WAYS[way](self)
        except OSError:
            self.close_connection = True

    def posted(self, path: str, data: bytes) -> bytes:
        if path == "/files":
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            parts = {
                part.get_param("name", header="content-disposition"): part
                for part in email.message_from_bytes(head + data).walk()
            }
            assert parts["purpose"].get_payload() == "batch"
            content = parts["file"].get_payload(decode=True)
            assert isinstance(content, bytes)
            self.owner.files[f"file-in-{len(self.owner.files)}"] = content
            return json.dumps({"id": list(self.owner.files)[-1], "object": "file"}).encode()
        assert path == "/batches"
        return json.dumps(self.owner.make(json.loads(data))).encode()

    def got(self, path: str) -> bytes:
        parts = path.strip("/").split("/")
        if parts[0] == "files":
            return self.owner.files[parts[1]]
        if len(parts) == 1:
            shown = list(reversed(self.owner.batches.values()))
            return json.dumps({"object": "list", "data": shown, "has_more": False}).encode()
        batch = self.owner.batches[parts[1]]
        self.owner.looked[parts[1]] += 1
        if batch["status"] == "in_progress" and self.owner.looked[parts[1]] > self.owner.polls and self.owner.held.is_set():
            self.owner.end(batch)
        elif self.owner.looked[parts[1]] > self.owner.polls:
            self.owner.reached.set()
        return json.dumps(batch).encode()


BatchServer.handler = _BatchHandler
