"""The commands for traits: `traits list`, `show`, `check`, `new`.

Knows how a trait's texts are shown and what a new trait file begins with. Leaves the schema and the checks to `traits/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from traitline.cli.console import JsonOption, new_file, print_json, print_table, say

if TYPE_CHECKING:
    from traitline.traits import Trait

SKELETON = Path(__file__).parent / "skeleton.yaml"
NANO = "nano:"

app = typer.Typer(name="traits", help="See, check and begin trait files.", no_args_is_help=True)

TraitArgument = Annotated[str, typer.Argument(metavar="TRAIT", help="A packaged trait's name, or a YAML or JSON file.")]


@app.command(name="list")
def list_(as_json: JsonOption = False) -> None:
    """List the packaged traits; those of the embedded lineage begin with `nano:`."""
    from traitline.nano import traits_folder
    from traitline.traits import packaged_traits

    names = [*packaged_traits(), *(NANO + name for name in packaged_traits(traits_folder()))]
    traits = {name: _load(name) for name in names}
    if as_json:
        print_json({"traits": [{"name": name, "description": trait.description} for name, trait in traits.items()]})
        return
    print_table("Traits", ("name", "description"), [(name, trait.description) for name, trait in traits.items()])


@app.command()
def show(trait: TraitArgument, as_json: JsonOption = False) -> None:
    """Show a trait's description, facets, and how many texts each strategy and the common set have; with --json all of them."""
    from traitline.traits.strategies import COMMON
    from traitline.traits.trait import SPLITS

    found = _load(trait)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    say(f"{found.name}: {found.description}")
    if found.facets:
        print_table("Facets", ("facet", "how to recognise it"), found.facets.items())
    rows: list[tuple[object, ...]] = [
        (name, len(texts.contrasts), *(len(texts.questions.get(split, ())) for split in SPLITS))
        for name, texts in found.strategies.items()
    ]
    rows.append((f"{COMMON} (no strategy)", "-", *(len(found.common.get(split, ())) or "-" for split in SPLITS)))
    print_table("Texts", ("strategy", ">contrasts", *(f">{split}" for split in SPLITS)), rows)
    for name, texts in found.strategies.items():
        first = texts.contrasts[0]
        print_table(f"First contrast of {name}", ("positive", "negative"), [(first.positive, first.negative)])


@app.command()
def check(trait: TraitArgument, as_json: JsonOption = False) -> None:
    """Look for what would spoil a study with this trait, common questions included; ends with 1 if there are errors."""
    from dataclasses import asdict

    from traitline.traits.check import check_trait

    found = _load(trait)
    findings = check_trait(found)
    errors = sum(one.level == "error" for one in findings)
    warnings = len(findings) - errors
    if as_json:
        listed = [asdict(one) for one in findings]
        print_json({"trait": found.name, "errors": errors, "warnings": warnings, "findings": listed})
    else:
        if findings:
            rows = [(one.level, one.where, one.message) for one in findings]
            print_table(found.name, ("level", "where", "finding"), rows)
        say(f"{found.name}: {errors} errors, {warnings} warnings")
    if errors:
        raise typer.Exit(1)


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits and underscores.")],
    out: Annotated[Path | None, typer.Option(help="The file to write.", show_default="NAME.yaml")] = None,
    as_json: JsonOption = False,
) -> None:
    """Begin a trait file of your own, with a placeholder for every text; `traits check` tells which are left."""
    from pydantic import TypeAdapter, ValidationError

    from traitline.errors import InputError
    from traitline.files import write_whole
    from traitline.traits.trait import Name

    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise InputError(
            f"{name[:80]!r} cannot name a trait; use a lower-case letter, then up to 63 of a-z, 0-9 and _, as in 'vain'"
        ) from error
    path = new_file(out or Path(f"{name}.yaml"))
    write_whole(path, SKELETON.read_text(encoding="utf-8").replace("NAME", name))
    if as_json:
        print_json({"file": path.resolve()})
        return
    say(path.resolve())
    say("replace every <placeholder>, then run 'traitline traits check' on the file")


def _load(name: str) -> Trait:
    from traitline.nano import traits_folder
    from traitline.traits import load_trait

    return load_trait(name.removeprefix(NANO), folder=traits_folder()) if name.startswith(NANO) else load_trait(name)
