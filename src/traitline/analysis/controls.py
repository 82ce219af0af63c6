"""What control directions do on average: near zero if the effect of a vector is not that of any push of its size.

Knows control tables, in which every control vector has a row with an interval over questions. Here the unit is the control
vector: single directions do move a trait a little, either way, and it is their mean that must lie at zero.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

GROUP = ["lineage", "trait", "strategy", "vector_checkpoint", "tokens", "target", "layer", "dose", "coef", "positions"]


def control_means(controls: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """Return the mean effect of the controls of each vector and dose, all kinds together and each kind alone.

    Args:
        controls: the effect table of the controls.
        level: of the t interval over control vectors.

    Returns:
        One row per comparison and kind (`all` pools the kinds): the identity columns, `control_kind`, `n_controls`,
        `mean_delta`, `ci_low`, `ci_high`, `smallest_delta`, `largest_delta`, `mean_delta_coherence`, and `holds_zero`, whether
        the interval holds 0. Intervals are empty with fewer than two controls.
    """
    measured = controls[controls["delta_trait"].notna()]
    both = pd.concat([measured.assign(control_kind="all"), measured], ignore_index=True)
    grouped = both.groupby([*GROUP, "control_kind"], sort=False, dropna=False)
    table = grouped.agg(
        n_controls=("delta_trait", "size"),
        mean_delta=("delta_trait", "mean"),
        sd=("delta_trait", "std"),
        smallest_delta=("delta_trait", "min"),
        largest_delta=("delta_trait", "max"),
        mean_delta_coherence=("delta_coherence", "mean"),
    ).reset_index()
    n = table["n_controls"].to_numpy(dtype=float)
    quantile = stats.t.ppf((1 + level) / 2, np.where(n > 1, n - 1, np.nan))
    half = quantile * table["sd"] / np.sqrt(n)
    table["ci_low"], table["ci_high"] = table["mean_delta"] - half, table["mean_delta"] + half
    holds = (table["ci_low"] <= 0) & (table["ci_high"] >= 0)
    table["holds_zero"] = holds.astype("boolean").mask(half.isna())
    names = ["n_controls", "mean_delta", "ci_low", "ci_high", "smallest_delta", "largest_delta", "mean_delta_coherence"]
    return table[[*GROUP, "control_kind", *names, "holds_zero"]]
