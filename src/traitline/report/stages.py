"""Figure of the stages of post-training: what each did to a trait before any steering.

Knows how the stages table is cut: per trait its level, refusals and the projection, with a line per strategy's questions.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from traitline.report.panels import LABELS
from traitline.report.style import BAND, GREY, INK, colour, foot
from traitline.report.tables import Run, numbers, unique

WIDTH, HEIGHT = 2.9, 2.0  # inches of a panel
SPREAD = 0.07  # between the lines of one stage, so that intervals stand side by side


@dataclass(frozen=True)
class StagePanel:
    """One trait through the stages.

    Attributes:
        trait: its name.
        stages: the last checkpoint and its descendants, in order.
        lines: strategy -> one row per stage, in order, empty ones where a stage was not measured.
    """

    trait: str
    stages: list[str]
    lines: dict[str, pd.DataFrame]

    def has(self, column: str) -> bool:
        """Whether any stage has a number there."""
        return any(numbers(rows, column).notna().any() for rows in self.lines.values())


def stage_panels(run: Run) -> list[StagePanel]:
    """Cut the stages table into one panel a trait, with projections at the main layer."""
    table = stage_rows(run)
    order = [str(name) for name in unique(table["stage"])]
    found = []
    for trait in run.traits:
        own = table[table["trait"] == trait]
        lines = {
            name: own[own["strategy"] == name].drop_duplicates("stage").set_index("stage").reindex(order).reset_index()
            for name in _strategies(run, own)
        }
        if lines:
            found.append(StagePanel(trait, order, lines))
    return found


def stage_rows(run: Run) -> pd.DataFrame:
    """Return the stages table at one layer of the projections: the run's main one, else the first projected on."""
    table = run.tables["stages"]
    layers = numbers(table, "projection_layer")
    if layers.isna().all():
        return table
    return table[layers == (run.layer if (layers == run.layer).any() else layers.dropna().iloc[0])]


def stages(run: Run) -> Figure | None:
    """Draw level, refusals and projection of every trait through the stages."""
    cut = stage_panels(run)
    if not cut:
        return None
    told = any(panel.has("told_refusal_rate") for panel in cut)
    drawn = [("trait score,\nno steering", "baseline_trait"), ("refusals, %", "refusal_rate"), ("projection", "projection")]
    drawn = [row for row in drawn if any(panel.has(row[1]) for panel in cut)]
    figure = Figure(figsize=(1.0 + WIDTH * max(len(cut), 2), 1.6 + HEIGHT * len(drawn)), layout="constrained")
    grid = figure.subplots(len(drawn), len(cut), squeeze=False, sharey="row", sharex=True)
    for line, (label, column) in zip(grid, drawn, strict=True):
        for axes, panel in zip(line, cut, strict=True):
            _draw(axes, run, panel, column)
        line[0].set_ylabel(label)
    for axes, panel in zip(grid[0], cut, strict=True):
        axes.set_title(panel.trait, fontweight="bold")
        axes.set_ylim(0, 100)
    names = unique(name for panel in cut for name in panel.lines)
    marks = [
        Line2D([], [], color=colour(name, run.strategies), marker="o", markersize=4, label=LABELS.get(name, name))
        for name in names
    ]
    if told:
        marks += [
            Line2D([], [], color=INK, marker="o", markersize=4, label="refusals: told to show the trait"),
            Line2D([], [], color=INK, linestyle=":", label="refusals: not told"),
        ]
    figure.suptitle(f"What post-training did before any steering: {run.title}", fontsize=12, fontweight="bold", ha="left",
                    x=0.01)  # fmt: skip
    said = "95 % intervals over questions. Projection: along the last checkpoint's vector, as a share of the activation norm."
    foot(figure, textwrap.fill(said, int(figure.get_figwidth() * 13)), marks)
    return figure


def _strategies(run: Run, rows: pd.DataFrame) -> list[str]:
    found = [str(name) for name in unique(rows["strategy"])]
    return [name for name in run.strategies if name in found] + [name for name in found if name not in run.strategies]


def _draw(axes: Axes, run: Run, panel: StagePanel, column: str) -> None:
    scale = 100 if column == "refusal_rate" else 1
    for i, (strategy, rows) in enumerate(panel.lines.items()):
        x = np.arange(len(panel.stages)) + SPREAD * (i - (len(panel.lines) - 1) / 2)
        shade = colour(strategy, run.strategies)
        if column == "refusal_rate":
            axes.plot(x, scale * numbers(rows, column), ":", color=shade, linewidth=1.3)
            axes.plot(x, scale * numbers(rows, "told_refusal_rate"), "o-", color=shade, linewidth=1.5, markersize=3.5)
            continue
        if column == "baseline_trait":
            axes.vlines(x, numbers(rows, "ci_low"), numbers(rows, "ci_high"), color=shade, linewidth=1.2)
        axes.plot(x, numbers(rows, column), "o-", color=shade, linewidth=1.5, markersize=3.5)
    if column == "projection":
        axes.axhline(0, color=GREY, linewidth=0.7, zorder=0)
    if column == "refusal_rate":
        axes.set_ylim(-3, 103)
    axes.grid(axis="y", color=BAND, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_xticks(range(len(panel.stages)), panel.stages, rotation=20 if max(map(len, panel.stages)) > 9 else 0)
    axes.set_xlim(-0.4, len(panel.stages) - 0.6)
