"""Read every layer of a network in one streaming pass.

Knows segment means (prompt_avg, prompt_last, response_avg), kept per row or as weighted sums over rows, and activation norms.
All are reduced on the device inside the forward pass, so that no full hidden state is kept. Which rows are worth reading, and
which weights make a vector of them, is left to `vectors/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from traitline.errors import InputError, nearest
from traitline.models.loading import Model
from traitline.models.packing import Layout, pack, packs
from traitline.models.passes import Finite, forward, in_halves, on_device, on_host, tokens_at_once
from traitline.models.sums import ClassMoments, Sums, WeightedSums

SEGMENTS = ("prompt_avg", "prompt_last", "response_avg")
RESPONSE = SEGMENTS.index("response_avg")

TokenRow = tuple[Sequence[int], Sequence[int]]
"""Prompt ids, and response ids without the closing EOS."""


@torch.inference_mode()
def capture_rows(
    model: Model, rows: Sequence[TokenRow], *, layers: Sequence[int] | None = None, tokens_per_batch: int | None = None
) -> NDArray[np.float32]:
    """Return the mean activation of each row's segments.

    Args:
        model: the network.
        rows: (prompt ids, response ids without the closing EOS) of each row.
        layers: layers 0..L to read; all where left out. Blocks after the last of them are not computed.
        tokens_per_batch: padded tokens that share a forward pass; as many as suit the device where left out.

    Returns:
        float32 [rows, 3, layers, hidden], segments in the order of `SEGMENTS`. The response mean of an empty response is NaN.

    Raises:
        InputError: a row without prompt, or a layer or token ids that the network does not have.
        ModelError: the network gives NaN or infinity, or a row does not fit into memory.
    """
    _check_prompts(rows, range(len(rows)))
    layers = range(model.layers + 1) if layers is None else layers
    outside = [layer for layer in layers if not 0 <= layer <= model.layers]
    if outside or not layers:
        asked = f"layer {outside[0]} cannot be read" if outside else "no layer is asked for"
        raise InputError(f"{asked}: {model.source!r} has layers 0 (embeddings) to {model.layers}")
    means = np.full((len(rows), len(SEGMENTS), len(layers), model.hidden), np.nan, dtype=np.float32)
    for batch, found in on_host(_segment_means(model, rows, SEGMENTS, layers, tokens_per_batch)):
        means[batch] = found
    means[[i for i, (_, response) in enumerate(rows) if not len(response)], RESPONSE] = np.nan
    return means


@torch.inference_mode()
def capture_sums(
    model: Model,
    rows: Sequence[TokenRow],
    weights: Mapping[str, ArrayLike],
    *,
    classes: Sequence[int] | NDArray[np.integer[Any]] | None = None,
    tokens_per_batch: int | None = None,
) -> Sums:
    """Return weighted sums over the rows' segment means, which stay on the device.

    A vector, its bootstraps, split halves and shuffled controls are all such sums, so one pass makes them all. They are added
    up in float64, where activations with whole weights that cancel give zero and no rounding error.

    Args:
        model: the network.
        rows: (prompt ids, response ids without the closing EOS) of each row. Rows without weight and class are not read.
        weights: segment of `SEGMENTS` -> the weight of each row in each of k sums, [k, rows]. A row whose segment is empty
            must have weight 0 there.
        classes: whose response means to give moments of: the class of each row, counted from 0, or a negative number for none.
        tokens_per_batch: padded tokens that share a forward pass; as many as suit the device where left out.

    Raises:
        InputError: weights or classes that do not fit the rows, an empty segment that counts, a row without prompt, or token
            ids that the network does not have.
        ModelError: the network gives NaN or infinity, or a row does not fit into memory.
    """
    by_segment = {segment: np.asarray(array, dtype=np.float64) for segment, array in weights.items()}
    classed = np.full(len(rows), -1) if classes is None else np.asarray(classes, dtype=np.intp)
    _check_weights(rows, by_segment, classed)
    counts = np.any([classed >= 0, *((array != 0).any(axis=0) for array in by_segment.values())], axis=0)
    kept = np.flatnonzero(counts).tolist()
    _check_prompts(rows, kept)
    read = [segment for segment in SEGMENTS if segment in by_segment or (classes is not None and segment == "response_avg")]

    size = (model.layers + 1, model.hidden, model.device)
    sums = {segment: WeightedSums(array[:, kept], *size) for segment, array in by_segment.items()}
    moments = None if classes is None else ClassMoments(classed[kept], *size)
    for batch, means in _segment_means(model, [rows[i] for i in kept], read, range(model.layers + 1), tokens_per_batch):
        for segment, one in sums.items():
            one.add(batch, means[:, read.index(segment)])
        if moments:
            moments.add(batch, means[:, read.index("response_avg")])
    return Sums({segment: one.result() for segment, one in sums.items()}, moments.result() if moments else None)


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
        tokens_per_batch: padded tokens that share a forward pass; positions are sampled from each batch.

    Raises:
        InputError: no text is longer than one token, or an unknown statistic.
        ModelError: the network gives NaN or infinity, or a text does not fit into memory.
    """
    if statistic not in {"median", "mean"}:
        raise InputError(f"activation norms are a 'median' or a 'mean', not {statistic!r}")
    texts = [ids for ids in texts if len(ids) > 1]
    lengths = [len(ids) for ids in texts]
    total = sum(lengths) - len(lengths)
    if not total:
        raise InputError("the calibration texts hold no position after the first; give texts of at least two tokens")
    stride = max(1, -(-total // sample))
    planned = list(like_lengths(lengths, tokens_per_batch))
    chosen: dict[int, NDArray[np.intp]] = {}  # the sampled positions of each text
    for batch in planned:
        before = 0
        for i in batch:
            chosen[i] = np.arange(-before % stride, lengths[i] - 1, stride) + 1
            before += lengths[i] - 1

    def norms_and_sample(batch: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        taken = [(r, position) for r, i in enumerate(batch) for position in chosen[i]]
        where = on_device(np.array(taken, dtype=np.int64).reshape(-1, 2).T, model.device)  # [2, taken]
        norms = torch.empty(len(batch), max(lengths[i] for i in batch), model.layers + 1, device=model.device)
        kept = torch.empty(len(taken), model.layers + 1, model.hidden, device=model.device)

        def read(layer: int, hidden: torch.Tensor) -> None:
            norms[:, :, layer] = torch.linalg.vector_norm(hidden, dim=-1, dtype=torch.float32)
            row, position = where.to(hidden.device)
            kept[:, layer] = hidden[row, position].float()

        forward(model, Layout(pack([(texts[i], ()) for i in batch], together=False)), read, model.layers)
        return norms, kept

    finite = Finite(model, range(model.layers + 1))
    every, samples = [], []
    for batch, (norms, kept) in in_halves(model, lengths, planned, norms_and_sample):
        finite.note(norms[..., None])
        every += [norms[r, 1 : lengths[i]] for r, i in enumerate(batch)]
        samples.append(kept)
    finite.check()
    norms_found = torch.cat(every).cpu().numpy()  # [positions, layers + 1]
    reduced = np.median(norms_found, axis=0) if statistic == "median" else norms_found.mean(axis=0)
    return Calibration(reduced.astype(np.float32), torch.cat(samples).cpu().numpy(), total)


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


def segment_sums(hidden: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the sum over each segment's positions, accumulated in float32, [rows, segments, hidden].

    Args:
        hidden: what a layer holds, in the network's own type, [rows, positions, hidden].
        weights: 1 at the positions of a segment, else 0; float32 [rows, segments, positions].
    """
    if hidden.is_cuda and hidden.dtype != torch.float32:  # 0 and 1 are exact in any type, and products add up in float32
        return torch.bmm(weights.to(hidden.dtype), hidden, out_dtype=torch.float32)
    return torch.bmm(weights, hidden.float())


def _segment_means(
    model: Model, rows: Sequence[TokenRow], segments: Sequence[str], layers: Sequence[int], tokens_per_batch: int | None
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yield row indices and these rows' segment means on the device, [rows, segments, layers, hidden]; 0 for empty segments."""
    repeated = len({tuple(prompt) for prompt, _ in rows}) < len(rows)
    packed = pack(rows, together=repeated and packs(model))
    lengths = [len(one) for one in packed]

    def means_of(batch: list[int]) -> torch.Tensor:
        parts = [packed[i] for i in batch]
        layout = Layout(parts)
        weights = _weights(on_device(layout.parts, model.device), max(len(one.rows) for one in parts))
        sums = torch.empty(*weights.shape[:2], len(layers), model.hidden, device=model.device)  # [packs, 2 + rows, ...]

        def read(layer: int, hidden: torch.Tensor) -> None:
            places = [place for place, one in enumerate(layers) if one == layer]
            for place in places:
                sums[:, :, place] = segment_sums(hidden, weights.to(hidden.device))

        forward(model, layout, read, max(layers))
        sums.div_(weights.sum(dim=-1).clamp_(min=1)[:, :, None, None])
        where = [(line, r) for line, one in enumerate(parts) for r in range(len(one.rows))]
        first = [SEGMENTS.index(segment) for segment in segments]  # where a segment's sums are, the first response's
        line = on_device(np.array([[line] * len(segments) for line, _ in where]), model.device)
        slot = on_device(np.array([[at + r * (at == RESPONSE) for at in first] for _, r in where]), model.device)
        return sums[line, slot]

    planned = like_lengths(lengths, tokens_per_batch or tokens_at_once(model))
    finite = Finite(model, layers)
    for batch, means in in_halves(model, lengths, planned, means_of):
        finite.note(means)
        yield [row for i in batch for row in packed[i].rows], means
    finite.check()


def _weights(parts: torch.Tensor, rows: int) -> torch.Tensor:
    """Return 1 at the positions of each segment, else 0, float32 [packs, 2 + rows, positions]: prompt, its last, responses.

    Args:
        parts: which segment each position belongs to, as `Layout` says, [packs, positions].
        rows: how many responses the largest pack has.
    """
    prompt = parts == 0
    last = prompt & (prompt.cumsum(dim=1) == prompt.sum(dim=1, keepdim=True))
    responses = parts[:, None] == torch.arange(1, rows + 1, device=parts.device)[:, None]
    return torch.cat([prompt[:, None], last[:, None], responses], dim=1).float()


def _check_prompts(rows: Sequence[TokenRow], kept: Sequence[int]) -> None:
    empty = [i for i in kept if not len(rows[i][0])]
    if empty:
        raise InputError(f"row {empty[0]} has an empty prompt; to be read, it needs at least one token id")


def _check_weights(rows: Sequence[TokenRow], weights: Mapping[str, NDArray[np.float64]], classes: NDArray[np.intp]) -> None:
    """Refuse weights and classes that do not fit the rows, or that count what is not there."""
    if classes.shape != (len(rows),):
        raise InputError(f"classes have shape {list(classes.shape)} for {len(rows)} rows; give one number per row")
    empty = np.array([not len(response) for _, response in rows], dtype=bool)
    counted = {"classes": classes >= 0}
    for segment, array in weights.items():
        if segment not in SEGMENTS:
            raise InputError(f"no segment is called {segment!r}; {nearest(segment, SEGMENTS)}")
        if array.ndim != 2 or array.shape[1] != len(rows) or not np.isfinite(array).all():
            raise InputError(
                f"the weights of {segment!r} have shape {list(array.shape)} for {len(rows)} rows; give finite ones, [k, rows]"
            )
        if segment == "response_avg":
            counted["weights of 'response_avg'"] = (array != 0).any(axis=0)
    for what, counts in counted.items():
        wrong = np.flatnonzero(counts & empty)
        if len(wrong):
            raise InputError(
                f"row {wrong[0]} has an empty response but counts in the {what}: there is no mean to count; leave it out"
            )
