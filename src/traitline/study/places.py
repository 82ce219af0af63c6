"""Doses that stand for one another: what a network is steered with where the last checkpoint gets another coefficient.

A study may steer some networks at other layers or more strongly (`evaluate.where`). Its comparisons over checkpoints and
targets then follow the place in the list: the second coefficient here is compared with the second one there. Where the lists
differ in length nothing stands for anything. Leaves what the places are to `plan.py` and the tables to `tables.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from traitline.study.plan import Plan


def as_at_last(plan: Plan, table: pd.DataFrame) -> pd.DataFrame:
    """Return an effect table with the layers and coefficients that the last checkpoint is steered with instead.

    Args:
        plan: the study.
        table: with trait, target, layer, coef.
    """
    return _exchanged(plan, table, lambda target: (target, plan.last.name))


def as_at_target(plan: Plan, table: pd.DataFrame) -> pd.DataFrame:
    """Return verdicts that speak of the last checkpoint's doses with those that their own target is steered with.

    Args:
        plan: the study.
        table: with trait, target, layer, coef; rows without a target stay as they are.
    """
    return _exchanged(plan, table, lambda target: (plan.last.name, target))


def _exchanged(plan: Plan, table: pd.DataFrame, between: Callable[[str], tuple[str, str]]) -> pd.DataFrame:
    """Replace every dose of one network by the one that stands for it at another."""
    if not plan.config.evaluate.where or table.empty:
        return table
    doses = [
        _counterpart(plan, trait, layer, coef, *between(target)) if isinstance(target, str) else (layer, coef)
        for trait, target, layer, coef in zip(table["trait"], table["target"], table["layer"], table["coef"], strict=True)
    ]
    layers, coefs = zip(*doses, strict=True)
    return table.assign(
        layer=pd.Series(layers, table.index, dtype=table["layer"].dtype), coef=pd.Series(coefs, table.index, dtype=float)
    )


def _counterpart(plan: Plan, trait: str, layer: float, coef: float, here: str, there: str) -> tuple[float, float]:
    """Return the layer and coefficient in the same places of another network's lists; themselves where there are none."""
    ours, theirs = plan.place(here, trait), plan.place(there, trait)
    if pd.isna(layer) or pd.isna(coef) or [len(one) for one in ours] != [len(one) for one in theirs]:
        return layer, coef
    if layer not in ours[0] or coef not in ours[1]:
        return layer, coef
    return theirs[0][ours[0].index(int(layer))], theirs[1][ours[1].index(coef)]
