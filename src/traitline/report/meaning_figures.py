"""Figures of what the vectors mean: how high the traits' words stand along training, and which tokens are on top.

Knows how the tables of meanings become curves and grids of words. Leaves their words to `meaning.py`, which shows the same.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from traitline.report.meaning import DEMOTED, PROMOTED, SAID, VECTOR, last_checkpoint, main_set, own, spoken
from traitline.report.panels import LABELS
from traitline.report.style import BAND, GREY, colour, draw_training_axis, foot
from traitline.report.tables import Run, numbers

WIDTH, HEIGHT = 2.9, 1.9  # inches of a panel
MOST_COLUMNS, SHOWN = 8, {PROMOTED: 10, DEMOTED: 5}
COLUMN, LINE = 1.35, 0.165  # inches of a checkpoint's column, and of a token
LONGEST = 16
STAYS, GOES = "#0b5394", "#8a8f98"


def meanings(run: Run) -> Figure | None:
    """Draw, along training, where the traits' words stand, how many top tokens stay, and how projections follow the judge."""
    words, drift, followed = own(run, "lens_words"), own(run, "lens_drift"), own(run, "text_correlations")
    chosen = main_set(words) if len(words) else ""
    known = set(run.axis.positions)
    rows = [
        _Row(words[words["set"] == chosen], "auc", "tokens that its\nwords stand above", ("auc_low", "auc_high"), 0.5),
        _Row(drift[drift["side"] == PROMOTED], "overlap_last", "top tokens shared\nwith the last", None, None),
        _Row(followed, "correlation", "projection × judge,\nrank correlation", ("chance_low", "chance_high"), 0.0),
    ]
    rows = [replace(row, table=row.table[row.table["checkpoint"].isin(known)]) for row in rows]
    rows = [row for row in rows if numbers(row.table, row.column).notna().any()]
    across = [trait for trait in run.traits if any(trait in set(row.table["trait"]) for row in rows)]
    if not rows or not across or len(run.axis.checkpoints) < 2:
        return None
    figure = Figure(figsize=(1.1 + WIDTH * max(len(across), 2), 1.6 + HEIGHT * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(across), squeeze=False, sharey="row")
    for i, (line, row) in enumerate(zip(grid, rows, strict=True)):
        for axes, trait in zip(line, across, strict=True):
            _draw(axes, run, row, row.table[row.table["trait"] == trait])
            draw_training_axis(axes, run.axis, labelled=i == len(rows) - 1)
        line[0].set_ylabel(row.label)
    for axes, trait in zip(grid[0], across, strict=True):
        axes.set_title(trait, fontweight="bold")
    figure.suptitle(f"What the vectors mean, layer {run.layer}: {run.title}", fontsize=12, fontweight="bold", ha="left", x=0.01)
    drawn = [name for name in run.strategies if any(name in set(row.table["strategy"]) for row in rows)]
    marks: list[Artist] = [
        Line2D([], [], color=colour(name, run.strategies), marker="o", markersize=4, label=LABELS.get(name, name))
        for name in drawn
    ]
    marks.append(Patch(color=BAND, label="by chance"))
    said = f"{run.axis.title}. By chance: the middle 90 % of random directions; "
    said += "of the tokens shared, the range of shuffled vectors."
    said += f" Words: {SAID.get(chosen, chosen)}." if chosen else ""
    foot(figure, textwrap.fill(said, int(figure.get_figwidth() * 13)), marks)
    return figure


@dataclass(frozen=True)
class _Row:
    """What a row of panels shows: a column of a table, between which columns it lies by chance, and its value by chance."""

    table: pd.DataFrame
    column: str
    label: str
    span: tuple[str, str] | None
    chance: float | None


def _draw(axes: Axes, run: Run, row: _Row, table: pd.DataFrame) -> None:
    column, chance = row.column, row.chance
    table = table.assign(value=numbers(table, column), x=table["checkpoint"].map(run.axis.positions)).dropna(
        subset=["value", "x"]
    )
    if row.span is None:
        controls = table[table["direction"] != VECTOR]
        band = controls.groupby("x")["value"].agg(["min", "max"]).to_numpy()
    else:
        controls = table.assign(low=numbers(table, row.span[0]), high=numbers(table, row.span[1]))
        band = controls.groupby("x")[["low", "high"]].median().to_numpy()
    if len(band):
        places = np.sort(controls["x"].unique())
        axes.fill_between(places, band[:, 0], band[:, 1], color=BAND, alpha=0.6, linewidth=0, zorder=0)
    if chance is not None:
        axes.axhline(chance, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    for strategy in run.strategies:
        part = table[(table["strategy"] == strategy) & (table["direction"] == VECTOR)].sort_values("x")
        axes.plot(part["x"], part["value"], "o-", color=colour(strategy, run.strategies), linewidth=1.4, markersize=3.5)
    if column != "correlation":
        axes.set_ylim(-0.02, 1.04)
    axes.grid(axis="y", color=BAND, linewidth=0.4)
    axes.set_axisbelow(True)


def tokens(run: Run) -> Figure | None:
    """Draw the top tokens of the first strategy's vectors, checkpoint by checkpoint; those that stay to the last in colour."""
    tops = own(run, "lens")
    tops = tops[(tops["direction"] == VECTOR) & tops["checkpoint"].isin(run.axis.checkpoints)]
    strategy = next((name for name in run.strategies if name in set(tops["strategy"])), None)
    tops = tops[tops["strategy"] == strategy]
    across = [trait for trait in run.traits if trait in set(tops["trait"])]
    names = _thinned([name for name in run.axis.checkpoints if name in set(tops["checkpoint"])])
    if strategy is None or not across or len(names) < 2:
        return None
    lines = sum(SHOWN.values()) + 1.6
    size = (0.6 + COLUMN * max(len(names), 3), 1.15 + (0.55 + LINE * lines) * len(across))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(across), 1, squeeze=False)[:, 0]
    last = last_checkpoint(run, tops)
    for axes, trait in zip(grid, across, strict=True):
        part = tops[tops["trait"] == trait]
        kept = {side: set(part.loc[(part["checkpoint"] == last) & (part["side"] == side), "token_id"]) for side in SHOWN}
        axes.set_title(trait, fontweight="bold", loc="left")
        axes.set(xlim=(0, max(len(names), 3)), ylim=(lines, 0))
        axes.axhline(SHOWN[PROMOTED] + 0.8, color=GREY, linewidth=0.6)
        axes.set_xticks([i + 0.04 for i in range(len(names))], [run.axis.moment(name) for name in names], ha="left")
        axes.xaxis.tick_top()
        axes.set_yticks(
            [SHOWN[PROMOTED] / 2, SHOWN[PROMOTED] + 0.8 + SHOWN[DEMOTED] / 2], [PROMOTED, DEMOTED], rotation=90, va="center"
        )
        axes.tick_params(length=0, labelsize=7.5)
        axes.spines[:].set_visible(False)
        for place, name in enumerate(names):
            _column(axes, place, part[part["checkpoint"] == name], kept)
    title = f"Tokens that the vectors speak for, {LABELS.get(strategy, strategy)}, layer {run.layer}: {run.title}"
    figure.suptitle(textwrap.fill(title, int(size[0] * 9)), fontsize=11, fontweight="bold", ha="left", x=0.01)
    said = f"Blue: also among the top tokens at {last}. Bold: beyond 95 % of random directions at that rank."
    figure.supxlabel(textwrap.fill(said, int(size[0] * 13)), fontsize=8)
    return figure


def _column(axes: Axes, place: int, rows: pd.DataFrame, kept: dict[str, set[object]]) -> None:
    for side, start in ((PROMOTED, 0.0), (DEMOTED, SHOWN[PROMOTED] + 1.3)):
        part = rows[rows["side"] == side].assign(rank=numbers(rows, "rank")).sort_values("rank").head(SHOWN[side])
        beyond = numbers(part, "z").abs() > numbers(part, "chance").abs()
        for i, (token, token_id, above) in enumerate(zip(part["token"], part["token_id"], beyond, strict=True)):
            shade = STAYS if token_id in kept[side] else GOES
            axes.text(place + 0.04, start + i + 0.5, _drawable(spoken(token)), fontsize=7.2, va="center", color=shade,
                      fontweight="bold" if above else "normal", clip_on=True)  # fmt: skip


def _thinned(names: Sequence[str]) -> list[str]:
    """Return as many names as there is room for, evenly spread, the last among them."""
    if len(names) <= MOST_COLUMNS:
        return list(names)
    return [names[i] for i in np.linspace(0, len(names) - 1, MOST_COLUMNS).round().astype(int)]


@cache
def _glyphs() -> frozenset[int]:
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return frozenset(font.get_charmap())


def _drawable(text: str) -> str:
    """Return a token as the figures' font can draw it, cut where it is long."""
    known = "".join(one if ord(one) in _glyphs() else "□" for one in text)
    return known if len(known) <= LONGEST else f"{known[: LONGEST - 1]}…"
