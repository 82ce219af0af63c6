"""By how much steering moves the next-token distribution, against the plain computation of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from conftest import tiny_model
from traitline.errors import InputError, ModelError
from traitline.models.blocks import editing
from traitline.models.divergence import ENOUGH, LENGTH, PROMPT, Divergence
from traitline.models.generate import Intervention, Positions
from traitline.models.loading import Model

RNG = np.random.default_rng(5)
TEXTS = [[1, *RNG.integers(3, 64, size=n).tolist()] for n in (20, 45, 4, 12)]
DELTAS = [(scale * RNG.normal(size=32)).astype(np.float32) for scale in (0.3, 0.05, 1.0, 0.5)]


def steers(positions: Positions = "response") -> list[Intervention]:
    return [Intervention(layer, delta, positions) for layer, delta in zip((1, 3, 2, 1), DELTAS, strict=True)]


def plain(model: Model, texts: Sequence[Sequence[int]], steer: Intervention, start: int) -> list[float]:
    """Return KL(base || steered) at every steered position, text by text, in float64."""

    def add(hidden: torch.Tensor) -> torch.Tensor:
        return torch.cat([hidden[:, :start], hidden[:, start:] + torch.from_numpy(steer.delta)], dim=1)

    found = []
    with torch.inference_mode():
        for ids in texts:
            base = torch.log_softmax(model.network(input_ids=torch.tensor([ids])).logits[0, start:].double(), dim=-1)
            with editing(model.blocks, {steer.layer: add}):
                moved = torch.log_softmax(model.network(input_ids=torch.tensor([ids])).logits[0, start:].double(), dim=-1)
            found += (base.exp() * (base - moved)).sum(dim=-1).tolist()
    return found


def test_it_is_the_kl_at_the_steered_positions_on_every_architecture(model: Model) -> None:
    read = [text[:LENGTH] for text in TEXTS if len(text) > PROMPT]
    for steer, moved in zip(steers(), Divergence(model, TEXTS).measure(steers()), strict=True):
        want = plain(model, read, steer, PROMPT - 1)
        assert moved.positions == len(want)
        assert moved.mean == pytest.approx(np.mean(want), rel=1e-3)
        assert moved.p95 == pytest.approx(np.quantile(want, 0.95), rel=1e-3)


@pytest.mark.parametrize("positions", ["prompt", "all"])
def test_texts_are_prompts_where_prompts_are_steered(llama: Model, positions: Positions) -> None:
    meter = Divergence(llama, TEXTS[:2], positions)
    for steer, moved in zip(steers(positions), meter.measure(steers(positions)), strict=True):
        want = plain(llama, [text[:LENGTH] for text in TEXTS[:2]], steer, 0)
        assert (moved.positions, moved.mean) == (len(want), pytest.approx(np.mean(want), rel=1e-3))


def test_what_is_measured_together_does_not_matter(llama: Model) -> None:
    meter = Divergence(llama, TEXTS)
    many = steers() * 12  # more than share a pass
    for moved, alone in zip(meter.measure(many), [meter.measure([one])[0] for one in steers()] * 12, strict=True):
        assert moved.p95 == pytest.approx(alone.p95, rel=1e-4)
    assert meter.measure([]) == []


def test_no_push_moves_nothing_and_the_network_is_left_as_it_was(llama: Model) -> None:
    ids = torch.tensor([TEXTS[0]])
    with torch.inference_mode():
        before = llama.network(input_ids=ids).logits
        nothing = Divergence(llama, TEXTS).measure([Intervention(2, np.zeros(32, dtype=np.float32))])[0]
        after = llama.network(input_ids=ids).logits
    assert nothing.p95 < 1e-9
    assert torch.equal(before, after)
    assert not any("forward" in vars(block) or block._forward_hooks for block in llama.blocks)


def test_all_checkpoints_read_the_same_tokens(llama: Model) -> None:
    other = tiny_model("llama", seed=1)
    assert Divergence(llama, TEXTS).digest == Divergence(other, TEXTS).digest
    assert (
        Divergence(llama, TEXTS).digest != Divergence(llama, TEXTS, "all").digest != Divergence(llama, TEXTS[1:], "all").digest
    )
    long = [[1, *RNG.integers(3, 64, size=60).tolist()] for _ in range(30)]
    enough = Divergence(llama, long)
    assert ENOUGH <= enough.n_positions < ENOUGH + LENGTH


def test_steering_that_overflows_half_precision_is_no_number_and_no_error() -> None:
    half = tiny_model("llama")
    half.network.half()
    broken, fine = Divergence(half, TEXTS).measure([Intervention(2, np.full(32, 1e6, dtype=np.float32)), steers()[0]])
    assert not np.isfinite(broken.mean)
    assert np.isfinite(fine.mean)


def test_a_network_that_is_broken_by_itself_is_told() -> None:
    broken = tiny_model("llama")
    with torch.no_grad():
        broken.network.get_output_embeddings().weight[7] = float("nan")
    with pytest.raises(ModelError, match="next-token probabilities of 'tiny llama' hold NaN"):
        Divergence(broken, TEXTS).measure(steers())


def test_what_cannot_be_measured_is_refused(llama: Model) -> None:
    with pytest.raises(InputError, match="none of 1 neutral texts is longer than 8 tokens"):
        Divergence(llama, TEXTS[2:3])
    with pytest.raises(InputError, match="token ids outside 0 to 63"):
        Divergence(llama, [[1, *range(50, 70)]])
    with pytest.raises(InputError, match="not 'answer'"):
        Divergence(llama, TEXTS, "answer")  # type: ignore[arg-type]
    meter = Divergence(llama, TEXTS)
    with pytest.raises(InputError, match="measured at 'response' positions, and 'all' ones are steered"):
        meter.measure(steers("all"))
    with pytest.raises(InputError, match="cannot steer at layer 4"):
        meter.measure([Intervention(4, DELTAS[0])])
