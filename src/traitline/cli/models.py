"""The commands for one model: `extract` a persona vector from it, `steer` it with one.

Knows the options and how texts are laid side by side. Leaves the work to the verbs of `api.py`. Whatever can be wrong with
what was asked is found before the weights are loaded.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from traitline.cli.console import JsonOption, count, known, new_file, note, print_json, print_table, say

if TYPE_CHECKING:
    from traitline.models import Generation

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A hub id, or a local checkpoint directory.")]
RevisionOption = Annotated[str | None, typer.Option(help="The revision on the hub.")]
LengthOption = Annotated[int, typer.Option(min=1, help="Tokens at which a response is cut.")]
TemperatureOption = Annotated[float, typer.Option(min=0.0, help="0 is greedy.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the sampling.")]


class Positions(StrEnum):
    """Which positions of a row a vector is added to."""

    response = "response"
    prompt = "prompt"
    all = "all"


class Dose(StrEnum):
    """How a coefficient is meant."""

    norm = "norm"
    raw = "raw"


def extract(
    model: ModelArgument,
    trait: Annotated[str, typer.Option(help="A packaged trait's name, or a trait file.")],
    judge: Annotated[str, typer.Option(help="For example openai:gpt-4.1-mini, or nano.")],
    out: Annotated[Path, typer.Option(help="The vector file to write, .safetensors; never overwritten.")],
    strategy: Annotated[str, typer.Option(help="How the trait is elicited.")] = "character",
    revision: RevisionOption = None,
    samples: Annotated[int, typer.Option(min=1, help="Responses per contrast, question and polarity.")] = 1,
    max_new_tokens: LengthOption = 64,
    temperature: TemperatureOption = 1.0,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Elicit a trait from a model, judge what it says, and save the persona vector."""
    import traitline as tl
    from traitline.nano.pretrain import cache_folder

    new_file(out)
    looked_for = tl.trait(trait)
    looked_for.texts(strategy)
    scorer = tl.judge(judge, cache=cache_folder().parent / "judge-cache.sqlite")
    loaded = tl.load_model(model, revision)
    note(f"eliciting {looked_for.name} from {loaded!r}")
    rows = tl.elicit(
        loaded,
        looked_for,
        strategy,
        judge=scorer,
        samples=samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    vector = tl.extract(loaded, rows, seed=seed)
    path = vector.save(new_file(out)).resolve()
    origin = vector.provenance
    found = {"pairs": origin.n_pairs, "questions": origin.n_questions, "fragile": origin.fragile}
    if as_json:
        print_json({"vector": path, "trait": looked_for.name, "strategy": strategy, "rows": len(rows), **found})
        return
    say(f"{known(origin.n_pairs, count)} accepted pairs from {known(origin.n_questions, count)} questions, {len(rows)} rows")
    if origin.fragile:
        say("fragile: too few pairs or questions to lean on; elicit more samples")
    say(path)


def steer(
    model: ModelArgument,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The text to continue, or with --chat the user's message.")],
    vector: Annotated[Path, typer.Option(help="A vector file, .safetensors.")],
    layer: Annotated[int, typer.Option(help="Whose block output the vector is added to, from 1.")],
    coef: Annotated[list[float], typer.Option(help="The coefficient; may be given several times.")],
    dose: Annotated[Dose, typer.Option(help="norm: times the activation norm and the unit vector; raw: times the vector.")] = (
        Dose.norm
    ),
    positions: Annotated[Positions, typer.Option(help="Which positions are steered.")] = Positions.response,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt through the model's chat template.")] = False,
    revision: RevisionOption = None,
    max_new_tokens: LengthOption = 64,
    temperature: TemperatureOption = 1.0,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Show what a model says to one prompt, unsteered and steered, side by side; all share their random numbers."""
    import traitline as tl

    direction = tl.PersonaVector.load(vector)
    steers = [tl.steer(direction, layer, one, dose=dose.value, positions=positions.value) for one in coef]
    loaded = tl.load_model(model, revision)
    asked = [{"role": "user", "content": prompt}] if chat else prompt

    def respond(one: tl.Steer | None) -> Generation:
        return tl.generate(loaded, [asked], steer=one, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)[
            0
        ]  # one prompt a call, so that each draws the same random numbers

    baseline, steered = respond(None), [respond(one) for one in steers]
    if as_json:
        pairs = zip(coef, steered, strict=True)
        texts = [{"coef": one, "text": found.text, "finish": found.finish} for one, found in pairs]
        print_json({"prompt": prompt, "layer": layer, "dose": dose.value, "baseline": baseline.text, "steered": texts})
        return
    if direction.provenance.fragile:
        note("this vector is fragile: it rests on too few pairs or questions to lean on")
    columns = ["baseline", *(f"coef {one:g}" for one in coef)]
    texts_in_row = [found.text if found.text.strip() else "(nothing)" for found in (baseline, *steered)]
    print_table(f"{prompt}\n(layer {layer}, dose {dose.value}, {positions.value} positions)", columns, [texts_in_row])
