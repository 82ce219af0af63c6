"""How many rows and prompts a device has room for.

Knows sizes of keys, values, logits and marks. Leaves running out of it all the same to `decoder.py`, which goes on with half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from traitline.models.decoding.attention import Shape

if TYPE_CHECKING:
    from traitline.models.loading import Model

MOST = 1024
"""Rows decoded at once at most. Twice as many as 512 are a twentieth faster at 7B; arithmetic bounds a step by then."""
SPARE = 0.15
"""Share of the free memory that is left to what a step needs for a moment, and to reading activations."""
PREFILL = 16384
"""Padded tokens of prompts that are read at once."""


@dataclass(frozen=True, slots=True)
class Room:
    """What there is room for: rows and prompts at once, and how long either may be."""

    slots: int
    prompts: int
    prompt_length: int
    own_length: int

    def halved(self) -> Room:
        """Return room for half as many rows and prompts."""
        return Room(max(self.slots // 2, 1), max(self.prompts // 2, 1), self.prompt_length, self.own_length)


def free_bytes(device: torch.device) -> int | None:
    """Return how many bytes of a GPU could be taken now; None elsewhere, where nothing is planned."""
    if device.type != "cuda":
        return None
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def room_for(model: Model, prompts: Sequence[int], rows: int, own_length: int, layers: int, free: int | None) -> Room:
    """Plan a batch.

    Args:
        model: the network, already on its device.
        prompts: length of each distinct prompt, its last token left out.
        rows: how many rows wait.
        own_length: tokens that a row may get.
        layers: how many layers rows are steered at.
        free: bytes that may be used; None where nothing limits.
    """
    weight = model.network.get_input_embeddings().weight
    longest = max(prompts)
    token = Shape.of(model.network).bytes_per_token(weight.dtype)
    vocabulary = model.network.get_output_embeddings().weight.shape[0]
    slot = token * own_length + vocabulary * (2 * weight.dtype.itemsize + 1) + own_length * 12 + layers * model.hidden * 4
    apart = min(len(prompts) / rows, 1.0)  # prompts a row, on average
    slots = min(MOST, rows)
    if free is not None:
        fit = int(free * (1 - SPARE) / (slot + apart * token * longest))
        slots = max(1, min(slots, fit))
    return Room(slots, max(1, min(len(prompts), round(slots * apart) + 1)), longest, own_length)
