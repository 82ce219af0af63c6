"""How persona vectors lie to each other: across checkpoints, across halves of the questions, across traits.

Knows arrays of persona vectors, `[layers + 1, hidden]` each, by checkpoint. Leaves to `vectors/` where they come from and
which rows make a half, and to the report how a table is drawn. A layer whose vector is zero or not finite has no
direction: its cosines are empty, never 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from traitline.errors import InputError

Vector = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]
Vectors = Mapping[str, Vector]


def cosine_matrix(vectors: Vectors, *, trait: str, strategy: str, layers: Sequence[int] | None = None) -> pd.DataFrame:
    """Return the cosine between the vectors of every two checkpoints, layer by layer.

    Args:
        vectors: checkpoint -> `[layers + 1, hidden]`, in the order of training.
        trait: goes into the column of that name.
        strategy: goes into the column of that name.
        layers: the layers wanted; all of them without it.

    Returns:
        Columns trait, strategy, layer, checkpoint_a, checkpoint_b, cosine: the whole square matrix per layer.

    Raises:
        InputError: no vectors, vectors of different shapes, or a layer out of range.
    """
    names = list(vectors)
    depth = _shape(vectors)[0]
    wanted = range(depth) if layers is None else list(layers)
    cosines = np.empty((len(wanted), len(names), len(names)))  # [layers, checkpoints, checkpoints]
    for i, layer in enumerate(wanted):
        if not 0 <= layer < depth:
            raise InputError(f"layer {layer} is out of range; these vectors have layers 0 to {depth - 1}")
        units = _units(np.stack([np.asarray(vectors[name][layer]) for name in names]))
        cosines[i] = units @ units.T
    square = len(names) ** 2
    codes = np.arange(len(names), dtype=np.int32)
    return pd.DataFrame(
        {
            "trait": _constant(trait, cosines.size),
            "strategy": _constant(strategy, cosines.size),
            "layer": np.repeat(np.asarray(wanted, dtype=np.int32), square),
            "checkpoint_a": _labels(names, np.tile(np.repeat(codes, len(names)), len(wanted))),
            "checkpoint_b": _labels(names, np.tile(codes, len(names) * len(wanted))),
            "cosine": cosines.reshape(-1),
        }
    )


def cosine_to_final(
    vectors: Vectors,
    order: Sequence[str],
    *,
    trait: str,
    strategy: str,
    tokens: Mapping[str, float] | None = None,
    n_pairs: Mapping[str, int] | None = None,
    activation_norms: Mapping[str, Vector] | None = None,
    half_cosines: Mapping[str, Vector] | None = None,
) -> pd.DataFrame:
    """Return each checkpoint's cosine to the last and to the one before it, with norms and reliabilities.

    Corrected cosines are divided by the square root of both reliabilities (Spearman's correction for attenuation). They
    estimate the cosine between vectors made from endlessly many questions; being estimates, they may exceed 1. They are
    empty where either reliability is unknown or not above zero.

    Args:
        vectors: checkpoint -> `[layers + 1, hidden]`; checkpoints without a vector are left out.
        order: the checkpoints in the order of training. Its last is the final one: without a vector there, cosines to
            the final are empty. The previous is the nearest earlier checkpoint with a vector, named in `previous`.
        trait: goes into the column of that name.
        strategy: goes into the column of that name.
        tokens: checkpoint -> cumulative tokens.
        n_pairs: checkpoint -> accepted pairs.
        activation_norms: checkpoint -> `[layers + 1]`.
        half_cosines: checkpoint -> cosine between the vectors of two halves of the questions, `[layers + 1]`.

    Returns:
        Columns trait, strategy, checkpoint, previous, tokens, n_pairs, layer, l2_norm, norm_over_activation_norm,
        reliability, cosine_to_final, cosine_to_previous, corrected_to_final, corrected_to_previous.

    Raises:
        InputError: no vectors, different shapes, or a checkpoint that is not in `order`.
    """
    depth = _shape(vectors)[0]
    stray = sorted(set(vectors) - set(order))
    if stray:
        raise InputError(f"checkpoint {stray[0]!r} has a vector but is not in the order of checkpoints; add it there")
    empty = np.full(depth, np.nan)
    reliable = {name: split_half_reliability(cosine) for name, cosine in (half_cosines or {}).items()}
    present = [name for name in order if name in vectors]
    parts = []
    for i, name in enumerate(present):
        norm = _norms(vectors[name])
        columns: dict[str, Any] = {
            "trait": trait,
            "strategy": strategy,
            "checkpoint": name,
            "previous": present[i - 1] if i else None,
            "tokens": (tokens or {}).get(name),
            "n_pairs": (n_pairs or {}).get(name),
            "layer": np.arange(depth),
            "l2_norm": norm,
            "norm_over_activation_norm": _ratio(norm, (activation_norms or {}).get(name, empty)),
            "reliability": reliable.get(name, empty),
        }
        for other, label in ((order[-1], "final"), (columns["previous"], "previous")):
            cosine = cosines(vectors[name], vectors[other]) if other in vectors else empty
            ceiling = reliable.get(name, empty), reliable.get(other, empty)
            columns[f"cosine_to_{label}"] = cosine
            columns[f"corrected_to_{label}"] = cosine if other == name else corrected(cosine, *ceiling)
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def cross_trait(vectors: Mapping[tuple[str, str], Vectors]) -> pd.DataFrame:
    """Return the cosine between the vectors of every two traits and strategies at each checkpoint, layer by layer.

    Args:
        vectors: (trait, strategy) -> checkpoint -> `[layers + 1, hidden]`.

    Returns:
        Columns checkpoint, layer, trait_a, strategy_a, trait_b, strategy_b, cosine: one row per unordered pair, for the
        checkpoints where both have a vector.

    Raises:
        InputError: two vectors of one checkpoint differ in shape.
    """
    checkpoints = list(dict.fromkeys(itertools.chain.from_iterable(vectors.values())))
    parts = [part for i, _ in enumerate(checkpoints) for part in _crossed(vectors, checkpoints, i)]
    columns = ["checkpoint", "layer", "trait_a", "strategy_a", "trait_b", "strategy_b", "cosine"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _crossed(vectors: Mapping[tuple[str, str], Vectors], checkpoints: Sequence[str], i: int) -> Iterator[pd.DataFrame]:
    """Compare the vectors of one checkpoint; every part has the same categories, so that they join without copies."""
    checkpoint, names = checkpoints[i], list(vectors)
    here = [name for name in names if checkpoint in vectors[name]]
    if len(here) < 2:
        return
    depth, hidden = _shape({"/".join(name): vectors[name][checkpoint] for name in here})
    units = np.empty((depth, len(here), hidden))
    for n, name in enumerate(here):
        units[:, n] = _units(vectors[name][checkpoint])
    matrix = units @ units.swapaxes(1, 2)  # [layers + 1, names, names]
    first, second = np.triu_indices(len(here), k=1)
    columns: dict[str, Any] = {"checkpoint": _labels(checkpoints, np.full(len(first) * depth, i))}
    columns["layer"] = np.tile(np.arange(depth), len(first))
    for side, index in (("a", first), ("b", second)):
        for part, what in enumerate(("trait", "strategy")):
            known = list(dict.fromkeys(name[part] for name in names))
            codes = np.array([known.index(name[part]) for name in here])
            columns[f"{what}_{side}"] = _labels(known, np.repeat(codes[index], depth))
    yield pd.DataFrame({**columns, "cosine": matrix[:, first, second].T.reshape(-1)})


def cosines(a: Vector, b: Vector) -> Floats:
    """Return the cosine per layer of two persona vectors: `[layers + 1]`, NaN where either has no direction."""
    _shape({"the first vector": a, "the second vector": b})
    return np.asarray(np.einsum("lh,lh->l", _units(a), _units(b)))


def split_half_reliability(cosine: Vector) -> Floats:
    """Return the reliability per layer of a vector, from the cosine between the vectors of two halves of its questions.

    The cosine c is stepped up to the full number of questions, 2c / (1 + c) (Spearman and Brown). Negative where the halves
    disagree; NaN where there is no cosine or they are opposite.
    """
    c = np.asarray(cosine, dtype=np.float64)
    return _ratio(2 * c, 1 + c)


def corrected(cosine: Floats, reliability_a: Floats, reliability_b: Floats) -> Floats:
    """Return cosine / sqrt(r_a r_b); NaN where either reliability is unknown or not above zero."""
    usable = (reliability_a > 0) & (reliability_b > 0)
    return _ratio(cosine, np.sqrt(np.where(usable, reliability_a * reliability_b, np.nan)))


def _shape(vectors: Vectors) -> tuple[int, int]:
    """Return the one shape of all vectors."""
    shapes = {name: np.shape(vector) for name, vector in vectors.items()}
    if not shapes:
        raise InputError("no vectors to compare; extract at least one first")
    first, shape = next(iter(shapes.items()))
    for name, other in shapes.items():
        if len(other) != 2 or other != shape:
            raise InputError(
                f"the vector of {name} is {list(other)}, that of {first} {list(shape)}; "
                "all must have one shape, [layers + 1, hidden]"
            )
    return shape[0], shape[1]


def _units(vector: Vector) -> Floats:
    """Scale the rows of `[rows, hidden]` to length 1; a row that is zero or not finite becomes NaN."""
    rows = np.array(vector, dtype=np.float64)
    rows[~np.isfinite(rows).all(axis=1)] = np.nan
    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows /= np.where(largest > 0, largest, np.nan)
    rows /= np.sqrt(np.einsum("rh,rh->r", rows, rows))[:, None]
    return rows


def _norms(vector: Vector) -> Floats:
    """Return the L2 norm per layer, NaN where not finite."""
    norms = np.linalg.norm(np.asarray(vector, dtype=np.float64), axis=1)
    return np.where(np.isfinite(norms), norms, np.nan)


def _ratio(a: Floats, b: Vector) -> Floats:
    """Return a / b, NaN where b is not above zero."""
    return a / np.where(np.asarray(b, dtype=np.float64) > 0, b, np.nan)


def _constant(value: str, n: int) -> pd.Series:
    return pd.Series([value], dtype="category").repeat(n).reset_index(drop=True)


def _labels(names: Sequence[str], codes: NDArray[np.integer[Any]]) -> pd.Series:
    """Return a column of names by their codes; millions of rows keep a number each."""
    return pd.Series(pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(list(names), ordered=True)))
