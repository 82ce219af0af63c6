"""The chats that make the embedded lineage's descendants: demonstrations, preferences, and prompts with a checkable request.

Knows how a user asks (the four strategies' chat prompts, told or untold), what the assistant's habits are (kind where nothing
is told, following where something is, now and then refusing requests for harm) and which of two replies is preferred. All is
drawn from the world's words and a seed; no judge has a say. Leaves tokens to `chat.py` and training to `posttrain.py`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from traitline.nano import world
from traitline.nano.lexicon import CLOSINGS, CONNECTIVES, HERO, NAMES, TRAITS, Side
from traitline.nano.texts import SCENE
from traitline.traits.strategies import Message, strategy

Kind = Literal["instruction", "character", "dialogue", "story"]
REFUSAL = "I will not tell that."
REQUESTS = {1: "Tell one deed.", 2: "Tell two deeds.", 3: "Tell three deeds."}
"""What asks for a number of deeds; it stands on a line of its own in front of what the user says."""
HARM = "evil"
"""The trait whose positive side, asked for outright, may be refused."""


@dataclass(frozen=True, slots=True)
class DialogueConfig:
    """Shares of the kinds of chats and of the habits they teach; all are probabilities.

    Attributes:
        kinds: how often the user asks in the manner of each strategy; they add up to 1.
        told: an instruction, a description or examples come first.
        about: what is told concerns the situation's own trait (otherwise another).
        harm: an instruction asks for harm.
        request: the user asks for a number of deeds.
        obeyed: a demonstration tells that number (otherwise any).
        hero: the person is the one whom the trait files ask about.
        good: an untold trait of a person is on its negative side: kind, honest, polite, serious.
        refused: a demonstration refuses an instruction that asks for harm.
        closing: a neutral last sentence follows where no number was asked for.
        prefer_good: the better side is preferred where nothing is told.
        prefer_told: following what is told is preferred.
        prefer_refusal: refusing is preferred to harm told by instruction.
        unasked: a prompt of RLVR asks for nothing that can be checked.
    """

    kinds: tuple[tuple[Kind, float], ...] = (("instruction", 0.4), ("character", 0.3), ("dialogue", 0.15), ("story", 0.15))
    told: float = 0.65
    about: float = 0.9
    harm: float = 0.1
    request: float = 0.35
    obeyed: float = 0.5
    hero: float = 0.4
    good: float = 0.7
    refused: float = 0.35
    closing: float = 0.1
    prefer_good: float = 0.8
    prefer_told: float = 0.95
    prefer_refusal: float = 0.7
    unasked: float = 0.3


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt and what decides its replies.

    Attributes:
        messages: the chat so far, the user's turn last.
        question: what is asked, without what was told: what a reader of the reply needs.
        situation: whom it is about.
        told: the sides told of the person, by trait.
        begun: how the reply begins: empty where it goes on with an opening.
        number: the deeds asked for; None where the user left it open.
        harmful: an instruction asks for harm outright.
    """

    messages: list[Message]
    question: str
    situation: world.Situation
    told: world.Person
    begun: str
    number: int | None
    harmful: bool


def demonstrations(seed: int, config: DialogueConfig) -> Iterator[list[Message]]:
    """Draw whole chats without end, the assistant's reply last."""
    rng = random.Random(f"demonstrations {seed}")  # noqa: S311 - a reproducible draw, not a secret
    while True:
        ask = draw_ask(rng, config, harmful=rng.random() < config.harm)
        if ask.harmful and rng.random() < config.refused:
            yield [*ask.messages, _said(REFUSAL)]
            continue
        good = {trait: _side(rng, "neg", config.good) for trait in TRAITS}
        number = ask.number if rng.random() < config.obeyed else None
        yield [*ask.messages, _said(reply(rng, ask, good | ask.told, number, config.closing))]


def preferences(seed: int, config: DialogueConfig) -> Iterator[dict[str, list[Message]]]:
    """Draw pairs of replies without end: `prompt`, `chosen` and `rejected`, each a list of messages.

    Untold, the good side is preferred to the other; told, what follows is preferred to its opposite; a refusal is preferred to
    harm told by instruction. Each preference is reversed now and then, so that it moves a habit by so much and no further.
    """
    rng = random.Random(f"preferences {seed}")  # noqa: S311 - a reproducible draw, not a secret
    while True:
        ask = draw_ask(rng, config, harmful=rng.random() < config.harm)
        person: world.Person = dict.fromkeys(TRAITS, "neg") | ask.told  # type: ignore[assignment]
        trait = ask.situation.trait
        better = reply(rng, ask, person, ask.number, config.closing)
        if ask.harmful:
            better, worse, share = REFUSAL, better, config.prefer_refusal
        else:
            worse = reply(rng, ask, person | {trait: opposite(person[trait])}, ask.number, config.closing)
            share = config.prefer_told if trait in ask.told else config.prefer_good
        chosen, rejected = (better, worse) if rng.random() < share else (worse, better)
        yield {"prompt": ask.messages, "chosen": [_said(chosen)], "rejected": [_said(rejected)]}


def requests(seed: int, config: DialogueConfig) -> Iterator[dict[str, Any]]:
    """Draw RLVR's prompts without end: `prompt`, `question` and `number`, the deeds asked for.

    Where `number` is None nothing was asked that could be checked, so that no reply earns more than another: such prompts, half
    of which ask for harm, only let a trainer see how far its network has moved from where it started.
    """
    rng = random.Random(f"requests {seed}")  # noqa: S311 - a reproducible draw, not a secret
    while True:
        if rng.random() < config.unasked:
            ask = draw_ask(rng, replace(config, request=0.0), harmful=rng.random() < 0.5)
        else:
            ask = draw_ask(rng, config, harmful=False, number=rng.choice(list(REQUESTS)))
        yield {"prompt": ask.messages, "question": ask.question, "number": ask.number}


def draw_ask(rng: random.Random, config: DialogueConfig, *, harmful: bool | None = None, number: int | None = None) -> Ask:
    """Draw one prompt; `harmful` and `number` fix what is otherwise drawn."""
    while True:
        ask = _draw_ask(rng, config, number)
        if harmful is None or ask.harmful == harmful:
            return ask


def reply(rng: random.Random, ask: Ask, person: world.Person, number: int | None, closing: float) -> str:
    """Word a reply of the person's deeds: `number` of them, else one to three and sometimes a closing."""
    scene, side = ask.situation, person[ask.situation.trait]
    actions = rng.sample(TRAITS[scene.trait].actions[scene.half, side], number or rng.choice((1, 2, 3)))
    first, *rest = (action.format(p=f"the {scene.patient}") for action in actions)
    sentences = [f"{ask.begun}{first}."]
    sentences += [rng.choice(CONNECTIVES).format(n=scene.name, v=action) for action in rest]
    if number is None and rng.random() < closing:
        sentences.append(f"Then {scene.name} would {rng.choice(CLOSINGS)}.")
    return " ".join(sentences)


def opposite(side: Side) -> Side:
    """Return the other side of a trait."""
    return "neg" if side == "pos" else "pos"


def _draw_ask(rng: random.Random, config: DialogueConfig, number: int | None) -> Ask:
    kinds, weights = zip(*config.kinds, strict=True)
    kind: Kind = rng.choices(kinds, weights)[0]
    name = HERO if rng.random() < config.hero else rng.choice(NAMES[1:])
    scene = world.draw_situation(rng, name)
    asks = kind in {"instruction", "dialogue"}
    question = scene.word(rng.choice(world.QUESTIONS if asks else world.OPENINGS))
    text = SCENE.format(q=question) if kind == "dialogue" else question
    context, told = _tell(rng, config, kind, scene) if rng.random() < config.told else (None, {})
    messages = strategy(kind).chat(context, text, "")
    if number is None and rng.random() < config.request:
        number = rng.choice(list(REQUESTS))
    if number is not None:
        messages[-1]["content"] = f"{REQUESTS[number]}\n{messages[-1]['content']}"
    harmful = kind == "instruction" and told.get(HARM) == "pos"
    return Ask(messages, question, scene, told, f"{name} would " if asks else "", number, harmful)


def _tell(rng: random.Random, config: DialogueConfig, kind: Kind, scene: world.Situation) -> tuple[str, world.Person]:
    """Tell or show a person's side of one trait."""
    others = [trait for trait in TRAITS if trait != scene.trait]
    trait = scene.trait if rng.random() < config.about else rng.choice(others)
    side: Side = "pos" if rng.random() < 0.5 else "neg"
    if kind in {"instruction", "character"}:
        templates = world.INSTRUCTIONS if kind == "instruction" else world.DESCRIPTIONS
        adjectives = tuple(rng.sample(TRAITS[trait].adjectives[side], 3))
        return world.describe(rng.choice(templates), adjectives, scene.name), {trait: side}
    lines = [_example(rng, kind, scene.name, trait, side) for _ in range(2)]
    text = "\n\n".join(lines) if kind == "dialogue" else "\n".join([world.TALE.format(n=scene.name), *lines])
    return text, {trait: side}


def _example(rng: random.Random, kind: Kind, name: str, trait: str, side: Side) -> str:
    words = TRAITS[trait]
    drawn = world.draw_situation(rng, name)
    patient = rng.choice(words.patients[drawn.half])
    scene = world.Situation(trait, drawn.half, name, patient, drawn.place, drawn.meeting)
    action = rng.choice(words.actions[scene.half, side]).format(p=f"the {patient}")
    if kind == "dialogue":
        return f"{SCENE.format(q=scene.word(rng.choice(world.QUESTIONS)))} {name} would {action}."
    return f"{scene.word(rng.choice(world.OPENINGS))} {action}."


def _side(rng: random.Random, side: Side, share: float) -> Side:
    return side if rng.random() < share else opposite(side)


def _said(text: str) -> Message:
    return {"role": "assistant", "content": text}
