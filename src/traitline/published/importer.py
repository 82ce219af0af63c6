"""From a release to the ordinary tables of a study, so that figures and report are those of any study.

Knows which published comparisons are emergence (a checkpoint under its own vector) and which transfer (the last checkpoint or
another model under every vector), and how judged answers become response rows. Where several runs measured the same comparison
it keeps one and says so in the audit. Every statistic comes from `analysis/`, over honest rows: none counted twice.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from traitline.analysis import effects
from traitline.analysis.verdicts import verdict_table
from traitline.published.answers import Shelf
from traitline.published.release import FINAL, Release

UNIT_NORM = ("unit_norm", "")
"""How the release calls a coefficient times the activation norm; runs on other models name no mode and use it as well."""
PREFERENCE = {name: i for i, name in enumerate(("match", "double_counted", "differs", "baseline_overwritten", "raw_missing"))}
SERIES = ["trait", "strategy", "target", "layer", "coef", "dose"]
KEY = [*SERIES, "vector_checkpoint"]


def effect_tables(
    release: Release,
    model: str,
    significance: pd.DataFrame,
    extraction: pd.DataFrame,
    controls: pd.DataFrame,
    shelf: Shelf,
) -> dict[str, pd.DataFrame]:
    """Return the ordinary tables `emergence`, `transfer` and `verdicts` of one model's line of training.

    Args:
        release: the release.
        model: whose vectors.
        significance: the recomputed table of significance.
        extraction: accepted pairs per trait, strategy and checkpoint.
        controls: the effect table of the controls.
        shelf: the model's judged answers.
    """
    mine = extraction[extraction["model"] == model]
    planned = _planned(release, model, significance[significance["model"] == model], mine)
    measured = _measured(planned, shelf)
    order = release.ordered(model, planned["vector_checkpoint"])
    held = controls[controls["lineage"] == model]
    tables = {}
    for kind in ("emergence", "transfer"):
        table = measured[(planned["kind"] == kind).to_numpy()].reset_index(drop=True)
        families = table["target"].isin(order).map({True: "checkpoints", False: "descendants"})
        table["p_adjusted"] = effects.adjusted(table, families)
        table["ceiling_share"] = _ceiling_share(table, mine)
        table["steerable"] = effects.steerability(table, held, order=order)
        tables[kind] = table.reindex(columns=effects.TABLE_COLUMNS)
    total = release.tokens(model, order[-1]) if order else float("nan")
    tables["verdicts"] = verdict_table(
        tables["emergence"],
        tables["transfer"],
        _doses(tables["emergence"], tables["transfer"]),
        order,
        None if pd.isna(total) else total,
        controls=held,
    ).assign(lineage=model)
    return tables


def _planned(release: Release, model: str, published: pd.DataFrame, extraction: pd.DataFrame) -> pd.DataFrame:
    """Return every comparison to show, once, and those that could not be made for want of a vector."""
    known = {name for name in published["extract_revision"].unique() if release.place(model, name) is not None}
    stray = published[~published["extract_revision"].isin(known)]
    for file, part in stray.groupby("file"):
        text = "these rows name a vector's revision that has no place in training; they are in no curve"
        release.audit.add("unreadable_revision", str(file), len(part), text, model=model)
    doseless = published["coef"].isna() | published["layer"].isna()
    for file, part in published[doseless].groupby("file"):
        text = "these rows name no layer or coefficient; they are recomputed, but in no curve"
        release.audit.add("unknown_dose", str(file), len(part), text, model=model)
    rows = published[published["extract_revision"].isin(known) & ~doseless]
    last = FINAL if FINAL in known else next(reversed(release.ordered(model, known)), "")
    own = rows["eval_model"] == model
    rows = rows.assign(
        target=[_target(*row) for row in rows[["eval_model", "eval_revision"]].assign(model=model).to_numpy()],
        dose=rows["scaling_mode"].where(~rows["scaling_mode"].isin(UNIT_NORM), "norm"),
        vector_checkpoint=rows["extract_revision"],
        rank=rows["status"].map(PREFERENCE),
    )
    kinds = [
        rows[own & (rows["eval_revision"] == rows["extract_revision"])].assign(kind="emergence"),
        rows[~own | (rows["eval_revision"] == last)].assign(kind="transfer"),
    ]
    planned = pd.concat([_once(release, model, part) for part in kinds], ignore_index=True)
    planned = pd.concat([planned, _without_vector(planned, extraction)], ignore_index=True)
    planned["lineage"], planned["positions"], planned["condition"] = model, "", "steered"
    planned["control_seed"], planned["control_kind"] = pd.NA, None
    planned["tokens"] = [release.tokens(model, name) for name in planned["vector_checkpoint"]]
    pairs = extraction.set_index(["trait", "strategy", "checkpoint"])[["n_pairs", "fragile"]]
    who = pd.MultiIndex.from_frame(planned[["trait", "strategy", "vector_checkpoint"]])
    planned["n_pairs"], planned["fragile"] = (pairs[name].reindex(who).to_numpy() for name in ("n_pairs", "fragile"))
    missing = planned["status"].isin(["raw_missing"])
    planned["status"] = planned["status"].where(planned["status"] == "no_vector", "complete").mask(missing, "failed")
    place = {name: i for i, name in enumerate(release.ordered(model, planned["vector_checkpoint"]))}
    planned["place"] = planned["vector_checkpoint"].map(place)
    return planned.sort_values(["kind", *SERIES, "place"], kind="stable", ignore_index=True)


def _target(eval_model: str, revision: str, model: str) -> str:
    """Name the network steered: a checkpoint of the line, or another model."""
    if eval_model == model:
        return revision
    return eval_model if revision in (FINAL, eval_model, "") else f"{eval_model} {revision}"


def _once(release: Release, model: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Keep one row of every comparison: the best reproduced, of the run that has most of its series."""
    size = rows.groupby([*SERIES, "run"], dropna=False)["rank"].transform("size")
    ordered = rows.assign(size=size).sort_values(["rank", "size", "run"], ascending=[True, False, True], kind="stable")
    again = ordered.duplicated(KEY)
    others = ordered[again & (ordered["status"] != "raw_missing")]
    kept = ordered[~again].set_index(KEY)["steered_file"]
    differing = others[others["steered_file"].to_numpy() != kept.reindex(pd.MultiIndex.from_frame(others[KEY])).to_numpy()]
    for file, part in differing.groupby("file"):
        text = "these comparisons were measured in another run as well, from other answers; that run is drawn"
        release.audit.add("repeated_comparison", str(file), len(part), text, model=model)
    return ordered[~again]


def _without_vector(planned: pd.DataFrame, extraction: pd.DataFrame) -> pd.DataFrame:
    """Return a row for every series and checkpoint that was elicited and gave no vector."""
    lacking = extraction[extraction["status"] == "no_vector"][["trait", "strategy", "checkpoint"]]
    lacking = lacking.rename(columns={"checkpoint": "vector_checkpoint"})
    parts = []
    for kind, part in planned.groupby("kind"):
        series = part[SERIES].drop_duplicates()
        if kind == "emergence":
            series = series.drop(columns="target").drop_duplicates()
        found = lacking.merge(series, on=["trait", "strategy"])
        if kind == "emergence":
            found["target"] = found["vector_checkpoint"]
        measured = pd.MultiIndex.from_frame(part[KEY])
        fresh = ~pd.MultiIndex.from_frame(found[KEY]).isin(measured)
        parts.append(found[fresh].assign(kind=kind, status="no_vector"))
    return pd.concat(parts, ignore_index=True) if parts else planned.iloc[:0]


def _measured(planned: pd.DataFrame, shelf: Shelf) -> pd.DataFrame:
    """Return the effect table of the planned comparisons, each against the baseline file of its own run.

    Rows are matched by lineage, target, trait and strategy; each baseline file counts as a lineage of its own while they are.
    """
    names = ["kind", "target", "trait", "strategy", "baseline_file"]
    own = planned.groupby(names, dropna=False, sort=False).ngroup().astype(str)
    compared = planned.assign(lineage=own)
    rows, seen = [], set()
    for row in compared[compared["status"] == "complete"].to_dict("records"):
        if row["lineage"] not in seen:
            rows.append(_rows(row, shelf, "baseline"))
        seen.add(row["lineage"])
        rows.append(_rows(row, shelf, "steered"))
    frame = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=effects.ROW_COLUMNS)
    return effects.effect_table(compared, frame).assign(lineage=planned["lineage"])


def _rows(row: Mapping[Hashable, Any], shelf: Shelf, side: str) -> pd.DataFrame:
    """Return one side of a comparison as response rows."""
    repeat = str(row["repeat" if side == "steered" else "baseline_repeat"])
    answers = shelf.once(str(row[f"{side}_file"]), str(row["judge_traits"]).split("|"), repeat)
    columns = {name: row[name] for name in ("lineage", "target", "trait", "strategy")}
    if side == "steered":
        columns |= {name: row[name] for name in ("vector_checkpoint", "layer", "dose", "coef", "positions")}
        columns |= {"vector_trait": row["trait"], "vector_strategy": row["strategy"]}
    scores = {name: answers[name] for name in ("trait_score", "coherence")}
    rows = pd.DataFrame({"question_id": answers["question"], "response": answers["answer"], **scores})
    return rows.assign(**columns, condition=side, split="evaluate").reindex(columns=effects.ROW_COLUMNS)


def _ceiling_share(table: pd.DataFrame, extraction: pd.DataFrame) -> pd.Series:
    """Return each delta as a share of what the positive instruction itself achieves above the baseline."""
    told = extraction.set_index(["trait", "strategy", "checkpoint"])["pos_trait_mean"]
    reached = told.reindex(pd.MultiIndex.from_frame(table[["trait", "strategy", "vector_checkpoint"]])).to_numpy()
    gain = reached - table["baseline_trait"]
    share: pd.Series = table["delta_trait"] / gain.where(gain > effects.SMALLEST_CEILING)
    return share


def _doses(emerged: pd.DataFrame, moved: pd.DataFrame) -> pd.DataFrame:
    """Return the dose to speak of, per trait and strategy, and per target: the one measured with most vectors."""
    parts = []
    for table, keys in ((emerged, ["trait", "strategy"]), (moved, ["trait", "strategy", "target"])):
        counts = (
            table[table["delta_trait"].notna()].groupby([*keys, "layer", "coef"], sort=True).size().rename("n").reset_index()
        )
        counts = counts.sort_values("n", ascending=False, kind="stable").drop_duplicates(keys)
        parts.append(counts.reindex(columns=["trait", "strategy", "target", "layer", "coef"]))
    return pd.concat(parts, ignore_index=True)


def lineages(tables: Mapping[str, pd.DataFrame], models: Sequence[str]) -> list[str]:
    """Return the models with a line of training: at least two checkpoints with vectors or answers; all where none has."""
    found = {model: set[str]() for model in models}
    for name, column in (
        ("cosine_to_final", "checkpoint"),
        ("extraction_pairs", "checkpoint"),
        ("significance", "extract_revision"),
    ):
        table = tables[name]
        for model, part in table.groupby("model"):
            found[str(model)] |= set(part[column])
    return [model for model in models if len(found[model]) > 1] or list(models)
