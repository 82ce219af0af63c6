"""The command `steer`: one prompt, or a conversation, with the baseline beside several doses.

Knows the options and where the prompt comes from. Whatever can be wrong with what was asked is found before the weights are
loaded. Leaves turns to `conversation.py` and drawing to `columns.py`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from traitline.cli.checkpoints import located
from traitline.cli.console import JsonOption, note, print_json
from traitline.cli.models import Dose, LengthOption, ModelArgument, Positions, RevisionOption, SeedOption, TemperatureOption
from traitline.errors import InputError

if TYPE_CHECKING:
    from traitline.cli.conversation import Conversation
    from traitline.vectors import PersonaVector

COEFS = (0.3, 0.6)
STOPPED = 130


def steer(
    model: ModelArgument,
    vector: Annotated[Path, typer.Argument(metavar="VECTOR", help="A vector file, .safetensors.")],
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="What to answer; without it, the piped input, or line after line."),
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Whose output the vector is added to, from 1.", show_default="the middle")
    ] = None,
    coef: Annotated[
        list[float] | None,
        typer.Option(help="A coefficient; repeat for more. Negative ones steer away.", show_default="0.3 and 0.6"),
    ] = None,
    dose: Annotated[
        Dose,
        typer.Option(
            help="norm: times activation norm and unit vector; raw: times the vector; kl: nats by which the next token moves."
        ),
    ] = Dose.norm,
    positions: Annotated[Positions, typer.Option(help="Which positions are steered.")] = Positions.response,
    revision: RevisionOption = None,
    max_new_tokens: LengthOption = 64,
    temperature: TemperatureOption = 1.0,
    seed: SeedOption = 0,
    chat: Annotated[bool, typer.Option("--chat", help="Hold a conversation; each column remembers its own answers.")] = False,
    system: Annotated[str | None, typer.Option(help="A system message; chat models only.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Continue the text even where the model has a chat template.")] = False,
    as_json: JsonOption = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours; the numbers stand in the table.")] = False,
) -> None:
    """Show what a model says without and with steering, side by side, while it says it.

    All columns draw the same random numbers. Each token is coloured by its projection onto the vector: blue below and red
    above neutral texts. A chat model is asked as a user would, a base model continues the text.
    """
    from traitline.cli.conversation import Conversation, Settings
    from traitline.vectors import PersonaVector

    if as_json and chat:
        raise InputError("--json answers one prompt and --chat holds a conversation; leave one of them out")
    if plain and (chat or system is not None):
        raise InputError("--plain continues a text, without turns or system message; leave it or the other out")
    direction = PersonaVector.load(vector)
    settings = Settings(
        layer=_middle(direction) if layer is None else layer,
        coefs=tuple(dict.fromkeys(coef or COEFS)),
        dose=dose.value,
        positions=positions.value,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        system=system,
        remember=chat,
    )
    settings.steers(direction)
    source, revision = located(model, revision)
    text = _prompt(prompt, asking=not as_json and (chat or sys.stdin.isatty()))

    import traitline as tl

    loaded = tl.load_model(source, revision)
    if (chat or system is not None) and not loaded.is_chat:
        what = "hold a conversation" if chat else "take a system message"
        raise InputError(f"{loaded.source!r} has no chat template, so it cannot {what}; give its prompts as texts to continue")
    held = Conversation(loaded, direction, replace(settings, template=loaded.is_chat and not plain))
    doses = ", ".join(f"{one:+g}" for one in settings.coefs)
    where = f"layer {settings.layer} of {loaded.layers}{' (the middle)' if layer is None else ''}"
    note(f"{loaded!r}\n{where}, coefficients {doses} (dose {dose.value}, {positions.value} positions)")
    if direction.provenance.fragile:
        note("this vector is fragile: it rests on too few pairs or questions to lean on")
    if as_json:
        print_json({"model": model, "vector": vector, "prompt": text, **_answers(held, text or "")})
        return
    _show(held, text, chat=chat, no_color=no_color)


def _show(held: Conversation, text: str | None, *, chat: bool, no_color: bool) -> None:
    from rich.console import Console

    from traitline.cli.conversation import answer, converse

    console = Console(no_color=no_color or None, highlight=False)
    if chat or text is None:
        converse(held, console, first=text)
    elif not answer(held, text, console):
        raise typer.Exit(STOPPED)


def _answers(held: Conversation, text: str) -> dict[str, Any]:
    """Answer one prompt silently. Returns what `--json` tells of it."""
    from traitline.cli.columns import take

    stream, columns = held.ask(text)
    for step in stream:
        take(step, columns)
    now, axis = held.settings, stream.axis
    rows = [
        {
            "condition": "baseline" if column.coef is None else "steered",
            "dose": None if column.coef is None else now.dose,
            "coef": column.coef,
            "text": column.text,
            "tokens": [{"text": token.text, "projection": token.projection} for token in column.tokens],
            "finish": column.finish,
            "mean_projection": column.mean_projection,
        }
        for column in columns
    ]
    return {
        "layer": now.layer,
        "positions": now.positions,
        "temperature": now.temperature,
        "seed": now.seed,
        "activation_norm": axis.activation_norm,
        "neutral": {"median": axis.neutral, "low": axis.low, "high": axis.high},
        "rows": rows,
    }


def _middle(vector: PersonaVector) -> int:
    """Return the layer in the middle, or the nearest to it at which the vector has a direction."""
    middle = (vector.layers + 1) // 2
    return min(vector.held_layers, key=lambda layer: abs(layer - middle), default=middle)


def _prompt(given: str | None, *, asking: bool) -> str | None:
    """Return the prompt given, or what is piped in; None where the user is to be asked line after line.

    Raises:
        InputError: no prompt is given and none is piped in, or it is not text.
    """
    if given is not None or asking:
        return given
    if sys.stdin.isatty():
        raise InputError("--json needs a prompt: give PROMPT, or pipe one in")
    try:
        piped = sys.stdin.read().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"what is piped in is not UTF-8 text ({error.reason}); convert it first") from error
    if not piped:
        raise InputError("there is no prompt: give PROMPT, or pipe one in")
    return piped
