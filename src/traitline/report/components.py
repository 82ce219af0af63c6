"""What strategies share and where they part, and which side of neutral carries a vector: section and figures.

Knows how the tables of components are cut into curves and rows. Leaves their numbers to `analysis/subspaces.py`.
"""

from __future__ import annotations

import math
import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from traitline.report.meaning import last_checkpoint, own
from traitline.report.panels import LABELS, Dose, by_dose, dosed
from traitline.report.section import Section, Table
from traitline.report.style import BAND, GREY, INK, colour, draw_training_axis, foot
from traitline.report.tables import Run, numbers, unique

WIDTH, HEIGHT = 2.9, 1.9  # inches of a panel
SHARED, WHOLE = "shared", "the whole vector"
STARTS = {"rest-": "rest of {}", "positive-": "{}: positive − neutral", "negative-": "{}: neutral − negative"}


def components(run: Run) -> Section | None:
    """Return the section on the components of vectors; None where the run has no table of any."""
    parts, angles, sides = (own(run, name) for name in ("strategy_parts", "principal_angles", "neutral_sides"))
    alone = main_dose(run)
    if parts.empty and sides.empty and alone is None:
        return None
    sentences, tables = [], []
    if len(parts):
        sentences.append(
            "The shared direction of a trait is the first principal direction of its strategies' unit vectors: its share is "
            "100 % where all are parallel. A strategy's rest is the part of its vector's squared length off that direction; "
            "where it is no larger than the vector's own sampling noise, the strategies do not differ."
        )
        tables += [_parts(run, parts), *_angles(run, angles)]
    if len(sides):
        sentences.append(
            "With answers without any instruction in between, a vector is positive minus neutral plus neutral minus negative. "
            "Its positive share is how much of its length the first of these covers: 50 % where both sides carry it alike."
        )
        tables.append(_sides(run, sides))
    if alone is not None:
        dose, rows = alone
        sentences.append(
            "Components steered alone, each at the same dose as a whole vector, whatever its own length: a rest that does "
            "nothing was not what the strategy's vector worked by. The rests of two strategies alone are opposite."
        )
        tables.append(_alone(run, dose, rows))
    return Section("components", "Components", sentences, tables)


def named(vector: str, asked: str) -> str:
    """Return a component as readers see it."""
    if vector == asked:
        return f"{WHOLE} ({LABELS.get(asked, asked)})"
    start = next((one for one in STARTS if vector.startswith(one)), None)
    return vector if start is None else STARTS[start].format(vector[len(start) :])


def main_dose(run: Run) -> tuple[Dose, pd.DataFrame] | None:
    """Return the components steered alone at the main layer and largest dose; None where there is none."""
    found = by_dose(dosed(run.tables["components"]))
    at_layer = [one for one in found if one[0].layer == run.layer] or found
    return max(at_layer, key=lambda one: one[0].coef) if at_layer else None


def parts(run: Run) -> Figure | None:
    """Draw how much of the strategies' variance one direction carries along training, and the rest of each."""
    table = own(run, "strategy_parts")
    table = table[table["checkpoint"].isin(run.axis.checkpoints)]
    across = [trait for trait in run.traits if trait in set(table["trait"])]
    if not across:
        return None
    figure = Figure(figsize=(1.1 + WIDTH * max(len(across), 2), 1.6 + HEIGHT * 2), layout="constrained")
    grid = figure.subplots(2, len(across), squeeze=False, sharey="row")
    for above, below, trait in zip(*grid, across, strict=True):
        part = table[table["trait"] == trait].assign(x=table["checkpoint"].map(run.axis.positions)).sort_values("x")
        _draw_shared(above, part.drop_duplicates("checkpoint"))
        for strategy in run.strategies:
            rows = part[part["strategy"] == strategy]
            shade = colour(strategy, run.strategies)
            below.plot(rows["x"], 100 * numbers(rows, "rest_share"), "o-", color=shade, linewidth=1.4, markersize=3.5)
            below.plot(rows["x"], 100 * numbers(rows, "noise_share"), ":", color=shade, linewidth=1.1)
        for axes in (above, below):
            axes.set_ylim(-2, 104)
            axes.grid(axis="y", color=BAND, linewidth=0.4)
            draw_training_axis(axes, run.axis, labelled=axes is below)
        above.set_title(trait, fontweight="bold")
    grid[0][0].set_ylabel("variance along the\nshared direction, %")
    grid[1][0].set_ylabel("rest of each\nstrategy, %")
    figure.suptitle(f"What the strategies share, layer {run.layer}: {run.title}", fontsize=12, fontweight="bold", ha="left",
                    x=0.01)  # fmt: skip
    known = [name for name in run.strategies if name in set(table["strategy"])]
    marks: list[Artist] = [
        Line2D([], [], color=colour(s, run.strategies), marker="o", markersize=4, label=LABELS.get(s, s)) for s in known
    ]
    marks += [
        Patch(color=BAND, label="shared: range over bootstrap vectors"),
        Line2D([], [], color=INK, linestyle="--", label="shared: shuffled vectors"),
        Line2D([], [], color=GREY, linewidth=0.8, label="shared: orthogonal vectors"),
        Line2D([], [], color=INK, linestyle=":", label="rest: the vector's own noise"),
    ]
    foot(figure, run.axis.title, marks)
    return figure


def _draw_shared(axes: Axes, rows: pd.DataFrame) -> None:
    low, high = numbers(rows, "shared_low"), numbers(rows, "shared_high")
    axes.fill_between(rows["x"], 100 * low, 100 * high, color=BAND, alpha=0.7, linewidth=0)
    axes.plot(rows["x"], 100 * numbers(rows, "shared_share"), "o-", color=INK, linewidth=1.5, markersize=3.5)
    axes.plot(rows["x"], 100 * numbers(rows, "shared_shuffled"), "--", color=INK, linewidth=1.0)
    axes.plot(rows["x"], 100 * numbers(rows, "shared_least"), color=GREY, linewidth=0.7)


def sides(run: Run) -> Figure | None:
    """Draw which part of each vector lies on the positive side of neutral answers, along training."""
    table = own(run, "neutral_sides")
    table = table[table["checkpoint"].isin(run.axis.checkpoints)]
    across = [trait for trait in run.traits if trait in set(table["trait"])]
    if not across:
        return None
    figure = Figure(figsize=(1.1 + WIDTH * max(len(across), 2), 3.4), layout="constrained")
    line = figure.subplots(1, len(across), squeeze=False, sharey="row")[0]
    wide = run.axis.limits[1] - run.axis.limits[0]
    for axes, trait in zip(line, across, strict=True):
        part = table[table["trait"] == trait].assign(x=table["checkpoint"].map(run.axis.positions)).sort_values("x")
        for i, strategy in enumerate(run.strategies):
            rows, shade = part[part["strategy"] == strategy], colour(strategy, run.strategies)
            x = rows["x"] + 0.008 * wide * (i - (len(run.strategies) - 1) / 2)
            axes.vlines(x, 100 * numbers(rows, "share_low"), 100 * numbers(rows, "share_high"), color=shade, linewidth=1.1)
            axes.plot(x, 100 * numbers(rows, "positive_share"), "o-", color=shade, linewidth=1.4, markersize=3.5)
        axes.axhline(50, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_title(trait, fontweight="bold")
        axes.grid(axis="y", color=BAND, linewidth=0.4)
        draw_training_axis(axes, run.axis)
    line[0].set_ylabel("share of the vector that\nis positive − neutral, %")
    title = f"Which side of neutral carries the vectors, layer {run.layer}: {run.title}"
    figure.suptitle(title, fontsize=12, fontweight="bold", ha="left", x=0.01)
    known = [name for name in run.strategies if name in set(table["strategy"])]
    marks = [Line2D([], [], color=colour(s, run.strategies), marker="o", markersize=4, label=LABELS.get(s, s)) for s in known]
    foot(figure, f"{run.axis.title}. Bars: range over bootstrap vectors. The rest is neutral − negative.", marks)
    return figure


def alone(run: Run) -> Figure | None:
    """Draw what each component does when it is steered alone at the last checkpoint, beside the whole vector."""
    found = main_dose(run)
    if found is None:
        return None
    dose, rows = found
    rows = rows.rename(columns={"vector_checkpoint": "checkpoint"})
    last = last_checkpoint(run, rows[numbers(rows, "delta_trait").notna()])
    rows = rows[(rows["checkpoint"] == last) & numbers(rows, "delta_trait").notna()]
    across = [trait for trait in run.traits if trait in set(rows["trait"])]
    if not across:
        return None
    rows = rows.assign(label=[named(str(v), str(s)) for v, s in zip(rows["vector_strategy"], rows["strategy"], strict=True)])
    names = unique(rows["label"])
    figure = Figure(figsize=(2.4 + WIDTH * max(len(across), 2), 1.4 + 0.27 * len(names)), layout="constrained")
    line = figure.subplots(1, len(across), squeeze=False, sharey=True, sharex=True)[0]
    for axes, trait in zip(line, across, strict=True):
        part = rows[rows["trait"] == trait].set_index("label").reindex(names)
        y = np.arange(len(names))
        shades = [colour(str(one), run.strategies) if str(one) in run.strategies else GREY for one in part["strategy"]]
        axes.hlines(y, numbers(part, "ci_low"), numbers(part, "ci_high"), color=shades, linewidth=1.4)
        axes.scatter(numbers(part, "delta_trait"), y, color=shades, s=22, zorder=3)
        axes.axvline(0, color=GREY, linewidth=0.8)
        axes.set_yticks(y, names)
        axes.set_title(trait, fontweight="bold")
        axes.grid(axis="x", color=BAND, linewidth=0.4)
    line[0].invert_yaxis()
    figure.suptitle(f"Components steered alone at {last}: {run.title}", fontsize=12, fontweight="bold", ha="left", x=0.01)
    said = f"Trait score, steered minus baseline, with 95 % intervals; {dose.label}. Colour: whose questions are asked."
    figure.supxlabel(textwrap.fill(said, int(figure.get_figwidth() * 13)), fontsize=8)
    return figure


def _parts(run: Run, table: pd.DataFrame) -> Table:
    last = last_checkpoint(run, table)
    head = [
        "trait",
        "checkpoint",
        "shared, %",
        "bootstrap",
        "shuffled",
        "strategy",
        "cosine to the others",
        "rest, %",
        "its noise, %",
    ]
    rows = []
    for trait in run.traits:
        own_rows = table[table["trait"] == trait]
        for name in [one for one in run.axis.checkpoints if one in set(own_rows["checkpoint"])]:
            for row in own_rows[own_rows["checkpoint"] == name].to_dict("records"):
                span = f"{_percent(row['shared_low'])} to {_percent(row['shared_high'])}"
                shared = [_percent(row["shared_share"]), "" if span == " to " else span, _percent(row["shared_shuffled"])]
                strategy = str(row["strategy"])
                own_part = [_cosine(row["cosine_to_others"]), _percent(row["rest_share"]), _percent(row["noise_share"])]
                rows.append([trait, name, *shared, LABELS.get(strategy, strategy), *own_part])
    return Table(f"What the strategies' vectors share, layer {run.layer}, up to {last}", head, rows)


def _angles(run: Run, table: pd.DataFrame) -> list[Table]:
    last = last_checkpoint(run, table)
    here = table[table["checkpoint"] == last]
    rows = []
    for (a, b), part in here.groupby(["strategy_a", "strategy_b"], sort=False):
        ordered = part.assign(number=numbers(part, "number")).sort_values("number")
        lists = [
            ", ".join(f"{angle:.0f}°" for angle in numbers(ordered, name).dropna())
            for name in ("angle", "angle_noise", "angle_shuffled")
        ]
        traits = str(int(numbers(ordered, "n_traits").max()))
        rows.append([LABELS.get(str(a), str(a)), LABELS.get(str(b), str(b)), traits, *lists])
    head = ["strategy", "and", "traits", "principal angles", "of noise alone", "of shuffled vectors"]
    return [Table(f"Angles between what the strategies' vectors span at {last}, layer {run.layer}", head, rows)] if rows else []


def _sides(run: Run, table: pd.DataFrame) -> Table:
    head = [
        "trait",
        "strategy",
        "checkpoint",
        "pairs",
        "neutral answers",
        "positive share, % [bootstrap]",
        "length ratio",
        "cosine of the sides",
    ]
    head += ["positive side to the vector", "negative side to the vector"]
    rows = []
    for trait in run.traits:
        for strategy in run.strategies:
            for row in table[(table["trait"] == trait) & (table["strategy"] == strategy)].to_dict("records"):
                interval = f"[{_percent(row['share_low'])}, {_percent(row['share_high'])}]"
                counts = [f"{row['n_pairs']:.0f}", f"{row['n_neutral']:.0f}"]
                share = f"{_percent(row['positive_share'])}{'' if interval == '[, ]' else f' {interval}'}"
                cosines = [_cosine(row[f"cosine_{name}"]) for name in ("sides", "positive", "negative")]
                names = [trait, LABELS.get(strategy, strategy), str(row["checkpoint"])]
                rows.append([*names, *counts, share, _cosine(row["norm_ratio"]), *cosines])
    return Table(f"Both sides of neutral, layer {run.layer}", head, rows)


def _alone(run: Run, dose: Dose, table: pd.DataFrame) -> Table:
    head = ["trait", "checkpoint", "questions of", "component", "delta [95 %]", "p adjusted", "coherence", "status"]
    rows = []
    for trait in run.traits:
        for row in table[table["trait"] == trait].to_dict("records"):
            low, high = _number(row["ci_low"]), _number(row["ci_high"])
            delta = _number(row["delta_trait"]) + (f" [{low}, {high}]" if low else "")
            coherence = " → ".join(_whole(row.get(f"{name}_coherence")) for name in ("baseline", "steered"))
            names = [trait, str(row["vector_checkpoint"]), LABELS.get(str(row["strategy"]), str(row["strategy"]))]
            p = _float(row.get("p_adjusted"))
            chance = "" if math.isnan(p) else "< .0001" if p < 1e-4 else f"{p:.2g}"
            component = named(str(row["vector_strategy"]), str(row["strategy"]))
            rows.append([*names, component, delta, chance, coherence.strip(" →"), str(row["status"]).replace("_", " ")])
    return Table(f"Components steered alone, {dose.label}", head, rows)


def _float(value: Any) -> float:
    return float(pd.to_numeric(value, errors="coerce"))


def _number(value: Any) -> str:
    found = _float(value)
    return "" if math.isnan(found) else f"{found + 0.0:+.0f}".replace("-", "−")


def _whole(value: Any) -> str:
    found = _float(value)
    return "" if math.isnan(found) else f"{found:.0f}"


def _cosine(value: Any) -> str:
    found = _float(value)
    return "" if math.isnan(found) else f"{found:.2f}".replace("-", "−")


def _percent(value: Any) -> str:
    found = _float(value)
    return "" if math.isnan(found) else f"{100 * found:.0f}".replace("-", "−")
