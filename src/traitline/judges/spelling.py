"""How a tokenizer writes the numbers 0 to 100 as the first thing of an answer.

Knows token ids and the tree they make: "1", "10" and "100" share their beginning, so a number is a point of the tree at which
the answer may end. Leaves the probabilities to `walk.py`.

Counted is the tokenizer's own way of writing each number right after the opening of the answer, and the same after a space,
where that differs. Not counted are detours a model is not trained to write, such as "1" + "0" where "10" is a token, and what
goes on to be no number from 0 to 100: "850", "1000" and "05" are neither 85, 100 and 5 nor anything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from traitline.errors import JudgeError
from traitline.judges.numbers import begins_refusal

Ids = tuple[int, ...]

NUMBERS = range(101)
_LEADS = ("", " ")
_LONGER = tuple(dict.fromkeys(f"{number}{digit}" for number in NUMBERS for digit in range(10)))
_DIGIT = re.compile(r"[0-9]|<0x3[0-9]>")
"""How a vocabulary spells a token that begins with a digit: as it is, or as one of 256 bytes."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A point of the tree of numbers.

    Attributes:
        number: what the tokens up to here spell; None where that is not a number yet, as after a space.
        branches: token id -> the point it leads to.
        open: the tokenizer writes some longer number by going on from here, so that `number` is meant only where no digit
            follows.
    """

    number: int | None
    branches: Mapping[int, Branch]
    open: bool


@dataclass(frozen=True, slots=True)
class Spellings:
    """What the first tokens of an answer can mean.

    Attributes:
        tree: where the answer begins.
        paths: each number's ways of being written, as token ids; what the tree is made of.
        digits: ids of the tokens that begin with a digit.
        refusals: ids of the tokens that begin the word REFUSAL.
    """

    tree: Branch
    paths: tuple[tuple[int, Ids], ...]
    digits: tuple[int, ...]
    refusals: tuple[int, ...]

    @property
    def depth(self) -> int:
        """Tokens of the longest number."""
        return max(len(ids) for _, ids in self.paths)


def find_spellings(tokenizer: Any, opening: str) -> Spellings:
    """Find out how a tokenizer writes the numbers.

    Args:
        tokenizer: a transformers tokenizer.
        opening: a prompt as the network will see it, up to where the answer begins.

    Raises:
        JudgeError: the tokenizer cannot write some of the numbers.
    """
    paths: dict[tuple[int, ...], int] = {}
    for number in NUMBERS:
        written = [ids for ids in _ways(tokenizer, opening, str(number)) if _reads(tokenizer, ids) == str(number)]
        if not written:
            raise JudgeError(
                f"the tokenizer of this judge cannot write the number {number}, so it cannot give scores from 0 to 100; "
                "take a chat model whose vocabulary has digits"
            )
        paths.update(dict.fromkeys(written, number))
    longer = {ids for digits in _LONGER for ids in _ways(tokenizer, opening, digits)}
    stems = {ids[:n] for ids in longer for n in range(1, len(ids))}
    vocabulary = tokenizer.get_vocab()
    digits = (i for word, i in vocabulary.items() if _DIGIT.match(word))
    refusals = (i for word, i in vocabulary.items() if "re" in word.lower() and begins_refusal(tokenizer.decode([i])))
    return Spellings(
        _grow(paths, stems),
        tuple((number, ids) for ids, number in paths.items()),
        tuple(sorted(digits)),
        tuple(sorted(refusals)),
    )


def _ways(tokenizer: Any, opening: str, digits: str) -> Iterator[Ids]:
    """Yield the token ids that may follow the opening to spell these digits."""
    before = _ids(tokenizer, opening)
    for lead in _LEADS:
        ids = _ids(tokenizer, opening + lead + digits)
        if ids[: len(before)] == before and len(ids) > len(before):
            yield ids[len(before) :]
        elif not lead:  # text would merge with the end of the opening; tokens already there take the number by itself
            yield _ids(tokenizer, digits)


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _reads(tokenizer: Any, ids: tuple[int, ...]) -> str:
    return "".join(tokenizer.decode(list(ids)).split())


def _grow(paths: Mapping[Ids, int], stems: Set[Ids], stem: Ids = ()) -> Branch:
    """Return the point that `stem` leads to, with all that follows it."""
    following = dict.fromkeys(ids[len(stem)] for ids in paths if len(ids) > len(stem) and ids[: len(stem)] == stem)
    return Branch(paths.get(stem), {token: _grow(paths, stems, (*stem, token)) for token in following}, stem in stems)
