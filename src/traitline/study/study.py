"""A study as one object: read it, look at its plan, run it, see how far it is, write its report."""

from __future__ import annotations

import itertools
import shutil
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
from traitline.study.executors import Executor, how_many
from traitline.study.parts import Progress
from traitline.study.plan import Plan, make_plan
from traitline.study.prepare import prepare
from traitline.study.remote import Remote, is_url
from traitline.study.remote_store import looked_into, working_copy
from traitline.study.run import Outcome, named_judge, run_study
from traitline.study.store import RunStore


@dataclass(frozen=True)
class Study:
    """A study and where its run lies.

    Attributes:
        config: the fields of its YAML file.
        out: the run directory; `runs/<name>` below the current folder unless said otherwise. Of a run in an object store, the
            working copy on this machine.
        url: where the run is in an object store; None where it is in a folder.
    """

    config: StudyConfig
    out: Path
    url: str | None = None

    @classmethod
    def from_yaml(cls, name: str | Path, out: str | Path | None = None) -> Study:
        """Read a study by its packaged name or from a YAML file.

        Args:
            name: of the study, or its file.
            out: the run directory: a folder, or a URL such as `s3://bucket/run`.

        Raises:
            InputError: no such study, or a file that does not fit.
        """
        config = load_config(name)
        if out is not None and is_url(out):
            return cls(config, working_copy(str(out)), str(out))
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
        executor: str | Executor | None = None,
    ) -> Outcome:
        """Do whatever is not done yet, then write tables, figures and the report.

        Args:
            judge: who scores; the one the study names where left out.
            progress: told of every settled batch.
            facet_judge: who tells facets; the one the study names, if any, where left out.
            workers: how many processes share the work; where left out, one for each GPU. A `judge` given as an object cannot
                be handed to other processes, so with one it is this process alone.
            executor: who does the work: `local`, `processes`, `ray`, or an object such as `cluster.OnRay(gpus=2)`; from the
                number of workers where left out. On a Ray cluster, `workers` is how many tasks there are at once, at most.

        Raises:
            TraitlineError: see `run_study`.
        """
        make = (lambda _cache: judge) if judge is not None else None
        if executor in {None, "processes"}:
            possible = how_many(workers, self.config.device)
            count = possible if judge is None or workers is not None else 1
        else:
            possible = count = workers or 0
        prepare(self.resolved)
        out = self.url or self.out
        outcome = run_study(self.resolved, out, make, progress, facet_judge, count, executor, then=self._write_report)
        if count < possible:
            told = f"one process did it all, as the judge was given as a Python object; by name, {possible} could have"
            outcome = replace(outcome, notes=(*outcome.notes, told))
        return outcome

    def share(self, progress: Progress = lambda _what, _rows: None) -> Outcome:
        """Take part in the run beside other processes that do the same, until its tables and its report are there.

        Args:
            progress: told of every settled batch, whoever has made it.

        Raises:
            TraitlineError: see `share_study`.
        """
        from traitline.study.array import share_study

        prepare(self.resolved)
        return share_study(self.resolved, self.url or self.out, progress, then=self._write_report)

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
        return run_status(self.url or self.out)

    def spent(self) -> pd.DataFrame:
        """Return what judging by an API has cost so far: requests, tokens and US dollars, by model and way of asking.

        Raises:
            StoreError: the judge cache is damaged.
        """
        with looked_into(self.url or self.out) as folder:
            return _spent(self.config.judge, folder, self.config.judging.prices)

    def report(self) -> Path:
        """Write figures and report.html from the run's tables. Returns the page's path; of a run at a URL, here and there."""
        return self._write_report() if self.url is None else report_at(self.url, self.out)

    def _write_report(self) -> Path:
        from traitline.report import write_report

        return write_report(self.out)


def report_at(url: str, out: Path | None = None) -> Path:
    """Write figures and report.html of a run at a URL from its tables, and put them there.

    Args:
        url: of the run directory.
        out: where they are written here; the run's working copy where left out.

    Returns:
        The page's path here.

    Raises:
        InputError: no run lies there.
        StoreError: the object store cannot be used.
    """
    from traitline.report import write_report

    here, remote = out or working_copy(url), Remote(url)
    with looked_into(url, lambda name: not name.startswith(("parts/", "figures/"))) as folder:
        page = write_report(folder)
        made = [page, *sorted(path for path in (folder / "figures").rglob("*") if path.is_file())]
        for path in made:
            name = path.relative_to(folder)
            remote.put(path, name.as_posix())
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, here / name)
    return here / page.relative_to(folder)


def _spent(judge: str, folder: Path, prices: Path | None = None) -> pd.DataFrame:
    """Return what was paid on all judge caches of a run: processes without a driver have one for each machine."""
    caches = sorted(folder.glob("judge-cache*.sqlite"))
    tables = [table for table in (spent_so_far(judge, cache, prices) for cache in caches) if len(table)]
    if len(tables) < 2:
        return tables[0] if tables else spent_so_far(judge, RunStore(folder).judge_cache, prices)
    together = pd.concat(tables).groupby(["judge", "batch"], as_index=False).sum(min_count=1)
    return together[tables[0].columns.tolist()]


def run_spending(out: Path | str) -> pd.DataFrame:
    """Return what judging by an API has cost a run so far, as `Study.spent`, from its directory or its URL alone.

    That holds no prices of the user's own: without the study, only packaged ones are known.

    Raises:
        InputError: no run lies there.
        StoreError: the judge cache is damaged.
    """
    with looked_into(out) as folder:
        try:
            judge = str(yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8"))["study"]["judge"])
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"no run lies in {str(out)!r} ({error}); start one with 'traitline run'") from error
        return _spent(judge, folder)


def run_status(out: Path | str) -> pd.DataFrame:
    """Return the state of every cell and target of a run: phase, network, trait, strategy, state, reason, seconds.

    Raises:
        InputError: no run lies there.
    """
    if is_url(out):
        with looked_into(out) as folder:
            return run_status(folder)
    out = Path(out)
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
