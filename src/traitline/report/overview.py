"""Figures that put many comparisons side by side: every target at once, and each effect beside its controls.

Knows how transfer looks with one colour per target, and how a delta stands to the spread of its control vectors. Leaves one
target with all its marks to `curves.py`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from traitline.report.panels import LABELS, Panel, panels, stars, targets
from traitline.report.style import BAND, GREY, INK, colour, draw_training_axis, foot
from traitline.report.tables import Run, numbers, unique

TARGETS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4b5563")
MARKERS = "osD^v"
MOST_COLUMNS = 4


def transfer_overview(run: Run) -> Figure | None:
    """Draw what each checkpoint's vectors do on every target: a column per trait, a colour per target, coherence below."""
    names = targets(run)
    cut = {name: panels(run, "transfer", target=name) for name in names}
    found = unique((panel.trait, panel.strategy) for own in cut.values() for panel in own if panel.main is not None)
    if len(names) < 2 or not found:
        return None
    columns = min(len(found), MOST_COLUMNS)
    blocks = -(-len(found) // columns)
    figure = Figure(figsize=(1.0 + 2.9 * max(columns, 2), 1.3 + 3.7 * blocks), layout="constrained")
    grid = figure.subplots(2 * blocks, columns, squeeze=False, gridspec_kw={"height_ratios": (3, 1.2) * blocks})
    high, low = _span([panel for own in cut.values() for panel in own])
    doses = []
    for place in range(len(found), blocks * columns):
        for axes in grid[2 * (place // columns) : 2 * (place // columns) + 2, place % columns]:
            axes.set_visible(False)
    for place, (trait, strategy) in enumerate(found):
        block, column = divmod(place, columns)
        above, below = grid[2 * block : 2 * block + 2, column]
        above.axhline(0, color=INK, linewidth=0.8)
        for i, name in enumerate(names):
            own = [
                panel for panel in cut[name] if (panel.trait, panel.strategy) == (trait, strategy) and panel.main is not None
            ]
            for panel in own:
                _draw_target(above, below, panel, TARGETS[i % len(TARGETS)], MARKERS[i % len(MARKERS)])
                doses.append(f"{trait}: {panel.main.label}" if panel.main else "")
        above.set_title(trait, fontweight="bold", pad=16)
        above.text(0.5, 1.015, LABELS.get(strategy, strategy), transform=above.transAxes, ha="center", fontsize=8,
                   color=colour(strategy, run.strategies))  # fmt: skip
        below.set_ylim(0, 105)
        below.set_yticks([0, 50, 100])
        draw_training_axis(above, run.axis, labelled=False)
        draw_training_axis(below, run.axis)
        above.set_ylim(low, high)
        if column == 0:
            above.set_ylabel("trait score, steered\nminus baseline")
            below.set_ylabel("coherence")
        else:
            above.tick_params(axis="y", labelleft=False)
            below.tick_params(axis="y", labelleft=False)
    figure.suptitle("Each checkpoint's vectors on every target", fontsize=12, fontweight="bold", ha="left", x=0.01)
    caption = f"Dose: {'; '.join(unique(doses))}. Bars: 95 % intervals. Coherence: steered (solid), baseline (dotted)."
    marks = [
        Line2D([], [], color=TARGETS[i % len(TARGETS)], marker=MARKERS[i % len(MARKERS)], markersize=4, label=name)
        for i, name in enumerate(names)
    ]
    foot(figure, f"{run.axis.title}: where the vector is from\n{_filled(figure, caption)}", marks)
    return figure


def control_bars(run: Run) -> Figure | None:
    """Draw the delta of each checkpoint's own vector beside every control vector of the same dose."""
    found = []
    for panel in panels(run, "emergence"):
        if panel.main is not None:
            own = panel.curves[panel.main].dropna(subset=["delta_trait"])
            drawn = _controls(run, panel)
            own = own[own["x"].isin(drawn["x"])]
            if len(own):
                found.append((panel, own, drawn))
    if not found:
        return None
    columns = min(len(found), MOST_COLUMNS)
    rows = -(-len(found) // columns)
    widest = max(len(own) for _, own, _ in found)
    figure = Figure(figsize=(1.0 + max(2.6, 0.2 * widest + 0.6) * columns, 1.1 + 2.7 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for i, (axes, (panel, own, drawn)) in enumerate(zip(grid, found, strict=False)):
        _draw_bars(axes, run, panel, own, drawn)
        if i % columns == 0:
            axes.set_ylabel("trait score, steered\nminus baseline")
    for axes in grid[len(found) :]:
        axes.set_visible(False)
    figure.suptitle("Real vectors against control vectors", fontsize=12, fontweight="bold", ha="left", x=0.01)
    kinds = unique(kind for *_, drawn in found for kind in drawn["kind"])
    marks = [Patch(color=GREY, alpha=0.6, label="real vector, 95 % interval")]
    dots = [
        Line2D(
            [],
            [],
            marker=MARKERS[i % len(MARKERS)],
            color=INK,
            markerfacecolor="white",
            linestyle="none",
            markersize=4,
            label=kind,
        )
        for i, kind in enumerate(kinds)
    ]
    caption = f"Dose: {'; '.join(unique(f'{panel.trait}: {panel.main.label}' for panel, *_ in found if panel.main))}."
    foot(figure, _filled(figure, caption), [*marks, *dots])
    return figure


def _span(panels: Sequence[Panel]) -> tuple[float, float]:
    """Return the upper and lower end of a scale that holds every delta with its interval."""
    values = [0.0]
    for panel in panels:
        if panel.main is not None:
            curve = panel.curves[panel.main]
            values += [float(v) for name in ("delta_trait", "ci_low", "ci_high") for v in numbers(curve, name).dropna()]
    margin = max(0.05 * (max(values) - min(values)), 1.0)
    return max(values) + margin, min(values) - margin


def _draw_target(above: Axes, below: Axes, panel: Panel, shade: str, marker: str) -> None:
    if panel.main is None:
        return
    curve = panel.curves[panel.main]
    drawn = curve.dropna(subset=["delta_trait"])
    above.vlines(drawn["x"], numbers(drawn, "ci_low"), numbers(drawn, "ci_high"), color=shade, linewidth=0.8, alpha=0.5)
    above.plot(drawn["x"], drawn["delta_trait"], color=shade, marker=marker, linewidth=1.4, markersize=3.5)
    for column, line in (("baseline_coherence", ":"), ("steered_coherence", "-")):
        part = curve.assign(value=numbers(curve, column)).dropna(subset=["value"])
        below.plot(part["x"], part["value"], line, color=shade, linewidth=1.1)


def _controls(run: Run, panel: Panel) -> pd.DataFrame:
    """Return every control of a panel's main dose: x, value, kind."""
    table, dose = run.tables["controls"], panel.main
    if dose is None or table.empty or "condition" not in table.columns:
        return pd.DataFrame({"x": [], "value": [], "kind": []})
    same = (table["trait"] == panel.trait) & (table["strategy"] == panel.strategy)
    same &= (table["target"] == table["vector_checkpoint"]) & (numbers(table, "layer") == dose.layer)
    same &= np.isclose(numbers(table, "coef").abs(), abs(dose.coef))
    rows = table[same]
    frame = pd.DataFrame({"x": rows["vector_checkpoint"].map(run.axis.positions), "value": numbers(rows, "delta_trait")})
    return frame.assign(kind=rows["condition"].fillna("").astype(str)).dropna(subset=["x", "value"])


def _draw_bars(axes: Axes, run: Run, panel: Panel, own: pd.DataFrame, controls: pd.DataFrame) -> None:
    shade, kinds = colour(panel.strategy, run.strategies), unique(controls["kind"])
    place = {x: float(i) for i, x in enumerate(own["x"])}
    at = own["x"].map(place)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.bar(at, own["delta_trait"], width=0.75, color=shade, alpha=0.45, zorder=1)
    high = numbers(own, "ci_high").fillna(own["delta_trait"])
    axes.vlines(at, numbers(own, "ci_low"), numbers(own, "ci_high"), color=shade, linewidth=1.3, zorder=2)
    for i, kind in enumerate(kinds):
        rows = controls[(controls["kind"] == kind) & controls["x"].isin(place)]
        shift = 0.2 * (i - (len(kinds) - 1) / 2)
        axes.plot(rows["x"].map(place) + shift, rows["value"], MARKERS[i % len(MARKERS)], color=INK, markerfacecolor="white",
                  markersize=3.2, markeredgewidth=0.7, linestyle="none", zorder=3)  # fmt: skip
    for x, top, p in zip(at, np.maximum(high, 0), numbers(own, "p_adjusted"), strict=True):
        axes.annotate(stars(p), (x, top), (0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=8)
    names = [run.axis.moment(name) for name in own["vector_checkpoint"]]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.grid(axis="y", color=BAND, linewidth=0.4)
    axes.set_axisbelow(True)
    axes.margins(y=0.1)
    axes.set_title(panel.trait, fontweight="bold", pad=16)
    axes.text(0.5, 1.015, panel.label, transform=axes.transAxes, ha="center", fontsize=8, color=shade)


def _filled(figure: Figure, text: str) -> str:
    return textwrap.fill(text, int(figure.get_figwidth() * 14))
