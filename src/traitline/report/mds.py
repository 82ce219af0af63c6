"""Figure of the checkpoints' vectors on a plane: near where their cosine is high, joined in order of training.

Knows how the cosine matrix becomes a map. Leaves the scaling to `analysis/mds.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from traitline.analysis.mds import Scaling, metric_scaling
from traitline.report.directions import at_layer, square
from traitline.report.panels import LABELS
from traitline.report.style import SEQUENTIAL, colour
from traitline.report.tables import Run

FEWEST = 4


@dataclass(frozen=True)
class TraitMap:
    """The places of one trait's vectors at the main layer.

    Attributes:
        trait: its name.
        strategy: the strategy with vectors at most checkpoints.
        checkpoints: those with a vector, in order of training.
        scaling: their places and the stress.
    """

    trait: str
    strategy: str
    checkpoints: list[str]
    scaling: Scaling


def trait_maps(run: Run) -> list[TraitMap]:
    """Return a map per trait that has vectors at four or more checkpoints."""
    table = at_layer(run, "cosine_matrix")
    found = []
    for trait in run.traits:
        rows = table[table["trait"] == trait]
        cut = [(strategy, *_complete(run, rows[rows["strategy"] == strategy])) for strategy in run.strategies]
        strategy, names, cosines = max(cut, key=lambda one: len(one[1]), default=("", [], np.empty((0, 0))))
        if len(names) >= FEWEST:
            found.append(TraitMap(trait, strategy, names, metric_scaling(np.maximum(1 - cosines, 0.0))))
    return found


def maps(run: Run) -> Figure | None:
    """Draw the map of every trait, coloured by the place on the training axis."""
    found = trait_maps(run)
    if not found:
        return None
    figure = Figure(figsize=(1.4 + 2.9 * max(len(found), 2), 3.9), layout="constrained")
    grid = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, one in zip(grid, found, strict=True):
        _draw(axes, run, one)
        axes.set_title(one.trait, fontweight="bold", pad=16)
        said: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "fontsize": 8}
        axes.text(0.5, 1.02, LABELS.get(one.strategy, one.strategy), color=colour(one.strategy, run.strategies), **said)
    scale = mpl.cm.ScalarMappable(cmap=SEQUENTIAL)
    scale.set_array(np.array([0.0, 1.0]))
    bar = figure.colorbar(scale, ax=list(grid), shrink=0.75, pad=0.01, aspect=25, ticks=[0, 1])
    bar.ax.set_yticklabels([run.axis.moment(run.axis.checkpoints[i]) for i in (0, -1)], fontsize=7)
    figure.suptitle(f"The way the vectors went, layer {run.layer}", fontsize=12, fontweight="bold", ha="left", x=0.01)
    stress = ", ".join(f"{one.trait} {one.scaling.stress:.2f}" for one in found)
    figure.supxlabel(f"Metric scaling of 1 − cosine; only distances have a meaning. Stress: {stress}.", fontsize=8)
    return figure


def _complete(run: Run, rows: pd.DataFrame) -> tuple[list[str], NDArray[np.float64]]:
    """Return the checkpoints that have a cosine to all others that have a vector, and these cosines."""
    cosines = square(rows, run.axis.checkpoints)
    kept = np.flatnonzero(np.isfinite(np.diag(cosines)))
    part = cosines[np.ix_(kept, kept)]
    if not np.isfinite(part).all():
        return [], np.empty((0, 0))
    part = (part + part.T) / 2
    np.fill_diagonal(part, 1.0)
    return [run.axis.checkpoints[i] for i in kept], part


def _draw(axes: Axes, run: Run, one: TraitMap) -> None:
    low, high = run.axis.limits
    names, places = one.checkpoints, one.scaling.places
    shades = [(run.axis.positions[name] - low) / (high - low) for name in names]
    x, y = places.T
    axes.plot(x, y, color=colour(one.strategy, run.strategies), linewidth=0.9, alpha=0.6, zorder=1)
    axes.scatter(x, y, c=shades, cmap=SEQUENTIAL, vmin=0, vmax=1, s=34, edgecolor="white", linewidth=0.6, zorder=3)
    for i in (0, len(names) - 1):
        away = places[i] - places.mean(axis=0)
        length = math.hypot(*away) or 1.0
        shift = (8 * away[0] / length, 9 * away[1] / length)
        words: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7.5, "zorder": 5}
        sideways = "left" if away[0] > 0 else "right"
        axes.annotate(run.axis.moment(names[i]), places[i], shift, ha=sideways, va="center", **words)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.28, 0.18)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("#d8dce2")
