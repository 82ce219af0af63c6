"""Where keys and values lie while rows are decoded, and the attention that reads them there.

Knows prompts (read once, shared by every row that starts with them) and rows (their own tokens). Transformers lets a network be
run with an attention function of one's own; this one has two ways: whole prompts at once, causally, and one new token per row.
Leaves memory to `memory.py`, and to `slots.py` which row is where.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention

from traitline.errors import ModelError

NAME = "traitline"
"""Under which transformers finds the attention function."""
PLAIN = frozenset({"dropout", "scaling", "is_causal", "sliding_window", "position_ids", "cache_position", "use_cache"})
"""What networks may hand to attention that needs nothing done, or is done here. Anything else would change its meaning."""
EVERYTHING = 2**30
"""A window that leaves nothing out."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The form of a network's keys and values: blocks, key-value heads, and width of a head."""

    layers: int
    heads: int
    dim: int

    @classmethod
    def of(cls, network: Any) -> Shape:
        """Read it off a network's configuration."""
        config = network.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(config.num_hidden_layers, heads, dim)

    def bytes_per_token(self, dtype: torch.dtype) -> int:
        """Bytes that one position takes: keys and values of all blocks."""
        return 2 * self.layers * self.heads * self.dim * dtype.itemsize


class Keys:
    """Keys and values of prompts and of rows, and what attention has to know about either.

    Takes the part of transformers' cache in a forward pass. Before each, say which way it goes: `over_prompts` or `over_rows`.
    """

    is_compileable = False
    is_sliding = ()

    def __init__(self, shape: Shape, prompts: int, prompt_length: int, slots: int, length: int, like: torch.Tensor) -> None:
        """Make room.

        Args:
            shape: of the network.
            prompts: how many prompts there is room for.
            prompt_length: tokens of the longest.
            slots: how many rows there is room for.
            length: own tokens of a row at most.
            like: a weight, whose device and dtype keys and values have.
        """

        def room(rows: int, positions: int) -> torch.Tensor:
            return torch.zeros(
                shape.layers, rows, shape.heads, max(positions, 1), shape.dim, device=like.device, dtype=like.dtype
            )

        self.prompt_keys, self.prompt_values = room(prompts, prompt_length), room(prompts, prompt_length)
        self.own_keys, self.own_values = room(slots, length), room(slots, length)
        self._into: torch.Tensor | None = None
        self._rows: dict[str, torch.Tensor] = {}

    def over_prompts(self, into: torch.Tensor) -> Keys:
        """Make the next pass go over whole right-padded prompts, which are kept in the places `into`, int64 [prompts]."""
        self._into = into
        return self

    def over_rows(
        self, prompt_of: torch.Tensor, prompt_length: torch.Tensor, own_length: torch.Tensor, done: torch.Tensor
    ) -> Keys:
        """Make the next pass go over one new token of each row; all int32 [rows], as `kernels.attend` takes them."""
        self._into = None
        self._rows = {"prompt_of": prompt_of, "prompt_length": prompt_length, "own_length": own_length, "done": done}
        return self

    def move(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copy the own tokens of rows from some slots to others, int64 [n] each."""
        for kept in (self.own_keys, self.own_values):
            kept[:, target] = kept[:, source]

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int) -> torch.Tensor:
        """Return what block `layer` (from 0) attends to, [rows, positions, heads, D], and keep the new keys and values."""
        if self._into is not None:
            width = k.shape[2]
            self.prompt_keys[layer, self._into, :, :width] = k
            self.prompt_values[layer, self._into, :, :width] = v
            return attend_prompts(q, k, v, scale, window)
        run = attend_plain
        if q.is_cuda:
            from traitline.models.decoding.kernels import attend as run
        prompt = self.prompt_keys[layer], self.prompt_values[layer]
        own = self.own_keys[layer], self.own_values[layer]
        return run(q, k, v, prompt, own, **self._rows, scale=scale, window=window)

    # What transformers asks of a cache. Keys and values pass through: `attend` keeps them.

    def update(self, k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the new keys and values as they are."""
        return k, v

    def get_seq_length(self, *_: Any) -> int:
        """Return 0: positions are given to the network with each pass."""
        return 0


def attend_prompts(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int) -> torch.Tensor:
    """Attend causally over right-padded rows, [rows, positions, heads, D]. Padding follows, so nothing sees it."""
    width = q.shape[2]
    grouped = q.shape[1] != k.shape[1]
    if width <= window:
        out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
    else:
        at = torch.arange(width, device=q.device)
        back = at[:, None] - at[None, :]
        mask = (back >= 0) & (back < window)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped)
    return out.transpose(1, 2)


def attend_plain(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    prompt: tuple[torch.Tensor, torch.Tensor],
    own: tuple[torch.Tensor, torch.Tensor],
    prompt_of: torch.Tensor,
    prompt_length: torch.Tensor,
    own_length: torch.Tensor,
    done: torch.Tensor,
    scale: float,
    window: int,
) -> torch.Tensor:
    """Do what `kernels.attend` does, in plain PyTorch, for devices without Triton; the arguments are the same."""
    rows = torch.arange(len(q), device=q.device)
    live = done == 0
    for kept, new in zip(own, (k, v), strict=True):
        at = own_length.long().clamp(max=kept.shape[2] - 1)
        kept[rows[live], :, at[live]] = new[live, :, 0]
    longest = prompt[0].shape[2]
    keys, values = (
        torch.cat([shared[prompt_of.long()], kept[: len(q)]], dim=2) for shared, kept in zip(prompt, own, strict=True)
    )
    at = torch.arange(keys.shape[2], device=q.device)
    where = torch.where(at < longest, at, at - longest + prompt_length[:, None])  # [rows, keys]: position of each key
    newest = (prompt_length + own_length)[:, None]
    mine = (at >= longest) & (at - longest <= own_length[:, None])
    seen = ((at < longest) & (at < prompt_length[:, None]) | mine) & (newest - where < window)
    grouped = q.shape[1] != k.shape[1]
    out = scaled_dot_product_attention(q, keys, values, attn_mask=seen[:, None, None, :], scale=scale, enable_gqa=grouped)
    return torch.where(live[:, None, None, None], out, 0).transpose(1, 2)


class Attends(Protocol):
    """What attention is handed to."""

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int) -> torch.Tensor:
        """Return what a block attends to, [rows, positions, heads, D]."""
        ...


_attends: ContextVar[Attends] = ContextVar("attends")


def _attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _mask: Any, **given: Any
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it; `query` is [rows, heads, positions, D]."""
    odd = sorted(name for name, setting in given.items() if name not in PLAIN and _matters(setting))
    if odd:
        raise ModelError(f"attention with {', '.join(odd)} is not known to the fast decoder")
    scale = given.get("scaling")
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    window = int(given.get("sliding_window") or EVERYTHING)
    return _attends.get().attend(module.layer_idx, query, key, value, scale, window), None


def _matters(setting: Any) -> bool:
    return setting is not None and setting is not False and not isinstance(setting, str)


@contextmanager
def attending(network: Any, to: Attends) -> Iterator[None]:
    """While open, the network's attention is what `to` makes of it."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)
    config = network.config
    before = config._attn_implementation
    token = _attends.set(to)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _attends.reset(token)
