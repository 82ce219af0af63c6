"""The decoder of GPUs gives what the plain way gives: here in plain PyTorch on the CPU, with its kernels in `test_models_kernels.py`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from traitline.errors import ModelError
from traitline.models.decoding import decode_rows, decoder, memory
from traitline.models.decoding.slots import Settings
from traitline.models.generate import Intervention, Row, generate_rows
from traitline.models.loading import Model

STEPS = 9
SAMPLED = Settings(STEPS, 0.9, 1.2)


@pytest.fixture
def served(model: Model) -> Model:
    """Every architecture but the one whose attention caps its scores."""
    if getattr(model.network.config, "attn_logit_softcapping", None):
        pytest.skip("attention with capped scores is decoded the plain way; see test_what_cannot_be_served_says_so")
    return model


def _prompt(seed: int, length: int) -> list[int]:
    return np.random.default_rng(seed).integers(3, 64, size=length).tolist()


def _rows(model: Model, count: int = 40) -> list[Row]:
    """Rows of a few shared prompts, one token to eleven long, each bare or steered in one of many ways."""
    prompts = [_prompt(seed, length) for seed, length in enumerate((1, 2, 5, 11, 7))]
    rng = np.random.default_rng(1)
    rows = []
    for i in range(count):
        steer = None
        if i % 3:
            positions = ("response", "prompt", "all")[i % 7 % 3]
            delta = (rng.normal(size=model.hidden) * (1 + i % 4)).astype(np.float32)
            steer = Intervention(1 + i % model.layers, delta, positions)  # type: ignore[arg-type]
        rows.append(Row(prompts[i % len(prompts)], noise_key=i, steer=steer))
    return rows


def _plain(model: Model, rows: list[Row], settings: Settings) -> list[list[int]]:
    got = generate_rows(
        model,
        rows,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        repetition_penalty=settings.penalty,
    )
    return [one.token_ids for one in got]


def _ending(model: Model) -> Model:
    """The model, told to end on tokens that are common in its sampled rows."""
    seen = [t for ids in _plain(replace(model, eos_ids=frozenset()), _rows(model), SAMPLED) for t in ids]
    common = np.argsort(np.bincount(seen))[-4:]
    return replace(model, eos_ids=frozenset(common.tolist()))


@pytest.mark.parametrize("settings", [SAMPLED, Settings(STEPS, 0.0, 1.0), Settings(1, 1.0, 1.0)])
def test_mixed_rows_get_the_tokens_of_the_plain_way(served: Model, settings: Settings) -> None:
    rows = _rows(served)
    assert decode_rows(served, rows, settings) == _plain(served, rows, settings)


def test_rows_that_end_give_their_slots_to_others(served: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST", 6)
    monkeypatch.setattr(decoder, "LOOK", 2)
    ending = _ending(served)
    rows = _rows(ending)
    got = decode_rows(ending, rows, SAMPLED)
    assert got == _plain(ending, rows, SAMPLED)
    assert len({len(ids) for ids in got}) > 3
