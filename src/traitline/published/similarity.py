"""The authors' own tables of cosines, held against the published vectors.

Knows the files `results/MODEL/.../vector_similarity/vector_cosine_KIND_NAME_layerLAYER.csv`: pairs of checkpoints, cosines to
the final one, or a square. Leaves the vectors to `vector_files.py` and the geometry to `analysis/geometry.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from traitline.analysis import geometry
from traitline.published.columns import note_unknown, read_numbers
from traitline.published.release import FINAL, RESULTS, Release
from traitline.published.vector_files import Vectors

FILE = re.compile(r"vector_cosine_(?:sim|to_main|sequential)_(?P<name>.+)_layer(?P<layer>[0-9]{1,3})")
PAIR, LINE = ("source_revision", "target_revision"), "revision"
COSINE = "cosine"
"""What the name of the column of cosines holds."""
SAME = 1e-5
"""Cosines closer than this are the same; theirs were computed in float32."""


def check_similarities(release: Release, vectors: Vectors) -> None:
    """Compare the authors' tables of cosines, at their own layers, with the published vectors; note where they differ."""
    for path in sorted((release.root / RESULTS / vectors.model).rglob("vector_similarity/*.csv")):
        named = FILE.fullmatch(path.stem)
        name = release.split(named["name"]) if named else ("", "")
        if named is None or name not in vectors.arrays or int(named["layer"]) >= vectors.depth:
            continue
        table = release.table(path, (), model=vectors.model)
        pairs = None if table is None else _pairs(release, path, table, vectors.model)
        if pairs is None:
            continue
        here = vectors.padded(name, [int(named["layer"])])
        square = geometry.cosine_matrix(here, trait="", strategy="")["cosine"].to_numpy().reshape(len(here), len(here))
        known = pairs[pairs["a"].isin(list(here)) & pairs["b"].isin(list(here))]
        index = {revision: i for i, revision in enumerate(here)}
        ours = square[known["a"].map(index).to_numpy(dtype=np.intp), known["b"].map(index).to_numpy(dtype=np.intp)]
        off = np.abs(known["cosine"].to_numpy() - ours)
        count = int((off > SAME).sum())
        if count:
            text = (
                f"{count} of the {int(np.isfinite(off).sum())} cosines that the published vectors give differ, by up to "
                f"{np.nanmax(off):.3f}; the table was made from other vectors than the published ones"
            )
            release.audit.add("published_cosine_differs", release.file(path), count, text, model=vectors.model)


def _pairs(release: Release, path: Path, table: pd.DataFrame, model: str) -> pd.DataFrame | None:
    """Return a table of cosines as columns a, b, cosine, NaN where a cell holds none; None where it has no such column.

    It lists pairs, cosines to the final checkpoint, or is a square: names in its first column and over its columns.
    """
    names = next(([*found] for found in (PAIR, (LINE,)) if {*found} <= {*table.columns}), None)
    if names is None:
        names, rows = [table.columns[0]], {*table.iloc[:, 0].astype(str)}
        values = [name for name in table.columns[1:] if name in rows]
    else:
        values = [name for name in table.columns if name not in names and COSINE in name.lower()][:1]
    if not values:
        text = "no column holds cosines; the table is not checked"
        release.audit.add("missing_columns", release.file(path), 1, text, model=model)
        return None
    note_unknown(release, path, table.columns, (*names, *values), model=model)
    cosines = read_numbers(release, path, table, values, "these cosines are not checked", model=model)
    first, *second = (table[name].astype(str).to_numpy() for name in names)
    last = FINAL if names == [LINE] else second[0] if second else np.tile(values, len(table))
    return pd.DataFrame({"a": np.repeat(first, len(values)), "b": last, "cosine": cosines.ravel()})
