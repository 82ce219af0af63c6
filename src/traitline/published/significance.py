"""The published tables of significance, row by row, from the judged answers they were made of.

Knows the columns of `combined_significance.csv`, and how the paper's numbers are defined: a delta is the mean over all
steered rows minus that over all baseline rows, missing scores left out; questions are paired by their text, averaged within a
question, and tested by flipping signs; the Bonferroni factor is the number of rows of that trait in the file of the original
run. Finds out by looking at the data whether a row can be reproduced, and if not, why. Leaves reading answers to `answers.py`
and tests to `analysis/significance.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd

from traitline.analysis.significance import sign_flip, sign_test
from traitline.published.answers import Answers, Shelf, repeated
from traitline.published.published_rows import Numbers, Row, published_rows
from traitline.published.release import Release

MEAN_TOLERANCE = 1e-9
P_TOLERANCE = 4e-6  # at most 4 of 2^20 sign vectors lie on the border of a tie
STATISTICS = (
    *("delta_trait_mean", "paired_trait_mean_diff", "p_two_sided", "p_greater"),
    *("p_bonferroni", "delta_coherence_mean"),
)
UNCORRECTED = tuple(name for name in STATISTICS if name != "p_bonferroni")
IDENTITY = [
    *("run", "model", "trait", "strategy", "extract_revision", "eval_model", "eval_revision", "layer", "coef", "scaling_mode"),
]
COUNTS = ["n_questions", "n_rows_baseline", "n_rows_steered"]
COLUMNS = [
    *IDENTITY,
    *(f"{side}_{name}" for side in ("published", "recomputed") for name in STATISTICS),
    *COUNTS,
    *("status", "reason"),
    *(f"honest_{name}" for name in STATISTICS),
    *("honest_n_rows_steered", "repeat", "baseline_repeat", "bonferroni_tests"),
    *("published_baseline_trait", "recomputed_baseline_trait", "published_steered_trait", "recomputed_steered_trait"),
    *("published_n_rows_baseline", "published_n_rows_steered"),
    *("judge_traits", "baseline_file", "steered_file", "file"),
]
SIGN_TEST = "sign_test"
"""What a row names as its primary test where it had too many questions to list every sign vector."""
MEANS = ("baseline_trait", "steered_trait", "baseline_coherence", "steered_coherence")
TIMES = (1, 0, 2, 3)
"""How often a file may have been counted, the likeliest first."""


@dataclass(frozen=True)
class Side:
    """The rows of one side of a comparison, as its table may have counted them."""

    base: Answers
    extended: Answers | None

    def ways(self, listed_rows: float) -> list[tuple[int, int]]:
        """Return (times the file, times its extension) that give the rows listed, all if unknown; (1, 0) where none does."""
        extra = 0 if self.extended is None else self.extended.n
        ways = [(a, b) for b, a in product(TIMES if extra else (0,), TIMES) if a + b > 0]
        ways.sort(key=lambda way: (max(way) > 1, way[1], way[0] != 1))
        fitting = [(a, b) for a, b in ways if math.isnan(listed_rows) or a * self.base.n + b * extra == listed_rows]
        return fitting or [(1, 0)]

    def rows(self, way: tuple[int, int]) -> pd.DataFrame:
        """Return the rows of a way of counting."""
        parts = [(self.base, way[0])] + ([(self.extended, way[1])] if self.extended is not None else [])
        return repeated(parts)


def significance_table(release: Release, models: Sequence[str], shelves: Mapping[str, Shelf]) -> pd.DataFrame:
    """Recompute every row of every `combined_significance.csv` of these models.

    Args:
        release: the release.
        models: whose results.
        shelves: model -> its judged answers.

    Returns:
        One row per published row: `COLUMNS`. `recomputed_X` follows the way of counting that reproduces the published number;
        `honest_X` counts every row once. `status` is

        - `match`: means agree to 1e-9, p to 4e-6;
        - `double_counted`: they agree only with rows counted more than once (`repeat` says how often);
        - `baseline_overwritten`: the steered side reproduces and the baseline does not, or the baseline file is that of such a
          row;
        - `raw_missing`: a file is not there or cannot be used;
        - `differs`: anything else, with the reason in words.
    """
    rows = [row for model in models for row in published_rows(release, model)]
    for row in rows:
        _recompute(row, shelves[row.who["model"]])
    _share_overwritten(rows)
    _correct(rows)
    _tell(release, rows)
    return pd.DataFrame([_record(row) for row in rows], columns=COLUMNS)


def _recompute(row: Row, shelf: Shelf) -> None:
    """Find what the files give, and the status that follows."""
    sides = []
    for what, listed in (("baseline", row.baseline_file), ("steered", row.steered_file)):
        base = shelf.answers(listed, row.judge_traits) if listed else None
        if base is None:
            exists = shelf.exists(listed)
            row.reason += (
                f"{'; ' if row.reason else ''}the {what} file {'cannot be used' if exists else 'is not in the release'}"
            )
            continue
        sides.append(Side(base, shelf.extended(listed, row.judge_traits)))
    if len(sides) < 2:
        return
    baseline, steered = sides
    ways = product(baseline.ways(row.published["n_rows_baseline"]), steered.ways(row.published["n_rows_steered"]))
    tried = [_numbers(row.test, baseline, steered, *way) for way in ways]
    row.found = next((one for one in tried if _agrees(row, one, UNCORRECTED)), tried[0])
    once = [(min(a, 1), min(b, 1)) for a, b in (row.found.baseline_way, row.found.way)]
    repeats = once != [row.found.baseline_way, row.found.way]
    row.honest = _numbers(row.test, baseline, steered, *once) if repeats else row.found
    row.status, row.reason = _status(row, row.found, row.honest)


def _numbers(test: str, baseline: Side, steered: Side, baseline_way: tuple[int, int], way: tuple[int, int]) -> Numbers:
    """Return the statistics of one way of counting."""
    left, right = baseline.rows(baseline_way), steered.rows(way)
    questions = paired_differences(left, right)
    values = {
        "baseline_trait": float(left["trait_score"].mean()),
        "steered_trait": float(right["trait_score"].mean()),
        "baseline_coherence": float(left["coherence"].mean()),
        "steered_coherence": float(right["coherence"].mean()),
    }
    values["delta_trait_mean"] = values["steered_trait"] - values["baseline_trait"]
    values["delta_coherence_mean"] = values["steered_coherence"] - values["baseline_coherence"]
    values |= dict.fromkeys(("paired_trait_mean_diff", "p_two_sided", "p_greater"), math.nan)
    if len(questions):
        differences = questions.to_numpy()
        found = sign_test(differences) if test == SIGN_TEST else sign_flip(differences)
        values["paired_trait_mean_diff"] = float(differences.mean())
        values["p_two_sided"], values["p_greater"] = found.p_two_sided, found.p_greater
    return Numbers(way, baseline_way, values, len(questions), len(left), len(right))


def paired_differences(baseline: pd.DataFrame, steered: pd.DataFrame) -> pd.Series:
    """Return the difference of every question scored on both sides, by its text."""
    means = [side.groupby("question", sort=True)["trait_score"].mean() for side in (steered, baseline)]
    both = pd.concat(means, axis=1, join="inner", keys=["steered", "baseline"]).dropna()
    return both["steered"] - both["baseline"]


def _agrees(row: Row, numbers: Numbers, names: Sequence[str]) -> bool:
    return all(_same(name, row.published[name], numbers.measured[name]) for name in names)


def _same(name: str, published: float, found: float) -> bool:
    """Say whether two numbers agree; what was not published agrees with everything."""
    if math.isnan(published):
        return True
    return abs(published - found) <= (P_TOLERANCE if name.startswith("p_") else MEAN_TOLERANCE)


def _status(row: Row, found: Numbers, once: Numbers) -> tuple[str, str]:
    """Say whether a row reproduces, and in words what happened."""
    if math.isnan(row.published["delta_trait_mean"]):
        return "differs", "no delta was published"
    if _agrees(row, found, UNCORRECTED):
        unknown = [name for name in UNCORRECTED if math.isnan(row.published[name])]
        told = [f"not published, so not compared: {', '.join(unknown)}"] if unknown else []
        if once is found:
            if found.way[1]:
                told.insert(0, f"with the rows of its extended file ({found.n_rows_steered} in all)")
            return "match", "; ".join(told)
        text = f"only with rows repeated: {found.n_rows_steered} steered and {found.n_rows_baseline} baseline rows counted"
        told.insert(0, f"{text}, {once.n_rows_steered} and {once.n_rows_baseline} exist; see honest_*")
        return "double_counted", "; ".join(told)
    off = {side: _off(row, found, side) for side in ("baseline", "steered")}
    if off["baseline"] and not off["steered"] and not math.isnan(row.published["steered_trait"]):
        return "baseline_overwritten", f"{off['baseline']}; the steered file is as published"
    if any(off.values()):
        return "differs", "; ".join(text for text in off.values() if text)
    names = [name for name in UNCORRECTED if not _same(name, row.published[name], found.measured[name])]
    return "differs", f"both sides have the published means, but not {', '.join(names)}"


def _off(row: Row, found: Numbers, side: str) -> str:
    """Say which mean of one side is not the published one; empty where both are."""
    score = next((one for one in ("trait", "coherence") if not _agrees(row, found, [f"{side}_{one}"])), None)
    if score is None:
        return ""
    here, there = found.measured[f"{side}_{score}"], row.published[f"{side}_{score}"]
    rows, listed = getattr(found, f"n_rows_{side}"), row.published[f"n_rows_{side}"]
    over = "" if math.isnan(listed) else f" over {listed:.0f}"
    return f"the {side} file has a mean {score} of {here:.4g} over {rows} rows, published was {there:.4g}{over}"


def _share_overwritten(rows: Sequence[Row]) -> None:
    """Where other rows prove a baseline file overwritten, a row that differs on both sides was made with it as well."""
    key = {id(row): (row.who["model"], row.baseline_file, row.published["baseline_trait"]) for row in rows}
    proven = {key[id(row)] for row in rows if row.status == "baseline_overwritten"}
    for row in rows:
        unlike = row.status == "differs" and row.found is not None and not _agrees(row, row.found, ["baseline_trait"])
        if unlike and key[id(row)] in proven:
            row.status = "baseline_overwritten"
            row.reason += "; other rows show that this baseline was replaced"


def _correct(rows: Sequence[Row]) -> None:
    """Give every row the number of tests of its run: of its own file, or of the run a merged file took it from."""
    sizes: dict[tuple[str, str], int] = {}
    sources: dict[tuple[Any, ...], list[str]] = {}
    for row in rows:
        family = row.judge_traits[0]
        sizes[row.file, family] = sizes.get((row.file, family), 0) + 1
        sources.setdefault(_comparison(row), []).append(row.file)
    for row in rows:
        family, p, listed = row.judge_traits[0], row.published["p_two_sided"], row.published["p_bonferroni"]
        own = sizes[row.file, family]
        candidates = [own, *(sizes[file, family] for file in sources[_comparison(row)] if file != row.file)]
        row.tests = next((m for m in candidates if abs(_bonferroni(p, m) - listed) <= MEAN_TOLERANCE), own)
        if not math.isnan(listed) and abs(_bonferroni(p, row.tests) - listed) > MEAN_TOLERANCE and row.status != "raw_missing":
            text = f"corrected for {listed / p:.4g} tests, not the {own} of its file" if p > 0 else "corrected otherwise"
            row.reason += f"{'; ' if row.reason else ''}{text}"
            row.tests = round(listed / p) if p > 0 and listed < 1 else own
        for numbers in (row.found, row.honest):
            if numbers is not None:
                numbers.measured["p_bonferroni"] = _bonferroni(numbers.measured["p_two_sided"], row.tests)


def _bonferroni(p: float, tests: float) -> float:
    return math.nan if math.isnan(p) else min(1.0, p * tests)


KINDS = {
    "baseline_overwritten": ("overwritten_baseline", "rows were computed from a baseline that this file no longer holds"),
    "double_counted": ("repeated_rows", "rows reproduce only with answers counted more than once; honest_* counts each once"),
    "raw_missing": (
        "raw_missing",
        "rows have no answers in the release (baseline or steered); their numbers cannot be checked",
    ),
    "differs": ("not_reproduced", "rows cannot be reproduced from the files they name; the column reason says how they differ"),
}


def _tell(release: Release, rows: Sequence[Row]) -> None:
    """Note in the audit what does not reproduce, by file: the baseline where that is at fault, else the table."""
    counts: dict[tuple[str, str, str], int] = {}
    for row in rows:
        if row.status in KINDS:
            file = row.baseline_file if row.status == "baseline_overwritten" else row.file
            key = row.who["model"], row.status, file
            counts[key] = counts.get(key, 0) + 1
    for (model, status, file), n in counts.items():
        kind, text = KINDS[status]
        release.audit.add(kind, file, n, text, model=model)


def _comparison(row: Row) -> tuple[Any, ...]:
    return row.who["model"], row.steered_file, row.baseline_file, row.published["delta_trait_mean"]


def _record(row: Row) -> dict[str, Any]:
    nothing = dict.fromkeys((*STATISTICS, *MEANS), math.nan)
    found, honest = (one.measured if one is not None else nothing for one in (row.found, row.honest))
    record: dict[str, Any] = {**row.who}
    for name in STATISTICS:
        record[f"published_{name}"], record[f"recomputed_{name}"] = row.published[name], found.get(name, math.nan)
        record[f"honest_{name}"] = honest.get(name, math.nan)
    for name in ("baseline_trait", "steered_trait"):
        record[f"published_{name}"], record[f"recomputed_{name}"] = row.published[name], found[name]
    for name in ("n_rows_baseline", "n_rows_steered"):
        record[f"published_{name}"] = row.published[name]
    if row.found is not None and row.honest is not None:
        record |= {name: getattr(row.found, name) for name in COUNTS}
        record["honest_n_rows_steered"] = row.honest.n_rows_steered
        for name, way in (("repeat", row.found.way), ("baseline_repeat", row.found.baseline_way)):
            record[name] = f"{way[0]}+{way[1]}" if way[1] else str(way[0])
    record |= {"status": row.status, "reason": row.reason, "bonferroni_tests": row.tests}
    files = {"baseline_file": row.baseline_file, "steered_file": row.steered_file, "file": row.file}
    return record | files | {"judge_traits": "|".join(row.judge_traits)}
