"""Random numbers and sampling: one uniform number per (noise key, step), one inverse of the cumulative distribution.

Knows the generator (Philox4x32-10, Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011) and nothing of
networks. The numbers are made on the CPU from integers alone, so they are the same on every device and for every batch size.
Leaves to `study/plan.py` how a noise key is made from the identity of a row.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from traitline.errors import ModelError

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_ROUNDS = 10

CPU_LOGITS = 2**19
"""How many logits a CPU samples from at once: float64 of more do not stay in its caches, and are new pages at every step."""

BROKEN = "the network's logits hold NaN or infinity: its weights are broken, or a steering delta is too large for its dtype"

Words = NDArray[np.uint64]


def philox(counter: Words, key: Words) -> Words:
    """Return the Philox4x32-10 block of each counter under each key.

    Args:
        counter: 32-bit words held in uint64, [..., 4].
        key: 32-bit words held in uint64, [..., 2], broadcast against `counter`.

    Returns:
        32-bit words held in uint64, [..., 4].
    """
    c0, c1, c2, c3 = (counter[..., i] for i in range(4))
    k0, k1 = key[..., 0], key[..., 1]
    for _ in range(_ROUNDS):
        p0, p1 = _M0 * c0, _M1 * c2  # products of two 32-bit words fit uint64
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1)


def uniforms(noise_keys: list[int], steps: int) -> NDArray[np.float64]:
    """Return the uniform numbers of each row, [rows, steps], in [0, 1) with 53 random bits.

    Number (r, s) is made from the Philox block with key `noise_keys[r]` (64 bits, low word first) and counter (s, 0, 0, 0).
    """
    keys = np.array(noise_keys, dtype=np.uint64)  # [rows]
    key = np.stack([keys & _LOW, keys >> _32], axis=-1)[:, None, :]  # [rows, 1, 2]
    counter = np.zeros((1, steps, 4), dtype=np.uint64)
    counter[0, :, 0] = np.arange(steps, dtype=np.uint64)
    block = philox(counter, key)  # [rows, steps, 4]
    bits = (block[..., 0] << np.uint64(21)) | (block[..., 1] >> np.uint64(11))
    return bits.astype(np.float64) * 2.0**-53


def pick(logits: torch.Tensor, u: torch.Tensor, temperature: float) -> torch.Tensor:
    """Choose one token per row: the largest logit at temperature 0, else the inverse of the cumulative distribution at `u`.

    Args:
        logits: [rows, vocabulary].
        u: uniform numbers in [0, 1), [rows], float64.
        temperature: 0 or more.

    Returns:
        Token ids, [rows].

    Raises:
        ModelError: a row's largest logit is NaN or infinite, so that nothing can be chosen.
    """
    if not logits.amax(dim=-1).isfinite().all():  # a NaN is the largest of its row
        raise ModelError(BROKEN)
    if temperature == 0:
        return logits.argmax(dim=-1)
    rows = max(1, CPU_LOGITS // logits.shape[1])
    if not logits.is_cuda and len(logits) > rows:
        return torch.cat(
            [_invert(*part, temperature) for part in zip(torch.split(logits, rows), torch.split(u, rows), strict=True)]
        )
    return _invert(logits, u, temperature)


def _invert(logits: torch.Tensor, u: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the token at which each row's cumulative distribution passes `u`, [rows]."""
    cdf = torch.softmax(logits.to(torch.float64, copy=True).div_(temperature), dim=-1).cumsum_(dim=-1)  # [rows, vocabulary]
    total = cdf[:, -1:]
    chosen = torch.searchsorted(cdf, u.to(cdf.device)[:, None] * total, right=True)
    last = torch.searchsorted(cdf, total.contiguous())  # the last token with any probability
    return torch.minimum(chosen, last).squeeze(1)


def penalise(logits: torch.Tensor, seen: torch.Tensor, penalty: float) -> torch.Tensor:
    """Apply a repetition penalty to the tokens already seen (Keskar et al., 2019; as in transformers).

    Args:
        logits: [rows, vocabulary].
        seen: which tokens the row's prompt or response holds, bool [rows, vocabulary].
        penalty: 1 changes nothing; above 1 makes repeats less likely.
    """
    if penalty == 1.0:
        return logits
    if logits.is_cuda:  # counting the tokens seen would make the device wait
        return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)
    places = seen.nonzero(as_tuple=True)  # few of the vocabulary
    met = logits[places]
    return logits.index_put(places, torch.where(met < 0, met * penalty, met / penalty))
