"""Cosines between persona vectors, norms, reliabilities."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from traitline.analysis import geometry
from traitline.errors import InputError

NAMES = {"trait": "evil", "strategy": "character"}
Array = NDArray[np.float32]


@pytest.fixture
def vectors() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(4, 16)).astype(np.float32) for name in ("a", "b", "c")}


def plain_cosine(a: Array, b: Array) -> float:
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_the_matrix_holds_every_pair_at_every_layer(vectors: dict[str, Array]) -> None:
    table = geometry.cosine_matrix(vectors, **NAMES)
    assert list(table.columns) == ["trait", "strategy", "layer", "checkpoint_a", "checkpoint_b", "cosine"]
    assert len(table) == 4 * 9
    for row in table.itertuples():
        expected = plain_cosine(vectors[row.checkpoint_a][row.layer], vectors[row.checkpoint_b][row.layer])
        assert row.cosine == pytest.approx(expected, abs=1e-6)


def test_only_the_layers_asked_for_are_given(vectors: dict[str, Array]) -> None:
    table = geometry.cosine_matrix(vectors, layers=[2], **NAMES)
    everything = geometry.cosine_matrix(vectors, **NAMES)
    assert table["cosine"].tolist() == everything.loc[everything["layer"] == 2, "cosine"].tolist()
    with pytest.raises(InputError, match="layers 0 to 3"):
        geometry.cosine_matrix(vectors, layers=[4], **NAMES)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_layer_without_direction_gives_empty_cosines_and_spoils_no_other(vectors: dict[str, Array], bad: float) -> None:
    vectors["b"][1] = 0
    vectors["b"][1, 3] = bad
    table = geometry.cosine_matrix(vectors, **NAMES)
    touched = (table["layer"] == 1) & ((table["checkpoint_a"] == "b") | (table["checkpoint_b"] == "b"))
    assert table.loc[touched, "cosine"].isna().all()
    assert table.loc[~touched, "cosine"].notna().all()
    line = geometry.cosine_to_final(vectors, ["a", "b", "c"], **NAMES)
    of_b = line[line["checkpoint"] == "b"].set_index("layer")
    assert of_b["cosine_to_final"].isna().tolist() == [False, True, False, False]
    crossed = geometry.cross_trait({("evil", "s"): vectors, ("rude", "s"): vectors})
    assert crossed.loc[(crossed["checkpoint"] == "b") & (crossed["layer"] == 1), "cosine"].isna().all()


def test_tiny_and_huge_vectors_keep_their_direction() -> None:
    direction = np.array([[3.0, 4.0]])
    table = geometry.cosine_matrix({"a": direction * 1e-200, "b": direction * 1e200}, **NAMES)
    assert table["cosine"].tolist() == pytest.approx([1.0] * 4)


def test_cosines_to_the_last_and_to_the_previous(vectors: dict[str, Array]) -> None:
    tokens, pairs = {"a": 1, "b": 2, "c": 3}, {"a": 9, "b": 40, "c": 50}
    norms = {name: np.full(4, 2.0) for name in vectors}
    table = geometry.cosine_to_final(
        vectors, ["a", "b", "c"], tokens=tokens, n_pairs=pairs, activation_norms=norms, **NAMES
    ).set_index(["checkpoint", "layer"])
    assert table.loc[("b", 2), "cosine_to_final"] == pytest.approx(plain_cosine(vectors["b"][2], vectors["c"][2]))
    assert table.loc[("b", 2), "cosine_to_previous"] == pytest.approx(plain_cosine(vectors["b"][2], vectors["a"][2]))
    assert table.loc[("c", 0), "cosine_to_final"] == pytest.approx(1)
    assert table.loc["a"]["cosine_to_previous"].isna().all()
    assert table.loc[("a", 3), "l2_norm"] == pytest.approx(float(np.linalg.norm(vectors["a"][3])))
    assert table.loc[("a", 3), "norm_over_activation_norm"] == pytest.approx(table.loc[("a", 3), "l2_norm"] / 2)
    assert table.loc[("b", 0), ["tokens", "n_pairs"]].tolist() == [2, 40]
    assert table["reliability"].isna().all()


def test_gaps_skip_to_the_nearest_earlier_and_a_missing_last_leaves_blanks(vectors: dict[str, Array]) -> None:
    table = geometry.cosine_to_final(vectors, ["a", "x", "b", "c", "last"], **NAMES)
    assert table["cosine_to_final"].isna().all()
    assert set(table.loc[table["checkpoint"] == "b", "previous"]) == {"a"}
    assert table.loc[table["checkpoint"] == "b", "cosine_to_previous"].notna().all()
    assert "x" not in set(table["checkpoint"])


def test_correction_recovers_the_direction_under_noise() -> None:
    rng = np.random.default_rng(1)
    hidden, truth = 20_000, 0.6
    first = rng.normal(size=hidden)
    second = truth * first + np.sqrt(1 - truth**2) * rng.normal(size=hidden)
    halves = {
        name: tuple((v + rng.normal(0, 1.2, hidden))[None] for _ in range(2)) for name, v in (("a", first), ("b", second))
    }
    vectors = {name: (x + y) / 2 for name, (x, y) in halves.items()}
    table = geometry.cosine_to_final(
        vectors, ["a", "b"], half_cosines={name: geometry.cosines(*pair) for name, pair in halves.items()}, **NAMES
    )
    assert table["cosine_to_final"][0] < truth - 0.1
    assert table["corrected_to_final"][0] == pytest.approx(truth, abs=0.03)
    assert table["reliability"][0] == pytest.approx(1 / (1 + 1.2**2 / 2), abs=0.03)
    assert table["corrected_to_final"][1] == pytest.approx(1)


def test_correction_is_empty_where_halves_disagree() -> None:
    a, b = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 1.0], [-1.0, 1.0]])
    reliability = geometry.split_half_reliability(geometry.cosines(a, b))
    c = np.sqrt(0.5)
    assert reliability == pytest.approx([2 * c / (1 + c), -2 * c / (1 - c)])
    assert np.isnan(geometry.corrected(np.array([0.5, 0.5]), reliability, reliability)).tolist() == [False, True]
    assert np.isnan(geometry.split_half_reliability(geometry.cosines(a, -a))).all()


def test_traits_are_compared_where_both_have_a_vector(vectors: dict[str, Array]) -> None:
    other = {"b": vectors["a"]}
    table = geometry.cross_trait({("evil", "s"): vectors, ("rude", "t"): other, ("funny", "t"): {}})
    assert set(table["checkpoint"]) == {"b"}
    assert len(table) == 4
    assert table[["trait_a", "strategy_a", "trait_b", "strategy_b"]].to_numpy()[0].tolist() == ["evil", "s", "rude", "t"]
    assert table["cosine"][2] == pytest.approx(plain_cosine(vectors["b"][2], vectors["a"][2]))
    assert geometry.cross_trait({("evil", "s"): vectors}).empty


def test_many_traits_are_compared_like_one_by_one() -> None:
    rng = np.random.default_rng(2)
    names = [(trait, strategy) for trait in ("evil", "rude", "funny") for strategy in ("s", "t")]
    vectors = {name: {str(i): rng.normal(size=(3, 8)) for i in range(4) if (i + n) % 3} for n, name in enumerate(names)}
    table = geometry.cross_trait(vectors)
    expected = [(str(i), a, b) for i in (1, 2, 0, 3) for a, b in itertools.combinations(names, 2)]
    expected = [(i, a, b) for i, a, b in expected if i in vectors[a] and i in vectors[b]]
    assert len(table) == 3 * len(expected)
    for row, (i, a, b) in zip(table[table["layer"] == 1].itertuples(), expected, strict=True):
        assert (row.checkpoint, row.trait_a, row.strategy_a, row.trait_b, row.strategy_b) == (i, *a, *b)
        assert row.cosine == pytest.approx(geometry.cosines(vectors[a][i], vectors[b][i])[1], abs=1e-12)


def test_misfits_are_refused(vectors: dict[str, Array]) -> None:
    with pytest.raises(InputError, match="no vectors"):
        geometry.cosine_matrix({}, **NAMES)
    with pytest.raises(InputError, match=r"vector of d is \[4, 8\]"):
        geometry.cosine_matrix({**vectors, "d": vectors["a"][:, :8]}, **NAMES)
    with pytest.raises(InputError, match="order"):
        geometry.cosine_to_final(vectors, ["a", "b"], **NAMES)


def test_analysis_never_imports_a_network() -> None:
    for path in Path(geometry.__file__).parent.glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
        networks = ("torch", "transformers", "traitline.models", "traitline.study")
        assert not [name for name in names if name.startswith(networks)], path.name
