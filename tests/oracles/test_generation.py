"""Generation against the plain implementation, on every architecture."""

from __future__ import annotations

import numpy as np
import pytest
from plain import greedy, logits_at_end

from traitline.models.generate import Intervention, Row, generate_rows
from traitline.models.loading import Model
from traitline.models.sampler import pick, uniforms

STEPS = 12


def _prompts(n: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[1, *rng.integers(3, 64, size=rng.integers(1, 11)).tolist()] for _ in range(n)]


def _mixed(model: Model, n: int = 10) -> list[Row]:
    """Rows of every kind: baseline, each layer, each choice of positions, several sizes."""
    rng = np.random.default_rng(1)
    rows = []
    for i, ids in enumerate(_prompts(n)):
        steer = None
        if i % 4:
            delta = (rng.normal(size=model.hidden) * rng.uniform(0.5, 4)).astype(np.float32)
            steer = Intervention(1 + i % model.layers, delta, ("response", "prompt", "all")[i % 3])
        rows.append(Row(ids, noise_key=100 + i, steer=steer))
    return rows


def test_a_mixed_batch_equals_one_row_at_a_time(model: Model) -> None:
    rows = _mixed(model)
    out = generate_rows(model, rows, max_new_tokens=STEPS, temperature=0)
    for row, generation in zip(rows, out, strict=True):
        assert generation.token_ids == greedy(model, list(row.prompt_ids), STEPS, row.steer)


def test_steering_changes_something(model: Model) -> None:
    rows = _mixed(model)
    steered = generate_rows(model, rows, max_new_tokens=STEPS, temperature=0)
    bare = generate_rows(model, [Row(r.prompt_ids) for r in rows], max_new_tokens=STEPS, temperature=0)
    assert any(a.token_ids != b.token_ids for a, b in zip(steered, bare, strict=True))


def test_sampling_is_the_inverse_cdf_of_the_plain_logits(model: Model) -> None:
    rows = _mixed(model, 4)
    out = generate_rows(model, rows, max_new_tokens=6, temperature=0.8)
    import torch

    for row, generation in zip(rows, out, strict=True):
        u = torch.from_numpy(uniforms([row.noise_key], 6)[0])
        ids = list(row.prompt_ids)
        for step, token in enumerate(generation.token_ids):
            logits = logits_at_end(model, ids, len(row.prompt_ids), row.steer)
            assert pick(logits[None], u[step : step + 1], 0.8).item() == token
            ids.append(token)


@pytest.mark.parametrize("positions", ["response", "prompt", "all"])
def test_a_zero_vector_reproduces_the_sampled_text(model: Model, positions: str) -> None:
    zero = Intervention(2, np.zeros(model.hidden, dtype=np.float32), positions)  # type: ignore[arg-type]
    prompts = _prompts(6)
    bare = generate_rows(model, [Row(p, i) for i, p in enumerate(prompts)], max_new_tokens=STEPS)
    zeroed = generate_rows(model, [Row(p, i, zero) for i, p in enumerate(prompts)], max_new_tokens=STEPS)
    assert [g.token_ids for g in bare] == [g.token_ids for g in zeroed]


def test_greedy_text_does_not_depend_on_the_batch(model: Model) -> None:
    rows = _mixed(model)
    together = generate_rows(model, rows, max_new_tokens=STEPS, temperature=0)
    halves = [generate_rows(model, part, max_new_tokens=STEPS, temperature=0) for part in (rows[:3], rows[3:])]
    assert [g.token_ids for g in together] == [g.token_ids for half in halves for g in half]
