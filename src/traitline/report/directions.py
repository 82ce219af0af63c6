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
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from traitline.report.panels import LABELS, panels, rubric_matrix
from traitline.report.style import DIVERGING, GREY, INK, colour, draw_training_axis, foot
from traitline.report.tables import Run, numbers, unique


def trajectories(run: Run) -> Figure | None:
    """Draw each vector's cosine to the last checkpoint's and to the one before it; dashed, corrected for reliability."""
    table = at_layer(run, "cosine_to_final")
    table = table[table.groupby(["trait", "strategy"])["checkpoint"].transform("nunique") > 1]
    if table.empty:
        return None
    across = [trait for trait in run.traits if trait in set(table["trait"])]
    rows = (("final", "cosine to the last"), ("previous", "cosine to the previous"))
    figure, grid = _axes(len(across), 2, height=2.2, title=f"Where the vectors point, layer {run.layer}")
    for column, trait in enumerate(across):
        for row, (label, name) in enumerate(rows):
            axes = grid[row][column]
            _draw_ceiling(axes, run, trait)
            _draw_cosines(axes, run, table[table["trait"] == trait], label)
            axes.set_ylim(_lowest(table, label), 1.15)
            draw_training_axis(axes, run.axis, labelled=row == 1)
            if column == 0:
                axes.set_ylabel(name)
            if row == 0:
                axes.set_title(trait, fontweight="bold")
    marks: list[Artist] = list(_strategy_marks(run, table))
    if numbers(table, "reliability").notna().any():
        marks.append(Line2D([], [], color=INK, linestyle="--", label="corrected for reliability (may exceed 1)"))
    if len(at_layer(run, "same_weights")):
        marks.append(Patch(color=GREY, alpha=0.4, label="checkpoints of the same weights"))
    foot(figure, run.axis.title, marks)
    return figure


def norms(run: Run) -> Figure | None:
    """Draw the length of the vectors, and that length over the activation norm."""
    table = at_layer(run, "cosine_to_final")
    drawn = (("l2_norm", "vector norm", "log"), ("norm_over_activation_norm", "vector norm /\nactivation norm", "linear"))
    rows = [row for row in drawn if (numbers(table, row[0]) > 0).any()]
    if not rows:
        return None
    across = [trait for trait in run.traits if trait in set(table["trait"])]
    title = f"How long the vectors are, layer {run.layer}"
    figure, grid = _axes(len(across), len(rows), height=2.2, title=title)
    for row, (name, label, scale) in enumerate(rows):
        values = numbers(table, name)
        for axes, trait in zip(grid[row], across, strict=True):
            for strategy, part in _strategies(run, table.assign(value=values)[(table["trait"] == trait) & (values > 0)]):
                axes.plot(part["x"], part["value"], "o-", color=colour(strategy, run.strategies), linewidth=1.4, markersize=3.5)
            axes.set_yscale(scale)
            if scale == "log":
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axes.yaxis.set_minor_formatter(NullFormatter())
            if scale == "linear":
                axes.set_ylim(0, float(values.max()) * 1.1)
            if row == 0:
                axes.set_title(trait, fontweight="bold")
            draw_training_axis(axes, run.axis, labelled=row == len(rows) - 1)
        grid[row][0].set_ylabel(label)
    foot(figure, run.axis.title, _strategy_marks(run, table))
    return figure


def heatmaps(run: Run) -> Figure | None:
    """Draw the cosine between the vectors of every two checkpoints, for traits and strategies with at least two."""
    table = at_layer(run, "cosine_matrix")
    table = table.assign(cosine=numbers(table, "cosine"))
    several = table[table.groupby(["trait", "strategy"])["checkpoint_a"].transform("nunique") > 1]
    many = set(zip(several["trait"], several["strategy"], strict=True))
    across = [trait for trait in run.traits if any(trait == one for one, _ in many)]
    down = [strategy for strategy in run.strategies if any(strategy == one for _, one in many)]
    if not many:
        return None
    found = set(table["checkpoint_a"]) | set(table["checkpoint_b"])
    names = [name for name in run.axis.checkpoints if name in found]
    labels, side = _thin(names), min(3.6, max(2.5, 0.13 * len(names)))
    title = f"Cosine between the vectors of every two checkpoints, layer {run.layer}"
    figure, grid = _axes(len(across), len(down), height=side, title=title, shared=False, width=side)
    written = 0.05 * max(map(len, names))  # inches that names take, upright below and level to the left
    figure.set_size_inches(figure.get_figwidth() + written, figure.get_figheight() + written)
    image = None
    for row, strategy in enumerate(down):
        for column, trait in enumerate(across):
            axes = grid[row][column]
            part = table[(table["trait"] == trait) & (table["strategy"] == strategy)]
            image = axes.imshow(square(part, names), cmap=DIVERGING, vmin=-1, vmax=1, interpolation="nearest")
            axes.set_facecolor("#eceef1")
            below, beside_it = labels if row == len(down) - 1 else {}, labels if column == 0 else {}
            axes.set_xticks(list(below), list(below.values()), rotation=90, fontsize=7)
            axes.set_yticks(list(beside_it), list(beside_it.values()), fontsize=7)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            if row == 0:
                axes.set_title(trait, fontweight="bold")
            if column == 0:
                axes.set_ylabel(LABELS.get(strategy, strategy), color=colour(strategy, run.strategies))
    if image is not None:
        figure.colorbar(image, ax=[axes for line in grid for axes in line], shrink=0.6, aspect=30, pad=0.015, label="cosine")
    return figure


def crossed(run: Run) -> Figure | None:
    """Draw how traits lie to each other at the last checkpoint, and what each vector does on the other traits' rubrics."""
    last = run.axis.checkpoints[-1] if run.axis.checkpoints else ""
    columns, cut = [], panels(run, "emergence")
    for strategy in run.strategies:
        cosines, effects = trait_cosines(run, strategy, last), rubric_matrix(run, cut, strategy, last)
        if np.isfinite(cosines).any() or beside(effects):
            columns.append((LABELS.get(strategy, strategy), cosines, effects))
    if not columns:
        return None
    down = 1 + any(beside(effects) for _, _, effects in columns)
    title = f"Traits against each other at {last}"
    figure, grid = _axes(len(columns), down, height=3.0, title=title, shared=False, width=3.4)
    for column, (name, cosines, effects) in enumerate(columns):
        limit = max(float(np.nanmax(np.abs(effects), initial=0)), 1.0)
        _matrix(grid[0][column], cosines, run.traits, 1.0, "{:.2f}", f"{name}: cosine")
        if down > 1:
            _matrix(grid[1][column], effects, run.traits, limit, "{:+.0f}", f"{name}: delta by rubric (across)")
    for line in grid:
        line[0].set_ylabel("vector of")
    return figure


def beside(effects: NDArray[np.float64]) -> bool:
    """Whether any vector was scored on another trait's rubric."""
    return bool(np.isfinite(effects[~np.eye(len(effects), dtype=bool)]).any())


def at_layer(run: Run, name: str) -> pd.DataFrame:
    """Return a geometry table at the main layer."""
    table = run.tables[name]
    return table[numbers(table, "layer") == run.layer]


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


def ceilings(run: Run) -> pd.DataFrame:
    """Return the cosine between vectors drawn again from the same weights, at the main layer: trait, strategy, cosine, n."""
    table = at_layer(run, "same_weights")
    table = table.assign(cosine=numbers(table, "cosine")).dropna(subset=["cosine"])
    return table.groupby(["trait", "strategy"], sort=False, as_index=False).agg(cosine=("cosine", "mean"), n=("cosine", "size"))


def _draw_ceiling(axes: Axes, run: Run, trait: str) -> None:
    """Shade from the cosine that resampling alone costs up to 1."""
    found = ceilings(run)
    for strategy, cosine in found.loc[found["trait"] == trait, ["strategy", "cosine"]].itertuples(index=False):
        if strategy in run.strategies:
            axes.axhspan(min(cosine, 1.0), 1.0, color=colour(strategy, run.strategies), alpha=0.25, linewidth=0.8, zorder=0)


def _draw_cosines(axes: Axes, run: Run, rows: pd.DataFrame, label: str) -> None:
    axes.axhline(0, color=GREY, linewidth=0.7)
    for strategy, part in _strategies(run, rows):
        for column, line, marker in ((f"cosine_to_{label}", "-", "o"), (f"corrected_to_{label}", "--", "")):
            drawn = part.assign(value=numbers(part, column)).dropna(subset=["value"])
            axes.plot(
                drawn["x"],
                drawn["value"],
                line,
                marker=marker,
                color=colour(strategy, run.strategies),
                linewidth=1.3,
                markersize=3,
            )


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
    return [
        Line2D([], [], color=colour(name, run.strategies), marker="o", markersize=4, label=LABELS.get(name, name))
        for name in found
    ]


def _axes(
    columns: int, rows: int, *, height: float, title: str, shared: bool = True, width: float = 2.6
) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=(0.9 + width * max(columns, 2), 0.9 + height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey="row" if shared else False)
    figure.suptitle(textwrap.fill(title, 90), fontsize=12, fontweight="bold", ha="left", x=0.01)
    return figure, [list(line) for line in grid]


def _thin(names: Sequence[str], most: int = 28) -> dict[int, str]:
    """Return place -> name, of evenly spaced ones, the last among them, where there are too many to print."""
    every = math.ceil(len(names) / most)
    return {i: name for i, name in enumerate(names) if (len(names) - 1 - i) % every == 0}


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
