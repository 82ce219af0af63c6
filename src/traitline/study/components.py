"""The components of vectors: what strategies share, the rest of each, the two sides of neutral; in tables, and steered alone.

A component that is steered lies in the run directory as the vector of a strategy of that name, so that rows, doses and files
treat it as any other. Knows which components there are and what they are made of. Leaves their rows to `plan.py` and numbers to
`analysis/subspaces.py`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from traitline.analysis import effects
from traitline.analysis.subspaces import (
    ANGLES,
    PARTS,
    SIDES,
    Drawn,
    neutral_sides,
    rest,
    shared_direction,
    span_angles,
    strategy_parts,
    together,
)
from traitline.study.config import NEGATIVE_SIDE, POSITIVE_SIDE, REST, SHARED
from traitline.study.found import Found
from traitline.study.plan import Cell, Network, Plan
from traitline.study.store import RunStore, read_rows
from traitline.vectors.neutral import BOOTSTRAP, counts_as_neutral
from traitline.vectors.neutral import SIDES as SIDE_ARRAYS
from traitline.vectors.vector import Floats, Provenance, load_arrays, save_arrays

MAIN = "response_avg"


def write_components(plan: Plan, store: RunStore, network: Network) -> None:
    """Write the components of a checkpoint's vectors that the study steers with, as vectors of strategies of their names.

    Raises:
        StoreError: a vector's file is broken, or one cannot be written.
    """
    if network not in plan.checkpoints or not plan.config.components:
        return
    for trait in plan.traits:
        found = {name: store.vector(Cell(network.name, trait, name)) for name in plan.config.generating}
        loaded = {name: load_arrays(path) for name, path in found.items() if path.is_file()}
        made = _shared_and_rests({name: arrays[MAIN] for name, (arrays, _) in loaded.items()})
        for name, (arrays, _) in loaded.items():
            sides = ((POSITIVE_SIDE, SIDE_ARRAYS[0]), (NEGATIVE_SIDE, SIDE_ARRAYS[1]))
            made |= {start + name: arrays[array] for start, array in sides if array in arrays}
        wanted = {part for strategy in plan.config.strategies for part in plan.config.components_at(strategy)}
        for name in sorted(wanted & set(made)):
            save_arrays(store.vector(Cell(network.name, trait, name)), {MAIN: made[name]}, _provenance(name, loaded))


def _shared_and_rests(vectors: dict[str, Floats]) -> dict[str, Floats]:
    """Return the shared direction, as long as the vectors reach along it on average, and the rest of each; by layer."""
    if len(vectors) < 2:
        return {}
    arrays = {name: np.zeros_like(next(iter(vectors.values()))) for name in (SHARED, *(REST + name for name in vectors))}
    for layer in range(len(arrays[SHARED])):
        here = [vector[layer] for vector in vectors.values()]
        if not all(np.isfinite(one).all() and np.any(one) for one in here):
            continue
        shared, _ = shared_direction(here)
        arrays[SHARED][layer] = shared * np.mean([one @ shared for one in here])
        for name, vector in vectors.items():
            arrays[REST + name][layer] = rest(vector[layer], shared)
    return arrays


def _provenance(name: str, loaded: dict[str, tuple[dict[str, Floats], Provenance]]) -> Provenance:
    parts = [provenance for strategy, (_, provenance) in loaded.items() if name == SHARED or name.endswith(f"-{strategy}")]
    pairs = [one.n_pairs for one in parts if one.n_pairs is not None]
    questions = [one.n_questions for one in parts if one.n_questions is not None]
    fewest = {"n_pairs": min(pairs, default=None), "n_questions": min(questions, default=None)}
    return replace(parts[0], strategy=name, estimator="component", n_pairs=fewest["n_pairs"], n_questions=fewest["n_questions"])


def component_tables(found: Found, rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the tables of components that a run has, by name.

    `strategy_parts` and `principal_angles` where several strategies generate, `neutral_sides` where neutral answers were
    elicited, `components` where they are steered alone.

    Args:
        found: the run's files.
        rows: the evaluated rows of all checkpoints.
    """
    plan, tables = found.plan, dict[str, pd.DataFrame]()
    if len(plan.config.generating) > 1:
        tables["strategy_parts"] = together((_parts(found, n, t) for n in plan.checkpoints for t in plan.traits), PARTS)
        tables["principal_angles"] = together((_angles(found, network) for network in plan.checkpoints), ANGLES)
    if plan.config.elicit.neutral:
        tables["neutral_sides"] = together((_sides(found, cell) for cell in (*found.cells, *found.descendant_cells)), SIDES)
    if plan.config.components:
        tables["components"] = _steered_alone(found, rows)
    return tables


def _drawn(found: Found, cell: Cell, main: str = MAIN, bootstrap: str = "bootstrap") -> Drawn | None:
    arrays = found.arrays.get(cell, {})
    if main not in arrays:
        return None
    none = np.zeros((0, *arrays[main].shape))
    shuffled = [arrays[name] for name in sorted(arrays) if name.startswith("shuffled_")] if main == MAIN else []
    return Drawn(arrays[main], arrays.get(bootstrap, none), shuffled)


def _by_strategy(found: Found, network: Network, trait: str) -> dict[str, Drawn]:
    drawn = {name: _drawn(found, Cell(network.name, trait, name)) for name in found.plan.config.generating}
    return {name: one for name, one in drawn.items() if one is not None}


def _parts(found: Found, network: Network, trait: str) -> pd.DataFrame:
    vectors = _by_strategy(found, network, trait)
    layers = range(len(next(iter(vectors.values())).vector)) if vectors else ()
    return strategy_parts(vectors, layers, checkpoint=network.name, tokens=network.tokens, trait=trait)


def _angles(found: Found, network: Network) -> pd.DataFrame:
    by_trait = {trait: _by_strategy(found, network, trait) for trait in found.plan.traits}
    names = [name for name in found.plan.config.generating if any(name in vectors for vectors in by_trait.values())]
    by_strategy = {name: {trait: vectors[name] for trait, vectors in by_trait.items() if name in vectors} for name in names}
    return span_angles(by_strategy, found.plan.layers, checkpoint=network.name, tokens=network.tokens)


def _sides(found: Found, cell: Cell) -> pd.DataFrame:
    positive, negative = (_drawn(found, cell, name, name + BOOTSTRAP) for name in SIDE_ARRAYS)
    if positive is None or negative is None:
        return pd.DataFrame(columns=SIDES)
    who = {"checkpoint": cell.network, "tokens": found.tokens[cell.network], "trait": cell.trait, "strategy": cell.strategy}
    counted = int(counts_as_neutral(read_rows(found.store.contrast(cell))).sum())
    layers = range(len(positive.vector))
    return neutral_sides(positive, negative, layers, who, found.provenance[cell].n_pairs or 0, counted)


def _steered_alone(found: Found, rows: pd.DataFrame) -> pd.DataFrame:
    """Return what each component does alone, beside the whole vector of the strategy whose questions are asked."""
    plan = found.plan
    asked = []
    for cell in found.cells:
        parts = plan.config.components_at(cell.strategy)
        asked += [(cell, cell, cell.network)] if parts else []
        asked += [(Cell(cell.network, cell.trait, part), cell, cell.network) for part in parts]
    for vector, _, _ in asked:
        if vector not in found.provenance and found.store.vector(vector).is_file():
            found.arrays[vector], found.provenance[vector] = load_arrays(found.store.vector(vector))
    planned = found.comparisons(asked, negative=False)
    alone = rows[rows["condition"] != "bootstrap"]
    table = effects.effect_table(planned, alone, families=planned["vector_strategy"], seed=plan.config.seed)
    table.insert(list(table.columns).index("strategy") + 1, "vector_strategy", planned["vector_strategy"])
    return table.drop(columns=["steerable", "ceiling_share"])
