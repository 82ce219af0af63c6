"""A network's part of a run: load it, elicit, extract, steer, write its cells; or generate a share of it for another process.

A visit does all that a phase has for one network. What is done is read from the files, so that a visit that was killed is
taken up again by whoever comes next. A process may also join the visit of another one: it generates batches that nobody has
claimed. Leaves the order of visits to `executors.py`, rows to `plan.py`, what they are steered with to `directions.py`, rows
that cells take from others to `pooled.py`, batches to `parts.py`, and files to `store.py`.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from traitline.errors import InputError, ModelError
from traitline.judges import Judge
from traitline.models import Calibration, Model, calibrate, encode, load_model
from traitline.study.ahead import PutOff
from traitline.study.components import write_components
from traitline.study.config import COMBINED, FORCED
from traitline.study.directions import Directions
from traitline.study.estimate import counted
from traitline.study.meanings import keep_meanings, lacks_meanings
from traitline.study.parts import Listener, Parts, Work
from traitline.study.plan import CONTROL_KINDS, Cell, Network, Plan, PlannedRow, derived_seed
from traitline.study.pooled import pooled_rows, sources
from traitline.study.projections import project, write_projections
from traitline.study.readings import Readings
from traitline.study.store import RunStore, read_rows
from traitline.study.supply import Supply, releases
from traitline.vectors.calibration import calibration_texts
from traitline.vectors.dose import KL
from traitline.vectors.estimators import accepted, why_no_pair
from traitline.vectors.extract import ControlSeeds, extract_arrays
from traitline.vectors.vector import Provenance, save_arrays

log = logging.getLogger("traitline")


@dataclass(frozen=True)
class Phase:
    """Networks, and what is done at each: the table in the ledger, cells, stages, and the last stage's rows and files."""

    name: Literal["checkpoints", "descendants", "targets"]
    networks: Sequence[Network]
    table: Literal["cells", "targets"]
    stages: tuple[str, ...]
    cells: Callable[[Network], list[Cell]]
    path: Callable[[Cell], Path]
    rows: Callable[[Network, Cell], Iterator[PlannedRow]] | None = None
    """None where eliciting is all."""


class Visits:
    """One process working on one run.

    Args:
        plan: the study.
        store: its run directory.
        judge: who scores.
        listener: told how it goes.
        workers: how many processes share the run.
    """

    def __init__(self, plan: Plan, store: RunStore, judge: Judge, listener: Listener, workers: int = 1) -> None:
        self.plan, self.store, self.judge, self.listener = plan, store, judge, listener
        self.config = plan.config
        self._directions = Directions(store, plan.config.evaluate.positions, plan.config.evaluate.kl_statistic)
        self.parts = Parts(plan, store, judge, listener, self._directions.exist_for, workers)
        self._readings = Readings(plan, store)
        self.supply = Supply(store, plan.config.disk_gb, self.phases)
        self._joined: tuple[Network, Model, Calibration] | None = None

    def phases(self) -> list[Phase]:
        """Return the phases in order."""
        plan, store = self.plan, self.store
        stages = ("elicit", "evaluate")
        return [
            Phase("checkpoints", plan.networks(), "cells", stages, plan.cells, store.evaluation, plan.evaluation_rows),
            Phase("descendants", plan.descendants, "cells", ("elicit",), plan.elicited, store.contrast),
            Phase("targets", plan.targets, "targets", ("transfer",), plan.cells, store.transfer, plan.transfer_rows),
        ]

    @releases
    def visit(self, phase: Phase, network: Network, following: Network | None = None, *, last_put_off: bool = False) -> bool:
        """Load a network and do its cells, unless they are done. If that fails, its cells have failed and the run goes on.

        Args:
            phase: what is done.
            network: at which network.
            following: whose files are meanwhile downloaded and read into the page cache.
            last_put_off: the last checkpoint waits to be judged, so cells that need its rows wait as well.

        Returns:
            Whether that is all; False where its rows wait to be judged together with those of others.

        Raises:
            InputError: the study steers at a layer that the network does not have.
            JudgeError: the judge cannot be used; what was judged is kept.
        """
        self._joined = None
        if self.settled_before(phase, network):
            return True
        made, cells = self._made_all(phase, network), phase.cells(network)
        started = time.monotonic()
        cells = self._workable(phase, cells, last_put_off=last_put_off)
        try:
            model = self._load(network)
            self.supply.ahead(following)
            highest = max(self.plan.layers)
            fits = highest <= model.layers
            if fits and not made:
                self._work(phase, network, model, cells)
            elif fits and self._lacks_meanings(phase, network):
                keep_meanings(self.plan, self.store, network, model, self._calibrate(model))
            if fits and phase.name == "checkpoints":
                self._readings.make(network, model)
        except PutOff:
            return False
        except (ModelError, InputError) as error:
            self.fail(phase, network, str(error), cells)
            return True
        if not fits:
            raise InputError(
                f"evaluate.layers asks for layer {highest}, but {network.name} has layers 1 to "
                f"{model.layers}; change the study file"
            )
        if not made:
            self._settle(phase, cells, time.monotonic() - started)
        return True

    def prepare(self) -> None:
        """Find out which commits the run uses and whether each network fits on the disk, before anything is done.

        Raises:
            InputError: one does not, with the budget that the study gives.
        """
        self.supply.prepare([n for phase in self.phases() for n in phase.networks if not self.done(phase, n)])

    def done(self, phase: Phase, network: Network) -> bool:
        """Tell from the files whether all that a phase has for a network is done."""
        left = self._to_read(phase, network) or self._lacks_meanings(phase, network)
        return self._made_all(phase, network) and not left

    def settled_before(self, phase: Phase, network: Network) -> bool:
        """Tell whether all that a phase has for a network is done; if so, record it, as far as it is not, and tell it."""
        if not self._made_all(phase, network):
            return False
        rows = sum(counted(self.plan, network, stage)[0] for stage in phase.stages)
        self.listener.skipped(f"{network.name}: done before", rows)
        known = self.store.ledger(phase.table).set_index(["network", "trait", "strategy"])["state"].to_dict()
        cells = [c for c in phase.cells(network) if known.get((c.network, c.trait, c.strategy)) in {None, "failed"}]
        self._settle(phase, cells, 0.0)
        return self.done(phase, network)

    @releases
    def join(self, phase: Phase, network: Network, stage: str, cells: Sequence[Cell]) -> None:
        """Generate what nobody has claimed yet of a stage that another process is at; the rest is left to that one.

        Raises:
            StoreError: the run directory cannot be written.
        """
        with suppress(ModelError, InputError):  # whoever visits the network meets the same, and says it
            if self._joined is None or self._joined[0] != network:
                self._joined = None
                model = self._load(network)
                self._joined = (network, model, self._calibrate(model))
            _, model, calibration = self._joined
            self.parts.share(self._rows(phase, network, stage, cells, model, calibration), model)

    def fail(self, phase: Phase, network: Network, reason: str, cells: Sequence[Cell] | None = None) -> None:
        """Record that a network's cells, as far as they are not done, have failed."""
        for cell in phase.cells(network) if cells is None else cells:
            if not self._done(phase, cell):
                self.store.note_cell(cell, "failed", reason, table=phase.table)
        if self._to_read(phase, network):
            self._readings.fail(network, reason)
        if self._made_all(phase, network) and self._lacks_meanings(phase, network):
            log.warning("%s: what its vectors mean is not kept: %s", network.name, reason)

    def give_up(self, phase: Phase, network: Network, reason: str) -> None:
        """Record that a network's cells have failed which no process will do; who has joined in leaves."""
        for stage in phase.stages:
            self.store.shared(network.name, stage).unlink(missing_ok=True)
        self.fail(phase, network, reason)

    def wait_for_judging(self, network: Network) -> None:
        """Note what is to be asked about a network whose rows another process has generated."""
        with suppress(PutOff):
            self.parts.ahead.put_off(self.parts.drafts(network))

    def needed(self, phase: Phase, network: Network) -> Network | None:
        """Return the network that is to be elicited before this one is visited: the last one, where `forced` reads its rows."""
        if phase.table != "cells" or network == self.plan.last:
            return None
        cells = [cell for cell in phase.cells(network) if cell.strategy == FORCED]
        lacking = any(self._lacks_rows(cell) for cell in cells) or self._readings.lack_texts()
        return self.plan.last if lacking else None

    def _load(self, network: Network) -> Model:
        snapshot = self.supply.bring(network)
        return load_model(network.source, network.revision, device=self.config.device, snapshot=snapshot)

    def _done(self, phase: Phase, cell: Cell) -> bool:
        """Tell whether a cell's rows are there; a transfer's, whether they are of every vector that exists by now."""
        path = phase.path(cell)
        if self.config.evaluate.dose == KL and phase.rows and not self.store.doses(cell.network, phase.stages[-1]).is_file():
            return False
        if phase.table == "cells" or not path.is_file():
            return path.is_file()
        names = [*self.plan.order, *(network.name for network in self.plan.descendants)]
        there = [n for n in names if self.store.vector(Cell(n, cell.trait, cell.strategy)).is_file()]
        return set(there) <= set(read_rows(path)["vector_checkpoint"].dropna()) | self._directions.doses.unreachable(cell)

    def _made_all(self, phase: Phase, network: Network) -> bool:
        """Tell whether the rows of all of a network's cells are there."""
        return all(self._done(phase, cell) for cell in phase.cells(network))

    def _lacks_meanings(self, phase: Phase, network: Network) -> bool:
        """Tell whether a network's vectors have no meaning yet: a run from before these were kept gets them."""
        return phase.table == "cells" and lacks_meanings(self.plan, self.store, network)

    def _to_read(self, phase: Phase, network: Network) -> bool:
        """Tell whether the fixed texts are still to be read at a network, and can be."""
        return phase.name == "checkpoints" and self._readings.wanted(network)

    def _settle(self, phase: Phase, cells: list[Cell], seconds: float) -> None:
        """Record cells whose files are there."""
        for cell in cells:
            found = self.store.vector(cell).is_file() or phase.table == "targets"
            reason = None if found else why_no_pair(read_rows(self.store.contrast(cell)))
            state = "complete" if found else "no_vector"
            self.store.note_cell(cell, state, reason, seconds=seconds / len(cells), table=phase.table)

    def _workable(self, phase: Phase, cells: list[Cell], *, last_put_off: bool) -> list[Cell]:
        """Return the cells that can be done: `forced` ones have failed where the last checkpoint, whose rows they read, has."""
        lacking = [cell for cell in cells if cell.strategy == FORCED and cell.network != self.plan.last.name]
        lacking = [cell for cell in lacking if phase.table == "cells" and self._lacks_rows(cell)]
        for cell in () if last_put_off else lacking:
            self.store.note_cell(cell, "failed", f"needs the rows of {self.plan.last.name}, which failed", table=phase.table)
        return [cell for cell in cells if cell not in lacking]

    def _lacks_rows(self, cell: Cell) -> bool:
        return not all(self.store.contrast(one).is_file() for one in sources(self.plan, cell))

    def _work(self, phase: Phase, network: Network, model: Model, cells: list[Cell]) -> None:
        """Do the cells of one network: at a checkpoint elicit and extract first, then steer and judge."""
        calibration = self._calibrate(model)
        if phase.table == "cells":
            self._elicit(phase, network, model, cells, calibration)
            write_components(self.plan, self.store, network)
        if phase.rows is None:
            keep_meanings(self.plan, self.store, network, model, calibration)
            return
        stage = phase.stages[-1]
        table = self._made(phase, network, stage, cells, model, calibration)
        if phase.table == "targets":
            along = project(model, table, self._directions.main, self.plan.last.name, calibration.norms, self.plan.layers)
            write_projections(self.store.projections(network.name), along)
        for cell in cells:
            self.store.write_rows(phase.path(cell), _of(table, cell))
        if phase.table == "cells":
            keep_meanings(self.plan, self.store, network, model, calibration)
        shutil.rmtree(self.store.parts(network.name), ignore_errors=True)

    def _made(
        self, phase: Phase, network: Network, stage: str, cells: Sequence[Cell], model: Model, calibration: Calibration
    ) -> pd.DataFrame:
        """Return a stage's rows, generated and judged; other processes may join in while they are made."""
        work = self._rows(phase, network, stage, cells, model, calibration)
        with self.parts.shared(work):
            self.listener.begun(stage, cells)
            return self.parts.make(work, model)

    def _rows(
        self, phase: Phase, network: Network, stage: str, cells: Sequence[Cell], model: Model, calibration: Calibration
    ) -> Work:
        """Return what is to be generated at a stage; coefficients of kl doses are looked for first."""
        rows = phase.rows if stage == phase.stages[-1] and phase.rows is not None else self.plan.elicit_rows
        planned = [row for cell in cells for row in rows(network, cell)]
        sampling = self.config.elicit if stage == "elicit" else self.config.evaluate
        self._directions.find_doses(network.name, stage, model, planned, calibration.norms, lambda: self._neutral(model))
        return Work(network, stage, planned, sampling, self._directions.resolver(calibration.norms))

    # Elicit and extract

    def _elicit(self, phase: Phase, network: Network, model: Model, cells: list[Cell], calibration: Calibration) -> None:
        """Give every cell its contrast rows and, where a pair was accepted, its vectors."""
        todo = [cell for cell in cells if not self.store.contrast(cell).is_file()]
        if not todo:
            self.parts.tell_before(network, "elicit", counted(self.plan, network, "elicit")[0])
            return
        table = self._made(phase, network, "elicit", cells, model, calibration)
        for cell in sorted(todo, key=lambda cell: (cell.strategy == FORCED, cell.strategy == COMBINED)):
            taken = sources(self.plan, cell)
            rows = pooled_rows(self.plan, self.store, network, cell) if taken else _of(table, cell)
            self._extract(network, model, cell, rows.assign(accepted=accepted(rows)), calibration)

    def _extract(self, network: Network, model: Model, cell: Cell, rows: pd.DataFrame, calibration: Calibration) -> None:
        counts = self.config.controls
        seeds = ControlSeeds(**{kind: self.plan.control_seeds(kind) for kind in CONTROL_KINDS}, bootstraps=counts.bootstrap)
        seed = derived_seed(self.config.seed, network.name, cell.trait, cell.strategy)
        arrays, pairs = extract_arrays(model, rows, calibration, seeds, seed)
        if arrays:
            provenance = Provenance(
                lineage=self.plan.lineage.name,
                checkpoint=network.name,
                source=network.source if network.revision else Path(network.source).name,
                commit=model.commit,
                trait=cell.trait,
                strategy=cell.strategy,
                n_pairs=len(pairs),
                n_questions=pairs.questions,
                judge=self.judge.name,
                prompt_hash=self.plan.traits[cell.trait].digest,
                activation_norms=tuple(float(norm) for norm in calibration.norms),
            )
            save_arrays(self.store.vector(cell), arrays, provenance)
        self.store.write_rows(self.store.contrast(cell), rows)  # last: its presence says that the cell is extracted

    def _calibrate(self, model: Model) -> Calibration:
        return calibrate(model, self._neutral(model), statistic=self.config.activation_norm)

    def _neutral(self, model: Model) -> list[list[int]]:
        """Return the calibration texts as token ids."""
        texts = calibration_texts() if self.plan.lineage.name != "nano" else _nano_texts()
        return [encode(model, text) for text in texts]


def _of(table: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """Return the rows of one cell."""
    if table.empty:
        return table
    return table[table["trait"].eq(cell.trait) & table["strategy"].eq(cell.strategy)].reset_index(drop=True)


def _nano_texts() -> list[str]:
    from traitline.nano import calibration_texts as nano_texts

    return nano_texts()
