"""What a run's rows are steered with: vectors and controls of finished cells, as interventions at the network at hand.

Knows which array of a cell's vector file a planned row means. Leaves rows to `plan.py`, doses to `vectors/dose.py`, those that
have to be looked for to `doses.py`, and files to `store.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from traitline.models import Intervention, Model
from traitline.models.generate import Positions
from traitline.study.doses import Direction, Doses
from traitline.study.plan import Cell, PlannedRow
from traitline.study.store import RunStore
from traitline.vectors.dose import KL, Statistic, Steer
from traitline.vectors.vector import Floats, PersonaVector, load_arrays

_KEPT_CELLS = 64


class Directions:
    """The vectors of one run; those read last are kept.

    Args:
        store: the run's files.
        positions: where steered rows are steered.
        statistic: what of the KL over positions a kl dose is about.
    """

    def __init__(self, store: RunStore, positions: Positions, statistic: Statistic = "p95") -> None:
        self._store, self._positions = store, positions
        self.doses = Doses(store, statistic, positions)
        self._read = lru_cache(maxsize=_KEPT_CELLS)(self._load)

    def exist_for(self, row: PlannedRow) -> bool:
        """Tell whether the vector a row is steered with exists, and a coefficient for its dose; else it cannot be made.

        A row that is not steered needs none.
        """
        if row.identity.vector_checkpoint is None:
            return True
        return self._has_vector(row) and (row.identity.dose != KL or self.doses.coef(row) is not None)

    def find_doses(
        self,
        network: str,
        stage: str,
        model: Model,
        rows: Iterable[PlannedRow],
        activation_norms: Floats,
        texts: Callable[[], Sequence[Sequence[int]]],
    ) -> None:
        """Look for the coefficients of the rows' kl doses, as far as they are not known; see `Doses.find`."""
        steered = [row for row in rows if row.identity.dose == KL]
        asked: dict[tuple[Direction, float], Floats] = {}
        for row in steered:
            key = Direction.of(row), float(row.identity.coef or 0)
            if key not in asked and self._has_vector(row):
                asked[key] = self._direction(row)[key[0].layer]
        if steered:
            self.doses.find(network, stage, model, asked, activation_norms, texts)

    def _has_vector(self, row: PlannedRow) -> bool:
        who = row.identity
        name = "bootstrap" if who.condition == "bootstrap" else _name(row)
        arrays = self._of(row)
        return name in arrays and bool(np.any(arrays[name][..., who.layer, :] if who.layer else True))

    def resolver(self, activation_norms: Floats) -> Callable[[PlannedRow], Intervention | None]:
        """Return what gives each row its intervention at a network with these activation norms."""
        known: dict[tuple[Any, ...], Intervention] = {}

        def resolve(row: PlannedRow) -> Intervention | None:
            who = row.identity
            if who.vector_checkpoint is None or who.layer is None or who.coef is None:
                return None
            vector = (who.vector_checkpoint, who.trait, who.vector_strategy, who.condition, who.control_kind, who.control_seed)
            key = (*vector, who.layer, who.coef)
            if key not in known:
                coef, dose = (self.doses.coef(row), "norm") if who.dose == KL else (who.coef, who.dose or "norm")
                steer = Steer(PersonaVector(self._direction(row)), who.layer, coef or 0.0, dose, self._positions)
                known[key] = steer.resolve(activation_norms)
            return known[key]

        return resolve

    def main(self, cell: Cell) -> Floats | None:
        """Return the persona vector of a cell, None where it has none."""
        return self._read(cell).get("response_avg")

    def _direction(self, row: PlannedRow) -> Floats:
        if row.identity.condition == "bootstrap":
            return np.asarray(self._of(row)["bootstrap"][int(row.identity.control_seed or 0)])
        return self._of(row)[_name(row)]

    def _of(self, row: PlannedRow) -> dict[str, Floats]:
        who = row.identity
        return self._read(Cell(str(who.vector_checkpoint), who.trait, str(who.vector_strategy)))

    def _load(self, cell: Cell) -> dict[str, Floats]:
        path = self._store.vector(cell)
        return load_arrays(path)[0] if path.is_file() else {}


def _name(row: PlannedRow) -> str:
    """Return what the vector file calls the array that a row is steered with, bootstrap vectors aside."""
    who = row.identity
    return "response_avg" if who.condition == "steered" else f"{who.control_kind}_{who.control_seed}"
