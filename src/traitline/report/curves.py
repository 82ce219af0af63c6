"""Figures of effects along training: small multiples, one panel a trait and strategy.

Knows how a panel is drawn with matplotlib: the delta with its interval, controls, stars and onset, and below it coherence.
Leaves what is in a panel to `panels.py`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from traitline.report.panels import LABELS, Panel, onset_span, onset_text, stars
from traitline.report.style import BAND, GREY, INK, ONSET, colour, draw_training_axis
from traitline.report.tables import Run, numbers, unique

MOST_COLUMNS = 5
LEFT, TOP, BOTTOM = 0.85, 0.95, 1.45  # margins in inches


def effect_figure(run: Run, panels: Sequence[Panel], title: str) -> Figure:
    """Draw the main dose of every panel."""
    traits, strategies = unique(panel.trait for panel in panels), unique(panel.strategy for panel in panels)
    turned = len(traits) > MOST_COLUMNS
    across, down = (strategies, traits) if turned else (traits, strategies)
    width, height = LEFT + 2.7 * max(len(across), 2), TOP + BOTTOM + 2.7 * len(down)
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(left=LEFT / width, right=0.99, top=1 - TOP / height, bottom=BOTTOM / height)
    grid = figure.add_gridspec(len(down), len(across), hspace=0.26, wspace=0.1)
    limits = _limits(panels)
    for panel in panels:
        row, column = down.index(panel.strategy), across.index(panel.trait) if not turned else 0
        if turned:
            row, column = down.index(panel.trait), across.index(panel.strategy)
        cell = grid[row, column].subgridspec(2, 1, height_ratios=(3.2, 1), hspace=0.1)
        above, below = figure.add_subplot(cell[0]), figure.add_subplot(cell[1])
        draw_delta(above, run, panel)
        draw_coherence(below, run, panel)
        above.set_ylim(*limits)
        first, last = column == 0, row == len(down) - 1
        _name_axes(run, above, below, panel, first=first)
        for axes, labelled in ((above, False), (below, last)):
            draw_training_axis(axes, run.axis, labelled=labelled)
        if row == 0:
            heading = panel.label if turned else panel.trait
            above.annotate(heading, (0.5, 1.0), (0, 20), xycoords="axes fraction", textcoords="offset points",
                           ha="center", fontsize=11, fontweight="bold")  # fmt: skip
    figure.text(0.006, 1 - 0.1 / height, title, ha="left", va="top", fontsize=13, fontweight="bold")
    figure.text(0.5, (BOTTOM - 0.48) / height, run.axis.title, ha="center", va="center")
    _key(figure, panels)
    return figure


def draw_delta(axes: Axes, run: Run, panel: Panel) -> None:
    """Draw steered minus baseline with its interval, the range of the controls, stars, missing vectors and the onset."""
    shade, tint = colour(panel.strategy), panel.main
    axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
    span = onset_span(run, panel.verdict)
    if span is not None:
        margin = 0.01 * (run.axis.limits[1] - run.axis.limits[0]) if span[0] == span[1] else 0.0
        axes.axvspan(span[0] - margin, span[1] + margin, color=ONSET, alpha=0.35, linewidth=0, zorder=0)
    if tint is None:
        return
    band = panel.controls[tint]
    if len(band):
        axes.fill_between(band["x"], band["low"], band["high"], color=BAND, alpha=0.8, linewidth=0, zorder=1)
        axes.vlines(band["x"], band["low"], band["high"], color=BAND, linewidth=3, zorder=1)
    curve = panel.curves[tint]
    drawn = curve.dropna(subset=["delta_trait"])
    low, high = numbers(drawn, "ci_low"), numbers(drawn, "ci_high")
    axes.vlines(drawn["x"], low, high, color=shade, linewidth=1.3, zorder=3)
    axes.plot(drawn["x"], drawn["delta_trait"], color=shade, linewidth=1.6, zorder=3)
    fragile = _fragile(drawn)
    for part, face in ((drawn[~fragile], shade), (drawn[fragile], "white")):
        axes.plot(part["x"], part["delta_trait"], "o", color=shade, markerfacecolor=face, markersize=4.5, zorder=4)
    for x, top, p in zip(drawn["x"], high.fillna(drawn["delta_trait"]), numbers(drawn, "p_adjusted"), strict=True):
        axes.annotate(stars(p), (x, top), (0, 3), textcoords="offset points", ha="center", va="center_baseline",
                      fontsize=8, rotation=90 if len(stars(p)) > 1 else 0, annotation_clip=False)  # fmt: skip
    missing = curve[curve["status"] == "no_vector"]
    axes.plot(missing["x"], [0] * len(missing), "x", color=GREY, markersize=5, markeredgewidth=1.3, zorder=4)


def draw_coherence(axes: Axes, run: Run, panel: Panel) -> None:
    """Draw the coherence of steered and baseline responses on its own scale, 0 to 100."""
    axes.set_ylim(0, 105)
    axes.set_yticks([0, 50, 100])
    axes.grid(axis="y", color=BAND, linewidth=0.5)
    axes.set_axisbelow(True)
    if panel.main is not None:
        curve = panel.curves[panel.main]
        for column, line in (("baseline_coherence", ":"), ("steered_coherence", "-")):
            drawn = curve.assign(value=numbers(curve, column)).dropna(subset=["value"])
            shade = GREY if line == ":" else colour(panel.strategy)
            axes.plot(drawn["x"], drawn["value"], line, color=shade, linewidth=1.1)


def counts_text(panels: Sequence[Panel]) -> str:
    """Say over how many questions, rows and controls the points of these panels are."""
    curves = [panel.curves[panel.main] for panel in panels if panel.main is not None]
    bands = [panel.controls[panel.main] for panel in panels if panel.main is not None]
    parts = []
    for column, what in (("n_questions", "questions"), ("n_rows_steered", "steered"), ("n_rows_baseline", "baseline rows")):
        found = _range(pd.concat([numbers(curve[curve["status"] == "complete"], column) for curve in curves]))
        parts += [f"{found} {what}"] if found else []
    drawn = _range(pd.concat([numbers(band, "n") for band in bands]))
    text = f"n = {', '.join(parts)} a point" if parts else "no points yet"
    return f"{text}; {drawn} control vectors a checkpoint" if drawn else f"{text}; no controls"


def doses_text(panels: Sequence[Panel]) -> str:
    """Name the doses shown."""
    doses = unique(panel.main.label for panel in panels if panel.main is not None)
    if len(doses) <= 3:
        return "; ".join(doses)
    return "; ".join(
        f"{panel.trait}/{LABELS.get(panel.strategy, panel.strategy)}: {panel.main.label}" for panel in panels if panel.main
    )


def _range(values: pd.Series) -> str:
    """Word the range of some counts; empty where there are none."""
    found = values.dropna()
    if found.empty:
        return ""
    low, high = int(found.min()), int(found.max())
    return f"{low}" if low == high else f"{low} to {high}"


def _fragile(rows: pd.DataFrame) -> pd.Series:
    return rows["fragile"].astype(bool) if "fragile" in rows.columns else pd.Series(False, index=rows.index)


def _limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """Return one scale for all panels, with room for the stars."""
    values = [0.0]
    for panel in panels:
        if panel.main is not None:
            curve, band = panel.curves[panel.main], panel.controls[panel.main]
            for series in (
                numbers(curve, "ci_low"),
                numbers(curve, "ci_high"),
                curve["delta_trait"],
                band["low"],
                band["high"],
            ):
                values += [float(value) for value in series.dropna()]
    low, high = min(values), max(values)
    margin = max(0.08 * (high - low), 1.0)
    return low - margin, high + 1.8 * margin


def _name_axes(run: Run, above: Axes, below: Axes, panel: Panel, *, first: bool) -> None:
    above.spines["bottom"].set_visible(False)
    above.tick_params(axis="x", length=0)
    words: dict[str, Any] = {"transform": above.transAxes, "va": "bottom", "fontsize": 8.5}
    above.text(0.0, 1.015, panel.label, ha="left", color=colour(panel.strategy), fontweight="bold", **words)
    above.text(1.0, 1.015, onset_text(run, panel.verdict), ha="right", **words)
    if first:
        above.set_ylabel("trait score, steered\nminus baseline")
        below.set_ylabel("coherence", fontsize=8)
    else:
        for axes in (above, below):
            axes.tick_params(axis="y", labelleft=False)


def _key(figure: Figure, panels: Sequence[Panel]) -> None:
    """Explain the marks, and say how many rows stand behind a point."""
    ink: dict[str, Any] = {"color": INK, "linewidth": 1.4, "markersize": 5}
    marks = [
        Line2D([], [], marker="o", **ink, label="delta, 95 % interval"),
        Line2D([], [], marker="o", markerfacecolor="white", **ink, label="fragile vector (few pairs)"),
        Line2D([], [], marker="x", color=GREY, linestyle="none", markersize=5, label="no vector"),
        Patch(color=BAND, label="range of control vectors"),
        Patch(color=ONSET, alpha=0.5, label="onset interval"),
        Line2D([], [], color=GREY, linestyle=":", label="coherence, baseline"),
    ]
    height, width = figure.get_figheight(), figure.get_figwidth()
    columns = 6 if width > 9 else 3
    figure.legend(handles=marks, loc="upper center", bbox_to_anchor=(0.5, (BOTTOM - 0.55) / height), ncols=columns,
                  columnspacing=1.4, handlelength=1.6)  # fmt: skip
    below = 0.86 if columns == 6 else 1.06
    caption = (
        f"Dose: {doses_text(panels)}. {counts_text(panels)}. Stars: Holm-adjusted p\u00a0<\u00a0.05,\u00a0.01,\u00a0.001. "
        "Points average over questions."
    )
    wrapped = textwrap.fill(caption, int(width * 14.5))
    figure.text(0.5, (BOTTOM - below) / height, wrapped, ha="center", va="top", fontsize=8, color="#57606a")
