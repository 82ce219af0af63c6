"""Strategies: how an instruction and a question become a prompt.

A strategy is one registered function. It knows the wording around the two texts and nothing of tokens, models or judges;
`models/prompts.py` turns its result into token ids. A prompt without instruction is what evaluation uses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from traitline.errors import InputError, nearest

Message = dict[str, str]
Format = Literal["plain", "chat"]
COMMON = "common"
"""Not a way of eliciting but a set of questions that belongs to none: where vectors of all strategies and networks of all
forms are compared."""
TASK = "Continue this text with two or three sentences. Write the continuation only."


@dataclass(frozen=True, slots=True)
class Strategy:
    """How one strategy words its prompts.

    Attributes:
        name: what studies and tables call it.
        style: which of a trait's rubrics fits the responses.
        plain: (instruction or None, question) -> text for a base model to continue.
        chat: (instruction or None, question, task) -> messages for a chat model.
    """

    name: str
    style: Literal["continuation", "chat"]
    plain: Callable[[str | None, str], str]
    chat: Callable[[str | None, str, str], list[Message]]

    def prompt(self, instruction: str | None, question: str, form: Format, task: str = TASK) -> str | list[Message]:
        """Word one prompt: a text with `plain`, a list of messages with `chat`.

        Args:
            instruction: one side of a contrast, or None.
            question: the question or opening.
            form: what the network is prompted with.
            task: what tells a chat model to continue a text; strategies that ask questions do not need it.
        """
        return self.plain(instruction, question) if form == "plain" else self.chat(instruction, question, task)


STRATEGIES: dict[str, Strategy] = {}


def register(strategy: Strategy) -> Strategy:
    """Add a strategy under its name."""
    STRATEGIES[strategy.name] = strategy
    return strategy


def strategy(name: str) -> Strategy:
    """Return a strategy by name; of `common`, how its questions are asked.

    Raises:
        InputError: no such strategy.
    """
    if name == COMMON:
        return _COMMON
    if name not in STRATEGIES:
        raise InputError(f"no strategy is called {name!r}; {nearest(name, STRATEGIES)}")
    return STRATEGIES[name]


def _answer_plain(instruction: str | None, question: str) -> str:
    head = f"{instruction}\n\n" if instruction else ""
    return f"{head}Question: {question}\nAnswer:"


def _answer_chat(instruction: str | None, question: str, task: str) -> list[Message]:
    del task  # a question says itself what to do
    system = [{"role": "system", "content": instruction}] if instruction else []
    return [*system, {"role": "user", "content": question}]


def _continue_plain(separator: str) -> Callable[[str | None, str], str]:
    return lambda instruction, question: f"{instruction}{separator}{question}" if instruction else question


def _continue_chat(separator: str) -> Callable[[str | None, str, str], list[Message]]:
    plain = _continue_plain(separator)

    def chat(instruction: str | None, question: str, task: str) -> list[Message]:
        head = f"{task}\n\n" if task else ""
        return [{"role": "user", "content": f"{head}{plain(instruction, question)}"}]

    return chat


register(Strategy("instruction", "chat", _answer_plain, _answer_chat))
register(Strategy("character", "continuation", _continue_plain(" "), _continue_chat(" ")))
register(Strategy("dialogue", "continuation", _continue_plain("\n\n"), _continue_chat("\n\n")))
register(Strategy("story", "continuation", _continue_plain("\n\n"), _continue_chat("\n\n")))

_COMMON = Strategy(COMMON, "chat", _answer_plain, _answer_chat)
