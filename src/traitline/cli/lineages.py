"""The commands for lineages: `lineages list`, `show`, `refresh`. Leaves reading and drawing them to `lineages/`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from traitline.cli.console import JsonOption, count, harmless, known, new_file, note, print_json, print_table, say, size
from traitline.errors import InputError

if TYPE_CHECKING:
    from traitline.lineages import Checkpoint, Lineage

EMBEDDED = {
    "nano": "The embedded lineage: a small model pretrained on this machine when it is first needed.",
    "smollm2": "A real language model without a hub: SmolLM2-135M-Instruct, prompted plainly and as a chat model.",
}
WIDEST, LABEL = 100, 18
"""Columns of a timeline at most, and of the stages' names before it."""
TOLD = ("parameters", "dtype", "bytes_per_checkpoint", "layers", "hidden", "sources", "unverified")

app = typer.Typer(name="lineages", help="See whose training history can be traced.", no_args_is_help=True)


@app.command(name="list")
def list_(as_json: JsonOption = False) -> None:
    """List the packaged lineages."""
    from traitline.lineages import load_lineage, packaged_lineages

    # those made on this machine are described here, for their own rooms wait for torch
    found = {name: EMBEDDED.get(name) or load_lineage(name).description for name in packaged_lineages()}
    if as_json:
        print_json({"lineages": [{"name": name, "description": text} for name, text in found.items()]})
        return
    print_table("Lineages", ("name", "description"), found.items())


@app.command()
def show(
    lineage: Annotated[
        str, typer.Argument(metavar="LINEAGE", help="A packaged name, a YAML file, or a folder of checkpoints.")
    ],
    grid: Annotated[
        int | None, typer.Option(metavar="K", min=1, help="Choose so many checkpoints instead of the default ones.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a lineage's timeline, its checkpoints, its descendants, and what is known of it."""
    from traitline.lineages import load_lineage

    found = load_lineage(lineage)
    chosen = found.grid(grid) if grid is not None else found.checkpoints
    if as_json:
        nodes = {"checkpoints": [asdict(one) for one in chosen], "descendants": [asdict(one) for one in found.descendants]}
        told = {name: getattr(found, name) for name in TOLD}
        print_json({"name": found.name, "description": found.description, "grid": grid, **nodes, **told})
        return
    say(f"{found.name}: {found.description}")
    if about := _about(found):
        say(about)
    _print_timeline(found, chosen, "the default" if grid is None else "a grid")
    _print_checkpoints(chosen)
    if found.revisions is not None:
        say("A study may name any other revision of this model, or how many checkpoints it takes.")
    _print_descendants(found)
    for title, texts in (("Sources", found.sources), ("Not verified", found.unverified)):
        if texts:
            say(f"\n{title}")
            for text in texts:
                say(f"- {text}")


@app.command()
def refresh(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model's id on the hub, or the packaged lineage of a model there.")
    ],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the lineage there, to a new file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Read the names of a model's branches on the hub, and propose a lineage file."""
    from traitline.files import write_whole
    from traitline.lineages.refresh import propose, read_repository

    if out is not None:
        new_file(out)
        if out.suffix not in {".yaml", ".yml"}:
            raise InputError(f"{str(out)!r} would not be found as a lineage; give a file that ends in .yaml")
    found = propose(read_repository(_on_the_hub(model)))
    if out is not None:
        write_whole(out, found.text)
    if as_json:
        fields = found.file.model_dump(mode="json", exclude_defaults=True)
        print_json({"lineage": fields, "not_understood": found.strange, "notes": found.notes, "file": out})
        return
    if out is None:
        say(found.text.rstrip("\n"))
    else:
        say(f"written: {out}; look it through, then see it with 'traitline lineages show {out}'")
    for text in found.notes:
        note(text)


def _on_the_hub(model: str) -> str:
    """Return the id of a model, given that or a packaged lineage."""
    from traitline.lineages import load_lineage, packaged_lineages

    if model in EMBEDDED:
        raise InputError(f"the lineage {model!r} is made on this machine and is on no hub; give a model's id")
    return load_lineage(model).checkpoints[0].source if model in packaged_lineages() else model


def _about(found: Lineage) -> str:
    """Return what is known of the model's size, in a line."""
    parts = []
    if found.parameters is not None:
        parts.append(f"{count(found.parameters)} parameters")
    if found.layers is not None and found.hidden is not None:
        parts.append(f"{found.layers} layers x {count(found.hidden)}")
    if found.bytes_per_checkpoint is not None:
        parts.append(f"{size(found.bytes_per_checkpoint)} a checkpoint" + (f" ({found.dtype})" if found.dtype else ""))
    return ", ".join(parts)


def _print_timeline(found: Lineage, chosen: Sequence[Checkpoint], what: str) -> None:
    """Draw the stages along an axis, the chosen checkpoints as marks."""
    from traitline.lineages.timeline import draw

    console = Console(highlight=False)
    plain = not console.encoding.lower().startswith("utf")
    bar, mark = ("-", "o") if plain else ("─", "●")
    label = min(LABEL, max(len(harmless(one.stage or "")) for one in (*chosen, *found.checkpoints)) + 1, console.width // 3)
    label = max(label, len("tokens "))
    try:
        drawn = draw(found, chosen, min(console.width, WIDEST) - label - 2)
    except InputError:
        return  # neither tokens nor steps are known, so that there is no axis
    console.print()
    console.print(Text(f"{drawn.measure:<{label}}  {drawn.axis}".rstrip(), style="dim"))
    for lane in drawn.lanes:
        width = len(drawn.axis)
        row = [bar if lane.first <= i <= lane.last else " " for i in range(width)]
        for i in lane.marks:
            row[i] = mark if i >= 0 else row[i]
        name = harmless(lane.stage)
        line = Text(f"{name if len(name) < label else name[: label - 2] + '~':<{label}}")
        line.append(f"{mark if -1 in lane.marks else ' '} ", style="bold")
        for character in "".join(row).rstrip():
            line.append(character, style="bold" if character == mark else "dim")
        console.print(line, no_wrap=True, overflow="crop")
    untrained = "; before the axis: untrained" if any(-1 in lane.marks for lane in drawn.lanes) else ""
    say(f"{mark} {len(chosen)} of {count(drawn.known)} checkpoints, {what}; logarithmic{untrained}\n")


def _print_checkpoints(chosen: Sequence[Checkpoint]) -> None:
    """Print a table of checkpoints, and which of them are not where the others are."""
    places = [one.source if one.revision is not None else str(Path(one.source).parent) for one in chosen]
    usual = max(places, key=places.count)
    rows = [(one.name, known(one.tokens, count), one.stage or "") for one in chosen]
    print_table(f"Checkpoints in {usual}", ("name", ">tokens", "stage"), rows)
    for one, place in zip(chosen, places, strict=True):
        if place != usual:
            say(f"{one.name} is in {place}")


def _print_descendants(found: Lineage) -> None:
    """Print what was post-trained from the last checkpoint, and from one another, as a tree."""
    if not found.descendants:
        return
    tree = Tree(Text(f"after {harmless(found.last.name)}"))
    nodes = {None: tree}
    for one in found.descendants:
        text = Text(harmless(one.name), style="bold")
        text.append(f"  {one.kind}, {'chat' if one.chat else 'plain'}, {harmless(one.source)}", style="not bold dim")
        nodes[one.name] = nodes[one.parent].add(text)  # type: ignore[index]
    say("\nDescendants")
    Console(highlight=False).print(tree)
