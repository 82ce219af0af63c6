"""Parts of a network run compiled on a GPU, mean the same there, and are put back."""

from __future__ import annotations

import copy
import sys

import pytest
import torch

from traitline.models.fusing import ROTARY, aligned_head, fused, heading
from traitline.models.loading import Model, wrap

IDS = torch.arange(3, 27).reshape(3, 8)


@torch.inference_mode()
def _logits(model: Model) -> torch.Tensor:
    return model.network(input_ids=IDS.to(model.device)).logits.float().cpu()


def _forwards(model: Model) -> list[object]:
    rooms = {sys.modules[type(m).__module__] for m in model.network.modules()}
    return [m.__dict__.get("forward") for m in model.network.modules()] + [getattr(room, ROTARY, None) for room in rooms]


def test_on_a_cpu_nothing_changes(model: Model) -> None:
    before = _forwards(model)
    with fused(model.network):
        assert _forwards(model) == before
    assert aligned_head(model.network) is None


def test_a_longer_head_gives_the_same_logits(model: Model) -> None:
    head = model.network.get_output_embeddings()
    longer = torch.cat([head.weight, torch.zeros(7, head.weight.shape[1])])
    want = _logits(model)
    with heading(model.network, longer):
        got = _logits(model)
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert "forward" not in head.__dict__


@pytest.mark.gpu
def test_on_a_gpu_compiled_parts_give_the_same_logits_and_are_put_back(model: Model) -> None:
    on_gpu = wrap(copy.deepcopy(model.network).to("cuda"), model.tokenizer)
    before, want = _forwards(on_gpu), _logits(on_gpu)
    with fused(on_gpu.network):
        assert _forwards(on_gpu) != before
        got = _logits(on_gpu)
    assert _forwards(on_gpu) == before
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
