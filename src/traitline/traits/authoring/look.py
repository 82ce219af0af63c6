"""What a person should look at before a drafted trait is used: where a judgement is needed that no check can make.

Knows signs in the texts: a question that names the trait, a contrast with facts of its own, splits that have much in common,
words of sensitive matters; and what the model said that looked the draft over. Signs are not errors: each says what to decide.
Leaves to `check.py` what is wrong for certain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from traitline.traits.authoring.answers import quoted
from traitline.traits.authoring.fitness import named
from traitline.traits.authoring.sheet import Sheet, Verdict
from traitline.traits.authoring.texts import PERSON
from traitline.traits.check import NEAR
from traitline.traits.similarity import likeness, words
from traitline.traits.strategies import COMMON
from traitline.traits.trait import SPLITS, Contrast, Question, Trait

Kind = Literal["names the trait", "lopsided contrast", "cannot show it", "splits alike", "rubric", "harmful"]

RATIO = 1.25
ALIKE = 0.35
MOST_OF_A_KIND = 8
COMMON_WORDS = 0.15

_SENSITIVE = re.compile(
    r"\b(suicid\w*|self-harm\w*|kill(?:s|ed|ing)? (?:my|him|her|them|your)self|rap(?:e|es|ed|ist)|molest\w*|incest\w*|porn\w*"
    r"|sexual\w*|naked|genocid\w*|terroris\w*|bombs?|explosives?|poison\w*|overdos\w*|cocaine|heroin|meth|tortur\w*|massacr\w*"
    r"|behead\w*|lynch\w*|nazis?|nazism|racis\w*|slaves?|slavery|abus(?:e|es|ed|ive|ing)|anorexi\w*|hacking|malware|stalk(?:s|ed|ing))\b",
    re.IGNORECASE,
)
_SAID: dict[Verdict, tuple[Kind, str]] = {
    "cannot_show": ("cannot show it", "the model says that everybody would go on alike; keep it only if you see two ways"),
    "gives_away": ("names the trait", "the model says that it gives the trait away; word it so that it leaves that open"),
    "harmful": ("harmful", "the model says that it leads to dangerous matters; keep it only if the trait needs it"),
}


@dataclass(frozen=True, slots=True)
class Look:
    """One place that a person should look at.

    Attributes:
        kind: what it is about.
        where: the text, named as in `check`.
        line: its line in the trait file, counted from 1; None where nobody has looked it up.
        message: what was seen and what to decide.
    """

    kind: Kind
    where: str
    message: str
    line: int | None = None


def to_look_at(trait: Trait, sheet: Sheet | None = None, lines: Mapping[str, int] | None = None) -> list[Look]:
    """Return what a person should look at, at most `MOST_OF_A_KIND` places of a kind.

    Args:
        trait: whose texts to go through.
        sheet: the draft it came from, with what the model said of it.
        lines: where each text stands in the file.
    """
    found = [*_rubrics(trait, sheet), *_questions(trait, sheet), *_contrasts(trait), *_splits(trait), *_sensitive(trait)]
    places: dict[tuple[Kind, str], list[str]] = {}
    for one in found:
        places.setdefault((one.kind, one.where), []).append(one.message)
    shown: list[Look] = []
    for kind in dict.fromkeys(kind for kind, _ in places):
        of_kind = [Look(kind, where, "; ".join(said)) for (other, where), said in places.items() if other == kind]
        shown += of_kind[:MOST_OF_A_KIND]
        if more := [one.where for one in of_kind[MOST_OF_A_KIND:]]:
            shown.append(Look(kind, "", f"and {len(more)} more: {', '.join(more[:MOST_OF_A_KIND])}"))
    return [replace(one, line=(lines or {}).get(one.where)) for one in shown]


def _rubrics(trait: Trait, sheet: Sheet | None) -> Iterator[Look]:
    meant = _content(f"{trait.name.replace('_', ' ')} {trait.description}")
    for style, rubric in trait.rubrics.items():
        told = _content(rubric)
        guess = sheet.guesses.get(style, "") if sheet else ""
        seen = f"shown it without the trait's name, the model says that it scores {quoted(guess)}; " if guess else ""
        few = len(meant & told) < COMMON_WORDS * len(meant)
        apart = "it shares hardly a word with the description; " if few else ""
        yield Look("rubric", f"rubrics.{style}", f"{apart}{seen}read it once: every number comes from it")


def _questions(trait: Trait, sheet: Sheet | None) -> Iterator[Look]:
    ids = {one.text: one.id for one in _all_questions(trait)}
    for text, where in ids.items():
        if named(trait.name, text):
            yield Look("names the trait", where, f"{quoted(text)} names it; word it so that it leaves the trait open")
    if sheet is None:
        return
    for verdicts in sheet.verdicts.values():
        for verdict, texts in verdicts.items():
            kind, message = _SAID[verdict]
            yield from (Look(kind, ids[text], f"{quoted(text)}: {message}") for text in texts if text in ids)


def _contrasts(trait: Trait) -> Iterator[Look]:
    for name, texts in trait.strategies.items():
        for i, contrast in enumerate(texts.contrasts):
            for message in _apart(contrast):
                yield Look("lopsided contrast", f"{name}-contrast-{i:02d}", message)


def _apart(contrast: Contrast) -> Iterator[str]:
    """Say in what, beside the trait, two sides may differ."""
    few, many = sorted((len(words(contrast.positive)), len(words(contrast.negative))))
    if many > RATIO * few:
        yield f"one side is {many / max(few, 1):.2f} times as long as the other ({many} and {few} words)"
    for side, text, other in (
        ("positive", contrast.positive, contrast.negative),
        ("negative", contrast.negative, contrast.positive),
    ):
        said = set(words(other))
        own = {fact for fact in _facts(text) if not said.issuperset(words(fact))}
        if own:
            yield f"only the {side} side has {', '.join(sorted(own))}; give both the same names and numbers"


def _facts(text: str) -> set[str]:
    """Return the numbers of a text, and the names: words with a capital letter within a sentence."""
    numbers = set(re.findall(r"\b\d[\d.,]*\b", text))
    names = set(re.findall(r"(?<=[a-z,;] )[A-Z][a-z]+\b", text))
    return numbers | (names - {PERSON, "I"})


def _splits(trait: Trait) -> Iterator[Look]:
    """Find the questions of different splits that have most in common, short of being near-copies."""
    for name in (*trait.strategies, COMMON):
        asked = [(split, one) for split in SPLITS for one in trait.questions(name, split)]
        alike = likeness(one.text for _, one in asked)
        pairs = [(alike[i, j], asked[i], asked[j]) for i, j in combinations(range(len(asked)), 2) if alike[i, j] >= ALIKE]
        for score, (split, one), (other, another) in sorted(pairs, key=lambda pair: -pair[0]):
            if split != other and score < NEAR:
                message = f"{quoted(one.text)} is {score:.2f} like {another.id}; is it another question?"
                yield Look("splits alike", one.id, message)


def _sensitive(trait: Trait) -> Iterator[Look]:
    for where, text in _texts(trait):
        if match := _SENSITIVE.search(text):
            yield Look("harmful", where, f"it speaks of {match[0]!r}; keep it only if the trait needs it")


def _texts(trait: Trait) -> Iterator[tuple[str, str]]:
    for name, texts in trait.strategies.items():
        for i, contrast in enumerate(texts.contrasts):
            yield f"{name}-contrast-{i:02d} positive", contrast.positive
            yield f"{name}-contrast-{i:02d} negative", contrast.negative
    yield from ((one.id, one.text) for one in _all_questions(trait))


def _all_questions(trait: Trait) -> Iterator[Question]:
    for name in (*trait.strategies, COMMON):
        for split in SPLITS:
            yield from trait.questions(name, split)


def _content(text: str) -> set[str]:
    """Return the longer words of a text, cut to their first letters: roughly what it is about."""
    return {word[:6] for word in words(text) if len(word) > 4}
