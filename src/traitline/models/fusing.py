"""Small parts of a network compiled into one kernel each, while a GPU runs it.

Norms, feed-forward parts and rotary positions are many small operations on large tensors; the matrix products are as fast as
they get, but what stands between is not. Each kind is compiled once for all blocks and all sizes, which takes seconds where
compiling a network takes minutes. Results differ from the plain ones by rounding. Also knows that an output head
whose vocabulary is not a multiple of 8 is slow, and how to make it one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.nn.functional import linear

from traitline.models.blocks import find_blocks

ROTARY = "apply_rotary_pos_emb"
ALIGNED = 64
"""The padded vocabulary is a multiple of this."""

refused: WeakSet[nn.Module] = WeakSet()
"""Networks whose parts could not be compiled; they run as they are."""


@contextmanager
def fused(network: Any) -> Iterator[None]:
    """While open, parts of a network on a GPU run compiled. Elsewhere, and for networks that refused, nothing changes."""
    with ExitStack() as stack:
        if network.device.type == "cuda" and network not in refused:
            for module in _parts(network):
                stack.enter_context(_forward(module, _by_rows(type(module).forward, module)))
            for room in _rotary_rooms(network):
                plain = getattr(room, ROTARY)
                setattr(room, ROTARY, _on_gpu(plain))
                stack.callback(setattr, room, ROTARY, plain)
        yield


def aligned_head(network: Any) -> torch.Tensor | None:
    """Return the output head's weight with rows of zeros up to a multiple of 64; None where it needs none or has a bias."""
    head = network.get_output_embeddings()
    lacking = -len(head.weight) % ALIGNED
    if not len(head.weight) % 8 or not head.weight.is_cuda or getattr(head, "bias", None) is not None:
        return None
    return torch.cat([head.weight, head.weight.new_zeros(lacking, head.weight.shape[1])])


@contextmanager
def heading(network: Any, weight: torch.Tensor | None) -> Iterator[None]:
    """While open, the output head multiplies with `weight`, made by `aligned_head`; what it gives is as long as before."""
    if weight is None:
        yield
        return
    head = network.get_output_embeddings()
    vocabulary = len(head.weight)
    with _forward(head, lambda hidden: linear(hidden, weight)[..., :vocabulary]):
        yield


def _parts(network: Any) -> list[nn.Module]:
    """The norms and feed-forward parts of the blocks that are written in Python."""
    wanted = []
    for block in find_blocks(network):
        for module in block.modules():
            name = type(module).__name__
            if not type(module).__module__.startswith("torch.") and name.endswith(("Norm", "MLP")):
                wanted.append(module)
    return wanted


def _rotary_rooms(network: Any) -> list[Any]:
    """The modules of transformers from which the network's blocks take their rotary positions."""
    rooms = {type(module).__module__ for block in find_blocks(network)[:1] for module in block.modules()}
    return [sys.modules[room] for room in sorted(rooms) if hasattr(sys.modules.get(room), ROTARY)]


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    kept = os.environ.get("TRAITLINE_CACHE")
    if not kept and find_spec("platformdirs"):
        from platformdirs import user_cache_dir

        kept = user_cache_dir("traitline")
    if kept:  # PyTorch's own choice is a temporary directory
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(kept) / "compiled"))
    return torch.compile(function, dynamic=True)


def _by_rows(function: Callable[..., Any], module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a forward that sees rows and positions as one dimension, so that one compilation serves all sizes."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = _compiled(function)(module, x.reshape(-1, x.shape[-1]))
        return out.view(x.shape)

    return forward


@cache
def _on_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    def rotate(q: torch.Tensor, *rest: Any, **more: Any) -> Any:
        return (_compiled(function) if q.is_cuda else function)(q, *rest, **more)

    return rotate


@contextmanager
def _forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
