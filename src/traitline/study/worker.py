"""A worker: a process that visits networks of a run as its driver tells it, line by line, and ends when the driver does.

Orders come as JSON lines on the standard input, what happens goes back as JSON lines on what was the standard output; whatever
else is printed goes to the standard error. Knows how plan and judge are made again from the study's fields. Leaves the work to
`visits.py`, and which order comes when to `executors.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from traitline.errors import InputError, TraitlineError
from traitline.study.config import StudyConfig
from traitline.study.parts import Listener
from traitline.study.plan import Cell, make_plan
from traitline.study.store import RunStore
from traitline.study.visits import Visits

Message = dict[str, Any]
"""An order has `do`, what happened has `said`; both are JSON."""


def work() -> None:
    """Be a worker of the driver at the other end of the standard input. Never returns."""
    line = _Line()
    try:
        visits = _set_up(line)
        line.visits = visits
        line.say(said="ready")
        while True:
            _obey(visits, line.orders.get(), line)
    except Exception as error:
        line.say(**error_message(error))
        threading.Event().wait()  # for the driver to end it


class _Line:
    """The line to the driver."""

    def __init__(self) -> None:
        self.orders: queue.Queue[Message] = queue.Queue()
        self.visits: Visits | None = None
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._lock = threading.Lock()
        threading.Thread(target=self._hear, daemon=True).start()

    def say(self, **message: Any) -> None:
        """Tell the driver something; a driver that is gone is noticed elsewhere."""
        with self._lock, contextlib.suppress(OSError):
            print(json.dumps(message), file=self._out, flush=True)

    def _hear(self) -> None:
        """Take orders until there are no more to come, then end the process, whatever it is at."""
        for text in sys.stdin:
            self.orders.put(json.loads(text))
        if self.visits is not None:
            with contextlib.suppress(Exception):
                self.visits.parts.account.enter()
        os._exit(0)


def _set_up(line: _Line) -> Visits:
    """Make plan, judge and visits as the first message says.

    Raises:
        InputError: the plan is not what follows from the study's fields.
        TraitlineError: as reading a study and making a judge do.
    """
    from traitline.study.run import named_judge

    start = line.orders.get()
    config = StudyConfig.model_validate_json(start["study"])
    plan = make_plan(config)
    if plan.digest != start["plan"]:
        raise InputError(
            f"a worker reads another plan ({plan.digest}) from the study than its driver ({start['plan']}): trait or lineage "
            "files were changed meanwhile, or the plan was not made by make_plan; run again, or with workers=1"
        )
    quiet_libraries()
    store = RunStore(Path(start["out"]))

    def begun(stage: str, cells: Sequence[Cell]) -> None:
        line.say(said="begun", stage=stage, cells=[[cell.network, cell.trait, cell.strategy] for cell in cells])

    listener = Listener(
        worked=lambda what, rows: line.say(said="worked", what=what, rows=rows),
        skipped=lambda what, rows: line.say(said="skipped", what=what, rows=rows),
        begun=begun,
    )
    return Visits(plan, store, named_judge(config, store.judge_cache), listener, workers=start["workers"])


def _obey(visits: Visits, order: Message, line: _Line) -> None:
    """Do what the driver orders."""
    phase = next(phase for phase in visits.phases() if phase.name == order["phase"])
    networks = {network.name: network for network in phase.networks}
    network = networks[order["network"]]
    if order["do"] == "join":
        visits.join(phase, network, order["stage"], [Cell(*cell) for cell in order["cells"]])
        line.say(said="joined")
        return
    with visits.store.claim(visits.store.visit(network.name), wait=True):
        visits.parts.tell_anew()
        if order["asked"]:
            visits.parts.ahead.asked(visits.parts.drafts(network))
        done = visits.visit(phase, network, networks.get(order["following"]), last_put_off=order["last_put_off"])
    line.say(said="settled" if done else "put off")


def error_message(error: Exception) -> Message:
    """Return what a driver is told of an error that stops a run; to be called while it is handled."""
    kind = type(error)
    trace = "" if isinstance(error, TraitlineError) else traceback.format_exc()
    return {"said": "error", "kind": f"{kind.__module__}:{kind.__qualname__}", "message": str(error), "trace": trace}


def quiet_libraries() -> None:
    """Keep the bars of other libraries from cutting into the driver's."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
