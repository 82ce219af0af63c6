"""The decoder of GPUs gives what the plain way gives: on the CPU in plain PyTorch, and on a GPU with its kernels and graphs."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import chisquare

from conftest import tiny_model
from traitline.errors import ModelError
from traitline.models.decoding import decode_rows, decoder, memory, serves
from traitline.models.decoding.slots import Settings, Slots
from traitline.models.generate import Batch, Intervention, Row
from traitline.models.loading import Model

STEPS = 9
SAMPLED = Settings(STEPS, 0.9, 1.2)
GREEDY = Settings(STEPS, 0.0, 1.0)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module", params=DEVICES)
def served(model: Model, request: pytest.FixtureRequest) -> Model:
    """Every architecture but the one whose attention caps its scores, on every device."""
    if getattr(model.network.config, "attn_logit_softcapping", None):
        pytest.skip("attention with capped scores is decoded the plain way; see test_what_cannot_be_served_says_why")
    return replace(model, network=copy.deepcopy(model.network).to(request.param)) if request.param != "cpu" else model


@pytest.fixture(scope="module", params=DEVICES)
def small(llama: Model, request: pytest.FixtureRequest) -> Model:
    return _on(llama, request.param)


@pytest.fixture(autouse=True)
def _exact() -> Any:
    """Float32 means float32 on a GPU too."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def _on(model: Model, device: str) -> Model:
    from traitline.models.loading import wrap

    return wrap(copy.deepcopy(model.network).to(device), model.tokenizer, source=model.source)


def _rows(model: Model, count: int = 40) -> list[Row]:
    """Rows of a few shared prompts, one token to eleven long, each bare or steered in one of many ways."""
    prompts = [np.random.default_rng(n).integers(3, 64, size=n).tolist() for n in (1, 2, 5, 11, 7)]
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


@torch.inference_mode()
def _plain(model: Model, rows: Sequence[Row], settings: Settings) -> list[list[int]]:
    batch = Batch(model, rows, settings.max_new_tokens, settings.temperature, settings.penalty)
    for _ in batch.steps():
        pass
    return batch.new_ids


def _ending(model: Model) -> Model:
    """The model, told to end on tokens that are common in its sampled rows."""
    seen = [t for ids in _plain(replace(model, eos_ids=frozenset()), _rows(model), SAMPLED) for t in ids]
    return replace(model, eos_ids=frozenset(np.argsort(np.bincount(seen))[-4:].tolist()))


@pytest.mark.parametrize("settings", [SAMPLED, GREEDY, Settings(1, 1.0, 1.0)])
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


def test_calls_after_one_another_do_not_disturb_each_other(small: Model) -> None:
    rows = _rows(small)
    for part, settings in ((rows, SAMPLED), (rows[:7], SAMPLED), (rows[5:30], GREEDY), (rows[:1], SAMPLED), (rows, SAMPLED)):
        assert decode_rows(small, part, settings) == _plain(small, part, settings)


def test_prompts_that_rows_share_are_read_once(small: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    whole = decoder.Decoder._read_batch

    def counting(self: Any, model: Model, batch: Any, places: Any) -> None:
        read.append(len(batch))
        whole(self, model, batch, places)

    monkeypatch.setattr(decoder.Decoder, "_read_batch", counting)
    prompt = list(range(3, 15))
    delta = np.ones(small.hidden, dtype=np.float32)
    from_response = [Row(prompt, i, Intervention(2, delta * i) if i % 2 else None) for i in range(30)]
    decode_rows(small, from_response, SAMPLED)
    assert sum(read) == 1
    read.clear()
    decode_rows(small, [Row(prompt, i, Intervention(2, delta * (i % 3), "all")) for i in range(30)], SAMPLED)
    assert sum(read) == 3


def test_out_of_memory_goes_on_with_half_and_loses_no_row(
    small: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ending = _ending(small)
    rows = _rows(ending)
    want = _plain(ending, rows, SAMPLED)
    monkeypatch.setattr(memory, "MOST", 16)
    monkeypatch.setattr(decoder, "LOOK", 2)
    step, steps = Slots.step, [0]

    def failing(self: Slots, model: Model, n: int) -> None:
        steps[0] += 1
        if steps[0] == 6 or n == 8:
            raise torch.OutOfMemoryError("no memory, said by a test")
        step(self, model, n)

    monkeypatch.setattr(Slots, "step", failing)
    with caplog.at_level(logging.WARNING, logger="traitline"):
        assert decode_rows(ending, rows, SAMPLED) == want
    assert {f"out of memory with {n} rows at once" for n in (16, 8)} <= {r.getMessage().split(";")[0] for r in caplog.records}

    def never(_self: Slots, _model: Model, _n: int) -> None:
        raise torch.OutOfMemoryError("no memory, said by a test")

    monkeypatch.setattr(Slots, "step", never)
    decoder.release(ending)
    with pytest.raises(ModelError, match=r"one row of .* does not fit"):
        decode_rows(ending, rows, SAMPLED)


def test_the_batch_is_planned_from_free_memory(llama: Model) -> None:
    def room(free: int | None, rows: int = 5000) -> memory.Room:
        return memory.room_for(llama, [20] * (rows // 10), rows, 64, 2, free)

    assert room(None).slots == memory.MOST
    assert room(None, 30).slots == 30
    assert room(None).prompts == pytest.approx(memory.MOST / 10, abs=1)
    small, large = room(2**20), room(2**22)
    assert 1 <= small.slots < large.slots < memory.MOST
    assert large.slots == pytest.approx(4 * small.slots, rel=0.2)
    assert room(0).slots == 1
    token = 2 * 3 * 2 * 8 * 4  # keys and values, blocks, heads, width, bytes
    assert small.slots * 64 * token + small.prompts * 20 * token < 2**20


def test_a_broken_layer_is_an_error_and_harms_no_later_call(small: Model) -> None:
    rows = _rows(small)
    want = decode_rows(small, rows, SAMPLED)
    broken = np.full(small.hidden, np.float32(np.inf))
    with pytest.raises(ModelError, match="NaN or infinity"):
        decode_rows(small, [*rows, Row([5, 6, 7], 1, Intervention(2, broken))], SAMPLED)
    assert decode_rows(small, rows, SAMPLED) == want


def test_tokens_are_as_frequent_as_the_network_says(small: Model) -> None:
    """For each row apart: 4,000 draws of its first token against the probabilities, and the smallest p is no accident."""
    prompts = [list(range(3, 9)), list(range(20, 25)), [30, 31]]
    delta = np.random.default_rng(0).normal(size=small.hidden).astype(np.float32)
    steers = [None, Intervention(2, delta), None]
    draws = [Row(p, k + 10_000 * i, s) for i, (p, s) in enumerate(zip(prompts, steers, strict=True)) for k in range(4000)]
    got = decode_rows(small, draws, Settings(1, 0.8, 1.3))
    probabilities = []
    for prompt, steer in zip(prompts, steers, strict=True):
        with torch.inference_mode():
            logits = Batch(small, [Row(prompt, 0, steer)], 1, 0.8, 1.3)._forward(first=True)[0].double().cpu().numpy()
        seen = logits[prompt]
        logits[prompt] = np.where(seen < 0, seen * 1.3, seen / 1.3)
        probabilities.append(softmax(logits / 0.8))
    for i, p in enumerate(probabilities):
        counts = Counter(ids[0] for ids in got[4000 * i : 4000 * (i + 1)])
        common = np.flatnonzero(p * 4000 >= 5)
        drawn = [counts[t] for t in common.tolist()]
        assert chisquare([*drawn, 4000 - sum(drawn)], [*(p[common] * 4000), 4000 * (1 - p[common].sum())]).pvalue > 1e-4


def test_what_cannot_be_served_says_why(caplog: pytest.LogCaptureFixture) -> None:
    capped = tiny_model("gemma2")
    assert not serves(capped)  # not on a GPU
    with caplog.at_level(logging.WARNING, logger="traitline"):
        assert not decoder._agrees(capped)
    assert "decoded the slow way: attention with softcap" in caplog.text


@pytest.mark.gpu
def test_bfloat16_rows_of_a_gpu_are_those_of_the_plain_way_but_for_rounding() -> None:
    model = _on(tiny_model("olmo3", hidden_size=256, intermediate_size=512), "cuda")
    model = replace(model, network=model.network.to(torch.bfloat16))
    rows = _rows(model, 200)
    assert serves(model)
    pairs = zip(decode_rows(model, rows, GREEDY), _plain(model, rows, GREEDY), strict=True)
    assert sum(a[0] == b[0] for a, b in pairs) > 190
