"""Where a generated row ends, what is refused, and that rows do not disturb each other."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from plain import greedy, logits_at_end

from conftest import tiny_network, tiny_tokenizer
from traitline.errors import InputError, ModelError
from traitline.models.generate import Intervention, Row, generate_rows
from traitline.models.loading import Model, wrap

STEPS = 12
PROMPTS = [[1, *np.random.default_rng(i).integers(3, 64, size=1 + i).tolist()] for i in range(8)]


def _delta(model: Model, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=model.hidden) * scale).astype(np.float32)


def _endings(model: Model) -> Model:
    """The model, told to end on tokens that its greedy rows reach at different steps."""
    endless = replace(model, eos_ids=frozenset())
    rows = generate_rows(endless, [Row(p) for p in PROMPTS], max_new_tokens=STEPS, temperature=0)
    return replace(model, eos_ids=frozenset(row.token_ids[2 * i] for i, row in enumerate(rows[:5])))


def test_a_row_ends_at_its_eos_which_it_keeps_and_does_not_print(llama: Model) -> None:
    free = generate_rows(llama, [Row(PROMPTS[3])], max_new_tokens=STEPS, temperature=0)[0]
    end = free.token_ids[4]
    cut = free.token_ids.index(end)
    out = generate_rows(replace(llama, eos_ids=frozenset({end})), [Row(PROMPTS[3])], max_new_tokens=STEPS, temperature=0)[0]
    assert out.token_ids == free.token_ids[: cut + 1]
    assert out.finish == "eos"
    assert out.text.split() == [f"w{token}" for token in free.token_ids[:cut]]


def test_a_row_without_eos_is_cut_at_the_limit(llama: Model) -> None:
    out = generate_rows(replace(llama, eos_ids=frozenset()), [Row(PROMPTS[0])], max_new_tokens=5, temperature=0)[0]
    assert len(out.token_ids) == 5
    assert out.finish == "length"


def test_an_eos_at_the_very_limit_is_an_eos(llama: Model) -> None:
    free = generate_rows(llama, [Row(PROMPTS[0])], max_new_tokens=1, temperature=0)[0]
    ends = replace(llama, eos_ids=frozenset(free.token_ids))
    out = generate_rows(ends, [Row(PROMPTS[0])], max_new_tokens=1, temperature=0)[0]
    assert (out.finish, out.text) == ("eos", "")


def test_a_generated_pad_id_is_an_ordinary_token(llama: Model) -> None:
    endless = replace(llama, eos_ids=frozenset())
    rows = [Row(p, noise_key=i) for i, p in enumerate(PROMPTS)]
    out = generate_rows(endless, rows, max_new_tokens=STEPS, temperature=8.0)
    padded = [i for i, g in enumerate(out) if llama.tokenizer.pad_token_id in g.token_ids[:-1]]
    assert padded
    for i in padded:
        assert len(out[i].token_ids) == STEPS
        alone = generate_rows(endless, [rows[i]], max_new_tokens=STEPS, temperature=8.0)[0]
        assert alone.token_ids == out[i].token_ids


def test_the_repetition_penalty_agrees_with_transformers(model: Model) -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    processor = RepetitionPenaltyLogitsProcessor(30.0)
    endless = replace(model, eos_ids=frozenset())
    prompts = PROMPTS[:3]
    got = generate_rows(endless, [Row(p) for p in prompts], max_new_tokens=8, temperature=0, repetition_penalty=30.0)
    bare = generate_rows(endless, [Row(p) for p in prompts], max_new_tokens=8, temperature=0)
    for prompt, generation in zip(prompts, got, strict=True):
        ids = list(prompt)
        for _ in range(8):
            logits = processor(torch.tensor([ids]), logits_at_end(endless, ids, len(prompt))[None])
            ids.append(int(logits.argmax()))
        assert generation.token_ids == ids[len(prompt) :]
    assert [g.token_ids for g in got] != [g.token_ids for g in bare]


def test_the_repetition_penalty_covers_the_prompt(llama: Model) -> None:
    prompt = [1, *range(3, 30)]
    logits = logits_at_end(llama, prompt, len(prompt))
    assert int(logits.argmax()) in prompt
    logits[torch.tensor(prompt)] = -torch.inf  # the favourite among the others is what a boundless penalty leaves
    out = generate_rows(llama, [Row(prompt)], max_new_tokens=1, temperature=0, repetition_penalty=1e9)[0]
    assert out.token_ids == [int(logits.argmax())]


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_rows_that_finish_early_leave_the_others_as_they_were(llama: Model, penalty: float) -> None:
    ends = _endings(llama)
    kinds = ("response", "prompt", "all")
    rows = [
        Row(p, 50 + i, Intervention(1 + i % 3, _delta(llama, i), kinds[i % 3]) if i % 2 else None)  # type: ignore[arg-type]
        for i, p in enumerate(PROMPTS)
    ]
    for temperature in (0.0, 0.9):
        options: dict[str, Any] = {"max_new_tokens": 24, "temperature": temperature, "repetition_penalty": penalty}
        together = generate_rows(ends, rows, **options)
        alone = [generate_rows(ends, [row], **options)[0] for row in rows]
        assert together == alone
        assert len({len(g.token_ids) for g in together}) > 2  # they did end at different steps


def test_compacted_rows_equal_the_plain_loop(model: Model) -> None:
    ends = _endings(model)
    out = generate_rows(ends, [Row(p) for p in PROMPTS], max_new_tokens=STEPS, temperature=0)
    assert sorted(len(g.token_ids) for g in out)[len(out) // 2 - 1] < STEPS  # half had ended, so the batch was compacted
    for prompt, generation in zip(PROMPTS, out, strict=True):
        assert generation.token_ids == greedy(ends, prompt, STEPS)


def test_the_noise_key_alone_decides_a_sample(llama: Model) -> None:
    def sample(*keys: int) -> list[list[int]]:
        return [g.token_ids for g in generate_rows(llama, [Row(PROMPTS[2], k) for k in keys], max_new_tokens=STEPS)]

    first, second, third = sample(7, 8, 7)
    assert first == third != second
    assert sample(8) == [second]


def test_no_rows_give_no_generations(llama: Model) -> None:
    assert generate_rows(llama, [], max_new_tokens=3) == []


@pytest.mark.parametrize("layer", [0, 4, -1])
def test_a_layer_out_of_range_is_refused(llama: Model, layer: int) -> None:
    with pytest.raises(InputError, match="layers 1 to 3"):
        generate_rows(llama, [Row([1], steer=Intervention(layer, _delta(llama)))], max_new_tokens=1)


@pytest.mark.parametrize("shape", [(31,), (33,), (1, 32)])
def test_a_delta_of_another_width_is_refused(llama: Model, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="32 wide"):
        generate_rows(llama, [Row([1], steer=Intervention(1, np.ones(shape, dtype=np.float32)))], max_new_tokens=1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_delta_that_is_not_finite_is_refused(llama: Model, value: float) -> None:
    delta = _delta(llama)
    delta[3] = value
    with pytest.raises(InputError, match="NaN or infinity"):
        generate_rows(llama, [Row([1], steer=Intervention(1, delta))], max_new_tokens=1)


def test_misspelt_positions_are_refused(llama: Model) -> None:
    wrong: Any = "responses"
    with pytest.raises(InputError, match="'responses'"):
        generate_rows(llama, [Row([1], steer=Intervention(1, _delta(llama), wrong))], max_new_tokens=1)


@pytest.mark.parametrize("ids", [[1, 64], [-1, 3]])
def test_token_ids_outside_the_vocabulary_are_refused(llama: Model, ids: list[int]) -> None:
    with pytest.raises(InputError, match="outside 0 to 63"):
        generate_rows(llama, [Row([1]), Row(ids)], max_new_tokens=1)


def test_an_empty_prompt_is_refused(llama: Model) -> None:
    with pytest.raises(InputError, match="empty prompt"):
        generate_rows(llama, [Row([1]), Row([])], max_new_tokens=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", float("nan")),
    ],
)
def test_sampling_settings_out_of_range_are_refused(llama: Model, name: str, value: float) -> None:
    options: dict[str, Any] = {"max_new_tokens": 2, name: value}
    with pytest.raises(InputError, match=str(value)):
        generate_rows(llama, [Row([1])], **options)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_weights_that_are_not_finite_are_an_error_of_the_model(temperature: float) -> None:
    for value in (float("nan"), float("inf")):
        network = tiny_network("llama")
        with torch.no_grad():
            network.lm_head.weight[5] = value
        broken = wrap(network, tiny_tokenizer())
        with pytest.raises(ModelError, match="NaN"):
            generate_rows(broken, [Row([1, 5])], max_new_tokens=2, temperature=temperature)


def test_generating_leaves_the_network_unchanged(llama: Model) -> None:
    before = copy.deepcopy(llama.network.state_dict())
    generate_rows(llama, [Row(PROMPTS[1], steer=Intervention(2, _delta(llama, scale=9.0)))], max_new_tokens=3)
    assert all(torch.equal(before[name], value) for name, value in llama.network.state_dict().items())
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in llama.blocks)


def test_hooks_are_gone_after_an_error(llama: Model) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = llama.blocks[-1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate_rows(llama, [Row([1, 5], steer=Intervention(1, _delta(llama)))], max_new_tokens=2)
    handle.remove()
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in llama.blocks)
