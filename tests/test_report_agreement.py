"""The figures of two judges side by side: what is drawn, in which files, and from how little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from traitline.analysis.agreement import agreement_table
from traitline.report.agreement import FEW, agreement_figure, deltas_figure, write_agreement_figures

JUDGES = ("column:$a_b$", "openai:some-model (5 samples)")


def rows(count: int, conditions: tuple[str, ...] = ("baseline", "steered", "pos")) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    a = rng.uniform(0, 100, count)
    scores = {"trait_score_a": a, "trait_score_b": np.clip(a + 9, 0, 100), "coherence_a": a, "coherence_b": 50.0}
    names = np.array(conditions)[np.arange(count) % len(conditions)]
    return pd.DataFrame({"trait": "evil", "condition": names, "question": np.arange(count) % 7, **scores})


def deltas(count: int = 12, traits: tuple[str, ...] = ("evil", "kind")) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    a = rng.normal(10, 20, count)
    table = pd.DataFrame(
        {"trait": np.array(traits)[np.arange(count) % len(traits)], "delta_trait_a": a, "delta_trait_b": a / 2}
    )
    for judge in "ab":
        table[f"ci_low_{judge}"] = table[f"delta_trait_{judge}"] - 5
        table[f"ci_high_{judge}"] = table[f"delta_trait_{judge}"] + 5
    return table.assign(
        table=np.where(np.arange(count) % 3 == 0, "transfer", "evaluation"),
        difference=-a / 2,
        stars_change=np.arange(count) % 4 == 0,
        steerable_change=False,
    )


def words(figure: Figure) -> str:
    return "\n".join(axes.get_title(loc="left") for axes in figure.axes)


def test_every_figure_is_written_in_three_formats(tmp_path: Path) -> None:
    judged = rows(60)
    table = agreement_table(judged)
    written = write_agreement_figures(tmp_path, judged, table, deltas(), JUDGES)
    assert sorted(path.name for path in written) == sorted(
        f"{name}.{form}" for name in ("agreement", "deltas") for form in ("png", "svg", "pdf")
    )
    assert all(path.stat().st_size > 5000 for path in written)
    alone = write_agreement_figures(tmp_path / "alone", judged, table, None, JUDGES)
    assert {path.stem for path in alone} == {"agreement"}


def test_a_panel_a_condition_says_what_the_table_says() -> None:
    judged = rows(60, ("steered", "baseline", "pos"))
    figure = agreement_figure(judged, agreement_table(judged), JUDGES)
    assert len(figure.axes) == 6
    told = words(figure).split("\n")
    assert told[0] == "baseline"  # in the usual order
    assert told[4] == "told to show the trait"
    bias = (judged["trait_score_b"] - judged["trait_score_a"])[judged["condition"] == "baseline"].mean()
    assert told[1] == f"n 20, r 1.00, B − A {bias:+.1f}"
    assert told[6].startswith("n 20, r undefined")  # B gives every row the same coherence
    lines = {tuple(line.get_xdata()) for line in figure.axes[0].lines if len(line.get_xdata()) == 2}
    assert (0, 100) in lines
    assert (50, 50) in lines


@pytest.mark.parametrize(("count", "density"), [(60, False), (3 * FEW + 30, True)])
def test_many_responses_are_drawn_as_a_density(count: int, density: bool) -> None:
    judged = rows(count)
    figure = agreement_figure(judged, agreement_table(judged, draws=20), JUDGES)
    assert any(isinstance(one, PolyCollection) for one in figure.axes[0].collections) == density


def test_scores_that_are_all_missing_leave_a_panel_that_says_so() -> None:
    judged = rows(60).assign(trait_score_b=np.nan)
    figure = agreement_figure(judged, agreement_table(judged), JUDGES)
    assert "none scored by both" in words(figure)


def test_deltas_have_a_panel_a_trait_and_none_without_any() -> None:
    figure = deltas_figure(deltas(), JUDGES)
    assert figure is not None
    assert words(figure).split("\n") == ["evil", "kind"]
    drawn = sum(len(line.get_xdata()) for axes in figure.axes for line in axes.lines if line.get_marker() in "o^")
    assert drawn == 12
    assert deltas_figure(deltas().assign(difference=np.nan), JUDGES) is None
    five = deltas_figure(deltas(20, ("a", "b", "c", "d", "e")), JUDGES)
    assert five is not None
    assert sum(axes.axison for axes in five.axes) == 5
