"""Means over control vectors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from traitline.analysis.controls import GROUP, control_means


def rows(deltas: list[float], kind: str = "isotropic") -> pd.DataFrame:
    same = dict.fromkeys(GROUP, "x") | {"control_kind": kind, "delta_coherence": -1.0}
    return pd.DataFrame([same | {"delta_trait": delta} for delta in deltas])


def test_the_mean_and_its_t_interval() -> None:
    table = control_means(rows([1.0, 2.0, 6.0])).set_index("control_kind")
    assert table.loc["all", "mean_delta"] == 3.0
    assert table.loc["all", "n_controls"] == 3
    half = 4.302652729696142 * np.std([1, 2, 6], ddof=1) / np.sqrt(3)  # t quantile at 2 degrees of freedom
    assert table.loc["isotropic", "ci_high"] == pytest.approx(3 + half)
    assert table.loc["all", "holds_zero"]


def test_a_shift_is_seen() -> None:
    assert not control_means(rows([9.0, 10.0, 11.0])).loc[0, "holds_zero"]


def test_kinds_are_told_apart_and_missing_effects_left_out() -> None:
    table = control_means(pd.concat([rows([1.0, np.nan]), rows([5.0], "shuffled")])).set_index("control_kind")
    assert table["n_controls"].to_dict() == {"all": 2, "isotropic": 1, "shuffled": 1}
    assert np.isnan(table.loc["shuffled", "ci_low"])
    assert pd.isna(table.loc["shuffled", "holds_zero"])


def test_no_controls_give_no_rows() -> None:
    assert control_means(rows([np.nan])).empty
