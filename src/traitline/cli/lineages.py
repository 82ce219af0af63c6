"""The commands for lineages: `lineages list`, `show`. Leaves reading them to `lineages/`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from traitline.cli.console import JsonOption, count, known, print_json, print_table, say

EMBEDDED = {
    "nano": "The embedded lineage: a small model pretrained on this machine when it is first needed.",
    "smollm2": "A real language model without a hub: SmolLM2-135M-Instruct, prompted plainly and as a chat model.",
}

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
    as_json: JsonOption = False,
) -> None:
    """Show a lineage's default checkpoints and its descendants."""
    from traitline.lineages import load_lineage

    found = load_lineage(lineage)
    if as_json:
        nodes = {name: [asdict(one) for one in getattr(found, name)] for name in ("checkpoints", "descendants")}
        print_json({"name": found.name, "description": found.description, **nodes})
        return
    say(f"{found.name}: {found.description}")
    rows = [(one.name, known(one.tokens, count), one.stage or "", one.source) for one in found.checkpoints]
    print_table("Checkpoints", ("name", ">tokens", "stage", "source"), rows)
    if found.revisions is not None:
        say("A study may name any other revision of this model.")
    if found.descendants:
        rows = [(one.name, one.kind, "chat" if one.chat else "plain", one.source) for one in found.descendants]
        print_table("Descendants", ("name", "kind", "prompts", "source"), rows)
