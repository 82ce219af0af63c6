"""`traitline reproduce` as a user runs it: what it writes, what damage costs, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import small_release
from small_release import CHILD, MODEL, NAME, REVISIONS
from traitline.cli import app
from traitline.published.release import Release
from traitline.published.reproduce import recompute, reproduce

CONTRACT = {
    "significance": [
        *("run", "model", "trait", "strategy", "extract_revision", "eval_model", "eval_revision", "layer", "coef"),
        *("scaling_mode", "published_delta_trait_mean", "recomputed_delta_trait_mean", "published_p_bonferroni"),
        *("recomputed_delta_coherence_mean", "n_questions", "n_rows_baseline", "n_rows_steered", "status", "reason"),
    ],
    "cosine_matrix": ["model", "trait", "strategy", "layer", "checkpoint_a", "checkpoint_b", "cosine"],
    "cosine_to_final": ["model", "checkpoint", "cosine_to_final", "cosine_to_previous", "l2_norm", "tokens", "n_pairs"],
    "cross_trait": ["model", "checkpoint", "layer", "trait_a", "strategy_a", "trait_b", "strategy_b", "cosine"],
    "extraction_pairs": ["model", "trait", "strategy", "checkpoint", "n_rows", "n_pairs", "n_questions", "fragile", "reason"],
    "facets": ["model", "facet", "count", "total", "share", "wilson_low", "wilson_high", "cluster_low", "cluster_high"],
    "controls": ["lineage", "trait", "vector_checkpoint", "condition", "control_seed", "delta_trait", "real_delta_trait"],
    "cosine_cross_strategy": ["model", "checkpoint", "trait", "layer", "strategy_a", "strategy_b", "cosine"],
    "audit": ["model", "kind", "file", "count", "consequence"],
    "emergence": ["lineage", "trait", "strategy", "vector_checkpoint", "target", "status", "delta_trait", "steerable"],
    "transfer": ["lineage", "trait", "strategy", "vector_checkpoint", "target", "status", "delta_trait", "steerable"],
}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_release.build(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def run(release: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """The run directory that the command writes, and what it prints as JSON."""
    out = tmp_path_factory.mktemp("out") / "run"
    result = CliRunner().invoke(app, ["reproduce", str(release), "--out", str(out), "--layers", "1,2", "--json"])
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout)


def read(out: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(out / "tables" / f"{name}.csv")


def test_the_command_writes_every_table_with_its_columns(run: tuple[Path, dict[str, object]]) -> None:
    out, told = run
    for name, columns in CONTRACT.items():
        assert set(columns) <= set(read(out, name).columns), name
    assert list(read(out, "significance").columns[:10]) == CONTRACT["significance"][:10]
    assert told["status"] == {"match": 4, "baseline_overwritten": 3, "double_counted": 1, "raw_missing": 1, "differs": 1}
    assert set(read(out, "cosine_matrix")["layer"]) == {1, 2}


def test_the_ordinary_tables_count_no_row_twice(run: tuple[Path, dict[str, object]]) -> None:
    out, _ = run
    emergence = read(out, "emergence").set_index("vector_checkpoint")
    assert emergence["status"].to_dict() == {name: "failed" if i == 2 else "complete" for i, name in enumerate(REVISIONS)}
    assert emergence.loc[REVISIONS[1], "n_rows_steered"] == 18 + 30
    significance = read(out, "significance")
    grid = significance[significance["run"] == "grid"].set_index("extract_revision")
    for name in (REVISIONS[0], REVISIONS[4]):
        paired = grid.loc[name, "honest_paired_trait_mean_diff"]
        assert emergence.loc[name, "delta_trait"] == pytest.approx(paired, abs=1e-9)
        assert emergence.loc[name, "p_greater"] == pytest.approx(grid.loc[name, "honest_p_greater"], abs=1e-9)
    assert set(read(out, "transfer")["target"]) == {"main", CHILD}


def test_report_figures_and_latex_are_written(run: tuple[Path, dict[str, object]]) -> None:
    out, _ = run
    page = (out / "report.html").read_text(encoding="utf-8")
    assert MODEL in page
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="http', page)
    assert {path.stem for path in (out / "figures").glob("*.png")} >= {"emergence", "trajectories", "heatmaps", "norms"}
    assert any((out / "latex").glob("*.tex"))


def test_the_same_command_may_be_repeated_and_another_may_not_overwrite(
    run: tuple[Path, dict[str, object]], release: Path, light_figures: None
) -> None:
    out, _ = run
    before = (out / "tables" / "significance.csv").read_bytes()
    again = CliRunner().invoke(app, ["reproduce", str(release), "--out", str(out), "--layers", "1,2"])
    assert again.exit_code == 0, again.output
    assert (out / "tables" / "significance.csv").read_bytes() == before
    other = CliRunner().invoke(app, ["reproduce", str(release), "--out", str(out), "--layers", "3"])
    assert other.exit_code == 2
    assert "never overwritten" in other.output


def test_an_interrupted_run_can_be_repeated_in_its_folder(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, light_figures: None
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as broken:
        broken.setattr("traitline.published.reproduce.write_report", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            reproduce(release, out, layers=[2])
    assert not (out / "report.html").exists()
    assert reproduce(release, out, layers=[2]).report.is_file()


def test_a_folder_of_the_release_is_not_written_into(tmp_path: Path) -> None:
    root = small_release.build(tmp_path)
    result = CliRunner().invoke(app, ["reproduce", str(root), "--out", str(root / "results" / "mine")])
    assert result.exit_code == 2
    assert "inside the release" in result.output


def test_two_models_have_a_page_each_that_name_each_other(tmp_path: Path, light_figures: None) -> None:
    root = small_release.build(tmp_path / "release")
    for part in ("results", "data/persona_vectors", "data/model_responses/eval", "data/model_responses/extract"):
        shutil.copytree(root / part / MODEL, root / part / "Other-2B")
    for path in (root / "results/Other-2B").rglob("*.csv"):
        path.write_text(path.read_text(encoding="utf-8").replace(f"/{MODEL}/", "/Other-2B/"), encoding="utf-8")
    done = reproduce(root, tmp_path / "out", layers=[2])
    assert done.models == ("Other-2B", MODEL)
    statuses = done.tables["significance"].groupby("model")["status"].apply(list)
    assert statuses[MODEL] == statuses["Other-2B"]
    pages = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "out").glob("report*.html")}
    assert len(pages) == 2
    for name, page in pages.items():
        (other,) = set(pages) - {name}
        assert f'href="{other}"' in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "Tiny-1"], "Tiny-1B"),
        (["--layers", "9"], "9"),
        (["--layers", "two"], "two"),
        (["--layers", "-1"], "-1"),
    ],
)
def test_wrong_options_are_input_errors(release: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["reproduce", str(release), "--out", str(tmp_path / "out"), *arguments])
    assert result.exit_code == 2, result.output
    assert said in result.output


def test_a_folder_that_is_no_release_is_an_input_error(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        result = CliRunner().invoke(app, ["reproduce", str(path), "--out", str(tmp_path / "out")])
        assert result.exit_code == 2
        assert "results" in result.output


def truncate(root: Path) -> None:
    path = root / f"data/persona_vectors/{MODEL}/{REVISIONS[1]}/{NAME}_response_avg_diff.pt"
    path.write_bytes(path.read_bytes()[:100])


def misname(root: Path) -> None:
    folder = root / f"data/persona_vectors/{MODEL}"
    shutil.copytree(folder / REVISIONS[0], folder / "yesterday")


def reshape(root: Path) -> None:
    path = root / f"data/persona_vectors/{MODEL}/{REVISIONS[1]}/{NAME}_response_avg_diff.pt"
    path.write_bytes((root / f"data/persona_vectors/{MODEL}/main/{NAME}_response_avg_diff.pt").read_bytes()[:0])


def no_results(root: Path) -> None:
    shutil.rmtree(root / "results")


def no_vectors(root: Path) -> None:
    shutil.rmtree(root / "data/persona_vectors")


def no_answers(root: Path) -> None:
    shutil.rmtree(root / "data/model_responses")


def empty_norms(root: Path) -> None:
    (root / f"results/{MODEL}/activation_norms/main_norms.csv").write_text("", encoding="utf-8")


def odd_norms(root: Path) -> None:
    (root / f"results/{MODEL}/activation_norms/main_norms.csv").write_text("layer,colour\n0,red\n", encoding="utf-8")


def broken_controls(root: Path) -> None:
    for name, text in (("a", ""), ("b", "revision,mode\nmain,random\n"), ("c", "\x00\x01")):
        path = root / f"results/{MODEL}/controls/{name}/combined.csv"
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")


def broken_facets(root: Path) -> None:
    for name, text in (("odd_main.csv", ""), ("even_main.csv", "question,answer,coherence\nWhy,so,50\n")):
        path = root / f"results/{MODEL}/facet_annotation/{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def broken_status(root: Path) -> None:
    path = root / f"data/persona_vectors/{MODEL}/main/{NAME}_response_avg_diff.status.json"
    path.write_text("{not json", encoding="utf-8")


def odd_revision_in_results(root: Path) -> None:
    path = root / f"results/{MODEL}/checkpoint_grid/grid/combined_significance.csv"
    frame = pd.read_csv(path)
    frame.loc[0, ["extract_revision", "eval_revision"]] = "yesterday"
    frame.to_csv(path, index=False)


@pytest.fixture(scope="module")
def told_of_the_whole(release: Path) -> set[tuple[object, ...]]:
    """What the audit tells of the release before it is damaged."""
    source = Release(release)
    return set(map(tuple, recompute(source, source.models, [2])["audit"].to_numpy()))


@pytest.mark.parametrize(
    "damage",
    [
        *(truncate, misname, reshape, no_results, no_vectors, no_answers, empty_norms, odd_norms, broken_controls),
        *(broken_facets, broken_status, odd_revision_in_results),
    ],
)
def test_damage_is_told_in_the_audit_and_the_rest_completes(
    release: Path, told_of_the_whole: set[tuple[object, ...]], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    root = shutil.copytree(release, tmp_path / "release")
    damage(root)
    source = Release(root)
    tables = recompute(source, source.models, [2])
    fresh = [row for row in tables["audit"].to_numpy() if tuple(row) not in told_of_the_whole]
    assert fresh, "nothing new in the audit"
    if damage is not no_results:
        assert len(tables["significance"]) == 10
    if damage is not no_vectors:
        assert len(tables["cosine_matrix"])


def test_a_damaged_release_still_gets_its_report(tmp_path: Path, light_figures: None) -> None:
    root = small_release.build(tmp_path / "release")
    for damage in (truncate, misname, broken_controls, broken_facets, odd_revision_in_results, no_answers):
        damage(root)
    done = reproduce(root, tmp_path / "out", layers=[2])
    assert done.report.is_file()
