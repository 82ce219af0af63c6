"""The commands for judges: `judges compare`, `judges sheet` and `judges fit`.

Knows how judges, rows and files are named. Leaves the comparison to `study/judge_comparison.py`, showing it to `agreement.py`,
sheets to `judges/sheet.py` and fitting to `judges/fitting.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from traitline.cli.console import JsonOption, count, note, print_json, say
from traitline.cli.progress import progress

FREE = {"nano", "words", "distilled", "zeroshot", "fitted", "local", "labels", "column"}
"""Kinds of judges that cost nothing, so that they may score every row without being asked twice."""

app = typer.Typer(name="judges", help="Compare judges, let people label a sheet, fit a judge to labels.", no_args_is_help=True)

JudgeArgument = Annotated[
    str, typer.Argument(help="distilled, nano, words, openai:MODEL, local:MODEL, labels:FILE.csv, or column:NAME of the rows.")
]
TraitsOption = Annotated[
    list[str] | None, typer.Option("--trait", help="Only this trait: its name, or its file where it is your own. Repeatable.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of what is drawn at random.")]


@app.command()
def compare(
    a: JudgeArgument,
    b: JudgeArgument,
    rows: Annotated[
        Path | None,
        typer.Option(
            help="What they score: a run directory, one of its .parquet files, or a table of trait, question, answer.",
            show_default="the only run in runs/",
        ),
    ] = None,
    trait: TraitsOption = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder for tables, scores and figures; without it nothing is written.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=0, help="Score a sample of so many rows, even over traits and conditions; 0 scores all.")
    ] = None,
    seed: SeedOption = 0,
    gold: Annotated[
        str | None,
        typer.Option(help="Whose scores correct the deltas of A and B; a judge that is labels:FILE does so unasked."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="How the gold rows were drawn: the key of a sheet.", show_default="SHEET.key.csv")
    ] = None,
    assume: Annotated[
        str | None, typer.Option(help='"same error in every comparison": correct all deltas of a trait by the same gold rows.')
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="How many of the rows that they differ most on are shown.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Say how far two judges agree, and what their disagreement does to a study's conclusions."""
    from traitline.cli.agreement import as_json_object, show
    from traitline.errors import InputError
    from traitline.nano.pretrain import cache_folder
    from traitline.study.judge_comparison import compare_judges, write_comparison
    from traitline.study.rejudge import scorer
    from traitline.study.responses import read_responses

    if (key or assume) and gold is None and not any(name.startswith("labels:") for name in (a, b)):
        raise InputError("--key and --assume are for gold rows; name them with --gold, or a judge labels:FILE")
    responses = read_responses(rows, trait or ())
    cache = cache_folder().parent / "judge-cache.sqlite"
    judges = [scorer(name, responses, cache) for name in (a, b)]
    best = None if gold is None else scorer(gold, responses, cache)
    for asked, judge in zip((a, b), judges, strict=True):
        if limit is None and not judge.stored and asked.partition(":")[0] not in FREE:
            raise InputError(
                f"{asked!r} would be asked about {len(responses.once):,} responses, two questions each; give --limit 500 for a "
                "sample, or --limit 0 for all of them"
            )
    for name, judge in zip("AB", judges, strict=True):
        note(f"{name}: {judge.name}" + (" (its scores are in the rows)" if judge.stored else ""))
    asking = [judge for judge in judges if judge.judge is not None and judge.labels is None]
    drawn = min(limit, len(responses.rows)) if limit else len(responses.rows)
    options: dict[str, Any] = {"limit": limit or None, "seed": seed, "gold": best, "key": key, "assume": assume}
    if asking:
        with progress(drawn * len(asking)) as settle:
            found = compare_judges(responses, *judges, **options, settle=settle)
    else:
        found = compare_judges(responses, *judges, **options)
    files = write_comparison(found, out) if out is not None else []
    if as_json:
        print_json(as_json_object(found, top, files))
        return
    show(found, top)
    if out is not None:
        say(out.resolve())


@app.command()
def sheet(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run directory, one of its .parquet files, or a table of answers.")
    ],
    out: Annotated[Path, typer.Option(help="The sheet to write, .csv; never overwritten.")],
    rows: Annotated[int, typer.Option(min=1, help="How many rows to label.")] = 200,
    seed: SeedOption = 0,
    trait: TraitsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw responses for people to label: a sheet without a word of where they come from, its key, and how to label."""
    from traitline.judges.sheet import write_sheet
    from traitline.study.responses import read_responses, reported

    responses = read_responses(run, trait or ())
    some = reported(responses)
    traits = [responses.trait(name) for name in some["trait"].unique()]
    paths = [path.resolve() for path in write_sheet(some, rows, out, traits, seed=seed)]
    drawn = min(rows, len(some))
    if as_json:
        print_json({"sheet": paths[0], "key": paths[1], "instructions": paths[2], "rows": drawn, "of": len(some)})
        return
    for what, path in zip(("sheet", "key", "how to label"), paths, strict=True):
        say(f"{what}: {path}")
    say(f"{count(drawn)} of {count(len(some))} responses, in random order. Keep the key from whoever labels.")
    say(f"Then: traitline judges compare JUDGE labels:{out} --rows {run}")


@app.command()
def fit(
    trait: Annotated[str, typer.Argument(help="The trait that the labels are about: its file, or a packaged trait's name.")],
    rows: Annotated[Path, typer.Argument(help="Labelled answers: .csv or .parquet with question, answer and trait_score.")],
    out: Annotated[Path, typer.Option(help="The folder to make for the judge; never overwritten.")],
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Fit a judge to at least 50 labelled answers, and say how it does on questions that it did not learn from."""
    import traitline as tl
    from traitline.judges.fitting import fit_judge, read_labelled

    learned = tl.trait(trait)
    card = fit_judge(learned, read_labelled(rows, learned), out, seed=seed)
    if as_json:
        print_json({"judge": f"fitted:{out}", **card})
        return
    say(f"{count(card['rows'])} labelled answers to {count(card['questions'])} questions, in two halves")
    for purpose, found in card["figures"].items():
        r = "undefined" if found["r"] is None else f"{found['r']:.2f}"
        say(
            f"{purpose}: learned from {count(found['rows'])}; on the other {count(found['n'])}, r {r}, off by "
            f"{found['mae']:.1f} points on average (bias {found['bias']:+.1f}), on the same side of 50 for "
            f"{100 * found['same_side_of_50']:.0f} %"
        )
    say(f"delta error: {card['delta_error']:.1f} points, between each {card['delta_error_between']}")
    say(f"use it as: judge: fitted:{out}")
