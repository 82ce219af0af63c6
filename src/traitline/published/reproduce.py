"""`reproduce`: a release in, a run directory with tables, audit, figures and report out.

Knows in which order the rooms are asked and which file each table becomes. Leaves every number to them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pyarrow as pa
import yaml
from pyarrow import csv

from traitline.analysis.controls import control_means
from traitline.errors import InputError
from traitline.files import whole_file, write_whole
from traitline.published.answers import Shelf
from traitline.published.consistency import check_consistency
from traitline.published.controls import control_table
from traitline.published.directions import direction_tables
from traitline.published.extraction import extraction_pairs
from traitline.published.facets import facet_table
from traitline.published.importer import effect_tables, lineages
from traitline.published.leaks import leak_table
from traitline.published.release import Release
from traitline.published.significance import significance_table
from traitline.report.page import write_report

LAYERS = (16, 20)
"""The layers of the paper's figures of directions."""
SETTINGS = "study.yaml"
PARTS = ("data", "results")
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Reproduction:
    """What was written.

    Attributes:
        out: the run directory.
        models: the models of the release that were read.
        tables: every table written, by its name.
    """

    out: Path
    models: tuple[str, ...]
    tables: dict[str, pd.DataFrame]

    @property
    def report(self) -> Path:
        """The page to open."""
        return self.out / "report.html"

    @property
    def reports(self) -> list[Path]:
        """The pages of all lineages, the one to open first."""
        return [self.report, *sorted(self.out.glob("report-*.html"))]


def reproduce(
    release: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    layers: Sequence[int] | None = LAYERS,
    tell: Tell = lambda _: None,
) -> Reproduction:
    """Recompute a published release from its raw data, audit it, and write tables, figures and report.

    Args:
        release: the unpacked release, the folder that holds `results` and `data`.
        out: the run directory to write: `tables/*.csv`, `figures/*`, `latex/*.tex`, `report.html`.
        model: the name of a folder in `results` or `data/persona_vectors`; every model without it.
        layers: the layers of the tables of directions; None for all.
        tell: called with a line for each step.

    Raises:
        InputError: no such release or model, no layer that any vector has, or `out` holds something else.
        StoreError: a file cannot be written.
    """
    source, folder = Release(release), Path(out)
    models = source.chosen(model)
    settings = _claim(folder, source, models, layers)
    _write_settings(folder, settings)  # first, so that an interrupted run can be repeated in its folder
    tables = recompute(source, models, layers, tell)
    tell("writing tables, figures and report")
    for name, table in tables.items():
        _write(folder / "tables" / f"{name}.csv", table)
    lines = lineages(tables, models)
    name = lines[0] if len(lines) == 1 else source.root.resolve().name
    _write_settings(folder, {"name": f"{name}, recomputed", **settings})
    write_report(folder)
    return Reproduction(folder, tuple(models), tables)


def recompute(
    source: Release, models: Sequence[str], layers: Sequence[int] | None, tell: Tell = lambda _: None
) -> dict[str, pd.DataFrame]:
    """Return every table of a reproduction, by the name of its file.

    Raises:
        InputError: a layer that the vectors do not have.
    """
    shelves = {name: Shelf(source, name) for name in models}
    tell("recomputing the tables of significance from the judged answers")
    significance = significance_table(source, models, shelves)
    tell("counting accepted pairs")
    pairs = extraction_pairs(source, models)
    tell("comparing vectors")
    tables = {"significance": significance, "extraction_pairs": pairs, **direction_tables(source, models, layers, pairs)}
    tell("reading facets and controls")
    tables["facets"] = facet_table(source, models)
    tables["controls"], tables["real_against_controls"] = control_table(source, models, significance)
    tables["control_means"] = control_means(tables["controls"])
    tell("looking for leaks and contradictions")
    tables["prompt_tails"] = leak_table(source, significance, shelves)
    check_consistency(source, models, significance, shelves)
    tell("testing every comparison over its questions")
    lines = lineages(tables, models)
    parts = [effect_tables(source, name, significance, pairs, tables["controls"], shelves[name]) for name in lines]
    for name in ("emergence", "transfer", "verdicts"):
        tables[name] = pd.concat([part[name] for part in parts], ignore_index=True)
    tables["extraction"] = pairs[pairs["model"].isin(lines)].rename(columns={"model": "lineage"})
    tables["cosine_cross_trait"] = tables["cross_trait"]
    tables["audit"] = source.audit.table()
    return tables


def _write(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, piece by piece: one of every two checkpoints at every layer has millions of rows."""
    with whole_file(path) as file:
        options = csv.WriteOptions(quoting_style="needed")
        csv.write_csv(pa.Table.from_pandas(table, preserve_index=False), file, options)


def _write_settings(folder: Path, settings: dict[str, object]) -> None:
    write_whole(folder / SETTINGS, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def _claim(folder: Path, source: Release, models: Sequence[str], layers: Sequence[int] | None) -> dict[str, object]:
    """Return the settings of this reproduction, having made sure that the folder holds no other one.

    Raises:
        InputError: the folder holds other files, or the reproduction of another release or with other options.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {str(folder)!r} is a file; give a folder")
    if any(folder.resolve().is_relative_to((source.root / part).resolve()) for part in PARTS):
        raise InputError(f"--out {str(folder)!r} lies inside the release, which is only read; give a folder elsewhere")
    settings = {
        "study": {
            "models": list(models),
            "layers": "all" if layers is None else list(layers),
            "release": source.root.resolve().name,
            "release_files": _fingerprint(source),
            "seed": 0,
        },
        "versions": {name: version(name) for name in ("traitline", "numpy", "pandas", "scipy")},
    }
    if not folder.is_dir() or not any(folder.iterdir()):
        return settings
    path = folder / SETTINGS
    try:
        before = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        before = None
    if not isinstance(before, dict) or before.get("study") != settings["study"]:
        raise InputError(
            f"--out {str(folder)!r} holds other files, or a reproduction of another release or with other options, which are "
            "never overwritten; give another folder"
        )
    return settings


def _fingerprint(source: Release) -> str:
    """Return a digest of the names and sizes of the release's files: the same release gives the same one."""
    digest = hashlib.sha256()
    for part in PARTS:
        for path in sorted((source.root / part).rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(source.root).as_posix()}\0{path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]
