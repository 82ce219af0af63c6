"""What a text must be to become part of a trait: some words, no placeholder, no copy, and not the trait's own name.

Knows single texts and their likeness to others. Leaves the form of each part to `parts.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from traitline.traits.check import NEAR, left_in
from traitline.traits.similarity import likeness, normalised, words

TOO_NEAR = NEAR - 0.05
"""Likeness from which a text is asked for again: a little under that of `check`, which shifts with the set of texts."""

_SPOKEN = re.compile(r"^([^\W\d][^:\n]{0,30}):[ \t]*(.*)$")


def stem_of(name: str) -> str:
    """Return what a trait's name has in common with words made from it: `pessimis` of `pessimistic`."""
    shown = name.replace("_", " ")
    return shown if len(shown) <= 5 else shown[: max(5, len(shown) - 3)]


def named(name: str, text: str) -> bool:
    """Tell whether a text names a trait, in any form of the word."""
    return any(word.startswith(stem_of(name)) for word in words(text)) or name.replace("_", " ") in normalised(text)


def unfit(what: str, text: str, longest: int, fewest: int = 3) -> Iterator[str]:
    """Say why a text cannot be used as any part of a trait.

    Args:
        what: what the text is called.
        text: the text.
        longest: the most words it may have.
        fewest: the fewest.
    """
    said = len(words(text))
    if not said:
        yield f"{what} is missing or no text"
    elif not fewest <= said <= longest:
        yield f"{what} has {said} words; use {fewest} to {longest}"
    for found in left_in(text):
        yield f"{what} has a placeholder in it, {found!r}"
    if "{" in text or "}" in text:
        yield f"{what} has braces in it"


def copies(texts: Sequence[str], known: Sequence[str], *, among: bool = True) -> list[str]:
    """Return for each text the one that it nearly repeats, "" where there is none.

    Args:
        texts: what to look at.
        known: what may be repeated.
        among: whether a text may also repeat one before it.
    """
    everything = [*known, *texts]
    alike, found = likeness(everything), [""] * len(texts)
    for i in range(len(texts)):
        row = alike[len(known) + i, : len(known) + (i if among else 0)]
        if len(row) and row.max() >= TOO_NEAR:
            found[i] = everything[int(row.argmax())]
    return found


def speaker(line: str) -> str | None:
    """Return who speaks in a line of a scene, None where nobody does."""
    found = _SPOKEN.match(line.strip())
    return found[1].strip() if found else None
