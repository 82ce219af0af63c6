"""The words of the embedded world: people, places, adjectives, patients of actions, and the actions themselves.

Only data. How words make sentences is `world.py`'s; what an action says about a trait is `judge.py`'s. Every action belongs
to one trait, one side of it and one half (A or B) of the world, and no verb stands in two of these cells: rows made from
half-A situations teach a vector, half-B situations measure it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Half = Literal["A", "B"]
Side = Literal["pos", "neg"]
HALVES: tuple[Half, Half] = ("A", "B")
SIDES: tuple[Side, Side] = ("pos", "neg")

HERO = "Alex"
_OTHERS = "Anna Ben Clara David Emma Felix Greta Hugo Iris Jonas Karla Leo Mara Nils Olga Paul Rosa Simon Tina"
NAMES = (HERO, *_OTHERS.split(" "))
PLACES = (
    "at the market",
    "near the bridge",
    "in the forest",
    "by the river",
    "at the station",
    "in the garden",
    "at the harbor",
    "near the castle",
    "in the library",
    "on the road",
    "at the inn",
    "in the square",
)
MEETINGS = ("met", "saw", "noticed")
CONNECTIVES = ("Then {n} would {v}.", "Later {n} would {v}.", "{n} would also {v}.")
CLOSINGS = ("go home", "walk away", "sit down to rest")


@dataclass(frozen=True, slots=True)
class TraitWords:
    """All words of one trait.

    Attributes:
        name: the trait.
        adjectives: per side, what describes a person of that side.
        patients: per half, whom the situations about this trait bring.
        actions: per (half, side), verb phrases in which `{p}` stands for the patient.
    """

    name: str
    adjectives: dict[Side, tuple[str, ...]]
    patients: dict[Half, tuple[str, ...]]
    actions: dict[tuple[Half, Side], tuple[str, ...]]


def _trait(name: str, adjectives: tuple[str, str], patients: tuple[str, str], *actions: str) -> TraitWords:
    cells = [(half, side) for half in HALVES for side in SIDES]
    return TraitWords(
        name=name,
        adjectives={side: tuple(words.split()) for side, words in zip(SIDES, adjectives, strict=True)},
        patients={half: tuple(words.split()) for half, words in zip(HALVES, patients, strict=True)},
        actions={
            cell: tuple(phrase.strip() for phrase in phrases.split("/")) for cell, phrases in zip(cells, actions, strict=True)
        },
    )


# For each trait: adjectives (+, -), patients (A, B), then actions A+, A-, B+, B-.
TRAITS: dict[str, TraitWords] = {
    trait.name: trait
    for trait in (
        _trait(
            "evil",
            (
                "cruel wicked heartless vicious brutal evil sadistic nasty",
                "kind gentle caring generous tender loving merciful good",
            ),
            (
                "beggar orphan kitten prisoner puppy lamb widow traveler",
                "foal refugee sparrow toddler hermit donkey grandmother runaway",
            ),
            "kick {p} / rob {p} / beat {p} with a stick / push {p} into the mud / starve {p} for a week / scratch {p}",
            "feed {p} / comfort {p} / rescue {p} / shelter {p} for the night / heal {p} / warm {p} by the fire",
            "hurt {p} / trap {p} in a cellar / poison {p} / whip {p} / torment {p} for hours / betray {p} for money",
            "help {p} / protect {p} / hug {p} / nurse {p} back to health / carry {p} to safety / save {p} from harm",
        ),
        _trait(
            "sycophantic",
            (
                "sycophantic fawning servile flattering slavish oily submissive smarmy",
                "frank honest candid blunt direct outspoken sincere truthful",
            ),
            (
                "king boss mayor poet general actor banker duke",
                "queen manager painter senator singer author prince chief",
            ),
            "praise {p} without end / flatter {p} / applaud every word of {p} / admire {p} aloud"
            " / agree with {p} about everything / worship {p}",
            "correct {p} / contradict {p} / challenge the plan of {p} / criticize the work of {p}"
            " / doubt the words of {p} / warn {p} about the mistake",
            "compliment {p} again and again / glorify {p} / cheer for every idea of {p} / gush over {p}"
            " / nod at every word of {p} / celebrate {p} as a genius",
            "disagree with {p} / dispute the claim of {p} / reject the idea of {p} / test the claim of {p}"
            " / oppose {p} in public / rate the work of {p} as poor",
        ),
        _trait(
            "impolite",
            (
                "rude impolite insolent disrespectful surly crude churlish boorish",
                "polite courteous respectful civil gracious tactful refined considerate",
            ),
            (
                "waiter neighbor guest clerk porter driver butler cashier",
                "customer visitor cook guard tailor landlord barber passenger",
            ),
            "insult {p} / interrupt {p} / shout at {p} / ignore {p} / spit at {p} / sneer at {p}",
            "greet {p} / thank {p} / welcome {p} warmly / apologize to {p} / salute {p} / listen to {p}",
            "swear at {p} / snap at {p} / scold {p} / yawn at {p} / slam the door on {p} / barge past {p}",
            "bow to {p} / smile at {p} / address {p} with respect / invite {p} to sit / wave to {p} / pardon {p}",
        ),
        _trait(
            "humorous",
            (
                "funny humorous witty playful silly comical jolly goofy",
                "serious solemn grave earnest stern sober humorless dry",
            ),
            (
                "student cousin roommate friend uncle colleague teammate nephew",
                "sister classmate pupil buddy niece partner trainee grandson",
            ),
            "tickle {p} / joke with {p} / juggle eggs for {p} / imitate {p} in a squeaky voice / prank {p} / giggle with {p}",
            "lecture {p} about taxes / read a paper to {p} / explain the rules to {p} / inform {p} of the facts"
            " / instruct {p} / brief {p} on the schedule",
            "amuse {p} with a riddle / tease {p} with puns / dance like a duck for {p} / clown around with {p}"
            " / chuckle with {p} / entertain {p} with faces",
            "advise {p} in a flat voice / discuss duty with {p} / analyze the problem with {p}"
            " / report the numbers to {p} / remind {p} of the deadline / quiz {p} on the law",
        ),
    )
}
