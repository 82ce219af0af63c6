"""What comparing two judges found, on the screen and as one JSON object.

Knows which of it is shown and in which words. Leaves every number to `traitline.analysis`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from traitline.analysis.agreement import ALL, SCORES
from traitline.analysis.conclusions import Conclusions
from traitline.cli.console import count, print_table, say
from traitline.study.judge_comparison import JudgeComparison
from traitline.study.rejudge import Scorer

SHOWN_TEXT = 160
SHOWN_ROWS = 12
LABELLED = (("pearson", ".2f"), ("mae", ".1f"), ("kappa", ".2f"))
SIDES = ("both_below", "only_a", "only_b", "both_above")


def show(found: JudgeComparison, top: int) -> None:
    """Print what was found, and the rows that the judges differ most on."""
    rows = found.rows
    missing = ", ".join(f"{name.upper()} {count(int(rows[f'trait_score_{name}'].isna().sum()))}" for name in "ab")
    say(f"{count(len(rows))} responses to {count(rows['question'].nunique())} questions; without a trait score: {missing}")
    for line in found.notes:
        say(line)
    for score in SCORES:
        _show_agreement(found.agreement, score)
    _show_sides(found.agreement)
    if found.labellers is not None:
        _show_labellers(found.labellers)
    if found.conclusions is not None:
        _show_conclusions(found.conclusions)
    if found.corrected is not None and len(found.corrected):
        _show_corrected(found.corrected)
    if top:
        _show_different(found.different[found.different["score"].eq(SCORES[0])].head(top))


def _show_agreement(table: pd.DataFrame, score: str) -> None:
    """Print how close the scores are, and why a figure is missing."""
    own = _shown(table, score)
    listed = [
        (
            _rows(row),
            count(row["n"]),
            _figure(row, "pearson", ".2f"),
            _number(row["spearman"], ".2f"),
            _number(row["mae"], ".1f"),
            _figure(row, "bias", "+.1f"),
        )
        for row in own
    ]
    what = {"trait_score": "the trait score"}.get(score, score)
    columns = ("rows", ">n", ">Pearson", ">rho", ">MAE", ">B - A")
    print_table(f"Agreement on {what}, with 95 % intervals over questions", columns, listed)
    _show_reasons(own, kappa=False)


def _show_sides(table: pd.DataFrame) -> None:
    """Print how the trait scores fall on the two sides of 50."""
    own = _shown(table, SCORES[0])
    listed = [
        (
            _rows(row),
            _figure(row, "kappa", ".2f"),
            _number(row["weighted_kappa"], ".2f"),
            *(count(int(row[name])) if row["n"] else "-" for name in SIDES),
        )
        for row in own
    ]
    columns = ("rows", ">kappa", ">weighted", ">neither", ">A only", ">B only", ">both")
    print_table("Who says 50 or more for the trait", columns, listed)
    _show_reasons(own, kappa=True)


def _show_reasons(rows: list[dict[Any, Any]], *, kappa: bool) -> None:
    """Say why figures are missing: those of kappa, or the others."""
    for row in rows:
        reasons = [one for one in str(row["reason"]).split("; ") if one and ("kappa" in one) == kappa]
        if reasons:
            say(f"  {_rows(row)}: {'; '.join(reasons)}")


def _shown(table: pd.DataFrame, score: str) -> list[dict[Any, Any]]:
    """Return what is shown of one score: each condition and each trait; of a single trait all there is."""
    own = table[table["score"].eq(score)]
    if own["trait"].nunique() > 1:
        own = own[own["trait"].eq(ALL) | own["condition"].eq(ALL)]
    return own.to_dict("records")


def _rows(row: dict[Any, Any]) -> str:
    return str(row["trait"] if row["condition"] == ALL else row["condition"])


def _figure(row: dict[Any, Any], name: str, form: str) -> str:
    return _bounds(row[name], row[f"{name}_low"], row[f"{name}_high"], form)


def _show_labellers(table: pd.DataFrame) -> None:
    own = table[table["condition"].eq(ALL)]
    listed = [
        (
            row["labeller_a"],
            row["labeller_b"],
            row["score"],
            row["trait"],
            count(row["n"]),
            *(_figure(row, *how) for how in LABELLED),
        )
        for row in own.to_dict("records")
    ]
    columns = ("labeller", "and", "score", "trait", ">n", ">Pearson", ">MAE", ">kappa at 50")
    print_table("How the labellers agree", columns, listed)


def _show_conclusions(told: Conclusions) -> None:
    counts: dict[str, Any] = told.counts
    if counts["deltas"]:
        r = f", r {counts['correlation']:.2f}" if counts["correlation"] is not None else ""
        mean, bias, most = (counts[f"{name}_difference"] for name in ("mean_absolute", "mean", "largest_absolute"))
        say(f"Deltas: {count(counts['deltas'])} under both judges{r}.")
        say(f"  They differ by {mean:.1f} points on average (B - A {bias:+.1f}) and by {most:.1f} at most.")
        say(f"  Stars change in {counts['stars_changed']}, steerable in {counts['steerable_changed']}.")
    if counts["cells"]:
        pairs = (f"{what} {count(counts[f'pairs_{name}'])}" for what, name in (("A", "a"), ("B", "b"), ("both", "both")))
        say(f"Accepted pairs in {counts['cells']} cells: {', '.join(pairs)}.")
        say(f"  In {counts['vectors_changed']} cells one of them alone would have a vector.")
    if counts["verdicts"]:
        say(f"Onsets: {counts['onsets_changed']} of {counts['verdicts']} change.")
        changed = told.verdicts[told.verdicts["onset_change"].astype(bool)]
        listed = [(_about(row), _onset(row, "a"), _onset(row, "b")) for row in changed.head(SHOWN_ROWS).to_dict("records")]
        if listed:
            print_table(f"Onsets that change{_first(changed)}", ("", "under A", "under B"), listed)


def _about(row: dict[Any, Any]) -> str:
    target = f" on {row['target']}" if row["kind"] == "transfer" else ""
    return f"{row['trait']}, {row['strategy']}{target}"


def _onset(row: dict[Any, Any], judge: str) -> str:
    """Word an onset: its interval, or why there is none."""
    after, by, censored = (row[f"{name}_{judge}"] for name in ("onset_after", "onset_by", "censored"))
    if not isinstance(by, str):
        return str(censored).replace("_", " ")
    return f"{after} to {by}" if isinstance(after, str) else f"by {by}"


def _first(table: pd.DataFrame) -> str:
    return f" (the first {SHOWN_ROWS} of {len(table)})" if len(table) > SHOWN_ROWS else ""


def _show_corrected(table: pd.DataFrame) -> None:
    known = table[table["corrected"].notna()]
    listed = [
        (
            f"{row['trait']}, {row['strategy']}: {row['vector_checkpoint']} on {row['target']}, coef {row['coef']:g}",
            row["judge"],
            _bounds(row["delta"], row["ci_low"], row["ci_high"], "+.1f"),
            _bounds(row["corrected"], row["corrected_low"], row["corrected_high"], "+.1f"),
            f"{row['n_gold_steered']} + {row['n_gold_baseline']}",
        )
        for row in known.head(SHOWN_ROWS).to_dict("records")
    ]
    if listed:
        columns = ("delta", "judge", ">as judged", ">corrected", ">gold rows")
        print_table(f"Deltas corrected by the gold rows{_first(known)}", columns, listed)
    for assumption in (one for one in table["assumption"].unique() if one):
        say(f"Assumed: {assumption}.")
    for reason, number in table.loc[table["corrected"].isna(), "reason"].value_counts().items():
        say(f"{count(int(number))} deltas are not corrected: {reason}")


def _show_different(rows: pd.DataFrame) -> None:
    listed = [
        (
            f"{row['trait']}, {row['condition']}",
            _number(row["trait_score_a"], ".0f"),
            _number(row["trait_score_b"], ".0f"),
            f"{_short(row['question'])}\n{_short(row['answer'])}",
        )
        for row in rows.to_dict("records")
    ]
    if listed:
        print_table("Where they differ most on the trait", ("", ">A", ">B", "question, answer"), listed, lines=True)


def _bounds(value: float, low: float, high: float, form: str) -> str:
    bounds = "" if math.isnan(low) else f" [{_number(low, form)}, {_number(high, form)}]"
    return _number(value, form) + bounds


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else f"{value:{form}}"


def _short(text: object) -> str:
    whole = " ".join(str(text).split())
    return whole if len(whole) <= SHOWN_TEXT else f"{whole[: SHOWN_TEXT - 1]}…"


def as_json_object(found: JudgeComparison, top: int, files: list[Path]) -> dict[str, Any]:
    """Return what `--json` prints."""
    told = found.conclusions

    def judge(one: Scorer) -> dict[str, Any]:
        return {"name": one.name, "stored": one.stored}

    return {
        "a": judge(found.a),
        "b": judge(found.b),
        "rows": len(found.rows),
        "notes": list(found.notes),
        "agreement": _records(found.agreement),
        "labellers": _records(found.labellers),
        "conclusions": None
        if told is None
        else {**told.counts, "verdicts_changed": _records(told.verdicts[told.verdicts["onset_change"].astype(bool)])},
        "corrected": _records(found.corrected),
        "different": _records(found.different[found.different["score"].eq("trait_score")].head(top)),
        "files": [path.resolve() for path in files],
    }


def _records(table: pd.DataFrame | None) -> list[dict[Any, Any]] | None:
    return None if table is None else table.astype(object).where(table.notna(), None).to_dict("records")
