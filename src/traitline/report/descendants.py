"""Figure of the descendants' vectors: what each does to every network, beside what the last checkpoint's own does there.

Knows how the tables `reverse` and `transfer` are cut into one panel a trait and strategy.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from traitline.report.panels import LABELS, Dose, by_dose, dosed
from traitline.report.style import BAND, FACETS, GREY, INK, colour, foot
from traitline.report.tables import Run, numbers, unique

MARKERS = "osD^v"
REFERENCE = ("#4b5563", "P")  # of the last checkpoint's own vector
SPREAD = 0.17  # between the dots of one network
WIDTH, HEIGHT = 3.3, 2.4  # inches of a panel


@dataclass(frozen=True)
class SourcePanel:
    """The effects of one trait and strategy at one dose, by where the vector is from and which network it steers.

    Attributes:
        trait: its name.
        strategy: its name.
        dose: where and how strongly.
        targets: the networks steered, in order.
        sources: whose vector -> one row per target, in order, empty ones where nothing was planned.
        reference: the source that is the last checkpoint; empty where its own effects are not known.
    """

    trait: str
    strategy: str
    dose: Dose
    targets: list[str]
    sources: dict[str, pd.DataFrame]
    reference: str


def source_panels(run: Run) -> list[SourcePanel]:
    """Cut the effects of the descendants' vectors, in the order of traits and strategies, the largest dose first."""
    if "sources" not in run.remembered:
        run.remembered["sources"] = tuple(_source_panels(run))
    return list(run.remembered["sources"])


def _source_panels(run: Run) -> list[SourcePanel]:
    table = dosed(run.tables["reverse"])
    table = table[table["coef"] > 0] if (table["coef"] > 0).any() else table
    moved = dosed(run.tables["transfer"])
    targets = [str(name) for name in unique(table["target"])]
    known = [name for name in run.axis.checkpoints if name not in set(table["vector_checkpoint"])]
    last = known[-1] if known else ""
    found = []
    for trait in run.traits:
        for strategy in run.strategies:
            rows = table[(table["trait"] == trait) & (table["strategy"] == strategy)]
            own = moved[(moved["trait"] == trait) & (moved["strategy"] == strategy) & (moved["vector_checkpoint"] == last)]
            theirs = dict(by_dose(own))
            for dose, part in sorted(by_dose(rows), key=lambda one: (one[0].layer != run.layer, -abs(one[0].coef))):
                sources = {str(name): _row(lines, targets) for name, lines in part.groupby("vector_checkpoint", sort=False)}
                beside = _row(theirs[dose], targets) if dose in theirs else None
                reference = last if beside is not None and numbers(beside, "delta_trait").notna().any() else ""
                if beside is not None and reference:
                    sources = {last: beside} | sources
                found.append(SourcePanel(trait, strategy, dose, targets, sources, reference))
    return found


def main_panels(run: Run) -> list[SourcePanel]:
    """Return the first panel of every trait and strategy: the main layer, the largest dose."""
    firsts: dict[tuple[str, str], SourcePanel] = {}
    for panel in source_panels(run):
        firsts.setdefault((panel.trait, panel.strategy), panel)
    return list(firsts.values())


def shades(panels: list[SourcePanel]) -> dict[str, tuple[str, str]]:
    """Return source -> colour and marker, the same in every panel."""
    names = unique(name for panel in panels for name in panel.sources)
    references = {panel.reference for panel in panels}
    others = [name for name in names if name not in references]
    return {
        name: REFERENCE
        if name in references
        else (FACETS[others.index(name) % (len(FACETS) - 1)], MARKERS[others.index(name) % 5])
        for name in names
    }


def descendants(run: Run) -> Figure | None:
    """Draw the first panel of every trait and strategy: traits across, strategies down."""
    cut = [panel for panel in main_panels(run) if any(numbers(r, "delta_trait").notna().any() for r in panel.sources.values())]
    if not cut:
        return None
    traits, rows = unique(panel.trait for panel in cut), unique(panel.strategy for panel in cut)
    figure = Figure(figsize=(1.0 + WIDTH * max(len(traits), 2), 1.5 + HEIGHT * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(traits), squeeze=False, sharey=True)
    for axes in grid.ravel():
        axes.set_visible(False)
    looks = shades(cut)
    for panel in cut:
        row, column = rows.index(panel.strategy), traits.index(panel.trait)
        axes = grid[row][column]
        axes.set_visible(True)
        _draw(axes, panel, looks)
        axes.set_title(f"{panel.trait}, {LABELS.get(panel.strategy, panel.strategy)}", fontsize=9.5, fontweight="bold",
                       color=colour(panel.strategy, run.strategies))  # fmt: skip
        if column == 0:
            axes.set_ylabel("trait score, steered\nminus baseline")
    marks = [
        Line2D([], [], color=shade, marker=marker, linestyle="none", markersize=5, label=f"vector of {name}")
        for name, (shade, marker) in looks.items()
    ]
    if any((rows["status"] == "no_vector").any() for panel in cut for rows in panel.sources.values()):
        marks.append(Line2D([], [], color=GREY, marker="x", linestyle="none", markersize=5, label="no vector"))
    figure.suptitle(f"Descendants' vectors on every network: {run.title}", fontsize=12, fontweight="bold", ha="left", x=0.01)
    said = f"Across: the network steered. {'; '.join(unique(panel.dose.label for panel in cut))}. 95 % intervals; * steerable."
    foot(figure, textwrap.fill(said, int(figure.get_figwidth() * 13)), marks)
    return figure


def _row(rows: pd.DataFrame, targets: list[str]) -> pd.DataFrame:
    return rows.drop_duplicates("target").set_index("target").reindex(targets).reset_index()


def _draw(axes: Axes, panel: SourcePanel, looks: dict[str, tuple[str, str]]) -> None:
    axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
    step = min(SPREAD, 0.8 / max(1, len(panel.sources)))
    for i, (source, rows) in enumerate(panel.sources.items()):
        shade, marker = looks[source]
        x = np.arange(len(panel.targets)) + step * (i - (len(panel.sources) - 1) / 2)
        axes.vlines(x, numbers(rows, "ci_low"), numbers(rows, "ci_high"), color=shade, linewidth=1.3, zorder=2)
        axes.plot(x, numbers(rows, "delta_trait"), marker, color=shade, markersize=4.5, zorder=3)
        missing = (rows["status"] == "no_vector").to_numpy()
        axes.plot(x[missing], np.zeros(missing.sum()), "x", color=GREY, markersize=4, zorder=3)
        met = rows["steerable"].eq(True).to_numpy() if "steerable" in rows.columns else np.zeros(len(rows), dtype=bool)
        for place, top in zip(x[met], numbers(rows, "ci_high").fillna(numbers(rows, "delta_trait"))[met], strict=True):
            axes.annotate("*", (place, top), (0, -1), textcoords="offset points", ha="center", va="bottom", fontsize=9)
    axes.set_xticks(range(len(panel.targets)), panel.targets, rotation=20 if max(map(len, panel.targets)) > 9 else 0)
    axes.set_xlim(-0.55, len(panel.targets) - 0.45)
    axes.grid(axis="y", color=BAND, linewidth=0.4)
    axes.set_axisbelow(True)
