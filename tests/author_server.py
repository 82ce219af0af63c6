"""A chat server on the loopback that writes trait drafts, well or as badly as told.

`AuthorServer.say` is given each prompt, its number and a good answer to it, and returns what the model says, or one of
`misbehaving_server.WAYS` as `Way(name)`. Good answers are invented words, in the form that the prompt asks for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

from misbehaving_server import WAYS, MisbehavingServer, _Handler, chat_completion

SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]


class Way(str):
    """A way to misbehave instead of an answer."""

    __slots__ = ()


Say = Callable[[str, int, str], str]
"""The prompt, how many came before it, and a good answer -> what the model says."""


class AuthorServer(MisbehavingServer):
    """Answers at `url` until closed.

    Attributes:
        prompts: what was asked, in order.
    """

    def __init__(self, say: Say = lambda prompt, number, good: good) -> None:
        self.say = say
        self.prompts: list[str] = []
        self.author = Author()
        super().__init__()


class Author:
    """Writes good answers: every text of words that no other text has."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = Random(seed)  # noqa: S311 - invented words, no secrets

    def words(self, n: int) -> str:
        return " ".join("".join(self._rng.choices(SYLLABLES, k=4)) for _ in range(n))

    def answer(self, prompt: str) -> str:
        if "levels" in (form := wanted(prompt)):
            levels = {level: f"It is {self.words(3)}." for level in ("0", "25", "50", "75", "100")}
            return json.dumps(
                {"looks_for": f"Look for {self.words(4)}.", "ignores": f"Ignore {self.words(4)}.", "levels": levels}
            )
        if "facets" in form:
            return json.dumps({"facets": {f"kind_{i}": f"It shows in {self.words(4)}." for i in "abcd"}})
        if "contrasts" in form:
            return json.dumps({"contrasts": [self.contrast(prompt) for _ in range(number_wanted(prompt))]})
        if "questions" in form:
            return json.dumps({"questions": [self.question(prompt) for _ in range(number_wanted(prompt))]})
        if "cannot_show" in form:
            return json.dumps({"cannot_show": [2], "gives_away": [], "harmful": []})
        return json.dumps({"scores": "gloom"} if "scores" in form else {"description": f"Whoever {self.words(12)}."})

    def contrast(self, prompt: str) -> dict[str, str]:
        frame = "Alex, when asked, {}."
        if "two short scenes" in prompt:
            frame = "Mona: Who comes?\nAlex: Somebody {}.\n\nTeo: And then?\nAlex: Nobody knows."
        elif "two short paragraphs" in prompt:
            frame = "One day Alex {}.\n\nThe next day Alex slept."
        return {side: frame.format(self.words(6)) for side in ("positive", "negative")}

    def question(self, prompt: str) -> str:
        if "user puts to an assistant" in prompt:
            return f"What about {self.words(5)}?"
        if "openings of a scene" in prompt:
            return f"Mona: I saw {self.words(5)}.\nAlex:"
        return f"When {self.words(5)}, Alex"


def wanted(prompt: str) -> dict[str, Any]:
    """Return the form in which a prompt wants its answer."""
    form: dict[str, Any] = json.JSONDecoder().raw_decode(prompt, prompt.index("in this form: ") + len("in this form: "))[0]
    return form


def number_wanted(prompt: str) -> int:
    """Return how many items a prompt asks for."""
    found = re.search(r"Write (\d+|one) (?:pair|question|opening)", prompt)
    assert found, prompt
    return 1 if found[1] == "one" else int(found[1])


class _AuthorHandler(_Handler):
    owner: AuthorServer

    def do_POST(self) -> None:  # noqa: N802
        self.key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.prompt = self.body["messages"][0]["content"]
        with self.owner.lock:
            self.owner.keys.add(self.key)
            number = len(self.owner.prompts)
            self.owner.prompts.append(self.prompt)
            said = self.owner.say(self.prompt, number, self.owner.author.answer(self.prompt))
        try:
            if isinstance(said, Way):
                WAYS[said](self)
            else:
                self.send(200, json.dumps(chat_completion(self.prompt, probabilities=False, text=said or " ")).encode())
        except OSError:
            self.close_connection = True


AuthorServer.handler = _AuthorHandler
