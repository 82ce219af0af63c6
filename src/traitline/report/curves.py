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
from traitline.report.style import BAND, GREY, INK, ONSET, colour, draw_training_axis, names_height
from traitline.report.tables import Run, numbers, unique

MOST_COLUMNS = 5
MOST_LETTERS = 33  # above a panel: the strategy and its onset
FILLED = 0.6  # of a grid; below this share it is packed
LEFT, TOP, BOTTOM = 0.85, 0.95, 1.45  # margins in inches


def effect_figure(run: Run, panels: Sequence[Panel], title: str) -> Figure:
    """Draw the main dose of every panel."""
    places, across, down, headings = _grid(panels)
    bottom = BOTTOM + names_height(run.axis)
    width, height = LEFT + 2.7 * max(across, 2), TOP + bottom + 2.7 * down
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(left=LEFT / width, right=0.99, top=1 - TOP / height, bottom=bottom / height)
    packed = sum(map(bool, headings)) > across
    grid = figure.add_gridspec(down, across, hspace=0.42 if packed else 0.26, wspace=0.1)
    limits = _limits(panels)
    for panel, (row, column), heading in zip(panels, places, headings, strict=True):
        cell = grid[row, column].subgridspec(2, 1, height_ratios=(3.2, 1), hspace=0.1)
        above, below = figure.add_subplot(cell[0]), figure.add_subplot(cell[1])
        above.set_xlim(*run.axis.limits)
        above.set_ylim(*limits)
        draw_delta(above, run, panel)
        draw_coherence(below, run, panel)
        _name_axes(run, above, below, panel, first=column == 0)
        lowest = not any(place == (row + 1, column) for place in places)
        for axes, labelled in ((above, False), (below, lowest)):
            draw_training_axis(axes, run.axis, labelled=labelled)
        if heading:
            above.annotate(heading, (0.5, 1.0), (0, 20), xycoords="axes fraction", textcoords="offset points",
                           ha="center", fontsize=11, fontweight="bold")  # fmt: skip
    figure.text(0.006, 1 - 0.1 / height, title, ha="left", va="top", fontsize=13, fontweight="bold")
    figure.text(0.5, (BOTTOM - 0.52) / height, run.axis.title, ha="center", va="center")
    _key(figure, panels)
    return figure


def _grid(panels: Sequence[Panel]) -> tuple[list[tuple[int, int]], int, int, list[str]]:
    """Lay panels out: traits across and strategies down, turned where there are many traits, packed where most are missing.

    Returns:
        (row, column) of each panel, columns, rows, and what stands above each panel.
    """
    traits, strategies = unique(panel.trait for panel in panels), unique(panel.strategy for panel in panels)
    if len(panels) <= FILLED * len(traits) * len(strategies):
        across = min(len(panels), MOST_COLUMNS - 1)
        places = [divmod(i, across) for i in range(len(panels))]
        return places, across, places[-1][0] + 1, [panel.trait for panel in panels]
    if len(traits) > MOST_COLUMNS:
        places = [(traits.index(panel.trait), strategies.index(panel.strategy)) for panel in panels]
        headings = [panel.label if not row else "" for panel, (row, _) in zip(panels, places, strict=True)]
        return places, len(strategies), len(traits), headings
    places = [(strategies.index(panel.strategy), traits.index(panel.trait)) for panel in panels]
    top = {column: min(row for row, other in places if other == column) for _, column in places}
    headings = [panel.trait if row == top[column] else "" for panel, (row, column) in zip(panels, places, strict=True)]
    return places, len(traits), len(strategies), headings


def draw_delta(axes: Axes, run: Run, panel: Panel) -> None:
    """Draw steered minus baseline with its interval, the range of the controls, stars, missing vectors and the onset."""
    shade, tint = colour(panel.strategy, run.strategies), panel.main
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
    _draw_stars(axes, drawn["x"], high.fillna(drawn["delta_trait"]), [stars(p) for p in numbers(drawn, "p_adjusted")])
    missing = curve[curve["status"] == "no_vector"]
    axes.plot(missing["x"], [0] * len(missing), "x", color=GREY, markersize=5, markeredgewidth=1.3, zorder=4)


def _draw_stars(axes: Axes, x: pd.Series, tops: pd.Series, marks: Sequence[str]) -> None:
    """Write the stars upright above their points, each above those that would touch it."""
    points = 72 / axes.figure.dpi
    ends = axes.transAxes.transform((0, 1))[1] * points
    placed: list[tuple[float, float, float]] = []  # place, bottom, top in points
    for at, top, mark in zip(x, tops, marks, strict=True):
        if not mark:
            continue
        left, bottom = (float(value) * points for value in axes.transData.transform((at, top)))
        tall = 4.6 * len(mark) + 1
        first = bottom = bottom + 1
        for other, low, high in sorted(placed, key=lambda box: box[1]):
            if abs(other - left) < 5 and low < bottom + tall and bottom < high:
                bottom = high
        placed.append((left, bottom, bottom + tall))
        lift = min(bottom, max(first, ends + 6 - tall)) - first + 1
        axes.annotate(mark, (at, top), (0, lift + tall / 2), textcoords="offset points", ha="center", va="center",
                      fontsize=8, rotation=90, annotation_clip=False)  # fmt: skip


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
            shade = GREY if line == ":" else colour(panel.strategy, run.strategies)
            marker = "." if len(drawn) == 1 else ""  # a lone checkpoint has no line
            axes.plot(drawn["x"], drawn["value"], line, color=shade, linewidth=1.1, marker=marker)


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
    return low - margin, high + 2.4 * margin


def _name_axes(run: Run, above: Axes, below: Axes, panel: Panel, *, first: bool) -> None:
    above.spines["bottom"].set_visible(False)
    above.tick_params(axis="x", length=0)
    onset = onset_text(run, panel.verdict)
    size = 8.5 * min(1.0, MOST_LETTERS / max(1, len(panel.label) + len(onset)))
    words: dict[str, Any] = {"transform": above.transAxes, "va": "bottom", "fontsize": size}
    above.text(0.0, 1.015, panel.label, ha="left", color=colour(panel.strategy, run.strategies), fontweight="bold", **words)
    above.text(1.0, 1.015, onset, ha="right", **words)
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
    figure.legend(handles=marks, loc="upper center", bbox_to_anchor=(0.5, (BOTTOM - 0.6) / height), ncols=columns,
                  columnspacing=1.4, handlelength=1.6)  # fmt: skip
    below = 0.9 if columns == 6 else 1.1
    caption = (
        f"Dose: {doses_text(panels)}. {counts_text(panels)}. Stars: Holm-adjusted p\u00a0<\u00a0.05,\u00a0.01,\u00a0.001. "
        "Points average over questions."
    )
    wrapped = textwrap.fill(caption, int(width * 14.5))
    figure.text(0.5, (BOTTOM - below) / height, wrapped, ha="center", va="top", fontsize=8, color="#57606a")
