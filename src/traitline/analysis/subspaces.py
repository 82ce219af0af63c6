"""What the vectors of several strategies share and where they part: shared direction, rests, principal angles; neutral sides.

Knows arrays of persona vectors `[layers + 1, hidden]` by strategy, with their bootstrap vectors and shuffled controls. Cosines
of single vectors are `geometry.py`'s. A layer where a vector is zero or not finite is left out, never 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Vector = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]

PARTS = [
    *["checkpoint", "tokens", "trait", "layer", "strategy", "n_strategies", "cosine_to_shared", "cosine_to_others"],
    *["rest_share", "noise_share", "shared_share", "shared_low", "shared_high", "shared_shuffled", "shared_least"],
]
ANGLES = [
    *["checkpoint", "tokens", "layer", "strategy_a", "strategy_b", "n_traits", "number", "angle"],
    *["angle_noise", "angle_shuffled"],
]
SIDES = [
    *["checkpoint", "tokens", "trait", "strategy", "layer", "n_pairs", "n_neutral", "cosine_sides", "cosine_positive"],
    *["cosine_negative", "norm_ratio", "positive_share", "share_low", "share_high"],
]


@dataclass(frozen=True, eq=False)
class Drawn:
    """A persona vector with what it is compared to.

    Attributes:
        vector: `[layers + 1, hidden]`.
        bootstrap: the same from questions drawn again, `[draws, layers + 1, hidden]`; may be empty.
        shuffled: the same with labels shuffled, each `[layers + 1, hidden]`; may be empty.
    """

    vector: Vector
    bootstrap: Vector = field(default_factory=lambda: np.zeros((0, 0, 0)))
    shuffled: Sequence[Vector] = ()


def shared_direction(vectors: Sequence[Vector]) -> tuple[Floats, float]:
    """Return the unit direction nearest to all of these, [hidden], and its share of their variance.

    It is the first principal direction of the vectors scaled to length 1, not centred, on the side where most of them lie. The
    share is 1 where all are parallel, 1 / n where n are orthogonal.

    Args:
        vectors: [hidden] each, none of them zero.
    """
    units = np.stack([np.asarray(vector, dtype=np.float64) for vector in vectors])
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    _, values, directions = np.linalg.svd(units, full_matrices=False)
    first: Floats = directions[0] * (1.0 if (units @ directions[0]).sum() >= 0 else -1.0)
    return first, float(values[0] ** 2 / len(units))


def rest(vector: Vector, shared: Floats) -> Floats:
    """Return the part of a vector orthogonal to a unit direction, [hidden]."""
    own = np.asarray(vector, dtype=np.float64)
    return own - (own @ shared) * shared


def principal_angles(a: Vector, b: Vector) -> Floats:
    """Return the principal angles between the spans of two sets of directions, in degrees, rising: [the smaller count].

    Args:
        a: [n, hidden], linearly independent.
        b: [m, hidden], likewise.
    """
    first, second = (np.linalg.qr(np.asarray(side, dtype=np.float64).T)[0] for side in (a, b))
    cosines = np.linalg.svd(first.T @ second, compute_uv=False)
    angles: Floats = np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))
    return angles


def strategy_parts(
    vectors: Mapping[str, Drawn], layers: Sequence[int], *, checkpoint: str, tokens: int | None, trait: str
) -> pd.DataFrame:
    """Return how much of each strategy's vector is the direction that all of one trait and checkpoint share.

    Args:
        vectors: strategy -> its vector; nothing is told of fewer than two.
        layers: the layers wanted.
        checkpoint: goes into the column of that name.
        tokens: likewise.
        trait: likewise.

    Returns:
        One row per layer and strategy: `PARTS`. `shared_share` is the variance that the shared direction carries,
        `shared_low` and `shared_high` its range over bootstrap vectors (which are noisier, so lower), `shared_shuffled` that
        of shuffled vectors, `shared_least` of orthogonal ones. `rest_share` is the part of a vector's squared length off the
        shared direction, `noise_share` what its own sampling noise puts there: a rest not above it is no difference between
        strategies. `cosine_to_others` is the cosine to the direction shared by the other strategies.
    """
    records = []
    who: dict[str, Any] = {"checkpoint": checkpoint, "tokens": tokens, "trait": trait}
    for layer in layers:
        here = {name: one for name, one in vectors.items() if _is_direction(one.vector[layer])}
        if len(here) < 2:
            continue
        shared, share = shared_direction([one.vector[layer] for one in here.values()])
        again = _shares([one.bootstrap for one in here.values()], layer)
        null = _shares([one.shuffled for one in here.values()], layer)
        for name, one in here.items():
            others, _ = shared_direction([other.vector[layer] for key, other in here.items() if key != name])
            cosine = _cosine(one.vector[layer], shared)
            records.append(
                {
                    **who,
                    "layer": layer,
                    "strategy": name,
                    "n_strategies": len(here),
                    "cosine_to_shared": cosine,
                    "cosine_to_others": _cosine(one.vector[layer], others),
                    "rest_share": 1 - cosine**2,
                    "noise_share": _noise(one, layer),
                    "shared_share": share,
                    "shared_low": min(again, default=math.nan),
                    "shared_high": max(again, default=math.nan),
                    "shared_shuffled": float(np.mean(null)) if null else math.nan,
                    "shared_least": 1 / len(here),
                }
            )
    return pd.DataFrame(records, columns=PARTS)


def span_angles(
    vectors: Mapping[str, Mapping[str, Drawn]], layers: Sequence[int], *, checkpoint: str, tokens: int | None
) -> pd.DataFrame:
    """Return the principal angles between what two strategies' vectors span over all traits at one checkpoint.

    With one trait it is the angle between two vectors.

    Args:
        vectors: strategy -> trait -> its vector.
        layers: the layers wanted.
        checkpoint: goes into the column of that name.
        tokens: likewise.

    Returns:
        One row per layer, two strategies and number of the angle from the smallest: `ANGLES`, in degrees. `angle_noise` is the
        mean over both strategies' own spans and those of their bootstrap vectors: what sampling noise alone gives;
        `angle_shuffled` that between spans of shuffled vectors.
    """
    records = []
    for (a, b), layer in itertools.product(itertools.combinations(vectors, 2), layers):
        both = [trait for trait in vectors[a] if trait in vectors[b]]
        traits = [t for t in both if all(_is_direction(vectors[name][t].vector[layer]) for name in (a, b))]
        if not traits:
            continue
        sides = [[vectors[name][trait] for trait in traits] for name in (a, b)]
        spans = [np.stack([one.vector[layer] for one in side]) for side in sides]
        found = principal_angles(spans[0], spans[1])
        noise = [
            principal_angles(span, again)
            for span, side in zip(spans, sides, strict=True)
            for again in _spans([one.bootstrap for one in side], layer)
        ]
        shuffled = [_spans([one.shuffled for one in side], layer) for side in sides]
        null = [principal_angles(one, other) for one, other in itertools.product(*shuffled)]
        for i, angle in enumerate(found):
            who: dict[str, Any] = {"checkpoint": checkpoint, "tokens": tokens, "layer": layer}
            who |= {"strategy_a": a, "strategy_b": b}
            compared = {"angle_noise": _mean(noise, i), "angle_shuffled": _mean(null, i)}
            records.append({**who, "n_traits": len(traits), "number": i + 1, "angle": float(angle), **compared})
    return pd.DataFrame(records, columns=ANGLES)


def neutral_sides(
    positive: Drawn, negative: Drawn, layers: Sequence[int], who: Mapping[str, Any], n_pairs: int, n_neutral: int
) -> pd.DataFrame:
    """Return which side of neutral answers carries a vector.

    Args:
        positive: positive minus neutral.
        negative: neutral minus negative, with bootstrap vectors of the same draws.
        layers: the layers wanted.
        who: `checkpoint, tokens, trait, strategy`.
        n_pairs: accepted pairs.
        n_neutral: neutral answers.

    Returns:
        One row per layer: `SIDES`. `positive_share` is the part of the vector that lies on the positive side: the projection of
        positive minus neutral on the vector, over the vector's length; .5 where both sides carry it alike; `share_low` and
        `share_high` are its range over bootstrap vectors. `norm_ratio` is the length of the positive side over the
        negative one's. `cosine_sides` is lowered by the noise of the neutral mean, which has opposite signs in both.
    """
    records = []
    for layer in layers:
        up, down = (np.asarray(side.vector[layer], dtype=np.float64) for side in (positive, negative))
        if not (_is_direction(up) and _is_direction(down) and _is_direction(up + down)):
            continue
        shares = [_share(a[layer], b[layer]) for a, b in zip(positive.bootstrap, negative.bootstrap, strict=True)]
        known = [share for share in shares if math.isfinite(share)]
        low, high = (min(known), max(known)) if len(known) > 1 and n_pairs > 1 else (math.nan, math.nan)
        records.append(
            {
                **who,
                "layer": layer,
                "n_pairs": n_pairs,
                "n_neutral": n_neutral,
                "cosine_sides": _cosine(up, down),
                "cosine_positive": _cosine(up, up + down),
                "cosine_negative": _cosine(down, up + down),
                "norm_ratio": float(np.linalg.norm(up) / np.linalg.norm(down)),
                "positive_share": _share(up, down),
                "share_low": low,
                "share_high": high,
            }
        )
    return pd.DataFrame(records, columns=SIDES)


def _share(up: Vector, down: Vector) -> float:
    whole = np.asarray(up, dtype=np.float64) + down
    return float(up @ whole / (whole @ whole)) if _is_direction(whole) else math.nan


def _shares(drawn: Sequence[Any], layer: int) -> list[float]:
    """Return the shared direction's share among the first vectors drawn of each strategy, the second, and so on."""
    return [shared_direction(list(span))[1] for span in _spans(drawn, layer)]


def _spans(drawn: Sequence[Any], layer: int) -> list[Floats]:
    """Return the first vectors drawn of each at a layer as [n, hidden], the second, and so on, as far as all have one."""
    draws = min((len(one) for one in drawn), default=0)
    spans = [np.stack([np.asarray(one[i][layer], dtype=np.float64) for one in drawn]) for i in range(draws)]
    return [span for span in spans if all(_is_direction(vector) for vector in span)]


def _noise(one: Drawn, layer: int) -> float:
    if len(one.bootstrap) < 2:
        return math.nan
    own = np.asarray(one.vector[layer], dtype=np.float64)
    off = np.asarray(one.bootstrap[:, layer], dtype=np.float64) - own
    return float((off**2).sum(axis=1).mean() / (own @ own))


def _mean(angles: Sequence[Floats], i: int) -> float:
    known = [one[i] for one in angles if i < len(one)]
    return float(np.mean(known)) if known else math.nan


def _cosine(a: Vector, b: Vector) -> float:
    return float(np.asarray(a, dtype=np.float64) @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _is_direction(vector: Vector) -> bool:
    return bool(np.isfinite(vector).all() and np.any(vector))


def together(parts: Iterator[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """Join tables that may be empty."""
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=list(columns))
