"""The commands for vector files: `vectors show`, `compare`, `import`, `export`.

Knows how a vector and its provenance are shown. Leaves files and arithmetic to `vectors/`.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from traitline.cli.console import JsonOption, known, new_file, note, print_json, print_table, say

app = typer.Typer(name="vectors", help="Look at, compare and convert vector files.", no_args_is_help=True)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A vector file, .safetensors.")]


@app.command()
def show(file: FileArgument, as_json: JsonOption = False) -> None:
    """Show where a vector came from and how long it is at each layer."""
    from traitline.vectors import PersonaVector
    from traitline.vectors.vector import load_arrays

    arrays, _ = load_arrays(file)
    vector = PersonaVector.load(file)
    origin = asdict(vector.provenance)
    scale = origin.pop("activation_norms") or [None] * (vector.layers + 1)
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    if as_json:
        found = {"layers": vector.layers, "hidden": vector.hidden, "fragile": vector.provenance.fragile, "provenance": origin}
        print_json({**found, "norms": vector.norms, "activation_norms": scale, "arrays": shapes})
        return
    fragile = " (fragile)" if vector.provenance.fragile else ""
    say(f"{vector.layers} blocks x {vector.hidden}{fragile}; arrays in the file: {', '.join(sorted(shapes))}")
    print_table(
        "Where it came from", ("field", "value"), [(name, value) for name, value in origin.items() if value is not None]
    )
    rows = [
        (layer, f"{norm:.4g}", known(usual, lambda x: f"{x:.4g}"), f"{norm / usual:.3f}" if usual else "")
        for layer, (norm, usual) in enumerate(zip(vector.norms, scale, strict=True))
    ]
    print_table("Length", (">layer", ">norm", ">activation norm", ">ratio"), rows)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A vector file.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another vector file.")],
    layer: Annotated[int | None, typer.Option(help="This layer only.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the cosine of two vectors at each layer."""
    from traitline.vectors import PersonaVector

    a, b = PersonaVector.load(first), PersonaVector.load(second)
    cosines = a.cosine(b)
    if layer is not None:
        a.at(layer)  # tells whether there is such a layer
    if a.provenance.layer_convention != b.provenance.layer_convention:
        note(f"the last layer ({a.layers}) of one was read after the final norm, that of the other before; it does not compare")
    layers = range(a.layers + 1) if layer is None else [layer]
    rows = [{"layer": one, "cosine": cosines[one], "norm_a": a.norms[one], "norm_b": b.norms[one]} for one in layers]
    if as_json:
        print_json({"a": first, "b": second, "layers": rows})
        return
    shown = [(row["layer"], f"{row['cosine']:.4f}", f"{row['norm_a']:.4g}", f"{row['norm_b']:.4g}") for row in rows]
    say(f"A: {first}\nB: {second}")
    print_table("Cosines", (">layer", ">cosine", ">norm of A", ">norm of B"), shown)


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .pt file that holds one tensor, [layers + 1, hidden].")],
    out: Annotated[Path, typer.Option(help="The vector file to write, .safetensors; never overwritten.")],
    as_json: JsonOption = False,
) -> None:
    """Turn a .pt file of the paper's release into a vector file."""
    from traitline.vectors import import_pt

    new_file(out)
    vector = import_pt(file)
    vector.save(out)
    _written(out, vector.layers, vector.hidden, as_json)


@app.command()
def export(
    file: FileArgument,
    out: Annotated[Path, typer.Option(help="The .pt file to write; never overwritten.")],
    as_json: JsonOption = False,
) -> None:
    """Turn a vector file into a .pt file as the paper's code reads it; provenance is left behind."""
    from traitline.vectors import PersonaVector, export_pt

    new_file(out)
    vector = PersonaVector.load(file)
    export_pt(vector, out)
    _written(out, vector.layers, vector.hidden, as_json)


def _written(out: Path, layers: int, hidden: int, as_json: bool) -> None:
    if as_json:
        print_json({"file": out.resolve(), "layers": layers, "hidden": hidden})
    else:
        say(out.resolve())
