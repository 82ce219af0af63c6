"""The paper's two studies: what they plan, against calculation by hand."""

from __future__ import annotations

import pytest

from traitline.study import Plan, load_config, make_plan
from traitline.study.estimate import efforts

CONTRASTS, ELICIT, EVALUATE, TUNE, SAMPLES, NEW = 5, 20, 20, 10, 10, 64
"""Texts of each packaged trait, and how the paper samples."""


@pytest.fixture(scope="module")
def olmo() -> Plan:
    return make_plan(load_config("olmo3-7b"))


@pytest.fixture(scope="module")
def apertus() -> Plan:
    return make_plan(load_config("apertus-8b"))


@pytest.mark.parametrize(("name", "traits", "descendants"), [("olmo3-7b", 4, 3), ("apertus-8b", 3, 1)])
def test_rows_and_tokens_are_those_of_a_calculation_by_hand(name: str, traits: int, descendants: int) -> None:
    found = efforts(make_plan(load_config(name)))
    contrast = CONTRASTS * ELICIT * 2 * SAMPLES
    assert found["elicit"].rows == (16 + descendants) * traits * contrast  # `forced` reads, and generates nothing
    baseline, steered, controls, bootstrap = 4 * EVALUATE * SAMPLES, EVALUATE * SAMPLES, 6 * EVALUATE * SAMPLES, 8 * EVALUATE
    cells = traits * 2
    tuned = cells * 5 * TUNE * SAMPLES
    assert found["evaluate"].rows == 16 * cells * (baseline + steered + controls + bootstrap) + tuned
    moved = (16 + descendants) * (steered + bootstrap)
    assert found["transfer"].rows == cells * ((1 + descendants) * (baseline + moved) + descendants * controls)
    for phase in ("elicit", "evaluate", "transfer"):
        assert found[phase].tokens == NEW * found[phase].rows
    assert found["elicit"].judge_calls == 2 * found["elicit"].rows  # trait and coherence


def test_olmo_is_steered_where_the_paper_steers_it(olmo: Plan) -> None:
    assert len(olmo.order) == 16
    for name in olmo.order:
        assert [olmo.place(name, trait) for trait in ("evil", "sycophantic", "impolite")] == [((16,), (0.5,))] * 3
        assert olmo.place(name, "humorous") == ((20,), (0.3,))
    for name in ("SFT", "DPO", "Instruct"):
        assert olmo.place(name, "evil") == ((16,), (0.55,))
        assert olmo.place(name, "sycophantic") == ((16,), (0.5,))
        assert olmo.place(name, "impolite") == ((20,), (0.75,))
        assert olmo.place(name, "humorous") == ((20,), (0.3,))


def test_apertus_is_steered_where_the_paper_steers_it(apertus: Plan) -> None:
    assert len(apertus.order) == 16
    evil = [apertus.place(name, "evil") for name in apertus.order]
    assert evil == [((16,), (0.2,))] * 10 + [((16,), (0.5,))] * 6  # up to 4,200 B tokens, and after
    for name in apertus.order:
        assert apertus.place(name, "sycophantic") == ((16,), (0.2,))
        assert apertus.place(name, "impolite") == ((20,), (0.15,))
    places = [apertus.place("Instruct", trait) for trait in ("evil", "sycophantic", "impolite")]
    assert places == [((16,), (0.3,)), ((16,), (0.5,)), ((20,), (0.7,))]


@pytest.mark.parametrize("name", ["olmo3-7b", "apertus-8b"])
def test_they_sample_as_the_paper_does(name: str) -> None:
    config = load_config(name)
    for part in (config.elicit, config.evaluate):
        sampling = (part.samples, part.max_new_tokens, part.temperature, part.repetition_penalty)
        assert sampling == (10, 64, 0.5, 1.1)
    assert (config.activation_norm, config.evaluate.dose, config.judge) == ("mean", "norm", "distilled")
