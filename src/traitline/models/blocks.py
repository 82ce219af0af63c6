"""The blocks of a network: where the residual stream can be read and written.

Knows the names under which architectures keep their list of decoder blocks and the two forms of a block's output (a tensor,
or a tuple whose first item is it). Layer 0 is what enters the first block; layer l is what leaves block l, before the
final norm. What to do there is left to `generate.py` and `capture.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from traitline.errors import ModelError

# Paths below the causal language model, most common first.
PATHS = (
    "model.layers",  # Llama, OLMo-2, OLMo-3, Apertus, Qwen-2/3, Mistral, Gemma-2/3, SmolLM3
    "gpt_neox.layers",  # Pythia
    "transformer.h",  # GPT-2
    "model.language_model.layers",  # language part of a multimodal model
    "model.decoder.layers",  # OPT
)

Edit = Callable[[torch.Tensor], torch.Tensor]
Read = Callable[[int, torch.Tensor], None]


def find_blocks(network: nn.Module) -> list[nn.Module]:
    """Return the network's decoder blocks in order.

    Raises:
        ModelError: none of the known places holds them and no single list of modules looks like them.
    """
    for path in PATHS:
        found: Any = network
        for name in path.split("."):
            found = getattr(found, name, None)
            if found is None:
                break
        if isinstance(found, nn.ModuleList) and len(found):
            return list(found)
    depth = getattr(getattr(network, "config", None), "num_hidden_layers", None)
    lists = [m for m in network.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if len(lists) == 1:
        return list(lists[0])
    raise ModelError(
        f"cannot find the decoder blocks of {type(network).__name__}: looked at {', '.join(PATHS)} and for one list of "
        f"{depth} modules. Add the architecture's path to traitline/models/blocks.py"
    )


def _residual(output: Any) -> torch.Tensor:
    residual: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return residual


@contextmanager
def reading(blocks: list[nn.Module], read: Read) -> Iterator[None]:
    """While open, call `read(layer, hidden)` for every layer 0..L of each forward pass; hidden is [rows, positions, hidden]."""

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        read(0, args[0] if args else kwargs["hidden_states"])

    def after(layer: int) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _args, output: read(layer, _residual(output))

    handles = [blocks[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [block.register_forward_hook(after(i + 1)) for i, block in enumerate(blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def editing(blocks: list[nn.Module], edits: dict[int, Edit]) -> Iterator[None]:
    """While open, replace the output of block l by `edits[l](output)` in each forward pass (l counts from 1)."""

    def after(edit: Edit) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            edited = edit(_residual(output))
            return (edited, *output[1:]) if isinstance(output, tuple) else edited

        return hook

    handles = [blocks[layer - 1].register_forward_hook(after(edit)) for layer, edit in edits.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
