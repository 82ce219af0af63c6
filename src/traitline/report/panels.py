"""Effect tables cut into panels: one per trait and strategy, with its doses, controls and verdict.

Knows which rows belong to one curve and which dose is the one to show first. Figures and page draw the same panels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from traitline.report.axis import tokens_text
from traitline.report.tables import Run, numbers, unique

Kind = Literal["emergence", "transfer"]
LABELS = {"forced": "forced (fixed texts)", "": "no strategy named"}
DIGITS = 9  # of a coefficient; more is rounding
NO_BAND = pd.DataFrame({"x": [], "low": [], "high": [], "mean": [], "n": []}, dtype=np.float64)
STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))


@dataclass(frozen=True, slots=True)
class Dose:
    """Where and how strongly a vector is applied."""

    layer: int
    dose: str
    coef: float
    positions: str

    @property
    def label(self) -> str:
        """The dose in words."""
        units = {"norm": " × activation norm", "raw": " × vector", "kl": " nats (KL)"}
        unit = units.get(self.dose, f" ({self.dose})" if self.dose else "")
        where = "" if self.positions in ("", "response") else f", {self.positions} positions"
        return f"layer {self.layer}, {self.coef:g}{unit}{where}"


@dataclass(frozen=True)
class Panel:
    """The curves of one trait and strategy.

    Attributes:
        trait: its name.
        strategy: its name.
        curves: dose -> rows of the effect table, one per checkpoint in order of training, with `x`.
        controls: dose -> one row per checkpoint: `x`, `low`, `high`, `mean` of the control deltas, and `n`.
        main: the dose of the verdict, or the best measured one; None where nothing was planned.
        verdict: the row of the verdicts table, or None; verdicts speak of positive coefficients alone.
    """

    trait: str
    strategy: str
    curves: dict[Dose, pd.DataFrame]
    controls: dict[Dose, pd.DataFrame]
    main: Dose | None
    verdict: pd.Series | None

    @property
    def label(self) -> str:
        """The strategy as readers see it."""
        return LABELS.get(self.strategy, self.strategy)


def panels(run: Run, kind: Kind, *, target: str | None = None, sign: Literal[1, -1] = 1) -> list[Panel]:
    """Cut an effect table into panels, in the order of the study's traits, then strategies.

    Args:
        run: the run.
        kind: which table.
        target: the network steered, for transfer.
        sign: 1 for steering towards the trait, -1 for the negative coefficients.
    """
    key = ("panels", kind, target, sign)
    if key not in run.remembered:
        run.remembered[key] = tuple(_panels(run, kind, target, sign))
    return list(run.remembered[key])


def _panels(run: Run, kind: Kind, target: str | None, sign: int) -> Iterator[Panel]:
    table = dosed(run.tables[kind])
    table = table[table["coef"] * sign > 0]
    controls = dosed(run.tables["controls"])
    if target is not None:
        table, controls = table[table["target"] == target], controls[controls["target"] == target]
    elif kind == "emergence":
        controls = controls[controls["target"] == controls["vector_checkpoint"]]
    parts = dict(list(table.groupby(["trait", "strategy"], sort=False)))
    drawn = _bands(run, controls)
    for trait in run.traits:
        for strategy in run.strategies:
            if (trait, strategy) not in parts:
                continue
            verdict = verdict_of(run, kind, trait, strategy, target)
            curves = {dose: _curve(run, part) for dose, part in by_dose(parts[trait, strategy])}
            bands = {dose: drawn.get((trait, strategy, *_place(dose)), NO_BAND) for dose in curves}
            main = _main(curves, verdict, sign)
            yield Panel(trait, strategy, curves, bands, main, verdict if sign > 0 else None)


def verdict_of(run: Run, kind: Kind, trait: str, strategy: str, target: str | None = None) -> pd.Series | None:
    """Return one row of the verdicts table, or None."""
    table = run.tables["verdicts"]
    found = table[(table["kind"] == kind) & (table["trait"] == trait) & (table["strategy"] == strategy)]
    if target is not None and "target" in table.columns:
        found = found[found["target"] == target]
    return None if found.empty else found.iloc[0]


def targets(run: Run) -> list[str]:
    """Return the networks that vectors were transferred to."""
    return [str(name) for name in unique(run.tables["transfer"]["target"].dropna())]


def stars(p: float) -> str:
    """Return the stars of an adjusted p."""
    return next((mark for level, mark in STARS if p < level), "")


def onset_span(run: Run, verdict: pd.Series | None) -> tuple[float, float] | None:
    """Return the two ends of the onset interval on the axis, or None where there is no onset."""
    if verdict is None:
        return None
    places = run.axis.positions
    by = places.get(str(verdict.get("onset_by")))
    if by is None:
        return None
    return places.get(str(verdict.get("onset_after")), by), by


def onset_text(run: Run, verdict: pd.Series | None) -> str:
    """Say in two or three words what the verdict says of the onset."""
    if verdict is None:
        return ""
    by = verdict.get("onset_by")
    if isinstance(by, str) and by:
        return f"from {tokens_text(run.axis.tokens.get(by, np.nan))}" if run.axis.in_tokens else f"from {by}"
    return {"no_vector": "no vector", "not_measured": "not measured"}.get(str(verdict.get("censored")), "not steerable")


def dosed(table: pd.DataFrame) -> pd.DataFrame:
    """Return an effect table with its dose columns filled in and as plain types, rows without a coefficient left out."""
    keyed = table.assign(layer=numbers(table, "layer"), coef=numbers(table, "coef"))
    for name in ("dose", "positions"):
        keyed[name] = keyed[name].fillna("").astype(str) if name in keyed.columns else ""
    keyed["positions"] = keyed["positions"].replace("", "response")
    return keyed[keyed["coef"].notna() & keyed["layer"].notna()]


def by_dose(rows: pd.DataFrame) -> list[tuple[Dose, pd.DataFrame]]:
    """Return the rows of each dose, by layer and coefficient; the table is one of `dosed`."""
    groups = rows.groupby(["layer", "dose", "coef", "positions"], sort=True)
    found = []
    for _, part in groups:
        first = part.iloc[0]
        found.append((Dose(int(first["layer"]), str(first["dose"]), float(first["coef"]), str(first["positions"])), part))
    return found


def _curve(run: Run, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of one dose in order of training, with their places on the axis."""
    return rows.assign(x=rows["vector_checkpoint"].map(run.axis.positions)).dropna(subset=["x"]).sort_values("x")


def _bands(run: Run, controls: pd.DataFrame) -> dict[tuple[Any, ...], pd.DataFrame]:
    """Return (trait, strategy, place of a dose) -> the range of its controls at every checkpoint."""
    rows = _curve(run, controls).dropna(subset=["delta_trait"])
    rows = rows.assign(strength=rows["coef"].abs().round(DIGITS))
    keys = ["trait", "strategy", "layer", "dose", "strength", "positions"]
    grouped = rows.groupby([*keys, "x"])["delta_trait"].agg(low="min", high="max", mean="mean", n="size").reset_index()
    return {key: part[list(NO_BAND)].reset_index(drop=True) for key, part in grouped.groupby(keys, sort=False)}


def _place(dose: Dose) -> tuple[int, str, float, str]:
    """Return what a dose shares with its controls, which are those of the positive dose."""
    return dose.layer, dose.dose, round(abs(dose.coef), DIGITS), dose.positions


def _main(curves: dict[Dose, pd.DataFrame], verdict: pd.Series | None, sign: int) -> Dose | None:
    """Return the dose of the verdict (its mirror image for negative coefficients), else the most measured one."""
    if verdict is not None:
        layer, coef = (float(verdict.get(name, np.nan)) for name in ("layer", "coef"))
        same = [dose for dose in curves if dose.layer == layer and np.isclose(dose.coef, sign * abs(coef))]
        if same:
            return same[0]
        curves = {dose: curve for dose, curve in curves.items() if dose.layer == layer} or curves
    return max(curves, key=lambda dose: int(curves[dose]["delta_trait"].notna().sum()), default=None)


def rubric_matrix(run: Run, cut: Sequence[Panel], strategy: str, checkpoint: str) -> NDArray[np.float64]:
    """Return what each trait's vector does on each trait's rubric: `[traits, rubrics]`, NaN where unmeasured.

    Args:
        run: the run.
        cut: the panels of emergence.
        strategy: the vectors' strategy.
        checkpoint: the vectors' checkpoint.
    """
    matrix = np.full((len(run.traits), len(run.traits)), np.nan)
    others = dosed(run.tables["other_rubrics"])
    for panel in cut:
        if panel.strategy != strategy or panel.main is None:
            continue
        i, dose = run.traits.index(panel.trait), panel.main
        own = panel.curves[dose]
        for delta in own.loc[own["vector_checkpoint"] == checkpoint, "delta_trait"]:
            matrix[i, i] = delta
        same = (others["trait"] == panel.trait) & (others["strategy"] == strategy) & (others["vector_checkpoint"] == checkpoint)
        same &= (others["layer"] == dose.layer) & np.isclose(others["coef"], dose.coef)
        for rubric, delta in zip(others.loc[same, "rubric"], others.loc[same, "delta_trait"], strict=True):
            if rubric in run.traits and rubric != panel.trait:
                matrix[i, run.traits.index(rubric)] = delta
    return matrix
