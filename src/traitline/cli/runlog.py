"""`run.log` in a run directory: what happened in a run, one line an event, for a person to read.

Takes in what is logged under `traitline`, and says itself when a run begins and ends, what is being done, and which cells were
settled (as the ledger tells, so that cells of other processes are in it). Warnings reach the screen as well. No line holds a
key, a line break or a control character.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from traitline.cli.console import harmless, note
from traitline.cli.progress import Settle
from traitline.errors import TraitlineError
from traitline.judges.api.secrets import Key, key_from_environment
from traitline.study.plan import Plan
from traitline.study.store import RunStore

NAME = "run.log"
LOOK_SECONDS = 1.0
MOST_HELD = 200
_log = logging.getLogger("traitline.run")
_FORM = logging.Formatter("%(asctime)s  %(levelname)-7s  %(message)s", "%Y-%m-%d %H:%M:%S")


class _File(logging.Handler):
    """Appends to a run's log, once the run has a directory; what comes before is held."""

    def __init__(self, out: Path) -> None:
        super().__init__(logging.INFO)
        self._out = out
        self._held: list[str] = []
        try:
            self._key = key_from_environment()
        except TraitlineError:
            self._key = Key("")
        self.setFormatter(_FORM)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; a log that cannot be written stops no run."""
        with suppress(Exception):
            self._held.append(harmless(" ".join(self._key.blotted_out(self.format(record)).split("\n"))))
            if (self._out / "study.yaml").is_file():
                with (self._out / NAME).open("a", encoding="utf-8") as file:
                    file.write("".join(f"{line}\n" for line in self._held))
                self._held.clear()
            del self._held[:-MOST_HELD]


class _Screen(logging.Handler):
    """Says warnings beside the result."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say a record."""
        note(record.getMessage())


@contextmanager
def logged(plan: Plan, out: Path, settle: Settle) -> Iterator[Settle]:
    """Keep a log while the body runs, which calls what it is given in place of `settle`.

    Args:
        plan: the study.
        out: its run directory.
        settle: told of everything as well.
    """
    logger = logging.getLogger("traitline")
    handlers = [_File(out), *([] if logger.handlers or logging.root.handlers else [_Screen(logging.WARNING)])]
    level = logger.level
    for one in handlers:
        logger.addHandler(one)
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    events, started = _Events(RunStore(out)), time.monotonic()
    _log.info(
        "run of %s begins: lineage %s, %d checkpoints, traits %s, strategies %s, judge %s, plan %s",
        *(plan.config.name, plan.lineage.name, len(plan.checkpoints), ", ".join(plan.traits)),
        *(", ".join(plan.config.strategies), plan.config.judge, plan.digest),
    )

    def told(what: str, rows: int) -> None:
        events.doing(what)
        settle(what, rows)

    try:
        yield told
        events.look()
        _log.info("run ends after %.0f s", time.monotonic() - started)
    except BaseException as error:
        events.look()
        how = "is stopped by the user" if isinstance(error, KeyboardInterrupt) else f"fails: {type(error).__name__}: {error}"
        _log.log(logging.INFO if isinstance(error, KeyboardInterrupt) else logging.ERROR, "run %s", how)
        raise
    finally:
        logger.setLevel(level)
        for one in handlers:
            logger.removeHandler(one)


class _Events:
    """Tells what is new: the stage in work, and cells of the ledger."""

    def __init__(self, store: RunStore) -> None:
        self._store, self._what, self._due = store, "", 0.0
        self._lock = threading.Lock()
        self._known = self._settled()

    def doing(self, what: str) -> None:
        """Note what is being done, and look at the ledger now and then."""
        if what != self._what:
            self._what = what
            _log.info("%s", what)
        if time.monotonic() >= self._due:
            self.look()
            self._due = time.monotonic() + LOOK_SECONDS

    def look(self) -> None:
        """Log the cells that were settled since the last look."""
        with self._lock:
            found = self._settled()
            for key, (state, reason, seconds, _at) in found.items():
                if self._known.get(key) != found[key]:
                    took = f" ({seconds:.1f} s)" if seconds else ""
                    level = logging.ERROR if state == "failed" else logging.INFO
                    _log.log(level, "%s: %s%s%s", "/".join(key), state.replace("_", " "), took, f": {reason}" if reason else "")
            self._known = found

    def _settled(self) -> dict[tuple[str, ...], tuple[str, str, float, str]]:
        if not (self._store.root / "ledger.sqlite").is_file():
            return {}
        found: dict[tuple[str, ...], tuple[str, str, float, str]] = {}
        with suppress(TraitlineError, OSError):
            for table, kind in (("cells", "cell"), ("targets", "target")):
                for row in self._store.ledger(table).itertuples(index=False):
                    key = (f"{kind} {row.network}", str(row.trait), str(row.strategy))
                    reason = row.reason if isinstance(row.reason, str) else ""
                    found[key] = (str(row.state), reason, float(str(row.seconds or 0.0)), str(row.at))
        return found
