"""Figures of directions: how vectors turn along training, how long they are, and how traits lie to each other.

Knows how the geometry tables are drawn with matplotlib. Each function returns a figure of the run's main layer, or None where
there is nothing to draw.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from traitline.report.panels import LABELS, main_layer, panels, rubric_matrix
from traitline.report.style import DIVERGING, GREY, INK, colour, draw_training_axis
from traitline.report.tables import Run, numbers, unique


def trajectories(run: Run) -> Figure | None:
    """Draw each vector's cosine to the last checkpoint's and to the one before it; dashed, corrected for reliability."""
    table = at_layer(run, "cosine_to_final")
    if table.empty:
        return None
    across = [trait for trait in run.traits if trait in set(table["trait"])]
    rows = (("final", "cosine to the last"), ("previous", "cosine to the previous"))
    figure, grid = _axes(len(across), 2, height=2.2, title=f"Where the vectors point, layer {main_layer(run)}")
    for column, trait in enumerate(across):
        for row, (label, name) in enumerate(rows):
            axes = grid[row][column]
            _draw_cosines(axes, run, table[table["trait"] == trait], label)
            axes.set_ylim(_lowest(table, label), 1.15)
            draw_training_axis(axes, run.axis, labelled=row == 1)
            if column == 0:
                axes.set_ylabel(name)
            if row == 0:
                axes.set_title(trait, fontweight="bold")
    dashed = Line2D([], [], color=INK, linestyle="--", label="corrected for reliability (may exceed 1)")
    _foot(figure, run, [*_strategy_marks(run, table), dashed])
    return figure


def norms(run: Run) -> Figure | None:
    """Draw the length of the vectors over the activation norm."""
    table = at_layer(run, "cosine_to_final")
    table = table.assign(value=numbers(table, "norm_over_activation_norm")).dropna(subset=["value"])
    if table.empty:
        return None
    across = [trait for trait in run.traits if trait in set(table["trait"])]
    figure, grid = _axes(len(across), 1, height=2.4, title=f"How long the vectors are, layer {main_layer(run)}")
    top = float(table["value"].max()) * 1.1
    for axes, trait in zip(grid[0], across, strict=True):
        for strategy, part in _strategies(run, table[table["trait"] == trait]):
            axes.plot(part["x"], part["value"], "o-", color=colour(strategy), linewidth=1.4, markersize=3.5)
        axes.set_ylim(0, top)
        axes.set_title(trait, fontweight="bold")
        draw_training_axis(axes, run.axis)
    grid[0][0].set_ylabel("vector norm /\nactivation norm")
    _foot(figure, run, _strategy_marks(run, table))
    return figure


def heatmaps(run: Run) -> Figure | None:
    """Draw the cosine between the vectors of every two checkpoints."""
    table = at_layer(run, "cosine_matrix")
    if table.empty:
        return None
    across = [trait for trait in run.traits if trait in set(table["trait"])]
    down = [strategy for strategy in run.strategies if strategy in set(table["strategy"])]
    title = f"Cosine between the vectors of every two checkpoints, layer {main_layer(run)}"
    figure, grid = _axes(len(across), len(down), height=2.5, title=title, shared=False)
    image = None
    for row, strategy in enumerate(down):
        for column, trait in enumerate(across):
            axes = grid[row][column]
            part = table[(table["trait"] == trait) & (table["strategy"] == strategy)]
            matrix = square(part, run.axis.checkpoints)
            image = axes.imshow(matrix, cmap=DIVERGING, vmin=-1, vmax=1, interpolation="nearest")
            axes.set_facecolor("#eceef1")
            labels = _thin(run.axis.checkpoints)
            axes.set_xticks(range(len(labels)), labels if row == len(down) - 1 else [""] * len(labels), rotation=90, fontsize=7)
            axes.set_yticks(range(len(labels)), labels if column == 0 else [""] * len(labels), fontsize=7)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            if row == 0:
                axes.set_title(trait, fontweight="bold")
            if column == 0:
                axes.set_ylabel(LABELS.get(strategy, strategy), color=colour(strategy))
    if image is not None:
        figure.colorbar(image, ax=[axes for line in grid for axes in line], shrink=0.6, aspect=30, pad=0.015, label="cosine")
    return figure


def crossed(run: Run) -> Figure | None:
    """Draw how traits lie to each other at the last checkpoint, and what each vector does on the other traits' rubrics."""
    last = run.axis.checkpoints[-1] if run.axis.checkpoints else ""
    columns, cut = [], panels(run, "emergence")
    for strategy in run.strategies:
        cosines, effects = trait_cosines(run, strategy, last), rubric_matrix(run, cut, strategy, last)
        if np.isfinite(cosines).any() or np.isfinite(effects).any():
            columns.append((LABELS.get(strategy, strategy), cosines, effects))
    if not columns:
        return None
    figure, grid = _axes(len(columns), 2, height=3.0, title=f"Traits against each other at {last}", shared=False, width=3.4)
    for column, (name, cosines, effects) in enumerate(columns):
        limit = max(float(np.nanmax(np.abs(effects), initial=0)), 1.0)
        _matrix(grid[0][column], cosines, run.traits, 1.0, "{:.2f}", f"{name}: cosine")
        _matrix(grid[1][column], effects, run.traits, limit, "{:+.0f}", f"{name}: delta by rubric (across)")
    for row in (0, 1):
        grid[row][0].set_ylabel("vector of")
    return figure


def at_layer(run: Run, name: str) -> pd.DataFrame:
    """Return a geometry table at the main layer."""
    table = run.tables[name]
    return table[numbers(table, "layer") == main_layer(run)]


def square(rows: pd.DataFrame, names: Sequence[str]) -> NDArray[np.float64]:
    """Return cosines between checkpoints as `[checkpoints, checkpoints]`, NaN where there is no vector."""
    table = rows.pivot_table(index="checkpoint_a", columns="checkpoint_b", values="cosine", aggfunc="first")
    return table.reindex(index=list(names), columns=list(names)).to_numpy(dtype=np.float64)


def trait_cosines(run: Run, strategy: str, checkpoint: str) -> NDArray[np.float64]:
    """Return the cosines between the traits' vectors of one strategy at one checkpoint: `[traits, traits]`."""
    matrix = np.full((len(run.traits), len(run.traits)), np.nan)
    table = at_layer(run, "cosine_cross_trait")
    table = table[table["checkpoint"] == checkpoint]
    for name in ("strategy_a", "strategy_b"):
        if name in table.columns:
            table = table[table[name] == strategy]
    for a, b, cosine in zip(table["trait_a"], table["trait_b"], numbers(table, "cosine"), strict=True):
        i, j = run.traits.index(a), run.traits.index(b)
        matrix[i, j] = matrix[j, i] = cosine
    return matrix


def _draw_cosines(axes: Axes, run: Run, rows: pd.DataFrame, label: str) -> None:
    axes.axhline(0, color=GREY, linewidth=0.7)
    for strategy, part in _strategies(run, rows):
        for column, line, marker in ((f"cosine_to_{label}", "-", "o"), (f"corrected_to_{label}", "--", "")):
            drawn = part.assign(value=numbers(part, column)).dropna(subset=["value"])
            axes.plot(drawn["x"], drawn["value"], line, marker=marker, color=colour(strategy), linewidth=1.3, markersize=3)


def _lowest(rows: pd.DataFrame, label: str) -> float:
    """Return where the axis of the cosines begins."""
    values = [numbers(rows, name).min() for name in (f"cosine_to_{label}", f"corrected_to_{label}")]
    return min([-0.35, *(float(value) - 0.05 for value in values if pd.notna(value))])


def _strategies(run: Run, rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows of each strategy in order of training, with their places on the axis."""
    placed = rows.assign(x=rows["checkpoint"].map(run.axis.positions)).dropna(subset=["x"]).sort_values("x")
    return [(name, placed[placed["strategy"] == name]) for name in run.strategies if (placed["strategy"] == name).any()]


def _strategy_marks(run: Run, rows: pd.DataFrame) -> list[Line2D]:
    found = [name for name in run.strategies if name in unique(rows["strategy"])]
    return [Line2D([], [], color=colour(name), marker="o", markersize=4, label=LABELS.get(name, name)) for name in found]


def _axes(
    columns: int, rows: int, *, height: float, title: str, shared: bool = True, width: float = 2.6
) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=(0.9 + width * max(columns, 2), 0.9 + height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey="row" if shared else False)
    figure.suptitle(textwrap.fill(title, 90), fontsize=12, fontweight="bold", ha="left", x=0.01)
    return figure, [list(line) for line in grid]


def _foot(figure: Figure, run: Run, marks: Sequence[Line2D]) -> None:
    figure.supxlabel(run.axis.title, fontsize=9)
    handles = list(marks)
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))


def _thin(names: Sequence[str], most: int = 16) -> list[str]:
    """Return the names, most of them blank where there are too many to print."""
    every = math.ceil(len(names) / most)
    return [name if (len(names) - 1 - i) % every == 0 else "" for i, name in enumerate(names)]


def _matrix(axes: Axes, matrix: NDArray[np.float64], names: Sequence[str], limit: float, form: str, title: str) -> None:
    axes.imshow(matrix, cmap=DIVERGING, vmin=-limit, vmax=limit)
    axes.set_facecolor("#eceef1")
    axes.set_title(title)
    axes.set_xticks(range(len(names)), list(names), rotation=30, ha="right")
    axes.set_yticks(range(len(names)), list(names))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for i, j in zip(*np.nonzero(np.isfinite(matrix)), strict=True):
        pale = abs(matrix[i, j]) > 0.6 * limit
        axes.text(
            j,
            i,
            _signless_zero(form.format(matrix[i, j])),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if pale else INK,
        )


def _signless_zero(text: str) -> str:
    return text if float(text) else text.lstrip("+-")
