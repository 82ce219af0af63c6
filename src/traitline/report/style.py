"""How every figure looks: colours that colour-blind readers tell apart, type, the training axis, and the three file formats."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from traitline.files import write_whole
from traitline.report.axis import TrainingAxis

FORMATS = ("png", "svg", "pdf")
MARGIN = 0.12  # inches
LETTER = 0.016  # of the narrowest panel, for a letter of a stage's name
# Okabe and Ito's palette
COLOURS = {
    "character": "#0072B2",
    "instruction": "#D55E00",
    "forced": "#009E73",
    "dialogue": "#CC79A7",
    "story": "#E69F00",
    "combined": "#56B4E9",
    "": "#4b5563",
}
OTHERS = ("#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#009E73")
GREY, BAND, INK, ONSET = "#8a8f98", "#c9ccd2", "#24292f", "#F0E442"
STAGE = "#f1f3f6"
FACETS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4b5563")
DIVERGING = "RdBu_r"
SEQUENTIAL = "viridis"
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
    """Return the colour of a strategy: its own, that of the known one its name begins with, or one that none of `known` has.

    Names in releases carry endings, as in `character_neutral_q` or `stories_neutral_q`.
    """
    own = _known_colour(strategy)
    if own is not None:
        return own
    strangers = [name for name in known if _known_colour(name) is None]
    taken = {_known_colour(name) for name in known}
    free = [one for one in OTHERS if one not in taken] or list(OTHERS)
    return free[strangers.index(strategy) % len(free) if strategy in strangers else 0]


def _known_colour(strategy: str) -> str | None:
    if strategy in COLOURS:
        return COLOURS[strategy]
    words = re.split(r"[^a-z]+", strategy.lower())
    plurals = {name: (name, f"{name}s", re.sub("y$", "ies", name)) for name in COLOURS if name}
    return next((COLOURS[name] for name, forms in plurals.items() if words[0] in forms), None)


def draw_training_axis(axes: Axes, axis: TrainingAxis, *, labelled: bool = True) -> None:
    """Give axes the training axis: shaded stages, a mark where it is broken, upright names for evenly spaced checkpoints."""
    ticks = [*axis.ticks, *axis.slots]
    axes.set_xlim(*axis.limits)
    axes.set_xticks([place for place, _ in ticks], [label for _, label in ticks] if labelled else None)
    axes.tick_params(axis="x", labelbottom=labelled)
    if labelled:
        for label in axes.get_xticklabels()[len(axis.ticks) if axis.in_tokens else 0 :]:
            label.set(rotation=90, fontsize=6.5)
    for gap in axis.gaps:
        mark: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "center", "fontsize": 8}
        axes.text(gap, 0.0, "//", **mark, color=GREY, zorder=9, bbox=_white())
    for i, band in enumerate(axis.stages):
        if i % 2 == 0:
            axes.axvspan(band.low, band.high, color=STAGE, linewidth=0, zorder=-5)
        share = (band.high - band.low) / (axis.limits[1] - axis.limits[0])
        if band.name not in {label for _, label in axis.slots} and share >= LETTER * (len(band.name) + 1):
            where: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": "left", "va": "top", "fontsize": 6.5}
            axes.text(band.low, 0.99, f" {band.name}", **where, color=GREY, zorder=0)


def names_height(axis: TrainingAxis) -> float:
    """Return the inches that the upright names under an axis need; 0 where there are none."""
    upright = axis.slots if axis.in_tokens else axis.ticks
    return 0.05 * max((len(label) for _, label in upright), default=0)


def foot(figure: Figure, text: str, marks: Sequence[Artist]) -> None:
    """Put the title of the training axis and the key under a figure."""
    columns = max(1, min(len(marks), int(figure.get_figwidth() / 2.0)))
    key = figure.legend(handles=list(marks), loc="outside lower center", ncols=columns, title=text, title_fontsize=8.5)
    key.get_title().set_multialignment("center")


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure in every format, each whole or not at all."""
    written = []
    canvas = FigureCanvasAgg(figure)
    engine = figure.get_layout_engine()  # layout and extent are found once, for all formats
    if engine is not None:
        engine.execute(figure)
    figure.set_layout_engine(None)  # with an engine, even one that does nothing, each format would be drawn twice
    extent = figure.get_tightbbox(canvas.get_renderer()).padded(MARGIN)  # type: ignore[no-untyped-call]
    for form in FORMATS:
        content = io.BytesIO()
        metadata = {"Date": None} if form == "svg" else {"CreationDate": None} if form == "pdf" else {}
        figure.savefig(content, format=form, dpi=160, bbox_inches=extent, metadata=metadata)
        path = folder / f"{name}.{form}"
        write_whole(path, content.getvalue())
        written.append(path)
    return written


def style() -> Any:
    """Return the context in which figures are made."""
    return mpl.rc_context(RC)


def _white() -> dict[str, Any]:
    return {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
