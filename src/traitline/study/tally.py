"""How far several workers are together, told as one: each row once, and so that the time left can be believed.

A network that is visited again is told of from its beginning; what was told before is left out. What was worked on is told in
steps, for workers that take turns say nothing of the pace of any. What was settled without work is told right after such a
step, where it takes no time of its own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable

from traitline.study.parts import Listener

STEP_SECONDS = 0.25
FIRST_SECONDS = 5.0
"""The first step is longer, for it is told with the time that starting took."""


class Tally:
    """Adds up what workers tell.

    Args:
        listener: told the sum.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._of_visit: Counter[Hashable] = Counter()
        self._of_network: Counter[Hashable] = Counter()
        self._what: dict[bool, str] = {}
        self._rows: Counter[bool] = Counter()  # by whether they were worked on
        self._due: float | None = None
        self._begun = False

    @property
    def due_seconds(self) -> float | None:
        """After how many seconds something is to be told; None where there is nothing."""
        return None if self._due is None else max(0.0, self._due - time.monotonic())

    def begin(self, worker: Hashable) -> None:
        """Note that a worker begins a visit."""
        self._of_visit[worker] = 0

    def told(self, worker: Hashable, network: Hashable, what: str, rows: int, *, worked: bool) -> None:
        """Note rows that a worker has settled in a visit of a network."""
        self._of_visit[worker] += rows
        new = max(0, self._of_visit[worker] - self._of_network[network])
        self._of_network[network] += new
        self._what[worked] = what
        self._rows[worked] += new
        if worked and self._due is None:
            self._due = time.monotonic() + (STEP_SECONDS if self._begun else FIRST_SECONDS)
            self._begun = True
        if self.due_seconds == 0:
            self.flush()

    def flush(self) -> None:
        """Tell what was worked on since the last time, and then whatever else was settled."""
        for worked, tell in ((True, self._listener.worked), (False, self._listener.skipped)):
            if rows := self._rows.pop(worked, 0):
                tell(self._what[worked], rows)
        self._due = None
