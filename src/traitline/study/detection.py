"""From a run's readings to its tables of detection: the fixed texts found again, and every measure of every checkpoint.

Knows which rows the texts are. Leaves reading networks to `readings.py` and every number to `analysis/`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from traitline.analysis.detection import judged, measurements, splits, statistics, surface
from traitline.analysis.holdout import Split, Texts
from traitline.analysis.readable import readable_table
from traitline.study.config import FORCED
from traitline.study.found import Found
from traitline.study.plan import Cell, Network, derived_seed
from traitline.study.readings import COSINE, NORM_RATIO, CellReadings, load_readings
from traitline.study.store import read_rows

CONTEXT = ["lineage", "checkpoint", "tokens", "trait", "strategy", "vector", "layer", "n_pairs", "n_questions"]
CONTEXT += ["cosine", "norm_ratio"]

Name = tuple[str, str]
"""Trait and strategy."""


def detection_tables(found: Found, verdicts: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the tables `detection`, `readable` and `context`; none where nothing was read.

    Args:
        found: the run's files.
        verdicts: the verdicts of emergence, at whose layers the headline of `readable` is.
    """
    plan = found.plan
    networks = [n for n in plan.checkpoints if plan.config.detection and found.store.readings(n.name).is_file()]
    known: dict[Name, _Known] = {}
    measured: list[pd.DataFrame] = []
    context: list[dict[str, Any]] = []
    for network in networks:
        for name, readings in load_readings(found.store.readings(network.name)).items():
            if name not in known:
                known[name] = _Known(found, name, readings)
            measured.append(known[name].statistics(network, readings))
            context += _context(found, network, name, readings)
    if not measured:
        return {}
    order = [network.name for network in networks]
    table = judged(pd.concat(measured, ignore_index=True), order, alpha=plan.config.criteria.alpha)
    forced = plan.config.generating[0] if FORCED in plan.config.strategies else None
    beside = readable_table(table, verdicts, plan.order, forced)
    return {"detection": table, "readable": beside, "context": pd.DataFrame(context, columns=CONTEXT)}


class _Known:
    """The fixed texts of one trait and strategy, the ways of holding them out, and what their words alone tell."""

    def __init__(self, found: Found, name: Name, readings: CellReadings) -> None:
        self._plan, self._name = found.plan, name
        rows = read_rows(found.store.contrast(Cell(self._plan.last.name, *name))).set_index("row_key")
        texts = rows.loc[list(readings.row_keys)]
        self._texts = Texts(pd.factorize(texts["question_id"])[0], readings.fold, texts["response_token_ids"].tolist())
        self._seed = derived_seed(self._plan.config.seed, "detection", *name)
        self._ways: list[Split] = splits(self._texts, self._seed)
        self._surface = surface(self._texts, self._ways)

    def statistics(self, network: Network, readings: CellReadings) -> pd.DataFrame:
        """Return the statistics of one network."""
        series: dict[tuple[str, str], dict[int, Any]] = {}
        for split, probe, layer, one in measurements(readings.gram, readings.along, self._texts, self._ways):
            series.setdefault((split, probe), {})[layer] = one
        parts = []
        for (split, probe), layers in series.items():
            fitted = probe if (split, probe, "words") in self._surface else "difference"  # of a vector: the probe like it
            beside = {f"auc_{kind}": self._surface.get((split, fitted, kind), math.nan) for kind in ("words", "length")}
            parts.append(statistics(layers, split, self._plan.config.seed).assign(split=split, probe=probe, **beside))
        who = dict(zip(("trait", "strategy"), self._name, strict=True))
        tokens = np.nan if network.tokens is None else network.tokens
        where = {"lineage": self._plan.lineage.name, "checkpoint": network.name, "tokens": tokens}
        return pd.concat(parts, ignore_index=True).assign(**where, **who)


def _context(found: Found, network: Network, name: Name, readings: CellReadings) -> list[dict[str, Any]]:
    """Return how alike each vector is to the one read without instruction, a row per layer."""
    who = (found.plan.lineage.name, network.name, network.tokens, *name)
    return [
        dict(zip(CONTEXT, (*who, vector, layer, *readings.counts[vector], *map(float, line)), strict=True))
        for vector, values in readings.context.items()
        for layer, line in enumerate(values[[COSINE, NORM_RATIO]].T)
    ]
