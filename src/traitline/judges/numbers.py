"""Reading a number from 0 to 100 off a language model's answer.

Knows tokens, probabilities and texts. Leaves to `api/chat.py` how they come from a server, and to `openai.py` what a number
means and when one is worth asking for. The expected value over number tokens, instead of the one number written, is the
graded score of "Persona Vectors" (arXiv 2507.21509): it uses the judge's own doubt and has no sampling noise.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

REFUSAL = "REFUSAL"

_DRESSING = " \t\r\n\"'`*“”‘’"
_WHOLE = re.compile(r"100|[1-9]?[0-9]")
_NUMBER = re.compile(r"(?<![0-9.,/–-])(?<!out of )([0-9]{1,3}(?:\.[0-9]+)?)(?![0-9]|[.,/–-][0-9]| out of)")
_SCALE = re.compile(r"(?:/|\bout of\b)\s*100\b")


@dataclass(frozen=True, slots=True)
class Position:
    """One token of an answer.

    Attributes:
        token: the text of the token the model chose.
        alternatives: texts the model could have chosen, each with its probability; the chosen one included.
    """

    token: str
    alternatives: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """What one answer, or several samples of it, says.

    Attributes:
        numbers: value -> probability (or share of the samples); sums to at most 1.
        refusal: probability (or share) of the word REFUSAL.
    """

    numbers: Mapping[float, float]
    refusal: float

    @property
    def mass(self) -> float:
        """The probability that the answer is a number."""
        return math.fsum(self.numbers.values())

    @property
    def mean(self) -> float:
        """The expected number, given that it is one. Undefined where `mass` is 0."""
        return math.fsum(value * p for value, p in self.numbers.items()) / self.mass

    @property
    def spread(self) -> float:
        """The standard deviation around `mean`."""
        mean = self.mean
        return math.sqrt(math.fsum(p * (value - mean) ** 2 for value, p in self.numbers.items()) / self.mass)

    def refuses(self, min_mass: float) -> bool:
        """Return whether REFUSAL outweighs all numbers together and has at least `min_mass` itself."""
        return self.refusal > self.mass and self.refusal >= min_mass

    def to_json(self) -> dict[str, Any]:
        """Return what a cache keeps of this reading."""
        return {"numbers": [[number, p] for number, p in sorted(self.numbers.items())], "refusal": self.refusal}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Self:
        """Return the reading that `to_json` came from."""
        return cls(dict(kept["numbers"]), kept["refusal"])


def token_number(token: str) -> int | None:
    """Return the whole number 0 to 100 that a token spells, spaces and quotes around it left aside."""
    text = token.strip(_DRESSING)
    return int(text) if _WHOLE.fullmatch(text) else None


def begins_refusal(token: str) -> bool:
    """Return whether a token is the word REFUSAL or its first letters, at least two of them."""
    text = token.strip(_DRESSING)
    return len(text) >= 2 and REFUSAL.startswith(text.upper())


def read_positions(positions: Sequence[Position]) -> Reading:
    """Read the first token of an answer that is more than blanks or quotes; tokens that spell the same number add up."""
    answer = _first_word(positions)
    numbers: dict[float, float] = {}
    refusal = 0.0
    for token, probability in positions[answer].alternatives if answer is not None else ():
        number = token_number(token)
        if number is not None:
            numbers[float(number)] = numbers.get(float(number), 0.0) + probability
        elif begins_refusal(token):
            refusal += probability
    return Reading(numbers, refusal)


def read_samples(texts: Sequence[str]) -> Reading:
    """Read several sampled answers; each that holds one clear number, or REFUSAL, has an equal share."""
    found = Counter(number for text in texts if (number := text_number(text)) is not None)
    refused = sum(REFUSAL in text.upper() and text_number(text) is None for text in texts)
    return Reading({value: count / len(texts) for value, count in found.items()}, refused / len(texts))


def text_number(text: str) -> float | None:
    """Return the number 0 to 100 that a short text states: the one it opens with, or else its only one."""
    clean = _SCALE.sub("", re.sub(r"\s*/\s*", "/", text)).strip(_DRESSING)
    found = list(_NUMBER.finditer(clean))
    if not found or (len(found) > 1 and found[0].start() > 0):
        return None
    value = float(found[0].group(1))
    return value if value <= 100 else None


def keeps_whole(asked: int, positions: Sequence[Position]) -> bool | None:
    """Tell from an answer that should repeat `asked` whether the tokeniser writes such numbers as one token.

    Returns:
        True: a number of two digits or more is one token. False: a number was cut into several. None: nothing to see.
    """
    answer = _first_word(positions)
    if answer is None:
        return None
    first = positions[answer]
    digits = first.token.strip(_DRESSING)
    if digits.isascii() and digits.isdigit():
        follows = positions[answer + 1].token if answer + 1 < len(positions) else ""
        cut_short = len(digits) < len(str(asked)) and str(asked).startswith(digits)
        if follows[:1].isdigit() or cut_short:
            return False
    whole = [number for token, _ in first.alternatives if (number := token_number(token)) is not None]
    return True if any(number >= 10 for number in whole) else None


def _first_word(positions: Sequence[Position]) -> int | None:
    return next((i for i, position in enumerate(positions) if position.token.strip(_DRESSING)), None)
