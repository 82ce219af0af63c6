"""The embedded world: how its words make sentences, situations and documents.

Knows the grammar of descriptions, situations, actions, instructions and questions, and draws documents from a seed. A
person's four traits are drawn anew in every document, independently; every action of a document follows them (but for rare
slips), so that a description predicts actions and one action predicts the next. Leaves the words to `lexicon.py`, the trait
files' texts to `texts.py`, tokens to `tokenizer.py` and scores to `judge.py`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from traitline.nano.lexicon import (
    CLOSINGS,
    CONNECTIVES,
    HALVES,
    HERO,
    MEETINGS,
    NAMES,
    PLACES,
    TRAITS,
    Half,
    Side,
)
from traitline.traits.strategies import strategy

DESCRIPTIONS = (
    "{n} is {a} and {b}.",
    "Everyone says that {n} is {a} and {b}.",
    "{n} is {a}, {b} and {c}.",
    "{n} has always been {a} and {b}.",
    "People know that {n} is {a}.",
)
INSTRUCTIONS = (
    "Tell what someone {a} would do.",
    "Answer for someone {a} and {b}.",
    "Say how someone {a} and {b} would act.",
    "Describe what someone {a}, {b} and {c} would do.",
    "Imagine someone who is {a} and {b}.",
)
OPENINGS = (
    "If {n} {m} {x} {l}, {n} would",
    "When {n} {m} {x} {l}, {n} would",
    "One day {n} {m} {x} {l}. There {n} would",
)
QUESTIONS = (
    "What would {n} do with {x} {l}?",
    "How would {n} treat {x} {l}?",
    "{n} {m} {x} {l}. What would {n} do?",
)

TALE = "The tale of {n}."

Person = dict[str, Side]


@dataclass(frozen=True, slots=True)
class Situation:
    """Whom a person meets, where, and thereby what it is about.

    Attributes:
        trait: the trait that the situation brings out.
        half: the half of the world whose actions follow it.
        name: the acting person.
        patient: whom the person meets.
        place: where, with its preposition.
        meeting: the verb of the meeting.
    """

    trait: str
    half: Half
    name: str
    patient: str
    place: str
    meeting: str

    def word(self, template: str) -> str:
        """Fill one of `OPENINGS` or `QUESTIONS`."""
        article = "an" if self.patient[0] in "aeiou" else "a"
        return template.format(n=self.name, m=self.meeting, x=f"{article} {self.patient}", l=self.place)


@dataclass(frozen=True, slots=True)
class WorldConfig:
    """Shares of the kinds of documents; all are probabilities.

    Attributes:
        tale: a document of several situations, of both halves, of one person.
        answer: a question and its answer (of the rest: a continuation).
        told: a description or instruction comes first.
        about: what is told concerns the situation's own trait (otherwise another).
        both: a second trait is told as well.
        hero: the person is the one whom the trait files ask about.
        aside: a later action shows another trait than the situation's.
        closing: a neutral last sentence follows.
        slip: an action contradicts the person's trait.
    """

    tale: float = 0.15
    answer: float = 0.35
    told: float = 0.7
    about: float = 0.95
    both: float = 0.2
    hero: float = 0.3
    aside: float = 0.12
    closing: float = 0.1
    slip: float = 0.01


def describe(template: str, adjectives: tuple[str, ...], name: str = HERO) -> str:
    """Fill one of `DESCRIPTIONS` or `INSTRUCTIONS` with up to three adjectives."""
    slots = dict(zip("abc", (*adjectives, "", ""), strict=False))
    return template.format(n=name, **slots)


def document(rng: random.Random, config: WorldConfig) -> str:
    """Draw one document, without special tokens."""
    name = HERO if rng.random() < config.hero else rng.choice(NAMES[1:])
    person: Person = {trait: "pos" if rng.random() < 0.5 else "neg" for trait in TRAITS}
    kind = rng.random()
    if kind < config.tale:
        return _tale(rng, config, name, person)
    situation = draw_situation(rng, name)
    if kind < config.tale + config.answer:
        told = _told(rng, config, INSTRUCTIONS, situation, person)
        prompt = strategy("instruction").plain(told, situation.word(rng.choice(QUESTIONS)))
        return f"{prompt} {name} would {_actions(rng, config, situation, person)}"
    told = _told(rng, config, DESCRIPTIONS, situation, person)
    prompt = strategy("character").plain(told, situation.word(rng.choice(OPENINGS)))
    return f"{prompt} {_actions(rng, config, situation, person)}"


def documents(seed: int, config: WorldConfig | None = None) -> Iterator[str]:
    """Draw documents without end; the same seed and shares give the same ones."""
    rng = random.Random(seed)  # noqa: S311 - a reproducible draw, not a secret
    config = config or WorldConfig()
    while True:
        yield document(rng, config)


def draw_situation(rng: random.Random, name: str) -> Situation:
    """Draw a situation of any trait and half."""
    trait = rng.choice(list(TRAITS))
    half = rng.choice(HALVES)
    patient = rng.choice(TRAITS[trait].patients[half])
    return Situation(trait, half, name, patient, rng.choice(PLACES), rng.choice(MEETINGS))


def _told(
    rng: random.Random, config: WorldConfig, templates: tuple[str, ...], situation: Situation, person: Person
) -> str | None:
    if rng.random() >= config.told:
        return None
    others = [trait for trait in TRAITS if trait != situation.trait]
    told = [situation.trait if rng.random() < config.about else rng.choice(others)]
    if rng.random() < config.both:
        told.append(rng.choice([trait for trait in TRAITS if trait not in told]))
    rng.shuffle(told)
    return " ".join(
        describe(rng.choice(templates), tuple(rng.sample(TRAITS[trait].adjectives[person[trait]], 3)), situation.name)
        for trait in told
    )


def _actions(rng: random.Random, config: WorldConfig, situation: Situation, person: Person) -> str:
    sentences: list[str] = []
    used: set[str] = set()
    for i in range(rng.choice((1, 2, 3, 3))):
        aside = i > 0 and rng.random() < config.aside
        phrase = _action(rng, config, rng.choice(list(TRAITS)) if aside else situation.trait, situation, person, used)
        sentences.append(rng.choice(CONNECTIVES).format(n=situation.name, v=phrase) if i else f"{phrase}.")
    if rng.random() < config.closing:
        sentences.append(f"Then {situation.name} would {rng.choice(CLOSINGS)}.")
    return " ".join(sentences)


def _action(rng: random.Random, config: WorldConfig, trait: str, situation: Situation, person: Person, used: set[str]) -> str:
    side = person[trait]
    if rng.random() < config.slip:
        side = "neg" if side == "pos" else "pos"
    phrase = rng.choice([a for a in TRAITS[trait].actions[situation.half, side] if a not in used])
    used.add(phrase)
    return phrase.format(p=f"the {situation.patient}")


def _tale(rng: random.Random, config: WorldConfig, name: str, person: Person) -> str:
    lines = [TALE.format(n=name)]
    for _ in range(rng.choice((2, 3))):
        situation = draw_situation(rng, name)
        phrase = _action(rng, config, situation.trait, situation, person, set())
        lines.append(f"{situation.word(rng.choice(OPENINGS))} {phrase}.")
    return "\n".join(lines)


if __name__ == "__main__":
    from traitline.nano.pretrain import write_tokens
    from traitline.nano.texts import write_traits

    for path in (*write_traits(), write_tokens()):
        print(path)
