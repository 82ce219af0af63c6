"""A run while it goes on, drawn: bar, rates, time left, money, and a grid of its cells, networks by traits and strategies.

Knows how much of it fits in a terminal, and that nothing is drawn where there is none. What is shown is read by `look.py`, four
times a second at most is it drawn. Names come from files of users: they are shown as they are, without markup.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pandas as pd
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.text import Text

from traitline.cli.console import harmless
from traitline.cli.look import Look, RunLook, network_order
from traitline.cli.progress import LINE_SECONDS, Meter, Settle
from traitline.errors import TraitlineError

REFRESHES_PER_SECOND = 4
LOOK_SECONDS = 1.0
WIDEST_BAR = 60
LONGEST_NAME = 24
SHORTEST_NAME = 6
_MARKS = {"complete": ("■", "#", "green"), "no_vector": ("□", "o", "yellow"), "failed": ("✗", "x", "red")}
_MARKS |= {"in work": ("▸", ">", "cyan"), "waiting": ("·", ".", "dim")}
_WORDS = {"no_vector": "no vector"}


@dataclass
class View:
    """What is drawn of a run: the look of the moment, taken anew at most once a second.

    Attributes:
        look_at: takes a look.
        meter: what this process has counted itself, whose time left is believed rather than that of the ledger.
        what: what this process says it is doing.
    """

    look_at: Callable[[], Look]
    meter: Meter | None = None
    what: str = ""
    _look: Look | None = None
    _due: float = -math.inf
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def refresh(self) -> Look | None:
        """Return the look of the moment; the last one that worked where the files cannot be read."""
        with self._lock:
            if time.monotonic() >= self._due:
                with suppress(TraitlineError, OSError, ValueError):  # not begun yet, or a file that is being replaced
                    self._look = self.look_at()
                self._due = time.monotonic() + LOOK_SECONDS
            return self._look

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        look = self.refresh()
        width, ascii_only = options.max_width, not (console.encoding or "").lower().startswith("utf")
        doing = [str(one) for one in look.doing][:4] if look else []
        head = [_line(harmless(line), width, "bold") for line in doing or [self._what(look)]]
        done, total = self._settled(look)
        head.append(_bar(done / total if total else 0.0, min(width, WIDEST_BAR), ascii_only))
        head += [_line(text, width) for text in _wrapped(self._phrases(look), width)]
        if look is not None and look.spent:
            head += [_line(text, width) for text in _wrapped([look.spent], width)]
        rows = grid(look.cells, width, max(1, options.size.height - len(head) - 5), ascii_only=ascii_only) if look else []
        yield Group(*head, *rows)

    def _what(self, look: Look | None) -> str:
        if self.meter is not None and look is not None and look.over and self.meter.done:
            return "writing tables, figures and the report"
        return self.what or ("starting" if self.meter is not None else "between two networks")

    def _settled(self, look: Look | None) -> tuple[int, int]:
        if self.meter is not None:
            return self.meter.done, self.meter.total
        if look is None or look.rows_left is None:
            return 0, 0
        return look.rows_done, look.rows_done + look.rows_left

    def _phrases(self, look: Look | None) -> list[str]:
        told = look.phrases() if look else []
        if self.meter is not None:
            told = [f"{self.meter.percent} %", self.meter.phrase(), *told[:-1]]
        return told


def grid(cells: pd.DataFrame, width: int, height: int, *, ascii_only: bool = False) -> list[Text]:
    """Draw cells: a line for each network, a block for each trait, in it a mark for each strategy, and what marks mean.

    Args:
        cells: as in `Look`.
        width: columns there are.
        height: lines for networks; of more, those are shown where work goes on.
        ascii_only: for terminals that know nothing else.
    """
    traits = list(dict.fromkeys(cells["trait"]))
    strategies = list(dict.fromkeys(cells["strategy"]))
    networks = network_order(cells)
    state = {tuple(row[:4]): str(row[4]) for row in cells[["phase", "network", "trait", "strategy", "state"]].to_numpy()}
    names = [harmless(f"→ {name}" if phase == "targets" and not ascii_only else name) for phase, name in networks]
    fits = max(SHORTEST_NAME, width - len(traits) * (len(strategies) + 1))
    first = min(max(map(len, names), default=0), LONGEST_NAME, fits)
    spare = (width - first) // max(len(traits), 1) - 1
    counted = spare < len(strategies)  # not even the marks of all traits fit
    blocks = [max(len(strategies), min(len(trait), spare)) for trait in traits]
    shown, before, after = _window(networks, state, height)
    lines = [] if counted else [_line(_columns("", first, map(harmless, traits), blocks), width, "bold")]
    if before:
        lines.append(_line(f"  and {before} above", width, "dim"))
    for i in shown:
        own = [[state.get((*networks[i], trait, strategy)) for strategy in strategies] for trait in traits]
        line = Text(names[i][:first].ljust(first), no_wrap=True)
        if counted:
            known = [one for block in own for one in block if one]
            line.append(f" {sum(one in ('complete', 'no_vector') for one in known)}/{len(known)}")
            line.append(f" {known.count('failed')} failed" if "failed" in known else "", "red")
        for block, size in zip(own, blocks, strict=True) if not counted else ():
            line.append(" ")
            for one in block:
                line.append(*_mark(one, ascii_only))
            line.append(" " * (size - len(block)))
        line.truncate(width)
        lines.append(line)
    if after:
        lines.append(_line(f"  and {after} below", width, "dim"))
    return lines + ([] if counted else _legend(cells, strategies, width, ascii_only))


def _window(networks: Sequence[tuple[str, str]], state: dict[tuple[str, ...], str], height: int) -> tuple[range, int, int]:
    """Return which networks are shown, and how many are left out before and after: those around the one in work."""
    if len(networks) <= height:
        return range(len(networks)), 0, 0
    working = {key[:2] for key, one in state.items() if one == "in work"}
    waiting = {key[:2] for key, one in state.items() if one == "waiting"}
    at = next((i for i, one in enumerate(networks) if one in working), None)
    if at is None:
        at = next((i for i, one in enumerate(networks) if one in waiting), len(networks) - 1)
    start = min(max(0, at - height // 2), len(networks) - height)
    return range(start, start + height), start, len(networks) - start - height


def _legend(cells: pd.DataFrame, strategies: Sequence[str], width: int, ascii_only: bool) -> list[Text]:
    there = [name for name in _MARKS if (cells["state"] == name).any()]
    words = [f"{_mark(name, ascii_only)[0]} {_WORDS.get(name, name)}" for name in there]
    lines = [_line(text, width, "dim") for text in _wrapped(words, width, "  ")]
    order = f"marks, in order: {', '.join(map(harmless, strategies))}"
    return lines + ([_line(order, width, "dim")] if len(strategies) > 1 else [])


def _mark(state: str | None, ascii_only: bool) -> tuple[str, str]:
    if state is None:
        return " ", ""
    mark, plain, style = _MARKS.get(state, ("?", "?", ""))
    return (plain if ascii_only else mark), style


def _columns(name: str, first: int, texts: Iterator[str] | Sequence[str] | map[str], sizes: Sequence[int]) -> str:
    return name.ljust(first) + "".join(f" {text[:size].ljust(size)}" for text, size in zip(texts, sizes, strict=True))


def _wrapped(phrases: Sequence[str], width: int, joint: str = " · ") -> list[str]:
    """Join phrases into lines that fit, as far as a phrase alone does."""
    lines: list[str] = []
    for one in phrases:
        if lines and len(lines[-1]) + len(joint) + len(one) <= width:
            lines[-1] += joint + one
        else:
            lines.append(one)
    return lines


def _bar(share: float, width: int, ascii_only: bool) -> Text:
    done, left = ("#", ".") if ascii_only else ("━", "─")
    full = min(width, int(share * width))
    return Text(no_wrap=True).append(done * full, "green").append(left * (width - full), "dim")


def _line(text: str, width: int, style: str = "") -> Text:
    line = Text(text, style=style, no_wrap=True)
    line.truncate(width, overflow="ellipsis")
    return line


@contextmanager
def live(look: RunLook, total: int, *, batch: int, console: Console) -> Iterator[Settle]:
    """Draw a run while the body does it; the body calls what it is given, from any thread.

    Args:
        look: looks at the run.
        total: rows to settle.
        batch: the most rows that one call can have worked on.
        console: a terminal.
    """
    meter, lock = Meter(total, batch=batch), threading.Lock()
    view = View(look, meter)

    def settle(what: str, rows: int) -> None:
        with lock:
            meter.settle(rows)
            view.what = what

    with Live(view, console=console, refresh_per_second=REFRESHES_PER_SECOND, vertical_overflow="crop"):
        yield settle


def watch(look: RunLook, console: Console, say: Callable[[str], None], *, every_seconds: float = 1.0) -> None:
    """Show a run that another process is at until all its cells have a state, or the user stops watching.

    Args:
        look: looks at the run.
        console: where it is drawn, if it is a terminal.
        say: told a plain line now and then, if it is none.
        every_seconds: how often the run is looked at.

    Raises:
        InputError: no run lies there.
        StoreError: its files are damaged.
    """
    view = View(look, _look=look())
    if console.is_terminal:
        with Live(view, console=console, refresh_per_second=REFRESHES_PER_SECOND, vertical_overflow="crop"):
            while not _over(view):
                time.sleep(every_seconds)
        return
    due = -math.inf
    while not _over(view):
        if time.monotonic() >= due:
            say("  ".join(told(view.refresh())))
            due = time.monotonic() + LINE_SECONDS
        time.sleep(every_seconds)


def told(look: Look | None) -> list[str]:
    """Return a look in plain words: rows, rates, time left, and what is being done."""
    return [", ".join(look.phrases()), *(f"now {one}" for one in look.doing)] if look else ["nothing is known yet"]


def _over(view: View) -> bool:
    look = view.refresh()
    return look is not None and look.over
