"""The page of a comparison: where it is written, and what stands on it in which words.

Knows that a comparison has a folder of its own, which nothing else is ever written into. Leaves what is compared to
`comparison.py`, and how a page is put together to `page.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from traitline.errors import InputError, StoreError
from traitline.files import write_whole
from traitline.report.axis import tokens_text
from traitline.report.comparison import Comparison, Difference, Question, compare, state_of
from traitline.report.page import chance, fill, page_name, render, signed
from traitline.report.panels import LABELS, onset_text, verdict_of
from traitline.report.payload import axis_payload, plain
from traitline.report.style import colour
from traitline.report.tables import file_name, numbers, unique
from traitline.report.verdicts import BADGES

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#4b5563", "#E69F00", "#56B4E9")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x")
MARKER = "comparison.json"
CURVE = ("delta_trait", "ci_low", "ci_high", "p_adjusted", "baseline_coherence", "steered_coherence", "n_questions")


def write_comparison(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Write one page that shows runs beside each other, with links to the page of each.

    A run that has no page of its own yet gets one.

    Args:
        paths: run directories, two or more.
        out: the folder to write into; `comparison-<a>-<b>` in the current one without it.

    Returns:
        The page's path.

    Raises:
        InputError: runs that cannot be compared, or a folder that holds something other than a comparison of them.
        StoreError: a file cannot be written.
    """
    found = compare(paths)
    folder = out or Path("-".join(["comparison", *(file_name(name) for name in found.names)]))
    runs = [str(run.path.resolve()) for run in found.runs]
    _check_folder(folder, runs)
    for run in found.runs:
        own = run.path / page_name(run)
        if not own.is_file():
            write_whole(own, render(run))
    text = comparison_text(found, folder)
    write_whole(folder / MARKER, json.dumps({"runs": runs}, indent=2) + "\n")
    write_whole(folder / "report.html", text)
    return folder / "report.html"


def comparison_text(found: Comparison, folder: Path) -> str:
    """Return the page of a comparison that is to lie in a folder."""
    emergence = [question for question in found.questions if not question.target]
    moved = unique(question.target for question in found.questions if question.target)
    last = [one for one in found.differences if one.final]
    shared = [one for one in found.differences if not one.final]
    return fill(
        "comparison.html",
        ("base.js", "comparison.js"),
        _payload(found),
        names=found.names,
        runs=[_run(found, i, folder) for i in range(len(found.runs))],
        summary=_summary(found, last),
        verdicts_emergence=[(question.label, _verdicts(found, question)) for question in emergence],
        transfers=[
            (target, [(one.label, _verdicts(found, one)) for one in found.questions if one.target == target])
            for target in moved
        ],
        last=[_line(one) for one in last],
        shared=[_line(one) for one in shared],
        settings=found.settings,
        in_tokens=found.in_tokens,
    )


def _check_folder(folder: Path, runs: list[str]) -> None:
    """Refuse a folder that holds anything but a comparison of the same runs."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is a file; give a folder with --out")
    try:
        there = json.loads((folder / MARKER).read_text(encoding="utf-8"))["runs"]
    except FileNotFoundError:
        if any(folder.iterdir()):
            raise InputError(f"{str(folder)!r} holds something other than a comparison; give another --out") from None
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{str(folder / MARKER)!r} cannot be read ({error}); give another --out, or delete the folder"
        ) from error
    if sorted(map(str, there)) != sorted(runs):
        raise InputError(
            f"{str(folder)!r} holds the comparison of other runs ({', '.join(map(str, there))}); give another --out"
        )


def _summary(found: Comparison, last: Sequence[Difference]) -> str:
    both = [one for one in last if sum(bool(state) for state in one.states) > 1]
    apart = sum(one.differs for one in both)
    count = f"{len(both)} comparison" + ("" if len(both) == 1 else "s")
    text = f"{len(found.runs)} runs beside each other: {', '.join(found.names)}. "
    if both:
        text += f"At their last checkpoints {count} of trait, strategy and target can be made; in {apart} the verdicts differ. "
    lineages = unique(run.lineage or str(run.study.get("lineage", "")) for run in found.runs)
    if len(lineages) > 1:
        text += f"The lineages differ ({', '.join(lineages)}): curves share an axis of tokens, not of weights. "
    settings = f"{len(found.settings)} setting{' differs' if len(found.settings) == 1 else 's differ'}"
    return text + (f"{settings}." if found.settings else "Their settings are the same.")


def _run(found: Comparison, i: int, folder: Path) -> dict[str, str]:
    """Return how a run is introduced: name, link, and where and by whom it was measured."""
    run = found.runs[i]
    page = run.path / page_name(run)
    try:
        link = quote(Path(os.path.relpath(page.resolve(), folder.resolve())).as_posix())
    except ValueError:  # another drive
        link = page.resolve().as_uri()
    known = [count for count in run.axis.tokens.values() if count == count]
    judges = unique(run.tables["emergence"]["judge"].dropna()) if "judge" in run.tables["emergence"] else []
    said = [f"{len(run.axis.checkpoints)} checkpoints of {run.lineage or run.study.get('lineage') or 'the lineage'}"]
    said += [f"to {tokens_text(max(known))} tokens"] if known else []
    said += [f"judge {', '.join(map(str, judges))}"] if judges else []
    if len(run.lineages) > 1:
        said.append(f"its other lineages are not compared: {', '.join(run.lineages[1:])}")
    return {"name": found.names[i], "link": link, "said": "; ".join(said), "path": str(run.path)}


def _verdicts(found: Comparison, question: Question) -> list[dict[str, str]]:
    """Return each run's verdict: badge, sentence and dose."""
    said = []
    for i, (panel, sentence) in enumerate(zip(question.answers, found.sentences(question), strict=True)):
        if panel is None or panel.main is None:
            said.append({"name": found.names[i], "state": "unknown", "sentence": "", "dose": ""})
            continue
        curve = panel.curves[panel.main]
        state = state_of(curve.iloc[-1]) if len(curve) else "unknown"
        shown = state if state in BADGES else "unknown"
        said.append({"name": found.names[i], "state": shown, "sentence": sentence, "dose": panel.main.label})
    return said


def _line(one: Difference) -> list[str]:
    """Return a row of the table of differences."""
    deltas = ["" if row is None else _delta(row) for row in one.rows]
    apart = []
    for i in range(1, len(one.rows)):
        middle, low, high = one.apart(i)
        apart.append(
            "" if pd.isna(middle) else f"{signed(middle)} [{signed(low)}, {signed(high)}]" if pd.notna(low) else signed(middle)
        )
    states = [BADGES.get(state, state) if state else "not measured" for state in one.states]
    moment = (
        " / ".join(unique(str(row["vector_checkpoint"]) for row in one.rows if row is not None)) if one.final else one.moment
    )
    verdict = "differs" if one.differs else "same" if sum(map(bool, one.states)) > 1 else ""
    return [one.question.what, one.question.label, verdict, moment, *deltas, *apart, " / ".join(states)]


def _delta(row: pd.Series) -> str:
    value, low, high, p = (
        float(numbers(row.to_frame().T, name).iloc[0]) for name in ("delta_trait", "ci_low", "ci_high", "p_adjusted")
    )
    if value != value:
        return str(row["status"]).replace("_", " ")
    return f"{signed(value)} [{signed(low)}, {signed(high)}]" + (f", p {chance(p)}" if pd.notna(p) else "")


def _payload(found: Comparison) -> dict[str, Any]:
    """Return what the scripts draw."""
    strategies = unique(question.strategy for question in found.questions)
    return {
        "axis": axis_payload(found.axis),
        "strategies": [
            {"name": name, "label": LABELS.get(name, name), "colour": colour(name, strategies)} for name in strategies
        ],
        "runs": [
            {
                "name": name,
                "colour": COLOURS[i % len(COLOURS)],
                "dash": DASHES[i % len(DASHES)],
                "symbol": SYMBOLS[i % len(SYMBOLS)],
            }
            for i, name in enumerate(found.names)
        ],
        "questions": [
            {"target": one.target, "label": one.label, "curves": [_curve(found, i, one) for i in range(len(found.runs))]}
            for one in found.questions
        ],
    }


def _curve(found: Comparison, i: int, question: Question) -> dict[str, Any] | None:
    """Return a run's curve on the common axis; None where it has none."""
    panel = question.answers[i]
    if panel is None or panel.main is None:
        return None
    rows, run = panel.curves[panel.main], found.runs[i]
    names = rows["vector_checkpoint"].astype(str).tolist()
    verdict = None if question.target else verdict_of(run, "emergence", question.trait, question.strategy)
    return {
        "x": plain([found.axis.positions[found.key(i, name)] for name in names], 8),
        "checkpoint": names,
        "status": [state_of(row) for _, row in rows.iterrows()],
        "dose": panel.main.label,
        "said": onset_text(run, verdict),
        **{name: plain(numbers(rows, name)) for name in CURVE},
    }
