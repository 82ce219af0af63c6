"""Rows that share a prompt are read as one sequence and give what each gives alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from traitline.models import capture_rows, packing
from traitline.models.capture import capture_sums
from traitline.models.loading import Model
from traitline.models.packing import Layout, pack, packs

RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(3, 64, size=n).tolist() for n in (1, 4, 9, 13)]
ROWS = [(PROMPTS[i % 4], RNG.integers(3, 64, size=i * 5 % 12).tolist()) for i in range(30)]
"""Seven or eight responses a prompt, of none to eleven tokens."""


def _apart(model: Model, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    with monkeypatch.context() as patch:
        patch.setitem(packing._packs, model.network, False)
        return capture_rows(model, ROWS)


def test_packed_rows_have_the_means_of_rows_read_alone(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sliding windows count positions of the row, not of the pack: the window of some is 6."""
    apart = _apart(model, monkeypatch)
    np.testing.assert_allclose(capture_rows(model, ROWS), apart, rtol=1e-4, atol=1e-5)
    capped = bool(getattr(model.network.config, "attn_logit_softcapping", None))
    assert packs(model) is not capped


def test_packing_reads_a_prompt_once(llama: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert packs(llama)
    seen: list[int] = []
    monkeypatch.setattr(Layout, "__init__", _counting(Layout.__init__, seen))
    capture_rows(llama, ROWS)
    assert sum(seen) == sum(map(len, PROMPTS)) + sum(len(response) for _, response in ROWS)


def _counting(build: object, seen: list[int]) -> object:
    def init(self: Layout, some: list[packing.Pack]) -> None:
        seen.extend(map(len, some))
        build(self, some)  # type: ignore[operator]

    return init


def test_sums_are_those_of_the_rows(llama: Model) -> None:
    kept = [row for row in ROWS if row[1]]
    weights = RNG.normal(size=(3, len(kept)))
    means = capture_rows(llama, kept)
    sums = capture_sums(llama, kept, {"response_avg": weights, "prompt_last": weights[:1]})
    np.testing.assert_allclose(sums.segments["response_avg"], np.einsum("kr,rlh->klh", weights, means[:, 2]), atol=1e-4)
    np.testing.assert_allclose(sums.segments["prompt_last"], np.einsum("kr,rlh->klh", weights[:1], means[:, 1]), atol=1e-4)


def test_packs_have_a_length_and_lose_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "LONGEST", 20)
    packed = pack(ROWS, together=True)
    assert sorted(row for one in packed for row in one.rows) == list(range(len(ROWS)))
    assert all(len(one) <= 20 or len(one.rows) == 1 for one in packed)
    assert len(packed) < len(ROWS)
    for one in packed:
        assert all(ROWS[row] == (one.prompt, response) for row, response in zip(one.rows, one.responses, strict=True))
    assert len(pack(ROWS, together=False)) == len(ROWS)


def test_a_network_that_cannot_be_told_what_to_see_is_read_row_by_row(llama: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    want = capture_rows(llama, ROWS)

    def refuse(*_: object, **__: object) -> torch.Tensor:
        raise NotImplementedError("this attention has its own ideas")

    monkeypatch.setattr(packing.Sights, "attend", refuse)
    monkeypatch.delitem(packing._packs, llama.network)
    np.testing.assert_allclose(capture_rows(llama, ROWS), want, rtol=1e-4, atol=1e-5)
    assert not packs(llama)
    monkeypatch.undo()
    packing._packs.pop(llama.network, None)
