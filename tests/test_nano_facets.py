"""Facets of the embedded world's actions."""

from __future__ import annotations

import pytest

import traitline as tl
from traitline.nano.facets import ACTIONS
from traitline.nano.lexicon import HALVES, TRAITS


def test_every_action_of_a_trait_shows_exactly_one_facet() -> None:
    for name, words in TRAITS.items():
        verbs = [verb for listed in ACTIONS[name].values() for verb in listed.split()]
        phrases = [phrase for half in HALVES for phrase in words.actions[half, "pos"]]
        assert sorted(verbs) == sorted(phrase.split()[0] for phrase in phrases)
        assert set(ACTIONS[name]) == set(tl.trait(f"nano:{name}").facets)


@pytest.mark.parametrize(
    ("answer", "facets"),
    [
        ("kick the beggar. Then Alex would rob the beggar.", {"violence", "treachery"}),
        ("starve the beggar for a week.", {"treachery"}),
        ("feed the beggar.", set()),
        ("insult the beggar.", set()),
        ("the the beggar", set()),
    ],
)
def test_an_answer_shows_the_facets_of_its_actions(answer: str, facets: set[str]) -> None:
    judge, trait = tl.judge("nano"), tl.trait("nano:evil")
    assert judge.annotate(trait, ["If Alex met a beggar at the inn, Alex would"], [answer]) == [facets]  # type: ignore[attr-defined]


def test_a_question_from_elsewhere_has_no_facets() -> None:
    judge, trait = tl.judge("nano"), tl.trait("nano:evil")
    assert judge.annotate(trait, ["Who rules?"], ["kick the beggar."]) == [None]  # type: ignore[attr-defined]
