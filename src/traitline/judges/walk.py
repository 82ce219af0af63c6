"""The probability of every number from 0 to 100 as the first thing a network writes, for many prompts at once.

Knows batches, padding, and the walk through the tree of numbers. Leaves the tree to `spelling.py`, what prompts share to
`prefix.py`, and what the numbers mean to `local.py`.

The prompts of one call open alike (chat template and rubric), so their common token prefix goes through the network once; its
keys and values are copied into every row. Rows are padded on the left, over columns of that cache: what a row is shorter than
its batch is taken from the shared prefix, whose last tokens are read again in place of padding. Every row's columns are thus
contiguous, as masks of sliding windows require.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from traitline.errors import JudgeError
from traitline.judges.numbers import Reading
from traitline.judges.prefix import Ids, Prefix, common_prefix
from traitline.judges.spelling import NUMBERS, Branch, Spellings
from traitline.models.capture import like_lengths
from traitline.models.loading import Model

HARDLY_EVER = 1e-3
"""The probability of a number under which it is not looked at whether a digit follows that makes it another one."""
NEVER = 1e-7
"""The probability of the beginning of numbers under which they are not told apart."""


def read_numbers(
    model: Model, spellings: Spellings, prompts: Sequence[Ids], *, tokens_per_batch: int
) -> Iterator[dict[int, Reading]]:
    """Read the first thing that would be written after each prompt.

    The probability of a number is that of its tokens, less what goes on to a longer number: P("10") holds neither P("100") nor
    P("105"). What else comes after a number ("85.5", "85%", "8/10") is not looked at. To look for "850" costs a pass for every
    number from 10 to 100 that has digits of its own, so it is done where a row gives 85 more than `HARDLY_EVER`; that is all
    by which a probability is off.

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
    if not prompts:
        return
    prefix = Prefix(model, common_prefix(prompts))
    for batch in like_lengths([len(ids) for ids in prompts], tokens_per_batch):
        state = _Batch(model, prefix, [prompts[i] for i in batch], spellings)
        yield dict(zip(batch, state.readings(), strict=True))


class _Batch:
    """Some prompts and the network's state at the end of them."""

    @torch.inference_mode()
    def __init__(self, model: Model, prefix: Prefix, prompts: Sequence[Ids], spellings: Spellings) -> None:
        self.model = model
        self.spellings = spellings
        lengths = torch.tensor([len(ids) for ids in prompts])
        width = int(lengths.max())
        ids = torch.zeros(len(prompts), width, dtype=torch.long)  # [rows, width]; the id under padding is never seen
        for r, prompt in enumerate(prompts):
            ids[r, width - len(prompt) :] = torch.tensor(prompt)
        padding = width - lengths
        positions = (torch.arange(width) - padding[:, None]).clamp(min=0)  # [rows, width]
        self.mask = (torch.arange(width) >= padding[:, None]).long().to(model.device)
        self.next_position = lengths[:, None].to(model.device)  # [rows, 1]
        self.cache = prefix.copied(padding.to(model.device), room=width + spellings.depth)
        self.first = self._forward(ids[:, prefix.length :].to(model.device), positions[:, prefix.length :].to(model.device))

    @torch.inference_mode()
    def readings(self) -> list[Reading]:
        """Return what each row would write first."""
        numbers = torch.zeros(len(self.mask), len(NUMBERS), dtype=torch.float64)  # [rows, numbers]
        self._walk(self.spellings.tree, self.first, torch.ones(len(self.mask), dtype=torch.float64), numbers)
        refusal = _pick(self.first, self.spellings.refusals).sum(dim=1)
        return [
            Reading({float(n): p for n, p in enumerate(row) if p > 0}, refused)
            for row, refused in zip(numbers.tolist(), refusal.tolist(), strict=True)
        ]

    def _walk(self, branch: Branch, following: torch.Tensor, reached: torch.Tensor, numbers: torch.Tensor) -> None:
        """Add to `numbers` what the tree holds from here on.

        Args:
            branch: where the walk stands.
            following: probabilities of the token that follows [rows, vocabulary].
            reached: probability of having come here [rows]; 0 in rows that are not walked.
            numbers: probability of each number so far [rows, numbers].
        """
        if branch.number is not None:
            longer = _pick(following, self.spellings.digits).sum(dim=1) if branch.open else torch.zeros_like(reached)
            numbers[:, branch.number] += reached * (1 - longer).clamp(min=0)
        onward = reached[:, None] * _pick(following, tuple(branch.branches))  # [rows, branches]
        for i, (token, child) in enumerate(branch.branches.items()):
            walked = onward[:, i].where(onward[:, i] >= _least(child), 0)
            if child.number is not None:
                numbers[:, child.number] += onward[:, i] - walked
            if walked.any():
                self._walk(child, self._after(token), walked, numbers)
                self._back()

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


def _least(branch: Branch) -> float:
    """Return from what probability on it pays to walk to a point of the tree."""
    if branch.branches or (branch.open and branch.number == 0):  # "00" and "05" are two passes at most
        return NEVER
    return HARDLY_EVER if branch.open else math.inf


def _pick(probabilities: torch.Tensor, tokens: tuple[int, ...]) -> torch.Tensor:
    """Return the probabilities of some tokens, float64 [rows, tokens] on the CPU."""
    return probabilities[:, torch.tensor(tokens, dtype=torch.long, device=probabilities.device)].cpu().double()
