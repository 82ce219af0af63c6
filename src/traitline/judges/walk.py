"""The probability of every number from 0 to 100 as the first thing a network writes, for many prompts at once.

Knows batches, the cache of what prompts share, and the walk through the tree of numbers. Leaves the tree to `spelling.py`, and
what the numbers mean to `local.py`.

The prompts of one call open alike (chat template and rubric), so their common token prefix goes through the network once; its
keys and values are copied into every row. Rows are padded on the left, over columns of that cache: what a row is shorter than
its batch is taken from the shared prefix, whose last tokens are read again in place of padding. Every row's columns are thus
contiguous, as masks of sliding windows require.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from traitline.errors import JudgeError
from traitline.judges.numbers import Reading
from traitline.judges.spelling import NUMBERS, Branch, Spellings
from traitline.models.capture import _batches as batches
from traitline.models.loading import Model

Ids = list[int]


def read_numbers(
    model: Model, spellings: Spellings, prompts: Sequence[Ids], *, tokens_per_batch: int
) -> Iterator[dict[int, Reading]]:
    """Read the first thing that would be written after each prompt.

    The probability of a number is that of its tokens, less what goes on to a longer number: P("10") does not hold P("100").
    What comes after a number that no token can make longer ("85.5", "100%") is not looked at.

    Args:
        model: the network.
        spellings: how its tokenizer writes numbers.
        prompts: token ids of each prompt; none is empty.
        tokens_per_batch: padded tokens that share a forward pass.

    Yields:
        The readings of one batch by index into `prompts`, batch after batch, shortest prompts first.

    Raises:
        JudgeError: the network gives NaN or infinity.
    """
    shared = _Shared(model, common_prefix(prompts))
    for batch in batches([len(ids) for ids in prompts], tokens_per_batch):
        yield dict(zip(batch, _Batch(model, shared, [prompts[i] for i in batch]).readings(spellings), strict=True))


def common_prefix(prompts: Sequence[Ids]) -> Ids:
    """Return the tokens that all prompts begin with, short enough to leave each prompt its last token."""
    if not prompts:
        return []
    ends = min(prompts), max(prompts)  # in the order of their tokens: what these two share, all share
    agreed = next((i for i, (one, other) in enumerate(zip(*ends, strict=False)) if one != other), len(ends[0]))
    return prompts[0][: min(agreed, min(map(len, prompts)) - 1)]


class _Shared:
    """Keys and values of the tokens that all prompts begin with, computed once."""

    @torch.inference_mode()
    def __init__(self, model: Model, ids: Ids) -> None:
        cache: Any = DynamicCache()
        if ids:
            model.network(
                input_ids=torch.tensor([ids], device=model.device), past_key_values=cache, use_cache=True, logits_to_keep=1
            )
        self.length = len(ids)
        self._layers = [(layer.keys[0], layer.values[0]) for layer in cache.layers]  # [heads, length, head width] each

    def copied(self, padding: torch.Tensor) -> Any:
        """Return a cache with one row per entry of `padding` [rows], the columns shifted to the right by that many."""
        cache: Any = DynamicCache()
        columns = torch.arange(self.length, device=padding.device)
        source = (columns - padding[:, None]).clamp(min=0)  # [rows, length]; what lies left of a row is masked
        for i, (keys, values) in enumerate(self._layers):
            at = source.to(keys.device)
            cache.update(keys[:, at].transpose(0, 1), values[:, at].transpose(0, 1), i)  # [rows, heads, length, head width]
        return cache


class _Batch:
    """Some prompts and the network's state at the end of them."""

    @torch.inference_mode()
    def __init__(self, model: Model, shared: _Shared, prompts: Sequence[Ids]) -> None:
        self.model = model
        lengths = torch.tensor([len(ids) for ids in prompts])
        width = int(lengths.max())
        ids = torch.zeros(len(prompts), width, dtype=torch.long)  # [rows, width]; the id under padding is never seen
        for r, prompt in enumerate(prompts):
            ids[r, width - len(prompt) :] = torch.tensor(prompt)
        padding = width - lengths
        positions = (torch.arange(width) - padding[:, None]).clamp(min=0)  # [rows, width]
        self.mask = (torch.arange(width) >= padding[:, None]).long().to(model.device)
        self.next_position = lengths[:, None].to(model.device)  # [rows, 1]
        self.cache = shared.copied(padding.to(model.device))
        self.first = self._forward(ids[:, shared.length :].to(model.device), positions[:, shared.length :].to(model.device))

    @torch.inference_mode()
    def readings(self, spellings: Spellings) -> list[Reading]:
        """Return what each row would write first."""
        numbers = torch.zeros(len(self.mask), len(NUMBERS), dtype=torch.float64)  # [rows, numbers]
        self._walk(spellings.tree, self.first, torch.ones(len(self.mask), dtype=torch.float64), numbers)
        refusal = _pick(self.first, spellings.refusals).sum(dim=1)
        return [
            Reading({float(n): p for n, p in enumerate(row) if p > 0}, refused)
            for row, refused in zip(numbers.tolist(), refusal.tolist(), strict=True)
        ]

    def _walk(self, branch: Branch, following: torch.Tensor, reached: torch.Tensor, numbers: torch.Tensor) -> None:
        """Add to `numbers` what the tree holds from here on.

        Args:
            branch: where the walk stands.
            following: probabilities of the token that follows [rows, vocabulary].
            reached: probability of having come here [rows].
            numbers: probability of each number so far [rows, numbers].
        """
        onward = reached[:, None] * _pick(following, tuple(branch.branches))  # [rows, branches]
        if branch.number is not None:
            numbers[:, branch.number] += (reached - onward.sum(dim=1)).clamp(min=0)
        for i, (token, child) in enumerate(branch.branches.items()):
            if child.branches:
                self._walk(child, self._after(token), onward[:, i], numbers)
                self._back()
            elif child.number is not None:
                numbers[:, child.number] += onward[:, i]

    def _after(self, token: int) -> torch.Tensor:
        """Write one token in every row; return the probabilities of the next, [rows, vocabulary]."""
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        self.next_position = self.next_position + 1
        return self._forward(torch.full_like(self.next_position, token), self.next_position - 1)

    def _back(self) -> None:
        """Take the last token back."""
        self.cache.crop(-1)
        self.mask = self.mask[:, :-1]
        self.next_position = self.next_position - 1

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        out = self.model.network(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        probabilities: torch.Tensor = out.logits[:, -1].float().softmax(dim=-1)  # [rows, vocabulary]
        if not probabilities.isfinite().all():
            raise JudgeError(
                f"the judge {self.model.source!r} gives NaN or infinity; its weights are broken, or too large for its dtype"
            )
        return probabilities


def _pick(probabilities: torch.Tensor, tokens: tuple[int, ...]) -> torch.Tensor:
    """Return the probabilities of some tokens, float64 [rows, tokens] on the CPU."""
    return probabilities[:, torch.tensor(tokens, dtype=torch.long, device=probabilities.device)].cpu().double()
