"""The figures of a run as files: png, svg and pdf, without a display.

Knows which figures there are and what they are called. Leaves the drawing to `curves.py`, `directions.py` and the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from matplotlib.figure import Figure

from traitline.report.components import alone, parts, sides
from traitline.report.curves import effect_figure
from traitline.report.descendants import descendants
from traitline.report.directions import crossed, heatmaps, norms, trajectories
from traitline.report.facets import facets
from traitline.report.matched import matched
from traitline.report.mds import maps
from traitline.report.meaning_figures import meanings, tokens
from traitline.report.overview import control_bars, transfer_overview
from traitline.report.panels import panels, targets
from traitline.report.stages import stages
from traitline.report.strategies import strategies
from traitline.report.style import save, style
from traitline.report.tables import Run, file_name, read_run

VECTORS, EFFECTS, MOVED = (
    ("cosine_to_final", "checkpoint"),
    ("emergence", "vector_checkpoint"),
    ("transfer", "vector_checkpoint"),
)
# file name, the table and column of the checkpoints that the figure is over, and who draws it
DRAWN: tuple[tuple[str, tuple[str, str], Callable[[Run], Figure | None]], ...] = (
    ("matched", ("matched", "vector_checkpoint"), matched),
    ("transfer-overview", MOVED, transfer_overview),
    ("controls", EFFECTS, control_bars),
    ("trajectories", VECTORS, trajectories),
    ("norms", VECTORS, norms),
    ("heatmaps", VECTORS, heatmaps),
    ("maps", VECTORS, maps),
    ("crossed", VECTORS, crossed),
    ("facets", ("facets", "checkpoint"), facets),
    ("meaning", ("lens_words", "checkpoint"), meanings),
    ("tokens", ("lens", "checkpoint"), tokens),
    ("shared", ("strategy_parts", "checkpoint"), parts),
    ("neutral", ("neutral_sides", "checkpoint"), sides),
)
# those that compare networks or strategies instead of following a line of checkpoints
COMPARED: tuple[tuple[str, Callable[[Run], Figure | None]], ...] = (
    ("strategies", strategies),
    ("stages", stages),
    ("descendants", descendants),
    ("components", alone),
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
    """Yield (file name without ending, figure), each over the checkpoints it has something to say of."""
    emerged = _over(run, "emergence", "vector_checkpoint")
    cut = panels(emerged, "emergence")
    if cut:
        yield "emergence", effect_figure(emerged, cut, f"When each trait becomes steerable: {run.title}")
    turned = panels(emerged, "emergence", sign=-1)
    if turned:
        yield "negative", effect_figure(emerged, turned, f"Steered away from each trait: {run.title}")
    networks, table = targets(run), run.tables["transfer"]
    for target in networks:
        steered = run.over(table.loc[table["target"] == target, "vector_checkpoint"])
        moved = panels(steered, "transfer", target=target)
        if moved:
            name = "transfer" if target == networks[0] else f"transfer-{file_name(target)}"
            yield name, effect_figure(steered, moved, f"Each checkpoint's vectors on {target}")
    for name, (table_name, column), draw in DRAWN:
        figure = draw(_over(run, table_name, column))
        if figure is not None:
            yield name, figure
    for name, draw in COMPARED:
        figure = draw(run)
        if figure is not None:
            yield name, figure


def _over(run: Run, table: str, column: str) -> Run:
    """Return the run with an axis for the checkpoints of one table."""
    return run.over(run.tables[table][column].dropna().unique())
