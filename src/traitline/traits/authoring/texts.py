"""The parts of a trait that are many texts: contrasts, and questions or openings, of one strategy.

Knows what every text must be (taken), what it had better be (spare: used only where nothing better comes), and how to say so
to a model. Leaves likeness and single texts to `fitness.py`, and wording to `prompts.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from traitline.traits.authoring import prompts
from traitline.traits.authoring.answers import listed, quoted, tidy
from traitline.traits.authoring.fitness import copies, named, speaker, unfit
from traitline.traits.authoring.part import Reading
from traitline.traits.authoring.sheet import Sheet, wanted_questions
from traitline.traits.check import CONTRASTS, lopsided
from traitline.traits.similarity import normalised
from traitline.traits.trait import Contrast

PERSON = "Alex"
LONGEST_QUESTION = 90
LONGEST_SIDE = 200
"""Words."""
QUESTIONS_AT_ONCE = 10
CONTRASTS_AT_ONCE = {"instruction": 5, "character": 5, "dialogue": 3, "story": 3}
MOST_READ = 40
"""Items that are looked at in one answer."""


@dataclass(frozen=True)
class Contrasts:
    """Pairs of opposite texts for one strategy."""

    strategy: str
    optional = False

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"the {self.strategy} contrasts"

    @property
    def at_once(self) -> int:
        """Items asked for in one request."""
        return CONTRASTS_AT_ONCE.get(self.strategy, 3)

    def missing(self, sheet: Sheet) -> int:
        """How many are still wanted."""
        return max(0, CONTRASTS - len(sheet.contrasts.get(self.strategy, ())))

    def prompt(self, sheet: Sheet, n: int, turn: int) -> str:
        """Ask for `n` more."""
        there = [one.positive for one in sheet.contrasts.get(self.strategy, ())]
        return prompts.contrasts_prompt(sheet.name, sheet.description, self.strategy, n, there)

    def read(self, sheet: Sheet, found: Any) -> Reading:
        """Read what was found in an answer."""
        items = listed([found] if isinstance(found, dict) and "positive" in found else found, "contrasts")
        if items is None:
            return Reading(complaints=["there is no list of contrasts"])
        reading, there = Reading(), list(sheet.contrasts.get(self.strategy, ()))
        long = self.strategy in ("dialogue", "story")
        for i, item in enumerate(items[:MOST_READ], 1):
            sides = [tidy(item.get(side), lines=long) if isinstance(item, dict) else "" for side in ("positive", "negative")]
            faults = list(self._unfit(sides, there))
            if faults:
                reading.complaints += [f"contrast {i}: {fault}" for fault in faults]
                continue
            contrast = Contrast(positive=sides[0], negative=sides[1])
            flaws = list(lopsided(contrast))
            reading.complaints += [f"contrast {i}: {flaw}" for flaw in flaws]
            (reading.spare if flaws else reading.taken).append(contrast.model_dump())
            there.append(contrast)
        return reading

    def add(self, sheet: Sheet, items: Sequence[Any]) -> None:
        """Put items on the sheet."""
        sheet.contrasts = {**sheet.contrasts, self.strategy: [*sheet.contrasts.get(self.strategy, ()), *items]}

    def usable(self, sheet: Sheet) -> bool:
        """Whether at least half of them are there."""
        return 2 * self.missing(sheet) <= CONTRASTS

    def _unfit(self, sides: Sequence[str], there: Sequence[Contrast]) -> Iterator[str]:
        """Say why a pair cannot be used at all."""
        for name, side in zip(("positive", "negative"), sides, strict=True):
            yield from unfit(f"its {name} side", side, LONGEST_SIDE)
            if side and self.strategy != "instruction" and PERSON not in side:
                yield f"its {name} side does not speak of {PERSON}"
            if side and self.strategy == "dialogue" and not any(speaker(line) == PERSON for line in side.splitlines()):
                yield f"its {name} side has no line that begins with '{PERSON}:'"
        if all(sides) and normalised(sides[0]) == normalised(sides[1]):
            yield "its two sides are the same"
        known = [*prompts.example_texts(), *(side for one in there for side in (one.positive, one.negative))]
        for side, copied in zip(sides, copies(sides, known, among=False), strict=True):
            if copied:
                yield f"{quoted(side)} is nearly the same as {quoted(copied)}"


@dataclass(frozen=True)
class Questions:
    """What is asked with one strategy, or with none, over all splits."""

    asked: str
    at_once = QUESTIONS_AT_ONCE
    optional = False

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"the {self.asked} questions"

    def missing(self, sheet: Sheet) -> int:
        """How many are still wanted."""
        return max(0, wanted_questions(self.asked) - len(sheet.questions.get(self.asked, ())))

    def prompt(self, sheet: Sheet, n: int, turn: int) -> str:
        """Ask for `n` more."""
        there = sheet.questions.get(self.asked, [])
        return prompts.questions_prompt(sheet.name, sheet.description, self.asked, n, there, turn)

    def read(self, sheet: Sheet, found: Any) -> Reading:
        """Read what was found in an answer."""
        items = listed(found, "questions")
        if items is None:
            return Reading(complaints=["there is no list of questions"])
        reading = Reading()
        texts = [self._shaped(tidy(item, lines=self.asked == "dialogue")) for item in items[:MOST_READ]]
        known = [*prompts.example_texts(), *(text for texts in sheet.questions.values() for text in texts)]
        for i, (text, copied) in enumerate(zip(texts, copies(texts, known), strict=True), 1):
            faults = list(self._unfit(text)) or ([f"it is nearly the same as {quoted(copied)}"] if copied else [])
            flaws = [] if faults else list(self._flaws(sheet.name, text))
            reading.complaints += [f"question {i}, {quoted(text)}: {fault}" for fault in faults or flaws]
            if not faults:
                (reading.spare if flaws else reading.taken).append(text)
        return reading

    def add(self, sheet: Sheet, items: Sequence[Any]) -> None:
        """Put items on the sheet."""
        sheet.questions = {**sheet.questions, self.asked: [*sheet.questions.get(self.asked, ()), *items]}

    def usable(self, sheet: Sheet) -> bool:
        """Whether at least half of them are there."""
        return 2 * self.missing(sheet) <= wanted_questions(self.asked)

    def _shaped(self, text: str) -> str:
        """Mend what is easily mended: a scene ends where Alex begins to speak."""
        if self.asked != "dialogue":
            return text
        lines = [line for line in text.splitlines() if line]
        spoken = next((i for i, line in enumerate(lines) if i and speaker(line) == PERSON), len(lines))
        return "\n".join([*lines[:spoken], f"{PERSON}:"]) if lines else ""

    def _unfit(self, text: str) -> Iterator[str]:
        yield from unfit("it", text, LONGEST_QUESTION)
        if text and self.asked == "dialogue":
            lines = text.splitlines()
            if len(lines) < 2 or any(speaker(line) is None for line in lines) or speaker(lines[0]) == PERSON:
                yield "it is no scene in which somebody speaks to Alex, 'Name: what is said' on each line"
        elif text and self.asked in ("character", "story") and PERSON not in text:
            yield f"it does not speak of {PERSON}"

    def _flaws(self, name: str, text: str) -> Iterator[str]:
        if named(name, text):
            yield "it names the trait"
        if self.asked == "character" and text.endswith((".", "!", "?", "…")):
            yield "it is a finished sentence; break off before what Alex does"
