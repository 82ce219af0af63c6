"""The kl doses of a run: which coefficient moves each network by the nats asked for, along every vector and control.

Knows which directions share a search, and the files that keep what was found, one for each stage of a steered network: a run
that goes on reads them, so that rows from before and after were steered alike. Leaves the search to `vectors/dose.py`, what a
coefficient moves to `models/divergence.py`, and which array a planned row means to `directions.py`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from traitline.analysis.matched import matched_table
from traitline.errors import StoreError
from traitline.files import write_whole
from traitline.models import Model
from traitline.models.divergence import Divergence
from traitline.models.generate import Positions
from traitline.study.places import as_at_target
from traitline.study.plan import Cell, Plan, PlannedRow
from traitline.study.store import RunStore
from traitline.vectors.dose import Match, Push, Statistic, match_kl
from traitline.vectors.vector import Floats

log = logging.getLogger("traitline")


@dataclass(frozen=True, slots=True)
class Direction:
    """What rows are steered along at one network: the fields of their identity that tell it."""

    trait: str
    strategy: str
    vector_checkpoint: str
    layer: int
    condition: str
    control_kind: str
    control_seed: int

    @classmethod
    def of(cls, row: PlannedRow) -> Direction:
        """Return the direction of a steered row; `strategy` is the vector's."""
        who = row.identity
        seed = NO_SEED if who.control_seed is None else who.control_seed
        names = (who.trait, str(who.vector_strategy), str(who.vector_checkpoint))
        return cls(*names, int(who.layer or 0), who.condition, who.control_kind or "", seed)

    @property
    def family(self) -> tuple[object, ...]:
        """What it shares with directions that move a network alike: random ones of a kind, and those made of the same rows."""
        if self.condition == "random":
            return self.layer, self.control_kind
        return self.layer, self.trait, self.strategy, self.vector_checkpoint


KEY = ["trait", "strategy", "vector_checkpoint", "layer", "condition", "control_kind", "control_seed", "nats"]
FOUND = ["coef", "delta_norm", "kl_mean", "kl_p95", "n_positions", "texts", "status"]
NO_SEED = -1
UNREACHABLE = "unreachable"

STAGES = ("evaluate", "transfer")
"""The stages at which rows are steered."""

Coefs = dict[tuple[Direction, float], float | None]
Asked = Mapping[tuple[Direction, float], Floats]
"""(direction, nats) -> the direction itself, [hidden]."""


class Doses:
    """The coefficients of one run's kl doses.

    Args:
        store: the run's files.
        statistic: what of the KL over positions is to reach the nats.
        positions: where rows are steered.
    """

    def __init__(self, store: RunStore, statistic: Statistic, positions: Positions) -> None:
        self._store, self._statistic, self._positions = store, statistic, positions
        self._known: dict[str, Coefs] = {}

    def coef(self, row: PlannedRow) -> float | None:
        """Return the norm dose that a row with a kl dose is steered with; None where its nats cannot be reached.

        Raises:
            StoreError: it was not looked for, because the file is not of this run's plan.
        """
        who = row.identity
        key = (Direction.of(row), float(who.coef or 0))
        if key not in self._coefs(who.target):
            raise StoreError(
                f"{str(self._store.root / 'doses')!r} lacks a dose at {who.target}: {who.coef} nats along "
                f"{who.vector_checkpoint}/{who.trait}/{who.vector_strategy}; run again"
            )
        return self._coefs(who.target)[key]

    def find(
        self,
        network: str,
        stage: str,
        model: Model,
        asked: Asked,
        activation_norms: Floats,
        texts: Callable[[], Sequence[Sequence[int]]],
    ) -> None:
        """Look for the coefficients that are not known yet, and keep them.

        Args:
            network: the name of the network at hand.
            stage: what it is steered for.
            model: the network itself.
            asked: what it is to be steered along, and how far.
            activation_norms: the network's, [layers + 1].
            texts: gives the token ids of neutral texts, the same for every network.

        Raises:
            ModelError: the network gives NaN or infinity without steering.
            StoreError: what is kept was found on other texts, or cannot be read or written.
        """
        path, started = self._store.doses(network, stage), time.monotonic()
        self._known.pop(network, None)  # what another process has found since is read anew
        own = _by_key(read_doses(path)).keys()
        if path.is_file() and asked.keys() <= own:
            return
        kept = self.table(network)
        known = _by_key(kept)
        lacking = {key: asked[key] for key in asked if key not in known}
        table = kept
        if lacking:
            meter = Divergence(model, texts(), self._positions)
            if set(kept["texts"]) - {meter.digest}:
                raise StoreError(
                    f"{str(path.parent)!r} was found on other neutral texts ({kept['texts'].iloc[0]}) than this version's "
                    f"({meter.digest}); go on with the version that began the run, or give another --out"
                )
            made = self._searched(meter, lacking, activation_norms)
            table = pd.concat([kept, made], ignore_index=True) if len(kept) else made
            lost, took = int(made["status"].ne("complete").sum()), time.monotonic() - started
            log.info("%s: %d kl doses found in %.1f s, %d unreachable", network, len(made) - lost, took, lost)
        table = table[[key in asked or key in own for key in _by_key(table)]]
        write_whole(path, table.sort_values(KEY)[[*KEY, *FOUND]].to_csv(index=False, lineterminator="\n"))

    def table(self, network: str) -> pd.DataFrame:
        """Return all that was found at a network."""
        found = [read_doses(self._store.doses(network, stage)) for stage in STAGES]
        full = [one for one in found if len(one)] or found[:1]
        return pd.concat(full, ignore_index=True).drop_duplicates(KEY, ignore_index=True)

    def _searched(self, meter: Divergence, lacking: Asked, activation_norms: Floats) -> pd.DataFrame:
        """Look for coefficients: those of one direction of each family first, near which those of the others lie."""
        nats: dict[Direction, list[float]] = {}
        for direction, value in lacking:
            nats.setdefault(direction, []).append(value)
        pushes = {
            one: Push(lacking[one, values[0]], one.layer, float(activation_norms[one.layer]), tuple(values), self._positions)
            for one, values in nats.items()
        }
        leaders: dict[tuple[object, ...], Direction] = {}
        for one in pushes:
            leaders.setdefault(one.family, one)
        found: dict[Direction, list[Match]] = {}
        for wave in (list(leaders.values()), [one for one in pushes if leaders[one.family] != one]):
            like = [found.get(leaders[one.family], []) for one in wave]
            found |= zip(wave, match_kl([pushes[one] for one in wave], meter, self._statistic, like=like), strict=True)
        return pd.DataFrame(
            {**asdict(one), **_told(match, pushes[one]), "texts": meter.digest} for one in pushes for match in found[one]
        )

    def unreachable(self, cell: Cell) -> set[str]:
        """Return the checkpoints whose vectors of a trait and strategy reach none of the nats asked for at a network."""
        table = self.table(cell.network)
        own = table[table["trait"].eq(cell.trait) & table["strategy"].eq(cell.strategy)]
        return set(own["vector_checkpoint"]) - set(own.loc[own["status"] == "complete", "vector_checkpoint"])

    def _coefs(self, network: str) -> Coefs:
        if network not in self._known:
            self._known[network] = _by_key(self.table(network))
        return self._known[network]


def read_doses(path: Path) -> pd.DataFrame:
    """Read what was found for a stage of a network, `KEY` and `FOUND`; nothing where there is no file.

    Raises:
        StoreError: the file is broken.
    """
    if not path.is_file():
        return pd.DataFrame(columns=[*KEY, *FOUND])
    try:
        table = pd.read_csv(path, dtype=str)[[*KEY, *FOUND]]
        counts = {name: table[name].astype(int) for name in ("layer", "control_seed", "n_positions")}
        exact = {name: table[name].map(float).astype(float) for name in ("nats", "coef", "delta_norm", "kl_mean", "kl_p95")}
    except (ValueError, KeyError, OSError) as error:
        raise StoreError(f"{str(path)!r} is broken ({error}); delete it and run again: what it is for is made anew") from error
    return table.assign(control_kind=table["control_kind"].fillna(""), **counts, **exact)


def _by_key(table: pd.DataFrame) -> Coefs:
    """Return (direction, nats) -> coefficient, None where it is unreachable."""
    keys = zip(*(table[name] for name in KEY), strict=True)
    coefs = [None if pd.isna(coef) else float(coef) for coef in table["coef"]]
    return {(Direction(*key[:-1]), key[-1]): coef for key, coef in zip(keys, coefs, strict=True)}


def all_doses(doses: Doses, networks: Iterable[str]) -> pd.DataFrame:
    """Return what was found at some networks: the table `kl_doses`, with the network as `target`."""
    found = [doses.table(name).assign(target=name).sort_values(KEY) for name in dict.fromkeys(networks)]
    full = [table for table in found if len(table)] or found[:1]
    return pd.concat(full, ignore_index=True)[["target", *KEY, *FOUND]]


def with_reach(planned: pd.DataFrame, doses: pd.DataFrame) -> pd.DataFrame:
    """Return planned comparisons with the status `unreachable` where no coefficient reaches their nats.

    Args:
        planned: the plan of an effect table.
        doses: what `all_doses` gives.
    """
    lost = doses[doses["status"] == UNREACHABLE]
    if lost.empty or planned.empty:
        return planned
    names = ["target", *KEY]
    own = planned.assign(
        strategy=planned.get("vector_strategy", planned["strategy"]),
        control_kind=planned["control_kind"].fillna(""),
        control_seed=planned["control_seed"].fillna(NO_SEED),
        nats=planned["coef"],
    )
    among = set(lost[names].itertuples(index=False, name=None))
    hit = [key in among for key in own[names].itertuples(index=False, name=None)]
    return planned.assign(
        status=planned["status"].mask(pd.Series(hit, planned.index) & (planned["status"] == "complete"), UNREACHABLE)
    )


def dose_tables(
    plan: Plan, planned: pd.DataFrame, doses: pd.DataFrame, rows: pd.DataFrame, tuned: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Return the tables about doses that a study has where it asks for them, by name.

    `kl_doses`: what was found, where the dose is `kl`. `matched`: effects at equal coherence loss, where some vector is applied
    with several coefficients.

    Args:
        plan: the study.
        planned: the planned comparisons of every checkpoint under its own vector.
        doses: what `all_doses` gives.
        rows: the evaluated rows of all checkpoints.
        tuned: the dose of each trait and strategy that was chosen on the `tune` questions.
    """
    tables = {"kl_doses": doses} if len(doses) else {}
    towards = planned[planned["coef"] > 0]
    if towards.groupby(["trait", "strategy", "target", "layer"])["coef"].nunique().gt(1).any():
        named = planned[["trait", "strategy", "target"]].drop_duplicates()
        fixed = as_at_target(plan, named.merge(tuned[["trait", "strategy", "layer", "coef"]], on=["trait", "strategy"]))
        loss, seed = plan.config.matched_loss, plan.config.seed
        tables["matched"] = matched_table(planned, rows, fixed, loss=loss, seed=seed)
    return tables


def _told(match: Match, push: Push) -> dict[str, Any]:
    return {
        "nats": match.nats,
        "coef": match.coef,
        "delta_norm": None if match.coef is None else abs(match.coef) * push.activation_norm,
        "kl_mean": match.moved.mean,
        "kl_p95": match.moved.p95,
        "n_positions": match.moved.positions,
        "status": match.status,
    }
