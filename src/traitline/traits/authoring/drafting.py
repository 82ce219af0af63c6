"""Draft a trait part by part: ask, read, ask again for what is missing, and keep every usable text at once.

Knows tries, the budget of requests, and when to stop: an answer without JSON, a refusal or a server that is away is asked again
a few times; texts that are unfit are asked for again with the reason; what has a flaw is used only where nothing better came.
Every request is counted. Leaves the parts to `parts.py`, the model to `writers.py`, and the draft's file to `sheet.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from traitline.traits.authoring.answers import find_json, quoted, refuses
from traitline.traits.authoring.part import Part
from traitline.traits.authoring.parts import parts
from traitline.traits.authoring.prompts import again
from traitline.traits.authoring.sheet import Sheet
from traitline.traits.authoring.writers import DraftError, UnansweredError, Writer

TRIES = 3
"""How often one thing is asked for before it is given up, or taken as it is."""
MAX_REQUESTS = 150
ABSENCES = 5
"""How often in a row a server may fail to answer."""
LONGEST_PAUSE_SECONDS = 30.0

Progress = Callable[[str, int], None]
"""Called with the part in work and how many of the planned requests it has settled."""


def requests_needed(sheet: Sheet, *, review: bool) -> int:
    """Return how many requests a draft still needs if every answer can be used."""
    return sum(_needed(part, sheet) for part in parts(review=review))


@dataclass
class Drafter:
    """One call of drafting.

    Attributes:
        sheet: the draft, filled as it goes.
        path: its file.
        writer: who answers.
        max_requests: after how many requests this call stops.
        review: whether the model looks its draft over.
        tries: how often one thing is asked for.
        seed: of the sampling.
        progress: told of every answer.
        backoff_seconds: the pause after a first failure of the server; it doubles.
        requests: those made by this call.
        skipped: optional parts that came to nothing.
    """

    sheet: Sheet
    path: Path
    writer: Writer
    max_requests: int = MAX_REQUESTS
    review: bool = True
    tries: int = TRIES
    seed: int = 0
    progress: Progress = lambda _what, _settled: None
    backoff_seconds: float = 1.0
    requests: int = 0
    skipped: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Write whatever is missing.

        Raises:
            DraftError: the model or its server gives nothing that can be used, or the budget is spent; the draft is kept.
        """
        if self.writer.name not in self.sheet.models[-1:]:
            self.sheet.models = [*(one for one in self.sheet.models if one != self.writer.name), self.writer.name]
        try:
            for part in parts(review=self.review):
                self.progress(part.title, 0)
                self._attempt(part)
        finally:
            if self.path.exists():
                self.sheet.save(self.path)  # with the requests that brought nothing

    def _attempt(self, part: Part) -> None:
        """Write a part; an optional one may come to nothing."""
        try:
            self._write(part)
        except _NothingUsableError as error:
            if not part.optional:
                raise DraftError(f"{error}; {self._kept()}") from None
            self.skipped.append(part.title)
            self.progress(part.title, _needed(part, self.sheet))

    def _write(self, part: Part) -> None:
        """Ask for a part until nothing of it is missing, or no more comes."""
        complaints: list[str] = []
        spare: list[Any] = []
        fruitless = unreadable = turn = 0
        while missing := part.missing(self.sheet):
            n = min(part.at_once, missing)
            answer = self._ask(part, part.prompt(self.sheet, n, turn) + again(complaints))
            found, turn = find_json(answer), turn + 1
            if found is None:
                unreadable += 1
                if unreadable >= self.tries:
                    raise _NothingUsableError(self._says(part, answer, unreadable))
                complaints = ["it was not one JSON object of the form asked for; write that and nothing before or after it"]
                continue
            unreadable, reading = 0, part.read(self.sheet, found)
            self._keep(part, reading.taken[:missing])
            spare += reading.spare
            enough = len(reading.taken) >= n
            fruitless = 0 if 2 * len(reading.taken) >= n else fruitless + 1
            complaints = [] if enough else [*reading.complaints, *_too_few(part, len(reading.taken), n)]
            if fruitless >= self.tries:
                self._keep(part, part.read(self.sheet, spare).spare[: part.missing(self.sheet)])
                if part.missing(self.sheet) and not part.usable(self.sheet):
                    raise _NothingUsableError(self._says(part, answer, fruitless, complaints))
                return  # some of it may still be missing, which the check will tell

    def _keep(self, part: Part, items: list[Any]) -> None:
        before = _needed(part, self.sheet)
        if items:
            part.add(self.sheet, items)
            self.sheet.save(self.path)
        self.progress(part.title, before - _needed(part, self.sheet))

    def _ask(self, part: Part, prompt: str) -> str:
        """Have one prompt answered, with patience for a server that is away."""
        absences = 0
        while True:
            if self.requests >= self.max_requests:
                left = requests_needed(self.sheet, review=self.review)
                raise DraftError(
                    f"the {self.max_requests} requests of --max-requests are spent, and at least {left} more are needed; "
                    f"{self._kept()}"
                )
            self.requests += 1
            self.sheet.requests += 1
            try:
                return self.writer.write(prompt, self.seed + self.sheet.requests)
            except UnansweredError as error:
                absences += 1
                if not error.passing or absences >= ABSENCES:
                    times = f", asked {absences} times" if absences > 1 else ""
                    raise DraftError(f"{part.title}: {error}{times}; {self._kept()}") from None
                time.sleep(min(LONGEST_PAUSE_SECONDS, self.backoff_seconds * 2 ** (absences - 1)))
            except DraftError as error:
                raise DraftError(f"{error}; {self._kept()}") from None

    def _says(self, part: Part, answer: str, tries: int, complaints: list[str] | None = None) -> str:
        """Say why a part came to nothing, in the model's own words."""
        if complaints:
            return f"{part.title}: nothing in {tries} answers of {self.writer.name} can be used ({'; '.join(complaints[:3])})"
        if refuses(answer):
            return (
                f"{part.title}: {self.writer.name} refuses ({tries} tries); it says {quoted(answer)}. Describe the trait by "
                "everyday attitudes and deeds, or take another model with --with"
            )
        return (
            f"{part.title}: the model's answer is no JSON after {tries} tries; {self.writer.name} says {quoted(answer)}. Take "
            "a model that follows instructions better with --with"
        )

    def _kept(self) -> str:
        if not self.path.exists():
            return "nothing was drafted yet"
        return f"what was drafted is kept in {str(self.path)!r}, and the same command goes on with it"


class _NothingUsableError(Exception):
    """A part came to nothing."""


def _needed(part: Part, sheet: Sheet) -> int:
    return math.ceil(part.missing(sheet) / part.at_once)


def _too_few(part: Part, given: int, n: int) -> list[str]:
    return [f"{given} of the {n} that were asked for could be used; {n - given} are missing"] if part.at_once > 1 else []
