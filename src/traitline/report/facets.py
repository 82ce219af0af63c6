"""Figure of the facets: which share of the judged answers carries each label, along training.

Knows how the facets table is cut into panels: one per scheme, trait, strategy and set of answers that was labelled at several
checkpoints. Sets of a single place (one strategy, one steered network) stay in the page's table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from traitline.report.panels import LABELS
from traitline.report.style import FACETS, draw_training_axis, names_height
from traitline.report.tables import Run, numbers, unique

MOST_COLUMNS, MOST_PANELS = 4, 16
LEFT, TOP, TALL, TITLE, FOOT = 0.75, 1.0, 2.6, 0.6, 0.45  # inches
MARKERS = "osD^v"  # together with seven colours: 35 facets look different
KEY = ["scheme", "trait", "strategy", "set"]


@dataclass(frozen=True)
class FacetPanel:
    """The shares of one scheme's facets over the checkpoints.

    Attributes:
        title: scheme and trait.
        strategy: the strategy as readers see it; empty where none is named.
        answers: the set of answers that was labelled; empty where there is one alone.
        lines: facet -> rows in order of training, with `x`, `share`, `low`, `high`, `count`, `total`.
        places: facet -> its place among all facets of the scheme, so that it looks the same in every panel.
    """

    title: str
    strategy: str
    answers: str
    lines: dict[str, pd.DataFrame]
    places: dict[str, int]

    @property
    def said(self) -> str:
        """Strategy and set of answers."""
        return ", ".join(filter(None, (self.strategy, self.answers)))

    def shade(self, facet: str) -> str:
        """Return the colour of a facet."""
        return FACETS[self.places[facet] % len(FACETS)]


def facet_panels(run: Run) -> list[FacetPanel]:
    """Cut the facets table into panels; those labelled at fewer than two checkpoints of the lineage are left out."""
    table = run.tables["facets"]
    if "model" in table.columns and run.lineage:
        table = table[table["model"].isna() | (table["model"] == run.lineage)]
    table = table.assign(**{name: table[name].fillna("") if name in table.columns else "" for name in KEY})
    lows = numbers(table, "cluster_low"), numbers(table, "wilson_low")
    highs = numbers(table, "cluster_high"), numbers(table, "wilson_high")
    table = table.assign(
        x=table["checkpoint"].map(run.axis.positions).astype(float),
        share=numbers(table, "share"),
        low=lows[0].fillna(lows[1]),
        high=highs[0].fillna(highs[1]),
    ).dropna(subset=["x", "share"])
    found = []
    for key, part in table.groupby(KEY, sort=False):
        scheme, trait, strategy, labelled = map(str, key)
        if part["checkpoint"].nunique() < 2:
            continue
        lines = {str(facet): rows.sort_values("x") for facet, rows in part.groupby("facet", sort=False)}
        label = LABELS.get(strategy, strategy) if strategy else ""
        places = {str(name): i for i, name in enumerate(unique(table.loc[table["scheme"] == scheme, "facet"]))}
        found.append(FacetPanel(f"{scheme}: {trait}" if trait else scheme, label, labelled, lines, places))
    return found


def facets(run: Run) -> Figure | None:
    """Draw the share of every facet along training, with its interval."""
    panels = facet_panels(run)[:MOST_PANELS]
    if not panels:
        return None
    columns = min(len(panels), MOST_COLUMNS)
    rows = -(-len(panels) // columns)
    most = max(len(panel.lines) for panel in panels)
    key = 0.35 + 0.17 * most + names_height(run.axis)  # inches under a panel
    width, height = LEFT + 3.3 * columns, TOP + rows * TALL + (rows - 1) * (key + TITLE) + key + FOOT
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(left=LEFT / width, right=0.99, top=1 - TOP / height, bottom=(key + FOOT) / height,
                           hspace=(key + TITLE) / TALL, wspace=0.08)  # fmt: skip
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for i, (axes, panel) in enumerate(zip(grid, panels, strict=False)):
        _draw(axes, run, panel)
        if i % columns == 0:
            axes.set_ylabel("share of answers")
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle(
        "What the answers are like, facet by facet",
        fontsize=12,
        fontweight="bold",
        ha="left",
        x=0.01,
        y=1 - 0.15 / height,
        va="top",
    )
    figure.supxlabel(f"{run.axis.title}\n{_caption(panels)}", fontsize=8, y=0.08 / height, va="bottom")
    return figure


def _draw(axes: Axes, run: Run, panel: FacetPanel) -> None:
    wide = run.axis.limits[1] - run.axis.limits[0]
    for i, (facet, rows) in enumerate(panel.lines.items()):
        shade, marker = panel.shade(facet), MARKERS[panel.places[facet] % len(MARKERS)]
        x = rows["x"] + 0.006 * wide * (i - (len(panel.lines) - 1) / 2)  # intervals side by side
        axes.vlines(x, rows["low"], rows["high"], color=shade, linewidth=1.0, alpha=0.7)
        axes.plot(x, rows["share"], marker=marker, color=shade, linewidth=1.4, markersize=3.5, label=facet)
    axes.set_ylim(-0.02, 1.02)
    axes.set_title(panel.title, fontweight="bold", loc="left", fontsize=9.5, pad=14)
    axes.text(0.0, 1.01, panel.said, transform=axes.transAxes, fontsize=7.5, va="bottom", color="#57606a")
    draw_training_axis(axes, run.axis)
    placed: dict[str, Any] = {
        "loc": "upper left",
        "bbox_to_anchor": (0.0, -(0.25 + names_height(run.axis)) / TALL),
        "borderaxespad": 0.0,
    }
    axes.legend(**placed, ncols=1 if len(panel.lines) < 4 else 2, fontsize=7.5, handlelength=1.4, columnspacing=1.0)


def _caption(panels: list[FacetPanel]) -> str:
    rows = pd.concat([rows for panel in panels for rows in panel.lines.values()])
    totals = numbers(rows, "total").dropna()
    clustered = numbers(rows, "cluster_low").notna().all()
    kind = "by question" if clustered else "by question where known, else Wilson's"
    span = unique([int(totals.min()), int(totals.max())]) if len(totals) else []
    by = unique(rows["judge"].dropna()) if "judge" in rows.columns else []
    labelled = f" Labelled by {', '.join(map(str, by))}." if by else ""
    return f"95 % intervals {kind}; {' to '.join(map(str, span)) or 'unknown numbers of'} answers a point.{labelled}"
