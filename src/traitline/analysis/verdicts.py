"""The verdicts of a whole study, one per trait and strategy and, for transfer, per target: the table that a reader opens first.

Knows which columns a table of verdicts has and how a dose is picked out of an effect table. Leaves onset and wording to
`emergence.py` and `transfer.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from traitline.analysis import emergence, transfer
from traitline.analysis.effects import DEFAULT, Thresholds

FIRST = ["kind", "trait", "strategy", "target", "layer", "coef", "sentence"]
NAMES = {
    "verdict": "sentence",
    "last_failing": "onset_after",
    "first_passing": "onset_by",
    "tokens_last_failing": "tokens_after",
    "tokens_first_passing": "tokens_by",
}


def verdict_table(
    emerged: pd.DataFrame,
    moved: pd.DataFrame,
    doses: pd.DataFrame,
    order: Sequence[str],
    total_tokens: float | None,
    *,
    controls: pd.DataFrame | None = None,
    thresholds: Thresholds = DEFAULT,
) -> pd.DataFrame:
    """Return one verdict per trait and strategy, and per transfer target, at one dose each.

    Args:
        emerged: an emergence table with `steerable` filled.
        moved: a transfer table with `steerable` filled; may be empty.
        doses: the dose to speak of: trait, strategy, layer, coef, and `target` where it differs between targets (then the
            dose of emergence has an empty target). Where none is named, all doses are judged together.
        order: the checkpoints in the order of training.
        total_tokens: tokens of the whole pretraining, for percentages.
        controls: the effect table of the controls that `steerable` was found with.
        thresholds: the thresholds that `steerable` was found with.

    Returns:
        kind ("emergence" or "transfer"), trait, strategy, target, layer, coef, sentence, the onset and the statistics quoted.
    """
    options: dict[str, Any] = {"controls": controls, "thresholds": thresholds}
    parts = []
    for kind, table, judge in (("emergence", emerged, emergence.verdicts), ("transfer", moved, transfer.verdicts)):
        if len(table):
            part = judge(_at_doses(table, doses, kind), order, total_tokens, **options)
            parts.append(_with_dose(part.rename(columns=NAMES).assign(kind=kind), doses, kind))
    verdicts = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=FIRST)
    verdicts["target"] = verdicts.get("target")
    return verdicts[[*FIRST, *(name for name in verdicts.columns if name not in FIRST)]]


def _at_doses(table: pd.DataFrame, doses: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return a table's rows at the doses named; where none is named, all rows."""
    marked = _with_dose(table, doses, kind, suffix="_named")
    fits = marked["layer"].eq(marked["layer_named"]) & marked["coef"].eq(marked["coef_named"])
    return table[(fits | marked["layer_named"].isna()).to_numpy()]


def _with_dose(table: pd.DataFrame, doses: pd.DataFrame, kind: str, suffix: str = "") -> pd.DataFrame:
    """Join the doses named for these rows."""
    keys = ["trait", "strategy"]
    named = doses
    if "target" in doses.columns:
        keys = [*keys, "target"] if kind == "transfer" else keys
        named = doses[doses["target"].notna() == (kind == "transfer")]
    named = named[[*keys, "layer", "coef"]].rename(columns={name: f"{name}{suffix}" for name in ("layer", "coef")})
    return table.merge(named, on=keys, how="left")
