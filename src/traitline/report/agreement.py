"""Figures of two judges side by side: their scores by condition, and the deltas that follow from each.

Knows how they are drawn. Leaves every number to `analysis/agreement.py` and `analysis/conclusions.py`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from traitline.analysis.agreement import ALL, SCORES
from traitline.analysis.conclusions import TRANSFER
from traitline.report.style import BAND, GREY, INK, OTHERS, SEQUENTIAL, foot, save, style

NAMES = {"trait_score": "trait score", "coherence": "coherence"}
ORDER = ("all", "baseline", "steered", "pos", "neg", "random", "shuffled", "bootstrap")
TITLES = {"pos": "told to show the trait", "neg": "told not to", "all": "all rows"}
FEW = 400
"""Up to so many responses are drawn as points, more as a density."""
ACROSS = 4
PANEL = 2.35  # inches
SAME, CHANGED = OTHERS[0], OTHERS[1]


def write_agreement_figures(
    folder: Path, rows: pd.DataFrame, agreement: pd.DataFrame, deltas: pd.DataFrame | None, judges: tuple[str, str]
) -> list[Path]:
    """Write `agreement` and, where there are deltas, `deltas`, each as png, svg and pdf.

    Args:
        folder: where.
        rows: responses with both judges' scores and their `condition`.
        agreement: the table of `agreement_table`.
        deltas: those of `Conclusions`, or None.
        judges: names of A and B.

    Returns:
        The files written.

    Raises:
        StoreError: one cannot be written.
    """
    with style():
        written = save(agreement_figure(rows, agreement, judges), folder, "agreement")
        drawn = None if deltas is None else deltas_figure(deltas, judges)
        return written + (save(drawn, folder, "deltas") if drawn is not None else [])


def agreement_figure(rows: pd.DataFrame, agreement: pd.DataFrame, judges: tuple[str, str]) -> Figure:
    """Draw A's scores against B's: a row for the trait score and one for coherence, a column for each condition."""
    conditions = _conditions(rows)
    figure = Figure(figsize=(0.6 + PANEL * max(2, len(conditions)), 1.2 + PANEL * len(SCORES)), layout="constrained")
    grid = figure.subplots(len(SCORES), len(conditions), squeeze=False, sharex=True, sharey=True)
    figure.get_layout_engine().set(h_pad=0.12)  # type: ignore[union-attr, call-arg]
    for i, score in enumerate(SCORES):
        for j, condition in enumerate(conditions):
            axes = grid[i, j]
            part = rows[rows["condition"].eq(condition)]
            _draw_scores(axes, part[f"{score}_a"].to_numpy(float), part[f"{score}_b"].to_numpy(float))
            told = _told(agreement, score, condition)
            title = TITLES.get(condition, condition)
            axes.set_title(f"{title}\n{told}" if i == 0 else told, fontsize=8.5, loc="left")
            if j == 0:
                axes.set_ylabel(f"B, {NAMES[score]}")
            if i == len(SCORES) - 1:
                axes.set_xlabel("A")
    figure.suptitle(f"A: {judges[0]}\nB: {judges[1]}", x=0.01, ha="left", fontsize=10, fontweight="bold")
    marks = [
        Line2D([], [], color=INK, linewidth=0.9, label="equal scores"),
        Line2D(
            [],
            [],
            color=CHANGED,
            linewidth=0.9,
            linestyle="--",
            label="50, from which a trait counts as shown and an answer as coherent",
        ),
    ]
    foot(
        figure,
        "Each point is a response; where there are many, their density is shown on a logarithmic scale, dark for few",
        marks,
    )
    return figure


def deltas_figure(deltas: pd.DataFrame, judges: tuple[str, str]) -> Figure | None:
    """Draw the deltas under A against those under B, one panel a trait; None where there is none under both."""
    known = deltas[deltas["difference"].notna()]
    if known.empty:
        return None
    traits = list(pd.unique(known["trait"]))
    across = min(len(traits), ACROSS)
    down = math.ceil(len(traits) / across)
    figure = Figure(figsize=(0.6 + 2.9 * max(2, across), 1.5 + 2.9 * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for place, trait in enumerate(traits):
        axes = grid[divmod(place, across)]
        _draw_deltas(axes, known[known["trait"].eq(trait)])
        axes.set_title(str(trait), fontweight="bold", loc="left")
        if place % across == 0:
            axes.set_ylabel("delta under B")
        axes.set_xlabel("delta under A")
    for place in range(len(traits), across * down):
        grid[divmod(place, across)].set_axis_off()
    figure.suptitle(f"A: {judges[0]}\nB: {judges[1]}", x=0.01, ha="left", fontsize=10, fontweight="bold")
    point: dict[str, Any] = {"linestyle": "none", "markersize": 5}
    marks = [
        Line2D([], [], marker="o", color=SAME, **point, label="emergence"),
        Line2D([], [], marker="^", color=SAME, **point, label="transfer"),
        Line2D([], [], marker="s", color=CHANGED, **point, label="stars or steerable change"),
    ]
    foot(figure, "Steered minus baseline, in points, with 95 % intervals over questions", marks)
    return figure


def _conditions(rows: pd.DataFrame) -> list[str]:
    there = [str(name) for name in pd.unique(rows["condition"])]
    return sorted(there, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def _draw_scores(axes: Axes, a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> None:
    both = np.isfinite(a) & np.isfinite(b)
    axes.set(xlim=(-3, 103), ylim=(-3, 103), xticks=(0, 50, 100), yticks=(0, 50, 100), aspect="equal")
    if both.sum() > FEW:
        axes.hexbin(a[both], b[both], gridsize=24, extent=(0, 100, 0, 100), norm=LogNorm(), cmap=SEQUENTIAL, linewidths=0.1)
    else:
        axes.plot(a[both], b[both], ".", color=SAME, alpha=0.5, markersize=4, markeredgewidth=0)
    axes.plot((0, 100), (0, 100), color=INK, linewidth=0.9)
    for draw in (axes.axvline, axes.axhline):
        draw(50, color=CHANGED, linewidth=0.9, linestyle="--")


def _told(agreement: pd.DataFrame, score: str, condition: str) -> str:
    """Return the figures of one panel in words, over all traits."""
    own = agreement[agreement["score"].eq(score)]
    traits = [name for name in pd.unique(own["trait"]) if name != ALL]
    conditions = [name for name in pd.unique(own["condition"]) if name != ALL]
    trait = ALL if len(traits) > 1 else traits[0]
    found = own[own["trait"].eq(trait) & own["condition"].eq(condition if len(conditions) > 1 else ALL)]
    if found.empty:
        return ""
    row = found.iloc[0]
    if not row["n"]:
        return "none scored by both"
    r = "r undefined" if pd.isna(row["pearson"]) else f"r {row['pearson']:.2f}"
    return f"n {int(row['n']):,}, {r}, B − A {row['bias']:+.1f}".replace("-", "−")


def _draw_deltas(axes: Axes, deltas: pd.DataFrame) -> None:
    changed = (deltas["stars_change"] | deltas["steerable_change"]).to_numpy(dtype=bool)
    moved = deltas["table"].eq(TRANSFER).to_numpy()
    faint = min(0.9, max(0.2, 25 / len(deltas)))
    for change, shade in ((False, SAME), (True, CHANGED)):
        for transfer, marker in ((False, "o"), (True, "^")):
            part = deltas[(changed == change) & (moved == transfer)]
            x, y = (part[f"delta_trait_{name}"].to_numpy(float) for name in "ab")
            bars: dict[str, Any] = {"color": shade, "linewidth": 0.8, "alpha": 0.6 * faint}
            axes.hlines(y, part["ci_low_a"].to_numpy(float), part["ci_high_a"].to_numpy(float), **bars)
            axes.vlines(x, part["ci_low_b"].to_numpy(float), part["ci_high_b"].to_numpy(float), **bars)
            axes.plot(x, y, marker, color=shade, markersize=4, markeredgewidth=0, alpha=max(0.5, faint), zorder=3)
    ends = deltas[[f"{name}_{judge}" for name in ("delta_trait", "ci_low", "ci_high") for judge in "ab"]].to_numpy(float)
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    margin = max(1.0, 0.05 * (high - low))
    limits = (min(low, 0) - margin, max(high, 0) + margin)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.plot(limits, limits, color=INK, linewidth=0.8, zorder=1)
    for draw in (axes.axvline, axes.axhline):
        draw(0, color=GREY, linewidth=0.7, zorder=0)
    axes.grid(color=BAND, linewidth=0.4)
    axes.set_axisbelow(True)
