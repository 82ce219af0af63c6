"""Shares of responses that carry a label, with intervals that know that responses to one question resemble each other.

Knows tables of labels: one row per response, one column per facet, 1 or 0, NaN where missing. Leaves to others which
responses were labelled and where the labels come from.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from traitline.errors import InputError

Z = 1.96
"""Standard errors to each side: 95 %."""
COLUMNS = [
    *["facet", "count", "total", "n_missing", "share", "wilson_low", "wilson_high"],
    *["cluster_low", "cluster_high", "n_questions"],
]


def share_table(labels: pd.DataFrame, questions: pd.Series) -> pd.DataFrame:
    """Return the share of responses that carry each facet.

    Args:
        labels: one row per response and one column per facet: 1, 0, or NaN where missing.
        questions: the question of each response, in the same order.

    Returns:
        One row per facet: `COLUMNS`. `total` counts the responses with a label, `n_missing` those without, which are in no
        share; `n_questions` the questions of the former. Share and intervals are NaN where no response has a label.

    Raises:
        InputError: the two differ in length, or a label is neither 0, 1 nor missing.
    """
    if len(labels) != len(questions):
        raise InputError(f"{len(labels)} rows of labels stand beside {len(questions)} questions; give one question per row")
    groups = pd.factorize(questions)[0].astype(np.int64)
    rows = [_share(str(name), labels[name].to_numpy(dtype=np.float64), groups) for name in labels.columns]
    return pd.DataFrame(rows, columns=COLUMNS)


def _share(facet: str, values: NDArray[np.float64], groups: NDArray[np.int64]) -> tuple[str | float, ...]:
    known = ~np.isnan(values)
    if not np.isin(values[known], (0.0, 1.0)).all():
        raise InputError(f"facet {facet!r} holds values other than 0 and 1; leave them out or mark them missing")
    _, of_question = np.unique(groups[known], return_inverse=True)
    carrying = np.bincount(of_question, weights=values[known]).astype(np.float64)  # [questions]
    asked = np.bincount(of_question).astype(np.int64)  # [questions]
    count, total = int(carrying.sum()), int(asked.sum())
    share = count / total if total else math.nan
    intervals = (*wilson_interval(count, total), *cluster_interval(carrying, asked))
    return facet, count, total, int((~known).sum()), share, *intervals, asked.size


def wilson_interval(count: float, total: float, z: float = Z) -> tuple[float, float]:
    """Return Wilson's score interval of a share (Wilson 1927), within 0 and 1; NaN for a total of 0.

    Neither number need be whole, so that an effective number of responses can be given.

    Raises:
        InputError: a count below 0 or above the total.
    """
    if not 0 <= count <= total:
        raise InputError(f"a share needs 0 <= count <= total, not {count} of {total}")
    if total == 0:
        return math.nan, math.nan
    share = count / total
    scale = 1 + z**2 / total
    centre = (share + z**2 / (2 * total)) / scale
    half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2)) / scale
    return max(0.0, centre - half) if count > 0 else 0.0, min(1.0, centre + half) if count < total else 1.0


def cluster_interval(carrying: NDArray[np.float64], asked: NDArray[np.int64], z: float = Z) -> tuple[float, float]:
    """Return an interval of a share over questions: Wilson's, at the effective number of responses.

    The share is all responses that carry the label over all responses. Its variance is that of a ratio over questions drawn
    at random (linearised, with n / (n - 1)), so responses to one question count as independent only as far as they are. The
    effective number is the one at which independent responses would give that variance, at most the true number, reduced
    for the few questions behind the variance by the squared ratio of the normal to Student's quantile (Korn and Graubard
    1998; with Wilson's interval, Franco et al. 2019). Where all or none carry the label the variance says nothing and only
    that last reduction is made. The interval needs no random draws and, unlike a bootstrap's, does not collapse at 0 or 1.

    Args:
        carrying: responses that carry the label, per question.
        asked: responses, per question; each at least 1.
        z: standard errors to each side.

    Returns:
        Lower and upper bound; both NaN with fewer than two questions, whose spread is unknown.
    """
    n = asked.size
    if n < 2:
        return math.nan, math.nan
    total = float(asked.sum())
    share = float(carrying.sum()) / total
    variance = n / (n - 1) * float(((carrying - share * asked) ** 2).sum()) / total**2
    independent = share * (1 - share)
    effective = min(total, independent / variance) if variance > 0 else total
    effective *= (z / float(special.stdtrit(n - 1, special.ndtr(z)))) ** 2
    return wilson_interval(share * effective, effective, z)
