"""The activation norms that result tables list: whether they are those of the files they name, and whether they agree.

Knows the columns of norms in the tables of runs and the files of activation norms. Says in the audit what does not fit, once
for a run whose tables repeat each other. Leaves directions over norms to `directions.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from glob import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from traitline.published.answers import Shelf, finite
from traitline.published.release import RESULTS, Release

SAME_NORM = 1e-6
NORM_FILES = {
    "source_activation_norm": "source_norm_file",
    "target_activation_norm": "target_norm_file",
    "activation_norm": "norm_file",
}
"""Columns of norms, and the column that names the file of each."""
TARGET_NORMS = ("target_vector_norm", "target_activation_norm")
SERIES = ("trait", "eval_model", "eval_revision", "layer", "scaling_mode")
TABLES = ("combined_significance.csv", "combined.csv")
"""The tables of a run, the one to name first."""


class Difference(NamedTuple):
    """A norm listed, and the one that the file named has at that layer."""

    file: Path
    layer: float
    listed: float
    held: float


class Norms:
    """The files of activation norms of a release, each read once."""

    def __init__(self) -> None:
        self._read: dict[Path, dict[float, float]] = {}

    def of(self, path: Path) -> dict[float, float]:
        """Return layer -> mean_l2; nothing where the file is missing or cannot be read."""
        if path not in self._read:
            self._read[path] = _norms(path)
        return self._read[path]

    def holding(self, one: Difference) -> set[str]:
        """Return the names of other norm files of the same revision that have the norm listed at its layer."""
        others = one.file.parent.glob(f"{escape(one.file.stem.removesuffix('_norms'))}_*.csv")
        return {other.name for other in others if _same(one.listed, self.of(other).get(one.layer, np.nan))}


def _norms(path: Path) -> dict[float, float]:
    try:
        table = pd.read_csv(path, usecols=["layer", "mean_l2"])
    except (OSError, ValueError):
        return {}
    pairs = zip(finite(table["layer"]).tolist(), finite(table["mean_l2"]).tolist(), strict=True)
    return {layer: norm for layer, norm in pairs if not np.isnan(layer) and norm > 0}


def _same(one: float, other: float) -> bool:
    return bool(abs(one / other - 1) <= SAME_NORM)


def check_norms(release: Release, model: str) -> None:
    """Put into the audit which result tables of a model list norms that fit neither their file nor each other.

    The tables of one run repeat each other: a table is named only for what the ones before it in the run do not show.
    """
    shelf, norms = Shelf(release, model), Norms()
    for run in _runs(release.root / RESULTS / model):
        differing: set[Difference] = set()
        varying: set[str] = set()
        for path in run:
            table = _calibrated(path)
            if table is None:
                continue
            file = release.file(path)
            _unreadable(release, model, file, table)
            found = _differences(shelf, norms, table)
            if not differing.issuperset(found):
                release.audit.add("calibration_norm_differs", file, len(found), _differ(norms, found), model=model)
            differing.update(found)
            for groups in _varying(table):
                own = set(map(str, groups[["min", "max"]].itertuples(name=None)))
                if not own <= varying:
                    count = int((groups["size"] - groups["usual"]).sum())
                    release.audit.add("calibration_norm_varies", file, count, _vary(groups), model=model)
                varying |= own


def _runs(folder: Path) -> Iterator[list[Path]]:
    """Return the tables `combined*.csv` of every run, the one to name first, and every other table alone."""
    runs: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("*.csv")):
        runs.setdefault(path.parent if path.name.startswith("combined") else path, []).append(path)
    for run in runs.values():
        yield sorted(run, key=lambda path: TABLES.index(path.name) if path.name in TABLES else len(TABLES))


def _calibrated(path: Path) -> pd.DataFrame | None:
    """Read a table that lists norms; one that cannot be read is reported by whoever needs it."""
    try:
        columns = set(pd.read_csv(path, nrows=0).columns)
        wanted = "layer" in columns and not columns.isdisjoint((*TARGET_NORMS, *NORM_FILES))
        return pd.read_csv(path, low_memory=False) if wanted else None
    except (OSError, ValueError):
        return None


def _unreadable(release: Release, model: str, file: str, table: pd.DataFrame) -> None:
    """Look for norms and layers that are no numbers."""
    bad = {
        name: int((table[name].notna() & ~(finite(table[name]) > 0)).sum())
        for name in (*NORM_FILES, *TARGET_NORMS)
        if name in table
    }
    bad["layer"] = int((table["layer"].notna() & np.isnan(finite(table["layer"]))).sum())
    count = sum(bad.values())
    if count:
        names = ", ".join(name for name, n in bad.items() if n)
        text = f"cells of {names} hold no finite positive number; the norms of these rows are not compared with anything"
        release.audit.add("unreadable_numbers", file, count, text, model=model)


def _differences(shelf: Shelf, norms: Norms, table: pd.DataFrame) -> list[Difference]:
    """Return every norm listed that differs from that of the file named."""
    found = []
    for norm, named in NORM_FILES.items():
        if norm in table and named in table:
            layers, values = finite(table["layer"]).tolist(), finite(table[norm]).tolist()
            for listed, layer, value in zip(table[named], layers, values, strict=True):
                path = shelf.locate(str(listed))
                held = norms.of(path).get(layer)
                if held is not None and value > 0 and not _same(value, held):
                    found.append(Difference(path, layer, value, held))
    return found


def _differ(norms: Norms, found: list[Difference]) -> str:
    ratios = np.array([one.listed / one.held for one in found])
    elsewhere = sorted(set().union(*(norms.holding(one) for one in set(found))))
    hint = f"; some of the listed values stand in {', '.join(elsewhere)}" if elsewhere else ""
    return (
        f"norms listed are {ratios.min():.3g} to {ratios.max():.3g} times (median {np.median(ratios):.3g}) the mean_l2 "
        f"that the file they name has at that layer{hint}; a dose set by the listed norm is that many times what the "
        "coefficient and the file say"
    )


def _varying(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Return the rows with one target, layer, trait and scaling that list more than one norm of that target, grouped.

    Columns min and max of the norms, size, and usual: how many rows list the most common norm.
    """
    by = [name for name in SERIES if name in table]
    for norm in TARGET_NORMS:
        if norm in table and "eval_revision" in table:
            rows = table[by].assign(value=finite(table[norm]), norm=norm)
            grouped = rows[rows["value"] > 0].groupby([*by, "norm"], dropna=False)["value"]
            groups = grouped.agg(["min", "max", "size"]).assign(usual=grouped.agg(_most_common))
            groups = groups[groups["max"] / groups["min"] - 1 > SAME_NORM]
            if not groups.empty:
                yield groups


def _vary(groups: pd.DataFrame) -> str:
    apart = (groups["max"] / groups["min"] - 1) * 100
    return (
        f"of {int(groups['size'].sum())} rows list another norm than the rest with the same target, layer and trait "
        f"({apart.min():.2g} to {apart.max():.2g} % apart); one coefficient is not one dose in this table"
    )


def _most_common(values: pd.Series) -> int:
    return int(values.value_counts().max())
