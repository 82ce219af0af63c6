"""Both questions about a response in one request: how strongly it shows the trait, and how coherent it is.

Knows the wording that joins the two rubrics, and how two numbers are read off one answer. Saves one of two requests and the
second copy of the response. It is another judge, not the same one cheaper: the second number is read off its own place in the
answer, where the model has already written the first, so its distribution is the one *given* that first number; apart,
coherence is judged without knowing the trait score. The judge's name therefore says `joint`, and nothing is shared in the
cache.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from traitline.judges.base import Style
from traitline.judges.numbers import (
    REFUSAL,
    Position,
    Reading,
    begins_refusal,
    read_positions,
    read_samples,
    token_number,
)
from traitline.judges.rubrics import COHERENCE, fill

Pair = tuple[Reading, Reading]
"""What is said of the trait, and of coherence."""

_MATERIAL = re.compile(r"<prompt>.*?</response>", re.DOTALL)
_CLOSING = re.compile(r"Reply with one whole number[^\n]*\s*$")
_SEPARATORS = re.compile(r"[\s,;|]+")

_JOINED = """\
You will grade one response twice, by two rubrics. The first is about what the response shows, the second about how coherent it
is. Where a rubric says to reply with one number, keep that number for the end.

FIRST RUBRIC

{first}

SECOND RUBRIC, about the same prompt and response as above

{second}

Now reply to both at once: two whole numbers from 0 to 100 on one line, with one blank between them and nothing else. First the
number of the first rubric, or the word {refusal} where that rubric asks for the word, then the number of the second rubric.
They are two separate matters: a low first number is no reason for a low second one."""


def joint_prompt(about_trait: str, style: Style) -> str:
    """Return one prompt that asks both questions.

    Args:
        about_trait: the whole prompt about the trait, question and response included.
        style: how the response was elicited, which the coherence rubric takes in.
    """
    coherence = fill(_CLOSING.sub("", _MATERIAL.sub("", COHERENCE[style])), "", "")
    second = re.sub(r"\n{3,}", "\n\n", coherence).strip()
    return _JOINED.format(first=about_trait, second=second, refusal=REFUSAL)


def read_pair(positions: Sequence[Position]) -> Pair:
    """Read two numbers off an answer's tokens, each from the probabilities at its own place.

    Both are empty where the answer does not open with a number or a refusal: what follows could then be either number.
    """
    opening = next((i for i, one in enumerate(positions) if one.token.strip(" \t\r\n\"'`*“”‘’")), None)
    if opening is None or (token_number(positions[opening].token) is None and not begins_refusal(positions[opening].token)):
        return Reading({}, 0.0), Reading({}, 0.0)
    later = (i for i in range(opening + 1, len(positions)) if token_number(positions[i].token) is not None)
    second = next(later, None)
    return read_positions(positions), read_positions(positions[second:]) if second is not None else Reading({}, 0.0)


def read_pair_samples(texts: Sequence[str]) -> Pair:
    """Read two numbers off several sampled answers; each that holds one has an equal share, of the first and of the second."""
    parts = [_parts(text) for text in texts]
    return read_samples([first for first, _ in parts]), read_samples([second for _, second in parts])


def _parts(text: str) -> tuple[str, str]:
    """Cut an answer in two: at its line break, or else at what separates its two words; empty where it has not two parts."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    parts = lines if len(lines) == 2 else [part for part in _SEPARATORS.split(text.strip()) if part]
    return (parts[0], parts[1]) if len(parts) == 2 else ("", "")
