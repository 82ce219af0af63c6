"""Read every layer of a network in one streaming pass.

Knows segment means (prompt_avg, prompt_last, response_avg), activation norms and a sample of activations, all reduced inside
the forward pass so that no full hidden state is kept. Which rows are worth reading, and what a difference of means is, is
left to `vectors/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from traitline.errors import InputError, ModelError
from traitline.models.blocks import Read, reading
from traitline.models.loading import Model

SEGMENTS = ("prompt_avg", "prompt_last", "response_avg")


@torch.inference_mode()
def capture_rows(
    model: Model,
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    tokens_per_batch: int = 8192,
) -> NDArray[np.float32]:
    """Return the mean activation of each row's segments at every layer.

    Args:
        model: the network.
        rows: (prompt ids, response ids without the closing EOS) of each row.
        tokens_per_batch: padded tokens that share a forward pass.

    Returns:
        float32 [rows, 3, layers + 1, hidden], segments in the order of `SEGMENTS`. The response mean of an empty response
        is NaN.

    Raises:
        InputError: a row without prompt.
        ModelError: the network gives NaN or infinity.
    """
    means = np.full((len(rows), len(SEGMENTS), model.layers + 1, model.hidden), np.nan, dtype=np.float32)
    if any(not len(prompt) for prompt, _ in rows):
        raise InputError("a row to be read has an empty prompt; it needs at least one token id")
    for batch in like_lengths([len(p) + len(r) for p, r in rows], tokens_per_batch):
        weights = _weights([rows[i] for i in batch]).to(model.device)  # [rows, 3, positions]
        sums = torch.zeros(len(batch), len(SEGMENTS), model.layers + 1, model.hidden, device=model.device)

        def read(layer: int, hidden: torch.Tensor, weights: torch.Tensor = weights, sums: torch.Tensor = sums) -> None:
            sums[:, :, layer] = torch.bmm(weights.to(hidden.device), hidden.float()).to(sums.device)

        _forward(model, [[*rows[i][0], *rows[i][1]] for i in batch], read)
        means[batch] = _finite(sums, model).cpu().numpy()
        empty = [i for i in batch if not len(rows[i][1])]
        means[empty, SEGMENTS.index("response_avg")] = np.nan
    return means


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """How large activations are on a fixed set of texts.

    Attributes:
        norms: L2 norm per layer over non-padding positions, the first position left out, float32 [layers + 1].
        sample: activations at evenly spaced positions, float32 [n, layers + 1, hidden].
        positions: number of positions behind the norms.
    """

    norms: NDArray[np.float32]
    sample: NDArray[np.float32]
    positions: int


@torch.inference_mode()
def calibrate(
    model: Model,
    texts: Sequence[Sequence[int]],
    *,
    statistic: str = "median",
    sample: int = 512,
    tokens_per_batch: int = 8192,
) -> Calibration:
    """Measure activation norms, and keep a sample of activations, on calibration texts.

    The first position of a text is left out: attention sinks there carry norms hundreds of times larger.

    Args:
        model: the network.
        texts: token ids of each text.
        statistic: `median` (the default) or `mean`, as in the paper.
        sample: about how many positions to keep for the activation covariance.
        tokens_per_batch: padded tokens that share a forward pass.

    Raises:
        InputError: no text is longer than one token, or an unknown statistic.
        ModelError: the network gives NaN or infinity.
    """
    if statistic not in {"median", "mean"}:
        raise InputError(f"activation norms are a 'median' or a 'mean', not {statistic!r}")
    total = sum(max(len(ids) - 1, 0) for ids in texts)
    if not total:
        raise InputError("the calibration texts hold no position after the first; give texts of at least two tokens")
    stride = max(1, -(-total // sample))
    norms: list[torch.Tensor] = []
    kept: list[torch.Tensor] = []
    for batch in like_lengths([len(ids) for ids in texts], tokens_per_batch):
        layers: list[torch.Tensor] = [torch.empty(0)] * (model.layers + 1)

        def read(layer: int, hidden: torch.Tensor, batch: list[int] = batch, layers: list[torch.Tensor] = layers) -> None:
            layers[layer] = torch.cat([hidden[r, 1 : len(texts[i])].float().cpu() for r, i in enumerate(batch)])

        _forward(model, [list(texts[i]) for i in batch], read)
        stacked = _finite(torch.stack(layers, dim=1), model)  # [positions, layers + 1, hidden]
        norms.append(stacked.norm(dim=-1))
        kept.append(stacked[::stride])
    every = torch.cat(norms).numpy()  # [positions, layers + 1]
    reduced = np.median(every, axis=0) if statistic == "median" else every.mean(axis=0)
    return Calibration(reduced.astype(np.float32), torch.cat(kept).numpy(), total)


def like_lengths(lengths: list[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Yield row indices in order of length, as many at a time as the budget of padded tokens holds; one at least."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[i] > tokens_per_batch:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _weights(rows: list[tuple[Sequence[int], Sequence[int]]]) -> torch.Tensor:
    """Return the weights that turn positions into segment means, [rows, 3, positions], right-padded."""
    width = max(len(p) + len(r) for p, r in rows)
    weights = torch.zeros(len(rows), len(SEGMENTS), width)
    for i, (prompt, response) in enumerate(rows):
        p, r = len(prompt), len(response)
        weights[i, 0, :p] = 1 / p
        weights[i, 1, p - 1] = 1
        if r:
            weights[i, 2, p : p + r] = 1 / r
    return weights


def _finite(activations: torch.Tensor, model: Model) -> torch.Tensor:
    if not activations.isfinite().all():
        raise ModelError(
            f"activations of {model.source!r} hold NaN or infinity; its weights are broken, or too large for its dtype"
        )
    return activations


def _forward(model: Model, rows: list[list[int]], read: Read) -> None:
    """Run the network without its output head over right-padded rows, reading every layer."""
    width = max(len(ids) for ids in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for r, row in enumerate(rows):
        ids[r, : len(row)] = torch.tensor(row)
        mask[r, : len(row)] = 1
    with reading(model.blocks, read):
        model.network.base_model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False)
