"""How far two judges agree: the figures against independent ones, intervals over questions, and what is undefined."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from traitline.analysis.agreement import ALL, CONFUSION, FIGURES, agreement_table, largest_differences
from traitline.errors import InputError


def judged(rows: int = 600, questions: int = 20, seed: int = 0, **columns: Any) -> pd.DataFrame:
    """Return rows that two judges scored: B is 5 points higher and noisy, and questions differ."""
    rng = np.random.default_rng(seed)
    question = np.arange(rows) % questions
    a = np.clip(40 + rng.normal(0, 20, questions)[question] + rng.normal(0, 20, rows), 0, 100).round()
    b = np.clip(a + 5 + rng.normal(0, 6, questions)[question] + rng.normal(0, 12, rows), 0, 100).round()
    scores = {"trait_score_a": a, "trait_score_b": b, "coherence_a": 100 - a, "coherence_b": b}
    return pd.DataFrame({"trait": "evil", "condition": "steered", "question": question.astype(str), **scores, **columns})


def only(table: pd.DataFrame, score: str = "trait_score", trait: str = "evil", condition: str = ALL) -> pd.Series:
    found = table[(table["score"] == score) & (table["trait"] == trait) & (table["condition"] == condition)]
    assert len(found) == 1
    return found.iloc[0]


def kappa_by_hand(a: Any, b: Any, edges: list[float]) -> float:
    x, y = np.digitize(a, edges), np.digitize(b, edges)
    n = len(edges) + 1
    seen = np.array([[np.mean((x == i) & (y == j)) for j in range(n)] for i in range(n)])
    chance = np.outer(seen.sum(axis=1), seen.sum(axis=0))
    weight = np.array([[(i - j) ** 2 for j in range(n)] for i in range(n)])
    return float(1 - (weight * seen).sum() / (weight * chance).sum())


def figures_by_hand(rows: pd.DataFrame) -> dict[str, float]:
    a, b = rows["trait_score_a"].to_numpy(), rows["trait_score_b"].to_numpy()
    return {
        "pearson": float(stats.pearsonr(a, b)[0]),
        "spearman": float(stats.spearmanr(a, b)[0]),
        "mae": float(np.abs(a - b).mean()),
        "bias": float((b - a).mean()),
        "same_side": float(((a >= 50) == (b >= 50)).mean()),
        "kappa": kappa_by_hand(a, b, [50]),
        "weighted_kappa": kappa_by_hand(a, b, [25, 50, 75]),
    }


def test_figures_are_those_of_independent_formulas() -> None:
    rows = judged()
    found = only(agreement_table(rows))
    for name, value in figures_by_hand(rows).items():
        assert found[name] == pytest.approx(value), name
    a, b = rows["trait_score_a"] >= 50, rows["trait_score_b"] >= 50
    assert [found[name] for name in CONFUSION] == [(~a & ~b).sum(), (a & ~b).sum(), (~a & b).sum(), (a & b).sum()]
    assert (found["n"], found["n_questions"], found["reason"]) == (600, 20, "")


def test_intervals_are_those_of_redrawing_whole_questions() -> None:
    rows = judged(400, 15)
    found = only(agreement_table(rows, draws=1500))
    parts, rng = [part for _, part in rows.groupby("question")], np.random.default_rng(99)
    drawn = [figures_by_hand(pd.concat([parts[i] for i in rng.integers(15, size=15)])) for _ in range(400)]
    for name in FIGURES:
        values = np.array([one[name] for one in drawn])
        low, high = np.quantile(values, [0.025, 0.975])
        slack = 0.25 * (high - low)
        assert found[f"{name}_low"] == pytest.approx(low, abs=slack), name
        assert found[f"{name}_high"] == pytest.approx(high, abs=slack), name
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]


def test_more_rows_of_the_same_questions_are_no_more_evidence() -> None:
    rows = judged(200, 10)
    few, many = (only(agreement_table(one)) for one in (rows, pd.concat([rows] * 20)))
    for name in FIGURES:
        assert many[name] == pytest.approx(few[name], abs=1e-3)
        assert many[f"{name}_high"] - many[f"{name}_low"] == pytest.approx(few[f"{name}_high"] - few[f"{name}_low"], rel=0.02)


def test_one_seed_gives_the_same_table() -> None:
    rows = judged()
    pd.testing.assert_frame_equal(agreement_table(rows, seed=4), agreement_table(rows, seed=4))
    assert only(agreement_table(rows, seed=4))["mae_low"] != only(agreement_table(rows, seed=5))["mae_low"]


def test_missing_scores_are_counted_and_left_out() -> None:
    rows = judged()
    gaps = rows.copy()
    gaps.loc[gaps.index[:50], "trait_score_a"] = np.nan
    gaps.loc[gaps.index[40:100], "trait_score_b"] = np.nan
    found, expected = only(agreement_table(gaps)), only(agreement_table(rows.iloc[100:]))
    assert (found["n_rows"], found["n"], found["n_missing_a"], found["n_missing_b"]) == (600, 500, 50, 60)
    assert found["mae"] == expected["mae"]
    none = only(agreement_table(rows.assign(trait_score_b=np.nan)))
    assert none["n"] == 0
    assert none["reason"] == "no response has both scores"
    assert none[list(FIGURES)].isna().all()


def test_a_constant_judge_has_no_correlation_and_says_why() -> None:
    found = only(agreement_table(judged().assign(trait_score_b=0.0)))
    assert np.isnan([found["pearson"], found["spearman"]]).all()
    assert found["reason"] == "no correlation: B says 0 everywhere"
    assert np.isfinite([found["mae"], found["mae_low"], found["kappa"]]).all()
    both = only(agreement_table(judged().assign(trait_score_a=3.0, trait_score_b=3.0)))
    assert np.isnan([both["kappa"], both["weighted_kappa"]]).all()
    assert "no kappa and weighted_kappa: both judges put every response in one class" in both["reason"]
    assert both["bias"] == 0


def test_few_questions_have_figures_but_no_intervals() -> None:
    found = only(agreement_table(judged(60, 2)))
    assert found["reason"] == "no intervals over 2 questions"
    assert np.isfinite(found[list(FIGURES)].astype(float)).all()
    assert found[[f"{name}_{end}" for name in FIGURES for end in ("low", "high")]].isna().all()
    one = only(agreement_table(judged(2, 1)))
    assert np.isnan(one["pearson"])
    assert "no correlation over 2 responses" in one["reason"]


def test_a_figure_that_most_draws_lack_has_no_interval() -> None:
    rows = judged(200, 10)
    rows["trait_score_b"] = np.where(rows["question"] == "0", rows["trait_score_b"], 0.0)
    found = only(agreement_table(rows))
    assert np.isnan(found["pearson_low"])
    assert "no interval of pearson: undefined in" in found["reason"]


def test_conditions_and_traits_are_compared_apart_and_together() -> None:
    rows = pd.concat(
        [
            judged(100, 5, seed=i, trait=trait, condition=c)
            for i, (trait, c) in enumerate([("evil", "baseline"), ("evil", "pos")])
        ]
        + [judged(60, 5, seed=7, trait="kind", condition="pos")]
    )
    table = agreement_table(rows, draws=20)
    groups = set(zip(table["trait"], table["condition"], strict=True))
    own = {("evil", "baseline"), ("evil", "pos"), ("kind", "pos")}
    assert groups == own | {(ALL, ALL), (ALL, "baseline"), (ALL, "pos"), ("evil", ALL), ("kind", ALL)}
    assert only(table, trait=ALL)["n"] == 260
    assert only(table, trait=ALL, condition="pos")["n"] == 160
    assert only(table, score="coherence", trait="kind", condition="pos")["pearson"] < 0


def test_a_hundred_thousand_rows_take_seconds() -> None:
    rows = judged(100_000, 100)
    rows = rows.assign(trait=np.array(["evil", "kind"])[np.arange(100_000) // 100 % 2])
    started = time.monotonic()
    agreement_table(rows)
    assert time.monotonic() - started < 15


def test_every_row_may_be_a_question_of_its_own() -> None:
    found = only(agreement_table(judged(6000, 6000), draws=300))
    a, b = judged(6000, 6000)["trait_score_a"], judged(6000, 6000)["trait_score_b"]
    half = 1.96 * (b - a).std() / np.sqrt(6000)
    assert found["bias_high"] - found["bias_low"] == pytest.approx(2 * half, rel=0.2)


def test_the_largest_differences_come_first() -> None:
    rows = judged(50)
    rows.loc[7, ["trait_score_a", "trait_score_b"]] = [100.0, 0.0]
    rows.loc[9, "trait_score_b"] = np.nan
    found = largest_differences(rows, 5)
    assert found.index[0] == 7
    assert found["difference"].iloc[0] == -100
    assert found["difference"].abs().is_monotonic_decreasing
    assert len(largest_differences(rows, 500)) == (rows["trait_score_a"] != rows["trait_score_b"]).sum() - 1
    assert (largest_differences(rows, 3, score="coherence")["score"] == "coherence").all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": judged().drop(columns="coherence_b")}, "lack the columns coherence_b"),
        ({"rows": judged().iloc[:0]}, "no rows"),
        ({"level": 1.0}, "level must lie between 0 and 1"),
        ({"draws": 0}, "draws be at least 1"),
    ],
)
def test_what_cannot_be_compared_is_told(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        agreement_table(**{"rows": judged(), **change})
