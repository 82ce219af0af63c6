"""How every figure looks: colours that colour-blind readers tell apart, type, the training axis, and the three file formats."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from traitline.files import write_whole
from traitline.report.axis import TrainingAxis

FORMATS = ("png", "svg", "pdf")
# Okabe and Ito's palette
COLOURS = {
    "character": "#0072B2",
    "instruction": "#D55E00",
    "forced": "#009E73",
    "dialogue": "#CC79A7",
    "story": "#E69F00",
    "combined": "#56B4E9",
}
OTHERS = ("#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#009E73")
GREY, BAND, INK, ONSET = "#8a8f98", "#c9ccd2", "#24292f", "#F0E442"
DIVERGING = "RdBu_r"
RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "traitline",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "figure.facecolor": "white",
    "text.parse_math": False,
}


def colour(strategy: str, known: Sequence[str] = ()) -> str:
    """Return the colour of a strategy, or of the place it has among `known`."""
    return COLOURS.get(strategy) or OTHERS[list(known).index(strategy) % len(OTHERS) if strategy in known else 0]


def draw_training_axis(axes: Axes, axis: TrainingAxis, *, labelled: bool = True) -> None:
    """Give axes the training axis, with a mark where it is broken."""
    places = [place for place, _ in axis.ticks]
    axes.set_xlim(*axis.limits)
    axes.set_xticks(places, [label for _, label in axis.ticks] if labelled else [""] * len(places))
    if labelled and not axis.in_tokens:
        axes.tick_params(axis="x", labelrotation=40)
    if axis.gap is not None:
        mark: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "center", "fontsize": 8}
        axes.text(axis.gap, 0.0, "//", **mark, color=GREY, zorder=9, bbox=_white())


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure in every format, each whole or not at all."""
    written = []
    for form in FORMATS:
        content = io.BytesIO()
        metadata = {"Date": None} if form == "svg" else {"CreationDate": None} if form == "pdf" else {}
        figure.savefig(content, format=form, dpi=160, bbox_inches="tight", pad_inches=0.12, metadata=metadata)
        path = folder / f"{name}.{form}"
        write_whole(path, content.getvalue())
        written.append(path)
    figure.clear()
    return written


def style() -> Any:
    """Return the context in which figures are made."""
    return mpl.rc_context(RC)


def _white() -> dict[str, Any]:
    return {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
