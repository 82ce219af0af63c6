"""How the published vectors lie to each other: along training, across traits, across strategies.

Knows which vectors are compared, and the activation norms beside them. Leaves the `.pt` files to `vector_files.py`, the
authors' own tables of cosines to `similarity.py`, the geometry to `analysis/geometry.py`, and which accepted pairs a vector
rests on to `extraction.py`. A vector that cannot be used keeps its rows, with empty numbers.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from traitline.analysis import geometry
from traitline.errors import InputError
from traitline.published.columns import note_unknown, read_numbers
from traitline.published.release import FINAL, RESULTS, VECTORS, Release
from traitline.published.similarity import check_similarities
from traitline.published.vector_files import Name, Vectors, listed, read_vectors

Floats = NDArray[np.float64]
# the norms that steering across checkpoints was calibrated with, the same texts everywhere; then the older ones
NORM_ENDINGS = ("_shared_norms.csv", "_norms.csv")
NORM_COLUMNS = ("layer", "mean_l2", "std_l2", "count")
SAME_NORM = 0.01
MATRIX = ["model", "trait", "strategy", "layer", "checkpoint_a", "checkpoint_b", "cosine"]
COLUMNS: dict[str, list[str]] = {
    "cosine_matrix": MATRIX,
    "cosine_to_final": [
        *("model", "trait", "strategy", "checkpoint", "previous", "tokens", "n_pairs", "layer", "l2_norm"),
        *("norm_over_activation_norm", "reliability", "cosine_to_final", "corrected_to_final", "cosine_to_previous"),
        *("corrected_to_previous", "final", "norm_file"),
    ],
    "cross_trait": ["model", "checkpoint", "layer", "trait_a", "strategy_a", "trait_b", "strategy_b", "cosine"],
    "cosine_cross_strategy": ["model", "checkpoint", "trait", "layer", "strategy_a", "strategy_b", "cosine"],
    "same_weights": MATRIX,
}


def direction_tables(
    release: Release, models: Sequence[str], layers: Sequence[int] | None, pairs: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Compare the vectors of every model: along training, across traits, across strategies.

    The final vector of a trait is that of `main` where there is a file of it, readable or not, else the last in order of
    training; `final` names it. The previous one is the nearest earlier checkpoint with a vector. A revision whose name cannot
    be read stands last in the matrices and in no trajectory.

    Args:
        release: the release; what is wrong with its files goes into its audit.
        models: the models wanted.
        layers: the layers wanted, 0 for the embeddings; all of them without it. Those a model lacks are left out of it.
        pairs: the table of `extraction_pairs`, for the accepted pairs.

    Returns:
        Name -> table, with the columns of `COLUMNS`. `strategies` compares the strategies of a trait at the last checkpoint
        that has several; `same_weights` compares checkpoints that hold the same weights, which is what extracting anew costs.

    Raises:
        InputError: not one of the layers is in any model.
    """
    parts: list[dict[str, pd.DataFrame]] = []
    depths: dict[str, int] = {}
    for vectors in (read for model in models if (read := read_vectors(release, model)).shape is not None):
        depths[vectors.model] = vectors.depth
        wanted = [layer for layer in range(vectors.depth) if layers is None or layer in layers]
        lacking = [layer for layer in dict.fromkeys(layers or ()) if layer not in wanted]
        if lacking:
            text = f"its vectors have layers 0 to {vectors.depth - 1} and not {listed(lacking)}, which are left out"
            release.audit.add("layer_out_of_range", "", len(lacking), text, model=vectors.model)
        if wanted:
            parts.append(_tables(release, vectors, wanted, pairs))
        check_similarities(release, vectors)
    if layers and depths and not parts:
        last = max(depths.values()) - 1
        text = (
            f"layers {listed(dict.fromkeys(layers))} are out of range; the vectors of {listed(depths)} have layers 0 to {last}"
        )
        raise InputError(text)
    return {name: _stacked([part[name] for part in parts], columns) for name, columns in COLUMNS.items()}


def _tables(release: Release, vectors: Vectors, layers: list[int], pairs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Compare the vectors of one model at some layers."""
    revisions = {revision for named in vectors.arrays.values() for revision, array in named.items() if array is not None}
    norms = _activation_norms(release, vectors, release.ordered(vectors.model, revisions))
    twins = _same_weights(release, vectors, norms)
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in COLUMNS}
    for name in vectors.arrays:
        identity = {"trait": name[0], "strategy": name[1]}
        padded = vectors.padded(name, layers)
        parts["cosine_matrix"].append(geometry.cosine_matrix(padded, trait=name[0], strategy=name[1]))
        parts["cosine_to_final"].append(_trajectory(release, vectors, name, layers, pairs, norms))
        for a, b in twins:
            if a in padded and b in padded:
                cosine = {"layer": np.arange(len(layers)), "cosine": geometry.cosines(padded[a], padded[b])}
                parts["same_weights"].append(pd.DataFrame({**identity, "checkpoint_a": a, "checkpoint_b": b, **cosine}))
    crossed = geometry.cross_trait({name: vectors.usable(name, layers) for name in vectors.arrays})
    order = pd.CategoricalDtype(release.ordered(vectors.model, revisions), ordered=True)
    crossed["checkpoint"] = crossed["checkpoint"].astype(order)
    parts["cross_trait"].append(crossed.sort_values("checkpoint", kind="stable"))
    parts["cosine_cross_strategy"].append(_strategies(crossed, vectors.places))
    tables = {name: _stacked(part, [column for column in COLUMNS[name] if column != "model"]) for name, part in parts.items()}
    index = np.asarray(layers, dtype=np.int32)
    for table in tables.values():  # the rooms above count layers among those wanted
        table["layer"] = index[table["layer"].to_numpy(dtype=np.intp)] if len(table) else table["layer"]
        table["model"] = pd.Series([vectors.model], dtype="category").repeat(len(table)).reset_index(drop=True)
    return tables


def _trajectory(
    release: Release,
    vectors: Vectors,
    name: Name,
    layers: list[int],
    pairs: pd.DataFrame,
    norms: Mapping[str, tuple[Floats, str]],
) -> pd.DataFrame:
    """Return the cosines of one trait along training; checkpoints without a vector that can be used have empty numbers."""
    order = [revision for revision in vectors.arrays[name] if revision in vectors.places]
    usable = {key: array for key, array in vectors.usable(name, layers).items() if key in vectors.places}
    ends = [revision for revision in order if revision in usable or revision == FINAL]
    if not ends:
        return pd.DataFrame(columns=COLUMNS["cosine_to_final"])
    identity = {"trait": name[0], "strategy": name[1]}
    mine = pairs[(pairs["model"] == vectors.model) & (pairs["trait"] == name[0]) & (pairs["strategy"] == name[1])]
    mine = mine.dropna(subset=["n_pairs"])
    counts = {str(revision): int(n) for revision, n in zip(mine["checkpoint"], mine["n_pairs"], strict=True)}
    void = [revision for revision in order if revision not in usable]
    parts = []
    if usable:
        last = order.index(ends[-1]) + 1
        line = geometry.cosine_to_final(
            usable,
            order[:last],
            tokens=vectors.places,
            n_pairs=counts,
            activation_norms={revision: norms[revision][0][layers] for revision in usable},
            trait=name[0],
            strategy=name[1],
        )
        parts.append(line.assign(norm_file=line["checkpoint"].map({key: file for key, (_, file) in norms.items()})))
    for revision in void:
        facts = {"checkpoint": revision, "tokens": vectors.places[revision], "n_pairs": counts.get(revision)}
        parts.append(pd.DataFrame({**identity, **facts, "layer": np.arange(len(layers))}))
    table = pd.concat(parts, ignore_index=True).reindex(columns=COLUMNS["cosine_to_final"][1:])
    table["final"] = ends[-1]
    table["n_pairs"] = pd.to_numeric(table["n_pairs"]).astype("Int64")
    numbers = table.columns[table.columns.get_loc("l2_norm") : table.columns.get_loc("final")]
    table[numbers] = table[numbers].astype(np.float64)
    places = {revision: i for i, revision in enumerate(order)}
    if usable and ends[-1] not in usable:
        text = f"the vector of {ends[-1]}, to which the others are compared, cannot be used; cosines to the final are empty"
        file = (VECTORS / vectors.model / ends[-1]).as_posix()
        release.audit.add("no_final_vector", file, len(usable), f"{name[0]} {name[1]}: {text}", model=vectors.model)
    return table.sort_values("checkpoint", key=lambda column: column.map(places), kind="stable", ignore_index=True)


def _activation_norms(release: Release, vectors: Vectors, revisions: Sequence[str]) -> dict[str, tuple[Floats, str]]:
    """Return revision -> (`[layers + 1]`, file): the norms all checkpoints share, or the older ones where there are none."""
    norms = {revision: _norms_of(release, vectors, revision) for revision in revisions}
    folder = (RESULTS / vectors.model / "activation_norms").as_posix()
    lacking = [revision for revision, (_, file) in norms.items() if not file]
    older = [revision for revision, (_, file) in norms.items() if file and not file.endswith(NORM_ENDINGS[0])]
    if lacking:
        text = f"no activation norms for {listed(lacking)}; the norms of their vectors are not set in relation to any"
        release.audit.add("no_activation_norm", folder, len(lacking), text, model=vectors.model)
    if older and len(older) + len(lacking) < len(norms):
        text = f"no *{NORM_ENDINGS[0]} for {listed(older)}; their ratios use norms over other texts than the rest"
        release.audit.add("other_activation_norm", folder, len(older), text, model=vectors.model)
    return norms


def _norms_of(release: Release, vectors: Vectors, revision: str) -> tuple[Floats, str]:
    """Return the norms of a checkpoint and their file, NaN and no name where none of its files holds any."""
    norms = np.full(vectors.depth, np.nan)
    for ending in NORM_ENDINGS:
        path = release.root / RESULTS / vectors.model / "activation_norms" / f"{revision}{ending}"
        table = release.table(path, NORM_COLUMNS[:2], model=vectors.model) if os.path.isfile(path) else None
        if table is None:
            continue
        note_unknown(release, path, table.columns, NORM_COLUMNS, model=vectors.model)
        text = "these layers have no ratio of norms; a file without any usable norm is passed over for the next kind"
        layers, values = read_numbers(release, path, table, NORM_COLUMNS[:2], text, model=vectors.model).T
        used = np.isin(layers, range(vectors.depth)) & np.isfinite(values)
        if used.any():
            norms[layers[used].astype(np.intp)] = values[used]
            return norms, release.file(path)
    return norms, ""


def _same_weights(release: Release, vectors: Vectors, norms: Mapping[str, tuple[Floats, str]]) -> list[tuple[str, str]]:
    """Return the pairs of checkpoints that hold the same weights: after the same tokens, and nothing speaks against it.

    Two runs may have seen as many tokens; then their activation norms differ.
    """
    seen: dict[float, list[str]] = {}
    for revision in release.ordered(vectors.model, vectors.places):
        if revision in norms and np.isfinite(vectors.places[revision]):
            seen.setdefault(vectors.places[revision], []).append(revision)
    found = []
    for a, b in (pair for alike in seen.values() for pair in itertools.combinations(alike, 2)):
        with np.errstate(invalid="ignore", divide="ignore"):
            off = np.abs(norms[a][0] / norms[b][0] - 1)
        if np.nanmax(np.append(off, 0.0)) <= SAME_NORM:
            found.append((a, b))
        else:
            text = f"{a} and {b} have seen as many tokens, and their activation norms differ; not taken for the same weights"
            release.audit.add(
                "same_tokens_other_weights", (VECTORS / vectors.model / b).as_posix(), 1, text, model=vectors.model
            )
    return found


def _strategies(crossed: pd.DataFrame, places: Mapping[str, float]) -> pd.DataFrame:
    """Return the strategies of each trait against each other, at the last checkpoint that has several."""
    same = crossed[crossed["trait_a"].astype(str) == crossed["trait_b"].astype(str)]
    known = same[same["checkpoint"].isin(list(places))]
    same = known if len(known) else same
    last = same.groupby("trait_a", observed=True)["checkpoint"].transform("max") if len(same) else same["checkpoint"]
    at_last = same[same["checkpoint"] == last]
    return at_last.rename(columns={"trait_a": "trait"})[COLUMNS["cosine_cross_strategy"][1:]]


def _stacked(parts: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """Put tables below each other; columns of names keep one set of names, and a number a row."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return pd.DataFrame(columns=list(columns))
    for column in columns:
        if any(isinstance(part[column].dtype, pd.CategoricalDtype) for part in parts):
            labels = [part[column].astype("category").cat.categories for part in parts]
            dtype = pd.CategoricalDtype(list(dict.fromkeys(itertools.chain.from_iterable(labels))))
            parts = [part.assign(**{column: part[column].astype(dtype)}) for part in parts]
    return pd.concat(parts, ignore_index=True)[list(columns)]
