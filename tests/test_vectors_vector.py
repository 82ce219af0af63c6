"""Persona vectors: files, provenance, arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traitline.errors import InputError, StoreError
from traitline.vectors.vector import (
    LAST_AFTER_NORM,
    LAYER_CONVENTION,
    PersonaVector,
    Provenance,
    load_arrays,
    save_arrays,
    software,
)

EVERYTHING: dict[str, Any] = {
    "lineage": "olmo3-7b",
    "checkpoint": "stage1-step3000",
    "source": "allenai/Olmo-3-1025-7B",
    "commit": "abc123",
    "trait": "evil",
    "strategy": "character",
    "position": "response_avg",
    "estimator": "pairs",
    "n_pairs": 37,
    "n_questions": 9,
    "judge": "nano",
    "prompt_hash": "d1ce",
    "activation_norms": (0.1, 1 / 3, 12.75, 3e-9),
}


def _vector(seed: int = 0, shape: tuple[int, int] = (4, 6), **provenance: Any) -> PersonaVector:
    return PersonaVector.from_array(np.random.default_rng(seed).normal(size=shape), **provenance)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), layers=st.integers(2, 9), hidden=st.integers(1, 17))
def test_a_saved_vector_loads_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, seed: int, layers: int, hidden: int
) -> None:
    vector = _vector(seed, (layers, hidden))
    path = tmp_path_factory.mktemp("vectors") / "vector.safetensors"
    loaded = PersonaVector.load(vector.save(path))
    assert loaded.array.dtype == np.float32
    assert loaded.array.tobytes() == vector.array.tobytes()


def test_every_field_of_the_provenance_survives(tmp_path: Path) -> None:
    vector = _vector(**EVERYTHING)
    assert PersonaVector.load(vector.save(tmp_path / "v.safetensors")).provenance == Provenance(**EVERYTHING)


def test_a_vector_says_what_made_it_and_how_layers_count(tmp_path: Path) -> None:
    loaded = PersonaVector.load(_vector().save(tmp_path / "v.safetensors"))
    assert loaded.provenance.software == software()
    assert loaded.provenance.software.startswith("traitline ")
    assert loaded.provenance.layer_convention == LAYER_CONVENTION


def test_counts_and_norms_of_numpy_types_are_kept_as_numbers(tmp_path: Path) -> None:
    norms = tuple(np.array([1.5, 2.5, 3.5, 4.5], dtype=np.float32))
    vector = _vector(n_pairs=np.int64(12), activation_norms=norms)
    loaded = PersonaVector.load(vector.save(tmp_path / "v.safetensors")).provenance
    assert (loaded.n_pairs, loaded.activation_norms) == (12, (1.5, 2.5, 3.5, 4.5))
    assert isinstance(loaded.n_pairs, int)


def test_one_file_holds_several_vectors_by_name(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    arrays = {name: _vector(i).array for i, name in enumerate(("response_avg", "prompt_last", "balanced_response_avg"))}
    save_arrays(path, {**arrays, "bootstrap": np.zeros((3, 4, 6), dtype=np.float32)}, Provenance(trait="evil"))
    assert np.array_equal(PersonaVector.load(path).array, arrays["response_avg"])
    last = PersonaVector.load(path, "prompt_last")
    assert np.array_equal(last.array, arrays["prompt_last"])
    assert (last.provenance.position, last.provenance.trait) == ("prompt_last", "evil")
    balanced = PersonaVector.load(path, "balanced_response_avg").provenance
    assert (balanced.position, balanced.estimator) == ("response_avg", "balanced")
    with pytest.raises(InputError, match="no vector 'prompt_lost'; nearest: prompt_last"):
        PersonaVector.load(path, "prompt_lost")
    with pytest.raises(InputError, match="bootstrap"):
        PersonaVector.load(path, "bootstrap")


def test_the_only_vector_of_a_file_needs_no_name(tmp_path: Path) -> None:
    vector = _vector(position="prompt_avg")
    assert PersonaVector.load(vector.save(tmp_path / "v.safetensors")).provenance.position == "prompt_avg"


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_a_truncated_file_is_broken(tmp_path: Path, keep: int) -> None:
    path = _vector(**EVERYTHING).save(tmp_path / "v.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StoreError, match=r"v\.safetensors' is broken"):
        PersonaVector.load(path)


@pytest.mark.parametrize("header", ["{", "[]", '{"nobody knows": 1}'])
def test_a_provenance_that_cannot_be_read_is_broken(tmp_path: Path, header: str) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "v.safetensors"
    save_file({"response_avg": _vector().array}, path, metadata={"traitline": header})
    with pytest.raises(StoreError, match="broken"):
        PersonaVector.load(path)


def test_a_file_without_our_header_loads_with_an_empty_provenance(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"response_avg": _vector().array}, tmp_path / "v.safetensors")
    arrays, provenance = load_arrays(tmp_path / "v.safetensors")
    assert list(arrays) == ["response_avg"]
    assert provenance == Provenance()


def test_a_file_that_is_not_there_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        PersonaVector.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), r"shape \[5\]"),
        (np.zeros((1, 5)), r"shape \[1, 5\]"),
        (np.zeros((2, 2, 5)), r"shape \[2, 2, 5\]"),
        ([[1, 2], [float("nan"), float("inf")]], "2 values that are NaN or infinite"),
        ([[1, 2], [3]], "array of numbers"),
        ([["a", "b"]] * 2, "array of numbers"),
    ],
)
def test_what_is_no_vector_is_refused(array: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PersonaVector.from_array(array)


def test_a_vector_does_not_share_memory_with_what_it_was_made_from() -> None:
    array = np.ones((2, 3), dtype=np.float32)
    vector = PersonaVector.from_array(array)
    array[:] = 7
    assert vector.array.max() == 1


def test_arithmetic_is_that_of_the_arrays() -> None:
    a, b = _vector(1), _vector(2)
    np.testing.assert_array_equal((a + b).array, a.array + b.array)
    np.testing.assert_array_equal((a - b).array, a.array - b.array)
    np.testing.assert_array_equal((a * 2).array, 2 * a.array)
    np.testing.assert_array_equal((2 * a).array, (a * 2).array)
    np.testing.assert_array_equal((-a).array, -a.array)
    assert (a * 0.1).array.dtype == np.float32


def test_unit_has_norm_one_and_leaves_a_zero_layer_zero() -> None:
    array = _vector().array.copy()
    array[2] = 0
    np.testing.assert_allclose(PersonaVector.from_array(array).unit().norms, [1, 1, 0, 1], rtol=1e-6)


def test_without_is_orthogonal_and_keeps_the_rest() -> None:
    a, b = _vector(1), _vector(2)
    rest = a.without(b)
    np.testing.assert_allclose(rest.cosine(b), 0, atol=1e-6)
    np.testing.assert_allclose(
        (a.array - rest.array) / b.array, ((a.array - rest.array) / b.array)[:, :1].repeat(6, 1), rtol=1e-3
    )


def test_cosine_by_layer_is_nan_where_a_layer_is_zero() -> None:
    a = PersonaVector.from_array([[1, 0], [1, 1], [0, 0]])
    b = PersonaVector.from_array([[-2, 0], [3, 0], [1, 1]])
    np.testing.assert_allclose(a.cosine(b), [-1, np.sqrt(0.5), np.nan], rtol=1e-6)


@pytest.mark.parametrize("combine", ["__add__", "__sub__", "cosine", "without"])
def test_vectors_of_different_models_do_not_combine(combine: str) -> None:
    with pytest.raises(InputError, match=r"\[4, 6\] and \[4, 7\]"):
        getattr(_vector(), combine)(_vector(shape=(4, 7)))


@pytest.mark.parametrize("layer", [0, 4, -1])
def test_a_layer_that_cannot_be_steered_is_refused(layer: int) -> None:
    vector = _vector()
    np.testing.assert_array_equal(vector.at(3), vector.array[3])
    with pytest.raises(InputError, match="layers 1 to 3"):
        vector.at(layer)


def test_a_sum_keeps_only_the_provenance_its_parts_share() -> None:
    both = _vector(1, **EVERYTHING) + _vector(2, **EVERYTHING | {"trait": "impolite", "n_pairs": 5, "judge": "other"})
    assert both.provenance.lineage == "olmo3-7b"
    assert (both.provenance.trait, both.provenance.judge, both.provenance.estimator) == (None, None, "sum")


@pytest.mark.parametrize("combine", ["__add__", "__sub__", "without"])
def test_what_is_made_of_a_fragile_or_foreign_vector_stays_so(combine: str) -> None:
    sound, fragile = _vector(1, n_pairs=50, n_questions=20), _vector(2, n_pairs=9, n_questions=20)
    foreign = _vector(3, layer_convention=LAST_AFTER_NORM)
    assert not sound.provenance.fragile
    assert getattr(sound, combine)(fragile).provenance.fragile
    assert getattr(fragile, combine)(sound).provenance.fragile
    assert getattr(sound, combine)(foreign).provenance.layer_convention == LAST_AFTER_NORM
    assert (fragile * 3).provenance.fragile


@pytest.mark.parametrize(
    ("pairs", "questions", "fragile"), [(10, 5, False), (9, 5, True), (10, 4, True), (None, None, False), (None, 4, True)]
)
def test_few_pairs_or_questions_are_fragile(pairs: int | None, questions: int | None, fragile: bool) -> None:
    assert Provenance(n_pairs=pairs, n_questions=questions).fragile is fragile
