"""The two Triton kernels do what the plain PyTorch beside them does. On a machine without GPU, Triton's interpreter runs them.

Skips where Triton is not installed: it comes with PyTorch's builds for GPUs.
"""

from __future__ import annotations

import os

import pytest
import torch

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton", reason="Triton is not installed; it comes with PyTorch's builds for GPUs")

from traitline.models.decoding import kernels
from traitline.models.decoding.attention import EVERYTHING, attend_plain
from traitline.models.decoding.slots import choose_plain

DEVICE = "cuda" if CUDA else "cpu"


def _int(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 4, 16), (6, 2, 24), (8, 1, 64), (2, 2, 128)])
@pytest.mark.parametrize("window", [EVERYTHING, 5])
def test_attention_over_prompts_and_own_tokens(heads: int, kv_heads: int, dim: int, window: int, dtype: torch.dtype) -> None:
    if dtype is torch.bfloat16 and not CUDA:
        pytest.skip("the interpreter computes bfloat16 products otherwise; this runs on GPUs")
    torch.manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=DEVICE, dtype=dtype)

    rows = 5
    prompt = some(3, kv_heads, 40, dim), some(3, kv_heads, 40, dim)
    own = some(rows + 1, kv_heads, 9, dim), some(rows + 1, kv_heads, 9, dim)
    other = own[0].clone(), own[1].clone()
    q, k = some(rows, heads, 1, dim), some(rows, kv_heads, 1, dim)
    v = some(rows, kv_heads, 1, 3 * dim)[..., dim : 2 * dim]  # as where one product gives queries, keys and values
    state = (_int([2, 0, 0, 1, 2]), _int([40, 0, 33, 7, 40]), _int([0, 8, 3, 5, 9]), _int([0, 0, 0, 0, 1]))
    got = kernels.attend(q, k, v, prompt, own, *state, dim**-0.5, window)
    want = attend_plain(q, k, v, prompt, other, *state, dim**-0.5, window)
    assert got.shape == want.shape == (rows, 1, heads, dim)
    close = 2e-2 if dtype is torch.bfloat16 else 1e-5
    assert torch.allclose(got.float(), want.float(), atol=close, rtol=close)
    assert all(torch.equal(a, b) for a, b in zip(own, other, strict=True))
    assert not got[4].any()


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_sampling_chooses_what_the_plain_way_chooses(temperature: float, penalty: float) -> None:
    torch.manual_seed(1)
    rows, vocabulary, steps = 64, 10_001, 4
    logits = torch.randn(rows, vocabulary, device=DEVICE) * 4
    logits[3, 17] = float("nan")
    logits[4] = float("-inf")
    logits[4, 9_000] = 1.0
    logits[5] = float("-inf")

    def state() -> dict[str, torch.Tensor]:
        torch.manual_seed(2)
        number = torch.arange(rows, device=DEVICE, dtype=torch.int32)
        return {
            "ids": torch.zeros(rows, dtype=torch.long, device=DEVICE),
            "history": torch.zeros(rows, steps, dtype=torch.int32, device=DEVICE),
            "own_length": number % steps,
            "done": (number % 7 == 6).int(),
            "broken": number * 0,
            "limit": number * 0 + steps,
        }

    def seen() -> torch.Tensor | None:
        marks = (torch.arange(rows * vocabulary, device=DEVICE) % 3 == 0).reshape(rows, vocabulary).to(torch.uint8)
        return marks if penalty != 1 else None

    u = torch.rand(rows, steps, dtype=torch.float64, device=DEVICE)
    u[8] = 0.999
    u[9] = 0
    ends = torch.arange(0, vocabulary, 2, device=DEVICE)[:40]
    here, there, marks, others = state(), state(), seen(), seen()
    kernels.choose(logits, marks, u, **here, ends=ends, temperature=temperature, penalty=penalty)
    choose_plain(logits, others, u, **there, ends=ends, temperature=temperature, penalty=penalty)
    chosen, wanted = here.pop("ids"), there.pop("ids")
    assert here.pop("history").sum(dim=1).tolist() == chosen.tolist()
    assert there.pop("history").sum(dim=1).tolist() == wanted.tolist()
    differ = chosen != wanted
    assert differ.sum() <= (0 if temperature == 0 else 2)  # a uniform number within rounding of a boundary of two tokens
    assert ((chosen - wanted).abs() <= 2).all()
    for name, want in there.items():
        assert here[name][~differ].tolist() == want[~differ].tolist(), name
    assert here["broken"].tolist() == [int(r in {3, 5}) for r in range(rows)]
    assert marks is None or (others is not None and torch.equal(marks[~differ], others[~differ]))
