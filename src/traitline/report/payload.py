"""What the page's scripts draw: the run's tables as plain lists, ready to be embedded as JSON.

Knows which numbers each interactive chart needs and how model text is kept from breaking out of the page. Leaves the drawing to
the scripts in `html/`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from traitline.report.axis import TrainingAxis
from traitline.report.descendants import shades, source_panels
from traitline.report.directions import beside, square, trait_cosines
from traitline.report.facets import facet_panels
from traitline.report.mds import trait_maps
from traitline.report.panels import LABELS, Panel, onset_span, onset_text, panels, rubric_matrix, targets
from traitline.report.stages import stage_panels
from traitline.report.strategies import COMMON, effect_matrices
from traitline.report.style import colour
from traitline.report.tables import Run, numbers

MOST_COSINES = 150_000
STATISTICS = (
    *("delta_trait", "ci_low", "ci_high", "p_adjusted", "p_two_sided", "baseline_trait", "steered_trait"),
    *("baseline_coherence", "steered_coherence", "refusal_rate", "ceiling_share", "repetition", "length_cut"),
    *("n_pairs", "n_questions", "n_rows_baseline", "n_rows_steered", "n_missing"),
)
TRAJECTORIES = (
    *("cosine_to_final", "corrected_to_final", "cosine_to_previous", "corrected_to_previous"),
    *("norm_over_activation_norm", "l2_norm", "reliability"),
)


def payload(run: Run) -> dict[str, Any]:
    """Return everything the scripts need."""
    return {
        "axis": axis_payload(run.axis),
        "traits": run.traits,
        "strategies": [
            {"name": name, "label": LABELS.get(name, name), "colour": colour(name, run.strategies)} for name in run.strategies
        ],
        "effects": {
            "emergence": [{"target": "", "panels": [_panel(run, one) for one in panels(run, "emergence")]}],
            "negative": [{"target": "", "panels": [_panel(run, one) for one in panels(run, "emergence", sign=-1)]}],
            "transfer": [
                {"target": target, "panels": [_panel(run, one) for one in panels(run, "transfer", target=target)]}
                for target in targets(run)
            ],
        },
        "geometry": _geometry(run),
        "crossed": _crossed(run),
        "matrices": _matrices(run),
        "stages": _stages(run),
        "sources": _sources(run),
        "facets": [
            {
                "title": panel.title,
                "strategy": panel.strategy,
                "answers": panel.answers,
                "lines": [
                    {
                        "facet": facet,
                        "colour": panel.shade(facet),
                        "checkpoint": rows["checkpoint"].astype(str).tolist(),
                        **{name: plain(numbers(rows, name)) for name in ("x", "share", "low", "high", "count", "total")},
                    }
                    for facet, rows in panel.lines.items()
                ],
            }
            for panel in facet_panels(run)
        ],
        "maps": [
            {
                "trait": one.trait,
                "strategy": one.strategy,
                "checkpoint": one.checkpoints,
                "x": plain(one.scaling.places[:, 0], 4),
                "y": plain(one.scaling.places[:, 1], 4),
                "stress": plain([one.scaling.stress], 3)[0],
            }
            for one in trait_maps(run)
        ],
    }


def axis_payload(axis: TrainingAxis) -> dict[str, Any]:
    """Return the training axis as the scripts draw it."""
    return {
        "checkpoints": list(axis.checkpoints),
        "places": [axis.positions[name] for name in axis.checkpoints],
        "tokens": plain([axis.tokens.get(name, math.nan) for name in axis.checkpoints]),
        "short": {name: axis.moment(name) for name in axis.checkpoints},
        "ticks": [list(tick) for tick in axis.ticks],
        "limits": list(axis.limits),
        "gaps": list(axis.gaps),
        "slots": [list(slot) for slot in axis.slots],
        "stages": [[band.name, band.low, band.high] for band in axis.stages],
        "title": axis.title,
    }


def embedded(content: Any) -> str:
    """Return JSON that can stand inside a script element whatever its texts hold."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "replace").decode("utf-8")


def plain(values: Sequence[float] | pd.Series | np.ndarray[Any, Any], digits: int = 5) -> list[float | None]:
    """Return numbers with so many significant digits, None where one is missing."""
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in map(float, values)]


def _panel(run: Run, panel: Panel) -> dict[str, Any]:
    span = onset_span(run, panel.verdict)
    return {
        "trait": panel.trait,
        "strategy": panel.strategy,
        "onset": list(span) if span else None,
        "said": onset_text(run, panel.verdict),
        "main": None if panel.main is None else panel.main.label,
        "doses": [dose.label for dose in panel.curves],
        "curves": [_curve(curve) for curve in panel.curves.values()],
        "controls": [
            {name: plain(band[name]) for name in ("x", "low", "high", "mean", "n")} for band in panel.controls.values()
        ],
    }


def _curve(rows: pd.DataFrame) -> dict[str, Any]:
    curve: dict[str, Any] = {name: plain(numbers(rows, name)) for name in STATISTICS}
    curve["x"] = plain(rows["x"], 8)
    curve["checkpoint"] = rows["vector_checkpoint"].astype(str).tolist()
    curve["status"] = rows["status"].fillna("").astype(str).tolist()
    for name in ("fragile", "steerable"):
        curve[name] = rows[name].astype(bool).tolist() if name in rows.columns else [False] * len(rows)
    return curve


def _geometry(run: Run) -> dict[str, Any]:
    """Return trajectories and matrices at the main layer and a few others."""
    lines, matrices = run.tables["cosine_to_final"], run.tables["cosine_matrix"]
    panels_drawn = len(run.traits) * len(run.strategies)
    layers = run.layers
    same = run.tables["same_weights"]
    same = same.assign(cosine=numbers(same, "cosine")).dropna(subset=["cosine"])
    drawn = set(matrices["checkpoint_a"]) | set(matrices["checkpoint_b"])
    names = [name for name in run.axis.checkpoints if name in drawn]
    room = MOST_COSINES // max(1, panels_drawn * len(names) ** 2)
    return {
        "layers": layers,
        "ceilings": [
            {"trait": trait, "strategy": strategy, "layer": int(layer), "cosine": plain([part["cosine"].mean()], 4)[0]}
            for (trait, strategy, layer), part in same.groupby(["trait", "strategy", "layer"], sort=False)
            if layer in layers
        ],
        "trajectories": [
            {
                "trait": trait,
                "strategy": strategy,
                "layer": int(layer),
                "checkpoint": part["checkpoint"].astype(str).tolist(),
                **{name: plain(numbers(part, name), 4) for name in TRAJECTORIES},
            }
            for (trait, strategy, layer), part in lines.groupby(["trait", "strategy", "layer"], sort=False)
            if layer in layers
        ],
        "matrices": [
            {
                "trait": trait,
                "strategy": strategy,
                "layer": int(layer),
                "cosines": [plain(line, 3) for line in square(part, names)],
            }
            for (trait, strategy, layer), part in matrices.groupby(["trait", "strategy", "layer"], sort=False)
            if layer in layers[: max(1, room)] and part["checkpoint_a"].nunique() > 1
        ],
        "matrix_checkpoints": names,
    }


def _crossed(run: Run) -> list[dict[str, Any]]:
    """Return, per strategy and checkpoint, each vector's effect on each rubric and the cosines between traits."""
    found, cut = [], panels(run, "emergence")
    for strategy in run.strategies:
        for checkpoint in run.axis.checkpoints:
            effects, cosines = rubric_matrix(run, cut, strategy, checkpoint), trait_cosines(run, strategy, checkpoint)
            if not beside(effects):
                effects = np.full_like(effects, np.nan)
            if np.isfinite(effects).any() or np.isfinite(cosines).any():
                matrices = {"effects": [plain(line, 3) for line in effects], "cosines": [plain(line, 3) for line in cosines]}
                found.append({"strategy": strategy, "checkpoint": checkpoint, **matrices})
    return found


def _matrices(run: Run) -> list[dict[str, Any]]:
    """Return what each strategy's vectors do on each strategy's questions."""
    return [
        {
            "trait": one.trait,
            "target": one.target,
            "dose": one.dose.label,
            "vectors": [LABELS.get(name, name) for name in one.vectors],
            "questions": [LABELS.get(name, name) for name in one.questions],
            "common": COMMON in one.questions and len(one.questions) > 1,
            **{name: [plain(line, 4) for line in getattr(one, name)] for name in ("delta", "low", "high")},
            "states": one.states,
            "steerable": one.steerable.tolist(),
        }
        for one in effect_matrices(run)
    ]


def _stages(run: Run) -> list[dict[str, Any]]:
    """Return what each stage of post-training did before any steering."""
    shown = {
        "level": "baseline_trait",
        "low": "ci_low",
        "high": "ci_high",
        "coherence": "baseline_coherence",
        "n": "n_questions",
        "p": "p_adjusted_trait",
        "refusals": "refusal_rate",
        "told_refusals": "told_refusal_rate",
        "told": "told_trait",
        "projection": "projection",
    }
    return [
        {
            "trait": panel.trait,
            "stages": panel.stages,
            "lines": [
                {"strategy": strategy, **{name: plain(numbers(rows, column)) for name, column in shown.items()}}
                for strategy, rows in panel.lines.items()
            ],
        }
        for panel in stage_panels(run)
    ]


def _sources(run: Run) -> list[dict[str, Any]]:
    """Return what the descendants' vectors do to every network."""
    panels_drawn = source_panels(run)
    looks = shades(panels_drawn)
    shown = {"delta": "delta_trait", "low": "ci_low", "high": "ci_high", "p": "p_adjusted", "pairs": "n_pairs"}
    return [
        {
            "trait": panel.trait,
            "strategy": panel.strategy,
            "dose": panel.dose.label,
            "targets": panel.targets,
            "sources": [
                {
                    "name": source,
                    "reference": source == panel.reference,
                    "colour": looks[source][0],
                    "marker": looks[source][1],
                    "status": rows["status"].fillna("").astype(str).tolist(),
                    **{name: plain(numbers(rows, column)) for name, column in shown.items()},
                    **{
                        name: rows[name].eq(True).tolist() if name in rows.columns else [False] * len(rows)
                        for name in ("steerable", "fragile")
                    },
                }
                for source, rows in panel.sources.items()
            ],
        }
        for panel in panels_drawn
    ]
