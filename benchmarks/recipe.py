"""The released recipe, plainly written anew: what most scripts do, and what the engine is compared with.

`transformers.generate` in batches of 16 that share one condition, steered by one hook; activations with all hidden states in
batches of 8, each row's means taken to the CPU. Knows nothing of traits or judges.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from traitline.models import Model

GENERATE, EXTRACT = 16, 8


@torch.inference_mode()
def generate(model: Model, prompts: Sequence[Sequence[int]], steer: tuple[int, np.ndarray] | None, new_tokens: int) -> int:
    """Generate one response a prompt, all under one condition. Returns how many tokens were generated."""
    network, device, made = model.network, model.device, 0
    handle = None
    if steer is not None:
        layer, delta = steer
        added = torch.from_numpy(delta).to(device, network.dtype)
        handle = model.blocks[layer - 1].register_forward_hook(lambda _m, _a, out: _plus(out, added))
    try:
        for start in range(0, len(prompts), GENERATE):
            batch = prompts[start : start + GENERATE]
            width = max(map(len, batch))
            ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in batch], device=device)
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch], device=device)
            out = network.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=True,
                temperature=0.5,
                top_k=0,
                top_p=1.0,
                repetition_penalty=1.1,
                max_new_tokens=new_tokens,
                pad_token_id=0,
            )
            made += out[:, width:].numel()
    finally:
        if handle is not None:
            handle.remove()
    return made


def _plus(out: object, added: torch.Tensor) -> object:
    if isinstance(out, tuple):
        return (out[0] + added, *out[1:])
    assert isinstance(out, torch.Tensor)  # noqa: S101
    return out + added


@torch.inference_mode()
def extract(model: Model, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> torch.Tensor:
    """Return every row's three segment means at all layers, [rows, 3, layers + 1, hidden]."""
    means = []
    for start in range(0, len(rows), EXTRACT):
        batch = rows[start : start + EXTRACT]
        width = max(len(p) + len(r) for p, r in batch)
        ids = torch.tensor([[*p, *r] + [0] * (width - len(p) - len(r)) for p, r in batch], device=model.device)
        mask = torch.tensor([[1] * (len(p) + len(r)) + [0] * (width - len(p) - len(r)) for p, r in batch], device=model.device)
        hidden = model.network(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        for i, (p, r) in enumerate(batch):
            segments = (slice(0, len(p)), slice(len(p) - 1, len(p)), slice(len(p), len(p) + len(r)))
            per_layer = [torch.stack([layer[i, s].mean(dim=0).float().cpu() for s in segments]) for layer in hidden]
            means.append(torch.stack(per_layer, dim=1))
    return torch.stack(means)
