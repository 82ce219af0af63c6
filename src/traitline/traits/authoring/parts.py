"""The parts of a trait, drafted one after the other: what each still needs, and what is wrong with an answer.

Knows the order, and the parts that are one item: description, facets, rubrics, and a last look by the model. Leaves contrasts
and questions to `texts.py`, wording to `prompts.py`, JSON to `answers.py`, asking and counting tries to `drafting.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from traitline.traits.authoring import prompts
from traitline.traits.authoring.answers import tidy
from traitline.traits.authoring.fitness import stem_of, unfit
from traitline.traits.authoring.part import Part, Reading
from traitline.traits.authoring.prompts import Style
from traitline.traits.authoring.sheet import VERDICTS, Sheet, Verdict
from traitline.traits.authoring.texts import Contrasts, Questions
from traitline.traits.similarity import normalised
from traitline.traits.strategies import COMMON, STRATEGIES
from traitline.traits.trait import Name

LEVELS = ("0", "25", "50", "75", "100")
LONGEST_SENTENCE = 90
"""Words of a facet, or of one point of a rubric."""
LONGEST_DESCRIPTION, FEWEST_WORDS = 200, 8
FEWEST_FACETS, MOST_FACETS = 2, 6

_NAME = TypeAdapter(Name)


def parts(*, review: bool) -> list[Part]:
    """Return the parts of a trait in the order in which they are drafted; with `review` the model looks them over last."""
    drafted: list[Part] = [_Description(), _Facets(), _Rubric("continuation"), _Rubric("chat")]
    for name in STRATEGIES:
        drafted += [Contrasts(name), Questions(name)]
    drafted.append(Questions(COMMON))
    reviews: list[Part] = [*map(_Review, (*STRATEGIES, COMMON)), _Guess("continuation"), _Guess("chat")]
    return drafted + (reviews if review else [])


class _Single:
    """A part that is one item."""

    at_once = 1
    optional = False

    def usable(self, sheet: Sheet) -> bool:
        return False


@dataclass(frozen=True)
class _Description(_Single):
    """What counts as showing the trait."""

    title: str = "the description"

    def missing(self, sheet: Sheet) -> int:
        return int(not sheet.description)

    def prompt(self, sheet: Sheet, n: int, turn: int) -> str:
        return prompts.description_prompt(sheet.name, sheet.described)

    def read(self, sheet: Sheet, found: Any) -> Reading:
        text = tidy(found.get("description") if isinstance(found, dict) else found)
        faults = list(unfit("the description", text, LONGEST_DESCRIPTION, FEWEST_WORDS))
        return Reading(complaints=faults) if faults else Reading([text])

    def add(self, sheet: Sheet, items: Sequence[Any]) -> None:
        sheet.description = items[0]


@dataclass(frozen=True)
class _Facets(_Single):
    """The kinds of the trait."""

    title: str = "the facets"

    def missing(self, sheet: Sheet) -> int:
        return int(not sheet.facets)

    def prompt(self, sheet: Sheet, n: int, turn: int) -> str:
        return prompts.facets_prompt(sheet.name, sheet.description)

    def read(self, sheet: Sheet, found: Any) -> Reading:
        inner = found.get("facets", found) if isinstance(found, dict) else found
        if isinstance(inner, list):  # a list of objects with name and description, or of objects with one field
            inner = {k: v for one in inner if isinstance(one, dict) for k, v in _named(one)}
        if not isinstance(inner, dict):
            return Reading(complaints=["there is no object of names and sentences"])
        facets, faults = {}, []
        for key, value in inner.items():
            name, text = re.sub(r"[^a-z0-9]+", "_", str(key).lower()).strip("_"), tidy(value)
            wrong = list(unfit(f"facet {str(key)[:40]!r}", text, LONGEST_SENTENCE))
            try:
                _NAME.validate_python(name)
            except ValidationError:
                wrong.append(f"facet {str(key)[:40]!r} has no name of lower-case letters")
            faults += wrong
            if not wrong:
                facets[name] = text
        if not FEWEST_FACETS <= len(facets) <= MOST_FACETS:
            return Reading(complaints=[*faults, f"there are {len(facets)} facets that can be used; give three to five"])
        return Reading([facets])

    def add(self, sheet: Sheet, items: Sequence[Any]) -> None:
        sheet.facets = items[0]


@dataclass(frozen=True)
class _Rubric(_Single):
    """What a judge is told, for one style of responses."""

    style: Style

    @property
    def title(self) -> str:
        return f"the {self.style} rubric"

    def missing(self, sheet: Sheet) -> int:
        return int(self.style not in sheet.rubrics)

    def prompt(self, sheet: Sheet, n: int, turn: int) -> str:
        return prompts.rubric_prompt(sheet.name, sheet.description, self.style)

    def read(self, sheet: Sheet, found: Any) -> Reading:
        if not isinstance(found, dict):
            return Reading(complaints=["there is no object with looks_for, ignores and levels"])
        inner = found.get("levels")
        levels = {level: tidy(inner.get(level)) for level in LEVELS} if isinstance(inner, dict) else dict.fromkeys(LEVELS, "")
        said = {name: tidy(found.get(name)) for name in ("looks_for", "ignores")}
        faults = [fault for name, text in (said | levels).items() for fault in unfit(name, text, LONGEST_SENTENCE)]
        if len(set(map(normalised, levels.values()))) < len(LEVELS):
            faults.append("two levels say the same")
        if faults:
            return Reading(complaints=faults)
        return Reading([prompts.rubric(sheet.name, self.style, **said, levels=levels)])

    def add(self, sheet: Sheet, items: Sequence[Any]) -> None:
        sheet.rubrics = {**sheet.rubrics, self.style: items[0]}


@dataclass(frozen=True)
class _Review(_Single):
    """What the model itself finds wrong with the questions of one strategy, or of none."""

    asked: str
    optional = True

    @property
    def title(self) -> str:
        return f"looking over the {self.asked} questions"

    def missing(self, sheet: Sheet) -> int:
        return int(self.asked not in sheet.verdicts)

    def prompt(self, sheet: Sheet, n: int, turn: int) -> str:
        return prompts.review_prompt(sheet.name, sheet.description, sheet.questions.get(self.asked, []))

    def read(self, sheet: Sheet, found: Any) -> Reading:
        if not isinstance(found, dict) or not any(isinstance(found.get(name), list) for name in VERDICTS):
            return Reading(complaints=[f"there is no object with the lists {', '.join(VERDICTS)}"])
        texts = sheet.questions.get(self.asked, [])
        told: dict[Verdict, list[str]] = {}
        for name in VERDICTS:
            numbers = [int(n) for n in found.get(name) or [] if isinstance(n, int | str) and str(n).strip().isdecimal()]
            told[name] = [texts[n - 1] for n in dict.fromkeys(numbers) if 1 <= n <= len(texts)]
        return Reading([told])

    def add(self, sheet: Sheet, items: Sequence[Any]) -> None:
        sheet.verdicts = {**sheet.verdicts, self.asked: items[0]}


@dataclass(frozen=True)
class _Guess(_Single):
    """What the model takes a rubric to score where nobody tells it."""

    style: Style
    optional = True

    @property
    def title(self) -> str:
        return f"looking over the {self.style} rubric"

    def missing(self, sheet: Sheet) -> int:
        return int(self.style not in sheet.guesses)

    def prompt(self, sheet: Sheet, n: int, turn: int) -> str:
        stem = re.compile(re.escape(stem_of(sheet.name)) + r"\w*", re.IGNORECASE)
        return prompts.guess_prompt(stem.sub("****", sheet.rubrics[self.style]))

    def read(self, sheet: Sheet, found: Any) -> Reading:
        text = tidy(found.get("scores") if isinstance(found, dict) else None)
        return Reading([text[:80]]) if text else Reading(complaints=["there is no text under 'scores'"])

    def add(self, sheet: Sheet, items: Sequence[Any]) -> None:
        sheet.guesses = {**sheet.guesses, self.style: items[0]}


def _named(one: dict[Any, Any]) -> Iterator[tuple[Any, Any]]:
    if isinstance(one.get("name"), str) and len(one) == 2:
        yield one["name"], next(cast(Any, value) for key, value in one.items() if key != "name")
    else:
        yield from one.items()
