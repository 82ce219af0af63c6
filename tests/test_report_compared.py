"""The report's comparisons: strategies against each other, the stages of post-training, the descendants' vectors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from report_run import CHECKPOINTS, make_run
from traitline.report import style
from traitline.report.descendants import main_panels, source_panels
from traitline.report.figures import write_figures
from traitline.report.payload import payload
from traitline.report.sections import sections
from traitline.report.stages import stage_panels
from traitline.report.strategies import effect_matrices, main_matrices
from traitline.report.tables import Run, read_run

LAST = CHECKPOINTS[-1]
STAGES = (LAST, "nano-sft", "nano-dpo")
WHERE = {"lineage": "nano", "layer": 2, "dose": "norm", "positions": "response"}
DOSE = WHERE | {"coef": 0.5}


def effect(delta: float, **fields: Any) -> dict[str, Any]:
    """One row of an effect table; a NaN delta is a cell without a vector."""
    if math.isnan(delta):
        return DOSE | {"status": "no_vector", "n_pairs": 0} | fields
    ends = {"delta_trait": delta, "ci_low": delta - 5, "ci_high": delta + 5, "p_adjusted": 0.01, "steerable": delta > 11}
    return DOSE | {"status": "complete", "n_pairs": 20, "fragile": False} | ends | fields


def add_comparisons(path: Path) -> Path:
    """Add the tables that compare: one cell not evaluated, one strategy without vectors, one stage without a score."""
    run = read_run(path)
    own = [name for name in run.strategies if name != "forced"]
    crossed, stages, reverse = [], [], []
    for trait in run.traits:
        for vector in own:
            nothing = vector != own[0]
            cells = {own[0]: 20.0, own[-1]: 10.0, "common": 30.0}
            for target, asked in ((LAST, cells), (CHECKPOINTS[-2], cells), ("nano-sft", {"common": 15.0})):
                for questions, delta in asked.items():
                    if not (nothing and questions == own[0]):  # a hole in the plan
                        named = {"trait": trait, "strategy": questions, "vector_strategy": vector, "target": target}
                        checkpoint = target if target in CHECKPOINTS else LAST
                        crossed.append(effect(math.nan if nothing else delta, vector_checkpoint=checkpoint, **named))
            for layer in (2, 3):
                for i, stage in enumerate(STAGES):
                    missing = nothing and i == 2
                    level = math.nan if missing else 40.0 - 10 * i
                    row = {"lineage": "nano", "trait": trait, "strategy": vector, "stage": stage, "projection_layer": layer}
                    row |= {"previous": STAGES[i - 1] if i else "", "n_questions": 0 if missing else 20}
                    row |= {"baseline_trait": level, "ci_low": level - 4, "ci_high": level + 4, "baseline_coherence": 80.0}
                    row |= {"refusal_rate": 0.02 * i, "told_refusal_rate": 0.25 * i, "told_trait": 70.0 - 10 * i}
                    row |= {"delta_trait": -10.0 if i else None, "delta_low_trait": -14.0 if i else None}
                    row |= {"delta_high_trait": -6.0 if i else None, "p_adjusted_trait": 0.01 if i else None}
                    stages.append(row | {"projection": 0.1 * layer - 0.05 * i})
            for source in STAGES[1:]:
                for target in STAGES:
                    delta = math.nan if nothing and source == STAGES[2] else 12.0 if source == STAGES[1] else 6.0
                    for coef, times in ((0.5, 1.0), (0.2, 0.5)):
                        named = {"trait": trait, "strategy": vector, "vector_checkpoint": source, "target": target}
                        reverse.append(effect(times * delta, coef=coef, **named))
    for name, rows in (("strategies", crossed), ("stages", stages), ("reverse", reverse)):
        pd.DataFrame(rows).to_csv(path / "tables" / f"{name}.csv", index=False)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_run(
        tmp_path_factory.mktemp("run") / "nano", questions=1, traits=("evil",), strategies=("character", "instruction")
    )
    return add_comparisons(path)


@pytest.fixture
def run(finished: Path) -> Run:
    return read_run(finished)


def rewrite(finished: Path, tmp_path: Path, **tables: pd.DataFrame) -> Run:
    """Return a copy of a run with some tables replaced."""
    (tmp_path / "tables").mkdir()
    for file in (finished / "tables").glob("*.csv"):
        table = tables.get(file.stem, pd.read_csv(file, dtype=str))
        table.to_csv(tmp_path / "tables" / file.name, index=False)
    (tmp_path / "study.yaml").write_text((finished / "study.yaml").read_text())
    return read_run(tmp_path)


def test_a_matrix_has_the_vectors_down_and_the_common_questions_last(run: Run) -> None:
    first = effect_matrices(run)[0]
    assert (first.trait, first.target, first.vectors) == ("evil", LAST, ["character", "instruction"])
    assert first.questions == ["character", "instruction", "common"]
    assert first.delta[0].tolist() == [20.0, 10.0, 30.0]
    assert first.steerable.tolist() == [[True, False, True], [False, False, False]]
    assert np.isnan(first.delta[1]).all()
    assert first.states[1] == ["not_evaluated", "no_vector", "no_vector"]
    assert first.left_out == "– not evaluated: 1, × no vector: 2"
    targets = [one.target for one in effect_matrices(run) if one.trait == "evil"]
    assert targets == [LAST, CHECKPOINTS[-2], "nano-sft"]
    assert [one.questions for one in effect_matrices(run)][2] == ["common"]


def test_a_complete_cell_without_a_score_is_not_evaluated_and_not_zero(finished: Path, tmp_path: Path) -> None:
    table = pd.read_csv(finished / "tables/strategies.csv")
    table.loc[table["strategy"] == "common", "delta_trait"] = np.nan
    run = rewrite(finished, tmp_path, strategies=table)
    assert main_matrices(run)[0].states[0] == ["complete", "complete", "not_evaluated"]
    assert payload(run)["matrices"][0]["delta"][0] == [20.0, 10.0, None]


def test_a_stage_stands_once_in_its_order_at_the_layer_of_the_verdicts(run: Run) -> None:
    panel = stage_panels(run)[0]
    assert panel.stages == list(STAGES)
    assert panel.lines["character"]["baseline_trait"].tolist() == [40.0, 30.0, 20.0]
    assert panel.lines["character"]["projection"].tolist() == pytest.approx([0.2, 0.15, 0.1])
    drawn = payload(run)["stages"][0]["lines"]
    assert [line["strategy"] for line in drawn] == ["character", "instruction"]
    assert drawn[1]["level"] == [40.0, 30.0, None]
    assert drawn[0]["told_refusals"] == [0.0, 0.25, 0.5]


def test_descendants_vectors_stand_beside_the_last_checkpoints_own(run: Run) -> None:
    panel = main_panels(run)[0]
    assert panel.targets == list(STAGES)
    assert list(panel.sources) == [LAST, "nano-sft", "nano-dpo"]
    assert panel.reference == LAST
    own = read_run(run.path).tables["transfer"]
    own = own[(own["trait"] == "evil") & (own["strategy"] == "character") & (own["vector_checkpoint"] == LAST)]
    expected = own[(own["target"] == LAST) & (own["coef"] == 0.5)]["delta_trait"].iloc[0]
    assert panel.sources[LAST]["delta_trait"].tolist()[0] == pytest.approx(expected)
    assert panel.sources[LAST]["delta_trait"].isna().tolist() == [False, True, True]  # transfer knows that target alone
    assert [one.dose.coef for one in source_panels(run)][:2] == [0.5, 0.2]


def test_without_transfer_there_is_no_reference(finished: Path, tmp_path: Path) -> None:
    none = pd.read_csv(finished / "tables/transfer.csv").iloc[:0]
    found = main_panels(rewrite(finished, tmp_path, transfer=none))
    assert {panel.reference for panel in found} == {""}
    assert list(found[0].sources) == ["nano-sft", "nano-dpo"]


def test_the_same_numbers_stand_in_folded_tables(run: Run) -> None:
    found = {one.anchor: one for one in sections(run)}
    assert [found[name].charts for name in ("strategies", "stages", "reverse")] == ["strategies", "stages", "descendants"]
    assert all(table.folded for name in ("strategies", "stages", "reverse") for table in found[name].tables)
    moved = found["stages"].tables[-1]
    assert all(len(row) == 3 and row[2] for row in moved.rows)
    crossed, stages, reverse = (found[name].tables[0] for name in ("strategies", "stages", "reverse"))
    assert crossed.rows[0] == ["character", "+20 [+15, +25] *", "+10 [+5, +15]", "+30 [+25, +35] *"]
    assert crossed.rows[1] == ["instruction", "not evaluated", "no vector", "no vector"]
    assert [row[1] for row in stages.rows] == [*STAGES, *STAGES]
    assert [row[2] for row in stages.rows][3:] == ["40 [36, 44]", "30 [26, 34]", ""]
    assert reverse.rows[1][1:3] == ["nano-sft", "20"]
    assert reverse.rows[1][4:] == ["+12 [+7, +17] *"] * 3
    assert reverse.rows[-1][4:] == ["no vector"] * 3


def test_their_figures_are_written_where_there_are_tables(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lean = {name: pd.DataFrame(columns=["trait"]) for name in ("emergence", "controls", "cosine_to_final", "cosine_matrix")}
    kept = rewrite(finished, tmp_path, **lean)
    names = {"strategies", "stages", "descendants"}
    written = write_figures(kept)
    assert names <= {path.stem for path in written}
    assert all(path.stat().st_size > 1000 for path in written)
    for name in ("strategies", "stages", "reverse"):
        (tmp_path / "tables" / f"{name}.csv").unlink()
    monkeypatch.setattr(style, "FORMATS", ("png",))
    assert not names & {path.stem for path in write_figures(read_run(tmp_path))}
