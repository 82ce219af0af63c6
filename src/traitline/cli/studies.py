"""The commands for whole studies: `demo`, `run`, `plan`, `status`, `report`.

Knows how a study is named on the command line and how its plan, progress and verdicts are shown. Leaves the work to `study/`.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from traitline.cli.console import JsonOption, count, duration, known, note, print_json, print_table, rounded, say, size
from traitline.cli.progress import Settle, progress

if TYPE_CHECKING:
    from traitline.study import Study
    from traitline.study.executors import Executor

FAILED_CELLS = 3

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="A packaged study's name, or a YAML file.")]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="How many processes share the work.", show_default="one per GPU, else 1")
]
OutOption = Annotated[
    str | None, typer.Option("--out", help="The run directory: a folder, or a URL (s3://, gs://).", show_default="runs/NAME")
]
ExecutorOption = Annotated[
    str | None, typer.Option("--executor", help="Who does the work: local, processes or ray.", show_default="by --workers")
]
RayAddressOption = Annotated[str | None, typer.Option(help="The Ray cluster; 'auto' for the one this machine is in.")]
TaskGpusOption = Annotated[float | None, typer.Option(min=0, help="GPUs of a task on Ray.", show_default="1 if there are GPUs")]
TaskCpusOption = Annotated[float, typer.Option(min=0.1, help="CPUs of a task on Ray.")]
ShareOption = Annotated[
    bool, typer.Option("--share", help="Take part beside other processes started with --share; none of them drives.")
]


def demo(
    out: Annotated[Path, typer.Option(help="The run directory.")] = Path("runs/nano"), as_json: JsonOption = False
) -> None:
    """Pretrain the embedded lineage, trace its traits and write the report."""
    _run("nano", out, as_json)


def run(
    study: StudyArgument,
    out: OutOption = None,
    workers: WorkersOption = None,
    share: ShareOption = False,
    executor: ExecutorOption = None,
    ray_address: RayAddressOption = None,
    task_gpus: TaskGpusOption = None,
    task_cpus: TaskCpusOption = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Run a study, or go on with one; ends with 3 if cells failed."""
    from traitline.errors import InputError

    on_ray = executor == "ray"
    if not on_ray and (ray_address is not None or task_gpus is not None or task_cpus != 1.0):
        raise InputError("--ray-address, --task-gpus and --task-cpus are for --executor ray")
    if share and (executor is not None or workers is not None):
        raise InputError("with --share every process is started by itself; leave --executor and --workers out")
    chosen: str | Executor | None = executor
    if on_ray:
        from traitline.study.cluster import OnRay

        chosen = OnRay(ray_address, task_gpus, task_cpus)
    _run(study, out, as_json, workers, chosen, share=share)


def plan(study: StudyArgument, as_json: JsonOption = False) -> None:
    """Say what a study will take and what it can show, without doing any of it; ends with 1 if a setting cannot fit."""
    from traitline.study import Study
    from traitline.study.resources import disk_free_bytes, misfits

    planned = Study.from_yaml(study)
    found = planned.plan()
    if as_json:
        print_json({**found, "misfits": misfits(planned.resolved, planned.out, found["total"]["disk_bytes"])})
        raise typer.Exit(bool(found["refused"]))
    facets = f", facet judge {planned.config.facet_judge}" if planned.config.facet_judge else ""
    judges = f"judge {planned.config.judge}{facets}"
    say(f"{found['study']}: lineage {found['lineage']}, {len(found['checkpoints'])} checkpoints, {judges}")
    say(f"traits {', '.join(found['traits'])}; strategies {', '.join(found['strategies'])}")
    takes = ("phase", ">rows", ">new tokens", ">GPU time", ">judge calls", ">disk", ">download", ">money")
    phases = [_phase(*one) for one in [*found["phases"].items(), ("total", found["total"])]]
    print_table("What it takes, at most", takes, phases)
    if found["gpu"]:
        say(f"GPU time is that of {found['gpu']}, from rates measured there, judging left out.")
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
    for reason in misfits(planned.resolved, planned.out, found["total"]["disk_bytes"]):
        say(f"This machine cannot run it: {reason}.")
    for reason in found["refused"]:
        note(f"This study cannot run: {reason}.")
    raise typer.Exit(bool(found["refused"]))


def status(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory, its URL, or a study's name or YAML file.")],
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing it until it is over; Ctrl-C ends it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say how far a run is, how fast, what is being done now, and what failed and why."""
    from traitline.errors import InputError
    from traitline.study.remote import is_url
    from traitline.study.remote_store import looked_into

    where = _run_folder(run)
    if watch and is_url(where):
        raise InputError("--watch is for runs in a folder; a run at a URL puts its ledger there once a minute")
    with looked_into(where) as folder:
        _show_status(where, folder, watch, as_json)


def _show_status(where: Path | str, out: Path, watch: bool, as_json: bool) -> None:
    """Print the status of a run whose files lie in a folder, its own or for the moment."""
    from rich.console import Console

    from traitline.cli.live import grid, told
    from traitline.cli.live import watch as keep_watching
    from traitline.cli.look import RunLook
    from traitline.errors import InputError
    from traitline.study import run_status
    from traitline.study.study import run_spending

    named = where if isinstance(where, str) else where.absolute()
    look_at = RunLook(out)
    if watch:
        if as_json:
            raise InputError("--watch shows a run to a person; ask again and again with --json instead")
        with contextlib.suppress(KeyboardInterrupt):
            keep_watching(look_at, Console(), say)
    found, look = run_status(out), look_at()
    counts = {phase: rows["state"].value_counts().to_dict() for phase, rows in found.groupby("phase", sort=False)}
    cells: list[dict[Any, Any]] = found.astype(object).where(found.notna(), None).to_dict("records")
    failed = [cell for cell in cells if cell["state"] == "failed"]
    if as_json:
        spent = _records(run_spending(out))
        states = {"run": named, "states": counts, "failed": failed, "cells": cells, "judging": spent}
        print_json({**states, "progress": look.as_data()})
        return
    rows = [(phase, state, count(number)) for phase, states in counts.items() for state, number in states.items()]
    say(named)
    print_table("States", ("phase", "state", ">count"), rows)
    if (console := Console()).is_terminal:
        console.print(*grid(look.cells, console.width, console.height), sep="\n")
    for line in told(look):
        say(line)
    if look.spent:
        say(look.spent[0].upper() + look.spent[1:] + ".")
    if failed:
        columns = ("phase", "network", "trait", "strategy", "reason")
        print_table("Failed; run the study again to retry", columns, [[cell[name] for name in columns] for cell in failed])


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="A run directory or its URL, or several directories.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Several runs: the folder of their comparison.", show_default="comparison-NAME-NAME"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the figures and write report.html again from a run's tables, or one page that compares several runs."""
    from traitline.errors import InputError
    from traitline.report import write_comparison, write_report
    from traitline.study.remote import is_url
    from traitline.study.study import report_at

    if len(runs) == 1 and out is not None:
        raise InputError("--out is for the comparison of several runs; the report of one run lies in its own directory")
    page: Path | str
    if any(is_url(run) for run in runs):
        if len(runs) > 1:
            raise InputError("runs that are compared must lie in folders; copy those at URLs here first")
        report_at(runs[0])
        page = f"{runs[0].rstrip('/')}/report.html"
    else:
        folders = [Path(run) for run in runs]
        page = (write_report(folders[0]) if len(folders) == 1 else write_comparison(folders, out)).resolve()
    if as_json:
        print_json({"report": page})
    else:
        say(page)


def _run(
    name: str,
    out: Path | str | None,
    as_json: bool,
    workers: int | None = None,
    executor: str | Executor | None = None,
    *,
    share: bool = False,
) -> None:
    """Do a study and print its verdicts."""
    from traitline.cli.runlog import logged
    from traitline.study import Study
    from traitline.study.costs import describe_spending
    from traitline.study.estimate import efforts
    from traitline.study.executors import how_many

    study = Study.from_yaml(name, out)
    processes = how_many(workers, study.config.device) if executor in {None, "processes"} else workers
    planned = efforts(study.resolved)["total"].rows
    _quiet_libraries()
    _prepare(study)
    batch = study.config.batch_rows if processes == 1 and not share else planned
    with _shown(study, planned, batch) as settle, logged(study.resolved, study.out, settle) as listener:
        outcome = study.share(listener) if share else study.run(progress=listener, workers=processes, executor=executor)
    verdicts = _verdicts(study)
    page = (study.out / "report.html").resolve() if study.url is None else f"{study.url.rstrip('/')}/report.html"
    if as_json:
        states = {"complete": outcome.complete, "no_vector": outcome.no_vector, "failed": len(outcome.failed)}
        told = {"failures": outcome.failed, "verdicts": verdicts, "notes": outcome.notes, "judging": _records(study.spent())}
        print_json({"run": study.url or study.out.resolve(), "report": page, "states": states, **told})
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


def _shown(study: Study, rows: int, batch: int) -> contextlib.AbstractContextManager[Settle]:
    """Show a run while it goes on: drawn in a terminal, else as plain lines."""
    from rich.console import Console

    from traitline.cli.live import live
    from traitline.cli.look import RunLook

    console = Console(stderr=True)
    if console.is_terminal:
        return live(RunLook(study.out, study.resolved, whole=False), rows, batch=batch, console=console)
    return progress(rows, batch=batch)


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
        rounded(effort["rows"]),
        rounded(effort["tokens"]),
        known(effort["gpu_seconds"], duration),
        rounded(effort["judge_calls"]),
        size(effort["disk_bytes"]),
        known(effort["download_bytes"], size),
        known(effort["money"], lambda money: f"{money:.2f}"),
    )


def _power(one: dict[str, Any]) -> tuple[str, ...]:
    p = (f"{one[name]:.2g}" for name in ("smallest_p", "smallest_p_adjusted"))
    return one["trait"], one["strategy"], count(one["questions"]), *p, known(one["detectable_effect"], _points)


def _points(effect: float) -> str:
    return f"{effect:.1f}" if math.isfinite(effect) else "none, however large"


def _run_folder(name: str) -> Path | str:
    """Return the run directory that a directory, a URL, a study file or a study's name stands for."""
    from traitline.study.remote import is_url

    if is_url(name):
        return name
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
