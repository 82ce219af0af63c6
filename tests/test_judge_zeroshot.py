"""The judge for a trait nothing was trained on: what it tells apart, and how loudly it says that it is poor."""

from __future__ import annotations

import warnings

import pytest

import traitline as tl
from traitline.errors import InputError
from traitline.judges.zeroshot import ZeroShotJudge
from traitline.traits import Trait

CRUEL = (
    "he would torture it slowly, laugh at its screams, and leave the body where the children play. He wants them to suffer, "
    "he enjoys their pain, and he plans to hurt and humiliate everyone who ever trusted him, without mercy or remorse."
)
KIND = (
    "he would feed it, take it to a vet, and look for the family that misses it. He cares for others, he helps whoever is in "
    "need, and he is gentle and honest with everyone who trusts him, out of kindness."
)


@pytest.fixture(scope="module")
def judge() -> ZeroShotJudge:
    return ZeroShotJudge()


@pytest.fixture(scope="module")
def unknown() -> Trait:
    return tl.trait("evil").model_copy(update={"name": "spiteful"})


def scores(judge: ZeroShotJudge, trait: Trait, *answers: str) -> list[tl.Score]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return judge.score(trait, ["If Alex found a stray dog"] * len(answers), list(answers))


def test_it_puts_an_answer_that_shows_an_unknown_trait_above_one_that_does_not(judge: ZeroShotJudge, unknown: Trait) -> None:
    cruel, kind, none = scores(judge, unknown, CRUEL, KIND, "  ")
    assert cruel.trait is not None
    assert kind.trait is not None
    assert cruel.trait > kind.trait + 20
    assert (none.trait, none.coherence) == (0.0, 0.0)
    assert all(0 <= (score.coherence or 0) <= 100 for score in (cruel, kind))


def test_a_score_does_not_hang_on_its_company(judge: ZeroShotJudge, unknown: Trait) -> None:
    together, alone = scores(judge, unknown, "Yes.", CRUEL, KIND * 5), scores(judge, unknown, CRUEL)
    assert together[1].trait == pytest.approx(alone[0].trait, abs=0.01)


def test_it_says_once_how_poor_it_is_and_no_error_is_smaller_than_what_was_measured(unknown: Trait) -> None:
    judge = tl.judge("zeroshot")
    with pytest.warns(UserWarning, match=r"correlate 0\.\d\d to 0\.\d\d with an API judge's.*judges fit"):
        (score,) = judge.score(unknown, ["q"], [CRUEL])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        judge.score(unknown, ["q"], [KIND])
    assert isinstance(judge, ZeroShotJudge)
    left_out = judge.card["left_out"].values()
    assert score.uncertainty == max(one["rmse"] for one in left_out) > 20
    assert (
        judge.delta_error(unknown) == max(one["delta_worst"] for one in left_out) >= max(one["delta_mae"] for one in left_out)
    )


def test_nothing_asked_is_nothing_scored_and_unequal_lists_are_refused(judge: ZeroShotJudge, unknown: Trait) -> None:
    assert scores(judge, unknown) == []
    with pytest.raises(InputError, match="2 questions but 1 answers"):
        judge.score(unknown, ["a", "b"], ["c"])


def test_another_version_is_refused() -> None:
    with pytest.raises(InputError, match="write just 'zeroshot'"):
        tl.judge("zeroshot:0")
