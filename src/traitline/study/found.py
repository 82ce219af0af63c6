"""What a run's files hold, and which comparisons its study planned.

Knows where rows, arrays and provenance of every cell lie, and the columns of a planned comparison. Leaves the tables made of
them to `tables.py` and `comparisons.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from traitline.analysis import effects, geometry
from traitline.study.config import FORCED
from traitline.study.doses import Doses, all_doses, with_reach
from traitline.study.plan import CONTROL_KINDS, Cell, Network, Plan
from traitline.study.store import RESPONSES, RunStore, read_rows
from traitline.vectors.estimators import passing, why_no_pair
from traitline.vectors.vector import Floats, Provenance, load_arrays

PLANNED = [*effects.PLAN_COLUMNS, "vector_trait", "vector_strategy", *effects.CONDITION_KEY]


class Found:
    """What a run's files hold: arrays, provenance and response rows of every cell."""

    def __init__(self, plan: Plan, store: RunStore, judge_errors: Mapping[str, float] | None = None) -> None:
        self.plan, self.store, self._judge_errors = plan, store, judge_errors or {}
        self.cells = [cell for network in plan.checkpoints for cell in plan.cells(network)]
        self.descendant_cells = [cell for network in plan.descendants for cell in plan.elicited(network)]
        self.tokens = {network.name: network.tokens for network in (*plan.checkpoints, *plan.targets)}
        ledger = store.ledger("cells")
        self.failed = {
            (row.network, row.trait, row.strategy): str(row.reason) for row in ledger[ledger["state"] == "failed"].itertuples()
        }
        evaluate = plan.config.evaluate
        self.kl_doses = all_doses(Doses(store, evaluate.kl_statistic, evaluate.positions), self.tokens)
        self.arrays: dict[Cell, dict[str, Floats]] = {}
        self.provenance: dict[Cell, Provenance] = {}
        for cell in (*self.cells, *self.descendant_cells):
            if store.vector(cell).is_file():
                self.arrays[cell], self.provenance[cell] = load_arrays(store.vector(cell))

    def rows(self, path: Callable[[Cell], Any], networks: tuple[Network, ...]) -> pd.DataFrame:
        """Return the response rows of every finished cell of these networks."""
        paths = [path(cell) for network in networks for cell in self.plan.cells(network)]
        frames = [frame for frame in (read_rows(p) for p in paths if p.is_file()) if len(frame)]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*effects.ROW_COLUMNS, "other_scores"])

    def planned(self) -> pd.DataFrame:
        """Return every planned comparison of a checkpoint under its own vector."""
        return self.comparisons([(cell, cell, cell.network) for cell in self.cells])

    def planned_transfers(self, sources: Sequence[Cell]) -> pd.DataFrame:
        """Return every planned comparison of a target under these vectors."""
        return self.comparisons([(cell, cell, target.name) for cell in sources for target in self.plan.targets])

    def comparisons(self, asked: Sequence[tuple[Cell, Cell, str]], *, negative: bool = True) -> pd.DataFrame:
        """Return the plan of comparisons given as (vector's cell, cell whose questions are asked, target), at every dose."""
        records = [
            {
                **self._who(vector, target),
                "strategy": questions.strategy,
                **dose,
                "condition": "steered",
                "control_seed": pd.NA,
                "control_kind": None,
            }
            for vector, questions, target in asked
            for dose in self._doses(target, vector.trait)
            if negative or dose["coef"] > 0
        ]
        return with_reach(pd.DataFrame(records, columns=PLANNED), self.kl_doses)

    def families(self, planned: pd.DataFrame) -> pd.Series:
        """Return the family of targets that each comparison belongs to: the checkpoints, or the descendants."""
        return planned["target"].isin(self.plan.order).map({True: "checkpoints", False: "descendants"})

    def with_judge_error(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return an effect table with the judge's own delta error of each row's trait, in points; NaN where none is stated."""
        return table.assign(judge_error=table["trait"].map(self._judge_errors).astype(float))

    def planned_controls(self) -> pd.DataFrame:
        """Return every planned comparison of a control: of a checkpoint's own there, of the last one's at descendants."""
        columns = [*effects.PLAN_COLUMNS, *effects.CONDITION_KEY]
        last = [cell for cell in self.cells if cell.network == self.plan.last.name]
        after = [target.name for target in self.plan.targets if target != self.plan.last]
        met = [(cell, cell.network) for cell in self.cells] + [(cell, target) for target in after for cell in last]
        records = [record for cell, target in met for record in self._controls(cell, target)]
        return with_reach(pd.DataFrame(records, columns=columns), self.kl_doses)

    def _controls(self, cell: Cell, target: str) -> Iterator[dict[str, Any]]:
        for kind in CONTROL_KINDS:
            for seed in self.plan.control_seeds(kind):
                who = self._who(cell, target)
                if who["status"] == "complete" and f"{kind}_{seed}" not in self.arrays[cell]:
                    who["status"] = "no_vector"  # a shuffled control is undefined under 10 pairs
                condition = "shuffled" if kind == "shuffled" else "random"
                for dose in (d for d in self._doses(target, cell.trait) if d["coef"] > 0):
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

    def _doses(self, target: str, trait: str) -> list[dict[str, Any]]:
        e, (layers, coefs) = self.plan.config.evaluate, self.plan.place(target, trait)
        return [{"layer": la, "dose": e.dose, "coef": c, "positions": e.positions} for la in layers for c in coefs]

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

    def vectors_by_name(self) -> dict[tuple[str, str], dict[str, Floats]]:
        """Return (trait, strategy) -> checkpoint -> main vector, of the lineage's checkpoints."""
        names = [(trait, strategy) for trait in self.plan.traits for strategy in self.plan.config.strategies]
        vectors: dict[tuple[str, str], dict[str, Floats]] = {name: {} for name in names}
        for cell in self.cells:
            if cell in self.arrays:
                vectors[cell.trait, cell.strategy][cell.network] = self.arrays[cell]["response_avg"]
        return {name: found for name, found in vectors.items() if found}

    def elicited(self) -> pd.DataFrame:
        """Return the accepted positive contrast rows of every checkpoint; those of `forced` left out."""
        cells = [cell for cell in self.cells if cell.strategy != FORCED and self.store.contrast(cell).is_file()]
        frames = [read_rows(self.store.contrast(cell)) for cell in cells]
        kept = [rows[rows["accepted"].fillna(False).astype(bool) & rows["polarity"].eq("pos")] for rows in frames if len(rows)]
        return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=RESPONSES.names)

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
                    "reason": self._reason(cell, who["status"], rows),
                    "n_rows": pd.NA if rows is None else len(rows),
                    "n_passing": pd.NA if rows is None else int(passing(rows).sum()) if enough else 0,
                    "n_missing": pd.NA if rows is None else int(rows["trait_score"].isna().sum()),
                    "n_pairs": who["n_pairs"],
                    "n_questions": provenance.n_questions if provenance else 0,
                    "fragile": who["fragile"],
                }
            )
        return pd.DataFrame(records)

    def _reason(self, cell: Cell, status: str, rows: pd.DataFrame | None) -> str:
        if status == "failed":
            return self.failed[cell.network, cell.trait, cell.strategy]
        return "" if status == "complete" or rows is None else why_no_pair(rows)
