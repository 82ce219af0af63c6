"""Random networks of the shapes that are measured. Speed does not depend on what weights say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from traitline.models import Model
from traitline.models.loading import wrap

SHAPES: dict[str, dict[str, int]] = {
    "olmo3-7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 16},
    "100m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 10, "num_attention_heads": 12},
}
VOCABULARY = {"olmo3-7b": 100_278, "1b": 100_278, "100m": 32_000}


class NoWords:
    """A tokenizer for networks without a language: ids are their own words."""

    chat_template = None
    eos_token_id = None

    def decode(self, ids: list[int], **_: Any) -> str:
        """Return the ids as text."""
        return " ".join(map(str, ids))


def random_model(shape: str, device: str) -> Model:
    """Return a network of the OLMo-3 architecture in `shape`: bfloat16 on a GPU, float32 elsewhere. It never ends a text."""
    import transformers

    config = transformers.Olmo3Config(vocab_size=VOCABULARY[shape], max_position_embeddings=8192, **SHAPES[shape])
    torch.manual_seed(0)
    with torch.device(device):
        torch.set_default_dtype(torch.float32 if device == "cpu" else torch.bfloat16)
        try:
            network = transformers.AutoModelForCausalLM.from_config(config).eval()
        finally:
            torch.set_default_dtype(torch.float32)
    network.requires_grad_(False)
    network.generation_config.eos_token_id = None
    return replace(wrap(network, NoWords(), source=f"random {shape}"), eos_ids=frozenset())


def parameters(model: Model) -> tuple[int, int]:
    """Return how many weights take part in matrix products: those of the blocks, and those of the output head."""
    blocks = sum(p.numel() for block in model.blocks for p in block.parameters() if p.dim() == 2)
    return blocks, model.network.get_output_embeddings().weight.numel()
