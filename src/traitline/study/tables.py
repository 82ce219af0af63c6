"""From a run's files to its tables: the one place where the study and the analysis meet.

Knows the tables of every study. Every planned comparison appears in one, with empty statistics where there is no vector. Leaves
reading the files to `found.py`, the tables that only some studies have to `comparisons.py`, every number to `analysis/`, and
drawing to `report/`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from traitline.analysis import effects, emergence, geometry
from traitline.analysis.controls import control_means
from traitline.analysis.verdicts import verdict_table
from traitline.files import write_whole
from traitline.study.comparisons import comparison_tables
from traitline.study.components import component_tables
from traitline.study.detection import detection_tables
from traitline.study.doses import dose_tables
from traitline.study.found import Found
from traitline.study.meaning_tables import meaning_tables
from traitline.study.places import as_at_last, as_at_target
from traitline.study.plan import Cell, Plan
from traitline.study.store import RunStore, read_rows


def write_tables(plan: Plan, store: RunStore, judge_errors: Mapping[str, float] | None = None) -> None:
    """Write every table of a run from its response and vector files.

    Args:
        plan: the study.
        store: the run.
        judge_errors: the judge's own delta error by trait, in points, as far as it states any.
    """
    found = Found(plan, store, judge_errors)
    rows = found.rows(store.evaluation, plan.checkpoints)
    received = found.rows(store.transfer, plan.targets)
    controls = _controls_table(plan, found, rows, received)
    controls["cosine_to_vector"] = found.control_cosines(controls)
    table = found.with_judge_error(effects.effect_table(found.planned(), rows, seed=plan.config.seed))
    table["ceiling_share"] = _ceiling_share(table, found)
    table["steerable"] = _steerable(plan, table, controls)
    moved = _transfer_table(plan, found, received, controls)
    tuned = _tune(plan, found, rows)
    _write(store, "emergence", table)
    _write(store, "controls", controls)
    _write(store, "control_means", control_means(controls))
    _write(store, "transfer", moved)
    _write(store, "doses", tuned)
    told = _verdicts(plan, table, moved, controls, tuned)
    _write(store, "verdicts", told)
    _write(store, "other_rubrics", _other_rubrics(plan, found, rows))
    _write(store, "extraction", found.extraction())
    drawn = {**_geometry(plan, found), **comparison_tables(found, rows, received, controls), **meaning_tables(found)}
    drawn |= component_tables(found, rows)
    drawn |= detection_tables(found, told)
    drawn |= dose_tables(plan, found.planned(), found.kl_doses, rows, tuned)
    for name, frame in drawn.items():
        _write(store, name, frame)


def _write(store: RunStore, name: str, table: pd.DataFrame) -> None:
    write_whole(store.tables / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))


def _steerable(plan: Plan, table: pd.DataFrame, controls: pd.DataFrame | None) -> pd.Series:
    criteria = plan.config.criteria.model_dump()
    compared = controls if controls is None else as_at_last(plan, controls)
    return effects.steerability(as_at_last(plan, table), compared, order=plan.order, **criteria)


def _thresholds(plan: Plan) -> effects.Thresholds:
    return effects.Thresholds(**plan.config.criteria.model_dump())


def _controls_table(plan: Plan, found: Found, rows: pd.DataFrame, received: pd.DataFrame) -> pd.DataFrame:
    planned = found.planned_controls()
    sides = [rows, received[~received["target"].isin(plan.order)]]
    used = [side[side["condition"].isin(["baseline", "random", "shuffled"])] for side in sides]
    together = pd.concat([part for part in used if len(part)] or [rows], ignore_index=True)
    return effects.effect_table(planned, together, families=found.families(planned), seed=plan.config.seed)


def _transfer_table(plan: Plan, found: Found, received: pd.DataFrame, controls: pd.DataFrame) -> pd.DataFrame:
    if not plan.targets:
        return found.with_judge_error(pd.DataFrame(columns=effects.TABLE_COLUMNS))
    planned = found.planned_transfers(found.cells)
    families = found.families(planned)
    table = found.with_judge_error(effects.effect_table(planned, received, families=families, seed=plan.config.seed))
    table["steerable"] = _steerable(plan, table, controls)
    return table


def _tune(plan: Plan, found: Found, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the dose of each trait and strategy that works best on the `tune` questions at the last checkpoint."""
    planned = found.comparisons([(c, c, c.network) for c in found.cells if c.network == plan.last.name])
    return emergence.choose_dose(effects.effect_table(planned, rows, split="tune", seed=plan.config.seed))


def _verdicts(
    plan: Plan, table: pd.DataFrame, moved: pd.DataFrame, controls: pd.DataFrame, tuned: pd.DataFrame
) -> pd.DataFrame:
    """Return one verdict per trait and strategy, and per transfer target, at the dose chosen on the `tune` questions."""
    options: dict[str, Any] = {"controls": as_at_last(plan, controls), "thresholds": _thresholds(plan)}
    tables = as_at_last(plan, table), as_at_last(plan, moved)
    return as_at_target(plan, verdict_table(*tables, tuned, plan.order, plan.last.tokens, **options))


def _ceiling_share(table: pd.DataFrame, found: Found) -> pd.Series:
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


def _other_rubrics(plan: Plan, found: Found, rows: pd.DataFrame) -> pd.DataFrame:
    """Return what each vector does to the other traits: the emergence table, scored on another trait's rubric."""
    columns = [*effects.TABLE_COLUMNS, "rubric"]
    kept = rows[rows["condition"].isin(["baseline", "steered"])]
    if not plan.config.evaluate.other_rubrics or len(plan.traits) < 2 or kept.empty:
        return pd.DataFrame(columns=columns)
    scores = [json.loads(text) if isinstance(text, str) else {} for text in kept["other_scores"]]
    planned = found.planned()
    tables = []
    for rubric in plan.traits:
        crossed = kept.assign(trait_score=pd.Series([found.get(rubric) for found in scores], kept.index, dtype=np.float64))
        part = planned[planned["trait"] != rubric]
        tables.append(effects.effect_table(part, crossed, seed=plan.config.seed).assign(rubric=rubric))
    return pd.concat(tables, ignore_index=True)[columns]


def _geometry(plan: Plan, found: Found) -> dict[str, pd.DataFrame]:
    """Return the cosine tables of the main vectors at every layer."""
    by_name = found.vectors_by_name()
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
