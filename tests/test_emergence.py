"""Onset, the choice of a dose, and verdicts in words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from traitline.analysis import effects, emergence, transfer
from traitline.errors import InputError

ORDER = ["step0", "step1", "step2", "step4", "step8"]
TOKENS = dict(zip(ORDER, [0, 250_000, 500_000, 1_000_000, 4_000_000], strict=True))
STATISTICS = ["delta_trait", "ci_low", "ci_high", "p_adjusted", "steered_coherence", "delta_coherence", "refusal_rate"]


def row(checkpoint: str, delta: float, **other: Any) -> dict[str, Any]:
    measured = {
        "lineage": "nano",
        "trait": "evil",
        "strategy": "character",
        "vector_checkpoint": checkpoint,
        "tokens": TOKENS[checkpoint],
        "target": checkpoint,
        "layer": 2,
        "dose": "norm",
        "coef": 0.5,
        "positions": "response",
        "status": "complete",
        "n_pairs": 40,
        "fragile": False,
        "delta_trait": delta,
        "ci_low": delta - 8,
        "ci_high": delta + 8,
        "p_adjusted": 2e-6 if delta > 10 else 0.4,
        "steered_coherence": 80.0,
        "delta_coherence": -6.0,
        "refusal_rate": 0.0,
        "condition": "steered",
        "control_seed": None,
        "control_kind": None,
    }
    return measured | other


def empty(checkpoint: str, status: str = "no_vector", **other: Any) -> dict[str, Any]:
    return row(checkpoint, math.nan, status=status) | dict.fromkeys(STATISTICS, math.nan) | {"n_pairs": 0} | other


def line(*deltas: float | str) -> list[dict[str, Any]]:
    return [empty(c, d) if isinstance(d, str) else row(c, d) for c, d in zip(ORDER, deltas, strict=True)]


def judged(rows: list[dict[str, Any]], controls: pd.DataFrame | None = None) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    table["steerable"] = effects.steerability(table, controls, order=ORDER)
    return table


def said(rows: list[dict[str, Any]], controls: pd.DataFrame | None = None) -> str:
    return emergence.verdict(judged(rows, controls), ORDER, total_tokens=4_000_000, controls=controls)


def test_onset_is_the_interval_from_last_failing_to_first_passing() -> None:
    found = emergence.onset(judged(line(0, 1, 2, 52, 60)), ORDER)
    assert (found.last_failing, found.first_passing, found.censored) == ("step2", "step4", "")
    assert (found.tokens_last_failing, found.tokens_first_passing) == (500_000, 1_000_000)
    assert found.lost == ()


def test_an_effect_within_the_judges_own_error_is_told_as_such() -> None:
    rows = [one | {"judge_error": 52.5} for one in line(0, 1, 2, 52, 60)]
    assert said(rows).endswith("where the lower bound is not above the judge's own error of 52.5 points")


def test_the_verdict_reads_as_promised() -> None:
    assert said(line(0, 1, 2, 52, 60)) == (
        "steerable from between 0.5 M and 1.0 M tokens (12 to 25 % of pretraining): delta +52 [44, 60], p = 2e-06; coherence −6"
    )


def test_a_checkpoint_without_a_vector_is_no_lower_bound() -> None:
    found = emergence.onset(judged(line("no_vector", "no_vector", "no_vector", 52, 60)), ORDER)
    assert (found.last_failing, found.first_passing, found.censored) == (None, "step4", "from_first")
    assert found.without_vector == ("step0", "step1", "step2")
    text = said(line("no_vector", "no_vector", "no_vector", 52, 60))
    assert text.startswith("steerable from 1.0 M tokens at the latest (25 % of pretraining)")
    assert "no vector at 3 earlier checkpoints" in text


def test_a_gap_without_vectors_widens_the_interval() -> None:
    found = emergence.onset(judged(line("failed", 1, "no_vector", 52, 60)), ORDER)
    assert (found.last_failing, found.first_passing) == ("step1", "step4")


def test_passing_from_the_first_checkpoint_on_is_censored() -> None:
    found = emergence.onset(judged(line(50, 50, 50, 50, 50)), ORDER)
    assert (found.last_failing, found.first_passing, found.censored) == (None, "step0", "from_first")
    assert "nothing measured before it" in said(line(50, 50, 50, 50, 50))


def test_losing_it_again_is_said() -> None:
    rows = line(1, 50, 50, 2, 60)
    found = emergence.onset(judged(rows), ORDER)
    assert (found.first_passing, found.lost) == ("step1", ("step2", "step4"))
    assert "lost again at 0.5 M tokens, 1.0 M tokens" in said(rows)


def test_never_steerable_names_the_largest_delta_and_what_it_lacks() -> None:
    rows = line(0, "no_vector", 12, 4, 5)
    assert emergence.onset(judged(rows), ORDER).censored == "never"
    text = said(rows)
    assert text.startswith("not steerable at any of 5 checkpoints: largest delta +12 [4, 20], p = 2e-06; coherence −6")
    assert "at 0.5 M tokens, where the lower bound is not above 5 points, the next checkpoint does not confirm it" in text
    assert text.endswith("no vector at 1 of the 5")


def test_incoherence_and_controls_are_named_as_reasons() -> None:
    rows = [r | {"steered_coherence": 30.0, "delta_coherence": -45.0} for r in line(0, 0, 0, 0, 60)]
    text = said(rows)
    assert "where coherence falls to 30" in text
    assert "adjusted p" not in text
    controls = pd.DataFrame([row("step8", 55, condition="random", control_seed=0, control_kind="isotropic")])
    assert "where a control reaches +55" in said(line(0, 0, 0, 0, 60), controls)


def test_no_vector_anywhere_is_unknown_not_absent() -> None:
    rows = [empty(c, coef=math.nan, layer=pd.NA) for c in ORDER]
    assert emergence.onset(judged(rows), ORDER).censored == "no_vector"
    assert "unknown" in said(rows)
    assert "not steerable" not in said(rows)
    assert "no effect measured at any of 5" in said(line(*["failed"] * 5))


def test_fragile_vectors_refusals_and_a_lonely_last_checkpoint_are_said() -> None:
    rows = line(0, 0, 0, 0, 60)
    rows[-1] |= {"fragile": True, "n_pairs": 7, "refusal_rate": 0.12}
    text = said(rows)
    assert "fragile vector (7 pairs)" in text
    assert "refusals 12 %" in text
    assert "none after it to confirm" in text


def test_negative_coefficients_do_not_enter_the_onset() -> None:
    rows = line(0, 0, 0, 52, 60) + [r | {"coef": -0.5} for r in line(90, 90, 90, 90, 90)]
    assert emergence.onset(judged(rows), ORDER).first_passing == "step4"


def test_a_verdict_says_that_several_doses_were_judged_together() -> None:
    both = judged(line(0, 0, 0, 52, 60) + [r | {"coef": 1.0} for r in line(0, 0, 0, 40, 70)])
    assert emergence.verdict(both, ORDER).endswith("; at the best of 2 doses of each checkpoint, none being chosen beforehand")
    moved = both[(both["coef"] == 1.0) == (both["vector_checkpoint"] == ORDER[-1])]  # one dose a checkpoint, not the same
    assert "doses" not in emergence.verdict(moved, ORDER)


def test_small_and_large_token_counts_stay_readable() -> None:
    rows = line(0, 1, 2, 52, 60)
    for r, tokens in zip(rows, [0, 4e9, 2.1e10, 5.9e12, 6e12], strict=True):
        r["tokens"] = tokens
    text = emergence.verdict(judged(rows), ORDER, total_tokens=6e12)
    assert "between 21.0 B and 5.9 T tokens (0.4 to 98 % of pretraining)" in text
    rows[2] |= {"tokens": 2.1e11}
    assert "between 0.21 T and 5.9 T tokens (4 to 98" in emergence.verdict(judged(rows), ORDER, total_tokens=6e12)


def test_verdicts_have_one_row_per_trait_and_strategy() -> None:
    other = [r | {"trait": "humorous"} for r in line("no_vector", 0, 0, 0, 3)]
    table = emergence.verdicts(judged(line(0, 1, 2, 52, 60) + other), ORDER, 4_000_000)
    assert table["trait"].tolist() == ["evil", "humorous"]
    assert table["censored"].tolist() == ["", "never"]
    assert table["delta_trait"].tolist() == [52, 3]
    assert table["tokens_first_passing"].tolist()[0] == 1_000_000
    assert table["without_vector"].tolist() == [0, 1]
    assert table["verdict"][0] == said(line(0, 1, 2, 52, 60))


def test_transfer_verdicts_tell_the_earliest_vector_per_target() -> None:
    rows = [r | {"target": "step8"} for r in line(0, 30, 40, 52, 60)]
    rows += [r | {"target": "sft"} for r in line(0, 0, 0, 0, 2)]
    table = transfer.verdicts(judged(rows), ORDER, 4_000_000)
    assert table["target"].tolist() == ["step8", "sft"]
    assert table["first_passing"].fillna("none").tolist() == ["step1", "none"]
    assert table["verdict"][0].startswith("step8 is steered by vectors from between 0 and 0.25 M tokens (0 to 6 %")
    assert table["verdict"][1].startswith("sft is not steered by the vectors of any of 5 checkpoints")


def test_an_unfilled_table_or_unknown_checkpoint_is_refused() -> None:
    table = judged(line(0, 1, 2, 52, 60))
    with pytest.raises(InputError, match="steerability"):
        emergence.onset(table.assign(steerable=pd.NA), ORDER)
    with pytest.raises(InputError, match="step8"):
        emergence.onset(table, ORDER[:-1])
    with pytest.raises(InputError, match="positive coefficient"):
        emergence.onset(table.assign(coef=-1.0), ORDER)


def test_the_dose_with_the_largest_coherent_effect_is_chosen() -> None:
    rows = [
        row("step8", 40, layer=1, coef=0.5),
        row("step8", 60, layer=2, coef=1.0),
        row("step8", 60, layer=3, coef=0.5),
        row("step8", 95, layer=3, coef=2.0, steered_coherence=10.0, delta_coherence=-80.0),
        row("step8", 99, layer=3, coef=-1.0),
        empty("step8", layer=4),
    ]
    chosen = emergence.choose_dose(pd.DataFrame(rows))
    assert chosen[["layer", "coef", "delta_trait", "coherent"]].to_numpy().tolist() == [[3, 0.5, 60, True]]


def test_without_a_coherent_dose_the_loss_of_coherence_is_charged() -> None:
    lost = [(0.5, 20, -30), (1.0, 70, -45), (2.0, 90, -80)]
    rows = [row("step8", d, coef=c, steered_coherence=20.0, delta_coherence=float(x)) for c, d, x in lost]
    chosen = emergence.choose_dose(pd.DataFrame(rows))
    assert chosen[["coef", "coherent"]].to_numpy().tolist() == [[1.0, False]]
    assert emergence.choose_dose(pd.DataFrame(rows).assign(delta_trait=np.nan)).empty
