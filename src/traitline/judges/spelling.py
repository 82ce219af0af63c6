"""How a tokenizer writes the numbers 0 to 100 as the first thing of an answer.

Knows token ids and the tree they make: "1", "10" and "100" share their beginning, so a number is a point of the tree at which
the answer may end. Leaves the probabilities to `walk.py`.

Counted is the tokenizer's own way of writing each number right after the opening of the answer, and the same after a space,
where that differs. Not counted are detours a model is not trained to write, such as "1" + "0" where "10" is a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from traitline.errors import JudgeError
from traitline.judges.numbers import begins_refusal

NUMBERS = range(101)
_LEADS = ("", " ")


@dataclass(frozen=True, slots=True)
class Branch:
    """A point of the tree of numbers.

    Attributes:
        number: what the tokens up to here spell; None where that is not a number yet, as after a space.
        branches: token id -> the point it leads to. A number ends here unless one of these tokens follows.
    """

    number: int | None
    branches: Mapping[int, Branch]


@dataclass(frozen=True, slots=True)
class Spellings:
    """What the first tokens of an answer can mean.

    Attributes:
        tree: where the answer begins.
        paths: each number's ways of being written, as token ids; what the tree is made of.
        refusals: ids of the tokens that begin the word REFUSAL.
    """

    tree: Branch
    paths: tuple[tuple[int, tuple[int, ...]], ...]
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
    refusals = (
        i for word, i in tokenizer.get_vocab().items() if "re" in word.lower() and begins_refusal(tokenizer.decode([i]))
    )
    return Spellings(_grow(paths), tuple((number, ids) for ids, number in paths.items()), tuple(sorted(refusals)))


def _ways(tokenizer: Any, opening: str, digits: str) -> Iterator[tuple[int, ...]]:
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


def _grow(paths: Mapping[tuple[int, ...], int], stem: tuple[int, ...] = ()) -> Branch:
    """Return the point that `stem` leads to, with all that follows it."""
    following = dict.fromkeys(ids[len(stem)] for ids in paths if len(ids) > len(stem) and ids[: len(stem)] == stem)
    return Branch(paths.get(stem), {token: _grow(paths, (*stem, token)) for token in following})
