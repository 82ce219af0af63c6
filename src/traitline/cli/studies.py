"""The commands for whole studies: `demo`, `run`, `plan`, `status`, `report`.

Knows how a study is named on the command line and how its plan, progress and verdicts are shown. Leaves the work to `study/`.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from traitline.cli.console import JsonOption, count, known, note, print_json, print_table, say, size
from traitline.cli.progress import Settle, progress

if TYPE_CHECKING:
    from traitline.study import Study

FAILED_CELLS = 3

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="A packaged study's name, or a YAML file.")]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="How many processes share the work.", show_default="one per GPU, else 1")
]
OutOption = Annotated[Path | None, typer.Option("--out", help="The run directory.", show_default="runs/NAME")]


def demo(
    out: Annotated[Path, typer.Option(help="The run directory.")] = Path("runs/nano"), as_json: JsonOption = False
) -> None:
    """Pretrain the embedded lineage, trace its traits and write the report."""
    _run("nano", out, as_json)


def run(study: StudyArgument, out: OutOption = None, workers: WorkersOption = None, as_json: JsonOption = False) -> None:
    """Run a study, or go on with one; ends with 3 if cells failed."""
    _run(study, out, as_json, workers)


def plan(study: StudyArgument, as_json: JsonOption = False) -> None:
    """Say what a study will take and what it can show, without doing any of it."""
    from traitline.study import Study
    from traitline.study.estimate import disk_free_bytes

    planned = Study.from_yaml(study)
    found = planned.plan()
    if as_json:
        print_json(found)
        return
    facets = f", facet judge {planned.config.facet_judge}" if planned.config.facet_judge else ""
    judges = f"judge {planned.config.judge}{facets}"
    say(f"{found['study']}: lineage {found['lineage']}, {len(found['checkpoints'])} checkpoints, {judges}")
    say(f"traits {', '.join(found['traits'])}; strategies {', '.join(found['strategies'])}")
    takes = ("phase", ">rows, at most", ">new tokens, at most", ">judge calls, at most", ">disk", ">download", ">money")
    print_table("What it takes", takes, [_phase(*one) for one in [*found["phases"].items(), ("total", found["total"])]])
    if found["judging"]:
        say(found["judging"][0].upper() + found["judging"][1:] + ".")
    shows = ("trait", "strategy", ">questions", ">smallest p", ">after Holm", ">detectable effect")
    print_table("What it can show", shows, [_power(one) for one in found["power"]])
    spreads = sorted({one["assumed_sd"] for one in found["power"]})
    say(
        "The detectable effect is in points, found with 80 % power where the standard deviation of a question's delta is "
        f"{' or '.join(f'{spread:g}' for spread in spreads)} points, which is assumed, not measured."
    )
    say(f"Free on the disk of {planned.out.absolute()}: {size(disk_free_bytes(planned.out))}")


def status(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory, or a study's name or YAML file.")],
    as_json: JsonOption = False,
) -> None:
    """Say how far a run is, and what failed and why."""
    from traitline.study import run_status
    from traitline.study.costs import describe_spending
    from traitline.study.study import run_spending

    out = _run_folder(run)
    found = run_status(out)
    counts = {phase: rows["state"].value_counts().to_dict() for phase, rows in found.groupby("phase", sort=False)}
    cells: list[dict[Any, Any]] = found.astype(object).where(found.notna(), None).to_dict("records")
    failed = [cell for cell in cells if cell["state"] == "failed"]
    if as_json:
        spent = _records(run_spending(out))
        print_json({"run": out.absolute(), "states": counts, "failed": failed, "cells": cells, "judging": spent})
        return
    rows = [(phase, state, count(number)) for phase, states in counts.items() for state, number in states.items()]
    say(out.absolute())
    print_table("States", ("phase", "state", ">count"), rows)
    if told := describe_spending(run_spending(out)):
        say(told[0].upper() + told[1:] + ".")
    if failed:
        columns = ("phase", "network", "trait", "strategy", "reason")
        print_table("Failed; run the study again to retry", columns, [[cell[name] for name in columns] for cell in failed])


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="A run directory, or several to set side by side.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Several runs: the folder of their comparison.", show_default="comparison-NAME-NAME"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the figures and write report.html again from a run's tables, or one page that compares several runs."""
    from traitline.errors import InputError
    from traitline.report import write_comparison, write_report

    if len(runs) == 1 and out is not None:
        raise InputError("--out is for the comparison of several runs; the report of one run lies in its own directory")
    page = (write_report(runs[0]) if len(runs) == 1 else write_comparison(runs, out)).resolve()
    if as_json:
        print_json({"report": page})
    else:
        say(page)


def _run(name: str, out: Path | None, as_json: bool, workers: int | None = None) -> None:
    """Do a study and print its verdicts."""
    from traitline.study import Study
    from traitline.study.costs import describe_spending
    from traitline.study.estimate import efforts
    from traitline.study.executors import how_many

    study = Study.from_yaml(name, out)
    processes, planned = how_many(workers, study.config.device), efforts(study.resolved)["total"].rows
    _quiet_libraries()
    _prepare(study)
    with progress(planned, batch=study.config.batch_rows if processes == 1 else planned) as settle:
        outcome = study.run(progress=settle, workers=processes)
    verdicts = _verdicts(study)
    page = (study.out / "report.html").resolve()
    if as_json:
        states = {"complete": outcome.complete, "no_vector": outcome.no_vector, "failed": len(outcome.failed)}
        found = {"run": study.out.resolve(), "report": page, "states": states, "failures": outcome.failed, "verdicts": verdicts}
        print_json({**found, "notes": outcome.notes, "judging": _records(study.spent())})
    else:
        rows = [(one["trait"], one["strategy"], one["sentence"]) for one in verdicts]
        print_table("When each trait became steerable", ("trait", "strategy", "verdict"), rows, lines=True)
        if spent := describe_spending(study.spent()):
            say(spent[0].upper() + spent[1:] + ".")
        say(page)
    for one in outcome.notes:
        note(one)
    if outcome.failed:
        note(f"{len(outcome.failed)} cells failed; run the same command again to retry only those")
        for reason in outcome.failed:
            note(f"  {reason}")
        raise typer.Exit(FAILED_CELLS)


def _prepare(study: Study) -> None:
    """Make the networks that are made on this machine, each kind with a progress bar, unless that was done before."""
    from traitline.study.prepare import prepare

    with contextlib.ExitStack() as bar:
        shown: dict[str, tuple[Settle, int]] = {}

        def step(what: str, done: int, total: int) -> None:
            if what not in shown:
                bar.close()
                shown[what] = (bar.enter_context(progress(total)), 0)
            settle, before = shown[what]
            settle(what, done - before)
            shown[what] = (settle, done)

        prepare(study.resolved, step)


def _verdicts(study: Study) -> list[dict[Any, Any]]:
    """Return the emergence verdicts of a finished run: trait, strategy, layer, coef, sentence."""
    import pandas as pd

    table = pd.read_csv(study.out / "tables" / "verdicts.csv")
    table = table.loc[table["kind"] == "emergence", ["trait", "strategy", "layer", "coef", "sentence"]]
    found: list[dict[Any, Any]] = table.astype(object).where(table.notna(), None).to_dict("records")
    return found


def _records(table: Any) -> list[dict[Any, Any]]:
    """Return a table's rows; None where a value is missing."""
    found: list[dict[Any, Any]] = table.astype(object).where(table.notna(), None).to_dict("records")
    return found


def _phase(name: str, effort: dict[str, Any]) -> tuple[str, ...]:
    return (
        name,
        count(effort["rows"]),
        count(effort["tokens"]),
        count(effort["judge_calls"]),
        size(effort["disk_bytes"]),
        known(effort["download_bytes"], size),
        known(effort["money"], lambda money: f"{money:.2f}"),
    )


def _power(one: dict[str, Any]) -> tuple[str, ...]:
    p = (f"{one[name]:.2g}" for name in ("smallest_p", "smallest_p_adjusted"))
    return one["trait"], one["strategy"], count(one["questions"]), *p, known(one["detectable_effect"], _points)


def _points(effect: float) -> str:
    return f"{effect:.1f}" if math.isfinite(effect) else "none, however large"


def _run_folder(name: str) -> Path:
    """Return the run directory that a directory, a study file or a study's name stands for."""
    path = Path(name)
    if path.is_dir():
        return path
    if path.suffix in {".yaml", ".yml"}:
        from traitline.study import Study

        return Study.from_yaml(path).out
    return Path("runs") / path


def _quiet_libraries() -> None:
    """Keep the bars of other libraries from cutting into ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
