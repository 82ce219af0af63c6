"""The commands for traits: `traits list`, `show`, `check`, `new`.

Knows how a trait's texts are shown and what a new trait file begins with. Leaves the schema, the checks, and drafting with a
model to `traits/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from traitline.cli.console import JsonOption, new_file, note, print_json, print_table, say

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
    describe: Annotated[str | None, typer.Option(help="What the trait means, in your own words.")] = None,
    with_: Annotated[
        str | None,
        typer.Option("--with", metavar="MODEL", help="The chat model that drafts it: openai:MODEL or local:PATH_OR_HUB_ID."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write.", show_default="NAME.yaml")] = None,
    max_requests: Annotated[int, typer.Option(min=1, help="Stop after so many requests to the model.")] = 150,
    review: Annotated[bool, typer.Option(help="Have the model look its own draft over.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Begin a trait file of your own: a skeleton to fill in or, with a model, a full draft that is checked.

    A draft is kept as NAME.draft.yaml until it is finished; the same command goes on with it. Ends with 1 if the check of the
    finished file finds errors.
    """
    from traitline.errors import InputError
    from traitline.traits.authoring import check_name

    check_name(name)
    path = new_file(out or Path(f"{name}.yaml"))
    if with_ is None:
        _skeleton(name, path, describe, as_json)
        return
    if describe is None:
        raise InputError('say what the trait means with --describe "...", for the model to go by')
    _draft(name, describe, with_, path, max_requests, review, as_json)


def _skeleton(name: str, path: Path, describe: str | None, as_json: bool) -> None:
    """Write a file with a placeholder for every text."""
    import json

    from traitline.files import write_whole

    text = SKELETON.read_text(encoding="utf-8").replace("NAME", name)
    if describe and describe.strip():
        text = text.replace(f"<what counts as {name}, what not>", json.dumps(" ".join(describe.split()), ensure_ascii=False))
    write_whole(path, text)
    if as_json:
        print_json({"file": path.resolve()})
        return
    say(path.resolve())
    say("replace every <placeholder>, then run 'traitline traits check' on the file")


def _draft(name: str, describe: str, model: str, path: Path, max_requests: int, review: bool, as_json: bool) -> None:
    """Have a model write the file, then say what was found."""
    from dataclasses import asdict

    from traitline.cli.progress import progress
    from traitline.traits.authoring import draft, make_writer, planned_requests
    from traitline.traits.authoring.pages import lines

    planned = planned_requests(name, describe, path, review=review)
    writer = make_writer(model)
    note(
        f"drafting {name!r} with {writer.name}: {planned} requests if every answer can be used; what cannot is asked for "
        f"again, up to {max_requests} requests in all (--max-requests)"
    )
    with progress(planned, batch=1) as settle:
        done = draft(name, describe, writer, path=path, max_requests=max_requests, review=review, progress=settle)
    errors = sum(one.level == "error" for one in done.findings)
    warnings = len(done.findings) - errors
    if as_json:
        found = {"file": done.path.resolve(), "models": done.models, "requests": done.requests, "spent": writer.spent or None}
        found |= {"errors": errors, "warnings": warnings, "findings": [asdict(one) for one in done.findings]}
        print_json({**found, "look_at": [asdict(one) for one in done.look], "not_reviewed": done.skipped})
    else:
        say(done.path.resolve())
        where = lines(done.path.read_text(encoding="utf-8"))
        for finding in done.findings:
            say(f"  {_place(done.path, where.get(finding.where))}  {finding.level} in {finding.where}: {finding.message}")
        say(f"{name}: {errors} errors, {warnings} warnings")
        for kind in dict.fromkeys(one.kind for one in done.look):
            say(f"to look at, {kind}:")
            for look in (one for one in done.look if one.kind == kind):
                say(f"  {_place(done.path, look.line)}  {look.where}: {look.message}" if look.where else f"  {look.message}")
        for part in done.skipped:
            note(f"the model gave nothing of use for {part}")
        spent = f" (this call: {writer.spent})" if writer.spent else ""
        say(f"{done.requests} requests{spent}; read the file before you use it, then run 'traitline traits check' on it")
    if errors:
        raise typer.Exit(1)


def _place(path: Path, line: int | None) -> str:
    return path.name if line is None else f"{path.name}:{line}"


def _load(name: str) -> Trait:
    from traitline.nano import traits_folder
    from traitline.traits import load_trait

    return load_trait(name.removeprefix(NANO), folder=traits_folder()) if name.startswith(NANO) else load_trait(name)
