"""The control vectors of a release against the real ones: random and shuffled directions of the same length.

Knows the tables `results/MODEL/controls/RUN/combined.csv`: one row per control, its kind (`mode`), seed and delta. Pairs each
with the comparison steered by the real vector of the same trait, strategy, checkpoint, layer and coefficient. Leaves
recomputing the real ones to `significance.py`; the answers of the controls themselves are read by nobody, most are unpublished.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from traitline.analysis.effects import TABLE_COLUMNS
from traitline.published.answers import Shelf, finite
from traitline.published.columns import note_unknown
from traitline.published.release import RESULTS, VECTORS, Release

FOLDER, FILE = "controls", "combined.csv"
NEEDED = ("revision", "mode", "seed", "trait", "layer", "coef", "delta_trait_mean")
NUMBERS = {
    "layer": "layer",
    "coef": "coef",
    "control_seed": "seed",
    "baseline_trait": "baseline_trait_mean",
    "steered_trait": "output_trait_mean",
    "delta_trait": "delta_trait_mean",
    "baseline_coherence": "baseline_coherence_mean",
    "steered_coherence": "output_coherence_mean",
    "delta_coherence": "delta_coherence_mean",
    "p_two_sided": "trait_primary_p_two_sided",
}
"""Column of the table of controls -> column of the release."""
LISTED_FILES = ("baseline_csv", "output_csv")
REAL = ["real_run", "real_delta_trait", "real_p_two_sided", "real_delta_coherence", "real_baseline_trait"]
COLUMNS = [*TABLE_COLUMNS, "run", *REAL]
MATCH = ["trait", "strategy", "vector_checkpoint", "layer", "coef"]
CELL = ["model", "trait", "strategy", "checkpoint", "layer", "coef"]
MEANS_COLUMNS = [
    *["model", "trait", "strategy", "checkpoint", "tokens", "layer", "coef", "kind", "n_controls"],
    *["mean", "ci_low", "ci_high", "smallest", "largest"],
    *["real_delta_trait", "n_at_or_above", "share_at_or_above", "p_rank", "real_exceeds_all"],
]
ALL = "all"
TRUST = ("match", "double_counted", "baseline_overwritten", "differs", "raw_missing")
"""Statuses of a published comparison, the best reproduced first."""
LEVEL = 0.05
LARGEST = 1e9
"""Numbers this large or larger are no scores, layers or seeds."""
DIGITS = 9
"""Layers and coefficients that agree to so many decimals are the same."""
ROUNDING = 1e-6
"""Means closer than this are the same."""


def control_table(release: Release, models: Sequence[str], significance: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the controls of these models, one by one and together, beside the real comparisons.

    Args:
        release: the release.
        models: whose results.
        significance: the recomputed comparisons, as `significance_table` returns them.

    Returns:
        The controls: `COLUMNS`, those of an effect table with the published numbers, what the release does not tell left
        empty, and the real comparison beside each, empty where none is published. Its delta counts every row once where that
        could be recomputed. And their summary: `MEANS_COLUMNS`, one row per checkpoint, layer, coefficient and kind of
        control, and one for all kinds; the interval is Student's over controls, and does not hold the chance of the baseline
        that they share. `p_rank` is the share of controls, the real one counted among them, that reach the real delta.
    """
    parts = [part for model in models for part in _of_model(release, model, significance)]
    if not parts:
        return pd.DataFrame(columns=COLUMNS), pd.DataFrame(columns=MEANS_COLUMNS)
    controls = pd.concat(parts, ignore_index=True)
    for name in ("layer", "control_seed"):
        if (controls[name].dropna() % 1 == 0).all():
            controls[name] = controls[name].astype("Int64")
    return controls, _means(controls)


def _of_model(release: Release, model: str, significance: pd.DataFrame) -> Iterator[pd.DataFrame]:
    folder = release.root / RESULTS / model / FOLDER
    if not folder.is_dir():
        if (release.root / VECTORS / model).is_dir():
            text = "there are no controls; the real deltas of this model are held against none"
            release.audit.add("missing_folder", release.file(folder), 1, text, model=model)
        return
    real = _real(significance[significance["model"] == model])
    parts = []
    for run in sorted(path for path in folder.iterdir() if path.is_dir()):
        table = release.table(run / FILE, NEEDED, model=model)
        if table is None:
            continue
        controls = _effects(release, model, table).assign(run=run.name)
        controls = controls.merge(real, on=MATCH, how="left")
        _note(release, model, release.file(run / FILE), controls)
        _note_files(release, model, run / FILE, table)
        parts.append(controls)
    if parts:
        _note_baselines(release, model, release.file(folder), pd.concat(parts, ignore_index=True))
    yield from (part.reindex(columns=COLUMNS) for part in parts)


def _effects(release: Release, model: str, table: pd.DataFrame) -> pd.DataFrame:
    """Return a published table in the columns of an effect table."""
    numbers = {name: _numbers(table, column) for name, column in NUMBERS.items()}
    numbers |= {name: numbers[name].round(DIGITS) for name in ("layer", "coef")}
    named = {name: _texts(table[name]) for name in ("trait", "revision", "mode")}
    split = {name: release.split(name) for name in named["trait"].unique()}
    tokens = {name: release.tokens(model, name) for name in named["revision"].unique()}
    texts = {
        "lineage": model,
        "trait": named["trait"].map(lambda name: split[name][0]),
        "strategy": named["trait"].map(lambda name: split[name][1]),
        "vector_checkpoint": named["revision"],
        "tokens": named["revision"].map(tokens),
        "target": named["revision"],
        "dose": "norm",
        "positions": "",
        "status": np.where(np.isnan(numbers["delta_trait"]), "failed", "complete"),
        "condition": named["mode"],
        "control_kind": named["mode"],
    }
    counts = {name: pd.array([pd.NA] * len(table), dtype="Int64") for name in TABLE_COLUMNS if name.startswith("n_")}
    return pd.DataFrame({**texts, **numbers, **counts}, index=table.index).reindex(columns=TABLE_COLUMNS)


def _texts(column: pd.Series) -> pd.Series:
    return column.astype(object).where(column.notna(), "").astype(str)


def _numbers(table: pd.DataFrame, column: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a column as floats, NaN where missing, absurdly large or not published at all."""
    if column not in table.columns:
        return np.full(len(table), np.nan)
    values = finite(table[column])
    return np.where(np.abs(values) < LARGEST, values, np.nan)


def _real(significance: pd.DataFrame) -> pd.DataFrame:
    """Return one comparison per trait, strategy, checkpoint, layer and coefficient: the vector steering its own checkpoint.

    Of several, the best reproduced is taken, then the first.
    """
    own = significance["extract_revision"] == significance["eval_revision"]
    own &= significance["eval_model"].isin(["", *significance["model"]]) | significance["eval_model"].isna()
    rows = significance[own].rename(columns={"extract_revision": "vector_checkpoint", "run": "real_run"})
    trust = rows["status"].map({name: i for i, name in enumerate(TRUST)}).fillna(len(TRUST))
    rows = rows.iloc[np.argsort(trust.to_numpy(dtype=np.float64), kind="stable")]
    found = rows[["real_run", *MATCH]].copy()
    for name in ("layer", "coef"):
        found[name] = _known(rows, name).round(DIGITS)
    for name in ("trait", "strategy", "vector_checkpoint"):
        found[name] = _texts(found[name])
    for name, statistic in zip(REAL[1:4], ("delta_trait_mean", "p_two_sided", "delta_coherence_mean"), strict=True):
        found[name] = _known(rows, f"honest_{statistic}").fillna(_known(rows, f"published_{statistic}"))
    found["real_baseline_trait"] = _known(rows, "published_baseline_trait")
    found = found[found["real_delta_trait"].notna()]
    deltas = found.groupby(MATCH)["real_delta_trait"]
    return found.assign(spread=deltas.transform("max") - deltas.transform("min")).drop_duplicates(MATCH)


def _known(rows: pd.DataFrame, column: str) -> pd.Series:
    return pd.Series(_numbers(rows, column), index=rows.index)


def _note(release: Release, model: str, file: str, controls: pd.DataFrame) -> None:
    """Say in the audit what the controls of one run cannot be used for."""

    def add(kind: str, count: int, text: str) -> None:
        if count:
            release.audit.add(kind, file, count, text, model=model)

    delta, real = controls["delta_trait"], controls["real_delta_trait"]
    add("missing_scores", int(delta.isna().sum()), "no delta; these controls are in no mean")
    identity = ["trait", "strategy", "vector_checkpoint", "layer", "coef", "control_kind", "control_seed"]
    text = "the same kind and seed of control is listed again; it counts more than once"
    add("duplicated_rows", int(controls.duplicated(identity).sum()), text)
    alone = controls[real.isna()]
    text = f"no comparison with the real vector is published at {_doses(alone)}; these controls are held against nothing"
    add("control_without_real", len(alone), text)
    above = controls[delta.abs() > real.abs()]
    text = (
        f"as far from zero as the real delta or farther, at {_names(above)}: there the real vector does no more than a "
        "direction without meaning"
    )
    add("control_above_real", len(above), text)
    several = controls[controls["spread"] > ROUNDING]
    text = (
        f"several comparisons with the real vector are published at {_names(several)}, up to {several['spread'].max():.1f} "
        f"points apart; that of run {', '.join(several['real_run'].unique())} is used"
    )
    add("several_real_comparisons", len(several), text)
    apart = (controls["baseline_trait"] - controls["real_baseline_trait"]).abs()
    text = (
        f"the controls' baseline is another sample than the real comparison's (up to {apart.max():.1f} points apart at "
        f"{_names(controls[apart == apart.max()])}); real and control deltas are not over the same unsteered answers"
    )
    add("control_baseline_differs", int((apart > ROUNDING).sum()), text)
    off = (controls["steered_trait"] - controls["baseline_trait"] - delta).abs() > ROUNDING
    add("delta_disagrees", int(off.sum()), "the listed delta is not steered minus baseline; the listed one is used")
    tests = int(controls["p_two_sided"].notna().sum())
    text = f"of {tests} controls p < {LEVEL:g}; by chance alone about {LEVEL * tests:.1f} would be: directions without meaning"
    add("control_significant", int((controls["p_two_sided"] < LEVEL).sum()), text)
    unknown = [name for name in controls["vector_checkpoint"].unique() if release.place(model, name) is None]
    text = f"nothing tells where {', '.join(map(repr, unknown))} stands in training; its controls have no tokens"
    add("unreadable_revision", len(unknown), text)


def _note_baselines(release: Release, model: str, folder: str, controls: pd.DataFrame) -> None:
    """Say how far the baselines of one checkpoint lie apart, where it was sampled for several runs, and what that does."""
    cells = controls.dropna(subset=["baseline_trait"]).groupby(["trait", "strategy", "vector_checkpoint"])["baseline_trait"]
    spread = (cells.max() - cells.min()).sort_values()
    spread = spread[spread > ROUNDING]
    if spread.empty:
        return
    text = (
        f"the runs drew other baselines of the same network: up to {spread.iloc[-1]:.1f} points apart (median "
        f"{spread.median():.1f}, largest for {spread.index[-1][0]} at {spread.index[-1][2]}); all controls of a run share "
        "one, so its chance moves their deltas together and the interval over controls does not hold it"
    )
    release.audit.add("control_baselines_vary", folder, len(spread), text, model=model)


def _note_files(release: Release, model: str, path: Path, table: pd.DataFrame) -> None:
    """Say which columns nobody knows, and how many of the files of answers that a run lists are not published."""
    note_unknown(release, path, table.columns, {*NEEDED, *NUMBERS.values(), *LISTED_FILES}, model=model)
    shelf = Shelf(release, model)
    listed = {str(name) for column in LISTED_FILES if column in table for name in table[column].dropna()}
    absent = [name for name in listed if not shelf.exists(name)]
    if absent:
        text = (
            f"{len(absent)} of the {len(listed)} files of answers it lists are not published; its deltas cannot be recomputed"
        )
        release.audit.add("raw_missing", release.file(path), len(absent), text, model=model)


def _names(rows: pd.DataFrame) -> str:
    return ", ".join(rows["vector_checkpoint"].unique())


def _doses(rows: pd.DataFrame) -> str:
    doses = rows[["layer", "coef"]].drop_duplicates().itertuples(index=False)
    return ", ".join(f"layer {layer:g}, coef {coef:g}" for layer, coef in doses)


def _means(controls: pd.DataFrame) -> pd.DataFrame:
    """Summarise the controls of every kind, and all together, held against the real delta."""
    known = controls[controls["delta_trait"].notna()].rename(columns={"lineage": "model", "vector_checkpoint": "checkpoint"})
    rows = []
    for cell, group in known.groupby(CELL, sort=False):
        kinds = {str(kind): part for kind, part in group.groupby("control_kind", sort=False)}
        for kind, part in {**kinds, ALL: group}.items():
            identity = dict(zip(CELL, cell, strict=True)) | {"tokens": part["tokens"].iloc[0], "kind": kind}
            rows.append({**identity, **_summary(part["delta_trait"].to_numpy(), float(part["real_delta_trait"].iloc[0]))})
    return pd.DataFrame(rows, columns=MEANS_COLUMNS).astype({"real_exceeds_all": "boolean"})


def _summary(deltas: np.ndarray[Any, np.dtype[np.float64]], real: float) -> dict[str, Any]:
    n, mean = deltas.size, float(deltas.mean())
    half = math.nan
    if n > 1:
        half = float(special.stdtrit(n - 1, 0.975)) * float(deltas.std(ddof=1)) / math.sqrt(n)
    summary = {"n_controls": n, "mean": mean, "ci_low": mean - half, "ci_high": mean + half}
    summary |= {"smallest": float(deltas.min()), "largest": float(deltas.max()), "real_delta_trait": real}
    if math.isnan(real):
        return summary | {"real_exceeds_all": pd.NA}
    above = int((deltas >= real).sum())
    shares = {"n_at_or_above": above, "share_at_or_above": above / n, "p_rank": (above + 1) / (n + 1)}
    return summary | shares | {"real_exceeds_all": above == 0}
