"""Loading a network from a directory, and what is said where it cannot be loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import ARCHITECTURES, tiny_network, tiny_tokenizer
from traitline.errors import ModelError
from traitline.models import Intervention, Row, capture_rows, generate_rows
from traitline.models.loading import load_model, wrap


def _saved(folder: Path, architecture: str = "llama", **changes: object) -> Path:
    tiny_network(architecture, **changes).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return _saved(tmp_path / "checkpoint")


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_saved_network_loads_as_it_was(architecture: str, tmp_path: Path) -> None:
    original = wrap(tiny_network(architecture), tiny_tokenizer())
    loaded = load_model(_saved(tmp_path, architecture), device="cpu")
    assert (loaded.layers, loaded.hidden, loaded.eos_ids) == (3, 32, frozenset({2}))
    rows = [Row([1, 5, 9]), Row([1, 33])]
    got, wanted = (generate_rows(model, rows, max_new_tokens=5, temperature=0) for model in (loaded, original))
    assert [g.token_ids for g in got] == [g.token_ids for g in wanted]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_tied_embeddings_are_not_missing_weights(architecture: str, tmp_path: Path) -> None:
    loaded = load_model(_saved(tmp_path, architecture, tie_word_embeddings=True), device="cpu")
    assert loaded.network.get_output_embeddings().weight is loaded.network.get_input_embeddings().weight


def test_a_loaded_network_is_ready_to_use(folder: Path) -> None:
    loaded = load_model(folder, device="cpu")
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())
    assert loaded.network.dtype == torch.float32  # the default on a CPU
    assert (loaded.source, loaded.revision, loaded.commit) == (str(folder), None, None)
    assert "3 blocks x 32" in repr(loaded)


def test_the_dtype_can_be_chosen(folder: Path) -> None:
    assert load_model(folder, device="cpu", dtype=torch.bfloat16).network.dtype == torch.bfloat16


def test_every_declared_eos_ends_a_response(folder: Path) -> None:
    network = tiny_network("llama")
    network.generation_config.eos_token_id = [2, 7]
    network.save_pretrained(folder)
    assert load_model(folder, device="cpu").eos_ids == {2, 7}


def test_missing_weights_are_not_filled_with_random_numbers(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file({k: v for k, v in weights.items() if "layers.1.mlp" not in k}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"incomplete: 3 are missing, 'model.layers.1.mlp"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("share", [0.0001, 0.5, 0.99])
def test_truncated_weights_are_called_broken(folder: Path, share: float) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelError, match="broken"):
        load_model(folder, device="cpu")


def test_absent_weights_are_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no file named"):
        load_model(folder, device="cpu")


def test_a_directory_without_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(tmp_path)


def test_a_directory_has_no_revision(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"'step1'.*leave the revision out"):
        load_model(folder, revision="step1")


def test_a_name_that_is_neither_here_nor_on_the_hub_says_both() -> None:
    with pytest.raises(ModelError, match="no such directory here, and the hub did not give it") as caught:
        load_model("nobody/nothing", revision="step5", device="cpu")
    assert "'nobody/nothing' at revision 'step5'" in str(caught.value)


@pytest.mark.parametrize("device", ["graphics", "cuda:99"])
def test_a_device_this_machine_lacks_is_named(folder: Path, device: str) -> None:
    with pytest.raises(ModelError, match=f"cannot use the device '{device}'"):
        load_model(folder, device=device)


def test_a_network_spread_over_devices_is_read_and_steered_alike(folder: Path, tmp_path: Path) -> None:
    """With parts of it on a disk, which needs hooks of accelerate's own, as do parts on several GPUs."""
    from transformers import AutoModelForCausalLM

    whole = load_model(folder, device="cpu")
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{i}": "disk" if i else "cpu" for i in range(whole.layers)}
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map=places, offload_folder=tmp_path)
    assert network.hf_device_map["model.layers.1"] == "disk"
    spread = wrap(network, whole.tokenizer)
    delta = np.random.default_rng(0).normal(size=whole.hidden).astype(np.float32)
    rows = [Row([5, 6, 7], 1), Row([8, 9], 2, Intervention(2, delta)), Row([4], 3, Intervention(3, delta, "all"))]
    settings = {"max_new_tokens": 6, "temperature": 0.7, "repetition_penalty": 1.2}
    alike = zip(generate_rows(whole, rows, **settings), generate_rows(spread, rows, **settings), strict=True)
    assert all(a.token_ids == b.token_ids for a, b in alike)
    texts = [([5, 6, 7], [8, 9, 10]), ([4], [11])]
    np.testing.assert_allclose(capture_rows(spread, texts), capture_rows(whole, texts), rtol=1e-6, atol=1e-6)
