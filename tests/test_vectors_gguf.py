"""GGUF control vectors: what other readers find in ours, what we find in theirs, and files that mean harm."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from traitline.errors import InputError
from traitline.vectors import PersonaVector, export_gguf, export_pt, import_gguf, steer
from traitline.vectors.gguf_container import gguf_bytes
from traitline.vectors.gguf_files import written_layers
from traitline.vectors.vector import LAST_AFTER_NORM, LAYER_CONVENTION

LAYERS, HIDDEN = 5, 6
ARRAY = np.random.default_rng(0).normal(size=(LAYERS + 1, HIDDEN)).astype(np.float32)
NORMS = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0)
VECTOR = PersonaVector.from_array(ARRAY, trait="evil", strategy="character", n_pairs=12, activation_norms=NORMS)
CONTROL = {"general.architecture": "controlvector"}


def directions(path: Path) -> dict[str, Any]:
    """What the reader of the `gguf` package, which is llama.cpp's, finds."""
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}


def foreign(path: Path, rows: dict[int, Any], **changes: str) -> Path:
    """Write a control vector as other tools do, with the `gguf` package."""
    writer = gguf.GGUFWriter(path, changes.get("architecture", "controlvector"))
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(rows))
    for index, row in rows.items():
        writer.add_tensor(f"direction.{index}", row)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_direction_n_is_layer_n_plus_one_and_layer_one_is_never_written(tmp_path: Path) -> None:
    path = export_gguf(VECTOR, tmp_path / "v.gguf", model_hint="llama")
    found = directions(path)
    assert list(found) == ["direction.1", "direction.2", "direction.3", "direction.4"]
    for index in range(1, LAYERS):
        np.testing.assert_array_equal(found[f"direction.{index}"], ARRAY[index + 1])
    assert written_layers(path) == (2, 3, 4, 5)
    with pytest.raises(InputError, match=r"layer 1 cannot be written.*first block"):
        export_gguf(VECTOR, tmp_path / "one.gguf", layers=[1])
    assert not (tmp_path / "one.gguf").exists()


def test_the_file_says_what_llama_cpp_and_repeng_look_for(tmp_path: Path) -> None:
    path = export_gguf(VECTOR, tmp_path / "v.gguf", layers=[4, 2], model_hint="olmo2")
    reader = gguf.GGUFReader(path)
    assert {tensor.tensor_type for tensor in reader.tensors} == {gguf.GGMLQuantizationType.F32}
    assert [list(tensor.shape) for tensor in reader.tensors] == [[HIDDEN], [HIDDEN]]
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "controlvector"
    assert (fields["controlvector.model_hint"], fields["controlvector.layer_count"]) == ("olmo2", 2)


def test_what_is_written_reads_back_with_its_provenance(tmp_path: Path) -> None:
    back = import_gguf(export_gguf(VECTOR, tmp_path / "v.gguf"))
    np.testing.assert_array_equal(back.array[2:], ARRAY[2:])
    assert back.provenance == VECTOR.provenance
    assert (back.layers, back.held_layers) == (LAYERS, (2, 3, 4, 5))


def test_absent_layers_are_no_zeros_and_are_refused_for_steering(tmp_path: Path) -> None:
    back = import_gguf(export_gguf(VECTOR, tmp_path / "v.gguf", layers=[2, 4, 5]))
    kept = PersonaVector.load(back.save(tmp_path / "v.safetensors"))  # absence survives our own file
    for vector in (back, kept, back * 2, -back, back.unit(), back + VECTOR, back.without(VECTOR)):
        assert vector.held_layers == (2, 4, 5)
        assert np.isnan(vector.array[[0, 1, 3]]).all()
        assert np.isfinite(vector.array[[2, 4, 5]]).all()
        with pytest.raises(InputError, match="no direction at layer 3, only at 2, 4 to 5; choose"):
            steer(vector, 3, 1.0)
    assert np.isnan(back.cosine(VECTOR)[[0, 1, 3]]).all()
    np.testing.assert_allclose(back.cosine(VECTOR)[[2, 4, 5]], 1, rtol=1e-6)
    assert steer(back, 4, 1.0).resolve(np.array(NORMS, dtype=np.float32)).delta.any()
    with pytest.raises(InputError, match=r"layers 2, 4 to 5, and a \.pt file has a row for every layer"):
        export_pt(back, tmp_path / "v.pt")
    with pytest.raises(InputError, match="no direction at layer 3"):
        export_gguf(back, tmp_path / "again.gguf", layers=[3])
    assert written_layers(export_gguf(back, tmp_path / "again.gguf")) == (2, 4, 5)


@pytest.mark.parametrize("coef", [0.5, -2.0])
def test_a_baked_norm_dose_is_the_delta_that_steer_adds(tmp_path: Path, coef: float) -> None:
    path = export_gguf(VECTOR, tmp_path / "v.gguf", layers=[3], coef=coef)
    expected = steer(VECTOR, 3, coef, dose="norm", positions="all").resolve(np.array(NORMS, dtype=np.float32)).delta
    np.testing.assert_allclose(directions(path)["direction.2"], expected, rtol=1e-6)
    assert f"norm dose {coef:g}" in import_gguf(path).provenance.estimator
    scale = coef * NORMS[3] / np.linalg.norm(ARRAY[3])  # the formula of the documentation
    np.testing.assert_allclose(
        directions(export_gguf(VECTOR, tmp_path / "raw.gguf"))["direction.2"] * scale, expected, rtol=1e-5
    )


def test_a_dose_may_be_for_another_network(tmp_path: Path) -> None:
    target = [7.0] * (LAYERS + 1)
    path = export_gguf(VECTOR, tmp_path / "v.gguf", layers=[3], coef=1.0, activation_norms=target)
    assert np.linalg.norm(directions(path)["direction.2"]) == pytest.approx(7, rel=1e-5)


@pytest.mark.parametrize(
    ("vector", "options", "message"),
    [
        (VECTOR, {"coef": 0.5}, "name the layers"),
        (VECTOR, {"activation_norms": NORMS}, "give coef too"),
        (VECTOR, {"coef": float("nan"), "layers": [2]}, "finite number, not nan"),
        (VECTOR, {"coef": 0.5, "layers": [2], "activation_norms": [1.0, 2.0]}, "5 layers, the activation norms 1"),
        (VECTOR, {"layers": [6]}, "layers 1 to 5"),
        (VECTOR, {"layers": []}, "no layer to write"),
        (PersonaVector.from_array(ARRAY), {"coef": 0.5, "layers": [2]}, "activation norms of its network"),
        (PersonaVector.from_array(ARRAY[:2]), {}, "no layer to write.*directions at 1$"),
    ],
)
def test_an_export_that_cannot_be_is_refused(tmp_path: Path, vector: PersonaVector, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        export_gguf(vector, tmp_path / "v.gguf", **options)
    assert not list(tmp_path.iterdir())


def test_a_last_layer_read_after_the_norm_is_left_out_unless_asked_for(tmp_path: Path) -> None:
    vector = PersonaVector.from_array(ARRAY, layer_convention=LAST_AFTER_NORM)
    assert written_layers(export_gguf(vector, tmp_path / "v.gguf")) == (2, 3, 4)
    with pytest.raises(InputError, match=r"layer 5 .* after the final norm"):
        export_gguf(vector, tmp_path / "v.gguf", layers=[5])
    assert written_layers(export_gguf(vector, tmp_path / "v.gguf", allow_after_norm=True)) == (2, 3, 4, 5)


def test_a_file_of_another_tool_is_read_by_where_its_directions_are_applied(tmp_path: Path) -> None:
    rows = {index: ARRAY[index] for index in (4, 3, 2, 1)}  # repeng writes the last first
    vector = import_gguf(foreign(tmp_path / "happy.gguf", rows))
    assert (vector.layers, vector.held_layers) == (5, (2, 3, 4, 5))
    for index, row in rows.items():
        np.testing.assert_array_equal(vector.at(index + 1), row)
    origin = vector.provenance
    assert (origin.source, origin.position, origin.estimator) == ("happy.gguf", "unknown", "unknown")
    with pytest.raises(InputError, match="after the final norm"):  # as repeng reads its last layer
        steer(vector, 5, 1.0)


def test_a_depth_tells_where_the_network_ends(tmp_path: Path) -> None:
    path = foreign(tmp_path / "v.gguf", {2: ARRAY[0]})
    assert import_gguf(path).layers == 3
    deeper = import_gguf(path, depth=8)
    assert (deeper.layers, deeper.held_layers, deeper.provenance.layer_convention) == (8, (3,), LAYER_CONVENTION)
    with pytest.raises(InputError, match=r"layer 3 \(direction.2\), which a network of 2 blocks has not"):
        import_gguf(path, depth=2)
    own = export_gguf(VECTOR, tmp_path / "own.gguf", layers=[2])
    assert import_gguf(own).layers == LAYERS
    with pytest.raises(InputError, match="5 blocks, not 8"):
        import_gguf(own, depth=8)


def test_direction_zero_of_repeng_is_layer_one(tmp_path: Path) -> None:
    vector = import_gguf(foreign(tmp_path / "v.gguf", {0: ARRAY[0], 1: ARRAY[1]}), depth=4)
    np.testing.assert_array_equal(vector.at(1), ARRAY[0])
    assert written_layers(export_gguf(vector, tmp_path / "own.gguf")) == (2,)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions_become_float32(tmp_path: Path, dtype: Any) -> None:
    row = ARRAY[1].astype(dtype)
    np.testing.assert_array_equal(import_gguf(foreign(tmp_path / "v.gguf", {1: row})).at(2), row.astype(np.float32))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({1: ARRAY[1], 2: ARRAY[2][:4]}, "directions of 6 and of 4 numbers"),
        ({1: ARRAY[:2]}, r"shape \[6, 2\]; a direction is one row"),
        ({1: np.arange(6, dtype=np.int32)}, "GGUF type 26"),
        ({1: np.array([1, np.nan, np.inf], dtype=np.float32)}, "2 values that are NaN or infinite"),
        ({1: np.array([1e300])}, "1 values that are NaN or infinite"),
        ({100_000: ARRAY[1]}, "tensor 'direction.100000'"),
    ],
)
def test_directions_that_cannot_be_used_are_refused(tmp_path: Path, rows: dict[int, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        import_gguf(foreign(tmp_path / "v.gguf", rows))
    assert "v.gguf" in str(refused.value)


def test_a_model_is_no_control_vector(tmp_path: Path) -> None:
    path = foreign(tmp_path / "model.gguf", {1: ARRAY[1]}, architecture="llama")
    for read in (import_gguf, written_layers):
        with pytest.raises(InputError, match=r"general.architecture is 'llama'"):
            read(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused_and_named(tmp_path: Path, share: float) -> None:
    path = export_gguf(VECTOR, tmp_path / "v.gguf")
    whole = path.read_bytes()[:-8]  # the last bytes fill up to the alignment
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=r"v\.gguf' (is|.*truncated|.*no GGUF)"):
        import_gguf(path)


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _file(entries: Sequence[bytes], tensors: Sequence[bytes], *, counts: tuple[int, int] | None = None) -> bytes:
    n_tensors, n_entries = counts or (len(tensors), len(entries))
    kind = _text(b"general.architecture") + struct.pack("<I", 8) + _text(b"controlvector")
    head = b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_entries + 1) + kind + b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(64)


def _tensor(name: bytes, *shape: int, kind: int = 0, offset: int = 0) -> bytes:
    return _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


NESTED = struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50 + bytes(64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04" + bytes(60), "no GGUF file"),
        (b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(64), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 1, 1, 1) + bytes(64), "version is 1"),
        (_file([], [], counts=(2**60, 0)), "tensors are announced"),
        (_file([], [], counts=(0, 2**63)), "entries are announced"),
        (_file([struct.pack("<Q", 2**64 - 8)], []), "bytes are announced"),
        (_file([_text(b"a") + struct.pack("<IIQ", 9, 4, 2**62)], []), "numbers are announced"),
        (_file([_text(b"a") + NESTED], []), "nested too deeply"),
        (_file([_text(b"a") + struct.pack("<I", 99)], []), "type 99"),
        (_file([_text(b"\xff\xfe") + struct.pack("<II", 4, 1)], []), "not UTF-8"),
        (_file([_text(b"a") + struct.pack("<II", 4, 1)] * 2, []), "entry 'a' twice"),
        (_file([_text(b"general.alignment") + struct.pack("<II", 4, 0)], [_tensor(b"direction.1", 4)]), "alignment is 0"),
        (_file([], [_tensor(b"direction.1", 4)] * 2), "tensor 'direction.1' twice"),
        (_file([], [_tensor(b"direction.1", 2**40)]), "one row of 1 to"),
        (_file([], [_tensor(b"direction.1", 0)]), "one row of 1 to"),
        (_file([], [_tensor(b"direction.1", 4, offset=2**63)]), "ends before tensor"),
        (_file([], [_tensor(b"direction.1", 4, kind=2)]), "GGUF type 2"),
        (_file([], [_tensor(b"direction.1", *[1] * 9)]), "9 dimensions"),
        (_file([], [_tensor(b"direction.01", 4)]), "tensor 'direction.01'"),
        (_file([], [_tensor(b"direction.-1", 4)]), "tensor 'direction.-1'"),
        (_file([], [_tensor(b"output.weight", 4)]), "tensor 'output.weight'"),
        (_file([], []), "holds no direction"),
    ],
)
def test_a_file_that_means_harm_is_refused_and_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as refused:
        import_gguf(path)
    assert "bad.gguf" in str(refused.value)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"traitline.layers": 5}, "traitline.provenance missing"),
        ({"traitline.layers": 5, "traitline.provenance": "[1]"}, "a list, not an object"),
        ({"traitline.layers": 5, "traitline.provenance": '{"trait": 3}'}, "trait cannot be '3'"),
        ({"traitline.layers": 5, "traitline.provenance": '{"colour": "red"}'}, "field 'colour'"),
        ({"traitline.layers": 5, "traitline.provenance": '{"activation_norms": [1, NaN]}'}, "activation_norms cannot be"),
        ({"traitline.layers": 5, "traitline.provenance": '{"activation_norms": [1, 2]}'}, "norms of 1 layers, not 5"),
        ({"traitline.layers": 5, "traitline.provenance": "[" * 100_000}, "cannot be read"),
        ({"traitline.layers": 4_000_000_000, "traitline.provenance": "{}"}, "4000000000 blocks"),
    ],
)
def test_a_forged_provenance_is_refused(tmp_path: Path, extra: dict[str, str | int], message: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(gguf_bytes({**CONTROL, **extra}, {"direction.1": ARRAY[1]}))
    with pytest.raises(InputError, match=message):
        import_gguf(path)


def test_bytes_changed_at_random_are_refused_or_read_never_worse(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "v.gguf"
    whole = export_gguf(VECTOR, path).read_bytes()
    refused = 0
    for _ in range(400):
        changed = bytearray(whole)
        for place in rng.integers(len(whole), size=3):
            changed[place] = rng.integers(256)
        path.write_bytes(changed)
        try:
            assert np.isfinite(import_gguf(path).at(2)).all()
        except InputError:
            refused += 1
    assert 100 < refused < 400


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.gguf' does not exist"):
        import_gguf(tmp_path / "none.gguf")
