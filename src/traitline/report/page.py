"""report.html: one file that opens without a network.

Knows what stands on the page and in which words; the layout is in `html/page.html`, the looks in `html/page.css`, the scripts
beside them. Everything is inlined when the page is written, and a policy in its head lets no other script run
and nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from plotly.offline import get_plotlyjs

from traitline.files import write_whole
from traitline.report.axis import tokens_text
from traitline.report.detection import write_detection
from traitline.report.directions import ceilings
from traitline.report.figures import write_figures
from traitline.report.latex import write_latex
from traitline.report.made import how_made, written_by
from traitline.report.panels import LABELS, Kind, panels, targets
from traitline.report.payload import embedded, payload
from traitline.report.responses import MOST_BYTES, MOST_PAIRS, browsable_responses
from traitline.report.sections import sections
from traitline.report.tables import Run, file_name, numbers, read_run, unique
from traitline.report.verdicts import BADGES, MOST_CARDS, cards

HTML = Path(__file__).parent / "html"
SCRIPTS = ("base.js", "charts.js", "matrix.js", "geometry.js", "strategies.js", "posttraining.js")  # in the order they run


def write_report(run: Path) -> Path:
    """Write the figures, LaTeX tables and report.html of a run directory, whatever of the run is finished.

    Where its tables hold several lineages, each further one has a page `report-<lineage>.html`, linked from the first.

    Returns:
        The path of the first page.

    Raises:
        InputError: the directory does not exist.
        StoreError: a file cannot be written.
    """
    first = read_run(run)
    for lineage in first.lineages or ("",):
        found = first if lineage == first.lineage else read_run(run, lineage)
        write_figures(found)
        write_detection(found)
        write_latex(found)
        write_whole(run / page_name(found), render(found))
    return run / page_name(first)


def page_name(run: Run, lineage: str = "") -> str:
    """Return the file of a lineage's page, or of the one shown."""
    named = lineage or run.lineage
    return "report.html" if not run.lineages or named == run.lineages[0] else f"report-{file_name(named)}.html"


def render(run: Run) -> str:
    """Return the page as text."""
    responses = browsable_responses(run)
    content, verdicts = payload(run), cards(run)
    return fill(
        "page.html",
        (*SCRIPTS, *(("unpack.js", "browser.js") if responses.n_pairs else ())),
        content,
        run=run,
        summary=summary(run),
        cards=verdicts,
        most_cards=MOST_CARDS,
        targets=targets(run),
        emergence=_numbers(run),
        transfers=_transfers(run),
        has_negative=bool(panels(run, "emergence", sign=-1)),
        layer=run.layer,
        last=run.axis.checkpoints[-1] if run.axis.checkpoints else "",
        extraction=_extraction(run),
        responses=responses,
        most_pairs=MOST_PAIRS,
        most_bytes=MOST_BYTES,
        made=how_made(run),
        labels=LABELS,
        sections=sections(run),
        has_maps=bool(content["maps"]),
        has_ceiling=len(ceilings(run)) > 0,
        browsable=_has_responses(run),
        pages=[(lineage, page_name(run, lineage)) for lineage in run.lineages if lineage != run.lineage],
    )


def fill(template: str, scripts: Sequence[str], content: Any, **values: Any) -> str:
    """Return a page with its style, scripts and data inside, and a policy that lets nothing else run or load.

    Args:
        template: the layout's file name in `html/`.
        scripts: the scripts' file names, in the order they run, after the drawing library.
        content: what the scripts draw, as plain data.
        **values: what else the layout shows.
    """
    inlined = [get_plotlyjs(), *((HTML / name).read_text(encoding="utf-8") for name in scripts)]
    loader = jinja2.FileSystemLoader(HTML)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"tokens": tokens_text, "signed": signed, "whole": whole, "p": chance, "thousands": "{:,}".format}
    css = (HTML / "page.css").read_text(encoding="utf-8")
    policy = content_policy(inlined)
    return environment.get_template(template).render(
        policy=policy, scripts=inlined, css=css, data=embedded(content), badges=BADGES, written_by=written_by(), **values
    )


def summary(run: Run) -> str:
    """Say in a few sentences what was traced and what came out."""
    order = run.axis.checkpoints
    lineage = str((run.lineage if len(run.lineages) > 1 else run.study.get("lineage")) or run.lineage or "the lineage")
    if not order or not run.traits:
        return "This run has no tables yet. The page fills as the study goes on; write it again with the command `report`."
    known = [count for count in run.axis.tokens.values() if count == count]
    span = f", from {tokens_text(min(known))} to {tokens_text(max(known))} training tokens" if known else ""
    text = (
        f"{_count(len(run.traits), 'trait')} ({', '.join(run.traits)}) traced through {_count(len(order), 'checkpoint')} of "
        f"{lineage}{span}, elicited by {_listed([LABELS.get(name, name) for name in run.strategies])}."
    )
    found = cards(run)
    found = [card for card in found if card.strategy != "forced"] or found
    good = {trait: [c.strategy for c in found if c.trait == trait and c.own.state == "steerable"] for trait in run.traits}
    named = [f"{trait} ({_listed([LABELS.get(s, s) for s in names])})" for trait, names in good.items() if names]
    if run.tables["emergence"].empty:
        return f"{text} No effect has been measured yet."
    outcome = f"{len(named)} of {_count(len(run.traits), 'trait')} can be steered with the checkpoint's own vectors"
    text = f"{text} At the last checkpoint, {order[-1]}, {outcome}{': ' + '; '.join(named) if named else ''}."
    judges: list[Any] = unique(run.tables["emergence"]["judge"].dropna()) if "judge" in run.tables["emergence"] else []
    return f"{text} Responses were scored by {_listed(list(map(str, judges)))}." if len(judges) else text


def _has_responses(run: Run) -> bool:
    return any(any(run.path.glob(f"{folder}/*/*/*/*.parquet")) for folder in ("cells", "targets"))


def _numbers(run: Run, kind: Kind = "emergence", target: str | None = None) -> list[list[str]]:
    """Return the rows behind the curves first shown, as the cells of a table."""
    rows = []
    for panel in panels(run, kind, target=target):
        if panel.main is None:
            continue
        bands = panel.controls[panel.main].set_index("x")
        for _, row in panel.curves[panel.main].iterrows():
            band = bands.loc[row["x"]] if row["x"] in bands.index else None
            controls = "" if band is None else f"{signed(band['low'])} to {signed(band['high'])}"
            rows.append([panel.trait, panel.label, *_cells(row, controls)])
    return rows


def _cells(row: pd.Series, controls: str) -> list[str]:
    """Return one row of an effect table, checkpoint to status, in words."""

    def number(name: str) -> float:
        return float(pd.to_numeric(row.get(name, math.nan), errors="coerce"))

    interval = f" [{signed(number('ci_low'))}, {signed(number('ci_high'))}]" if pd.notna(number("ci_low")) else ""
    coherence = [whole(number(name)) for name in ("baseline_coherence", "steered_coherence")]
    status = "steerable" if bool(row.get("steerable", False)) else str(row["status"]).replace("_", " ")
    return [
        str(row["vector_checkpoint"]),
        tokens_text(number("tokens")),
        *(whole(number(name)) for name in ("baseline_trait", "steered_trait")),
        f"{signed(number('delta_trait'))}{interval}",
        chance(number("p_adjusted")),
        controls,
        " → ".join(coherence) if any(coherence) else "",
        f"{percent} %" if (percent := whole(100 * number("refusal_rate"))) else "",
        whole(number("n_missing")),
        whole(number("n_pairs")) + (" (fragile)" if bool(row.get("fragile", False)) else ""),
        status,
    ]


def _transfers(run: Run) -> list[dict[str, Any]]:
    return [{"target": target, "rows": _numbers(run, "transfer", target)} for target in targets(run)]


def _extraction(run: Run) -> list[dict[Any, Any]]:
    table = run.tables["extraction"]
    table = table.assign(place=table["checkpoint"].map({name: i for i, name in enumerate(run.axis.checkpoints)}))
    table = table.sort_values(["trait", "strategy", "place"], kind="stable")
    for name in ("tokens", "n_rows", "n_passing", "n_pairs", "n_questions"):
        table[name] = numbers(table, name)
    table["reason"] = table["reason"].fillna("") if "reason" in table.columns else ""
    table["fragile"] = table["fragile"] if "fragile" in table.columns else False
    return table.to_dict("records")


def content_policy(scripts: list[str]) -> str:
    """Return a content security policy under which these scripts run and no other, and nothing is loaded."""
    digests = (base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode() for text in scripts)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "nothing"


def signed(value: float) -> str:
    """Word a difference with its sign; empty where there is none."""
    return "" if pd.isna(value) else f"{value + 0.0:+.0f}".replace("-", "−")


def whole(value: float) -> str:
    """Word a number without decimals; empty where there is none."""
    return "" if pd.isna(value) else f"{value:.0f}"


def chance(value: float) -> str:
    """Word a p; empty where there is none."""
    return "" if pd.isna(value) else "< .0001" if value < 1e-4 else f"{value:.2g}"
