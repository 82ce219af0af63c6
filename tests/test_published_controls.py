"""Control vectors of a release: the effect table, the summary against the real vector, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from traitline.analysis.effects import TABLE_COLUMNS, largest_control
from traitline.published.controls import COLUMNS, MEANS_COLUMNS, control_table
from traitline.published.release import Release

STATISTICS = ("delta_trait_mean", "paired_trait_mean_diff", "p_two_sided", "p_greater", "p_bonferroni", "delta_coherence_mean")
REVISION = "step10-tokens1B"


def write(root: Path, run: str = "toy_v1", *, deltas: list[float], **columns: Any) -> None:
    path = root / "results/Toy-1B/controls" / run / "combined.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    n = len(deltas)
    modes = ["random", "shuffled"] * n
    base = {
        "revision": REVISION,
        "mode": modes[:n],
        "seed": [i // 2 for i in range(n)],
        "trait": "brave_story_q",
        "layer": 2,
        "coef": 0.3,
        "baseline_trait_mean": 4.0,
        "output_trait_mean": [4.0 + delta for delta in deltas],
        "output_coherence_mean": 60.0,
        "delta_trait_mean": deltas,
        "delta_coherence_mean": -1.0,
        "trait_primary_p_two_sided": 0.5,
        "baseline_csv": "/elsewhere/data/model_responses/eval/base.csv",
        "output_csv": [f"/elsewhere/data/out{i}.csv" for i in range(n)],
    }
    pd.DataFrame({**base, **columns}).to_csv(path, index=False)


def real(**changes: Any) -> dict[str, Any]:
    row = {"run": "real_v1", "model": "Toy-1B", "trait": "brave", "strategy": "story_q", "status": "match"}
    row |= {"extract_revision": REVISION, "eval_model": "Toy-1B", "eval_revision": REVISION, "layer": 2, "coef": 0.3}
    row |= {f"{side}_{name}": np.nan for side in ("published", "recomputed", "honest") for name in STATISTICS}
    row |= {"published_delta_trait_mean": 9.0, "published_p_two_sided": 0.01, "published_delta_coherence_mean": -7.0}
    return {**row, "published_baseline_trait": 4.0, **changes}


def comparisons(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(real()))


def release(root: Path) -> Release:
    (root / "data/persona_vectors/Toy-1B" / REVISION).mkdir(parents=True, exist_ok=True)
    (root / "data/trait_data_extract").mkdir(parents=True, exist_ok=True)
    (root / "data/trait_data_extract/brave.json").write_text("{}")
    return Release(root)


def kinds(made: Release) -> dict[str, int]:
    return made.audit.table().groupby("kind")["count"].sum().to_dict()


def test_controls_become_rows_of_an_effect_table_beside_the_real_delta(tmp_path: Path) -> None:
    write(tmp_path, deltas=[1.0, 2.0, 3.0, -6.0])
    made = release(tmp_path)
    controls, means = control_table(made, ["Toy-1B"], comparisons(real()))
    assert list(controls.columns) == COLUMNS
    assert list(controls.columns[: len(TABLE_COLUMNS)]) == TABLE_COLUMNS
    row = controls.iloc[1]
    assert (row["lineage"], row["trait"], row["strategy"]) == ("Toy-1B", "brave", "story_q")
    assert (row["target"], row["vector_checkpoint"], row["tokens"]) == (REVISION, REVISION, 1e9)
    assert (row["condition"], row["control_kind"], row["control_seed"], row["dose"]) == ("shuffled", "shuffled", 0, "norm")
    assert (row["delta_trait"], row["p_two_sided"], row["layer"], row["coef"]) == (2.0, 0.5, 2, 0.3)
    assert (row["real_delta_trait"], row["real_p_two_sided"], row["real_delta_coherence"]) == (9.0, 0.01, -7.0)
    assert controls[["n_pairs", "n_questions", "ci_low", "p_adjusted", "baseline_coherence"]].isna().all(axis=None)
    assert list(means.columns) == MEANS_COLUMNS
    everything = means.set_index("kind").loc["all"]
    assert (everything["n_controls"], everything["mean"]) == (4, 0.0)
    assert (everything["smallest"], everything["largest"]) == (-6.0, 3.0)
    assert (everything["n_at_or_above"], everything["p_rank"]) == (0, 0.2)
    assert bool(everything["real_exceeds_all"])
    assert kinds(made) == {"raw_missing": 5}
    assert largest_control(controls, controls).eq(3.0).all()


def test_interval_over_controls_is_students(tmp_path: Path) -> None:
    write(tmp_path, deltas=[1.0, 2.0, 3.0], mode="random", seed=[0, 1, 2])
    _, means = control_table(release(tmp_path), ["Toy-1B"], comparisons(real()))
    assert means["kind"].tolist() == ["random", "all"]
    half = 4.302652729911275 / 3**0.5
    assert means[["ci_low", "ci_high"]].iloc[0].tolist() == pytest.approx([2 - half, 2 + half], abs=1e-9)


def test_defects_are_audited(tmp_path: Path) -> None:
    write(
        tmp_path,
        deltas=[1.0, -20.0, 3.0, 12.0],
        trait_primary_p_two_sided=[0.01, 0.5, 0.5, 0.5],
        output_trait_mean=[5.0, -16.0, 7.0, 99.0],
        seed=[0, 0, 0, 1],
        novelty=1,
    )
    made = release(tmp_path)
    _, means = control_table(made, ["Toy-1B"], comparisons(real(published_baseline_trait=1.5)))
    found = kinds(made)
    assert (found["control_above_real"], found["control_baseline_differs"]) == (2, 4)
    assert (found["control_significant"], found["delta_disagrees"]) == (1, 1)
    assert (found["duplicated_rows"], found["unknown_columns"]) == (1, 1)
    everything = means.set_index("kind").loc["all"]
    assert (everything["n_at_or_above"], bool(everything["real_exceeds_all"])) == (1, False)


def test_without_a_real_comparison_its_columns_stay_empty(tmp_path: Path) -> None:
    write(tmp_path, deltas=[1.0, 2.0])
    made = release(tmp_path)
    elsewhere = [real(coef=0.5), real(eval_revision="main"), real(eval_model="Toy-1B-Chat"), real(strategy="")]
    controls, means = control_table(made, ["Toy-1B"], comparisons(*elsewhere))
    assert controls["real_delta_trait"].isna().all()
    assert means[["real_delta_trait", "share_at_or_above", "p_rank", "real_exceeds_all"]].isna().all(axis=None)
    assert kinds(made)["control_without_real"] == 2


def test_the_best_reproduced_comparison_and_its_honest_delta_are_used(tmp_path: Path) -> None:
    write(tmp_path, deltas=[1.0, 2.0])
    made = release(tmp_path)
    rows = [real(run="a", status="raw_missing"), real(run="b", status="double_counted", honest_delta_trait_mean=7.0)]
    controls, _ = control_table(made, ["Toy-1B"], comparisons(*rows))
    assert controls["real_run"].tolist() == ["b", "b"]
    assert controls["real_delta_trait"].tolist() == [7.0, 7.0]
    assert kinds(made)["several_real_comparisons"] == 2


def test_baselines_of_one_checkpoint_that_vary_between_runs_are_audited(tmp_path: Path) -> None:
    write(tmp_path, "toy_a", deltas=[1.0, 2.0])
    write(tmp_path, "toy_b", deltas=[1.0, 2.0], baseline_trait_mean=6.5, output_trait_mean=[7.5, 8.5], coef=0.5)
    made = release(tmp_path)
    control_table(made, ["Toy-1B"], comparisons(real()))
    text = made.audit.table().set_index("kind").loc["control_baselines_vary", "consequence"]
    assert "2.5 points apart" in text


def test_missing_deltas_are_failed_and_in_no_mean(tmp_path: Path) -> None:
    write(tmp_path, deltas=[1.0, np.nan, 3.0, 5.0], seed=["0", "0", "1", "odd"])
    made = release(tmp_path)
    controls, means = control_table(made, ["Toy-1B"], comparisons(real()))
    assert controls["status"].tolist() == ["complete", "failed", "complete", "complete"]
    assert means.set_index("kind").loc["all", "n_controls"] == 3
    assert kinds(made)["missing_scores"] == 1


def test_broken_runs_are_audited_and_the_rest_completes(tmp_path: Path) -> None:
    write(tmp_path, "good", deltas=[1.0, 2.0], revision="oddity")
    folder = tmp_path / "results/Toy-1B/controls"
    for run, text in {"empty": "", "header": "revision,mode\n", "lacking": "revision,mode\nmain,random\n"}.items():
        (folder / run).mkdir()
        (folder / run / "combined.csv").write_text(text)
    (folder / "nothing").mkdir()
    made = release(tmp_path)
    controls, _ = control_table(made, ["Toy-1B", "Other"], comparisons())
    assert controls["run"].unique().tolist() == ["good"]
    assert controls["tokens"].isna().all()
    found = kinds(made)
    assert found["empty_file"] == 1
    assert found["missing_columns"] == 2
    assert found["missing_file"] == found["unreadable_revision"] == 1


def test_a_listed_path_that_no_file_can_have_is_missing(tmp_path: Path) -> None:
    write(tmp_path, deltas=[1.0, 2.0], output_csv=[f"data/{'x' * 300}.csv", "data/\0.csv"])
    made = release(tmp_path)
    control_table(made, ["Toy-1B"], comparisons(real()))
    assert kinds(made)["raw_missing"] == 3


def test_no_folder_gives_empty_tables_and_one_audit_row(tmp_path: Path) -> None:
    (tmp_path / "results/Toy-1B").mkdir(parents=True)
    made = release(tmp_path)
    controls, means = control_table(made, ["Toy-1B"], comparisons(real()))
    assert (len(controls), len(means)) == (0, 0)
    assert list(controls.columns) == COLUMNS
    assert kinds(made) == {"missing_folder": 1}
