"""Forward passes over batches of rows, in which the host never waits for the device.

Knows padding, copies to and from the device, going on in halves when memory runs out, and the flag on the device that
says whether what was read is finite. Leaves what is read to `capture.py`, and where it can be read to `blocks.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray

from traitline.errors import InputError, ModelError
from traitline.models.blocks import Read, reading
from traitline.models.decoding.attention import attending
from traitline.models.fusing import fused
from traitline.models.loading import Model
from traitline.models.packing import Layout, Sights

Made = TypeVar("Made")

log = logging.getLogger("traitline")


def in_halves(
    model: Model, lengths: Sequence[int], batches: Iterable[list[int]], work: Callable[[list[int]], Made]
) -> Iterator[tuple[list[int], Made]]:
    """Work on batches in turn. If memory runs out, that batch is done again in halves, and so are those that follow.

    Args:
        model: the network at work.
        lengths: tokens of each row.
        batches: row indices of each batch.
        work: what is done with a batch; it must leave nothing behind when it fails.

    Yields:
        Row indices, and what `work` made of them. The rows come in the same order, however often memory runs out.

    Raises:
        ModelError: there is no memory for a single row.
    """
    waiting = list(batches)[::-1]
    while waiting:
        batch = waiting.pop()
        longest = max(lengths[i] for i in batch)
        made: list[Made] = []
        try:
            made.append(work(batch))
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                raise ModelError(
                    f"one row of {longest} tokens is too long for the memory left beside {model.source!r} on {model.device}: "
                    "free some of it, leave such rows out, load the network in a smaller dtype, or take a larger device"
                ) from error
        if made:
            yield batch, made[0]
            continue
        torch.cuda.empty_cache()  # outside of the handler, whose traceback holds the tensors of the attempt
        left = len(batch) + sum(map(len, waiting))
        log.warning(
            "out of memory with %d rows of up to %d tokens at once; these and the %d after them go on in half as large batches",
            *(len(batch), longest, left - len(batch)),
        )
        waiting = [half for one in (*waiting, batch) for half in (one[len(one) // 2 :], one[: len(one) // 2]) if half]


def tokens_at_once(model: Model) -> int:
    """Return how many padded tokens to read in one pass: on a CPU what its caches hold, on a GPU enough to keep it busy."""
    return 2048 if model.device.type == "cpu" else 16384


class _Read(Exception):  # noqa: N818 - not an error: the last layer that is needed has been read
    pass


def forward(model: Model, layout: Layout, read: Read, last: int) -> None:
    """Read layers 0..last of packed rows; the pass ends there, so that neither later blocks nor the head are computed.

    Where each row stands alone there is no attention mask: in a causal network no position sees the padding to its right, and
    without a mask attention takes its fastest path.

    Args:
        model: the network.
        layout: token ids, and where each stands.
        read: called with each layer and what it holds, [packs, positions, hidden].
        last: the layer to stop after.

    Raises:
        InputError: token ids that the network does not have.
    """
    vocabulary = model.network.get_input_embeddings().weight.shape[0]
    if layout.ids.min() < 0 or layout.ids.max() >= vocabulary:
        raise InputError(f"a row holds token ids outside 0 to {vocabulary - 1}; were they made by another tokenizer?")

    def read_until_last(layer: int, hidden: torch.Tensor) -> None:
        read(layer, hidden)
        if layer == last:
            raise _Read

    given: dict[str, Any] = {"use_cache": False, "output_hidden_states": False, "output_attentions": False}
    with ExitStack() as stack:
        if not layout.alone:
            given["position_ids"] = places = on_device(layout.places, model.device)
            stack.enter_context(attending(model.network, Sights(places, on_device(layout.parts, model.device))))
        stack.enter_context(fused(model.network))
        stack.enter_context(reading(model.blocks, read_until_last))
        stack.enter_context(suppress(_Read))
        model.network.base_model(input_ids=on_device(layout.ids, model.device), **given)


def on_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """Copy an array to the device; the host does not wait for it."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def on_host(batches: Iterator[tuple[list[int], torch.Tensor]]) -> Iterator[tuple[list[int], NDArray[Any]]]:
    """Copy the tensors of batches to the host, each while the device works on the next batch."""
    under_way: tuple[list[int], torch.Tensor, Any] | None = None
    for batch, tensor in batches:
        copy = tensor.to("cpu", non_blocking=tensor.is_cuda)
        done = torch.cuda.current_stream(tensor.device).record_event() if tensor.is_cuda else None
        if under_way:
            yield _arrived(*under_way)
        under_way = batch, copy, done
    if under_way:
        yield _arrived(*under_way)


def _arrived(batch: list[int], copy: torch.Tensor, done: Any) -> tuple[list[int], NDArray[Any]]:
    if done is not None:
        done.synchronize()
    return batch, copy.numpy()


class Finite:
    """Whether everything read was finite: a flag per layer, kept on the device and looked at once.

    Args:
        model: the network that is read.
        layers: the layers that are read.
    """

    def __init__(self, model: Model, layers: Sequence[int]) -> None:
        self._model, self._layers = model, layers
        self._flags = torch.ones(len(layers), dtype=torch.bool, device=model.device)

    def note(self, values: torch.Tensor) -> None:
        """Note values read, [rows, ..., layers, hidden]."""
        self._flags &= values.isfinite().all(dim=-1).flatten(0, -2).all(dim=0)

    def check(self) -> None:
        """Wait for the device, and look.

        Raises:
            ModelError: some value was NaN or infinite.
        """
        broken = [layer for layer, finite in zip(self._layers, self._flags.tolist(), strict=True) if not finite]
        if broken:
            raise ModelError(
                f"activations of {self._model.source!r} hold NaN or infinity, first at layer {min(broken)} of "
                f"{self._model.layers}; its weights are broken, or too large for its dtype"
            )
