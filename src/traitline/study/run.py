"""Run a study: networks one after the other, each loaded once per phase, every batch durable, every cell with a state.

Phase one visits the checkpoints (the last one first, whose rows `forced` reads): elicit, extract, evaluate; and, where asked
for, the descendants: elicit, extract. Phase two visits the targets and applies every vector there. What is done is read from
the files, so a killed run goes on where it stopped. Knows the order of work and what happens when something fails. Leaves rows
to `plan.py`, what they are steered with to `directions.py`, rows that cells take from others to `pooled.py`, batches to
`parts.py`, labelling facets to `facets.py`, files to `store.py`, and tables to `tables.py`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from traitline.errors import InputError, ModelError
from traitline.judges import Judge
from traitline.judges.base import Annotator, StatesError
from traitline.models import Calibration, Model, calibrate, encode, load_model
from traitline.models.prefetch import prefetch
from traitline.study.ahead import PutOff
from traitline.study.config import COMBINED, FORCED
from traitline.study.directions import Directions
from traitline.study.drift import look_for_drift
from traitline.study.estimate import counted
from traitline.study.facets import FacetStage
from traitline.study.parts import Parts, Progress
from traitline.study.plan import CONTROL_KINDS, Cell, Network, Plan, PlannedRow, derived_seed
from traitline.study.pooled import pooled_rows, sources
from traitline.study.projections import project, write_projections
from traitline.study.store import RunStore, read_rows
from traitline.vectors.calibration import calibration_texts
from traitline.vectors.estimators import accepted, why_no_pair
from traitline.vectors.extract import ControlSeeds, extract_arrays
from traitline.vectors.vector import Provenance, save_arrays


@dataclass(frozen=True)
class Outcome:
    """How a run ended: cells and targets by state."""

    complete: int
    no_vector: int
    failed: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What else is to be said of it, a sentence each; nothing failed by it."""


def run_study(
    plan: Plan,
    out: Path,
    judge: Callable[[Path], Judge],
    progress: Progress = lambda _what, _rows: None,
    facet_judge: Annotator | None = None,
) -> Outcome:
    """Do whatever of a study is not done yet, and write its tables.

    Args:
        plan: the study.
        out: the run directory.
        judge: makes the judge, given where its cache lies.
        progress: told of every settled batch.
        facet_judge: who tells facets; the one the study names, if any, where left out.

    Raises:
        StoreError: the directory is held by another process, of another study, or cannot be written.
        JudgeError: the judge cannot be used; what was judged is kept.
    """
    from traitline.study.tables import write_tables

    store = RunStore(out)
    with store.driving():
        store.begin(plan)
        scorer = judge(store.judge_cache)
        for trait in plan.traits.values():
            scorer.score(trait, [], [])  # a judge that does not know the trait says so here, before anything is generated
        run = _Run(plan, store, scorer, progress)
        drifted = look_for_drift(scorer, plan.config.judging, store)
        try:
            with FacetStage(plan, store, scorer, facet_judge) as labels:
                for phase, networks in run.phases():
                    for network in run.sweep(phase, networks):
                        if phase.table == "cells":
                            labels.begin(plan.cells(network))
                if labels.judge is not None:
                    progress("labelling facets", 0)
                notes = labels.finish()
        finally:
            run.parts.account.enter()
        write_tables(plan, store, _delta_errors(scorer, plan))
        states = pd.concat([store.ledger("cells"), store.ledger("targets")])
        failed = states[states["state"] == "failed"]
        names = sorted({f"{row.network}/{row.trait}/{row.strategy}: {row.reason}" for row in failed.itertuples()})
        counts = states["state"].value_counts()
        return Outcome(int(counts.get("complete", 0)), int(counts.get("no_vector", 0)), tuple(names), (*drifted, *notes))


def _delta_errors(judge: Judge, plan: Plan) -> dict[str, float]:
    """Return how far off the judge's deltas are, by trait, as far as it tells."""
    told = {name: judge.delta_error(trait) for name, trait in plan.traits.items()} if isinstance(judge, StatesError) else {}
    return {name: error for name, error in told.items() if error is not None}


@dataclass(frozen=True)
class _Phase:
    """What is done at each network of a phase: the table in the ledger, cells, stages, and the last stage's rows and files."""

    table: Literal["cells", "targets"]
    stages: tuple[str, ...]
    cells: Callable[[Network], list[Cell]]
    path: Callable[[Cell], Path]
    rows: Callable[[Network, Cell], Iterator[PlannedRow]] | None = None
    """None where eliciting is all."""


class _Run:
    """One process working on one run."""

    def __init__(self, plan: Plan, store: RunStore, judge: Judge, progress: Progress) -> None:
        self.plan, self.store, self.judge, self.progress = plan, store, judge, progress
        self.config = plan.config
        self._directions = Directions(store, plan.config.evaluate.positions)
        self.parts = Parts(plan, store, judge, progress, self._directions.exist_for)
        self._put_off: list[Network] = []

    def phases(self) -> list[tuple[_Phase, Sequence[Network]]]:
        """Return the phases with their networks, in order."""
        plan, store = self.plan, self.store
        cells = _Phase("cells", ("elicit", "evaluate"), plan.cells, store.evaluation, plan.evaluation_rows)
        descendants = _Phase("cells", ("elicit",), plan.elicited, store.contrast)
        targets = _Phase("targets", ("transfer",), plan.cells, store.transfer, plan.transfer_rows)
        return [(cells, plan.networks()), (descendants, plan.descendants), (targets, plan.targets)]

    def sweep(self, phase: _Phase, networks: Sequence[Network]) -> Iterator[Network]:
        """Visit networks and yield each when it is done; those that were put off are visited again, when all were judged.

        Raises:
            InputError: as `visit`.
            JudgeError: the judge cannot be used; what was judged is kept.
        """
        while networks:
            self._put_off = []
            for network, following in zip(networks, [*networks[1:], None], strict=True):
                if self.visit(phase, network, following):
                    yield network
                else:
                    self._put_off.append(network)
            networks = self._put_off
            self.parts.ahead.ask()

    def visit(self, phase: _Phase, network: Network, following: Network | None = None) -> bool:
        """Load a network and do its cells, unless they are done. If that fails, its cells have failed and the run goes on.

        Meanwhile the weights of the network that follows are read into the page cache.

        Returns:
            Whether that is all; False where its rows wait to be judged together with those of others.

        Raises:
            InputError: the study steers at a layer that the network does not have.
        """
        cells = phase.cells(network)
        if all(self._done(phase, cell) for cell in cells):
            rows = sum(counted(self.plan, network, stage)[0] for stage in phase.stages)
            self.progress(f"{network.name}: done before", rows)
            known = self.store.ledger(phase.table).set_index(["network", "trait", "strategy"])["state"].to_dict()
            unsettled = [c for c in cells if known.get((c.network, c.trait, c.strategy)) in {None, "failed"}]
            self._settle(phase, unsettled, 0.0)
            return True
        started = time.monotonic()
        cells = self._workable(phase, cells)
        try:
            model = load_model(network.source, network.revision)
            if following is not None:
                prefetch(following.source, following.revision)
            fits = max(self.config.evaluate.layers) <= model.layers
            if fits:
                self._work(phase, network, model, cells)
        except PutOff:
            return False
        except (ModelError, InputError) as error:
            for cell in cells:
                if not self._done(phase, cell):
                    self.store.note_cell(cell, "failed", str(error), table=phase.table)
            return True
        if not fits:
            raise InputError(
                f"evaluate.layers asks for layer {max(self.config.evaluate.layers)}, but {network.name} has layers 1 to "
                f"{model.layers}; change the study file"
            )
        self._settle(phase, cells, time.monotonic() - started)
        return True

    def _done(self, phase: _Phase, cell: Cell) -> bool:
        """Tell whether a cell's rows are there; a transfer's, whether they are of every vector that exists by now."""
        path = phase.path(cell)
        if phase.table == "cells" or not path.is_file():
            return path.is_file()
        names = [*self.plan.order, *(network.name for network in self.plan.descendants)]
        there = [n for n in names if self.store.vector(Cell(n, cell.trait, cell.strategy)).is_file()]
        return set(there) <= set(read_rows(path)["vector_checkpoint"].dropna())

    def _settle(self, phase: _Phase, cells: list[Cell], seconds: float) -> None:
        """Record cells whose files are there."""
        for cell in cells:
            found = self.store.vector(cell).is_file() or phase.table == "targets"
            reason = None if found else why_no_pair(read_rows(self.store.contrast(cell)))
            state = "complete" if found else "no_vector"
            self.store.note_cell(cell, state, reason, seconds=seconds / len(cells), table=phase.table)

    def _workable(self, phase: _Phase, cells: list[Cell]) -> list[Cell]:
        """Return the cells that can be done: `forced` ones have failed where the last checkpoint, whose rows they read, has."""
        lacking = [cell for cell in cells if cell.strategy == FORCED and cell.network != self.plan.last.name]
        lacking = [
            cell
            for cell in lacking
            if phase.table == "cells" and not all(self.store.contrast(one).is_file() for one in sources(self.plan, cell))
        ]
        for cell in lacking if self.plan.last not in self._put_off else ():
            self.store.note_cell(cell, "failed", f"needs the rows of {self.plan.last.name}, which failed", table=phase.table)
        return [cell for cell in cells if cell not in lacking]

    def _work(self, phase: _Phase, network: Network, model: Model, cells: list[Cell]) -> None:
        """Do the cells of one network: at a checkpoint elicit and extract first, then steer and judge."""
        calibration = self._calibrate(model)
        if phase.table == "cells":
            self._elicit(network, model, cells, calibration)
        if phase.rows is None:
            return
        stage = phase.stages[-1]
        planned = [row for cell in cells for row in phase.rows(network, cell)]
        resolve = self._directions.resolver(calibration.norms)
        table = self.parts.make(network, stage, planned, self.config.evaluate, model, resolve)
        if phase.table == "targets":
            layers = self.config.evaluate.layers
            along = project(model, table, self._directions.main, self.plan.last.name, calibration.norms, layers)
            write_projections(self.store.projections(network.name), along)
        for cell in cells:
            self.store.write_rows(phase.path(cell), _of(table, cell))
        shutil.rmtree(self.store.part(network.name, stage, 0).parents[1], ignore_errors=True)

    # Elicit and extract

    def _elicit(self, network: Network, model: Model, cells: list[Cell], calibration: Calibration) -> None:
        """Give every cell its contrast rows and, where a pair was accepted, its vectors."""
        todo = [cell for cell in cells if not self.store.contrast(cell).is_file()]
        if not todo:
            self.parts.tell_before(network, "elicit", counted(self.plan, network, "elicit")[0])
            return
        planned = [row for cell in cells for row in self.plan.elicit_rows(network, cell)]
        table = self.parts.make(network, "elicit", planned, self.config.elicit, model, lambda _row: None)
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
        texts = calibration_texts() if self.plan.lineage.name != "nano" else _nano_texts()
        return calibrate(model, [encode(model, text) for text in texts], statistic=self.config.activation_norm)


def _of(table: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """Return the rows of one cell."""
    if table.empty:
        return table
    return table[table["trait"].eq(cell.trait) & table["strategy"].eq(cell.strategy)].reset_index(drop=True)


def _nano_texts() -> list[str]:
    from traitline.nano import calibration_texts as nano_texts

    return nano_texts()
