"""What prompts open with, put through the network once.

Knows the network's cache of keys and values. Leaves batches, padding and what is read to `walk.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from traitline.errors import JudgeError
from traitline.models.loading import Model

Ids = list[int]


def common_prefix(prompts: Sequence[Ids]) -> Ids:
    """Return the tokens that all prompts begin with, short enough to leave each prompt its last token."""
    if not prompts:
        return []
    ends = min(prompts), max(prompts)  # in the order of their tokens: what these two share, all share
    agreed = next((i for i, (one, other) in enumerate(zip(*ends, strict=False)) if one != other), len(ends[0]))
    return prompts[0][: min(agreed, min(map(len, prompts)) - 1)]


class Prefix:
    """Keys and values of the tokens that all prompts begin with, computed once.

    Args:
        model: the network.
        ids: the tokens; may be none.

    Raises:
        JudgeError: a network that keeps something else than keys and values of every token.
    """

    @torch.inference_mode()
    def __init__(self, model: Model, ids: Ids) -> None:
        self.length = len(ids)
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []  # [heads, length, head width] each
        if not ids:
            return
        cache: Any = DynamicCache()
        tokens = torch.tensor([ids], device=model.device)
        try:
            model.network(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
            self._layers = [(layer.keys[0], layer.values[0]) for layer in cache.layers]
        except (AttributeError, LookupError, TypeError, ValueError, NotImplementedError) as error:
            raise JudgeError(_cannot_share(model)) from error
        if not self._layers or any(keys.shape[1] != len(ids) for keys, _ in self._layers):
            raise JudgeError(_cannot_share(model))

    @torch.inference_mode()
    def copied(self, padding: torch.Tensor, room: int) -> Any:
        """Return a cache that starts with the prefix, once for every row.

        Args:
            padding: columns by which each row's prefix is shifted to the right [rows]; what is left of it is to be masked,
                what does not fit is to be read again.
            room: columns that the cache can hold.
        """
        cache: Any = DynamicCache()
        cache.layer_class_to_replicate = partial(_RoomyLayer, room)
        columns = torch.arange(self.length, device=padding.device)
        source = (columns - padding[:, None]).clamp(min=0)  # [rows, length]
        for i, (keys, values) in enumerate(self._layers):
            at = source.to(keys.device)
            cache.update(keys[:, at].transpose(0, 1), values[:, at].transpose(0, 1), i)  # [rows, heads, length, head width]
        return cache


def _cannot_share(model: Model) -> str:
    return (
        f"{model.source!r} cannot judge: its network does not keep keys and values of every token, as attention does, so what "
        "prompts share cannot be computed once; take a plain transformer, such as a Llama, Qwen or Gemma model"
    )


class _RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A layer of the cache that is made as large as it will ever be, so that a further token copies nothing."""

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._room = room
        self._buffers: tuple[torch.Tensor, ...] = ()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        new = key_states, value_states  # [rows, heads, new columns, head width] each
        if not self._buffers:
            self._buffers = tuple(states.new_empty(*states.shape[:2], self._room, states.shape[3]) for states in new)
            self.dtype, self.device = key_states.dtype, key_states.device
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        for buffer, states in zip(self._buffers, new, strict=True):
            buffer[:, :, start:end] = states
        keys, values = (buffer[:, :, :end] for buffer in self._buffers)
        self.keys, self.values, self.is_initialized = keys, values, True
        return keys, values
