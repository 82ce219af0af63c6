"""Run a study: networks loaded once per phase, every batch durable, every cell with a state.

Phase one visits the checkpoints (the last one first, whose rows `forced` reads): elicit, extract, evaluate; and, where asked
for, the descendants: elicit, extract. Phase two visits the targets and applies every vector there. What is done is read from
the files, so a killed run goes on where it stopped. Knows what comes before and after the visits. Leaves what is done at a
network to `visits.py`, who does it to `executors.py`, labelling facets to `facets.py`, files to `store.py`, and tables to
`tables.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from traitline.errors import InputError
from traitline.judges import Judge, make_judge
from traitline.judges.base import Annotator, StatesError
from traitline.study.config import StudyConfig
from traitline.study.drift import look_for_drift
from traitline.study.executors import Executor, find_executor, processes
from traitline.study.facets import FacetStage
from traitline.study.parts import Listener, Progress
from traitline.study.plan import Plan
from traitline.study.readings import Readings
from traitline.study.remote_store import open_store
from traitline.study.store import RunStore
from traitline.study.visits import Visits


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
    out: Path | str,
    judge: Callable[[Path], Judge] | None = None,
    progress: Progress = lambda _what, _rows: None,
    facet_judge: Annotator | None = None,
    workers: int = 1,
    executor: str | Executor | None = None,
    then: Callable[[], object] = lambda: None,
) -> Outcome:
    """Do whatever of a study is not done yet, and write its tables.

    Args:
        plan: the study.
        out: the run directory, or its URL in an object store.
        judge: makes the judge, given where its cache lies; the one that the study names where left out.
        progress: told of every settled batch.
        facet_judge: who tells facets; the one the study names, if any, where left out.
        workers: how many processes share the work; with 1 it is done in this one. On a Ray cluster, how many tasks there are at
            once, at most; 0 for any number.
        executor: who does the visits, by its name in `EXECUTORS` or as an object; from the number of workers where left out.
        then: what else is done while the run directory is held, when the tables are there.

    Raises:
        InputError: a judge was given for several processes, which can make only one that the study names; or no such executor.
        StoreError: the directory is held by another process, of another study, or cannot be written.
        JudgeError: the judge cannot be used; what was judged is kept.
    """
    sweep_with = find_executor(executor, workers)
    if judge is not None and (workers > 1 or executor not in {None, "local"}):
        raise InputError(
            f"a judge given as a Python object cannot be handed to {workers if workers > 1 else 'other'} processes; name it in "
            f"the study (judge: {plan.config.judge!r} there now) and give none, or run with workers=1"
        )
    store = open_store(out)
    with store.driving():
        store.begin(plan)
        scorer = judge(store.judge_cache) if judge is not None else named_judge(plan.config, store.judge_cache)
        for trait in plan.traits.values():
            scorer.score(trait, [], [])  # a judge that does not know the trait says so here, before anything is generated
        visits = Visits(plan, store, scorer, Listener(progress, progress), workers if sweep_with is processes else 1)
        drifted = look_for_drift(scorer, plan.config.judging, store)
        try:
            with FacetStage(plan, store, scorer, facet_judge) as labels:
                with sweep_with(visits, workers) as sweep:
                    for phase in visits.phases():
                        for network in sweep(phase):
                            if phase.table == "cells":
                                labels.begin(plan.cells(network))
                if labels.judge is not None:
                    progress("labelling facets", 0)
                notes = labels.finish()
        finally:
            visits.parts.account.enter()
        outcome = conclude(plan, store, scorer, (*drifted, *notes))
        then()
        return outcome


def conclude(plan: Plan, store: RunStore, judge: Judge, notes: tuple[str, ...] = (), *, tables: bool = True) -> Outcome:
    """Write a run's tables from its files, unless they are there, and tell from its ledger how it ended."""
    from traitline.study.tables import write_tables

    if tables:
        write_tables(plan, store, _delta_errors(judge, plan))
    unread = Readings(plan, store).lacking()
    states = pd.concat([store.ledger("cells"), store.ledger("targets")])
    failed = states[states["state"] == "failed"]
    names = sorted({f"{row.network}/{row.trait}/{row.strategy}: {row.reason}" for row in failed.itertuples()})
    counts = states["state"].value_counts()
    return Outcome(int(counts.get("complete", 0)), int(counts.get("no_vector", 0)), tuple(names), (*notes, *unread))


def named_judge(config: StudyConfig, cache: Path) -> Judge:
    """Return the judge that a study names, asked as the study says.

    Raises:
        InputError: a setting that does not fit the judge.
        JudgeError: it cannot be used, for example without a key.
    """
    options = config.judging.options() if config.judge.startswith("openai:") else {}
    return make_judge(config.judge, cache, **options)


def _delta_errors(judge: Judge, plan: Plan) -> dict[str, float]:
    """Return how far off the judge's deltas are, by trait, as far as it tells."""
    told = {name: judge.delta_error(trait) for name, trait in plan.traits.items()} if isinstance(judge, StatesError) else {}
    return {name: error for name, error in told.items() if error is not None}
