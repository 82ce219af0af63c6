"""Directions of a release's vectors: what is compared with what, and what a broken file costs."""

from __future__ import annotations

import json
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from traitline.analysis import geometry
from traitline.errors import InputError
from traitline.published.directions import COLUMNS, direction_tables
from traitline.published.extraction import extraction_pairs
from traitline.published.release import Release

MODEL = "Toy-1B"
STEPS = ["step10-tokens1B", "step20-tokens2B", "step100-tokens9B"]
LAYERS, HIDDEN = 4, 16


def vector(
    root: Path, revision: str, name: str = "brave_story_q", seed: int = 0, shape: tuple[int, ...] = (LAYERS, HIDDEN)
) -> Path:
    path = root / "data/persona_vectors" / MODEL / revision / f"{name}_response_avg_diff.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.from_numpy(array(seed, shape)), path)
    return path


def array(seed: int, shape: tuple[int, ...] = (LAYERS, HIDDEN)) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def norms(root: Path, name: str, value: float, layers: int = LAYERS) -> None:
    path = root / "results" / MODEL / "activation_norms" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"layer": range(layers), "mean_l2": value, "count": 20}).to_csv(path, index=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data/trait_data_extract").mkdir(parents=True)
    for name in ("brave", "calm"):
        (tmp_path / f"data/trait_data_extract/{name}.json").write_text("{}")
    for seed, revision in enumerate([*STEPS, "main"]):
        vector(tmp_path, revision, seed=seed)
    return tmp_path


def tables(root: Path, layers: list[int] | None = None) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    release = Release(root)
    found = direction_tables(release, release.models, layers, extraction_pairs(release, release.models))
    audit = release.audit.table()
    return found, audit[~audit["kind"].isin(["vector_without_rows", "no_activation_norm"])].set_index("kind")


def test_every_two_checkpoints_at_every_layer_in_order_of_training(root: Path) -> None:
    found, audit = tables(root)
    table = found["cosine_matrix"]
    assert {name: part.columns.tolist() for name, part in found.items()} == COLUMNS
    assert len(table) == LAYERS * 16
    assert table["checkpoint_b"].astype(str).tolist()[:4] == [*STEPS, "main"]
    row = table.set_index(["layer", "checkpoint_a", "checkpoint_b"]).loc[(2, STEPS[0], "main")]
    assert row["cosine"] == pytest.approx(geometry.cosines(array(0), array(3))[2], abs=1e-12)
    assert audit.empty


def test_the_trajectory_names_its_end_and_its_norms(root: Path) -> None:
    norms(root, f"{STEPS[0]}_shared_norms.csv", 4.0)
    norms(root, f"{STEPS[0]}_norms.csv", 8.0)
    norms(root, f"{STEPS[1]}_norms.csv", 8.0)
    found, audit = tables(root, [3, 1, 3])
    line = found["cosine_to_final"].set_index(["checkpoint", "layer"])
    assert found["cosine_to_final"]["layer"].tolist() == [1, 3] * 4
    assert set(line["final"]) == {"main"}
    for seed, (name, tokens) in enumerate(zip(STEPS, (1e9, 2e9, 9e9), strict=True)):
        assert line.loc[(name, 3), "cosine_to_final"] == pytest.approx(geometry.cosines(array(seed), array(3))[3])
        assert line.loc[(name, 3), "tokens"] == tokens
    length = np.linalg.norm(array(0)[1])
    assert line.loc[(STEPS[0], 1), "l2_norm"] == pytest.approx(length)
    assert line.loc[(STEPS[0], 1), "norm_over_activation_norm"] == pytest.approx(length / 4)
    assert line.loc[(STEPS[1], 1), "norm_file"] == f"results/{MODEL}/activation_norms/{STEPS[1]}_norms.csv"
    assert line.loc[STEPS[2]]["norm_over_activation_norm"].isna().all()
    assert audit.loc["other_activation_norm", "count"] == 1


def test_without_main_the_last_with_a_vector_is_the_end(root: Path) -> None:
    vector(root, STEPS[0], "calm_story_q", seed=7)
    vector(root, STEPS[1], "calm_story_q", seed=8)
    line = tables(root, [1])[0]["cosine_to_final"]
    calm = line[line["trait"] == "calm"].set_index("checkpoint")
    assert set(calm["final"]) == {STEPS[1]}
    assert calm["cosine_to_final"].tolist() == pytest.approx([geometry.cosines(array(7), array(8))[1], 1.0])


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "unreadable_vector"),
        (lambda path: path.write_bytes(b""), "unreadable_vector"),
        (lambda path: torch.save({"a": torch.zeros(2)}, path), "unreadable_vector"),
        (lambda path: torch.save(torch.ones(LAYERS, HIDDEN, dtype=torch.complex64), path), "unreadable_vector"),
        (lambda path: torch.save(torch.ones(LAYERS, HIDDEN, dtype=torch.int64), path), "unreadable_vector"),
        (lambda path: torch.save(torch.ones(LAYERS, HIDDEN, dtype=torch.bool), path), "unreadable_vector"),
        (lambda path: (path.unlink(), path.mkdir()), "unreadable_vector"),
        (lambda path: (path.unlink(), path.symlink_to("nowhere.pt")), "unreadable_vector"),
        (lambda path: torch.save(torch.ones(LAYERS, HIDDEN + 1), path), "mismatched_shape"),
        (lambda path: torch.save(torch.ones(LAYERS), path), "mismatched_shape"),
        (lambda path: torch.save(torch.ones(LAYERS, 0), path), "mismatched_shape"),
    ],
)
def test_a_broken_vector_keeps_its_rows_empty_and_spoils_no_other(root: Path, damage: object, kind: str) -> None:
    path = root / f"data/persona_vectors/{MODEL}/{STEPS[1]}/brave_story_q_response_avg_diff.pt"
    damage(path)  # type: ignore[operator]
    found, audit = tables(root)
    assert audit.loc[kind, ["file", "count"]].tolist() == [path.relative_to(root).as_posix(), 1]
    matrix = found["cosine_matrix"]
    touched = (matrix["checkpoint_a"] == STEPS[1]) | (matrix["checkpoint_b"] == STEPS[1])
    assert len(matrix) == LAYERS * 16
    assert matrix.loc[touched, "cosine"].isna().all()
    assert matrix.loc[~touched, "cosine"].notna().all()
    line = found["cosine_to_final"].set_index("checkpoint")
    assert line.loc[STEPS[1], ["cosine_to_final", "l2_norm"]].isna().all(axis=None)
    assert set(line.loc[STEPS[2], "previous"]) == {STEPS[0]}
    assert line.index.unique().tolist() == [*STEPS, "main"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: (path.unlink(), path.mkdir()), "is a folder"),
        (lambda path: (path.unlink(), path.symlink_to("nowhere.pt")), "link to a file that is not there"),
        (lambda path: torch.save(torch.ones(LAYERS, HIDDEN, dtype=torch.complex64), path), "complex64"),
        (lambda path: path.write_bytes(b"no"), "truncated"),
    ],
)
def test_what_is_wrong_with_a_vector_is_said_in_words(root: Path, damage: object, words: str) -> None:
    damage(root / f"data/persona_vectors/{MODEL}/{STEPS[1]}/brave_story_q_response_avg_diff.pt")  # type: ignore[operator]
    assert words in tables(root, [1])[1].loc["unreadable_vector", "consequence"]


def test_warnings_of_the_reader_are_not_shown(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = torch.load

    def loud(*args: object, **options: object) -> object:
        warnings.warn("of no interest", UserWarning, stacklevel=2)
        return load(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "load", loud)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tables(root, [1])[1].empty


def test_a_broken_end_leaves_the_cosines_to_it_empty(root: Path) -> None:
    (root / f"data/persona_vectors/{MODEL}/main/brave_story_q_response_avg_diff.pt").write_bytes(b"no")
    found, audit = tables(root, [1])
    line = found["cosine_to_final"]
    assert set(line["final"]) == {"main"}
    assert line["cosine_to_final"].isna().all()
    assert line["cosine_to_previous"].notna().sum() == 2
    assert audit.loc["no_final_vector", "count"] == 3


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_layer_without_direction_is_empty_alone(root: Path, bad: float) -> None:
    path = root / f"data/persona_vectors/{MODEL}/{STEPS[1]}/brave_story_q_response_avg_diff.pt"
    changed = array(1)
    changed[2] = bad
    torch.save(torch.from_numpy(changed), path)
    found, audit = tables(root)
    assert audit.loc["zero_layer", "count"] == 1
    assert "layers 2 are" in audit.loc["zero_layer", "consequence"]
    matrix = found["cosine_matrix"]
    touched = (matrix["layer"] == 2) & ((matrix["checkpoint_a"] == STEPS[1]) | (matrix["checkpoint_b"] == STEPS[1]))
    assert matrix.loc[touched, "cosine"].isna().all()
    assert matrix.loc[~touched, "cosine"].notna().all()


def test_a_checkpoint_marked_without_pair_has_empty_rows_and_no_defect(root: Path) -> None:
    folder = root / f"data/persona_vectors/{MODEL}/step1-tokens0.1B"
    folder.mkdir()
    (folder / "brave_story_q_response_avg_diff.status.json").write_text(json.dumps({"status": "nonextractable"}))
    found, audit = tables(root, [1])
    matrix = found["cosine_matrix"]
    assert len(matrix) == 25
    assert matrix["cosine"].isna().sum() == 9
    assert found["cosine_to_final"]["cosine_to_final"].isna().tolist() == [True, False, False, False, False]
    assert audit.empty


def test_a_revision_that_cannot_be_read_stands_last_and_in_no_trajectory(root: Path) -> None:
    vector(root, "final_really", seed=9)
    found, audit = tables(root, [1])
    assert found["cosine_matrix"]["checkpoint_b"].astype(str).tolist()[4] == "final_really"
    assert "final_really" not in set(found["cosine_to_final"]["checkpoint"])
    assert set(found["cosine_to_final"]["final"]) == {"main"}
    assert audit.loc["unreadable_revision", "file"] == f"data/persona_vectors/{MODEL}/final_really"


def test_traits_and_strategies_against_each_other(root: Path) -> None:
    vector(root, "main", "calm_story_q", seed=5)
    for revision, seed in ((STEPS[0], 6), (STEPS[1], 7)):
        vector(root, revision, "brave", seed=seed)
    found, _ = tables(root, [0, 2])
    crossed = found["cross_trait"]
    assert crossed["checkpoint"].astype(str).tolist() == [STEPS[0], STEPS[0], STEPS[1], STEPS[1], "main", "main"]
    assert crossed["trait_b"].astype(str).tolist() == ["brave"] * 4 + ["calm"] * 2
    at_last = found["cosine_cross_strategy"]
    assert at_last["checkpoint"].astype(str).tolist() == [STEPS[1]] * 2
    assert at_last[["strategy_a", "strategy_b"]].astype(str).to_numpy().tolist() == [["", "story_q"]] * 2
    assert at_last["layer"].tolist() == [0, 2]
    assert at_last["cosine"].to_numpy() == pytest.approx(geometry.cosines(array(7), array(1))[[0, 2]])


def test_the_same_weights_are_the_ceiling_unless_their_norms_differ(root: Path) -> None:
    vector(root, "stage2-step5-tokens9B", seed=9)
    found, audit = tables(root, [1])
    twin = found["same_weights"]
    assert twin[["checkpoint_a", "checkpoint_b"]].to_numpy().tolist() == [[STEPS[2], "stage2-step5-tokens9B"]]
    assert twin["cosine"].tolist() == pytest.approx([geometry.cosines(array(2), array(9))[1]])
    assert audit.empty
    norms(root, f"{STEPS[2]}_shared_norms.csv", 4.0)
    norms(root, "stage2-step5-tokens9B_shared_norms.csv", 5.0)
    found, audit = tables(root, [1])
    assert found["same_weights"].empty
    assert audit.loc["same_tokens_other_weights", "count"] == 1


def test_the_authors_cosines_are_checked(root: Path) -> None:
    folder = root / f"results/{MODEL}/grid/run_v1/vector_similarity"
    folder.mkdir(parents=True)
    cosine = float(geometry.cosines(array(0), array(1))[2])
    to_main = float(geometry.cosines(array(1), array(3))[2])
    square = pd.DataFrame([[1.0, cosine], [cosine, 1.0]], STEPS[:2], STEPS[:2])
    square.to_csv(folder / "vector_cosine_sim_brave_story_q_layer2.csv")
    line = {"revision": [STEPS[1], "step7-tokens0.5B"], "cosine_similarity_to_main": [to_main, 0.5]}
    pd.DataFrame(line).to_csv(folder / "vector_cosine_to_main_brave_story_q_layer2.csv", index=False)
    assert tables(root, [1])[1].empty
    steps = {"source_revision": STEPS[:1], "target_revision": STEPS[1:2], "cosine_similarity": [cosine + 0.25]}
    pd.DataFrame(steps).to_csv(folder / "vector_cosine_sequential_brave_story_q_layer2.csv", index=False)
    audit = tables(root, [1])[1]
    assert audit.loc["published_cosine_differs", "count"] == 1
    assert "1 of the 1" in audit.loc["published_cosine_differs", "consequence"]
    assert "by up to 0.250" in audit.loc["published_cosine_differs", "consequence"]


def similarities(root: Path, name: str, table: pd.DataFrame, **options: bool) -> Path:
    path = root / f"results/{MODEL}/grid/run_v1/vector_similarity/vector_cosine_{name}_brave_story_q_layer2.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, **options)  # type: ignore[call-overload]
    return path


def test_further_columns_of_the_authors_cosines_are_no_cosines(root: Path) -> None:
    cosine = float(geometry.cosines(array(0), array(1))[2])
    to_main = float(geometry.cosines(array(1), array(3))[2])
    square = pd.DataFrame([[1.0, cosine], [cosine, 1.0]], STEPS[:2], STEPS[:2]).assign(zzz=0.25, yyy="so")
    similarities(root, "sim", square)
    line = {"revision": STEPS[1:2], "cosine_similarity_to_main": [to_main], "zzz": 0.25}
    similarities(root, "to_main", pd.DataFrame(line), index=False)
    steps = {"source_revision": STEPS[:1], "target_revision": STEPS[1:2], "cosine_similarity": [cosine], "zzz": 0.25}
    similarities(root, "sequential", pd.DataFrame(steps), index=False)
    audit = tables(root, [1])[1]
    assert audit.index.tolist() == ["unknown_columns"] * 3
    assert audit["count"].tolist() == [1, 2, 1]
    assert "zzz, yyy" in audit["consequence"].iloc[1]


def test_authors_cosines_that_are_no_numbers_or_not_there_are_told(root: Path) -> None:
    cosine = float(geometry.cosines(array(0), array(1))[2])
    square = pd.DataFrame([["one", cosine], [cosine + 0.25, "inf"]], STEPS[:2], STEPS[:2])
    path = similarities(root, "sim", square)
    other = similarities(root, "to_main", pd.DataFrame({"revision": STEPS, "length": 1.0}), index=False)
    similarities(root, "sequential", pd.DataFrame([[1.0]], ["elsewhere"], ["elsewhere"]))
    audit = tables(root, [1])[1]
    assert audit.loc["unreadable_numbers", ["file", "count"]].tolist() == [path.relative_to(root).as_posix(), 2]
    assert audit.loc["published_cosine_differs", ["file", "count"]].tolist() == [path.relative_to(root).as_posix(), 1]
    assert audit.loc["missing_columns", "file"] == other.relative_to(root).as_posix()


def test_activation_norms_that_are_no_numbers_give_way_to_the_next_kind(root: Path) -> None:
    folder = root / f"results/{MODEL}/activation_norms"
    for revision in STEPS:
        norms(root, f"{revision}_shared_norms.csv", 4.0)
        norms(root, f"{revision}_norms.csv", 8.0)
    pd.DataFrame({"layer": range(LAYERS), "mean_l2": "long"}).to_csv(folder / f"{STEPS[0]}_shared_norms.csv", index=False)
    values = {"layer": range(LAYERS), "mean_l2": [4.0, "long", "inf", 4.0], "zzz": 1}
    pd.DataFrame(values).to_csv(folder / f"{STEPS[1]}_shared_norms.csv", index=False)
    norms(root, f"{STEPS[2]}_shared_norms.csv", 4.0, layers=1)
    found, audit = tables(root, [1])
    line = found["cosine_to_final"].set_index("checkpoint")
    length = np.linalg.norm(array(0)[1])
    assert line.loc[STEPS[0], "norm_over_activation_norm"] == pytest.approx(length / 8)
    assert line.loc[STEPS[0], "norm_file"].endswith(f"{STEPS[0]}_norms.csv")
    assert line.loc[STEPS[1], "norm_file"].endswith(f"{STEPS[1]}_shared_norms.csv")
    assert line.loc[STEPS[1:], "norm_over_activation_norm"].isna().all()
    assert audit.loc["unreadable_numbers", "count"].tolist() == [LAYERS, 2]
    assert "4 of 8 cells" in audit.loc["unreadable_numbers", "consequence"].iloc[0]
    assert audit.loc["unknown_columns", "count"] == 1


def test_a_revision_with_a_name_as_long_as_a_file_may_have_stops_nothing(root: Path) -> None:
    norms(root, "main_shared_norms.csv", 4.0)
    vector(root, "x" * 255)
    assert len(tables(root, [1])[0]["cosine_matrix"]) == 25


@pytest.mark.parametrize(("layers", "words"), [([4], "layers 4"), ([-1], "layers -1"), ([16, 20], "layers 16, 20")])
def test_layers_none_of_which_any_model_has_are_refused(root: Path, layers: list[int], words: str) -> None:
    with pytest.raises(InputError, match=rf"{words}.*{MODEL} have layers 0 to 3"):
        tables(root, layers)


def test_layers_that_a_model_lacks_are_left_out(root: Path) -> None:
    found, audit = tables(root, [1, 4, 4])
    assert set(found["cosine_matrix"]["layer"]) == {1}
    assert audit.loc["layer_out_of_range", ["model", "count"]].tolist() == [MODEL, 1]
    path = root / "data/persona_vectors/Toy-2B/main/brave_story_q_response_avg_diff.pt"
    path.parent.mkdir(parents=True)
    torch.save(torch.ones(6, 8), path)
    for layers, mine in (([1, 4], [[1], [1, 4]]), ([4, 9], [[], [4]])):
        found, audit = tables(root, layers)
        for name in ("cosine_matrix", "cosine_to_final"):
            by_model = found[name].groupby("model", observed=True)["layer"].unique().map(list).to_dict()
            assert by_model == {model: part for model, part in zip((MODEL, "Toy-2B"), mine, strict=True) if part}
    assert audit.loc["layer_out_of_range", "model"].tolist() == [MODEL, "Toy-2B"]
    assert audit.loc["layer_out_of_range", "count"].tolist() == [2, 1]


def test_a_model_without_vectors_has_empty_tables(tmp_path: Path) -> None:
    (tmp_path / "results" / MODEL).mkdir(parents=True)
    found, audit = tables(tmp_path, [16])
    assert all(part.empty for part in found.values())
    assert audit.empty


def test_many_vectors_cost_little_more_than_they_hold(tmp_path: Path) -> None:
    for seed in range(60):
        vector(tmp_path, f"step{seed + 1}-tokens{seed + 1}B", f"t{seed % 3}_q", seed=seed, shape=(9, 256))
    tracemalloc.start()
    found, _ = tables(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found["cosine_matrix"]) == 3 * 9 * 20**2
    assert peak < 10 * 60 * 9 * 256 * 4  # bytes


@pytest.mark.published
def test_published_cosines_agree(published: Path, published_release: Path) -> None:
    release = Release(published_release)
    found = direction_tables(release, release.models, [16, 20], extraction_pairs(release, release.models))
    expected = json.loads((published / "expected_cosines.json").read_text())["layers"]
    strategy = "character_neutral_q"
    line = found["cosine_to_final"].set_index(["layer", "trait", "strategy", "checkpoint"])
    matrix = found["cosine_matrix"].set_index(["layer", "trait", "strategy", "checkpoint_a", "checkpoint_b"])["cosine"]
    facts = {
        "cos_to_main": "cosine_to_final",
        "cos_to_prev": "cosine_to_previous",
        "l2": "l2_norm",
        "l2_over_sharednorm": "norm_over_activation_norm",
    }
    compared = 0
    for layer, parts in ((int(layer), parts) for layer, parts in expected.items()):
        for key, column in facts.items():
            for trait, values in parts[key].items():
                ours = {name: line.loc[(layer, trait, strategy, name), column] for name in values}
                assert ours == pytest.approx(values, abs=1e-6)
                compared += len(values)
        for trait, square in parts["cos_matrix"].items():
            names = square["revisions"]
            ours = [[matrix[(layer, trait, strategy, a, b)] for b in names] for a in names]
            np.testing.assert_allclose(ours, square["matrix"], atol=1e-6)
            compared += len(names) ** 2
        crossed = found["cross_trait"]
        crossed = crossed[(crossed["layer"] == layer) & (crossed["checkpoint"] == "main")]
        plain = crossed[(crossed["strategy_a"] == strategy) & (crossed["strategy_b"] == strategy)]
        alike = found["cosine_cross_strategy"][found["cosine_cross_strategy"]["layer"] == layer]
        for key, part, names in (
            ("cross_trait_main", plain, plain[["trait_a", "trait_b"]].astype(str)),
            ("evil_strategy_main", alike, "evil_" + alike[["strategy_a", "strategy_b"]].astype(str)),
        ):
            ours = {frozenset(pair): value for pair, value in zip(names.to_numpy().tolist(), part["cosine"], strict=True)}
            assert ours == pytest.approx({frozenset(pair.split("|")): value for pair, value in parts[key].items()}, abs=1e-6)
            compared += len(ours)
    assert compared == 2440
    twin = found["same_weights"][found["same_weights"]["layer"] == 16].set_index("trait")["cosine"].round(3)
    assert twin.to_dict() == {"evil": 0.996, "sycophantic": 0.977, "impolite": 0.975, "humorous": 0.913}
    differ = release.audit.table().query("kind == 'published_cosine_differs'")
    assert differ["count"].sum() == 230
