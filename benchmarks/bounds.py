"""What the chip could do: its copy bandwidth and matrix rate, measured in the same run, and the time a step needs at least.

The bound is strict: each stage takes the longer of moving its bytes and doing its arithmetic, stages follow one another, and
prompts that rows share are read once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from networks import parameters

from traitline.models import Model
from traitline.models.decoding.attention import Shape


@dataclass(frozen=True)
class Ceilings:
    """Bytes moved a second (read and written), and operations a second of a matrix product in the network's dtype."""

    bandwidth: float
    rate: float


def seconds(run: Callable[[], object], device: str, times: int = 5) -> float:
    """Return the median time of a call, after one that warms up."""
    took = []
    for _ in range(times + 1):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        took.append(time.perf_counter() - start)
    return sorted(took[1:])[times // 2]


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def measure(device: str) -> Ceilings:
    """Copy a large tensor, and multiply two square matrices of random numbers."""
    size, side, dtype = (2**31, 8192, torch.bfloat16) if device != "cpu" else (2**28, 2048, torch.float32)
    return Ceilings(2 * size / _copying(size, device), 2 * side**3 / _multiplying(side, device, dtype))


def _copying(size: int, device: str) -> float:
    a, b = torch.ones(size, dtype=torch.uint8, device=device), torch.ones(size, dtype=torch.uint8, device=device)
    return seconds(lambda: b.copy_(a), device)


def _multiplying(side: int, device: str, dtype: torch.dtype) -> float:
    x, y = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return seconds(lambda: x @ y, device)


def step_bound(model: Model, ceilings: Ceilings, rows: int, prompt: int, new_tokens: int, samples: int) -> float:
    """Return the least seconds of an average decoding step of `rows` rows whose prompts come `samples` times each."""
    blocks, head = parameters(model)
    dtype = model.network.dtype
    products = max(2 * rows * (blocks + head) / ceilings.rate, (blocks + head) * dtype.itemsize / ceilings.bandwidth)
    tokens = rows * (new_tokens / 2) + rows / samples * prompt
    attention = tokens * Shape.of(model.network).bytes_per_token(dtype) / ceilings.bandwidth
    return products + attention


def read_bound(model: Model, ceilings: Ceilings, tokens: int) -> float:
    """Return the least seconds of reading `tokens` tokens without the output head: arithmetic alone."""
    return 2 * tokens * parameters(model)[0] / ceilings.rate
