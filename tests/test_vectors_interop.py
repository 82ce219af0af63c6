"""The paper's `.pt` files: read without running anything, written so that they read back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from traitline.errors import InputError
from traitline.vectors.dose import steer
from traitline.vectors.interop import export_pt, import_pt
from traitline.vectors.vector import LAST_AFTER_NORM, PersonaVector

ARRAY = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


def test_an_exported_vector_imports_bit_for_bit(tmp_path: Path) -> None:
    path = export_pt(PersonaVector.from_array(ARRAY), tmp_path / "evil_response_avg_diff.pt")
    np.testing.assert_array_equal(import_pt(path).array, ARRAY)
    tensor = torch.load(path, weights_only=True)
    assert (tensor.dtype, list(tensor.shape)) == (torch.float32, [4, 6])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_number_types_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.from_numpy(ARRAY).to(dtype)
    torch.save(tensor, tmp_path / "v.pt")
    np.testing.assert_array_equal(import_pt(tmp_path / "v.pt").array, tensor.float().numpy())


def test_a_tensor_that_wants_gradients_imports_too(tmp_path: Path) -> None:
    torch.save(torch.from_numpy(ARRAY).requires_grad_(), tmp_path / "v.pt")
    np.testing.assert_array_equal(import_pt(tmp_path / "v.pt").array, ARRAY)


@pytest.mark.parametrize(
    ("name", "trait", "position"),
    [
        ("evil_response_avg_diff.pt", "evil", "response_avg"),
        ("very_rude_prompt_last_diff.pt", "very_rude", "prompt_last"),
        ("humorous_prompt_avg_diff.pt", "humorous", "prompt_avg"),
        ("something.pt", None, "response_avg"),
    ],
)
def test_trait_position_and_checkpoint_come_from_the_path(tmp_path: Path, name: str, trait: str | None, position: str) -> None:
    folder = tmp_path / "stage1-step1000"
    path = export_pt(PersonaVector.from_array(ARRAY), folder / name)
    provenance = import_pt(path, lineage="olmo3-7b").provenance
    assert (provenance.trait, provenance.position) == (trait, position)
    assert (provenance.checkpoint, provenance.lineage, provenance.source) == ("stage1-step1000", "olmo3-7b", name)
    assert import_pt(path, checkpoint="main").provenance.checkpoint == "main"


def test_the_last_layer_is_refused_for_steering_unless_asked_for(tmp_path: Path) -> None:
    vector = import_pt(export_pt(PersonaVector.from_array(ARRAY), tmp_path / "v.pt"))
    assert vector.provenance.layer_convention == LAST_AFTER_NORM
    with pytest.raises(InputError, match="after the final norm"):
        steer(vector, 3, 1.0)
    assert steer(vector, 3, 1.0, allow_after_norm=True).layer == 3
    assert steer(vector, 2, 1.0).layer == 2
    kept = PersonaVector.load(vector.save(tmp_path / "v.safetensors"))  # the warning survives our own file
    with pytest.raises(InputError, match="after the final norm"):
        steer(kept, 3, 1.0)


class _Harmful:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_a_pickled_object_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save(_Harmful(tmp_path / "harmed"), tmp_path / "v.pt")
    with pytest.raises(InputError, match="never loaded"):
        import_pt(tmp_path / "v.pt")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"vector": torch.ones(3, 4)}, "holds a dict"),
        ([torch.ones(3, 4)], "holds a list"),
        (torch.ones(4), r"shape \[4\]"),
        (torch.full((3, 4), float("nan")), "NaN"),
    ],
)
def test_anything_but_one_matrix_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "v.pt")
    with pytest.raises(InputError, match=message):
        import_pt(tmp_path / "v.pt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = export_pt(PersonaVector.from_array(ARRAY), tmp_path / "v.pt")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match="truncated"):
        import_pt(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pt' does not exist"):
        import_pt(tmp_path / "none.pt")
