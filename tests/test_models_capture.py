"""Weighted sums and class moments read in one pass, some layers only, and what happens when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import tiny_model
from traitline.errors import InputError, ModelError
from traitline.models.capture import SEGMENTS, calibrate, capture_rows, capture_sums, segment_sums
from traitline.models.loading import Model
from traitline.models.sums import ClassMoments

Rows = list[tuple[list[int], list[int]]]


def _rows(n: int = 12, seed: int = 0) -> Rows:
    """Rows of many lengths; every fifth has an empty response."""
    rng = np.random.default_rng(seed)
    sizes = [(rng.integers(1, 9), 0 if i % 5 == 4 else rng.integers(1, 14)) for i in range(n)]
    return [(rng.integers(3, 64, size=p).tolist(), rng.integers(3, 64, size=r).tolist()) for p, r in sizes]


def _weights(rows: Rows, sums: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    weights = {segment: rng.normal(size=(sums + i, len(rows))) for i, segment in enumerate(SEGMENTS)}
    weights["response_avg"][:, [i for i, (_, response) in enumerate(rows) if not response]] = 0
    return weights


def test_sums_are_the_weighted_means_of_rows(model: Model) -> None:
    rows = _rows()
    weights = _weights(rows)
    means = np.nan_to_num(capture_rows(model, rows))
    found = capture_sums(model, rows, weights, tokens_per_batch=40)
    assert found.moments is None
    for i, segment in enumerate(SEGMENTS):
        got = found.segments[segment]
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, np.tensordot(weights[segment], means[:, i], 1), atol=2e-5, rtol=1e-4)


def test_classes_have_the_moments_of_their_rows(model: Model) -> None:
    rows = [row for row in _rows(20) if row[1]] + [([5], [])]
    classes = np.array([-1, 2, 0] + [0, 2] * 6 + [2, -1])
    means = capture_rows(model, rows)[:, 2]
    found = capture_sums(model, rows, {}, classes=classes, tokens_per_batch=40).moments
    assert found is not None
    assert found.n.tolist() == [7, 0, 8]
    for k in (0, 2):
        members = means[classes == k].astype(np.float64)
        np.testing.assert_allclose(found.mean[k], members.mean(axis=0), atol=2e-5, rtol=1e-4)
        np.testing.assert_allclose(found.variance[k], members.var(axis=0, ddof=1), atol=2e-5, rtol=1e-4)
    assert np.isnan(found.mean[1]).all()
    assert np.isnan(found.variance[1]).all()


def test_a_class_of_one_row_has_a_mean_and_no_variance(llama: Model) -> None:
    found = capture_sums(llama, _rows(3), {}, classes=[-1, -1, 0]).moments
    assert found is not None
    assert np.isfinite(found.mean).all()
    assert np.isnan(found.variance).all()


def test_variances_survive_a_mean_that_dwarfs_them() -> None:
    values = torch.randn(60, 2, 5, generator=torch.Generator().manual_seed(0)) + 1e6  # as massive activations have it
    moments = ClassMoments(np.zeros(60, dtype=int), layers=2, hidden=5, device=values.device)
    for batch in (list(range(7)), list(range(7, 8)), list(range(8, 60))):
        moments.add(batch, values[batch])
    expected = values.numpy().astype(np.float64).var(axis=0, ddof=1)
    np.testing.assert_allclose(moments.result().variance[0], expected, rtol=1e-6)


def test_whole_weights_that_cancel_leave_exactly_nothing(llama: Model) -> None:
    rows = [([*prompt, 7], response) for prompt, response in _rows(30)]  # at layer 0 all prompts end alike
    weights = np.array([[1, -1] * 15, [2, 0, -3, 1, 0] * 6])
    found = capture_sums(llama, rows, {"prompt_last": weights}, tokens_per_batch=20).segments["prompt_last"]
    assert (found[:, 0] == 0).all()
    assert (found[0, 1:] != 0).any()


def test_only_the_layers_asked_for_are_read_and_later_blocks_are_not_run(model: Model) -> None:
    rows = _rows()
    every = capture_rows(model, rows)
    run: list[str] = []
    watched = {"block 2": model.blocks[1], "block 3": model.blocks[2], "head": model.network.get_output_embeddings()}
    handles = [one.register_forward_hook(lambda *_, name=name: run.append(name)) for name, one in watched.items()]
    try:
        some = capture_rows(model, rows, layers=[2, 0, 2])
        assert set(run) == {"block 2"}
        capture_rows(model, rows)
        assert set(run) == {"block 2", "block 3"}
    finally:
        for handle in handles:
            handle.remove()
    np.testing.assert_array_equal(some, every[:, :, [2, 0, 2]])


def test_a_row_that_counts_nowhere_is_not_read(llama: Model) -> None:
    rows = _rows(6)
    weights = np.array([[1.0, 0, 0, 0, 0, 0]])
    read: list[int] = []
    handle = llama.blocks[0].register_forward_hook(lambda _module, _args, output: read.append(len(output)))
    try:
        capture_sums(llama, rows, {"prompt_avg": weights}, classes=[-1, 0, -1, -1, -1, -1])
    finally:
        handle.remove()
    assert read == [2]
    assert (
        capture_sums(llama, rows, {"prompt_avg": 0 * weights}).segments["prompt_avg"].tolist() == np.zeros((1, 4, 32)).tolist()
    )


def test_no_rows_have_no_means_and_empty_sums(llama: Model) -> None:
    assert capture_rows(llama, []).shape == (0, 3, 4, 32)
    found = capture_sums(llama, [], {"response_avg": np.zeros((2, 0))}, classes=[])
    assert (found.segments["response_avg"] == np.zeros((2, 4, 32))).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: capture_sums(m, [([5], [6]), ([5], [])], {"response_avg": [[0, 0.5]]}), "row 1 has an empty response"),
        (lambda m: capture_sums(m, [([5], [6]), ([5], [])], {}, classes=[0, 1]), "row 1 .* counts in the classes"),
        (
            lambda m: capture_sums(m, [([5], [6])], {"response": [[1]]}),
            "no segment is called 'response'; nearest: response_avg",
        ),
        (lambda m: capture_sums(m, [([5], [6])], {"response_avg": [1]}), r"shape \[1\] for 1 rows"),
        (lambda m: capture_sums(m, [([5], [6])], {"response_avg": [[1, 2]]}), r"shape \[1, 2\] for 1 rows"),
        (lambda m: capture_sums(m, [([5], [6])], {"response_avg": [[np.nan]]}), "finite"),
        (lambda m: capture_sums(m, [([5], [6])], {}, classes=[0, 1]), r"shape \[2\] for 1 rows"),
        (lambda m: capture_sums(m, [([5], [6]), ([], [6])], {}, classes=[-1, 0]), "row 1 has an empty prompt"),
        (lambda m: capture_rows(m, [([5], [6]), ([], [6])]), "row 1 has an empty prompt"),
        (lambda m: capture_rows(m, [([5], [64])]), "outside 0 to 63"),
        (lambda m: capture_rows(m, [([5], [6])], layers=[1, 4]), "layer 4 cannot be read: 'tiny llama' has layers 0 .* to 3"),
        (lambda m: capture_rows(m, [([5], [6])], layers=[-1]), "layer -1"),
        (lambda m: capture_rows(m, [([5], [6])], layers=[]), "no layer is asked for"),
    ],
)
def test_bad_arguments_say_what_is_wrong(llama: Model, call: Callable[[Model], Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        call(llama)


READERS: dict[str, Callable[[Model], Any]] = {
    "rows": lambda m: capture_rows(m, _rows()),
    "sums": lambda m: capture_sums(m, _rows(), _weights(_rows())).segments["response_avg"],
    "moments": lambda m: capture_sums(m, _rows(4), {}, classes=[0, 1, 1, 0]).moments.variance,  # type: ignore[union-attr]
    "calibration": lambda m: (found := calibrate(m, [p + r for p, r in _rows()], sample=20)).sample * found.norms[:, None],
}


@pytest.mark.parametrize("reader", READERS)
def test_activations_that_are_not_finite_name_the_first_layer(reader: str) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.blocks[1].mlp.down_proj.weight.fill_(float("nan"))  # type: ignore[union-attr, operator]
    with pytest.raises(ModelError, match="'tiny llama' hold NaN or infinity, first at layer 2 of 3"):
        READERS[reader](model)


@contextmanager
def _room_for(model: Model, rows: int) -> Iterator[list[int]]:
    """Run out of memory inside the second block where a batch has more rows than this; gives the sizes of batches run."""
    sizes: list[int] = []

    def hook(_module: Any, _args: Any, output: torch.Tensor) -> None:
        if len(output) > rows:
            raise torch.OutOfMemoryError(f"no room for {len(output)} rows")
        sizes.append(len(output))

    handle = model.blocks[1].register_forward_hook(hook)
    try:
        yield sizes
    finally:
        handle.remove()


@pytest.mark.parametrize("reader", READERS)
def test_out_of_memory_halves_batches_and_changes_no_result(
    llama: Model, reader: str, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = READERS[reader](llama)
    with _room_for(llama, 3) as sizes, caplog.at_level(logging.WARNING, logger="traitline"):
        found = READERS[reader](llama)
    assert max(sizes) <= 3 < sum(sizes)
    assert 1 <= len(caplog.records) <= 2
    assert "out of memory with" in caplog.text
    np.testing.assert_allclose(found, undisturbed, atol=2e-5, rtol=1e-4)


def test_after_running_out_of_memory_later_batches_are_smaller_at_once(llama: Model, caplog: pytest.LogCaptureFixture) -> None:
    rows = [([5, 6 + i], [7, 8]) for i in range(32)]
    with _room_for(llama, 4) as sizes, caplog.at_level(logging.WARNING, logger="traitline"):
        capture_rows(llama, rows, tokens_per_batch=32)
    assert sizes == [4] * 8
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory with 8 rows of up to 4 tokens at once; these and the 24 after them go on in half as large batches"
    ]


@pytest.mark.parametrize("reader", READERS)
def test_a_single_row_without_room_is_an_error_that_says_what_to_do(llama: Model, reader: str) -> None:
    with _room_for(llama, 0), pytest.raises(ModelError, match=r"one row of \d+ tokens is too long .*larger device"):
        READERS[reader](llama)
    READERS[reader](llama)  # and nothing is left behind


class _Looks(TorchDispatchMode):
    """Counts how often Python looks at a value, for which a GPU would have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_reading_looks_at_no_value_between_batches(llama: Model) -> None:
    rows = _rows()
    with _Looks() as bare, torch.inference_mode():
        for prompt, response in rows:
            llama.network.base_model(input_ids=torch.tensor([prompt + response]), use_cache=False)
    with _Looks() as reading:
        capture_sums(llama, rows, _weights(rows), classes=[0 if r else -1 for _, r in rows], tokens_per_batch=1)
    with _Looks() as control:
        bool(torch.ones(2).all())
    assert control.count == 1
    assert reading.count <= bare.count  # the network's own


def test_half_precision_is_summed_in_single() -> None:
    hidden = torch.randn(2, 3000, 8, generator=torch.Generator().manual_seed(0)).bfloat16() + 4
    weights = (torch.arange(3000) < torch.tensor([[[3000], [10]], [[1], [2000]]])).float()
    expected = torch.einsum("rsp,rph->rsh", weights.double(), hidden.double())
    found = segment_sums(hidden, weights)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)
