"""Finding the blocks, reading and editing what leaves them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plain import block_list
from torch import nn

from conftest import tiny_tokenizer
from traitline.errors import ModelError
from traitline.models.blocks import editing, find_blocks, reading
from traitline.models.capture import calibrate, capture_rows
from traitline.models.generate import Row, generate_rows
from traitline.models.loading import Model, wrap

IDS = torch.tensor([[1, 5, 9, 33]])


def test_the_blocks_are_those_of_the_architecture(model: Model) -> None:
    assert [id(block) for block in find_blocks(model.network)] == [id(block) for block in block_list(model.network)]


def test_blocks_at_an_unknown_place_are_found_by_their_number() -> None:
    network = nn.Module()
    network.tower = nn.Module()
    network.tower.steps = nn.ModuleList(nn.Linear(2, 2) for _ in range(4))
    network.others = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    network.config = type("Config", (), {"num_hidden_layers": 4})()  # type: ignore[assignment]
    assert find_blocks(network) == list(network.tower.steps)
    network.others.append(nn.Linear(2, 2))  # now two lists could be the blocks
    with pytest.raises(ModelError, match="cannot find the decoder blocks of Module"):
        find_blocks(network)


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(ModelError, match="Linear"):
        find_blocks(nn.Linear(2, 2))


@torch.no_grad()
def test_every_layer_is_read_once_and_in_order(model: Model) -> None:
    seen: list[tuple[int, tuple[int, ...]]] = []
    with reading(model.blocks, lambda layer, hidden: seen.append((layer, tuple(hidden.shape)))):
        model.network(input_ids=IDS)
    model.network(input_ids=IDS)  # no longer read
    assert seen == [(layer, (1, 4, model.hidden)) for layer in range(model.layers + 1)]


@torch.no_grad()
def test_an_edit_reaches_the_next_block_and_goes_with_its_context(model: Model) -> None:
    plain = model.network(input_ids=IDS).logits
    entering: list[torch.Tensor] = []
    handle = model.blocks[2].register_forward_pre_hook(
        lambda _module, args, kwargs: entering.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    with editing(model.blocks, {2: lambda hidden: torch.full_like(hidden, 0.25)}):
        edited = model.network(input_ids=IDS).logits
    handle.remove()
    assert torch.equal(entering[0], torch.full_like(entering[0], 0.25))
    assert not torch.equal(edited, plain)
    assert torch.equal(model.network(input_ids=IDS).logits, plain)


@torch.no_grad()
def test_a_block_that_returns_a_tuple_keeps_the_rest_of_it() -> None:
    class Block(nn.Module):
        def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, str]:
            return hidden_states + 1, "cache"

    blocks: list[nn.Module] = [Block()]
    read: dict[int, float] = {}
    with (
        editing(blocks, {1: lambda hidden: hidden * 10}),
        reading(blocks, lambda layer, hidden: read.update({layer: float(hidden.sum())})),
    ):
        out: Any = blocks[0](torch.zeros(1, 1, 1))
    assert (float(out[0]), out[1]) == (10.0, "cache")
    assert read == {0: 0.0, 1: 10.0}


def _multimodal() -> Any:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 6, "pad_token_id": 0, "eos_token_id": 2}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Gemma3Config(text_config=text, vision_config=vision | {"image_size": 28, "patch_size": 14}, image_token_index=60)
    return Gemma3ForConditionalGeneration(config)


def _opt() -> Any:
    from transformers import OPTConfig, OPTForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    return OPTForCausalLM(
        OPTConfig(**sizes, word_embed_proj_dim=32, max_position_embeddings=64, pad_token_id=0, eos_token_id=2)
    )


@pytest.mark.parametrize("make", [_multimodal, _opt])
def test_other_places_of_the_blocks_work_too(make: Any) -> None:
    torch.manual_seed(0)
    model = wrap(make(), tiny_tokenizer())
    rows = [Row([1, 5, 6, 7, 8]), Row([1, 9])]
    together = generate_rows(model, rows, max_new_tokens=4, temperature=0)
    assert together == [generate_rows(model, [row], max_new_tokens=4, temperature=0)[0] for row in rows]
    assert capture_rows(model, [([1, 5], [6])]).shape == (1, 3, 4, 32)


@torch.no_grad()
def test_activations_that_are_not_finite_are_an_error_of_the_model(llama: Model) -> None:
    weight = llama.blocks[1].mlp.down_proj.weight  # type: ignore[union-attr]
    kept = weight.clone()  # type: ignore[operator]
    try:
        weight.fill_(float("nan"))  # type: ignore[operator]
        with pytest.raises(ModelError, match="NaN"):
            capture_rows(llama, [([1, 5], [6])])
        with pytest.raises(ModelError, match="NaN"):
            calibrate(llama, [[1, 5, 6]])
    finally:
        weight.copy_(kept)  # type: ignore[operator]
