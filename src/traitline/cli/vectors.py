"""The commands for vector files: `vectors show`, `compare`, `import`, `export`, `publish`.

Knows how a vector and its provenance are shown. Leaves files and arithmetic to `vectors/`.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from traitline.cli.console import JsonOption, known, new_file, note, print_json, print_table, say
from traitline.errors import InputError

app = typer.Typer(name="vectors", help="Look at, compare, convert and publish vector files.", no_args_is_help=True)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A vector file, .safetensors.")]
SourceArgument = Annotated[
    str,
    typer.Argument(metavar="SOURCE", help="A .pt or .gguf file, a folder that `publish` wrote, or the id of one on the hub."),
]
LayersOption = Annotated[
    list[int] | None, typer.Option("--layer", help="GGUF: write this layer (repeat for more; default all).")
]


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
        print_json(
            {**found, "held_layers": vector.held_layers, "norms": vector.norms, "activation_norms": scale, "arrays": shapes}
        )
        return
    fragile = " (fragile)" if vector.provenance.fragile else ""
    say(f"{vector.layers} blocks x {vector.hidden}{fragile}; arrays in the file: {', '.join(sorted(shapes))}")
    print_table(
        "Where it came from", ("field", "value"), [(name, value) for name, value in origin.items() if value is not None]
    )
    rows = [
        (layer, _number(norm, ".4g"), known(usual, lambda x: f"{x:.4g}"), _number(norm / usual, ".3f") if usual else "")
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
        for vector in (a, b):
            vector.at(layer)  # tells whether there is such a layer
    if a.provenance.layer_convention != b.provenance.layer_convention:
        note(f"the last layer ({a.layers}) of one was read after the final norm, that of the other before; it does not compare")
    layers = range(a.layers + 1) if layer is None else [layer]
    rows = [{"layer": one, "cosine": cosines[one], "norm_a": a.norms[one], "norm_b": b.norms[one]} for one in layers]
    if as_json:
        print_json({"a": first, "b": second, "layers": rows})
        return
    forms = {"layer": "d", "cosine": ".4f", "norm_a": ".4g", "norm_b": ".4g"}
    shown = [[_number(row[name], form) for name, form in forms.items()] for row in rows]
    say(f"A: {first}\nB: {second}")
    print_table("Cosines", (">layer", ">cosine", ">norm of A", ">norm of B"), shown)


@app.command(name="import")
def import_(
    source: SourceArgument,
    out: Annotated[Path, typer.Option(help="The vector file to write, .safetensors; never overwritten.")],
    depth: Annotated[int | None, typer.Option(min=1, help="GGUF: number of blocks of the network it belongs to.")] = None,
    trait: Annotated[str | None, typer.Option(help="Published folder: whose vector.")] = None,
    strategy: Annotated[str | None, typer.Option(help="Published folder: how the trait was elicited.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Published folder: of which checkpoint.")] = None,
    revision: Annotated[str | None, typer.Option(help="Hub: branch, tag or commit.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn a .pt file of the paper, a GGUF control vector, or one vector of a published folder into a vector file."""
    from traitline.vectors import import_gguf, import_hub, import_pt
    from traitline.vectors.vector import LAST_AFTER_NORM, spans

    new_file(out)
    kind = "" if Path(source).is_dir() else Path(source).suffix
    published = kind not in (".pt", ".gguf")
    _only_for("a GGUF file", kind == ".gguf", depth=depth)
    _only_for("a published folder", published, trait=trait, strategy=strategy, checkpoint=checkpoint, revision=revision)
    if published:
        vector = import_hub(source, trait=trait, strategy=strategy, checkpoint=checkpoint, revision=revision)
    else:
        vector = import_gguf(source, depth=depth) if kind == ".gguf" else import_pt(source)
    vector.save(out)
    held = list(vector.held_layers)
    if as_json:
        print_json({"file": out.resolve(), "layers": vector.layers, "hidden": vector.hidden, "held_layers": held})
        return
    say(out.resolve())
    if len(held) < vector.layers:
        note(f"of {vector.layers} blocks, it has directions at layers {spans(held)} only; steering elsewhere is refused")
    if kind == ".gguf" and vector.provenance.layer_convention == LAST_AFTER_NORM:
        note(f"the last layer, {vector.layers}, may have been read after the final norm, so steering there is refused")


@app.command()
def export(
    file: FileArgument,
    out: Annotated[Path, typer.Option(help="The .pt or .gguf file to write; never overwritten.")],
    layer: LayersOption = None,
    coef: Annotated[float | None, typer.Option(help="GGUF: the norm dose that a scale of 1 means in llama.cpp.")] = None,
    norms_of: Annotated[
        Path | None, typer.Option(help="GGUF, with --coef: a vector file of the network to be steered, if it is another.")
    ] = None,
    model_hint: Annotated[str | None, typer.Option(help="GGUF: the architecture's name, such as llama.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn a vector file into a control vector for llama.cpp (.gguf), or into a .pt file as the paper's code reads it."""
    from traitline.vectors import PersonaVector, export_gguf, export_pt
    from traitline.vectors.gguf_files import written_layers
    from traitline.vectors.vector import spans

    new_file(out)
    if out.suffix not in (".pt", ".gguf"):
        raise InputError(f"{str(out)!r} ends in neither .pt nor .gguf, which are the files that are written; name it so")
    vector = PersonaVector.load(file)
    if out.suffix == ".pt":
        _only_for("a .gguf file", False, layer=layer, coef=coef, norms_of=norms_of, model_hint=model_hint)
        export_pt(vector, out)
        found = {"file": out.resolve(), "layers": vector.layers, "hidden": vector.hidden}
        print_json(found) if as_json else say(out.resolve())
        return
    norms = _activation_norms(norms_of) if norms_of else None
    export_gguf(vector, out, layers=layer, coef=coef, activation_norms=norms, model_hint=model_hint)
    written = written_layers(out)
    if as_json:
        print_json({"file": out.resolve(), "layers": vector.layers, "hidden": vector.hidden, "written_layers": written})
        return
    say(out.resolve())
    absent = [one for one in vector.held_layers if one not in written]
    if layer is None and absent:
        note(f"layers left out: {spans(absent)}; llama.cpp does not steer its first block, nor after the final norm")
    note(f"use it with: llama-cli -m MODEL.gguf --control-vector {shlex.quote(out.name)}")
    note(
        f"that adds the direction of each layer written ({spans(written)}) to every position, "
        + (
            f"at a norm dose of {coef:g}"
            if coef is not None
            else "at their own length (another: --control-vector-scaled FILE:SCALE)"
        )
    )


@app.command()
def publish(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    out: Annotated[Path, typer.Option(help="The folder to write; never overwritten.")],
    as_json: JsonOption = False,
) -> None:
    """Write a run's vectors as a folder for the Hugging Face hub. Nothing is uploaded."""
    from traitline.vectors import export_hub
    from traitline.vectors.hub import read_index

    index, _ = read_index(export_hub(run, out))
    if as_json:
        print_json({"folder": out.resolve(), "vectors": len(index.vectors), "layers": index.layers, "hidden": index.hidden})
        return
    say(out.resolve())
    note(
        f"{len(index.vectors)} vectors. Read README.md and add a licence to it, then upload with: "
        f"hf upload USER/NAME {shlex.quote(str(out))}"
    )


def _number(value: float, form: str) -> str:
    """Return a number as text; NaN says that there is no direction."""
    return "none" if value != value else format(value, form)


def _only_for(what: str, fits: bool, **options: object) -> None:
    """Refuse options that would have no effect."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value not in (None, [])]
    if given and not fits:
        raise InputError(f"{', '.join(given)} is for {what} only; leave it out")


def _activation_norms(file: Path) -> tuple[float, ...]:
    from traitline.vectors import PersonaVector

    norms = PersonaVector.load(file).provenance.activation_norms
    if norms is None:
        raise InputError(f"{str(file)!r} does not say the activation norms of its network; give a vector file that does")
    return norms
