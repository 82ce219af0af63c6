"""The command `extract`: a persona vector from one model; and the options that it shares with `steer`.

Leaves the work to the verbs of `api.py`. Whatever can be wrong with what was asked is found before the weights are loaded.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from traitline.cli.checkpoints import located
from traitline.cli.console import JsonOption, count, known, new_file, note, print_json, say

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A directory, a hub id, or LINEAGE:CHECKPOINT such as nano:step2000.")
]
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
    kl = "kl"


def extract(
    model: ModelArgument,
    trait: Annotated[str, typer.Option(help="A packaged trait's name, or a trait file.")],
    out: Annotated[Path, typer.Option(help="The vector file to write, .safetensors; never overwritten.")],
    judge: Annotated[
        str | None, typer.Option(help="Who scores, for example openai:MODEL or local:MODEL; nano on nano, else distilled.")
    ] = None,
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
    from traitline.judges import default_judge
    from traitline.nano.pretrain import cache_folder

    new_file(out)
    looked_for = tl.trait(trait)
    looked_for.texts(strategy)
    source, revision = located(model, revision)
    scorer = tl.judge(judge or default_judge(model.partition(":")[0]), cache=cache_folder().parent / "judge-cache.sqlite")
    loaded = tl.load_model(source, revision)
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
