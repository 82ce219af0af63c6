"""One prompt after another, each answered by the baseline and by every dose; in a chat every column keeps its own history.

Knows the commands that begin with a slash, what is remembered, when Ctrl-C stops and when it leaves, and the context window.
Leaves drawing to `columns.py` and generation to the verbs of `api.py`.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, field, replace

from rich.console import Console

import traitline as tl
from traitline.api import Stream
from traitline.cli.columns import Column, explain, follow, summarise
from traitline.cli.console import note, say
from traitline.errors import InputError, TraitlineError, nearest
from traitline.models.generate import Positions
from traitline.models.prompts import Message, Prompt, encode
from traitline.vectors import Steer

COMMANDS = {
    "/coef": "/coef 0.3 -0.6   other coefficients; a new one goes on from the baseline's conversation",
    "/layer": "/layer 12        steer and project at another layer",
    "/system": "/system TEXT     another system message from now on; without TEXT none",
    "/reset": "/reset           forget the conversation",
    "/help": "/help            this list",
    "/quit": "/quit            leave; so do the end of the input and Ctrl-C pressed twice",
}


@dataclass(frozen=True)
class Settings:
    """How prompts are asked and steered.

    Attributes:
        layer: where the vector is added and projected onto.
        coefs: one column each, beside the baseline.
        dose: what a coefficient means.
        positions: which positions are steered.
        max_new_tokens: where a response is cut.
        temperature: 0 is greedy.
        seed: of the first prompt's sampling; each further one takes the next.
        system: the system message, if any.
        template: prompts go through the model's chat template.
        remember: earlier turns stay in the prompt.
    """

    layer: int
    coefs: tuple[float, ...]
    dose: str = "norm"
    positions: Positions = "response"
    max_new_tokens: int = 64
    temperature: float = 1.0
    seed: int = 0
    system: str | None = None
    template: bool = False
    remember: bool = False

    def steers(self, vector: tl.PersonaVector) -> list[Steer | None]:
        """Return each column's steer, the baseline's first.

        Raises:
            InputError: a layer, coefficient or dose that does not fit the vector.
        """
        how = {"dose": self.dose, "positions": self.positions}
        return [None, *(tl.steer(vector, self.layer, coef, **how) for coef in self.coefs)]  # type: ignore[arg-type]


@dataclass
class Conversation:
    """A model, a vector, and what was said so far under each coefficient."""

    model: tl.Model
    vector: tl.PersonaVector
    settings: Settings
    histories: dict[float | None, list[Message]] = field(default_factory=dict)
    turn: int = 0

    def ask(self, text: str) -> tuple[Stream, list[Column]]:
        """Begin to answer a prompt. Returns the stream and its columns, still empty.

        Raises:
            InputError: the prompt cannot be encoded, or with the history it does not fit the model's window.
        """
        now = self.settings
        if text != text.encode("utf-8", "replace").decode():
            raise InputError("the prompt holds bytes that are not UTF-8 text; convert it first")
        columns = [Column(coef) for coef in (None, *now.coefs)]
        prompts = [encode(self.model, self._prompt(text, column.coef)) for column in columns]
        stream = tl.stream(
            self.model,
            prompts,
            self.vector,
            now.layer,
            steer=now.steers(self.vector),
            max_new_tokens=self._room(columns, prompts),
            temperature=now.temperature,
            seed=now.seed + self.turn,
        )
        return stream, columns

    def keep(self, text: str, columns: list[Column]) -> None:
        """Remember a turn: what was asked, and in each column what that column answered."""
        self.turn += 1
        if self.settings.remember:
            for column in columns:
                said = [{"role": "user", "content": text}, {"role": "assistant", "content": column.text}]
                self.histories.setdefault(column.coef, []).extend(said)

    def reset(self) -> None:
        """Forget the conversation."""
        self.histories.clear()
        self.turn = 0

    def change(self, **changes: object) -> None:
        """Change settings from the next turn on; a new coefficient goes on from what the baseline said.

        Raises:
            InputError: a setting that does not fit the vector; everything stays as it was.
        """
        changed = replace(self.settings, **changes)  # type: ignore[arg-type]
        changed.steers(self.vector)
        self.settings = changed
        baseline = self.histories.get(None, [])
        self.histories = {coef: self.histories.get(coef, list(baseline)) for coef in (None, *changed.coefs)}

    def _prompt(self, text: str, coef: float | None) -> Prompt:
        if not self.settings.template:
            return text
        first = [{"role": "system", "content": self.settings.system}] if self.settings.system else []
        return [*first, *self.histories.get(coef, []), {"role": "user", "content": text}]

    def _room(self, columns: list[Column], prompts: list[list[int]]) -> int:
        """Return how many tokens may be generated: as many as asked for, or as the model's window has left."""
        window = getattr(self.model.network.config.get_text_config(), "max_position_embeddings", None)
        if window is None:
            return self.settings.max_new_tokens
        longest = max(range(len(prompts)), key=lambda i: len(prompts[i]))
        left = int(window) - len(prompts[longest])
        if left < 1:
            what, remedy = (
                ("conversation", "type /reset to begin another") if any(self.histories.values()) else ("prompt", "shorten it")
            )
            raise InputError(
                f"the {what} ({columns[longest].label}) is {len(prompts[longest])} tokens long and the model's window holds "
                f"{window}, so there is no room for an answer; {remedy}"
            )
        if left < self.settings.max_new_tokens:
            note(f"answers are cut at {left} tokens: the model's window of {window} holds no more")
        return min(self.settings.max_new_tokens, left)


def answer(conversation: Conversation, text: str, console: Console, *, told: int | None = None) -> bool:
    """Answer one prompt on the screen and remember the turn.

    Args:
        conversation: who answers.
        text: the prompt.
        console: where.
        told: the layer whose projections were explained before, so that they are not again.

    Returns:
        Whether the answers came to their end; False where Ctrl-C stopped them.
    """
    stream, columns = conversation.ask(text)
    whole = follow(stream, columns, console)
    summarise(columns)
    if told != conversation.settings.layer:
        explain(stream.axis, conversation.vector.provenance.trait, console)
    if whole or any(column.tokens for column in columns):
        conversation.keep(text, columns)
    return whole


def converse(conversation: Conversation, console: Console, first: str | None = None) -> None:
    """Answer line after line until the user leaves. An error is told, and the next line is read."""
    note("type a prompt, or /help")
    told, leaving, line = None, False, first
    while True:
        try:
            line = _read(console) if line is None else line
        except EOFError:
            return
        except KeyboardInterrupt:
            if leaving:
                return
            leaving = True
            note("\nCtrl-C again leaves, and so does /quit")
            continue
        leaving = False
        try:
            if line.startswith("/"):
                if not obey(conversation, line):
                    return
            elif line.strip():
                leaving = not answer(conversation, line, console, told=told)
                told = conversation.settings.layer
        except KeyboardInterrupt:
            leaving = True
        except TraitlineError as error:
            note(f"error: {error}")
        if leaving:
            note("stopped; what was said stays. Ctrl-C again leaves")
        line = None


def obey(conversation: Conversation, line: str) -> bool:
    """Do what a line that begins with a slash says. Returns whether to go on.

    Raises:
        InputError: no such command, or one that cannot be done.
    """
    command, _, rest = line.strip().partition(" ")
    rest = rest.strip()
    if command == "/quit":
        return False
    if command == "/help":
        say("\n".join(COMMANDS.values()))
    elif command == "/reset":
        conversation.reset()
        note("the conversation begins again")
    elif command == "/coef":
        conversation.change(coefs=tuple(dict.fromkeys(_number(word) for word in rest.replace(",", " ").split())) or _none())
        note(f"coefficients {', '.join(f'{coef:+g}' for coef in conversation.settings.coefs)}")
    elif command == "/layer":
        if not rest.isdecimal():
            raise InputError(
                f"a layer is a whole number from 1, not {rest!r}; for example /layer {conversation.settings.layer}"
            )
        conversation.change(layer=int(rest))
        note(f"layer {rest}")
    elif command == "/system":
        if not conversation.settings.template:
            raise InputError("prompts are continued as plain text here, so no system message can be given")
        conversation.change(system=rest or None)
        note("system message set" if rest else "no system message")
    else:
        raise InputError(f"no command is called {command!r}; {nearest(command, COMMANDS)}")
    return True


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError as error:
        raise InputError(f"{word!r} is not a number; for example /coef 0.3 -0.6") from error


def _none() -> tuple[float, ...]:
    raise InputError("give at least one coefficient; for example /coef 0.3 -0.6")


def _read(console: Console) -> str:
    """Read one line of the user's; a line that comes through a pipe is shown, so that the output can be read alone."""
    if sys.stdin.isatty() and console.is_terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - arrows and history in `input`
        return input("> ")
    try:
        line = sys.stdin.readline()
    except UnicodeDecodeError as error:
        raise InputError(f"what is piped in is not UTF-8 text ({error.reason}); convert it first") from error
    if not line:
        raise EOFError
    say(f"> {line.rstrip()}")
    return line.rstrip("\r\n")
