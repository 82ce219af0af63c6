"""The live view of a run: what is read of its directory, what is drawn of it and how wide, and its log."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import pty
import re
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

from small_study import CountingJudge, make_study
from traitline.cli import app
from traitline.cli.live import grid, live, told, watch
from traitline.cli.look import Look, RunLook
from traitline.cli.runlog import logged
from traitline.judges import Score
from traitline.judges.base import KINDS
from traitline.study import Study
from traitline.study.estimate import efforts
from traitline.study.store import RunStore, read_rows
from traitline.traits import Trait

KEY = "sk-0123456789-secret"
CALLS = 12
"""Calls of the judge after which the interrupted run stops: within the evaluation at the first network."""


class Stopping(CountingJudge):
    """Behaves as if the user pressed Ctrl-C while it judges for the `CALLS`-th time."""

    calls = 0

    def score(self, trait: Trait, questions: Sequence[str], answers: Sequence[str], **_: str) -> list[Score]:
        self.calls += bool(answers)
        if self.calls > CALLS:
            raise KeyboardInterrupt
        return super().score(trait, questions, answers)


def make_stopping(_rest: str, _cache: Path | None) -> Stopping:
    return Stopping()


def make_counting(_rest: str, _cache: Path | None) -> CountingJudge:
    return CountingJudge()


@pytest.fixture(scope="module", autouse=True)
def _judges_of_this_file() -> Any:
    KINDS.update(counting=f"{__name__}:make_counting", stopping=f"{__name__}:make_stopping")
    yield
    del KINDS["counting"], KINDS["stopping"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(
        tmp_path_factory.mktemp("live"),
        judge="stopping",
        batch_rows=40,
        elicit={"samples": 1, "max_new_tokens": 4},
        evaluate={"samples": 1, "max_new_tokens": 4, "layers": [1], "coefs": [0.5]},
        controls={"isotropic": 1, "covariance": 0, "shuffled": 0, "bootstrap": 0},
    )


@pytest.fixture(scope="module")
def stopped(study: Path) -> tuple[Path, Any]:
    """A run that was stopped in the middle, and what the command line said."""
    out = study.parent / "stopped"
    return out, call("run", study, "--out", out)


def call(*args: object) -> Any:
    return CliRunner().invoke(app, [str(one) for one in args])


def cells(networks: int, traits: int, strategies: int, state: str = "waiting") -> pd.DataFrame:
    rows = [
        {"phase": "cells", "network": f"stage1-step{n}", "trait": f"sycophantic{t}", "strategy": f"strategy{s}", "state": state}
        for n in range(networks)
        for t in range(traits)
        for s in range(strategies)
    ]
    return pd.DataFrame(rows)


# What is read --------------------------------------------------------------------------------------------------------


def test_status_of_a_stopped_run_says_what_was_done_and_what_is_left(study: Path, stopped: tuple[Path, Any]) -> None:
    out, result = stopped
    assert result.exit_code == 130
    assert "\x1b" not in result.output  # plain lines where there is no terminal
    made = RunStore(out).ledger("batches")
    planned = efforts(Study.from_yaml(study).resolved)["total"].rows
    assert 0 < made["rows"].sum() < planned
    found = json.loads(call("status", out, "--json").stdout)["progress"]
    assert found["rows_done"] == made["rows"].sum()
    assert found["rows_done"] + found["rows_left"] == planned
    last = made.groupby("stage")["rows"].sum()
    assert [(one["network"], one["stage"], one["done"]) for one in found["doing"]] == [("step20", "evaluate", last["evaluate"])]
    assert found["doing"][0]["planned"] > last["evaluate"]
    text = call("status", out).stdout
    assert f"{found['rows_done']:,} of at most {planned:,} rows" in text
    assert f"now step20: evaluate, {last['evaluate']:,} of {found['doing'][0]['planned']:,} rows" in text
    assert "\x1b" not in text


def test_rates_and_time_left_are_those_of_the_batches_finished_last(stopped: tuple[Path, Any], tmp_path: Path) -> None:
    out, _ = stopped
    copy = shutil.copytree(out, tmp_path / "run")
    with closing(sqlite3.connect(copy / "ledger.sqlite")) as ledger, ledger:
        ledger.execute("delete from batches")
        for i in range(10):  # one process: each took 8 s of generation, while the one before was judged
            at = f"2030-01-01T00:{1 + i * 8 // 60:02d}:{i * 8 % 60:02d}Z"
            values = ("step20", "evaluate", i, 40, 1, "complete", 8.0, 5.0, at)
            ledger.execute("insert into batches values (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    look = RunLook(copy)()
    assert look.rows_per_second == pytest.approx(400 / 80)
    newest = max((copy / "parts" / "step20" / "evaluate").glob("[0-9]*[0-9].parquet"))
    assert look.tokens_per_second == pytest.approx(5 * read_rows(newest)["response_token_ids"].map(len).mean())
    assert look.rows_left is not None
    assert look.seconds_left == pytest.approx(look.rows_left / 5)
    with closing(sqlite3.connect(copy / "ledger.sqlite")) as ledger, ledger:  # four processes: the clock says 12 rows a second
        ledger.execute("delete from batches")
        for i in range(100):
            values = ("step20", "evaluate", i, 40, 1, "complete", 12.0, 1.0, f"2030-01-01T00:0{i * 3 // 60}:{i * 3 % 60:02d}Z")
            ledger.execute("insert into batches values (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    rate = RunLook(copy)().rows_per_second
    assert rate == pytest.approx(40 / 3, rel=0.02)


def test_nothing_known_is_not_zero(study: Path, stopped: tuple[Path, Any], tmp_path: Path) -> None:
    out, _ = stopped
    copy = shutil.copytree(out, tmp_path / "run")
    content = yaml.safe_load((copy / "study.yaml").read_text())
    content["study"]["traits"] = ["gone.yaml"]
    (copy / "study.yaml").write_text(yaml.safe_dump(content))
    with closing(sqlite3.connect(copy / "ledger.sqlite")) as ledger, ledger:
        ledger.execute("delete from batches")
    look = RunLook(copy)()
    assert (look.rows_left, look.seconds_left, look.rows_per_second, look.tokens_per_second) == (None, None, None, None)
    assert "time left not known yet" in look.phrases()
    assert call("status", copy).exit_code == 0


def test_a_run_that_is_quiet_is_said_to_be() -> None:
    assert "is it still running?" in " ".join(Look(cells(1, 1, 1), quiet_seconds=1500.0).phrases())
    assert "no batch for 2 min" in " ".join(Look(cells(1, 1, 1), quiet_seconds=120.0).phrases())
    assert "no batch" not in " ".join(Look(cells(1, 1, 1, "complete"), quiet_seconds=1500.0).phrases())


# What is drawn -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 40, 20])
@pytest.mark.parametrize(("networks", "traits", "strategies"), [(3, 1, 1), (20, 4, 5), (40, 12, 6)])
def test_the_grid_fits_any_width_and_height(width: int, networks: int, traits: int, strategies: int) -> None:
    table = cells(networks, traits, strategies)
    table.loc[table["network"] == f"stage1-step{networks // 2}", "state"] = "in work"
    lines = grid(table, width, 10)
    assert max(cell_len(line.plain) for line in lines) <= width
    shown = [line.plain for line in lines if line.plain.startswith("stage1")]
    assert len(shown) == min(networks, 10)
    assert networks <= 10 or sum("▸" in line for line in shown) == 1 or "0/" in shown[0]
    above_and_below = [int(n) for line in lines for n in re.findall(r"and (\d+) (?:above|below)", line.plain)]
    assert len(shown) + sum(above_and_below) == networks


def test_every_cell_has_its_mark_and_ascii_will_do() -> None:
    table = cells(1, 2, 3)
    table["state"] = ["complete", "no_vector", "failed", "in work", "waiting", "complete"]
    (line,) = (line.plain for line in grid(table, 80, 10) if line.plain.startswith("stage1"))
    assert line.split()[1:] == ["■□✗", "▸·■"]
    plain = grid(table, 80, 10, ascii_only=True)
    assert all(line.plain.isascii() for line in plain)
    assert next(line.plain for line in plain if line.plain.startswith("stage1")).split()[1:] == ["#ox", ">.#"]


def test_names_cannot_steer_the_terminal() -> None:
    table = cells(1, 1, 1)
    table["network"], table["trait"] = "\x1b]0;owned\x07", "[red]evil"
    text = "".join(line.plain for line in grid(table, 80, 10))
    assert "\x1b" not in text
    assert "[red]evil" in text


def test_the_live_view_shows_cells_rates_and_money_and_leaves_the_terminal_whole(stopped: tuple[Path, Any]) -> None:
    out, _ = stopped
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, height=24, color_system=None)

    def interrupted() -> None:
        with live(RunLook(out), 1000, batch=40, console=console) as settle:
            settle("step20: evaluate", 250)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    text = screen.getvalue()
    assert "25 %" in text
    assert re.search(r"step20: evaluate, \d+ of \d+ rows", text)
    assert re.search(r"^→? ?step20 +▸▸ ", text, re.MULTILINE)
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_the_run_is_looked_at_once_a_second_at_most_and_a_failing_look_stops_nothing(tmp_path: Path) -> None:
    class Broken(RunLook):
        looks = 0

        def __call__(self) -> Look:
            Broken.looks += 1
            return super().__call__()

    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with live(Broken(tmp_path / "none"), 10, batch=4, console=console) as settle:
        for _ in range(50):
            settle("x", 0)
            console.print("a line of another library")
    assert Broken.looks <= 2


def test_watching_ends_with_the_run_and_is_plain_without_a_terminal(stopped: tuple[Path, Any], tmp_path: Path) -> None:
    copy = shutil.copytree(stopped[0], tmp_path / "run")
    lines: list[str] = []

    def finish(line: str) -> None:
        lines.append(line)
        with closing(sqlite3.connect(copy / "ledger.sqlite")) as ledger, ledger:
            for row in RunLook(copy)().cells.itertuples():
                values = (row.network, row.trait, row.strategy, "complete", None, 1.0, "2030-01-01T00:00:00Z")
                ledger.execute(f"insert or replace into {row.phase} values (?, ?, ?, ?, ?, ?, ?)", values)  # noqa: S608

    watch(RunLook(copy), Console(file=io.StringIO()), finish, every_seconds=0.3)
    assert len(lines) == 1
    assert "now step20: evaluate" in lines[0]
    assert told(RunLook(copy)())[-1].endswith("done")
    assert call("status", copy, "--watch").exit_code == 0
    assert call("status", copy, "--watch", "--json").exit_code == 2


# The log -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("light_figures")
def test_the_log_has_a_line_for_every_event_and_no_secrets(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    content = yaml.safe_load(study.read_text())
    path = tmp_path / "study.yaml"
    path.write_text(
        yaml.safe_dump(
            {**content, "judge": "counting", "targets": [], "checkpoints": ["step20"], "traits": content["traits"][:1]}
        )
    )
    assert call("run", path, "--out", tmp_path / "run").exit_code == 0
    log = tmp_path / "run" / "run.log"
    lines = log.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  (INFO|WARNING|ERROR) +\S", line) for line in lines)
    assert "run of small begins" in lines[0]
    settled = [line for line in lines if re.search(r"cell step20/even/(character|forced): (complete|no vector)", line)]
    assert len(settled) == 2
    assert re.search(r"run ends after \d+ s", lines[-1])
    plan = Study.from_yaml(path).resolved
    before = logging.getLogger("traitline").level

    def failing() -> None:
        with logged(plan, tmp_path / "run", lambda what, rows: None) as settle:
            settle("step20: elicit", 1)
            logging.getLogger("traitline.judges").warning("the server says %s\nand \x1b[31m more", KEY)
            raise ValueError(f"odd {KEY}")

    with pytest.raises(ValueError, match="odd"):
        failing()
    text = log.read_text()
    assert KEY not in text
    assert "the server says [key] and \\x1b[31m more" in text
    assert "ERROR    run fails: ValueError: odd [key]" in text
    assert logging.getLogger("traitline").handlers == []
    assert logging.getLogger("traitline").level == before


def test_the_log_of_a_stopped_run_says_so(stopped: tuple[Path, Any]) -> None:
    assert (stopped[0] / "run.log").read_text().splitlines()[-1].endswith("run is stopped by the user")


# A real terminal -----------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
import test_cli_live
from traitline.judges.base import KINDS
KINDS["stopping"] = "test_cli_live:make_waiting"
sys.argv = ["traitline", "run", {study!r}, "--out", {out!r}]
from traitline.cli import main
main()
"""


PRESSED = "TRAITLINE_TEST_PRESSED"
"""The variable that names a file, which is there once Ctrl-C was pressed."""


class Waiting(Stopping):
    """Once it was asked a few times, waits until the user has pressed Ctrl-C, however long the machine takes."""

    def score(self, trait: Trait, questions: Sequence[str], answers: Sequence[str], **_: str) -> list[Score]:
        self.calls += bool(answers)
        if self.calls > CALLS:
            pressed, end = Path(os.environ[PRESSED]), time.monotonic() + 60
            while not pressed.exists() and time.monotonic() < end:
                threading.Event().wait(0.05)
            threading.Event().wait(0.2)
        return CountingJudge.score(self, trait, questions, answers)


def make_waiting(_rest: str, _cache: Path | None) -> Waiting:
    return Waiting()


def test_ctrl_c_in_a_terminal_of_40_columns_leaves_it_whole(study: Path, tmp_path: Path) -> None:
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    code = PROGRAM.format(tests=str(Path(__file__).parent), study=str(study), out=str(tmp_path / "run"))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    pressed = tmp_path / "pressed"
    environment |= {"TERM": "xterm", "PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1", PRESSED: str(pressed)}
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=other, stdout=other, stderr=other, env=environment, start_new_session=True
    )
    os.close(other)
    seen, interrupted = b"", False
    while True:
        try:
            seen += os.read(main, 65536)
        except OSError:  # the child has closed its end
            break
        if not interrupted and re.search(r"step20 +(?:\x1b\[\d+m)*▸", seen.decode(errors="replace")):
            os.kill(child.pid, signal.SIGINT)
            interrupted = True
            pressed.touch()
    os.close(main)
    assert child.wait(60) == 130, seen.decode(errors="replace")[-2000:]
    text = seen.decode()
    assert "stopped; run the same command again to go on" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    drawn = plain[: plain.index("stopped; run")]
    assert max(cell_len(line) for line in re.split(r"[\r\n]+", drawn)) <= 40
