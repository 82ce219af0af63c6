"""The tables that compare strategies and stages: which only studies that ask for them have.

Knows which comparisons these are. Leaves the statistics to `analysis/`, and the files to `found.py`.
"""

from __future__ import annotations

import pandas as pd

from traitline.analysis import effects, geometry, stages
from traitline.study.config import COMBINED, FORCED
from traitline.study.facets import facet_table
from traitline.study.found import Found
from traitline.study.plan import Cell
from traitline.study.store import read_rows
from traitline.traits.strategies import COMMON

PAIR_COLUMNS = ["checkpoint", "trait", "layer", "strategy_a", "strategy_b", "cosine"]


def comparison_tables(found: Found, rows: pd.DataFrame, moved: pd.DataFrame, controls: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the tables that a study has where it asks for them, by name.

    `strategies`: every strategy's vectors on every strategy's questions and on the common ones. `cosine_cross_strategy`: how
    alike they are. `facets`: which facets each surfaces. `reverse`: descendants' vectors on every target.
    `cosine_descendants`: how alike they are to the last checkpoint's. `stages`: what each stage did to the baseline.

    Args:
        found: the run's files.
        rows: the evaluated rows of all checkpoints.
        moved: the rows of all targets.
        controls: the effect table of the controls.
    """
    plan, tables = found.plan, dict[str, pd.DataFrame]()
    if plan.config.compared:
        tables["strategies"] = _strategies(found, rows, moved, controls)
    if len(plan.config.generating) > 1:
        tables["cosine_cross_strategy"] = _between_strategies(found)
    labelled = facet_table(found, rows)
    if len(labelled):
        tables["facets"] = labelled
    if plan.descendants:
        tables["reverse"] = _reverse(found, moved, controls)
        tables["cosine_descendants"] = _to_descendants(found)
    if len(plan.targets) > 1:
        tables["stages"] = _stages(found, moved)
    return tables


def _strategies(found: Found, rows: pd.DataFrame, moved: pd.DataFrame, controls: pd.DataFrame) -> pd.DataFrame:
    """Return the effects of every strategy's vectors on every strategy's questions.

    `strategy` says whose questions are asked (`common`: those of none), `vector_strategy` whose vector is applied.
    """
    plan = found.plan
    compared = plan.config.compared
    cells = [Cell(n.name, trait, strategy) for n in plan.checkpoints for trait in plan.traits for strategy in compared]
    asked = [(Cell(c.network, c.trait, other), c, c.network) for c in cells for other in compared]
    after = [target.name for target in plan.targets if target != plan.last]
    last = [cell for cell in cells if cell.network == plan.last.name]
    asked += [(vector, Cell(plan.last.name, vector.trait, COMBINED), target) for target in after for vector in last]
    planned = found.comparisons(asked, negative=False)
    elsewhere = moved[moved["target"].isin(after)]
    responses = pd.concat([part for part in (rows, elsewhere) if len(part)] or [rows], ignore_index=True)
    alone = responses[responses["condition"] != "bootstrap"]  # only a strategy's own questions have bootstrap rows
    where = found.families(planned)
    families = planned["vector_strategy"] + " on " + where
    table = found.with_judge_error(effects.effect_table(planned, alone, families=families, seed=plan.config.seed))
    table.insert(list(table.columns).index("strategy") + 1, "vector_strategy", planned["vector_strategy"])
    for _, part in table.groupby(["vector_strategy", where], sort=False):
        met = effects.steerability(part, controls, order=plan.order, **plan.config.criteria.model_dump())
        table.loc[part.index, "steerable"] = met
    return table.replace({"strategy": {COMBINED: COMMON}})


def _between_strategies(found: Found) -> pd.DataFrame:
    """Return the cosine between the vectors of every two strategies of one trait, at each checkpoint and layer."""
    parts = []
    for trait in found.plan.traits:
        crossed = geometry.cross_trait({key: v for key, v in found.vectors_by_name().items() if key[0] == trait})
        parts.append(crossed.assign(trait=trait)[PAIR_COLUMNS])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=PAIR_COLUMNS)


def _reverse(found: Found, moved: pd.DataFrame, controls: pd.DataFrame) -> pd.DataFrame:
    """Return the effects of the descendants' vectors on the last checkpoint and on every descendant."""
    plan = found.plan
    planned = found.planned_transfers(found.descendant_cells)
    families = found.families(planned)
    table = found.with_judge_error(effects.effect_table(planned, moved, families=families, seed=plan.config.seed))
    order = [network.name for network in plan.descendants]
    for _, part in table.groupby("vector_checkpoint", sort=False):  # stages are no series: none has to confirm another
        met = effects.steerability(part, controls, order=order, **plan.config.criteria.model_dump())
        table.loc[part.index, "steerable"] = met
    return table


def _to_descendants(found: Found) -> pd.DataFrame:
    """Return the cosine of each descendant's vector to the last checkpoint's, with the pairs behind both."""
    columns = ["trait", "strategy", "descendant", "layer", "cosine", "n_pairs", "n_pairs_last"]
    records = []
    for cell in found.descendant_cells:
        last = Cell(found.plan.last.name, cell.trait, cell.strategy)
        if cell in found.arrays and last in found.arrays:
            alike = geometry.cosines(found.arrays[cell]["response_avg"], found.arrays[last]["response_avg"])
            counts = (found.provenance[cell].n_pairs, found.provenance[last].n_pairs)
            records += [(cell.trait, cell.strategy, cell.network, i, float(c), *counts) for i, c in enumerate(alike)]
    return pd.DataFrame(records, columns=columns)


def _stages(found: Found, moved: pd.DataFrame) -> pd.DataFrame:
    """Return what each stage of post-training did to the baseline answers."""
    plan = found.plan
    baseline = moved[(moved["condition"] == "baseline") & (moved["split"] == "evaluate") & (moved["strategy"] != FORCED)]
    order = [plan.last.name, *(target.name for target in plan.targets if target != plan.last)]
    names = {plan.last.name, *(network.name for network in plan.descendants)}
    cells = [cell for cell in (*found.cells, *found.descendant_cells) if cell.network in names and cell.strategy != FORCED]
    told = [read_rows(found.store.contrast(cell)) for cell in cells if found.store.contrast(cell).is_file()]
    paths = [found.store.projections(stage) for stage in order]
    along = [pd.read_csv(path) for path in paths if path.is_file()]
    parents = {one.name: one.parent for one in plan.lineage.descendants}
    return stages.stage_table(
        baseline,
        pd.concat(told, ignore_index=True) if told else pd.DataFrame(),
        pd.concat(along, ignore_index=True) if along else pd.DataFrame(columns=["layer", "trait", "strategy", "target"]),
        order,
        parents=parents if any(parents.values()) else None,  # a lineage that tells of none lists them in order
        lineage=plan.lineage.name,
        seed=plan.config.seed,
    )
