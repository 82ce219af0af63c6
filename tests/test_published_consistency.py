"""Whether a release agrees with itself: one small defect at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from traitline.published.answers import Shelf
from traitline.published.consistency import check_consistency
from traitline.published.release import Release

MODEL = "tiny-1b"
EVAL = f"data/model_responses/eval/{MODEL}"
TRAITS = "data/trait_data_eval"
RUN = f"results/{MODEL}/grid/run_a"
STATISTICS = ("delta_trait_mean", "paired_trait_mean_diff", "p_two_sided", "p_greater", "p_bonferroni", "delta_coherence_mean")


@pytest.fixture
def release(tmp_path: Path) -> Release:
    for folder in (f"results/{MODEL}", f"data/persona_vectors/{MODEL}", f"data/model_responses/extract/{MODEL}", EVAL, TRAITS):
        (tmp_path / folder).mkdir(parents=True)
    return Release(tmp_path)


def write(release: Release, name: str, answers: list[str], **columns: Any) -> str:
    """Write a file of answers to the questions q0, q1 ..."""
    n = len(answers)
    table = {"question": [f"q{i}" for i in range(n)], "prompt": [f"Say q{i}" for i in range(n)], "answer": answers}
    pd.DataFrame({**table, "shy": [10.0] * n, "coherence": [70.0] * n, **columns}).to_csv(
        release.root / EVAL / name, index=False
    )
    return f"{EVAL}/{name}"


def listed(baseline: str, steered: str, **more: Any) -> dict[str, Any]:
    """Return a row of the table of significance."""
    who: dict[str, Any] = {"run": "run_a", "model": MODEL, "trait": "shy", "strategy": "", "layer": 3.0, "coef": 0.5}
    who |= {f"{kind}_{name}": float("nan") for kind in ("published", "recomputed", "honest") for name in STATISTICS}
    who |= {f"{kind}n_rows_{side}": float("nan") for kind in ("", "published_") for side in ("baseline", "steered")}
    who |= {
        "status": "match",
        "repeat": "1",
        "baseline_repeat": "1",
        "judge_traits": "shy",
        "file": f"{RUN}/combined_significance.csv",
    }
    return {**who, "baseline_file": baseline, "steered_file": steered, **more}


def found(release: Release, *rows: dict[str, Any]) -> dict[tuple[str, str], tuple[int, str]]:
    """Return what the checks add to the audit: (kind, file) -> (count, consequence)."""
    table = pd.DataFrame(rows or (), columns=list(listed("", "")))
    check_consistency(release, [MODEL], table, {MODEL: Shelf(release, MODEL)})
    audit = release.audit.table()
    assert not audit.duplicated(["kind", "file"]).any()
    keys = zip(audit["kind"], audit["file"], strict=True)
    return dict(zip(keys, zip(audit["count"], audit["consequence"], strict=True), strict=True))


def sound(release: Release) -> tuple[str, str]:
    return write(release, "baseline.csv", ["One.", "Two.", "Three."]), write(release, "steered.csv", ["Four.", "Five.", "Six."])


def test_sound_release_has_no_finding(release: Release) -> None:
    assert found(release, listed(*sound(release))) == {}


def test_no_comparison_at_all(release: Release) -> None:
    assert found(release) == {}


def test_missing_folders_and_folders_that_tables_list(tmp_path: Path) -> None:
    (tmp_path / "results" / MODEL).mkdir(parents=True)
    there = "data/model_responses/eval/other-2b"
    rows = [listed(f"{there}/baseline.csv", f"{there}/main/steered_{i}.csv", status="raw_missing") for i in range(2)]
    audit = found(Release(tmp_path), *rows)
    assert {key: count for key, (count, _) in audit.items()} == {
        ("missing_folder", f"data/persona_vectors/{MODEL}"): 1,
        ("missing_folder", f"data/model_responses/extract/{MODEL}"): 1,
        ("missing_folder", there): 3,
        ("missing_folder", "data/trait_data_extract"): 2,
    }


def test_missing_trait_files_are_told_once_and_of_no_model(release: Release) -> None:
    (release.root / TRAITS).rmdir()
    shelves = {model: Shelf(release, model) for model in (MODEL, "other-2b")}
    check_consistency(release, list(shelves), pd.DataFrame(columns=list(listed("", ""))), shelves)
    audit = release.audit.table()
    rows = audit[audit["file"].str.startswith("data/trait_data")]
    assert rows[["model", "kind"]].to_numpy().tolist() == [["", "missing_folder"]]
    assert "by guess" in rows["consequence"].iloc[0]


def test_rows_inside_a_file(release: Release) -> None:
    baseline, _ = sound(release)
    steered = write(
        release,
        "steered.csv",
        ["Again.", "Again.", ""],
        question=["q0", "q0", "q1"],
        prompt=["Say q0", "Say q0", "Say q1"],
        shy=[101.0, 3.0, 4.0],
    )
    audit = found(release, listed(baseline, steered))
    assert {kind for kind, _ in audit} == {"duplicated_rows", "empty_answers", "score_out_of_range", "mismatched_pairs"}
    assert all(audit[kind, steered][0] == 1 for kind, _ in audit)


def test_same_answers_under_two_names_tell_the_noise_of_the_judge(release: Release) -> None:
    baseline, steered = sound(release)
    again = write(release, "later.csv", ["One.", "Two.", "Three."], shy=[10.0, 10.0, 13.0])
    audit = found(release, listed(baseline, steered), listed(again, steered))
    count, text = audit["identical_files", again]
    assert (count, len(audit)) == (3, 1)
    assert baseline in text
    assert "differ by 1 (trait) and 0 (coherence)" in text


def test_answers_cut_at_the_length_limit_are_told_once(release: Release) -> None:
    baseline, _ = sound(release)
    steered = write(release, "steered.csv", [f"and then {word}" for word in ("one", "two", "three", "four")][:3])
    other = write(release, "other.csv", ["so it", "was not", "him"])
    audit = found(release, listed(baseline, steered), listed(baseline, other))
    assert [(key, count) for key, (count, _) in audit.items()] == [(("answers_cut_short", ""), 6)]


def test_sides_that_do_not_fit(release: Release) -> None:
    baseline, _ = sound(release)
    steered = write(
        release, "steered.csv", ["Four.", "Five.", "Six.", "Seven."], prompt=["Say q0", "Sing q1", "Say q2", "Say q3"]
    )
    audit = found(release, listed(baseline, steered))
    assert {key: count for key, (count, _) in audit.items()} == {
        ("mismatched_pairs", steered): 1,
        ("mismatched_prompts", steered): 1,
    }


def test_extended_file_is_looked_into_where_it_was_used(release: Release) -> None:
    baseline, steered = sound(release)
    more = write(release, "steered_extended.csv", ["Four.", "Five.", "Six."], shy=[-1.0, 0.0, 0.0])
    assert ("score_out_of_range", more) in found(release, listed(baseline, steered, repeat="1+2"))


def test_files_that_no_table_counted_are_left_alone(release: Release) -> None:
    baseline, _ = sound(release)
    steered = write(release, "steered.csv", ["Four.", "Five.", "Six."], shy=[-1.0, 0.0, 0.0])
    more = write(release, "steered_extended.csv", ["Seven.", "Eight.", "Nine."], prompt=["Sing"] * 3)
    added = write(release, "baseline_extended.csv", ["Ten.", "", "Twelve."])
    audit = found(release, listed(baseline, steered, repeat="0+1", baseline_repeat="1+1"))
    assert {key: count for key, (count, _) in audit.items()} == {("mismatched_prompts", more): 3, ("empty_answers", added): 1}


def test_questions_of_a_side_are_those_of_all_its_files(release: Release) -> None:
    baseline, _ = sound(release)
    steered = write(release, "steered.csv", ["Four."])
    write(release, "steered_extended.csv", ["Five.", "Six."], question=["q1", "q2"], prompt=["Say q1", "Say q2"])
    assert found(release, listed(baseline, steered, repeat="1+1")) == {}


def test_significant_results_that_mislead(release: Release) -> None:
    files = [("", f"{EVAL}/main/{name}.csv") for name in ("fine", "against", "broken", "weak", "unsure")]
    deltas, losses, p = [20.0, -9.0, 30.0, 0.2, -9.0], [-5.0, -5.0, -40.0, -1.0, -60.0], [0.01, 0.01, 0.01, 0.01, 0.4]
    path = release.root / RUN / "combined_significance.csv"
    path.parent.mkdir(parents=True)
    pd.DataFrame({"output_path": [file for _, file in files], "output_coherence_mean": [60.0, 60.0, 30.0, 30.0, 5.0]}).to_csv(
        path
    )
    numbers = zip(files, deltas, losses, p, strict=True)
    rows = [
        listed(
            *sides,
            status="raw_missing",
            published_delta_trait_mean=delta,
            published_delta_coherence_mean=loss,
            published_p_two_sided=value,
        )
        for sides, delta, loss, value in numbers
    ]
    rows[0] |= {"honest_delta_trait_mean": -20.0}  # what every row counted once says goes before what was published
    audit = {kind: count for (kind, _), (count, _) in found(release, *rows).items() if kind.startswith("significant")}
    assert audit == {"significant_negative_delta": 2, "significant_collapsed_coherence": 1, "significant_tiny_delta": 1}


def test_merged_table_copies_the_rows_of_others(release: Release) -> None:
    one, two = ({"status": "raw_missing", "published_delta_trait_mean": delta} for delta in (1.0, 2.0))
    merged = f"results/{MODEL}/grid/merged/combined_significance.csv"
    rows = [listed("b.csv", "s1.csv", **one), *(listed("b.csv", f"s{i}.csv", file=merged, **one) for i in (1, 2))]
    rows.append(listed("b.csv", "s1.csv", file=merged, **two))
    count, text = found(release, *rows)["repeated_comparison", merged]
    assert count == 1
    assert "of 3 rows also stand in run_a" in text


def test_rows_listed_and_found(release: Release) -> None:
    numbers: dict[str, Any] = {
        "published_n_rows_steered": 60.0,
        "n_rows_steered": 3.0,
        "published_n_rows_baseline": 3.0,
        "n_rows_baseline": 3.0,
    }
    audit = found(release, listed(*sound(release), **numbers))
    assert list(audit) == [("row_count_differs", f"{RUN}/combined_significance.csv")]


def norms(release: Release, name: str, values: dict[int, float]) -> str:
    path = release.root / "results" / MODEL / "activation_norms" / name
    path.parent.mkdir(exist_ok=True)
    pd.DataFrame({"layer": list(values), "mean_l2": list(values.values())}).to_csv(path, index=False)
    return f"results/{MODEL}/activation_norms/{name}"


def test_calibration_norms(release: Release) -> None:
    named = norms(release, "main_norms.csv", {3: 10.0, 4: 20.0})
    norms(release, "main_shared_norms.csv", {3: 12.0})
    path = release.root / RUN / "combined.csv"
    path.parent.mkdir(parents=True)
    rows = {
        "trait": "shy",
        "eval_revision": "main",
        "layer": [3, 3, 3, 4],
        "target_activation_norm": [10.0, 10.0, 12.0, None],
        "target_norm_file": [named, named, f"/elsewhere/{named}", named],
    }
    pd.DataFrame(rows).to_csv(path, index=False)
    audit = found(release)
    assert {key: count for key, (count, _) in audit.items()} == {
        ("calibration_norm_differs", f"{RUN}/combined.csv"): 1,
        ("calibration_norm_varies", f"{RUN}/combined.csv"): 1,
    }
    text = audit["calibration_norm_differs", f"{RUN}/combined.csv"][1]
    assert "1.2 to 1.2 times" in text
    assert "main_shared_norms.csv" in text


def tables(release: Release, **files: dict[str, Any]) -> None:
    """Write tables of the run."""
    for name, columns in files.items():
        path = release.root / RUN / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(columns).to_csv(path, index=False)


def test_tables_of_one_run_tell_of_a_norm_once(release: Release) -> None:
    named = norms(release, "main_norms.csv", {3: 10.0, 4: 20.0})
    rows: dict[str, Any] = {"trait": "shy", "eval_revision": "main", "layer": [3, 3, 4], "target_norm_file": named}
    rows["target_activation_norm"] = [10.0, 12.0, 25.0]
    part = {name: column[1:] if isinstance(column, list) else column for name, column in rows.items()}
    tables(release, combined=rows, combined_significance=rows, combined_again=part)
    file = f"{RUN}/combined_significance.csv"
    counts = {key: count for key, (count, _) in found(release).items()}
    assert counts == {("calibration_norm_differs", file): 2, ("calibration_norm_varies", file): 1}


def test_tables_of_one_run_that_disagree_are_both_told(release: Release) -> None:
    named = norms(release, "main_norms.csv", {3: 10.0})
    rows: dict[str, Any] = {"layer": [3], "target_norm_file": named}
    tables(
        release,
        combined={**rows, "target_activation_norm": 13.0},
        combined_significance={**rows, "target_activation_norm": 12.0},
    )
    assert {file for kind, file in found(release) if kind == "calibration_norm_differs"} == {
        f"{RUN}/combined.csv",
        f"{RUN}/combined_significance.csv",
    }


def test_numbers_that_are_none_stop_nothing(release: Release) -> None:
    file = f"results/{MODEL}/activation_norms/main_norms.csv"
    path = release.root / file
    path.parent.mkdir()
    path.write_text("layer,mean_l2\ninf,5\n3,10\nthree,7\n4,inf\n5,0\n", encoding="utf-8")
    rows: dict[str, Any] = {"eval_revision": "main", "target_norm_file": file}
    rows |= {"layer": ["inf", "3", "3", "4", "5", "x"], "target_activation_norm": ["5", "11", "-inf", "0", "9", "8"]}
    tables(release, combined=rows)
    counts = {key: count for key, (count, _) in found(release).items()}
    table = f"{RUN}/combined.csv"
    assert counts == {("calibration_norm_differs", table): 1, ("unreadable_numbers", table): 4}


def test_unknown_columns_and_unreadable_tables(release: Release) -> None:
    path = release.root / RUN / "combined_significance.csv"
    path.parent.mkdir(parents=True)
    pd.DataFrame({"trait": ["shy"], "layer": [3], "trait_sign_flip_p_greater": [0.1], "mood": [1]}).to_csv(path, index=False)
    (path.parent / "combined.csv").write_bytes(b"")
    (path.parent / "combined_other.csv").write_bytes(b'layer,activation_norm,norm_file\n"1')
    norms(release, "main_norms.csv", {})
    audit = found(release)
    assert {key: count for key, (count, _) in audit.items()} == {
        ("unknown_columns", f"{RUN}/combined_significance.csv"): 1,
        ("empty_file", f"{RUN}/combined.csv"): 1,
        ("unreadable_file", f"{RUN}/combined_other.csv"): 1,
    }
    assert "mood" in audit["unknown_columns", f"{RUN}/combined_significance.csv"][1]


def test_unknown_columns_of_a_grid_but_not_of_controls(release: Release) -> None:
    tables(release, combined={"trait": ["shy"], "mood": [1], "output_trait_mean": [2.0]})
    path = release.root / f"results/{MODEL}/controls/run_a/combined.csv"
    path.parent.mkdir(parents=True)
    pd.DataFrame({"mode": ["random"], "weather": [1]}).to_csv(path, index=False)
    audit = found(release)
    assert list(audit) == [("unknown_columns", f"{RUN}/combined.csv")]
    assert "unknown columns mood;" in audit["unknown_columns", f"{RUN}/combined.csv"][1]
