"""How a network with the judge's heads is trained, and what it then says.

Knows the loss, the schedule and the batches. Leaves the network, the rows and the figures to others. A score is a distribution
over 0, 5, ..., 100: a label between two of them is shared by both, and the expected value is pulled to it as well. Of the
losses tried (squared error, two-part, ordinal, this one) none was better by more than the noise; this one also says how sure
it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from traitline.judges.encoder import BINS, HEADS, Encoded

_POINTS = 30.0
_SORTED_TOGETHER = 50


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how fast to train: rows per step, passes, peak learning rate, weight of the teacher's word."""

    rows: int
    epochs: int
    rate: float
    taught: float = 0.7
    head_rate: float = 5.0
    decay: float = 0.01
    warmup: float = 0.06


@dataclass(frozen=True, slots=True)
class Labels:
    """What is known of each row.

    Attributes:
        head: the trait's head. [rows]
        scores: the published trait score and coherence, NaN where a row has none. [rows, 2]
        taught: a teacher's distributions, or None. [rows, heads, bins]
    """

    head: Tensor
    scores: Tensor
    taught: Tensor | None = None


class Padded:
    """Encoded rows as one matrix on a device."""

    def __init__(self, encoded: Encoded, device: str) -> None:
        self.lengths = np.array([len(ids) for ids in encoded.ids])
        matrix = np.zeros((len(encoded.ids), int(self.lengths.max())), dtype=np.int32)
        for i, ids in enumerate(encoded.ids):
            matrix[i, : len(ids)] = ids
        self._ids = torch.from_numpy(matrix).to(device)
        self._starts = torch.tensor(encoded.starts, device=device)
        self._lengths = torch.from_numpy(self.lengths).to(device)
        self.device = device

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids [rows, tokens], starts [rows] and lengths [rows]; the width is a multiple of 8."""
        width = min(self._ids.shape[1], -(-int(self.lengths[rows].max()) // 8) * 8)
        at = torch.from_numpy(rows).to(self.device)
        return self._ids[at, :width].long(), self._starts[at], self._lengths[at]


def train(network: nn.Module, rows: Padded, labels: Labels, recipe: Recipe, seed: int) -> nn.Module:
    """Train a network on all rows and return it, ready to score."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network.to(rows.device).train()
    _compile(network, rows.device)
    optimizer = _optimizer(network, recipe, rows.device)
    steps = recipe.epochs * math.ceil(len(rows) / recipe.rows)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (recipe.warmup * steps)) * max(0.0, 1 - step / steps)
    )
    for _ in range(recipe.epochs):
        for chosen in _batches(rows.lengths, recipe.rows, rng):
            with _half(rows.device):
                logits = network(*rows.batch(chosen))
            loss = _loss(logits.float(), labels, torch.from_numpy(chosen).to(rows.device), recipe.taught)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return network.eval()


def _compile(network: nn.Module, device: str) -> None:
    """Have a GPU run each block in a few fused kernels: it is twice as fast."""
    if device == "cuda":
        for block in network.get_submodule("blocks").children():
            block.compile(dynamic=True)


@torch.no_grad()
def distributions(network: nn.Module, rows: Padded, together: int = 1024) -> Tensor:
    """Return the network's distributions [rows, heads, bins], in float16."""
    found = torch.zeros(len(rows), len(HEADS), BINS, dtype=torch.float16, device=rows.device)
    order = np.argsort(rows.lengths, kind="stable")
    for start in range(0, len(order), together):
        chosen = order[start : start + together]
        with _half(rows.device):
            logits = network(*rows.batch(chosen))
        found[torch.from_numpy(chosen).to(rows.device)] = logits.float().softmax(-1).half()
    return found


def expected(distribution: Tensor) -> Tensor:
    """Return the mean score of distributions [..., bins]."""
    return (distribution.float() * _grid(distribution.device)).sum(-1)


def _loss(logits: Tensor, labels: Labels, chosen: Tensor, taught: float) -> Tensor:
    place = torch.arange(len(chosen), device=logits.device)
    head, scores = labels.head[chosen], labels.scores[chosen]
    labelled = scores[:, 0].isfinite().float()
    scores = scores.nan_to_num()
    own = (_binned(logits[place, head], scores[:, 0]) + _binned(logits[:, -1], scores[:, 1])) * labelled
    if labels.taught is None:
        return own.sum() / labelled.sum().clamp(min=1)
    weight = torch.full(logits.shape[:2], 0.25, device=logits.device)
    weight[place, head] = 1.0
    weight[:, -1] = 1.0
    said = labels.taught[chosen].float()
    cross = -(logits.log_softmax(-1) * said).sum(-1) + ((expected(logits.softmax(-1)) - expected(said)) / _POINTS).square()
    return ((1 - taught) * own + taught * (cross * weight).sum(1)).mean()


def _binned(logits: Tensor, scores: Tensor) -> Tensor:
    """Return the loss [rows] of logits [rows, bins] against scores [rows]."""
    at = (scores / (100 / (BINS - 1))).clamp(0, BINS - 1)
    low = at.floor().clamp(max=BINS - 2).long()
    log, share = logits.log_softmax(-1), at - low
    cross = -(log.gather(-1, low[:, None])[:, 0] * (1 - share) + log.gather(-1, low[:, None] + 1)[:, 0] * share)
    return cross + ((expected(logits.softmax(-1)) - scores) / _POINTS).square()


def _optimizer(network: nn.Module, recipe: Recipe, device: str) -> torch.optim.Optimizer:
    named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    new = [parameter for name, parameter in named if name.startswith(("heads.", "pooled.", "focus."))]
    old = [parameter for name, parameter in named if not name.startswith(("heads.", "pooled.", "focus."))]
    groups = [
        {"params": new, "lr": recipe.rate * recipe.head_rate, "weight_decay": recipe.decay},
        {"params": [parameter for parameter in old if parameter.ndim > 1], "lr": recipe.rate, "weight_decay": recipe.decay},
        {"params": [parameter for parameter in old if parameter.ndim == 1], "lr": recipe.rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=device == "cuda")


def _batches(lengths: np.ndarray, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return all rows in batches of rows of like length, shuffled."""
    shuffled = rng.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for start in range(0, len(shuffled), size * _SORTED_TOGETHER):
        part = shuffled[start : start + size * _SORTED_TOGETHER]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[i : i + size] for i in range(0, len(part), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _half(device: str) -> torch.autocast:
    return torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda")


def _grid(device: torch.device) -> Tensor:
    return torch.linspace(0, 100, BINS, device=device)
