"""The logit lens against each network's own norm and unembedding, and which tokens it leaves out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken
from torch import nn

from conftest import tiny_model
from traitline.errors import InputError, ModelError
from traitline.models.lens import lens, word_tokens
from traitline.models.loading import Model

NORMS = {"gpt_neox": "gpt_neox.final_layer_norm", "gpt2": "transformer.ln_f"}


def changed(model: Model) -> Model:
    """Give the final norm weights that a fresh network does not have: gains apart from each other, and biases."""
    norm: Any = model.network.get_submodule(NORMS.get(model.source.split()[1], "model.norm"))
    with torch.no_grad():
        for i, weight in enumerate(norm.parameters()):
            weight.add_(torch.linspace(-0.5, 0.7, weight.numel()) * (i + 1))
    return model


@pytest.fixture
def own(model: Model) -> Model:
    """A network of each architecture, with a final norm that does something, which no other test sees."""
    return changed(tiny_model(model.source.split()[1]))


def test_logits_are_those_of_the_norm_and_unembedding_themselves(own: Model) -> None:
    seen = lens(own)
    directions = np.random.default_rng(0).normal(size=(5, own.hidden)).astype(np.float32)
    norm = own.network.get_submodule(NORMS.get(own.source.split()[1], "model.norm"))
    head = own.network.get_output_embeddings()
    with torch.inference_mode():
        # a large direction, so that the norm's epsilon is nothing; of opposite directions the norm's bias cancels
        sides = [head(norm(torch.from_numpy(sign * 100 * directions)[:, None]))[:, 0].numpy() for sign in (1, -1)]
    expected = (sides[0] - sides[1]) / 2
    expected -= expected[:, seen.kept].mean(axis=1, keepdims=True)
    np.testing.assert_allclose(seen.logits(directions), expected, atol=2e-3 * np.abs(expected).max())
    np.testing.assert_allclose(seen.logits(7 * directions), seen.logits(directions), rtol=1e-4, atol=1e-4)


def test_scores_are_standard_deviations_over_random_directions(llama: Model) -> None:
    seen = lens(llama)
    scores = seen.scores(seen.logits(np.random.default_rng(1).normal(size=(4000, llama.hidden))))
    np.testing.assert_allclose(scores[:, seen.kept].std(axis=0), 1.0, atol=0.06)


def test_special_blank_and_unnamed_tokens_are_left_out() -> None:
    model = tiny_model("llama", vocab_size=70)
    model.tokenizer.add_tokens(["...", "<unused7>", "\ufffdx"])  # ids 64, 65, 66; 67 to 69 have no token
    model.tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<call>")]})  # 67
    garbage = lens(model).garbage
    assert [garbage[i] for i in (0, 1, 2, 3, 64, 65, 66, 67, 68, 69)] == [
        *["special"] * 3,
        *["", "blank", "unused", "fragment", "special", "unused", "unused"],
    ]


def test_tokens_like_those_never_met_are_left_out() -> None:
    model = tiny_model("llama", vocab_size=76)
    rows = model.network.get_output_embeddings().weight
    with torch.no_grad():
        rows[64:] = rows[64]  # without a token, and all alike
        rows[10] = rows[64] * 1.1
        rows[11] = rows[3:64].mean(dim=0) + 1e-4
    garbage = lens(model).garbage
    assert [i for i, why in enumerate(garbage) if why == "undertrained"] == [10, 11]
    with torch.no_grad():
        rows[64:] = torch.randn(12, 32, generator=torch.Generator().manual_seed(0))  # left where they began, each elsewhere
    assert [i for i, why in enumerate(lens(model).garbage) if why == "undertrained"] == [11]


def test_a_direction_without_length_or_of_another_width_is_refused(llama: Model) -> None:
    seen = lens(llama)
    with pytest.raises(InputError, match="zero or not finite"):
        seen.logits(np.zeros((1, llama.hidden)))
    with pytest.raises(InputError, match=r"hidden 32; these are \[1, 31\]"):
        seen.logits(np.ones((1, 31)))


def test_a_network_without_a_known_final_norm_is_named() -> None:
    model = tiny_model("llama")
    model.network.model.norm, model.network.model.other = nn.Identity(), model.network.model.norm
    del model.network.model.norm
    with pytest.raises(ModelError, match="final norm of LlamaForCausalLM"):
        lens(model)
    narrow = replace(tiny_model("llama"), hidden=16)
    with pytest.raises(ModelError, match=r"no unembedding \[vocabulary, 16\]"):
        lens(narrow)


def test_words_of_one_token_have_it(llama: Model) -> None:
    found = word_tokens(llama.tokenizer, ["w5", "w7 w8", "w9"])
    assert found == {"w5": 5, "w9": 9}
