"""The report on tables that only some runs have: stages, several lineages, recomputed comparisons, facets, an audit."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from report_run import CHECKPOINTS, HOSTILE, TOKENS, make_run
from test_report import Page
from traitline.errors import InputError
from traitline.report import style, write_report
from traitline.report.axis import training_axis
from traitline.report.directions import ceilings
from traitline.report.facets import facet_panels
from traitline.report.figures import _figures, write_figures
from traitline.report.mds import trait_maps
from traitline.report.page import render
from traitline.report.panels import panels
from traitline.report.sections import sections
from traitline.report.tables import OPTIONAL, read_run

LATE = {"step488": "second", "step732": "third", "step976": "third"}
STRATEGY = "character_neutral_q"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as an importer leaves it: no responses, stages, a strategy with an ending and one without a name."""
    path = make_run(
        tmp_path_factory.mktemp("run") / "nano", questions=1, traits=("evil", "humorous"), strategies=("character",)
    )
    shutil.rmtree(path / "cells")
    shutil.rmtree(path / "targets")
    for file in (path / "tables").glob("*.csv"):
        table = pd.read_csv(file)
        for column in ("strategy", "strategy_a", "strategy_b"):
            if column in table.columns:
                trait = table["trait"] if "trait" in table.columns else table["trait_a"]
                table[column] = np.where(trait == "humorous", "", STRATEGY)
        if file.stem == "extraction":
            table["stage"] = table["checkpoint"].map(LATE).fillna("first")
        table.to_csv(file, index=False)
    for name, rows in _optional().items():
        rows.to_csv(path / "tables" / f"{name}.csv", index=False)
    (path / "tables/other_rubrics.csv").unlink()
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "nano")
    return tmp_path / "nano"


@pytest.fixture(scope="module")
def page(finished: Path) -> Page:
    return Page(render(read_run(finished)))


def _optional() -> dict[str, pd.DataFrame]:
    comparison = {"run": "one_v1", "model": "nano", "trait": "evil", "strategy": STRATEGY, "extract_revision": "step976",
                  "eval_model": "nano", "eval_revision": "step976", "layer": 2, "coef": 0.5}  # fmt: skip
    numbers = {f"{side}_{name}": value for side in ("published", "recomputed", "honest")
               for name, value in (("delta_trait_mean", 12.3456), ("p_two_sided", 0.00123))}  # fmt: skip
    statuses = ["match"] * 5 + ["double_counted", "raw_missing"]
    significance = [comparison | numbers | {"status": status, "reason": f"why {HOSTILE[1]}"} for status in statuses]
    tails = [comparison | {"status": "match", "delta_trait": 10.0, "delta_trait_without": 10.0 + move, "p_two_sided": 0.04,
                           "p_two_sided_without": 0.06, "n_leaking_baseline": 12, "n_rows_baseline": 60, "n_leaking_steered": 0,
                           "n_rows_steered": 200, "conclusion_changes": move > 2, "n_questions_without": 3 + move,
                           "p_two_sided_replaced": 0.02 * move} for move in (1.0, 2.0, 3.0)]  # fmt: skip
    audit = [{"model": "nano", "kind": kind, "file": f"data/{kind}-{i}.csv", "count": 3, "consequence": HOSTILE[0]}
             for kind, many in (("prompt_tail", 4), ("duplicated_rows", 2)) for i in range(many)]  # fmt: skip
    shares = {"total": 60, "n_questions": 20, "scheme": "motives", "set": "answers", "trait": "evil", "strategy": STRATEGY}
    facets: list[dict[str, object]] = [
        shares | {"model": "nano", "checkpoint": checkpoint, "facet": facet, "count": 5 * i, "share": i / 12,
                  "wilson_low": i / 20, "wilson_high": i / 10, "cluster_low": i / 24, "cluster_high": i / 8}
        for i, checkpoint in enumerate(CHECKPOINTS[4:], start=1) for facet in ("greed", "spite")
    ]  # fmt: skip
    facets += [{"model": "nano", "trait": "evil", "strategy": "", "checkpoint": None, "scheme": "motives", "set": "alone",
                "facet": "greed", "count": 1, "total": 9, "share": 1 / 9}]  # fmt: skip
    same = {
        "model": "nano",
        "trait": "evil",
        "strategy": STRATEGY,
        "layer": 2,
        "checkpoint_a": "step732",
        "checkpoint_b": "step976",
    }
    strategies = {
        "model": "nano",
        "checkpoint": "step976",
        "trait": "evil",
        "layer": 2,
        "strategy_a": STRATEGY,
        "strategy_b": "story",
    }
    pairs = {"model": "nano", "trait": "evil", "strategy": STRATEGY, "checkpoint": "step976", "tokens": 4e6, "n_rows": 100,
             "n_pairs": 40, "n_questions": 20, "fragile": False, "status": "complete", "reason": ""}  # fmt: skip
    return {
        "significance": pd.DataFrame(significance),
        "prompt_tails": pd.DataFrame(tails),
        "audit": pd.DataFrame(audit),
        "facets": pd.DataFrame(facets),
        "same_weights": pd.DataFrame([same | {"cosine": 0.9}, same | {"cosine": 0.94}]),
        "cosine_cross_strategy": pd.DataFrame([strategies | {"cosine": 0.567}]),
        "extraction_pairs": pd.DataFrame([pairs]),
    }


def _add_lineages(path: Path) -> None:
    """Give a run a second lineage with fewer checkpoints, and a model that has a single one."""
    for name in ("emergence", "extraction", "verdicts", "cosine_to_final"):
        table = pd.read_csv(path / "tables" / f"{name}.csv")
        table["lineage"] = "nano"
        column = next((one for one in ("vector_checkpoint", "checkpoint") if one in table.columns), None)
        other = table.assign(lineage="other/two")
        stray = table.assign(lineage="lonely")
        if column:
            other, stray = other[other[column].isin(CHECKPOINTS[6:])], stray[stray[column] == CHECKPOINTS[-1]]
        pd.concat([table, other, stray]).to_csv(path / "tables" / f"{name}.csv", index=False)


def test_later_stages_stand_evenly_after_a_break_and_are_shaded() -> None:
    tokens = {"a-step1": 1e10, "a-step9": 1e12, "main": 6e12, "b-step2": 5.9e12, "b-step3": 5.95e12, "c-step1": 6e12}
    stages = {name: name[0] for name in tokens if name != "main"} | {"main": "c"}
    axis = training_axis(tokens, stages)
    assert axis.checkpoints == ("a-step1", "a-step9", "b-step2", "b-step3", "c-step1", "main")
    late = [axis.positions[name] for name in axis.checkpoints[2:]]
    assert np.allclose(np.diff(late), np.diff(late)[0])
    assert [label for _, label in axis.slots] == ["", "b", "c", "main"]
    (gap,) = axis.gaps
    assert axis.positions["a-step9"] < gap < late[0]
    assert [(band.name, band.low < band.high) for band in axis.stages] == [("a", True), ("b", True), ("c", True)]
    assert axis.stages[0].high == axis.stages[1].low == gap
    assert all(place < gap for place, _ in axis.ticks)
    assert (axis.moment("a-step9"), axis.moment("b-step2"), axis.moment("main")) == ("1 T", "b-step2", "main")


def test_unknown_tokens_and_repeated_ones_get_places_of_their_own_where_stages_are_told() -> None:
    axis = training_axis({"odd": float("nan"), "s1": 1e6, "s2": 1e8, "last": 1e8}, {"s1": "", "s2": "", "last": "", "odd": ""})
    assert axis.checkpoints == ("s1", "s2", "last", "odd")
    assert len(set(axis.positions.values())) == 4
    assert axis.in_tokens
    assert axis.stages == ()


def test_a_checkpoint_without_a_stage_is_of_the_stage_its_name_or_its_place_says() -> None:
    axis = training_axis({"x1": 1e6, "x2": 1e7, "plain": 5e6, "y1": 2e7, "y2": 3e7}, {"x1": "x", "x2": "x", "y1": "y"})
    assert len(axis.slots) == 2
    assert [band.name for band in axis.stages] == ["x", "y"]


def test_without_tokens_the_order_given_stays_whatever_has_a_stage() -> None:
    nan = float("nan")
    axis = training_axis({"x-1": nan, "x-2": nan, "x-3": nan, "main": nan}, {"x-1": "x", "x-3": "x"})
    assert axis.checkpoints == ("x-1", "x-2", "x-3", "main")


def test_stages_alone_do_not_make_a_log_axis() -> None:
    axis = training_axis({"a": 1e6, "b": 2e6}, {"a": "one", "b": "two"})
    assert not axis.in_tokens
    assert [band.name for band in axis.stages] == ["one", "two"]


def test_checkpoints_of_unknown_tokens_keep_the_order_that_any_trait_tells(run: Path) -> None:
    table = pd.read_csv(run / "tables/extraction.csv").drop(columns=["tokens", "stage"])
    table[(table["trait"] == "humorous") | (table["checkpoint"] != "step95")].to_csv(run / "tables/extraction.csv", index=False)
    for name in ("emergence", "transfer", "cosine_to_final"):
        (run / "tables" / f"{name}.csv").unlink(missing_ok=True)  # some only a study has
    assert read_run(run).axis.checkpoints == CHECKPOINTS


def test_a_strategy_has_the_colour_of_the_known_one_it_begins_with() -> None:
    known = ["character_neutral_q", "stories_neutral_q", "", "novel", "characterise"]
    shades = [style.colour(name, known) for name in known]
    assert shades[0] == style.COLOURS["character"]
    assert shades[1] == style.COLOURS["story"]
    assert len(set(shades)) == len(shades)


def test_every_figure_is_drawn_with_stages_ceiling_and_facets(finished: Path) -> None:
    run = read_run(finished)
    with style.style():
        names = [name for name, _ in _figures(run)]
    assert set(names) >= {
        "emergence",
        "transfer",
        "transfer-overview",
        "controls",
        "trajectories",
        "norms",
        "heatmaps",
        "maps",
        "facets",
    }
    assert [band.name for band in run.axis.stages] == ["first", "second", "third"]
    assert run.strategies == [STRATEGY, ""]


def test_the_ceiling_is_the_mean_over_draws_from_the_same_weights(finished: Path) -> None:
    found = ceilings(read_run(finished))
    assert found[["trait", "n"]].to_numpy().tolist() == [["evil", 2]]
    assert found["cosine"].iloc[0] == pytest.approx(0.92)


def test_facets_are_drawn_where_they_were_labelled_along_training(finished: Path) -> None:
    (panel,) = facet_panels(read_run(finished))
    assert list(panel.lines) == ["greed", "spite"]
    rows = panel.lines["greed"]
    assert rows["checkpoint"].tolist() == list(CHECKPOINTS[4:])
    assert rows["low"].iloc[0] == pytest.approx(1 / 24)
    assert panel.shade("greed") != panel.shade("spite")


def test_a_map_needs_four_checkpoints_and_every_cosine_between_them(run: Path) -> None:
    assert [one.trait for one in trait_maps(read_run(run))] == ["evil", "humorous"]
    table = pd.read_csv(run / "tables/cosine_matrix.csv")
    keep = (table["trait"] == "evil") & table[["checkpoint_a", "checkpoint_b"]].isin(CHECKPOINTS[-3:]).all(axis=1)
    table[keep | (table["trait"] == "humorous")].to_csv(run / "tables/cosine_matrix.csv", index=False)
    assert [one.trait for one in trait_maps(read_run(run))] == ["humorous"]


def test_every_optional_table_has_its_section_and_nothing_else_does(page: Page, run: Path) -> None:
    anchors = {"significance", "tails", "audit", "facets", "strategies", "pairs"}
    assert anchors <= set(page.ids)
    assert "responses" not in page.ids
    for name in OPTIONAL:
        (run / "tables" / f"{name}.csv").unlink(missing_ok=True)  # some only a study has
    bare = Page(render(read_run(run)))
    assert not anchors & set(bare.ids)
    assert not [line for line in read_run(run).absent if line in OPTIONAL]


def test_an_optional_table_that_cannot_be_read_is_named(run: Path) -> None:
    (run / "tables/audit.csv").write_text("kind\nx\n")
    (run / "tables/facets.csv").write_text("")
    text = Page(render(read_run(run))).text
    assert "tables/audit.csv (what is wrong with the data) lacks the columns" in text
    assert "tables/facets.csv (the shares of the facets) is empty." in text


def test_comparisons_that_do_not_match_stand_with_their_numbers_and_reason(page: Page, finished: Path) -> None:
    (section,) = (one for one in sections(read_run(finished)) if one.anchor == "significance")
    counts, others = section.tables
    assert counts.head[-3:] == ["match", "double counted", "raw missing"]
    assert counts.rows == [["nano", "one_v1", "evil", "7", "5", "1", "1"]]
    assert [row[5] for row in others.rows] == ["double counted", "raw missing"]
    assert others.rows[0][6:12] == ["+12.35", "+12.35", "+12.35", "0.00123", "0.00123", "0.00123"]
    assert f"why {HOSTILE[1]}" in page.text
    assert "img" not in page.tags


def test_moves_without_leaking_prompts_are_summed_up(page: Page) -> None:
    assert "moves by 2.00 points in the median and 3.00 at most, and 1 change their conclusion" in page.text
    assert "A median of 5 questions is left; in 2 comparisons so few that no p under 0.05 is possible" in page.text
    assert "replaced by the mean of the others, 1 of 3 cross p = 0.05" in page.text


def test_findings_are_grouped_by_kind(finished: Path) -> None:
    (section,) = (one for one in sections(read_run(finished)) if one.anchor == "audit")
    assert section.tables[0].rows == [["prompt tail", "4", "12"], ["duplicated rows", "2", "6"]]
    assert [len(table.rows) for table in section.tables[1:]] == [4, 2]


def test_the_page_carries_stages_ceilings_facets_and_maps_for_its_charts(page: Page) -> None:
    data = json.loads(json.dumps(page.data))
    assert [stage[0] for stage in data["axis"]["stages"]] == ["first", "second", "third"]
    assert [label for _, label in data["axis"]["slots"]] == ["step488", "step732", "step976"]
    assert data["geometry"]["ceilings"] == [{"trait": "evil", "strategy": STRATEGY, "layer": 2, "cosine": 0.92}]
    assert [line["facet"] for line in data["facets"][0]["lines"]] == ["greed", "spite"]
    assert data["maps"][0]["checkpoint"] == [name for name in CHECKPOINTS if TOKENS[name] >= 61 * 4096]


def test_each_lineage_has_a_page_and_a_lonely_model_is_listed_on_the_first(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "FORMATS", ("png",))
    _add_lineages(run)
    first = read_run(run)
    assert first.lineages == ("nano", "other/two")
    assert set(first.tables["emergence"]["lineage"]) == {"nano"}
    assert set(first.strays["lineage"]) == {"lonely"}
    second = read_run(run, "other/two")
    assert second.axis.checkpoints == CHECKPOINTS[6:]
    assert len(panels(second, "emergence")[0].curves[panels(second, "emergence")[0].main]) == 6  # type: ignore[index]
    assert "others" in {one.anchor for one in sections(first)}
    assert not {"others", "audit"} & {one.anchor for one in sections(second)}
    for name in ("cosine_matrix", "cosine_to_final", "controls", "transfer", "facets"):
        (run / "tables" / f"{name}.csv").unlink(missing_ok=True)  # some only a study has
    assert write_report(run) == run / "report.html"
    assert 'href="report-other_two.html"' in (run / "report.html").read_text()
    assert 'href="report.html"' in (run / "report-other_two.html").read_text()
    assert (run / "figures/emergence.png").is_file()
    assert (run / "figures/other_two/emergence.png").is_file()
    assert (run / "latex/other_two/emergence.tex").is_file()
    with pytest.raises(InputError, match="no lineage 'third'; it has nano, other/two"):
        read_run(run, "third")


def test_panels_are_packed_where_each_trait_has_a_strategy_of_its_own(finished: Path) -> None:
    from traitline.report.curves import _grid

    places, across, down, headings = _grid(panels(read_run(finished), "emergence"))
    assert (places, across, down, headings) == ([(0, 0), (0, 1)], 2, 1, ["evil", "humorous"])


def test_the_main_layer_is_a_measured_one_where_only_vectors_are_known(run: Path) -> None:
    for name in ("emergence", "verdicts"):
        (run / "tables" / f"{name}.csv").unlink(missing_ok=True)  # some only a study has
    table = pd.read_csv(run / "tables/cosine_to_final.csv")
    table[table["layer"] != 2].to_csv(run / "tables/cosine_to_final.csv", index=False)
    assert read_run(run).layer == 1


def test_a_release_without_any_table_still_has_a_page(tmp_path: Path) -> None:
    assert write_figures(tmp_path) == []
    text = Page(render(read_run(tmp_path))).text
    assert re.search(r"This run has no tables yet", text)
