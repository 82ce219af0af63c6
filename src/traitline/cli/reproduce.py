"""The command `reproduce`: a published release, recomputed and audited.

Knows how the outcome is told in a few lines. Leaves the work to `published/`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from traitline.cli.console import JsonOption, count, note, print_json, print_table, say
from traitline.errors import InputError


def reproduce(
    release: Annotated[Path, typer.Argument(metavar="RELEASE", help="The unpacked release: the folder with results and data.")],
    out: Annotated[Path, typer.Option(help="The folder to write tables, figures and report.html into.")],
    model: Annotated[str | None, typer.Option(help="One model: what lies under results/NAME. Default: every model.")] = None,
    layers: Annotated[str, typer.Option(help="Layers of the tables of directions, such as 16,20, or `all`.")] = "16,20",
    as_json: JsonOption = False,
) -> None:
    """Recompute a published release from its raw answers and vectors, and audit it."""
    wanted = _layers(layers)
    from traitline.published.reproduce import reproduce as recompute

    began = time.monotonic()
    done = recompute(release, out, model=model, layers=wanted, tell=note)
    seconds = time.monotonic() - began
    significance, audit = done.tables["significance"], done.tables["audit"]
    statuses = significance["status"].value_counts().to_dict()
    kinds = audit.groupby("kind")["count"].agg(["size", "sum"]).to_dict("index")
    if as_json:
        found = {kind: {"entries": int(one["size"]), "count": int(one["sum"])} for kind, one in kinds.items()}
        told = {"out": out, "report": done.report, "models": done.models, "rows": len(significance), "seconds": seconds}
        print_json({**told, "status": statuses, "audit": found})
        return
    say(f"{', '.join(done.models)}: {count(len(significance))} published rows in {seconds:.0f} s")
    print_table("Published rows", ("status", ">rows"), [(name, count(n)) for name, n in statuses.items()])
    rows = [(kind, count(int(one["size"])), count(int(one["sum"]))) for kind, one in kinds.items()]
    print_table("Audit", ("what was found", ">entries", ">count"), rows)
    say(f"tables: {out / 'tables'}")
    for page in done.reports:
        say(f"report: {page}")


def _layers(text: str) -> list[int] | None:
    """Return the layers that `16,20` names; None for `all`.

    Raises:
        InputError: it names no layers.
    """
    if text.strip().lower() == "all":
        return None
    try:
        found = list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as error:
        raise InputError(f"--layers must be numbers such as 16,20, or all; not {text!r}") from error
    if min(found) < 0:
        raise InputError(f"--layers counts from 0, the embeddings; not {min(found)}")
    return found
