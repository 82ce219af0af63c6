"""When each trait is readable beside when it is steerable: the figure, and the section with its numbers.

Knows how the tables `detection`, `readable` and `context` are cut: per trait and strategy the layer that the verdict of
steerable speaks of, once with other questions held out and once with other words.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from traitline.report.axis import tokens_text
from traitline.report.panels import LABELS
from traitline.report.section import Section, Table
from traitline.report.style import BAND, GREY, INK, ONSET, colour, draw_training_axis, foot, names_height, save, style
from traitline.report.tables import Run, numbers, unique

WIDTH, HEIGHT = 2.75, 1.75  # inches of one panel
SPLITS = {"questions": "other questions", "words": "other words"}
MAIN = "difference"
PROBES = {"difference": "difference of means", "ridge": "ridge", "own": "along the own vector", "forced": "along forced"}
OTHERS = {"ridge": ("^", "#7a4fa3"), "own": ("s", "#b35900"), "forced": ("D", "#009E73")}
READABLE = "#9fd3f2"
STEERED = ("steerable", "forced")


@dataclass(frozen=True)
class DetectionPanel:
    """How well one trait and strategy is read, with one kind of texts held out, at one layer.

    Attributes:
        trait: its name.
        strategy: whose texts are read.
        split: what is held out, a key of `SPLITS`.
        layer: the layer of the verdict of steerable.
        rows: of `detection` at that layer, in order of training, with `x`.
        beneath: rows of the main probe at layer 0, likewise; none where that is the layer itself.
        onset: the row of `readable` of the main probe at that layer; None where there is none.
        onset_beneath: that of the main probe at layer 0.
    """

    trait: str
    strategy: str
    split: str
    layer: int
    rows: pd.DataFrame
    beneath: pd.DataFrame
    onset: pd.Series | None
    onset_beneath: pd.Series | None

    @property
    def label(self) -> str:
        """The strategy as readers see it."""
        return LABELS.get(self.strategy, self.strategy)

    def of(self, probe: str) -> pd.DataFrame:
        """Return the rows of one probe."""
        return self.rows[self.rows["probe"] == probe]


def detection_panels(run: Run) -> list[DetectionPanel]:
    """Cut the table of detection, in the order of the study's traits, then strategies, then splits."""
    table = _own(run, "detection")
    table = table.assign(x=table["checkpoint"].map(run.axis.positions).astype(float)).dropna(subset=["x"]).sort_values("x")
    onsets, parts = _own(run, "readable"), dict(iter(table.groupby(["trait", "strategy", "split"], sort=False)))
    found = []
    for key in [(t, s, split) for t in run.traits for s in run.strategies for split in SPLITS if (t, s, split) in parts]:
        rows = parts[key]
        layers = numbers(rows, "layer")
        known = onsets[(onsets["trait"] == key[0]) & (onsets["strategy"] == key[1]) & (onsets["split"] == key[2])]
        named = numbers(known[known["named"].astype(str) == "True"], "layer").dropna()
        layer = int(named.iloc[0] if len(named) else run.layer if (layers == run.layer).any() else layers.max())
        main = known[known["probe"] == MAIN]
        onset, below = (next((row for _, row in main[numbers(main, "layer") == at].iterrows()), None) for at in (layer, 0))
        beneath = rows[(layers == 0) & (rows["probe"] == MAIN)] if layer else rows.iloc[:0]
        found.append(DetectionPanel(*key, layer, rows[layers == layer], beneath, onset, below))
    return found


def detection(run: Run) -> Figure | None:
    """Draw how well each trait is read along training, with what stands beside it and both onsets."""
    panels = detection_panels(run)
    if not panels:
        return None
    traits = unique(panel.trait for panel in panels)
    lines = [(s, split) for s in run.strategies for split in SPLITS if any((p.strategy, p.split) == (s, split) for p in panels)]
    height = 2.2 + HEIGHT * len(lines) + names_height(run.axis)
    figure = Figure(figsize=(1.1 + WIDTH * max(len(traits), 2), height), layout="constrained")
    grid = figure.subplots(len(lines), len(traits), squeeze=False, sharex=True, sharey=True)
    for panel in panels:
        row, column = lines.index((panel.strategy, panel.split)), traits.index(panel.trait)
        _draw(grid[row, column], run, panel)
    placed = {(lines.index((p.strategy, p.split)), traits.index(p.trait)) for p in panels}
    for row, (strategy, split) in enumerate(lines):
        for column, axes in enumerate(grid[row]):
            axes.set_visible((row, column) in placed)
            draw_training_axis(axes, run.axis, labelled=row == len(lines) - 1)
        grid[row, 0].set_ylabel(f"{LABELS.get(strategy, strategy)}\n{SPLITS[split]}\nAUC", fontsize=8)
        grid[row, 0].set_visible(True)
    for axes, trait in zip(grid[0], traits, strict=True):
        axes.set_title(trait, fontweight="bold")
    figure.suptitle(f"When each trait is readable: {run.title}", fontsize=12, fontweight="bold", ha="left", x=0.01)
    layers = ", ".join(str(layer) for layer in sorted({panel.layer for panel in panels}))
    said = (
        f"{run.axis.title}. The last checkpoint's accepted texts, read again at every checkpoint without their instruction, at "
        f"layer {layers}; AUC within questions, 0.5 is chance. Grey: middle 95 % of the null, sides exchanged in half of each "
        "question's pairs or, with other words, words dealt to the sides anew. Bars: 95 % intervals over questions."
    )
    foot(figure, textwrap.fill(said, int(figure.get_figwidth() * 13)), _marks(panels))
    return figure


def write_detection(run: Run) -> list[Path]:
    """Write the figure into the run's folder `figures`; nothing where the run has no such table."""
    with style():
        figure = detection(run)
        return save(figure, run.figures, "detection") if figure is not None else []


def detection_section(run: Run) -> Section | None:
    """Return the section that stands readable beside steerable, in numbers."""
    panels = detection_panels(run)
    if not panels:
        return None
    sentences = [
        "The accepted texts of the last checkpoint are read again at every checkpoint, without their instruction: how often is "
        "a positive text ahead of a negative one to the same question (AUC), by a probe fitted to texts of other questions? "
        "Words alone may do that, in an untrained network too, so their own AUC stands beside it. Where single words tell the "
        "sides apart, a second measure tests texts with half of these words by a probe fitted to texts with the other half.",
        "Readable and steerable ask the same: an adjusted p under the study's level, a lower bound above a minimum (AUC 0.6) "
        "and above the null, and the next checkpoint too; with other words, p is the share of ways of dealing the words to the "
        "sides that do as well. The layer is the one that steering was tuned to. What is read no better than 0.05 above the "
        f"words alone and the untrained network is marked: words may do it.{_worth(panels)}",
    ]
    head = ["trait", "texts of", "held out", "layer", "readable from", "AUC there, or largest", "p adjusted"]
    head += [
        "null, high",
        "words alone",
        "untrained",
        "layer 0",
        "read at layer 0 from",
        "steerable from",
        "forced: from",
        "first",
    ]
    rows = [_onset_row(run, panel) for panel in panels if panel.onset is not None]
    tables = [Table("Readable beside steerable, by difference of means", head, rows, folded=False)]
    head = ["strategy", "held out", "probe", "checkpoint", "tokens", "texts", "questions", "words"]
    head += ["AUC", "accuracy", "p adjusted", "null", "layer 0", "readable"]
    for trait in unique(panel.trait for panel in panels):
        rows = [_row(panel, row) for panel in panels if panel.trait == trait for row in _records(panel.rows)]
        tables.append(Table(f"{trait}: every probe at every checkpoint", head, rows))
    context = _context(run, {(panel.trait, panel.strategy): panel.layer for panel in panels})
    return Section("detection", "Readable and steerable", sentences, [*tables, *([context] if context else [])])


def _own(run: Run, name: str) -> pd.DataFrame:
    """Return the rows of this page's lineage."""
    table = run.tables[name]
    return table[table["lineage"] == run.lineage] if run.lineage and "lineage" in table.columns else table


def _draw(axes: Axes, run: Run, panel: DetectionPanel) -> None:
    shade, main = colour(panel.strategy, run.strategies), panel.of(MAIN)
    _draw_onsets(axes, run, panel)
    axes.axhline(0.5, color=INK, linewidth=0.8, zorder=1)
    axes.fill_between(main["x"], numbers(main, "shuffled_low"), numbers(main, "shuffled_high"), color=BAND, alpha=0.8,
                      linewidth=0, zorder=1)  # fmt: skip
    words = numbers(main, "auc_words").dropna()
    if len(words):
        axes.axhline(words.iloc[0], color=INK, linewidth=1.1, linestyle=":", zorder=2)
    for probe, (mark, tint) in OTHERS.items():
        rows = panel.of(probe)
        axes.plot(rows["x"], numbers(rows, "auc"), f"{mark}-", color=tint, linewidth=0.8, markersize=2.5, zorder=3)
    axes.plot(panel.beneath["x"], numbers(panel.beneath, "auc"), "--", color=GREY, linewidth=1.3, zorder=3)
    axes.vlines(main["x"], numbers(main, "ci_low"), numbers(main, "ci_high"), color=shade, linewidth=1.3, zorder=4)
    axes.plot(main["x"], numbers(main, "auc"), "o-", color=shade, linewidth=1.6, markersize=4, zorder=4)
    blank = main[numbers(main, "tokens") == 0]
    axes.plot(blank["x"], numbers(blank, "auc"), "o", color=shade, markerfacecolor="white", markersize=5, zorder=5)
    axes.set_ylim(0.0, 1.04)
    axes.grid(axis="y", color=BAND, linewidth=0.5)
    axes.set_axisbelow(True)


def _draw_onsets(axes: Axes, run: Run, panel: DetectionPanel) -> None:
    """Shade the onset interval of readable in the lower half and that of steerable in the upper one."""
    if panel.onset is None:
        return
    places, margin = run.axis.positions, 0.012 * (run.axis.limits[1] - run.axis.limits[0])
    for who, tint, (low, high) in (("readable", READABLE, (0.0, 0.5)), ("steerable", ONSET, (0.5, 1.0))):
        by = places.get(str(panel.onset.get(f"{who}_by")))
        if by is not None:
            after = places.get(str(panel.onset.get(f"{who}_after")), by)
            wider = margin if after == by else 0.0
            axes.axvspan(after - wider, by + wider, low, high, color=tint, alpha=0.5, linewidth=0, zorder=0)


def _marks(panels: list[DetectionPanel]) -> list[Any]:
    drawn = {probe for panel in panels for probe in panel.rows["probe"]}
    marks: list[Any] = [
        Line2D([], [], color=INK, marker="o", markersize=4, label="difference of means"),
        Line2D([], [], color=INK, marker="o", markerfacecolor="white", markersize=5, linestyle="none", label="untrained"),
    ]
    marks += [
        Line2D([], [], color=tint, marker=mark, markersize=3, linewidth=0.8, label=PROBES[probe])
        for probe, (mark, tint) in OTHERS.items()
        if probe in drawn
    ]
    return [
        *marks,
        Line2D([], [], color=GREY, linestyle="--", label="difference of means at layer 0"),
        Line2D([], [], color=INK, linestyle=":", label="the words alone"),
        Patch(color=BAND, label="null"),
        Patch(color=READABLE, alpha=0.5, label="onset of readable (lower half)"),
        Patch(color=ONSET, alpha=0.5, label="onset of steerable (upper half)"),
    ]


def _worth(panels: list[DetectionPanel]) -> str:
    """Say how many of the measures with other questions are no better than the words alone."""
    seen = [one.onset for one in panels if one.split == "questions" and one.onset is not None]
    read = [one for one in seen if isinstance(one["readable_by"], str)]
    words = sum(not isinstance(one["beyond_words_by"], str) for one in read)
    return f" Of {len(read)} readable on other questions here, {words} never are more than that." if read else ""


def _onset_row(run: Run, panel: DetectionPanel) -> list[str]:
    row = panel.onset
    assert row is not None  # noqa: S101
    auc = _number(row.get("auc"), ".2f")
    if not pd.isna(row.get("ci_low")):
        auc += f" [{_number(row['ci_low'], '.2f')}, {_number(row['ci_high'], '.2f')}]"
    readable = _when(run, row, "readable")
    if isinstance(row["readable_by"], str) and not isinstance(row["beyond_words_by"], str):
        readable += " (words may do it)"
    return [
        *(panel.trait, panel.label, SPLITS[panel.split], str(panel.layer), readable, auc),
        _number(row.get("p_adjusted"), ".2g"),
        *(_number(row.get(name), ".2f") for name in ("shuffled_high", "auc_words", "auc_untrained", "auc_layer_0")),
        _when(run, panel.onset_beneath, "readable") if panel.onset_beneath is not None else "",
        *(_when(run, row, who) for who in STEERED),
        _first(row),
    ]


def _first(row: pd.Series) -> str:
    """Word which onset came first."""
    first = {"untold": "not told apart"}.get(str(row["first"]), _text(row["first"]))
    return f"{first}, if words count" if first == "readable" and not isinstance(row["beyond_words_by"], str) else first


def _when(run: Run, row: pd.Series, who: str) -> str:
    """Word an onset: the interval, since when at the latest, or why there is none."""
    by, after = row.get(f"{who}_by"), row.get(f"{who}_after")
    if not isinstance(by, str):
        return {"never": "never", "no_vector": "no vector", "not_measured": "not measured"}.get(str(row[f"{who}_censored"]), "")
    lost = f", lost at {int(row[f'{who}_lost'])}" if row.get(f"{who}_lost", 0) > 0 else ""
    if not isinstance(after, str):
        return f"{run.axis.moment(by)} at the latest{lost}"
    return f"{run.axis.moment(after)} to {run.axis.moment(by)}{lost}"


def _row(panel: DetectionPanel, row: dict[str, Any]) -> list[str]:
    """Return one row of the table of detection in words."""
    auc = _number(row.get("auc"), ".2f")
    if not pd.isna(row.get("ci_low")):
        auc += f" [{_number(row['ci_low'], '.2f')}, {_number(row['ci_high'], '.2f')}]"
    readable = "yes" if str(row.get("readable")) == "True" else ""
    if readable and str(row.get("above_words")) != "True":
        readable = "words may do it"
    if row["status"] != "complete":
        readable = "no texts to compare"
    null = " to ".join(_number(row.get(name), ".2f") for name in ("shuffled_low", "shuffled_high"))
    return [
        *(panel.label, SPLITS[panel.split], PROBES.get(str(row["probe"]), str(row["probe"])), str(row["checkpoint"])),
        tokens_text(_float(row.get("tokens"))),
        *(_number(row.get(name), ".0f") for name in ("n_texts", "n_questions", "n_words")),
        *(auc, _number(row.get("accuracy"), ".2f"), _number(row.get("p_adjusted"), ".2g"), null if null != " to " else ""),
        *(_number(row.get("auc_layer_0"), ".2f"), readable),
    ]


def _context(run: Run, layers: dict[tuple[str, str], int]) -> Table | None:
    """Return how much of each vector is left without the instruction, at the layers shown."""
    table = _own(run, "context")
    shown = [row for row in _records(table) if layers.get((str(row["trait"]), str(row["strategy"]))) == row["layer"]]
    if not shown:
        return None
    head = ["trait", "texts of", "vector", "checkpoint", "tokens", "pairs", "questions", "cosine", "norm ratio"]
    place = {name: i for i, name in enumerate(run.axis.checkpoints)}
    shown.sort(
        key=lambda row: (run.traits.index(row["trait"]), row["strategy"], row["vector"], place.get(row["checkpoint"], 0))
    )
    rows = [
        [
            *(str(row[name]) for name in ("trait", "strategy", "vector", "checkpoint")),
            tokens_text(_float(row["tokens"])),
            *(_number(row[name], ".0f") for name in ("n_pairs", "n_questions")),
            *(_number(row[name], ".2f") for name in ("cosine", "norm_ratio")),
        ]
        for row in shown
    ]
    return Table("The instruction's share: the same rows read without it, cosine to the vector and ratio of norms", head, rows)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in record.items()} for record in table.to_dict("records")]


def _text(value: Any) -> str:
    return "" if value is None or pd.isna(value) else str(value)


def _number(value: Any, form: str) -> str:
    """Word a number; empty where there is none."""
    number = _float(value)
    return "" if math.isnan(number) else f"{number:{form}}"


def _float(value: Any) -> float:
    """Return a number, NaN where it is none."""
    return float(pd.to_numeric(value, errors="coerce"))
