r"""The tables of a run for a paper: booktabs in a longtable, each a file for `\input`.

Knows which columns a paper shows, how numbers are rounded there, and how any text is kept from being read as a command. Needs
`\usepackage{booktabs,longtable}` and nothing else.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from traitline.files import write_whole
from traitline.report.axis import tokens_text
from traitline.report.directions import at_layer, ceilings
from traitline.report.panels import LABELS, Kind, panels, targets
from traitline.report.sections import audit_counts, own_rows, status_counts
from traitline.report.tables import Run, file_name

ESCAPES = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "[": "{[}",
    "]": "{]}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "−": "$-$",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "…": r"\ldots{}",
    "\u00a0": "~",
    "–": "--",
    "—": "---",
    "’": "'",
    "‘": "`",
    "“": "``",
    "”": "''",
    '"': "''",
    "*": "{*}",
}
LETTERS = range(0xC0, 0x180)  # accented letters that every LaTeX sets


@dataclass(frozen=True)
class Tabular:
    """A table for a paper: the file's name, caption, alignment of the columns (`l`, `r`, or a width in line widths), texts."""

    name: str
    caption: str
    columns: Sequence[str | float]
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_latex(run: Run) -> list[Path]:
    """Write the LaTeX tables of a run into its folder `latex`, one file each; none of what has no table.

    Raises:
        StoreError: a file cannot be written.
    """
    folder = run.path / "latex" if run.first else run.path / "latex" / file_name(run.lineage)
    written = []
    for make in MAKERS:
        for table in make(run):
            if table.rows:
                path = folder / f"{table.name}.tex"
                write_whole(path, latex(table).encode("utf-8"))
                written.append(path)
    return written


def latex(table: Tabular) -> str:
    """Return a table as LaTeX; a strategy that all rows share moves into the caption."""
    table = _compact(table)
    form = "".join(column if isinstance(column, str) else f"p{{{column}\\linewidth}}" for column in table.columns)
    head = f"{_line(table.head)}\n\\midrule"
    lines = [
        f"% {_escaped(table.caption)}",
        r"{\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\begin{{longtable}}{{{form}}}",
        rf"\caption{{{_escaped(table.caption)}}}\label{{tab:{re.sub('[^a-z0-9-]+', '-', table.name.lower())}}}\\",
        rf"\toprule{chr(10)}{head}{chr(10)}\endfirsthead",
        rf"\toprule{chr(10)}{head}{chr(10)}\endhead",
        r"\bottomrule" "\n" r"\endlastfoot",
        *(_line(row) for row in table.rows),
        r"\end{longtable}}",
    ]
    return "\n".join(lines) + "\n"


def _effects(run: Run, kind: Kind, target: str | None, name: str, caption: str) -> Tabular:
    head = ["trait", "strategy", "checkpoint", "tokens", "pairs", "baseline", "steered", "delta [95 %]", "p", "coherence"]
    rows, doses = [], []
    for panel in panels(run, kind, target=target):
        if panel.main is None:
            continue
        doses.append(f"{panel.trait}: {panel.main.label}")
        for _, row in panel.curves[panel.main].iterrows():
            fragile = "*" if bool(row.get("fragile", False)) else ""
            delta = _interval(row.get("delta_trait"), row.get("ci_low"), row.get("ci_high"))
            if row["status"] != "complete":
                delta = str(row["status"]).replace("_", " ")
            coherence = [_number(row.get(f"{side}_coherence"), ".0f") for side in ("baseline", "steered")]
            line = [panel.trait, panel.label, str(row["vector_checkpoint"]), _tokens(row.get("tokens"))]
            line += [f"{_number(row.get('n_pairs'), '.0f')}{fragile}"]
            line += [*(_number(row.get(f"{side}_trait"), ".1f") for side in ("baseline", "steered")), delta]
            rows.append([*line, _p(row.get("p_adjusted")), " → ".join(coherence) if any(coherence) else ""])
    said = f"{caption} Dose: {'; '.join(dict.fromkeys(doses))}. p: Holm-adjusted, one-sided. *: a fragile vector, of few pairs."
    return Tabular(name, said, [*"lllrrrrrrr"], head, rows)


def _emergence(run: Run) -> list[Tabular]:
    return [_effects(run, "emergence", None, "emergence", f"{run.title}: each checkpoint steered with its own vector.")]


def _transfer(run: Run) -> list[Tabular]:
    return [
        _effects(
            run, "transfer", target, f"transfer-{file_name(target)}", f"{run.title}: each checkpoint's vectors on {target}."
        )
        for target in targets(run)
    ]


def _verdicts(run: Run) -> list[Tabular]:
    table = run.tables["verdicts"]
    rows = [[str(row["kind"]), *_named(row), _text(row.get("target")), _text(row["sentence"])] for _, row in table.iterrows()]
    return [
        Tabular(
            "verdicts",
            f"{run.title}: verdicts.",
            ["l", "l", "l", "l", 0.45],
            ["kind", "trait", "strategy", "target", "verdict"],
            rows,
        )
    ]


def _extraction(run: Run) -> list[Tabular]:
    table = run.tables["extraction"]
    place = {name: i for i, name in enumerate(run.axis.checkpoints)}
    table = table.assign(place=table["checkpoint"].map(place)).sort_values(["trait", "strategy", "place"], kind="stable")
    rows = []
    for _, row in table.iterrows():
        status = _text(row["status"]).replace("_", " ") + (", fragile" if bool(row.get("fragile", False)) else "")
        counts = [_number(row.get(name), ".0f") for name in ("n_rows", "n_pairs", "n_questions")]
        rows.append([*_named(row), _text(row["checkpoint"]), _tokens(row.get("tokens")), *counts, status])
    head = ["trait", "strategy", "checkpoint", "tokens", "rows", "pairs", "questions", "status"]
    return [Tabular("extraction", f"{run.title}: accepted pairs behind each vector.", [*"lllrrrrl"], head, rows)]


def _cosines(run: Run) -> list[Tabular]:
    table = at_layer(run, "cosine_to_final")
    rows = []
    for _, row in table.iterrows():
        cosines = [_number(row.get(f"cosine_to_{other}"), ".3f") for other in ("final", "previous")]
        norms = [_number(row.get("l2_norm"), ".3g"), _number(row.get("norm_over_activation_norm"), ".3f")]
        counts = [_tokens(row.get("tokens")), _number(row.get("n_pairs"), ".0f")]
        rows.append([*_named(row), _text(row["checkpoint"]), *counts, *cosines, *norms])
    head = ["trait", "strategy", "checkpoint", "tokens", "pairs", "to the last", "to the previous", "norm", "over activation"]
    found = [f"{row.trait} {row.cosine:.3f}" for row in ceilings(run).itertuples()]
    ceiling = f" The same weights, drawn again: {', '.join(found)}." if found else ""
    return [
        Tabular(
            "cosine_to_final",
            f"{run.title}: cosines along training, layer {run.layer}.{ceiling}",
            [*"lllrrrrrr"],
            head,
            rows,
        )
    ]


def _facets(run: Run) -> list[Tabular]:
    rows = []
    for _, row in own_rows(run, "facets").iterrows():
        spans = [_span(row.get(f"{kind}_low"), row.get(f"{kind}_high")) for kind in ("wilson", "cluster")]
        names = [
            _text(row["scheme"]),
            _text(row["trait"]),
            _text(row.get("set")),
            _text(row["checkpoint"]),
            _text(row["facet"]),
        ]
        rows.append(
            [*names, f"{_number(row['count'], '.0f')}/{_number(row['total'], '.0f')}", _number(row["share"], ".2f"), *spans]
        )
    head = ["scheme", "trait", "set", "checkpoint", "facet", "answers", "share", "Wilson 95 %", "by question"]
    return [Tabular("facets", f"{run.title}: shares of the facets.", [*"lllllrrrr"], head, rows)]


def _significance(run: Run) -> list[Tabular]:
    table = own_rows(run, "significance")
    if table.empty:
        return []
    counts = status_counts(table)
    statuses = [name for name in counts.columns if name not in ("model", "run", "trait")]
    rows = [
        [_text(row["run"]), _text(row["trait"]), *(str(row[status]) for status in statuses)] for _, row in counts.iterrows()
    ]
    rows.append(["all", "", *(str(counts[status].sum()) for status in statuses)])
    head = ["run", "trait", *(status.replace("_", " ") for status in statuses)]
    caption = f"{run.title}: published comparisons, computed again from the raw scores."
    return [Tabular("significance", caption, [0.5, "l", *"r" * len(statuses)], head, rows)]


def _audit(run: Run) -> list[Tabular]:
    table = own_rows(run, "audit")
    if table.empty:
        return []
    rows = [
        [_text(row["kind"]).replace("_", " "), str(row["findings"]), _number(row["touched"], ".0f")]
        for _, row in audit_counts(table).iterrows()
    ]
    return [
        Tabular("audit", f"{run.title}: what is wrong with the data.", [*"lrr"], ["kind", "findings", "touched in all"], rows)
    ]


MAKERS: tuple[Callable[[Run], list[Tabular]], ...] = (
    *(_emergence, _transfer, _verdicts, _extraction, _cosines, _facets, _significance, _audit),
)


def _compact(table: Tabular) -> Tabular:
    place = list(table.head).index("strategy") if "strategy" in table.head else -1
    shared = {row[place] for row in table.rows}
    if place < 0 or len(shared) != 1:
        return table

    def rest(cells: Sequence[Any]) -> list[Any]:
        return [*cells[:place], *cells[place + 1 :]]

    caption = f"{table.caption} Strategy: {shared.pop()}."
    return Tabular(table.name, caption, rest(table.columns), rest(table.head), [rest(row) for row in table.rows])


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(_escaped, cells)) + r" \\"


def _escaped(text: str) -> str:
    """Return a text that LaTeX sets as it stands, on one line; letters it cannot set become their nearest ones, else `?`."""
    return "".join(map(_letter, re.sub(r"\s+", " ", text.replace("\u00a0", " ")).strip()))


def _letter(character: str) -> str:
    if character in ESCAPES:
        return ESCAPES[character]
    if 0x20 <= ord(character) < 0x7F or ord(character) in LETTERS:
        return character
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return "".join(ESCAPES.get(one, one) for one in plain if one.isprintable()) or "?"


def _named(row: pd.Series) -> list[str]:
    strategy = _text(row.get("strategy"))
    return [_text(row.get("trait")), LABELS.get(strategy, strategy)]


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value)


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _number(value: object, form: str) -> str:
    found = _float(value)
    return "" if math.isnan(found) else f"{found + 0.0:{form}}".replace("-", "−")


def _interval(value: object, low: object, high: object) -> str:
    span = _span(low, high, "+.1f")
    return f"{_number(value, '+.1f')} [{span}]" if span else _number(value, "+.1f")


def _span(low: object, high: object, form: str = ".2f") -> str:
    ends = [_number(low, form), _number(high, form)]
    return ", ".join(ends) if all(ends) else ""


def _p(value: object) -> str:
    found = _float(value)
    return "" if math.isnan(found) else "<.0001" if found < 1e-4 else f"{found:.2g}"


def _tokens(value: object) -> str:
    found = _float(value)
    return "" if math.isnan(found) else tokens_text(found)
