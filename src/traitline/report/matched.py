"""Steering at equal coherence loss: the figure and the section that stand the matched beside the fixed-coefficient curve.

Knows how the table `matched` is cut: per trait and strategy the layer that was chosen on the `tune` questions, over the
checkpoints. A loss that the doses do not span is a mark at the edge of a panel, above or below, and never a number.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from traitline.report.axis import tokens_text
from traitline.report.panels import LABELS
from traitline.report.section import Section, Table
from traitline.report.style import GREY, INK, colour, draw_training_axis, names_height
from traitline.report.tables import Run, numbers, unique

MOST_COLUMNS = 5
MOST_LETTERS = 36  # above a panel
LEFT, TOP, BOTTOM = 0.85, 0.95, 1.5  # margins in inches
EDGES = {"too_weak": ("^", 0.96), "too_strong": ("v", 0.04)}  # how a loss out of reach is marked, and how high
SIDES = {"too_weak": "out of reach: all doses lose less", "too_strong": "out of reach: all doses lose more"}
SHORT = 12  # rows that a table shows without being opened


@dataclass(frozen=True)
class MatchedPanel:
    """One trait and strategy at one layer.

    Attributes:
        trait: its name.
        strategy: its name.
        layer: where vectors are applied.
        fixed: the coefficients shown beside it, in words; empty where none was chosen.
        loss: points of coherence lost.
        rows: one per checkpoint in order of training, with `x`.
    """

    trait: str
    strategy: str
    layer: int
    fixed: str
    loss: float
    rows: pd.DataFrame

    @property
    def label(self) -> str:
        """The strategy as readers see it."""
        return LABELS.get(self.strategy, self.strategy)


def matched_panels(run: Run) -> list[MatchedPanel]:
    """Cut the table of effects at equal coherence loss, in the order of the study's traits, then strategies."""
    table = run.tables["matched"]
    if run.lineage and "lineage" in table.columns:
        table = table[table["lineage"] == run.lineage]
    table = table.assign(x=table["vector_checkpoint"].map(run.axis.positions).astype(float)).dropna(subset=["x"])
    parts = dict(iter(table.groupby(["trait", "strategy"], sort=False)))
    found = []
    for key in [(trait, strategy) for trait in run.traits for strategy in run.strategies if (trait, strategy) in parts]:
        layers, fixed = numbers(parts[key], "layer"), numbers(parts[key], "fixed_coef")
        chosen = layers[fixed.notna()]
        layer = chosen.iloc[0] if len(chosen) else run.layer if (layers == run.layer).any() else layers.iloc[0]
        rows = parts[key][layers == layer].sort_values("x")
        said = ", ".join(f"{coef:g}" for coef in unique(fixed[rows.index].dropna()))
        found.append(MatchedPanel(*key, int(layer), said, float(numbers(rows, "coherence_loss").iloc[0]), rows))
    return found


def matched(run: Run) -> Figure | None:
    """Draw the effect at equal coherence loss and at the fixed coefficient, and below them what the latter loses."""
    panels = matched_panels(run)
    if not panels:
        return None
    places = _places(panels)
    down, across = (max(place[i] for place in places) + 1 for i in (0, 1))
    bottom = BOTTOM + names_height(run.axis)
    width, height = LEFT + 2.7 * max(across, 2), TOP + bottom + 2.7 * down
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(left=LEFT / width, right=0.99, top=1 - TOP / height, bottom=bottom / height)
    grid = figure.add_gridspec(down, across, hspace=0.42, wspace=0.1)
    scale = _limits(panels, ("delta_trait", "ci_low", "ci_high", "fixed_delta_trait", "fixed_ci_low", "fixed_ci_high"))
    losses = _limits(panels, ("fixed_coherence_loss", "coherence_loss"))
    for panel, (row, column) in zip(panels, places, strict=True):
        cell = grid[row, column].subgridspec(2, 1, height_ratios=(3, 1.2), hspace=0.12)
        above, below = figure.add_subplot(cell[0]), figure.add_subplot(cell[1])
        _draw_effects(above, run, panel)
        _draw_losses(below, run, panel)
        above.set_ylim(*scale)
        below.set_ylim(*losses)
        draw_training_axis(above, run.axis, labelled=False)
        draw_training_axis(below, run.axis, labelled=(row + 1, column) not in places)
        for axes, label in ((above, "trait score, steered\nminus baseline"), (below, "coherence\nlost")):
            axes.tick_params(axis="y", labelleft=column == 0)
            axes.set_ylabel(label if column == 0 else "")
        said = f"{panel.label}, layer {panel.layer}" + (f", fixed {panel.fixed}" if panel.fixed else "")
        above.text(0.5, 1.02, said, transform=above.transAxes, ha="center", va="bottom",
                   fontsize=min(8.5, 8.5 * MOST_LETTERS / len(said)), color=colour(panel.strategy, run.strategies))  # fmt: skip
        above.annotate(panel.trait, (0.5, 1.0), (0, 17), xycoords="axes fraction", textcoords="offset points", ha="center",
                       fontsize=11, fontweight="bold")  # fmt: skip
    figure.text(0.006, 1 - 0.1 / height, f"Steering at equal coherence loss: {run.title}", ha="left", va="top", fontsize=13,
                fontweight="bold")  # fmt: skip
    figure.text(0.5, (BOTTOM - 0.5) / height, run.axis.title, ha="center", va="center")
    marks = _marks(panels)
    figure.legend(handles=marks, loc="upper center", bbox_to_anchor=(0.5, (BOTTOM - 0.6) / height),
                  ncols=len(marks) if width > 9 else 2, columnspacing=1.4, handlelength=1.8)  # fmt: skip
    said = textwrap.fill(_caption(panels), int(width * 14.5))
    figure.text(0.5, (BOTTOM - (0.9 if width > 9 else 1.25)) / height, said, ha="center", va="top", fontsize=8, color="#57606a")
    return figure


def matched_section(run: Run) -> Section | None:
    """Return the section that tells both curves in numbers."""
    panels = matched_panels(run)
    if not panels:
        return None
    rows = pd.concat([panel.rows for panel in panels], ignore_index=True)
    measured = rows[rows["status"].isin(["complete", "out_of_reach"])]
    sides = measured["side"].fillna("").astype(str)
    lost = numbers(measured, "fixed_coherence_loss").dropna()
    counts = f"{int((sides == '').sum())} of {len(measured)} vectors reach that loss between two of their doses"
    sentences = [
        f"One coefficient is not equally strong at every checkpoint. Here each vector's effect is read where it costs "
        f"{panels[0].loss:g} points of coherence, on the straight line between two doses and never beyond them, at the layer "
        "chosen on the tune questions.",
        f"{counts}; of {int((sides == 'too_weak').sum())} all doses lose less, of {int((sides == 'too_strong').sum())} more.",
    ]
    if len(lost):
        span = f"from {_number(lost.min(), '.0f')} to {_number(lost.max(), '.0f')} points"
        sentences.append(f"At the fixed coefficient, chosen on the tune questions as well, the loss ranges {span}.")
    head = [
        "strategy",
        "checkpoint",
        "tokens",
        "at equal loss: coef",
        "delta",
        "draws in reach",
        "fixed: coef",
        "delta",
        "loss",
    ]
    tables = []
    for trait in unique(panel.trait for panel in panels):
        lines = [_line(panel, row) for panel in panels if panel.trait == trait for _, row in panel.rows.iterrows()]
        caption = f"{trait}: effects at a coherence loss of {panels[0].loss:g} points, and at the fixed coefficient"
        tables.append(Table(caption, head, lines, folded=len(lines) > SHORT))
    return Section("matched", "Equal coherence loss", sentences, tables)


def _draw_effects(axes: Axes, run: Run, panel: MatchedPanel) -> None:
    shade, rows = colour(panel.strategy, run.strategies), panel.rows
    axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
    fixed = rows[numbers(rows, "fixed_delta_trait").notna()]
    axes.vlines(
        fixed["x"], numbers(fixed, "fixed_ci_low"), numbers(fixed, "fixed_ci_high"), color=GREY, linewidth=0.8, zorder=2
    )
    axes.plot(fixed["x"], fixed["fixed_delta_trait"], "s--", color=GREY, markerfacecolor="white", markersize=3.5, linewidth=1.1,
              zorder=2)  # fmt: skip
    drawn = rows.assign(delta_trait=numbers(rows, "delta_trait").where(rows["status"] != "no_vector"))
    axes.vlines(drawn["x"], numbers(drawn, "ci_low"), numbers(drawn, "ci_high"), color=shade, linewidth=1.4, zorder=3)
    axes.plot(drawn["x"], drawn["delta_trait"], "o-", color=shade, markersize=4.5, linewidth=1.6, zorder=4)
    for side, (mark, height) in EDGES.items():
        at = rows.loc[rows["side"] == side, "x"]
        axes.plot(at, [height] * len(at), mark, color=shade, markerfacecolor="white", markersize=5, clip_on=False,
                  transform=axes.get_xaxis_transform(), zorder=5)  # fmt: skip
    missing = rows.loc[rows["status"] == "no_vector", "x"]
    axes.plot(missing, [0] * len(missing), "x", color=GREY, markersize=5, markeredgewidth=1.3, zorder=4)


def _draw_losses(axes: Axes, run: Run, panel: MatchedPanel) -> None:
    shade, rows = colour(panel.strategy, run.strategies), panel.rows
    axes.axhline(panel.loss, color=shade, linewidth=1.2)
    lost = rows[numbers(rows, "fixed_coherence_loss").notna()]
    axes.plot(lost["x"], lost["fixed_coherence_loss"], "s--", color=GREY, markerfacecolor="white", markersize=3, linewidth=1.1)


def _places(panels: list[MatchedPanel]) -> list[tuple[int, int]]:
    """Return the (row, column) of each panel: traits across and strategies down, or the other way where traits are many."""
    traits, strategies = (unique(getattr(panel, name) for panel in panels) for name in ("trait", "strategy"))
    places = [(strategies.index(panel.strategy), traits.index(panel.trait)) for panel in panels]
    return places if len(traits) <= MOST_COLUMNS else [(column, row) for row, column in places]


def _limits(panels: list[MatchedPanel], columns: tuple[str, ...]) -> tuple[float, float]:
    values = [float(v) for panel in panels for name in columns for v in numbers(panel.rows, name).dropna()]
    low, high = min([0.0, *values]), max([0.0, *values])
    margin = max(0.1 * (high - low), 1.0)
    return low - margin, high + margin


def _caption(panels: list[MatchedPanel]) -> str:
    counted = numbers(pd.concat([panel.rows for panel in panels]), "n_questions").dropna()
    span = unique([int(counted.min()), int(counted.max())]) if len(counted) else []
    said = "Read on the straight line between two doses. Bars: 95 % intervals over resampled questions"
    return f"{said}; {' to '.join(map(str, span)) or 'no'} questions a point. Below: what the fixed coefficient loses."


def _marks(panels: list[MatchedPanel]) -> list[Line2D]:
    ink: dict[str, Any] = {"color": INK, "markersize": 5}
    hollow: dict[str, Any] = {"markerfacecolor": "white", "linestyle": "none", **ink}
    return [
        Line2D([], [], marker="o", linewidth=1.6, **ink, label=f"at a coherence loss of {panels[0].loss:g}"),
        Line2D(
            [], [], marker="s", linestyle="--", color=GREY, markerfacecolor="white", markersize=4, label="fixed coefficient"
        ),
        *(Line2D([], [], marker=mark, **hollow, label=SIDES[side]) for side, (mark, _) in EDGES.items()),
        Line2D([], [], marker="x", linestyle="none", color=GREY, label="no vector"),
    ]


def _line(panel: MatchedPanel, row: pd.Series) -> list[str]:
    """Return one row of the section's table, in words."""
    side, status = str(row.get("side")), str(row["status"]).replace("_", " ")
    reach = _float(row.get("reach"))
    fragile = ", fragile" if str(row.get("fragile")).lower() == "true" else ""
    return [
        f"{panel.label}, layer {panel.layer}{fragile}",
        str(row["vector_checkpoint"]),
        tokens_text(_float(row.get("tokens"))),
        _read(row) if status == "complete" else SIDES.get(side, status),
        _between(row, ""),
        "" if math.isnan(reach) else "all" if reach == 1 else f"{min(99, round(100 * reach))} %",
        _number(row.get("fixed_coef"), "g"),
        _between(row, "fixed_"),
        _number(row.get("fixed_coherence_loss"), ".1f"),
    ]


def _read(row: pd.Series) -> str:
    """Word the coefficient that loses as much, and the two doses that it lies between."""
    coef, below, above = (_number(row.get(name), ".3g") for name in ("coef", "coef_below", "coef_above"))
    return coef if below == above else f"{coef} ({below} to {above})"


def _between(row: pd.Series, prefix: str) -> str:
    delta, low, high = (_number(row.get(f"{prefix}{name}"), "+.0f") for name in ("delta_trait", "ci_low", "ci_high"))
    return f"{delta} [{low}, {high}]" if low and high else delta


def _number(value: object, form: str) -> str:
    found = _float(value)
    return "" if math.isnan(found) else f"{found + 0.0:{form}}".replace("-", "−")


def _float(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return math.nan
