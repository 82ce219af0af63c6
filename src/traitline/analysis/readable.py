"""When a trait became readable beside when it became steerable: onsets of the same form, and which came first.

Knows judged tables of detection and the verdicts of emergence. Leaves what counts as readable to `detection.py` and what an
onset is to `emergence.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from traitline.analysis.emergence import Onset, onset

KEY = ["lineage", "trait", "strategy", "split", "probe", "layer"]
ENDS = ["after", "by", "tokens_after", "tokens_by", "censored", "lost"]
QUOTED = ["n_texts", "n_questions", "n_words", "auc", "ci_low", "ci_high", "p_adjusted", "shuffled_high", "auc_words"]
QUOTED += ["auc_untrained", "auc_layer_0", "above_words"]
COLUMNS = [*KEY, "named", *(f"readable_{end}" for end in ENDS), "beyond_words_by", *QUOTED]
COLUMNS += [f"{who}_{end}" for who in ("steerable", "forced") for end in ENDS] + ["first"]


def readable_table(
    detection: pd.DataFrame, verdicts: pd.DataFrame, order: Sequence[str], forced: str | None = None
) -> pd.DataFrame:
    """Return the onset of readable for each trait, strategy, split, probe and layer, with the onset of steerable beside it.

    Args:
        detection: a judged table of detection.
        verdicts: the verdicts of emergence: `kind`, `trait`, `strategy`, `layer`, `onset_after`, `onset_by`, `tokens_after`,
            `tokens_by`, `censored`, `lost`.
        order: the checkpoints in order of training.
        forced: the strategy whose texts `forced` vectors are made from, where the study has them.

    Returns:
        `COLUMNS`. `named` marks the layer that the verdict of steerable speaks of, which was chosen on other questions. The
        measures quoted are those of the first checkpoint that is readable, else of the largest AUC. `first` says which came
        first, as far as the two intervals tell: `readable`, `steerable`, `untold`, or empty where one of them never came.
    """
    emerged = verdicts[verdicts["kind"] == "emergence"] if len(verdicts) else verdicts
    records = []
    for key, part in detection.groupby(KEY, sort=False, dropna=False):
        names: dict[str, Any] = dict(zip(KEY, key, strict=True))
        found = _onset(part, order)
        beyond = part[part["readable"].fillna(False).astype(bool) & part["above_words"].fillna(False).astype(bool)]
        passed = set(beyond["checkpoint"])
        own = _steerable(emerged, names["trait"], names["strategy"])
        of_forced = _steerable(emerged, names["trait"], "forced") if names["strategy"] == forced else None
        records.append(
            {
                **names,
                "named": own is not None and own["layer"] == names["layer"],
                **{f"readable_{end}": value for end, value in _ends(found).items()},
                "beyond_words_by": next((name for name in order if name in passed), None),
                **_quoted(part, found),
                **_verdict_ends("steerable", own),
                **_verdict_ends("forced", of_forced),
                "first": "" if own is None else _first(found, own, order),
            }
        )
    return pd.DataFrame(records, columns=COLUMNS)


def _onset(part: pd.DataFrame, order: Sequence[str]) -> Onset:
    """Return the onset of readable in the rows of one series."""
    renamed = {"checkpoint": "vector_checkpoint", "auc": "delta_trait", "readable": "steerable"}
    return onset(part[["checkpoint", "tokens", "status", "auc", "readable"]].rename(columns=renamed).assign(coef=1.0), order)


def _ends(found: Onset) -> dict[str, Any]:
    values = (found.last_failing, found.first_passing, found.tokens_last_failing, found.tokens_first_passing)
    return dict(zip(ENDS, (*values, found.censored, len(found.lost)), strict=True))


def _quoted(part: pd.DataFrame, found: Onset) -> dict[str, Any]:
    measured = part[part["status"] == "complete"]
    if measured.empty:
        return {}
    here = measured[measured["checkpoint"] == found.first_passing]
    row = here.iloc[0] if len(here) else measured.sort_values("auc", ascending=False, kind="stable").iloc[0]
    return {str(name): row[name] for name in QUOTED}


def _steerable(verdicts: pd.DataFrame, trait: Any, strategy: Any) -> pd.Series | None:
    found = verdicts[(verdicts["trait"] == trait) & (verdicts["strategy"] == strategy)] if len(verdicts) else verdicts
    return None if found.empty else found.iloc[0]


def _verdict_ends(who: str, verdict: pd.Series | None) -> dict[str, Any]:
    names = ("onset_after", "onset_by", "tokens_after", "tokens_by", "censored", "lost")
    return {} if verdict is None else {f"{who}_{end}": verdict.get(name) for end, name in zip(ENDS, names, strict=True)}


def _first(found: Onset, verdict: pd.Series, order: Sequence[str]) -> str:
    """Say which of two onsets came first: one whose first passing checkpoint is not after the other's last failing one."""
    by = verdict.get("onset_by")
    if found.first_passing is None or not isinstance(by, str):
        return ""
    after = verdict.get("onset_after")
    place = {name: i for i, name in enumerate(order)}
    if isinstance(after, str) and place[found.first_passing] <= place[after]:
        return "readable"
    if found.last_failing is not None and place[by] <= place[found.last_failing]:
        return "steerable"
    return "untold"
