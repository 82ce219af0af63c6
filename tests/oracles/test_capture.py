"""Streaming segment means against naive means of whole hidden states, on every architecture."""

from __future__ import annotations

import numpy as np
from plain import hidden_states

from traitline.models.capture import calibrate, capture_rows
from traitline.models.loading import Model


def _rows(seed: int = 0) -> list[tuple[list[int], list[int]]]:
    rng = np.random.default_rng(seed)
    sizes = [(1, 5), (4, 1), (9, 7), (3, 0), (6, 12), (2, 3)]
    return [(rng.integers(3, 64, size=p).tolist(), rng.integers(3, 64, size=r).tolist()) for p, r in sizes]


def test_segment_means_equal_naive_means(model: Model) -> None:
    rows = _rows()
    means = capture_rows(model, rows, tokens_per_batch=40)  # several padded batches
    assert means.shape == (len(rows), 3, model.layers + 1, model.hidden)
    for (prompt, response), got in zip(rows, means, strict=True):
        states = hidden_states(model, [*prompt, *response])
        n = len(prompt)
        np.testing.assert_allclose(got[0], states[:, :n].mean(axis=1), atol=2e-5, rtol=1e-4)
        np.testing.assert_allclose(got[1], states[:, n - 1], atol=2e-5, rtol=1e-4)
        if response:
            np.testing.assert_allclose(got[2], states[:, n:].mean(axis=1), atol=2e-5, rtol=1e-4)
        else:
            assert np.isnan(got[2]).all()


def test_batching_does_not_change_the_means(model: Model) -> None:
    rows = _rows(3)
    np.testing.assert_allclose(capture_rows(model, rows, tokens_per_batch=1), capture_rows(model, rows), atol=2e-5, rtol=1e-4)


def test_norms_leave_out_padding_and_the_first_position(model: Model) -> None:
    texts = [prompt + response for prompt, response in _rows(5)]
    got = calibrate(model, texts, sample=8)
    states = np.concatenate([hidden_states(model, ids)[:, 1:] for ids in texts], axis=1)  # [layers + 1, positions, hidden]
    norms = np.linalg.norm(states, axis=-1)
    np.testing.assert_allclose(got.norms, np.median(norms, axis=1), rtol=1e-4)
    np.testing.assert_allclose(calibrate(model, texts, statistic="mean").norms, norms.mean(axis=1), rtol=1e-4)
    assert got.positions == states.shape[1]
    assert 1 <= len(got.sample) <= 8 + 3
