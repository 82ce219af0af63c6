"""Whether a trait's texts are any good: what is missing, copied, lopsided or left unfinished.

Knows what a study needs of a trait and what would spoil it: a question that elicits and also evaluates, a contrast whose
sides differ in more than the trait. Leaves the file's schema to `trait.py` (a file that loads may still fail here) and the
likeness of texts to `similarity.py`. Reads texts only; whether they elicit the trait is for a study to find out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from traitline.traits.similarity import near_pairs, normalised, words
from traitline.traits.strategies import COMMON, STRATEGIES, strategy
from traitline.traits.trait import SPLITS, Contrast, Question, Split, Trait

Level = Literal["error", "warning"]

CONTRASTS = 5
QUESTIONS: dict[Split, int] = {"elicit": 20, "tune": 10, "evaluate": 20}
NEAR = 0.5
"""Likeness from which two texts are near-copies. Different questions on one theme stay under 0.42 in the paper's files; two
words changed in a sentence of ten leave about 0.6."""
LENGTH_RATIO = 1.5
SPARE_WORDS = 3
SPARE_SENTENCES = 0.2

NEEDED: dict[Split, tuple[Level, str]] = {
    "elicit": ("error", "no vector can be extracted"),
    "tune": ("warning", "layers and doses cannot be chosen on questions of their own"),
    "evaluate": ("error", "nothing can be reported"),
}
COMBINED = "studies with 'combined' cannot use the trait"
NEEDED_COMMON: dict[Split, tuple[Level, str]] = {"tune": NEEDED["tune"], "evaluate": ("warning", COMBINED)}

_PLACEHOLDERS = (
    re.compile(r"\b(?:TODO|FIXME|TBD|X{3,})\b"),
    re.compile(r"lorem\s+ipsum", re.IGNORECASE),
    re.compile(r"\{\w*\}"),
    re.compile(
        r"\[(?:\.{2,}|…|_+|(?:insert|your|fill|add|some)\b[^\]\n]*|name|names|topic|trait|text|question|answer|placeholder)\]",
        re.IGNORECASE,
    ),
    re.compile(r"<(?:\.{2,}|…|[a-zA-Z][^<>\n]{0,40})>"),
    re.compile(r"_{3,}"),
)
_BLANKS = ("{question}", "{answer}")
_ENDED = re.compile(r"[.!?…][\"'”’)\]]*$")
_SENTENCE_END = re.compile(
    r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)[.!?…]+[\"'”’)\]]*(?=\s+[^a-z\s]|\s*$)", re.MULTILINE
)
_SPEAKER = re.compile(r"^\s*(\w[\w.'’-]*(?: [A-Z][\w.'’-]*){0,2}):(?=\s|$)", re.MULTILINE)
_OPENINGS: dict[str, str] = {
    "a second person": "you your yours yourself you're you've you'll you'd",
    "a third person": "he she they it his her hers their theirs its him them",
    "a first person": "i my mine we our ours us i'm i've i'll we're we've",
    "an article or determiner": "a an the this that these those every each all some any no many most",
    "a question word": "who whom whose what where why how which",
    "a subordinate clause": "if when while whenever after before although though because since unless until once as",
    "a preposition": "in on at by for from to with without of under over about into through during despite",
    "an adverb": "never always rarely often sometimes seldom usually",
}
_KIND_OF = {word: kind for kind, listed in _OPENINGS.items() for word in listed.split()}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to mend.

    Attributes:
        level: `error` would spoil a study; `warning` is worth a look.
        where: the text it is about: a question's id, `story-contrast-01 positive`, `rubrics.chat`; counted from 0.
        message: what was found and what to do.
    """

    level: Level
    where: str
    message: str


def check_trait(trait: Trait) -> list[Finding]:
    """Check every text of a trait.

    Returns:
        What was found, errors first; empty for a trait that is complete and clean.
    """
    found = [*_missing(trait), *_rubrics(trait), *_placeholders(trait), *_questions(trait), *_contrasts(trait)]
    return sorted(found, key=lambda one: one.level != "error")


def _missing(trait: Trait) -> Iterator[Finding]:
    if not trait.facets:
        yield Finding("warning", "facets", "there are none; name the kinds of the trait that responses can show")
    for name in STRATEGIES:
        if name not in trait.strategies:
            yield Finding("warning", f"strategies.{name}", "is missing; studies cannot use this strategy")
    for name, texts in trait.strategies.items():
        if name not in STRATEGIES:
            yield Finding("error", f"strategies.{name}", f"no such strategy; known are {', '.join(STRATEGIES)}")
        if len(texts.contrasts) != CONTRASTS:
            yield Finding("warning", f"{name}-contrasts", f"there are {len(texts.contrasts)}; {CONTRASTS} are recommended")
        for split in SPLITS:
            yield from _too_few(name, split, len(texts.questions.get(split, ())), NEEDED)
    yield from _missing_common(trait)


def _missing_common(trait: Trait) -> Iterator[Finding]:
    if not any(trait.common.values()):
        yield Finding("warning", COMMON, f"there are no questions that belong to no strategy; {COMBINED}")
        return
    for split in NEEDED_COMMON:
        yield from _too_few(COMMON, split, len(trait.common.get(split, ())), NEEDED_COMMON)
    if trait.common.get("elicit"):
        message = "these questions are never asked, since common ones elicit nothing; move them to tune or evaluate"
        yield Finding("warning", f"{COMMON}-elicit", message)


def _too_few(name: str, split: Split, count: int, needed: dict[Split, tuple[Level, str]]) -> Iterator[Finding]:
    if count == 0:
        level, consequence = needed[split]
        yield Finding(level, f"{name}-{split}", f"there are no questions, so {consequence}")
    elif count != QUESTIONS[split]:
        message = f"the number of questions is {count}; {QUESTIONS[split]} are recommended"
        yield Finding("warning", f"{name}-{split}", message)


def _rubrics(trait: Trait) -> Iterator[Finding]:
    used = {STRATEGIES[name].style for name in trait.strategies if name in STRATEGIES}
    if any(trait.common.values()):
        used.add(strategy(COMMON).style)
    for style in ("continuation", "chat"):
        where = f"rubrics.{style}"
        rubric = trait.rubrics.get(style)
        if rubric is None:
            level: Level = "error" if style in used else "warning"
            yield Finding(level, where, "is missing; a judge cannot score " + _scored(style))
        else:
            for blank in _BLANKS:
                if blank not in rubric:
                    yield Finding("error", where, f"lacks {blank}; the judge would not see it")


def _scored(style: str) -> str:
    return "continuations of a text" if style == "continuation" else "the answers of chat models"


def _placeholders(trait: Trait) -> Iterator[Finding]:
    for where, text in _texts(trait):
        if where.startswith("rubrics."):
            for blank in _BLANKS:
                text = text.replace(blank, "")
        for found in left_in(text):
            yield Finding("error", where, f"the placeholder {found!r} was left in; write the text")


def left_in(text: str) -> list[str]:
    """Return the placeholders that stand in a text, such as `[insert name]` or `TODO`."""
    found = (match[0] for pattern in _PLACEHOLDERS for match in pattern.finditer(text))
    return [one for one in found if not _is_tag(one, text)]


def _is_tag(match: str, text: str) -> bool:
    """Tell whether `<name>` opens a passage that `</name>` closes, as rubrics do around an answer."""
    return match.startswith("<") and f"</{match[1:-1].split()[0]}>" in text


def _texts(trait: Trait) -> Iterator[tuple[str, str]]:
    """Yield every text of a trait with where it stands."""
    yield "description", trait.description
    yield "task", trait.task
    yield from ((f"rubrics.{style}", rubric) for style, rubric in trait.rubrics.items())
    yield from ((f"facets.{name}", facet) for name, facet in trait.facets.items())
    for name, texts in trait.strategies.items():
        for i, contrast in enumerate(texts.contrasts):
            yield f"{name}-contrast-{i:02d} positive", contrast.positive
            yield f"{name}-contrast-{i:02d} negative", contrast.negative
    yield from ((question.id, question.text) for _, _, question in _asked(trait))


def _asked(trait: Trait) -> Iterator[tuple[str, Split, Question]]:
    for name in dict.fromkeys((*trait.strategies, COMMON)):
        for split in SPLITS:
            yield from ((name, split, question) for question in trait.questions(name, split))


def _questions(trait: Trait) -> Iterator[Finding]:
    asked = list(_asked(trait))
    for i, j, alike in near_pairs([question.text for _, _, question in asked], NEAR):
        (name, split, first), (other_name, other_split, second) = asked[i], asked[j]
        same = normalised(first.text) == normalised(second.text)
        spoils = same and (name == other_name or split != other_split)
        how = "the same question as" if same else f"nearly the same question ({alike:.2f} alike) as"
        message = f"{how} {second.id}: {_shown(first.text)} and {_shown(second.text)}; replace one"
        yield Finding("error" if spoils else "warning", first.id, message)


def _contrasts(trait: Trait) -> Iterator[Finding]:
    for name, texts in trait.strategies.items():
        for i, contrast in enumerate(texts.contrasts):
            where = f"{name}-contrast-{i:02d}"
            if normalised(contrast.positive) == normalised(contrast.negative):
                yield Finding("error", where, "the positive and the negative side are the same; make them opposites")
            else:
                yield from (Finding("warning", where, message) for message in lopsided(contrast))
        yield from _copied_contrasts(name, texts.contrasts)


def _copied_contrasts(name: str, contrasts: Sequence[Contrast]) -> Iterator[Finding]:
    """Find contrasts that repeat another one's side, or use it as the opposite side."""
    for side in ("positive", "negative"):
        sides = [str(getattr(contrast, side)) for contrast in contrasts]
        for i, j, alike in near_pairs(sides, NEAR):
            same = normalised(sides[i]) == normalised(sides[j])
            how = "is the same as" if same else f"is nearly the same ({alike:.2f} alike) as"
            message = f"{how} that of {name}-contrast-{j:02d}: {_shown(sides[i])}; replace one"
            yield Finding("error" if same else "warning", f"{name}-contrast-{i:02d} {side}", message)
    for (i, one), (j, other) in combinations(enumerate(contrasts), 2):
        for a, b in ((one.positive, other.negative), (one.negative, other.positive)):
            if normalised(a) == normalised(b):
                message = f"one side is the opposite side of {name}-contrast-{j:02d}: {_shown(a)}; swap or replace"
                yield Finding("error", f"{name}-contrast-{i:02d}", message)


def lopsided(contrast: Contrast) -> Iterator[str]:
    """Say in what, beside the trait, the two sides of a contrast differ."""
    sides = (contrast.positive, contrast.negative)
    few, many = sorted(len(words(side)) for side in sides)
    if many > LENGTH_RATIO * few and many - few > SPARE_WORDS:
        yield f"one side has {few} words, the other {many}; make them about equally long"
    few, many = sorted(sum(bool(line.strip()) for line in side.splitlines()) for side in sides)
    first, second = (_SPEAKER.findall(side) for side in sides)
    if few != many:
        yield f"one side has {few} lines, the other {many}; give them the same form"
    elif first != second:
        yield f"the speakers differ ({', '.join(first) or 'none'} against {', '.join(second) or 'none'}); keep them the same"
    few, many = sorted(_sentences(side) for side in sides)
    if many - few > int(SPARE_SENTENCES * many):
        yield f"one side has {few} sentences, the other {many}; give them the same form"
    first_kind, second_kind = (_opening(side) for side in sides)
    if first_kind != second_kind:
        yield f"one side opens with {first_kind}, the other with {second_kind}; open them alike"


def _sentences(text: str) -> int:
    """Count sentences; a last one without a mark counts, and so does each speaker's last."""
    passages = [part.strip() for part in _SPEAKER.split(text)[::2]]
    return sum(len(_SENTENCE_END.findall(one)) + (not _ENDED.search(one)) for one in passages if one)


def _opening(text: str) -> str:
    spoken = words(_SPEAKER.sub("", text, count=1))
    if not spoken:
        return "no word"
    word = spoken[0]
    return _KIND_OF.get(word) or ("an -ing form" if len(word) > 5 and word.endswith("ing") else "a name, noun or verb")


def _shown(text: str) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= 80 else flat[:77] + "...")
