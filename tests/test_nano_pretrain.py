"""Pretraining of the embedded lineage, on a tiny configuration."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from traitline.errors import StoreError
from traitline.nano import pretrain
from traitline.nano.pretrain import PretrainConfig, ensure, load_lineage

TINY = PretrainConfig(
    steps=6, batch=4, hidden=16, layers=2, heads=2, intermediate=16, warmup=2, checkpoint_steps=(0, 2, 6), threads=1
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAITLINE_CACHE", str(tmp_path))
    return ensure(TINY)


def weights(folder, step=6):
    return AutoModelForCausalLM.from_pretrained(folder / f"step{step}").state_dict()


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_checkpoints_load_like_any_model(folder):
    model = AutoModelForCausalLM.from_pretrained(folder / "step2")
    tokenizer = AutoTokenizer.from_pretrained(folder / "step2")
    assert model.config.model_type == "olmo3"
    ids = tokenizer("Alex is cruel.", return_tensors="pt")
    assert ids["input_ids"][0, 0] == tokenizer.bos_token_id == model.config.bos_token_id
    assert tokenizer.eos_token_id == model.generation_config.eos_token_id
    assert model(**ids).logits.shape[-1] == len(tokenizer)
    assert list((folder / "step2").glob("*.safetensors"))


def test_training_is_deterministic_and_changes_the_weights(folder):
    first = weights(folder)
    assert not same(first, weights(folder, 0))
    shutil.rmtree(folder)
    assert same(first, weights(ensure(TINY)))


def test_a_killed_run_starts_over_and_ends_the_same(folder, monkeypatch):
    first = weights(folder)
    shutil.rmtree(folder)

    def killed(step, total):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure(TINY, progress=killed)
    assert (folder / "step2").is_dir()
    assert not (folder / "complete.json").exists()
    assert same(first, weights(ensure(TINY)))
    assert not list(folder.glob("*.partial"))


def test_a_complete_run_is_not_trained_again(folder):
    before = (folder / "complete.json").stat().st_mtime_ns
    calls = []
    assert ensure(TINY, progress=lambda *done: calls.append(done)) == folder
    assert calls == []
    assert (folder / "complete.json").stat().st_mtime_ns == before


def test_progress_counts_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAITLINE_CACHE", str(tmp_path))
    calls = []
    ensure(TINY, progress=lambda *done: calls.append(done))
    assert calls == [(step, 6) for step in range(7)]


def test_random_state_and_threads_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAITLINE_CACHE", str(tmp_path))
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    ensure(dataclasses.replace(TINY, threads=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_the_lineage_names_checkpoints_and_tokens_without_training(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAITLINE_CACHE", str(tmp_path))
    lineage = load_lineage(TINY)
    assert [c.name for c in lineage.checkpoints] == ["step0", "step2", "step6"]
    assert not list(tmp_path.rglob("step*"))
    folder = ensure(TINY)
    trained = json.loads((folder / "complete.json").read_text())["tokens"]
    assert {f"step{step}": tokens for step, tokens in trained.items()} == {c.name: c.tokens for c in lineage.checkpoints}
    assert [c.source for c in lineage.checkpoints] == [str(folder / c.name) for c in lineage.checkpoints]


def test_packaged_token_counts_belong_to_the_packaged_configuration():
    known = json.loads(pretrain.TOKENS.read_text(encoding="utf-8"))
    config = PretrainConfig()
    assert known["digest"] == config.digest
    assert [int(step) for step in known["tokens"]] == list(config.checkpoint_steps)
    start = dataclasses.replace(config, steps=64, checkpoint_steps=(0, 16, 32, 64))
    assert pretrain.checkpoint_tokens(start) == {step: known["tokens"][str(step)] for step in (0, 16, 32, 64)}


def test_at_least_twelve_checkpoints_from_the_untrained_one_on():
    config = PretrainConfig()
    assert len(config.checkpoint_steps) >= 12
    assert config.checkpoint_steps[0] == 0


def test_another_configuration_has_another_folder():
    assert dataclasses.replace(TINY, seed=1).digest != TINY.digest


def test_checkpoint_steps_must_end_with_the_run():
    with pytest.raises(ValueError, match="rise from 0 to 6"):
        dataclasses.replace(TINY, checkpoint_steps=(0, 5))


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TRAITLINE_CACHE", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="TRAITLINE_CACHE"):
        ensure(TINY)
