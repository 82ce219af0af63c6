"""The figures of a run as files: png, svg and pdf, without a display.

Knows which figures there are and what they are called. Leaves the drawing to `curves.py`, `directions.py` and the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from matplotlib.figure import Figure

from traitline.report.curves import effect_figure
from traitline.report.directions import crossed, heatmaps, norms, trajectories
from traitline.report.facets import facets
from traitline.report.mds import maps
from traitline.report.overview import control_bars, transfer_overview
from traitline.report.panels import panels, targets
from traitline.report.style import save, style
from traitline.report.tables import Run, file_name, read_run

DRAWN: tuple[tuple[str, Callable[[Run], Figure | None]], ...] = (
    ("transfer-overview", transfer_overview),
    ("controls", control_bars),
    ("trajectories", trajectories),
    ("norms", norms),
    ("heatmaps", heatmaps),
    ("maps", maps),
    ("crossed", crossed),
    ("facets", facets),
)


def write_figures(run: Path | Run) -> list[Path]:
    """Write every figure that a run has the tables for into its folder `figures`.

    Returns:
        The files written, three formats a figure; none of what has no table yet.

    Raises:
        InputError: the run directory does not exist.
        StoreError: a file cannot be written.
    """
    found = run if isinstance(run, Run) else read_run(run)
    written: list[Path] = []
    with style():
        for name, figure in _figures(found):
            written += save(figure, found.figures, name)
    return written


def _figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """Yield (file name without ending, figure)."""
    cut = panels(run, "emergence")
    if cut:
        yield "emergence", effect_figure(run, cut, f"When each trait becomes steerable: {run.title}")
    turned = panels(run, "emergence", sign=-1)
    if turned:
        yield "negative", effect_figure(run, turned, f"Steered away from each trait: {run.title}")
    networks = targets(run)
    for target in networks:
        moved = panels(run, "transfer", target=target)
        if moved:
            name = "transfer" if target == networks[0] else f"transfer-{file_name(target)}"
            yield name, effect_figure(run, moved, f"Each checkpoint's vectors on {target}")
    for name, draw in DRAWN:
        figure = draw(run)
        if figure is not None:
            yield name, figure
