"""How fast a server may be asked: everybody's turn, by what its answers say is left of its limits.

Knows the requests under way and the allowances that headers tell. Leaves reading headers to `waits.py`, and sending to
`chat.py`. An answer says what was left when it was written; what is under way then may or may not be counted in it, so it is
taken off once more. A server with little left is so asked by fewer at once, and by nobody until it is full again once nothing
is left: no request is sent only to be refused.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from traitline.judges.api.waits import allowances

LONGEST_WAIT_SECONDS = 120.0
WORTH_TELLING_SECONDS = 15.0
_POLL_SECONDS = 0.25
_MARGIN_SECONDS = 0.02
"""Servers round the time at which a limit is full again, and their clocks are not ours."""

_log = logging.getLogger(__name__)


class Pace:
    """Turns at one server. Safe to share between threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._hold_until = 0.0
        self._told_until = 0.0
        self._under_way = 0
        self._answers = self._tokens = 0
        self._left: dict[str, tuple[float, float]] = {}  # limit -> (how much is left, until when that counts)
        self._most: dict[str, float] = {}  # limit -> the most that was ever left

    def hold(self, seconds: float) -> None:
        """Hold everybody back for so long; every limit counts as used up until then."""
        with self._changed:
            self._hold_until = max(self._hold_until, time.monotonic() + seconds)
            self._left = dict.fromkeys(self._most, (0.0, self._hold_until))

    @contextmanager
    def turn(self, stop: threading.Event) -> Iterator[None]:
        """Wait for a turn, or until `stop` is set, and take part of what is left."""
        with self._changed:
            while (wait := self._wait(time.monotonic())) > 0 and not stop.is_set():
                self._changed.wait(min(wait, _POLL_SECONDS))
            self._under_way += 1
            self._left = {limit: (left - self._need(limit), until) for limit, (left, until) in self._left.items()}
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def note(self, headers: Mapping[str, str], tokens: int | None = None) -> None:
        """Take in what an answer says is left, from within its turn.

        Args:
            headers: the answer's.
            tokens: what it cost; None where that cannot be read.
        """
        with self._changed:
            if tokens is not None:
                self._answers += 1
                self._tokens += tokens
            now = time.monotonic()
            self._refill(now)
            for limit, (left, seconds) in allowances(headers).items():
                others = self._need(limit) * (self._under_way - 1)
                known, _ = self._left.get(limit, (math.inf, 0.0))  # answers overtake each other: an older one says more
                self._left[limit] = min(known, left - others), now + min(seconds, LONGEST_WAIT_SECONDS) + _MARGIN_SECONDS
                self._most[limit] = max(self._most.get(limit, 0.0), left + self._need(limit))

    def _need(self, limit: str) -> float:
        """How much of a limit one request takes: one of the requests, or as many tokens as one took so far."""
        return 1.0 if limit == "requests" else self._tokens / max(self._answers, 1)

    def _wait(self, now: float) -> float:
        """Return the seconds until there may be a turn; 0 where there is one now."""
        self._refill(now)
        empty = [until - now for limit, (left, until) in self._left.items() if left < self._need(limit)]
        if empty and not self._under_way:
            self._tell(max(empty), now)
        return max([self._hold_until - now, *empty])

    def _refill(self, now: float) -> None:
        """Take a limit whose time has come to be as full as it ever was, less what is under way."""
        for limit, (_, until) in list(self._left.items()):
            if until <= now:
                full = max(self._most[limit] - self._need(limit) * self._under_way, 0.0)
                self._left[limit] = full, now + LONGEST_WAIT_SECONDS

    def _tell(self, wait: float, now: float) -> None:
        if wait >= WORTH_TELLING_SECONDS and now >= self._told_until:
            self._told_until = now + max(wait, 60.0)
            _log.warning("the judge's server says that its rate limit is used up; going on in %.0f s", wait)
