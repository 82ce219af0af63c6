"""Figure of the strategies: what each one's vectors do on the questions of every other, a matrix per trait.

Knows how the strategies table is cut into matrices, and why a cell of one has no number. Figure, page and tables show the same
matrices.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from traitline.report.panels import LABELS, Dose, by_dose, dosed
from traitline.report.style import BAND, DIVERGING
from traitline.report.tables import Run, numbers, unique

COMMON = "common"  # what the table calls the questions of no strategy
COMPLETE, UNKNOWN = "complete", "not_evaluated"
MARKS = {"no_vector": "×"}  # in a cell without a number; a dash in any other
MOST_COLUMNS = 3
CELL = 0.62  # inches


@dataclass(frozen=True)
class EffectMatrix:
    """What the vectors of one trait do in one network at one dose: vectors down, questions across.

    Attributes:
        trait: its name.
        target: the network steered.
        dose: where and how strongly.
        vectors: the strategies whose vectors are applied.
        questions: the strategies whose questions are asked, the common ones last.
        delta: trait score, steered minus baseline: `[vectors, questions]`, NaN where there is none.
        low: lower ends of the 95 % intervals, of the same shape.
        high: upper ends, of the same shape.
        states: per cell `complete`, or why it has no number.
        steerable: per cell, whether the change counts.
    """

    trait: str
    target: str
    dose: Dose
    vectors: list[str]
    questions: list[str]
    delta: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    states: list[list[str]]
    steerable: NDArray[np.bool_]

    @property
    def left_out(self) -> str:
        """Say how many cells have no number and why, with the mark that stands in them; empty where all have one."""
        counts = Counter(state for line in self.states for state in line if state != COMPLETE)
        return ", ".join(f"{mark(state)} {state.replace('_', ' ')}: {count}" for state, count in counts.items())


def effect_matrices(run: Run) -> list[EffectMatrix]:
    """Cut the strategies table into matrices, per trait: the last checkpoint first, at the main layer and largest dose."""
    if "effect matrices" not in run.remembered:
        run.remembered["effect matrices"] = tuple(_matrices(run))
    return list(run.remembered["effect matrices"])


def main_matrices(run: Run) -> list[EffectMatrix]:
    """Return the first matrix of every trait: the last measured checkpoint, the main layer, the largest dose."""
    firsts: dict[str, EffectMatrix] = {}
    for one in effect_matrices(run):
        firsts.setdefault(one.trait, one)
    return list(firsts.values())


def mark(state: str) -> str:
    """Return what stands in a cell without a number."""
    return MARKS.get(state, "–")


def named(strategy: str) -> str:
    """Return a strategy as the heads of a matrix name it."""
    return LABELS.get(strategy, strategy)


def strategies(run: Run) -> Figure | None:
    """Draw the first matrix of every trait."""
    cut = [one for one in main_matrices(run) if np.isfinite(one.delta).any()]
    if not cut:
        return None
    columns = min(len(cut), MOST_COLUMNS)
    rows = -(-len(cut) // columns)
    across, down = (max(len(getattr(one, side)) for one in cut) for side in ("questions", "vectors"))
    width, height = 1.2 + max(columns * (0.5 + CELL * across), 3.6), 1.0 + rows * (1.15 + CELL * down)
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    limit = max(1.0, *(float(np.nanmax(np.abs(one.delta))) for one in cut if np.isfinite(one.delta).any()))
    for i, (axes, one) in enumerate(zip(grid, cut, strict=False)):
        _draw(axes, one, limit)
        if i % columns == 0:
            axes.set_ylabel("vectors of")
    for axes in grid[len(cut) :]:
        axes.set_visible(False)
    figure.suptitle(
        textwrap.fill(f"Each strategy's vectors on each strategy's questions: {run.title}", int(width * 9)),
        fontsize=12, fontweight="bold", ha="left", x=0.01,
    )  # fmt: skip
    figure.supxlabel(textwrap.fill(_caption(cut), int(width * 13)), fontsize=8)
    return figure


def _matrices(run: Run) -> list[EffectMatrix]:
    table = dosed(run.tables["strategies"])
    found = []
    for trait in run.traits:
        for target, part in table[table["trait"] == trait].groupby("target", sort=False):
            found += [_matrix(run, trait, str(target), dose, rows) for dose, rows in by_dose(part)]
    order = {name: i for i, name in enumerate(run.axis.checkpoints)}
    descendants = unique(one.target for one in found if one.target not in order)

    def place(one: EffectMatrix) -> tuple[int, bool, int, bool, bool, float]:
        later = one.target not in order
        when = descendants.index(one.target) if later else -order[one.target]
        return run.traits.index(one.trait), later, when, one.dose.layer != run.layer, one.dose.coef < 0, -abs(one.dose.coef)

    return sorted(found, key=place)


def _matrix(run: Run, trait: str, target: str, dose: Dose, rows: pd.DataFrame) -> EffectMatrix:
    known = [*run.strategies, COMMON]

    def ordered(column: str) -> list[str]:
        names = [str(name) for name in unique(rows[column])]
        return sorted(names, key=lambda name: known.index(name) if name in known else len(run.strategies) - 0.5)

    vectors, questions = ordered("vector_strategy"), ordered("strategy")
    by_cell = rows.drop_duplicates(["vector_strategy", "strategy"]).set_index(["vector_strategy", "strategy"])
    cells = by_cell.reindex(pd.MultiIndex.from_product([vectors, questions]))
    shape = (len(vectors), len(questions))
    deltas, lows, highs = (numbers(cells, name).to_numpy().reshape(shape) for name in ("delta_trait", "ci_low", "ci_high"))
    states = cells["status"].astype(object).fillna(UNKNOWN).where(
        numbers(cells, "delta_trait").notna() | (cells["status"] != COMPLETE), UNKNOWN
    )  # fmt: skip
    met = cells["steerable"].eq(True) if "steerable" in cells.columns else pd.Series(False, index=cells.index)
    return EffectMatrix(
        trait, target, dose, vectors, questions, deltas, lows, highs,
        [[str(state) for state in line] for line in states.to_numpy().reshape(shape)],
        met.to_numpy(dtype=bool).reshape(shape),
    )  # fmt: skip


def _draw(axes: Axes, one: EffectMatrix, limit: float) -> None:
    image = axes.imshow(one.delta, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="equal")
    axes.set_facecolor("#eceef1")
    axes.set_title(one.trait, fontweight="bold", pad=16)
    axes.text(0.5, 1.015, f"at {one.target}, {one.dose.label}", transform=axes.transAxes, ha="center", fontsize=7.5,
              color="#57606a")  # fmt: skip
    axes.set_xticks(range(len(one.questions)), [named(name) for name in one.questions], rotation=30, ha="right")
    axes.set_yticks(range(len(one.vectors)), [named(name) for name in one.vectors])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("questions of", fontsize=8.5)
    if one.questions[-1] == COMMON and len(one.questions) > 1:
        axes.axvline(len(one.questions) - 1.5, color="white", linewidth=3)
    for (i, j), delta in np.ndenumerate(one.delta):
        if np.isnan(delta):
            axes.text(j, i, mark(one.states[i][j]), ha="center", va="center", color="#57606a")
            continue
        text = f"{delta + 0.0:+.0f}".replace("-", "−").replace("+0", "0") + ("*" if one.steerable[i, j] else "")
        axes.text(j, i, text, ha="center", va="center", fontsize=8.5, color=_ink(image.cmap(0.5 + delta / (2 * limit))))
    axes.set_xlim(-0.5, len(one.questions) - 0.5)
    axes.add_patch(_frame(one))


def _ink(colour: tuple[float, ...]) -> str:
    """Return black or white, whichever stands out more from a colour; where both are equal, either has a contrast of 4.6."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3])
    return "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.179 else "black"


def _frame(one: EffectMatrix) -> Rectangle:
    """Return a thin border, which shows where cells are empty."""
    size = len(one.questions), len(one.vectors)
    return Rectangle((-0.5, -0.5), *size, fill=False, edgecolor=BAND, linewidth=0.8)


def _caption(cut: Sequence[EffectMatrix]) -> str:
    said = "Trait score, steered minus baseline; * counts as steerable."
    if any(COMMON in one.questions for one in cut):
        said += " Common: questions of no strategy, on which only the vector differs."
    left = [f"{one.trait}: {one.left_out}" for one in cut if one.left_out]
    return f"{said} Without a number: {'; '.join(left)}." if left else said
