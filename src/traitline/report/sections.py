"""Sections of the page for tables that only some runs have: recomputed comparisons, defects of the data, facets and others.

Knows which of their columns are shown and in which words. A section is plain texts and cells; the page escapes and lays
them out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from traitline.report import comparisons
from traitline.report.axis import tokens_text
from traitline.report.components import components
from traitline.report.detection import detection_section
from traitline.report.directions import at_layer
from traitline.report.matched import matched_section
from traitline.report.meaning import meaning
from traitline.report.panels import LABELS
from traitline.report.section import Section, Table
from traitline.report.tables import Run, numbers, unique

MATCH = "match"
ALPHA = 0.05
PAIR_COLUMNS = {
    "n_rows": "rows a side",
    "n_pairs": "accepted pairs",
    "n_questions": "questions",
    "pos_trait_ge50": "positive: trait ≥ 50",
    "neg_trait_lt50": "negative: trait < 50",
    "pos_coherence_ge50": "positive: coherent",
    "neg_coherence_ge50": "negative: coherent",
    "n_missing": "missing scores",
    "effective_rows_listed": "pairs as listed",
}
SHORT = 12  # rows that a table shows without being opened


def sections(run: Run) -> list[Section]:
    """Return the sections this run has tables for."""
    makers: tuple[Callable[[Run], Section | None], ...] = (
        matched_section,
        detection_section,
        *(_significance, _tails, _audit, _facets, _strategies, comparisons.stages, comparisons.reverse, _pairs, _strays),
        *(meaning, components),
    )
    return [found for make in makers if (found := make(run)) is not None]


def own_rows(run: Run, name: str) -> pd.DataFrame:
    """Return the rows of a table that belong on this page: all on the first one, those of its lineage on another."""
    table = run.tables[name]
    return table if run.first or "model" not in table.columns else table[table["model"] == run.lineage]


def status_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Count the rows of each status: one row per model, run and trait, one column per status."""
    counts = table.groupby(["model", "run", "trait", "status"], sort=False, dropna=False).size().unstack("status", fill_value=0)
    order = sorted(counts.columns, key=lambda status: (status != MATCH, str(status)))
    return counts[order].reset_index()


def audit_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Count the findings of each kind: kind, how many, what they touch in all; most findings first."""
    grouped = (
        table.assign(count=numbers(table, "count")).groupby("kind", sort=False)["count"].agg(findings="size", touched="sum")
    )
    return grouped.reset_index().sort_values(["findings", "kind"], ascending=[False, True], ignore_index=True)


def strategy_matrices(run: Run) -> dict[tuple[str, str], pd.DataFrame]:
    """Return (trait, checkpoint) -> the square of cosines between its strategies at the main layer."""
    table = at_layer(run, "cosine_cross_strategy")
    found = {}
    for (trait, checkpoint), part in table.groupby(["trait", "checkpoint"], sort=False):
        names = unique([*part["strategy_a"], *part["strategy_b"]])
        square = pd.DataFrame(np.nan, index=names, columns=names)
        for a, b, cosine in zip(part["strategy_a"], part["strategy_b"], numbers(part, "cosine"), strict=True):
            square.loc[a, b] = square.loc[b, a] = cosine
        for name in names:
            square.loc[name, name] = 1.0
        found[str(trait), str(checkpoint)] = square
    return found


def _significance(run: Run) -> Section | None:
    table = own_rows(run, "significance")
    if table.empty:
        return None
    counts = status_counts(table)
    statuses = [name for name in counts.columns if name not in ("model", "run", "trait")]
    totals = {status: int(counts[status].sum()) for status in statuses}
    said = ", ".join(f"{count} {_words(status)}" for status, count in totals.items())
    sentences = [
        f"{len(table)} published comparisons in {table['run'].nunique()} runs were computed again from the raw scores: {said}.",
        "Published, recomputed, and honest (every row counted once) stand side by side below, for all that do not match.",
    ]
    head = ["model", "run", "trait", "rows", *map(_words, statuses)]
    rows = [
        [*map(str, key), str(sum(line)), *(str(count) if count else "" for count in line)]
        for *key, line in (
            (row["model"], row["run"], row["trait"], [int(row[status]) for status in statuses]) for _, row in counts.iterrows()
        )
    ]
    others = table[table["status"] != MATCH]
    tables = [Table("Comparisons by run and status", head, rows)]
    if len(others):
        names = ["run", "trait", "vector of", "steered network", "layer, coef", "status", "delta: published", "recomputed"]
        names += ["honest", "p: published", "recomputed", "honest", "reason"]
        tables.append(
            Table(f"The {len(others)} comparisons that do not match", names, [_comparison(row) for row in _records(others)])
        )
    return Section("significance", "Published and recomputed", sentences, tables)


def _comparison(row: dict[str, object]) -> list[str]:
    network = " ".join(unique(filter(None, (_text(row.get("eval_model")), _text(row.get("eval_revision"))))))
    deltas = [_number(row.get(f"{side}_delta_trait_mean"), "+.2f") for side in ("published", "recomputed", "honest")]
    chances = [_number(row.get(f"{side}_p_two_sided"), ".3g") for side in ("published", "recomputed", "honest")]
    dose = f"{_number(row.get('layer'), '.0f')}, {_number(row.get('coef'), 'g')}"
    identity = [_text(row.get("run")), _named(row), _text(row.get("extract_revision")), network, dose]
    return [*identity, _words(_text(row.get("status"))), *deltas, *chances, _text(row.get("reason"))]


def _tails(run: Run) -> Section | None:
    table = own_rows(run, "prompt_tails")
    if table.empty:
        return None
    moved = (numbers(table, "delta_trait_without") - numbers(table, "delta_trait")).abs()
    changes = table["conclusion_changes"] if "conclusion_changes" in table.columns else pd.Series(False, index=table.index)
    sentences = [
        "Some answers begin with the end of their own prompt. "
        f"Without those answers {int(moved.notna().sum())} comparisons were computed again: the delta moves by "
        f"{moved.median():.2f} points in the median and {moved.max():.2f} at most, and {int(changes.sum())} change their "
        "conclusion (cross p = .05 or change sign).",
        *_lost_power(table),
    ]
    head = ["run", "trait", "vector of", "steered network", "layer, coef", "leaking: baseline", "steered", "delta", "without"]
    head += ["p", "without", "conclusion"]
    rows = []
    for row, changed in zip(_records(table), changes, strict=True):
        line = _comparison(row)[:5]
        line += [
            f"{_number(row.get(f'n_leaking_{side}'), '.0f')} of {_number(row.get(f'n_rows_{side}'), '.0f')}"
            for side in ("baseline", "steered")
        ]
        line += [_number(row.get(name), "+.2f") for name in ("delta_trait", "delta_trait_without")]
        line += [_number(row.get(name), ".3g") for name in ("p_two_sided", "p_two_sided_without")]
        rows.append([*line, "changes" if changed else "stays"])
    changing = [row for row in rows if row[-1] == "changes"]
    tables = [Table("Comparisons whose conclusion changes", head, changing)] if changing else []
    return Section("tails", "Leaking prompts", sentences, [*tables, Table("All comparisons with leaking answers", head, rows)])


def _lost_power(table: pd.DataFrame) -> list[str]:
    """Tell changes that come from having fewer questions from those that come from other scores."""
    sentences = []
    left = numbers(table, "n_questions_without").dropna()
    if len(left):
        # the smallest two-sided p of a sign-flip test of n differences is 2 / 2^n
        powerless = int((2.0 ** (1 - left) >= ALPHA).sum())
        sentences.append(
            f"A median of {left.median():g} questions is left; in {powerless} comparisons so few that no p under {ALPHA:g} is "
            "possible, so much of the change is lost power."
        )
    if "p_two_sided_replaced" in table.columns:
        before, after = numbers(table, "p_two_sided"), numbers(table, "p_two_sided_replaced")
        both = before.notna() & after.notna()
        crossing = int(((before < ALPHA) != (after < ALPHA))[both].sum())
        sentences.append(
            f"With every question kept, the scores of leaking answers replaced by the mean of the others, {crossing} of "
            f"{int(both.sum())} cross p = {ALPHA:g}."
        )
    return sentences


def _audit(run: Run) -> Section | None:
    table = own_rows(run, "audit")
    if table.empty:
        return None
    counts = audit_counts(table)
    sentences = [f"{len(table)} findings of {len(counts)} kinds about the data themselves; none stopped the rest."]
    head = ["kind", "findings", "touched in all"]
    rows = [[_words(row["kind"]), str(row["findings"]), _number(row["touched"], ".0f")] for _, row in counts.iterrows()]
    tables = [Table("Findings by kind", head, rows, folded=False)]
    for kind in counts["kind"]:
        part = table[table["kind"] == kind]
        lines = [
            [_text(row["model"]), _text(row["file"]), _number(row["count"], ".0f"), _text(row["consequence"])]
            for row in _records(part)
        ]
        tables.append(Table(f"{_words(kind)} ({len(part)})", ["model", "file", "count", "consequence"], lines))
    return Section("audit", "What is wrong with the data", sentences, tables)


def _facets(run: Run) -> Section | None:
    table = own_rows(run, "facets")
    if table.empty:
        return None
    sentences = [
        "Which share of the answers carries each label, with 95 % intervals: Wilson's, as if all answers were independent, and "
        "one over questions, which they are not independent within."
    ]
    head = ["scheme", "trait", "set", "checkpoint", "facet", "answers", "share", "Wilson", "by question", "questions"]
    rows = []
    for row in _records(table):
        spans = [f"{_percent(row.get(f'{kind}_low'))} to {_percent(row.get(f'{kind}_high'))}" for kind in ("wilson", "cluster")]
        share = [f"{_number(row.get('count'), '.0f')} of {_number(row.get('total'), '.0f')}", f"{_percent(row.get('share'))} %"]
        names = [_text(row.get("scheme")), _named(row), *(_text(row.get(name)) for name in ("set", "checkpoint", "facet"))]
        rows.append(
            [*names, *share, *("" if span == " to " else span for span in spans), _number(row.get("n_questions"), ".0f")]
        )
    return Section("facets", "Facets", sentences, [Table("Shares of the facets", head, rows)], charts="facets")


def _strategies(run: Run) -> Section | None:
    found = strategy_matrices(run)
    effects = comparisons.strategy_effects(run)
    tables = list(effects)
    if not found and not effects:
        return None
    sentences = ["Cosine between the vectors that different strategies give for one trait at one checkpoint."] if found else []
    if effects:
        sentences = [
            "What each strategy's vectors (down) do on the questions of every strategy (across): trait score, steered minus "
            "baseline. A star marks what counts as steerable; a cell without a number was not evaluated, or has no vector (×). "
            "On the common questions, which belong to no strategy, only the vector differs."
        ]
        sentences += ["Folded below: the same with intervals, and the cosine between the strategies' vectors."] if found else []
    for trait in unique(trait for trait, _ in found):
        squares = {checkpoint: square for (own, checkpoint), square in found.items() if own == trait}
        caption = f"{trait}, layer {run.layer}: cosine between strategies"
        rows = _pair_cosines(run, squares)
        tables.append(Table(caption, ["vectors of", *squares], rows, folded=bool(effects) or len(rows) > SHORT))
    return Section("strategies", "Strategies against each other", sentences, tables, charts="strategies")


def _pair_cosines(run: Run, squares: dict[str, pd.DataFrame]) -> list[list[str]]:
    """Return a row for every two strategies, with their cosine at every checkpoint."""
    known = {name for square in squares.values() for name in square.index}
    names = [name for name in run.strategies if name in known]
    rows = []
    for a, b in itertools.combinations(names, 2):
        cosines = [_number(square.loc[a, b], ".2f") if {a, b} <= set(square.index) else "" for square in squares.values()]
        if any(cosines):
            rows.append([f"{LABELS.get(a, a)} × {LABELS.get(b, b)}", *cosines])
    return rows


def _pairs(run: Run) -> Section | None:
    table = own_rows(run, "extraction_pairs")
    if table.empty:
        return None
    shown = {name: label for name, label in PAIR_COLUMNS.items() if name in table.columns}
    rows = []
    for row in _records(table):
        fragile = ", fragile" if _text(row.get("fragile")).lower() == "true" else ""
        said = ": ".join(filter(None, (_words(_text(row.get("status"))) + fragile, _text(row.get("reason")))))
        identity = [_text(row.get("model")), _named(row), _text(row.get("checkpoint")), _tokens(row.get("tokens"))]
        rows.append([*identity, *(_number(row.get(name), ".0f") for name in shown), said])
    head = ["model", "trait", "checkpoint", "tokens", *shown.values(), "status"]
    sentences = [
        f"{int((numbers(table, 'n_pairs') > 0).sum())} of {len(table)} cells have an accepted pair: "
        "positive trait score at least 50, negative below 50, both coherent."
    ]
    return Section("pairs", "Judged pairs", sentences, [Table("Judged pairs of every cell", head, rows)])


def _strays(run: Run) -> Section | None:
    table = run.strays.dropna(subset=["delta_trait"]) if run.first and len(run.strays) else pd.DataFrame()
    if table.empty:
        return None
    head = ["model", "trait", "vector of", "steered network", "layer, coef", "baseline", "steered", "delta", "p", "coherence"]
    rows = []
    for row in _records(table):
        line = [
            _text(row.get("lineage") or row.get("model")),
            _named(row),
            _text(row.get("vector_checkpoint")),
            _text(row.get("target")),
        ]
        line += [f"{_number(row.get('layer'), '.0f')}, {_number(row.get('coef'), 'g')}"]
        line += [
            _number(row.get(name), form)
            for name, form in (("baseline_trait", ".0f"), ("steered_trait", ".0f"), ("delta_trait", "+.1f"))
        ]
        coherence = [_number(row.get(name), ".0f") for name in ("baseline_coherence", "steered_coherence")]
        rows.append([*line, _number(row.get("p_two_sided"), ".3g"), " → ".join(coherence)])
    sentences = ["These models have too few checkpoints to be traced; what their vectors do is given as numbers alone."]
    return Section(
        "others", "Models with a single checkpoint", sentences, [Table("Effects", head, rows, folded=len(rows) > SHORT)]
    )


def _records(table: pd.DataFrame) -> Iterator[dict[str, object]]:
    for record in table.to_dict("records"):
        yield {str(name): value for name, value in record.items()}


def _named(row: dict[str, object]) -> str:
    """Name trait and strategy of a row."""
    return " / ".join(filter(None, (_text(row.get("trait")), _text(row.get("strategy")))))


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value)


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def _number(value: object, form: str) -> str:
    """Word a number; empty where there is none."""
    found = _float(value)
    return "" if math.isnan(found) else f"{found + 0.0:{form}}".replace("-", "−", int("e" not in f"{found:{form}}"))


def _percent(value: object) -> str:
    return _number(100 * _float(value), ".0f")


def _tokens(value: object) -> str:
    return "" if math.isnan(_float(value)) else tokens_text(_float(value))


def _float(value: object) -> float:
    """Return a number, NaN where it is none."""
    try:
        return float(str(value))
    except ValueError:
        return math.nan
