"""The command line: parse, call, print.

Knows the commands' names, and how errors and interruptions end a process: 0 done, 1 failed, 2 wrong usage or input,
3 finished with failed cells, 130 stopped by the user. Every command imports what it needs when it is called, so that help and
listings never wait for torch. Leaves the commands to the rooms beside this file.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from traitline.cli import doctor, judges, lineages, models, reproduce, steer, studies, traits, vectors
from traitline.cli.console import note, say
from traitline.errors import InputError, TraitlineError

STOPPED = 130


class _Commands(TyperGroup):
    """Ends a command that failed on purpose, or was stopped, with a message instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TraitlineError as error:
            note(f"error: {error}")
            raise typer.Exit(2 if isinstance(error, InputError) else 1) from error
        except KeyboardInterrupt as stop:
            note("stopped; run the same command again to go on")
            raise typer.Exit(STOPPED) from stop


app = typer.Typer(
    name="traitline",
    help="Trace how traits form along a language model's training.",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(studies.demo)
app.command()(studies.run)
app.command()(studies.plan)
app.command()(studies.status)
app.command()(studies.report)
app.command()(reproduce.reproduce)
app.command()(models.extract)
app.command()(steer.steer)
app.add_typer(vectors.app)
app.add_typer(traits.app)
app.add_typer(lineages.app)
app.add_typer(judges.app)
app.command()(doctor.doctor)


def _print_version(asked: bool) -> None:
    if asked:
        from traitline import __version__

        say(f"traitline {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line of this process; ends it with the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may not know every character of a model's text
    # Before torch is loaded: a waiting thread then spins for microseconds and sleeps. Without it, small networks come nearly to
    # a standstill as soon as anything else wants a core; on idle cores it costs nothing (both measured on two cores).
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    app()
