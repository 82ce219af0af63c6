"""An independent implementation to compare with: one row at a time, no padding, no cache, the simplest hook."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from traitline.models.loading import Model


def block_list(network: Any) -> Any:
    """Return the blocks by the architecture's own attribute, without traitline's search."""
    for path in (("model", "layers"), ("gpt_neox", "layers"), ("transformer", "h")):
        if hasattr(network, path[0]):
            return getattr(getattr(network, path[0]), path[1])
    raise AssertionError(type(network))


def steered_positions(positions: str, prompt: int, length: int) -> list[int]:
    """Return the steered positions of a sequence of `length` whose first `prompt` tokens are the prompt."""
    return {
        "response": [i for i in range(length) if i >= prompt - 1],
        "prompt": [i for i in range(length) if i < prompt],
        "all": list(range(length)),
    }[positions]


@torch.no_grad()
def logits_at_end(model: Model, ids: list[int], prompt: int, steer: Any = None) -> torch.Tensor:
    """Return the next token's logits [vocabulary] for one whole sequence, recomputed from its start."""
    handle = None
    if steer is not None:
        where = steered_positions(steer.positions, prompt, len(ids))

        def hook(_module: Any, _args: Any, output: Any) -> Any:
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            for i in where:
                hidden[0, i] += torch.from_numpy(steer.delta)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handle = block_list(model.network)[steer.layer - 1].register_forward_hook(hook)
    out = model.network(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    if handle is not None:
        handle.remove()
    return out


def greedy(model: Model, prompt_ids: list[int], steps: int, steer: Any = None) -> list[int]:
    """Return the greedy continuation of one row, an EOS included."""
    ids = list(prompt_ids)
    for _ in range(steps):
        ids.append(int(logits_at_end(model, ids, len(prompt_ids), steer).argmax()))
        if ids[-1] in model.eos_ids:
            break
    return ids[len(prompt_ids) :]


@torch.no_grad()
def hidden_states(model: Model, ids: list[int]) -> np.ndarray:
    """Return [layers + 1, positions, hidden]; the last layer is read from the block, the others from transformers."""
    last: list[torch.Tensor] = []

    def hook(_module: Any, _args: Any, output: Any) -> None:
        last.append(output[0] if isinstance(output, tuple) else output)

    handle = block_list(model.network)[-1].register_forward_hook(hook)
    states = model.network(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
    handle.remove()
    return torch.stack([*(s[0] for s in states[:-1]), last[0][0]]).numpy()
