"""A study as one object: read it, look at its plan, run it, see how far it is, write its report."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from traitline.errors import InputError, StoreError
from traitline.judges import Judge
from traitline.judges.base import Annotator
from traitline.study.config import FORCED, StudyConfig, load_config
from traitline.study.costs import spent_so_far
from traitline.study.estimate import describe
from traitline.study.executors import how_many
from traitline.study.parts import Progress
from traitline.study.plan import Plan, make_plan
from traitline.study.prepare import prepare
from traitline.study.run import Outcome, named_judge, run_study
from traitline.study.store import RunStore


@dataclass(frozen=True)
class Study:
    """A study and where its run lies.

    Attributes:
        config: the fields of its YAML file.
        out: the run directory; `runs/<name>` below the current folder unless said otherwise.
    """

    config: StudyConfig
    out: Path

    @classmethod
    def from_yaml(cls, name: str | Path, out: str | Path | None = None) -> Study:
        """Read a study by its packaged name or from a YAML file.

        Raises:
            InputError: no such study, or a file that does not fit.
        """
        config = load_config(name)
        return cls(config, Path(out) if out is not None else Path("runs") / config.name)

    @cached_property
    def resolved(self) -> Plan:
        """The plan with lineage and traits resolved."""
        return make_plan(self.config)

    def plan(self) -> dict[str, Any]:
        """Return what the study will take and what it can show, as plain data; works offline and loads no model."""
        return describe(self.resolved)

    def run(
        self,
        judge: Judge | None = None,
        progress: Progress = lambda _what, _rows: None,
        facet_judge: Annotator | None = None,
        workers: int | None = None,
    ) -> Outcome:
        """Do whatever is not done yet, then write tables, figures and the report.

        Args:
            judge: who scores; the one the study names where left out.
            progress: told of every settled batch.
            facet_judge: who tells facets; the one the study names, if any, where left out.
            workers: how many processes share the work; where left out, one for each GPU. A `judge` given as an object cannot
                be handed to other processes, so with one it is this process alone.

        Raises:
            TraitlineError: see `run_study`.
        """
        make = (lambda _cache: judge) if judge is not None else None
        possible = how_many(workers, self.config.device)
        count = possible if judge is None or workers is not None else 1
        prepare(self.resolved)
        outcome = run_study(self.resolved, self.out, make, progress, facet_judge, count)
        self.report()
        if count < possible:
            told = f"one process did it all, as the judge was given as a Python object; by name, {possible} could have"
            outcome = replace(outcome, notes=(*outcome.notes, told))
        return outcome

    def make_judge(self, cache: Path) -> Judge:
        """Return the judge that the study names, asked as the study says.

        Raises:
            InputError: a setting that does not fit the judge.
            JudgeError: it cannot be used, for example without a key.
        """
        return named_judge(self.config, cache)

    def status(self) -> pd.DataFrame:
        """Return the state of every cell and target so far, from the run directory alone.

        Raises:
            InputError: there is no run yet.
        """
        return run_status(self.out)

    def spent(self) -> pd.DataFrame:
        """Return what judging by an API has cost so far: requests, tokens and US dollars, by model and way of asking.

        Raises:
            StoreError: the judge cache is damaged.
        """
        return spent_so_far(self.config.judge, RunStore(self.out).judge_cache, self.config.judging.prices)

    def report(self) -> Path:
        """Write figures and report.html from the run's tables. Returns the page's path."""
        from traitline.report import write_report

        return write_report(self.out)


def run_spending(out: Path) -> pd.DataFrame:
    """Return what judging by an API has cost a run so far, as `Study.spent`, from its directory alone.

    That holds no prices of the user's own: without the study, only packaged ones are known.

    Raises:
        InputError: no run lies there.
        StoreError: the judge cache is damaged.
    """
    try:
        judge = str(yaml.safe_load((out / "study.yaml").read_text(encoding="utf-8"))["study"]["judge"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"no run lies in {str(out)!r} ({error}); start one with 'traitline run'") from error
    return spent_so_far(judge, RunStore(out).judge_cache)


def run_status(out: Path) -> pd.DataFrame:
    """Return the state of every cell and target of a run: phase, network, trait, strategy, state, reason, seconds.

    Raises:
        InputError: no run lies there.
    """
    if not (out / "study.yaml").is_file():
        raise InputError(f"no run lies in {str(out)!r}; start one with 'traitline run'")
    try:
        resolved = yaml.safe_load((out / "study.yaml").read_text(encoding="utf-8"))
        names = [node["name"] for node in resolved["resolved"]["checkpoints"]]
        descendants = resolved["resolved"].get("descendants", [])
        targets, traits = resolved["resolved"]["targets"], list(resolved["resolved"]["traits"])
        strategies = resolved["study"]["strategies"]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise StoreError(f"{str(out / 'study.yaml')!r} is broken ({error}); give another run directory") from error
    store = RunStore(out)
    records = []
    elicited = [name for name in strategies if name != FORCED]
    for phase, networks, asked in (
        ("cells", names, strategies),
        ("cells", descendants, elicited),
        ("targets", targets, strategies),
    ):
        known = {(row.network, row.trait, row.strategy): row for row in store.ledger(phase).itertuples()}
        for key in itertools.product(networks, traits, asked):
            row = known.get(key)
            state = {name: getattr(row, name, None) for name in ("state", "reason", "seconds")}
            names_of = dict(zip(("network", "trait", "strategy"), key, strict=True))
            records.append({"phase": phase, **names_of, **state, "state": state["state"] or "waiting"})
    return pd.DataFrame(records)
