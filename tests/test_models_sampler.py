"""The generator and the sampler."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from traitline.errors import ModelError
from traitline.models.sampler import penalise, philox, pick, uniforms


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # known answers of the Random123 distribution, philox4x32-10
        ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_known_answers(counter: list[int], key: list[int], expected: list[int]) -> None:
    block = philox(np.array(counter, dtype=np.uint64), np.array(key, dtype=np.uint64))
    assert block.tolist() == expected


def test_uniforms_depend_on_key_and_step_alone() -> None:
    keys = [5, 2**64 - 1, 7]
    together = uniforms(keys, 9)
    for r, key in enumerate(keys):
        np.testing.assert_array_equal(uniforms([key], 4)[0], together[r, :4])


def test_uniforms_are_uniform_and_unrelated() -> None:
    numbers = uniforms(list(range(2000)), 10)
    assert 0 <= numbers.min() < 0.001
    assert 0.999 < numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 4 / np.sqrt(12 * numbers.size)
    assert abs(np.corrcoef(numbers[:, 0], numbers[:, 1])[0, 1]) < 0.1


def test_sampled_frequencies_match_the_exact_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, -float("inf"), 2.0, -1.0]])
    exact = torch.softmax(logits / 0.7, dim=-1)[0].numpy()
    n = 40_000
    u = torch.from_numpy(uniforms(list(range(n)), 1)[:, 0])
    counts = np.bincount(pick(logits.expand(n, -1), u, 0.7).numpy(), minlength=5)
    chi_square = ((counts - n * exact) ** 2 / np.where(exact > 0, n * exact, 1)).sum()
    assert counts[2] == 0
    assert chi_square < 18.5  # 0.9997 quantile at 4 - 1 degrees of freedom


def test_the_largest_uniform_never_picks_an_impossible_token() -> None:
    logits = torch.tensor([[0.0, 0.0, -float("inf"), -float("inf")]])
    assert pick(logits, torch.tensor([1 - 2.0**-53], dtype=torch.float64), 1.0).item() == 1


def test_temperature_zero_is_greedy() -> None:
    assert pick(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([0.99], dtype=torch.float64), 0.0).item() == 1


def test_nan_logits_are_refused() -> None:
    with pytest.raises(ModelError, match="NaN"):
        pick(torch.tensor([[float("nan"), 1.0]]), torch.tensor([0.5], dtype=torch.float64), 1.0)


def test_penalty_lowers_seen_tokens_only() -> None:
    out = penalise(torch.tensor([[2.0, -2.0, 2.0]]), torch.tensor([[True, True, False]]), 2.0)
    assert out.tolist() == [[1.0, -4.0, 2.0]]


def test_many_rows_of_a_large_vocabulary_choose_as_each_row_alone() -> None:
    torch.manual_seed(0)
    logits, u = torch.randn(21, 60_000, dtype=torch.float64) * 3, torch.rand(21, dtype=torch.float64)
    before = logits.clone()
    seen = torch.rand(logits.shape) < 0.001
    together = pick(penalise(logits, seen, 1.3), u, 0.5)
    alone = [pick(penalise(logits[r : r + 1], seen[r : r + 1], 1.3), u[r : r + 1], 0.5) for r in range(21)]
    assert together.tolist() == torch.cat(alone).tolist()
    assert torch.equal(logits, before)
