"""From a run's files to its tables: the one place where the study and the analysis meet.

Knows which comparisons a study planned and where their rows lie. Every planned comparison appears in a table, with empty
statistics where there is no vector. Leaves every number to `analysis/`, and drawing to `report/`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from traitline.analysis import effects, emergence, geometry
from traitline.analysis.controls import control_means
from traitline.analysis.verdicts import verdict_table
from traitline.files import write_whole
from traitline.study.plan import CONTROL_KINDS, Cell, Network, Plan
from traitline.study.store import RunStore, read_rows
from traitline.vectors.estimators import passing
from traitline.vectors.vector import Floats, Provenance, load_arrays


def write_tables(plan: Plan, store: RunStore) -> None:
    """Write every table of a run from its response and vector files."""
    found = _Found(plan, store)
    rows = found.rows(store.evaluation, plan.checkpoints)
    controls = effects.effect_table(found.planned_controls(), rows, seed=plan.config.seed)
    controls["cosine_to_vector"] = found.control_cosines(controls)
    table = effects.effect_table(found.planned(plan.checkpoints), rows, seed=plan.config.seed)
    table["ceiling_share"] = _ceiling_share(table, found)
    table["steerable"] = _steerable(plan, table, controls)
    moved = _transfer_table(plan, store, found, controls)
    tuned = _tune(plan, found, rows)
    _write(store, "emergence", table)
    _write(store, "controls", controls)
    _write(store, "control_means", control_means(controls))
    _write(store, "transfer", moved)
    _write(store, "doses", tuned)
    _write(store, "verdicts", _verdicts(plan, table, moved, controls, tuned))
    _write(store, "other_rubrics", _other_rubrics(plan, found, rows))
    _write(store, "extraction", found.extraction())
    for name, frame in _geometry(plan, found).items():
        _write(store, name, frame)


def _write(store: RunStore, name: str, table: pd.DataFrame) -> None:
    write_whole(store.tables / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))


class _Found:
    """What a run's files hold: arrays, provenance and response rows of every cell."""

    def __init__(self, plan: Plan, store: RunStore) -> None:
        self.plan, self.store = plan, store
        self.cells = [cell for network in plan.checkpoints for cell in plan.cells(network)]
        self.tokens = {network.name: network.tokens for network in plan.checkpoints}
        ledger = store.ledger("cells")
        self.failed = {
            (row.network, row.trait, row.strategy): str(row.reason) for row in ledger[ledger["state"] == "failed"].itertuples()
        }
        self.arrays: dict[Cell, dict[str, Floats]] = {}
        self.provenance: dict[Cell, Provenance] = {}
        for cell in self.cells:
            if store.vector(cell).is_file():
                self.arrays[cell], self.provenance[cell] = load_arrays(store.vector(cell))

    def rows(self, path: Callable[[Cell], Any], networks: tuple[Network, ...]) -> pd.DataFrame:
        """Return the response rows of every finished cell of these networks."""
        paths = [path(cell) for network in networks for cell in self.plan.cells(network)]
        frames = [frame for frame in (read_rows(p) for p in paths if p.is_file()) if len(frame)]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*effects.ROW_COLUMNS, "other_scores"])

    def planned(self, targets: tuple[Network, ...], *, transfer: bool = False) -> pd.DataFrame:
        """Return every planned comparison: each checkpoint under its own vector or, for a transfer, under every one."""
        pairs = [(cell, target) for cell in self.cells for target in targets if transfer or cell.network == target.name]
        records = [
            {**self._who(cell, target.name), **dose, "condition": "steered", "control_seed": pd.NA, "control_kind": None}
            for cell, target in pairs
            for dose in self._doses()
        ]
        return pd.DataFrame(records)

    def planned_controls(self) -> pd.DataFrame:
        """Return every planned comparison of a control with baseline rows."""
        columns = [*effects.PLAN_COLUMNS, *effects.CONDITION_KEY]
        return pd.DataFrame([record for cell in self.cells for record in self._controls(cell)], columns=columns)

    def _controls(self, cell: Cell) -> Iterator[dict[str, Any]]:
        for kind in CONTROL_KINDS:
            for seed in self.plan.control_seeds(kind):
                who = self._who(cell, cell.network)
                if who["status"] == "complete" and f"{kind}_{seed}" not in self.arrays[cell]:
                    who["status"] = "no_vector"  # a shuffled control is undefined under 10 pairs
                condition = "shuffled" if kind == "shuffled" else "random"
                for dose in (d for d in self._doses() if d["coef"] > 0):
                    yield {**who, **dose, "condition": condition, "control_seed": seed, "control_kind": kind}

    def control_cosines(self, controls: pd.DataFrame) -> list[float]:
        """Return the cosine of each control to the vector it is a control of, at its layer: how much of it is left."""
        cosines = []
        for row in controls.itertuples():
            arrays = self.arrays.get(Cell(str(row.vector_checkpoint), str(row.trait), str(row.strategy)), {})
            control = arrays.get(f"{row.control_kind}_{row.control_seed}")
            pair = None if control is None else geometry.cosines(arrays["response_avg"], control)
            cosines.append(float("nan") if pair is None else float(pair[int(str(row.layer))]))
        return cosines

    def _doses(self) -> list[dict[str, Any]]:
        e = self.plan.config.evaluate
        return [{"layer": la, "dose": e.dose, "coef": c, "positions": e.positions} for la in e.layers for c in e.coefs]

    def _who(self, cell: Cell, target: str) -> dict[str, Any]:
        provenance = self.provenance.get(cell)
        failed = (cell.network, cell.trait, cell.strategy) in self.failed
        return {
            "lineage": self.plan.lineage.name,
            "trait": cell.trait,
            "strategy": cell.strategy,
            "vector_checkpoint": cell.network,
            "vector_trait": cell.trait,
            "vector_strategy": cell.strategy,
            "tokens": self.tokens[cell.network],
            "target": target,
            "status": "complete" if provenance else "failed" if failed else "no_vector",
            "n_pairs": provenance.n_pairs if provenance else 0,
            "fragile": provenance.fragile if provenance else pd.NA,
        }

    def extraction(self) -> pd.DataFrame:
        """Return one row per cell: how many contrast rows, passing rows, pairs and questions, and why no vector."""
        records = []
        for cell in self.cells:
            who = self._who(cell, cell.network)
            path = self.store.contrast(cell)
            rows = read_rows(path) if path.is_file() else None
            enough = rows is not None and len(rows)
            provenance = self.provenance.get(cell)
            records.append(
                {
                    "checkpoint": cell.network,
                    **{name: who[name] for name in ("tokens", "trait", "strategy", "status")},
                    "reason": self._reason(cell, who["status"]),
                    "n_rows": pd.NA if rows is None else len(rows),
                    "n_passing": pd.NA if rows is None else int(passing(rows).sum()) if enough else 0,
                    "n_missing": pd.NA if rows is None else int(rows["trait_score"].isna().sum()),
                    "n_pairs": who["n_pairs"],
                    "n_questions": provenance.n_questions if provenance else 0,
                    "fragile": who["fragile"],
                }
            )
        return pd.DataFrame(records)

    def _reason(self, cell: Cell, status: str) -> str:
        if status == "failed":
            return self.failed[cell.network, cell.trait, cell.strategy]
        return "" if status == "complete" else "no accepted pair of contrast rows"


def _steerable(plan: Plan, table: pd.DataFrame, controls: pd.DataFrame | None) -> pd.Series:
    criteria = plan.config.criteria.model_dump()
    return effects.steerability(table, controls, order=plan.order, **criteria)


def _thresholds(plan: Plan) -> effects.Thresholds:
    return effects.Thresholds(**plan.config.criteria.model_dump())


def _transfer_table(plan: Plan, store: RunStore, found: _Found, controls: pd.DataFrame) -> pd.DataFrame:
    if not plan.targets:
        return pd.DataFrame(columns=effects.TABLE_COLUMNS)
    planned = found.planned(plan.targets, transfer=True)
    families = planned["target"].isin(plan.order).map({True: "checkpoints", False: "descendants"})
    rows = found.rows(store.transfer, plan.targets)
    table = effects.effect_table(planned, rows, families=families, seed=plan.config.seed)
    table["steerable"] = _steerable(plan, table, controls)
    return table


def _tune(plan: Plan, found: _Found, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the dose of each trait and strategy that works best on the `tune` questions at the last checkpoint."""
    planned = found.planned((plan.last,))
    return emergence.choose_dose(effects.effect_table(planned, rows, split="tune", seed=plan.config.seed))


def _verdicts(
    plan: Plan, table: pd.DataFrame, moved: pd.DataFrame, controls: pd.DataFrame, tuned: pd.DataFrame
) -> pd.DataFrame:
    """Return one verdict per trait and strategy, and per transfer target, at the dose chosen on the `tune` questions."""
    options: dict[str, Any] = {"controls": controls, "thresholds": _thresholds(plan)}
    return verdict_table(table, moved, tuned, plan.order, plan.last.tokens, **options)


def _ceiling_share(table: pd.DataFrame, found: _Found) -> pd.Series:
    """Return each delta as a share of what the positive instruction itself achieves above the baseline."""
    told: dict[tuple[str, str, str], float] = {}
    for cell in found.cells:
        path = found.store.contrast(cell)
        if path.is_file():
            rows = read_rows(path)
            positive = rows[rows["polarity"] == "pos"].groupby("question_id")["trait_score"].mean()
            told[cell.network, cell.trait, cell.strategy] = float(positive.mean())
    keys = zip(table["vector_checkpoint"], table["trait"], table["strategy"], strict=True)
    gain = pd.Series([told.get(key, np.nan) for key in keys], index=table.index) - table["baseline_trait"]
    return table["delta_trait"] / gain.where(gain > effects.SMALLEST_CEILING)


def _other_rubrics(plan: Plan, found: _Found, rows: pd.DataFrame) -> pd.DataFrame:
    """Return what each vector does to the other traits: the emergence table, scored on another trait's rubric."""
    columns = [*effects.TABLE_COLUMNS, "rubric"]
    kept = rows[rows["condition"].isin(["baseline", "steered"])]
    if not plan.config.evaluate.other_rubrics or len(plan.traits) < 2 or kept.empty:
        return pd.DataFrame(columns=columns)
    scores = [json.loads(text) if isinstance(text, str) else {} for text in kept["other_scores"]]
    planned = found.planned(plan.checkpoints)
    tables = []
    for rubric in plan.traits:
        crossed = kept.assign(trait_score=[found.get(rubric, np.nan) for found in scores])
        part = planned[planned["trait"] != rubric]
        tables.append(effects.effect_table(part, crossed, seed=plan.config.seed).assign(rubric=rubric))
    return pd.concat(tables, ignore_index=True)[columns]


def _geometry(plan: Plan, found: _Found) -> dict[str, pd.DataFrame]:
    """Return the cosine tables of the main vectors at every layer."""
    by_name: dict[tuple[str, str], dict[str, Floats]] = {}
    for cell, arrays in found.arrays.items():
        by_name.setdefault((cell.trait, cell.strategy), {})[cell.network] = arrays["response_avg"]
    matrices, trajectories = [], []
    for (trait, strategy), vectors in by_name.items():
        cells = {name: Cell(name, trait, strategy) for name in vectors}
        matrices.append(geometry.cosine_matrix(vectors, trait=trait, strategy=strategy))
        trajectories.append(
            geometry.cosine_to_final(
                vectors,
                plan.order,
                trait=trait,
                strategy=strategy,
                tokens={name: tokens for name, tokens in found.tokens.items() if tokens is not None},
                n_pairs={name: found.provenance[cell].n_pairs or 0 for name, cell in cells.items()},
                activation_norms={name: found.arrays[cell]["activation_norms"] for name, cell in cells.items()},
                half_cosines={name: found.arrays[cell]["split_half_cosine"] for name, cell in cells.items()},
            )
        )
    empty = pd.DataFrame(columns=["trait", "strategy", "layer"])
    return {
        "cosine_matrix": pd.concat(matrices, ignore_index=True) if matrices else empty,
        "cosine_to_final": pd.concat(trajectories, ignore_index=True) if trajectories else empty,
        "cosine_cross_trait": geometry.cross_trait(by_name),
    }
