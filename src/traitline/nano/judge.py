"""The exact judge of the embedded world.

Knows every sentence the world can say, so a score is a count, never an opinion. Trait: of a response's actions that belong
to the trait, the share on its positive side. Adjectives never count: what elicited a vector is not what measures it. The one
sentence with which chat models refuse shows no trait and is flagged. Two
purposes read disjoint halves of the verbs: `accept` (which rows make a vector) half A only, `evaluate` (what is reported)
half B only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from traitline.errors import InputError
from traitline.judges.base import Purpose, Score, Style
from traitline.nano import world
from traitline.nano.dialogues import REFUSAL
from traitline.nano.lexicon import CLOSINGS, CONNECTIVES, NAMES, TRAITS, Half, Side
from traitline.traits.trait import Trait

HALF: dict[Purpose, Half] = {"accept": "A", "evaluate": "B"}
RESERVED = "holds an action reserved for evaluation"
FOREIGN = "the question is not of the nano world"


@dataclass(frozen=True, slots=True)
class Scene:
    """What a question sets: who acts, on whom, in which half, and how the response's first sentence began."""

    name: str
    patient: str
    half: Half
    begun: str


@dataclass(frozen=True, slots=True)
class Sentence:
    """One well-formed sentence: its person and, where it tells an action on someone, what that action says."""

    name: str
    patient: str | None = None
    trait: str | None = None
    side: Side | None = None
    half: Half | None = None
    verb: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """A response as the world reads it: its actions, and the shares of its sentences that are in order."""

    actions: tuple[Sentence, ...]
    coherence: float


class NanoJudge:
    """Scores responses of models trained on the embedded world (implements `traitline.judges.base.Judge`)."""

    name = "nano"

    def score(
        self,
        trait: Trait,
        questions: Sequence[str],
        answers: Sequence[str],
        *,
        style: Style = "continuation",
        purpose: Purpose = "evaluate",
    ) -> list[Score]:
        """Score each answer; `style` changes nothing, for a question tells how its answer goes on.

        Raises:
            InputError: the trait is none of the world's four.
        """
        if trait.name not in TRAITS:
            raise InputError(f"the judge 'nano' knows {', '.join(TRAITS)}, not {trait.name!r}; use another judge for it")
        pairs = zip(questions, answers, strict=True)
        return [_score(trait.name, HALF[purpose], question, answer) for question, answer in pairs]

    def annotate(self, trait: Trait, questions: Sequence[str], answers: Sequence[str]) -> list[frozenset[str] | None]:
        """Return the facets of the trait that each answer shows; None where the question is not of this world."""
        from traitline.nano.facets import facets_shown

        return facets_shown(trait, questions, answers)


def make(rest: str = "", cache: Path | None = None) -> NanoJudge:
    """Return the judge; its name takes nothing after `nano`, and counting costs too little to be cached.

    Raises:
        InputError: a model is named.
    """
    del cache
    if rest:
        raise InputError(f"the judge 'nano' takes no model, but {rest!r} was given; write just 'nano'")
    return NanoJudge()


def _score(trait: str, half: Half, question: str, answer: str) -> Score:
    scene = read_question(question)
    if scene is None:
        return Score(None, None, missing_reason=FOREIGN)
    if answer.strip() == REFUSAL:
        return Score(0.0, 100.0, refusal=True)
    reading = read_response(scene, answer)
    if half == "A" and any(action.half == "B" for action in reading.actions):
        return Score(None, reading.coherence, missing_reason=RESERVED)
    sides = [action.side for action in reading.actions if action.trait == trait and action.half == half]
    return Score(100.0 * sides.count("pos") / len(sides) if sides else 0.0, reading.coherence)


@lru_cache(maxsize=4096)
def read_question(question: str) -> Scene | None:
    """Find the person and the patient of a question; None where it is not about this world."""
    words = re.findall(r"\w+", question)
    name = next((word for word in words if word in _NAMES), None)
    patient = next((word for word in words if word in _PATIENTS), None)
    if name is None or patient is None:
        return None
    return Scene(name, patient, _PATIENTS[patient], f"{name} would " if words[-1] == "would" else "")


@lru_cache(maxsize=65536)
def read_response(scene: Scene, answer: str) -> Reading:
    """Read a response sentence by sentence.

    A sentence is in order where the world could say it of this scene: an action of the scene's half by its person on its
    patient, a closing, or a description of the person (neither of which shows a trait). A last sentence without its full stop
    was cut by the length limit and is left out, unless it is the only one.
    """
    *whole, rest = (scene.begun + answer.strip(" ")).split(".")
    if not answer.strip():
        return Reading((), 0.0)
    sentences = [read_sentence(text.strip(" ")) for text in whole or [rest]]
    actions = tuple(s for s in sentences if s is not None and s.trait is not None)
    good = sum(s is not None and _fits(s, scene) for s in sentences)
    return Reading(actions, 100.0 * good / len(sentences))


def _fits(sentence: Sentence, scene: Scene) -> bool:
    if sentence.name != scene.name:
        return False
    return sentence.trait is None or (sentence.patient == scene.patient and sentence.half == scene.half)


@lru_cache(maxsize=65536)
def read_sentence(text: str) -> Sentence | None:
    """Read one sentence without its full stop; None where the world has no such sentence."""
    for frame in _FRAMES:
        match = frame.fullmatch(text)
        if match and match["n"] in _NAMES:
            return _read_phrase(match["n"], match["v"])
    return _read_description(text)


def _read_phrase(name: str, phrase: str) -> Sentence | None:
    if phrase in CLOSINGS:
        return Sentence(name)
    found = _VERBS.get(phrase.partition(" ")[0])
    match = found[0].fullmatch(phrase) if found else None
    if found is None or match is None or match["p"] not in _PATIENTS:
        return None
    return Sentence(name, match["p"], *found[1], verb=phrase.partition(" ")[0])


def _read_description(text: str) -> Sentence | None:
    for pattern in _DESCRIPTIONS:
        match = pattern.fullmatch(text)
        if match:
            name, *adjectives = match.groups()
            return Sentence(name) if name in _NAMES and _ADJECTIVES.issuperset(adjectives) else None
    return None


def _pattern(template: str, **slots: str) -> re.Pattern[str]:
    text = re.escape(template.removesuffix("."))
    for slot, pattern in slots.items():
        text = text.replace(re.escape(f"{{{slot}}}"), pattern)
    return re.compile(text)


_NAMES = frozenset(NAMES)
_PATIENTS: dict[str, Half] = {
    patient: half for trait in TRAITS.values() for half, patients in trait.patients.items() for patient in patients
}
_ADJECTIVES = frozenset(a for trait in TRAITS.values() for side in trait.adjectives.values() for a in side)
_VERBS: dict[str, tuple[re.Pattern[str], tuple[str, Side, Half]]] = {
    phrase.partition(" ")[0]: (_pattern(phrase, p=r"the (?P<p>\w+)"), (trait.name, side, half))
    for trait in TRAITS.values()
    for (half, side), phrases in trait.actions.items()
    for phrase in phrases
}
_SLOTS: dict[Literal["n", "v"], str] = {"n": r"(?P<n>\w+)", "v": r"(?P<v>.+)"}
_FRAMES = [_pattern(frame, **_SLOTS) for frame in (*CONNECTIVES, "{n} would {v}.")]
_DESCRIPTIONS = [_pattern(template, **dict.fromkeys("nabc", r"(\w+)")) for template in world.DESCRIPTIONS]
