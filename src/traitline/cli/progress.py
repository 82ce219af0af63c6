"""How far long work is: a bar on a terminal, otherwise a plain line every ten seconds, both on stderr.

Knows how to tell a believable time left from settled rows. Knows nothing of what is being done.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from traitline.cli.console import harmless, note

WINDOW_SECONDS = 60.0
"""The rate is that of the last rows which took this long together."""
WARM_SECONDS = 3.0
"""No time left is told before this much work was seen."""
INSTANT_SECONDS = 0.05
LINE_SECONDS = 10.0

Settle = Callable[[str, int], None]
"""Called with what is being done and how many rows were settled."""


class Meter:
    """Counts rows and tells the time left from the rows that were worked on lately.

    Rows that were done before, or have no vector, settle at once and in any number; they count as done but say nothing of
    the rate. With `batch` they are told apart: no work settles more rows than a batch, or comes right after another call.
    """

    def __init__(self, total: int, *, batch: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done = total, 0
        self._batch, self._clock = batch, clock
        self._last = clock()
        self._worked: deque[tuple[int, float]] = deque()  # (rows, seconds), the latest last

    def settle(self, rows: int) -> None:
        """Count rows as settled. A call without rows says nothing, the time it took belongs to the next rows."""
        if not rows:
            return
        now = self._clock()
        seconds, self._last = now - self._last, now
        self.done = min(self.total, self.done + rows)
        if self._batch is not None and (rows > self._batch or seconds < INSTANT_SECONDS):
            return
        self._worked.append((rows, seconds))
        busy = sum(took for _, took in self._worked)
        while len(self._worked) > 1 and busy - self._worked[0][1] >= WINDOW_SECONDS:
            busy -= self._worked.popleft()[1]

    @property
    def percent(self) -> int:
        """Whole percent done; 100 only when everything is."""
        return 100 * self.done // self.total if self.total else 100

    def seconds_left(self) -> float | None:
        """Return the time left at the recent rate; None before there is one."""
        if self.done >= self.total:
            return 0.0
        worked = list(self._worked)
        rows, busy = sum(n for n, _ in worked), sum(took for _, took in worked)
        if busy < WARM_SECONDS:
            return None
        return max(0.0, (self.total - self.done) * busy / rows - (self._clock() - self._last))

    def phrase(self) -> str:
        """Return the time left in words."""
        return time_left(self.seconds_left()) if self.done < self.total else "done"


def time_left(seconds: float | None) -> str:
    """Return a time left in words."""
    if seconds is None:
        return "time left not known yet"
    if seconds < 60:
        return f"about {max(5, 5 * math.ceil(seconds / 5))} s left"
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"about {hours} h {minutes:02d} min left" if hours else f"about {minutes} min left"


class _TimeLeft(ProgressColumn):
    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter

    def render(self, task: Task) -> Text:
        return Text(self._meter.phrase())


@contextmanager
def progress(total: int, *, batch: int | None = None) -> Iterator[Settle]:
    """Show progress while the body runs; the body calls what it is given, from any thread.

    Args:
        total: rows to settle.
        batch: the most rows that one call can have worked on; None where every call is work.
    """
    meter, lock = Meter(total, batch=batch), threading.Lock()
    console = Console(stderr=True)
    with _bar(console, meter) if console.is_terminal else _lines(meter) as show:

        def settle(what: str, rows: int) -> None:
            with lock:
                meter.settle(rows)
                show(harmless(what))

        yield settle


@contextmanager
def _bar(console: Console, meter: Meter) -> Iterator[Callable[[str], None]]:
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %", markup=False),
        _TimeLeft(meter),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console) as shown:
        task = shown.add_task("starting", total=meter.total)
        yield lambda what: shown.update(task, completed=meter.done, description=what)


@contextmanager
def _lines(meter: Meter) -> Iterator[Callable[[str], None]]:
    due = -math.inf

    def show(what: str) -> None:
        nonlocal due
        if time.monotonic() >= due:
            note(f"{meter.percent:3d} %  {meter.phrase()}  {what}")
            due = time.monotonic() + LINE_SECONDS

    yield show
