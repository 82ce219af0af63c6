"""The tables of what a run's vectors mean, joined from what was kept at each network.

Knows the names of the tables. Leaves what is kept to `meanings.py` and numbers to `analysis/semantics.py`.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from traitline.analysis import semantics
from traitline.study.found import Found
from traitline.study.meanings import DONE, FILES, VOCABULARY


def meaning_tables(found: Found) -> dict[str, pd.DataFrame]:
    """Return the tables of meanings that a run has, by name; none where nothing is kept yet.

    `lens`: top tokens. `lens_drift`: how they change. `lens_words`: where the traits' words stand. `lens_vocabulary`: how many
    tokens are kept. `nearest_texts`: answers at both ends of each vector. `text_correlations`: with the judge's scores.
    """
    networks = [*found.plan.checkpoints, *found.plan.descendants]
    folders = {network.name: found.store.meanings(network.name) for network in networks}
    kept = {name: folder for name, folder in folders.items() if (folder / DONE).is_file()}
    if not kept:
        return {}
    read = {name: _together([folder / f"{name}.csv" for folder in kept.values()], columns) for name, columns in FILES.items()}
    vocabulary = _together([folder / DONE for folder in kept.values()], VOCABULARY)
    tops = read["lens"]
    counts = {str(name): int(n) for name, n in zip(vocabulary["checkpoint"], vocabulary["n_kept"], strict=True) if n == n}
    deep = tops[tops["layer"].isin(found.plan.layers)]
    return {
        "lens": tops,
        "lens_drift": semantics.lens_drift(deep, found.plan.order, counts),
        "lens_words": read["words"],
        "lens_vocabulary": vocabulary,
        "nearest_texts": read["texts"],
        "text_correlations": read["correlations"],
    }


def _together(paths: list[Path], columns: list[str]) -> pd.DataFrame:
    frames = [pd.read_csv(path, dtype={"checkpoint": str}) for path in paths]
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True)[columns] if filled else pd.DataFrame(columns=columns)
