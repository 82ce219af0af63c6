"""Deltas corrected by gold rows: the estimate against formulas by hand, its coverage on nano, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from traitline.analysis.ppi import SAME_ERROR, Corrected, corrected_delta, corrected_deltas
from traitline.errors import InputError
from traitline.judges.sheet import draw
from traitline.nano.judge import NanoJudge
from traitline.nano.lexicon import TRAITS
from traitline.traits import load_trait

Judge = Callable[[Any, bool, np.random.Generator], Any]
LEVEL = 0.95


def side(
    questions: int, rows: int, *, gold: int, error: float = 0.0, level: float = 40.0, noise: float = 6.0, seed: int = 0
) -> pd.DataFrame:
    """Return one side: every question has as many rows and gold rows; the cheap judge is `error` too high, give or take."""
    rng = np.random.default_rng(seed)
    truth = np.clip(level + rng.normal(0, 8, (questions, 1)) + rng.normal(0, 15, (questions, rows)), 0, 100)
    cheap = truth + error + rng.normal(0, noise, truth.shape)
    marked = np.where(np.arange(rows) < gold, truth, np.nan)
    names = np.repeat([f"q{i}" for i in range(questions)], rows)
    columns = {"question": names, "score": cheap.ravel(), "gold": marked.ravel(), "probability": gold / rows}
    return pd.DataFrame(columns)


def test_a_balanced_design_is_rectified_question_by_question() -> None:
    steered, baseline = side(10, 6, gold=2, error=9, level=60), side(10, 12, gold=4, error=-3, seed=1)
    found = corrected_delta(steered, baseline)

    def rectified(rows: pd.DataFrame) -> pd.Series:
        error = (rows["gold"] - rows["score"]).groupby(rows["question"]).mean()  # over the gold rows
        return rows.groupby("question")["score"].mean() + error

    deltas = rectified(steered) - rectified(baseline)
    half = special.stdtrit(9, 0.975) * deltas.std() / np.sqrt(10)
    assert found.corrected == pytest.approx(deltas.mean())
    assert (found.corrected_low, found.corrected_high) == pytest.approx((deltas.mean() - half, deltas.mean() + half))
    plain = (steered.groupby("question")["score"].mean() - baseline.groupby("question")["score"].mean()).mean()
    assert found.delta == pytest.approx(plain)
    assert found.delta - found.corrected == pytest.approx(12, abs=4)  # the bias that was put in
    assert (found.n_gold_steered, found.n_gold_baseline, found.n_questions_gold, found.n_rows) == (20, 40, 10, 180)


def test_the_estimate_is_that_of_the_paper() -> None:
    """One row a question and a baseline of zeros: the mean estimate of Angelopoulos et al. (2023), eq. 3, and its variance."""
    rng = np.random.default_rng(3)
    truth = np.clip(rng.normal(40, 25, 400), 0, 100)
    cheap = np.clip(0.7 * truth + 15 + rng.normal(0, 10, 400), 0, 100)
    gold = rng.permutation(400) < 120
    rows = pd.DataFrame({"question": [f"q{i}" for i in range(400)], "score": cheap, "probability": 0.3})
    baseline = rows.assign(score=0.0, gold=0.0, probability=1.0)
    for weight in (1.0, 0.5):
        found = corrected_delta(rows.assign(gold=np.where(gold, truth, np.nan)), baseline, weight=weight)
        rectifier = truth[gold] - weight * cheap[gold]
        assert found.corrected == pytest.approx(weight * cheap.mean() + rectifier.mean())
        share = weight * 280 / 400  # the gold rows are among all rows: as if the others had this weight
        parts = (truth[gold] - share * cheap[gold]).var() / 120, (share * cheap[~gold]).var() / 280
        width = 2 * special.stdtrit(119, 0.975) * np.sqrt(sum(parts))
        assert found.corrected_high - found.corrected_low == pytest.approx(width, rel=0.01)


def test_probabilities_weight_the_gold_rows() -> None:
    """Gold rows that were drawn more often where the judge errs more do not make its error look larger."""
    rows = pd.DataFrame({"question": np.repeat([f"q{i}" for i in range(8)], 20), "score": 50.0})
    truth = np.where(np.arange(160) % 20 < 10, 30.0, 50.0)  # half of the rows are scored 20 too high
    rng, found = np.random.default_rng(0), []
    probability = np.where(truth == 30, 0.5, 0.1)
    for _ in range(200):
        gold = np.where(rng.random(160) < probability, truth, np.nan)
        steered = rows.assign(gold=gold, probability=probability)
        found.append(corrected_delta(steered, rows.assign(score=0.0, gold=0.0, probability=1.0)).corrected)
    assert np.mean(found) == pytest.approx(40, abs=0.5)


def test_a_useless_judge_is_given_no_weight() -> None:
    steered, baseline = side(20, 10, gold=5, level=60), side(20, 10, gold=5, seed=1)
    noise = np.random.default_rng(5)
    blind = [one.assign(score=noise.uniform(0, 100, len(one))) for one in (steered, baseline)]
    tuned, whole = corrected_delta(*blind, weight=None), corrected_delta(*blind)
    assert tuned.weight < 0.3
    assert tuned.corrected_high - tuned.corrected_low < whole.corrected_high - whole.corrected_low
    sparse = side(20, 10, gold=1, level=60), side(20, 10, gold=1, seed=1)
    assert corrected_delta(*sparse, weight=None).weight > 0.7


def test_rows_without_a_cheap_score_count_in_the_corrected_delta() -> None:
    steered, baseline = side(10, 8, gold=8, error=20, level=70), side(10, 8, gold=8, seed=1)
    steered.loc[steered.index % 2 == 0, "score"] = np.nan
    found = corrected_delta(steered, baseline)
    truth = steered.groupby("question")["gold"].mean().mean() - baseline.groupby("question")["gold"].mean().mean()
    assert found.corrected == pytest.approx(truth)  # every row is gold
    assert found.n_missing == 40


def test_too_few_gold_rows_give_a_reason_and_no_number() -> None:
    steered, baseline = side(10, 6, gold=1), side(10, 6, gold=1, seed=1)
    only_two = steered.assign(gold=steered["gold"].where(steered["question"].isin(["q0", "q1"])))
    found = corrected_delta(only_two, baseline)
    assert np.isnan(found.corrected)
    assert found.reason == "gold rows on 2 questions of one side; 3 needed"
    assert np.isfinite(found.delta)
    two = [one[one["question"].isin(["q0", "q1"])] for one in (steered, baseline)]
    assert corrected_delta(*two).reason == "2 questions on both sides; 3 needed"
    assert np.isnan(corrected_delta(*two).delta)


def test_gold_rows_of_the_judges_training_questions_are_refused() -> None:
    steered, baseline = side(5, 4, gold=2), side(5, 4, gold=2, seed=1)
    with pytest.raises(InputError, match="trained on, such as 'q3'"):
        corrected_delta(steered, baseline, trained_on={"q3", "elsewhere"})
    unseen = [one[one["question"] != "q3"] for one in (steered, baseline)]
    assert corrected_delta(*unseen, trained_on={"q3"}).n_questions == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probability": 0.0}, "drawn with probability 0.0"),
        ({"probability": np.nan}, "drawn with probability nan"),
        ({"score": np.inf}, "infinite score"),
    ],
)
def test_what_cannot_be_used_is_named(change: dict[str, float], message: str) -> None:
    steered, baseline = side(5, 4, gold=2), side(5, 4, gold=2, seed=1)
    with pytest.raises(InputError, match=message):
        corrected_delta(steered.assign(**change), baseline)
    with pytest.raises(InputError, match="lack the columns probability"):
        corrected_delta(steered.drop(columns="probability"), baseline)
    with pytest.raises(InputError, match="weight be 0 to 1"):
        corrected_delta(steered, baseline, weight=1.5)


def test_comparisons_share_a_rectifier_only_when_told_to() -> None:
    alike: dict[str, Any] = {"questions": 8, "rows": 6, "gold": 1, "noise": 25.0}
    sides = [(side(**alike, error=10, level=50 + i, seed=i), side(**alike, error=2, seed=90 + i)) for i in range(20)]
    bare = (sides[0][0].assign(gold=np.nan), sides[0][1].assign(gold=np.nan))
    alone = corrected_deltas([bare, *sides[1:]])
    shared = corrected_deltas([bare, *sides[1:]], assume=SAME_ERROR)
    assert np.isnan(alone[0].corrected)
    assert shared[0].corrected == pytest.approx(shared[0].delta - 8, abs=6)
    assert {one.assumption for one in shared} == {SAME_ERROR}
    assert {one.assumption for one in alone} == {""}

    def width(found: list[Corrected]) -> float:
        return float(np.mean([one.corrected_high - one.corrected_low for one in found[1:]]))

    assert width(shared) < width(alone)
    with pytest.raises(InputError, match="cancels in a delta"):
        corrected_deltas(sides, assume="same error in every condition")


# On nano, where the truth is known


@pytest.fixture(scope="module")
def nano_pool() -> tuple[Any, Any]:
    """Return exact scores of steered and baseline responses to many questions of the embedded world, [questions, rows].

    The responses are deeds of its people, cruel with a chance that differs between questions; the exact judge scores them.
    """
    rng = np.random.default_rng(0)
    trait, verbs, judge = load_trait("evil", folder=_folder()), TRAITS["evil"].actions, NanoJudge()
    pool: list[list[list[float | None]]] = []
    for _ in range(150):
        patient = str(rng.choice(TRAITS["evil"].patients["B"]))
        chance = rng.beta(2, 4)
        answers = [_deeds(verbs, patient, share, n, rng) for share, n in ((min(1.0, chance + 0.35), 8), (chance, 16))]
        scored = [judge.score(trait, [f"One day Alex met a {patient}. There Alex would"] * len(a), a) for a in answers]
        pool.append([[one.trait for one in scores] for scores in scored])
    return tuple(np.array([sides[i] for sides in pool], dtype=np.float64) for i in (0, 1))  # type: ignore[return-value]


def _folder() -> Any:
    from traitline.nano import traits_folder

    return traits_folder()


def _deeds(verbs: Any, patient: str, share: float, count: int, rng: np.random.Generator) -> list[str]:
    def deed() -> str:
        return str(rng.choice(verbs["B", "pos" if rng.random() < share else "neg"])).format(p=f"the {patient}")

    return [f"{deed()}. Then Alex would {deed()}." for _ in range(count)]


def biased(truth: Any, steered: bool, rng: np.random.Generator) -> Any:
    """Score as a noisy judge would that sees too little in cruel rows, and too much in mild ones where steering is at work."""
    scale, shift = (0.6, 18) if steered else (0.9, 2)
    return np.clip(scale * truth + shift + rng.normal(0, 15, len(truth)), 0, 100)


def coverage(
    pool: tuple[Any, Any], questions: int, gold: int, judge: Judge, *, replications: int = 300, weight: float | None = 1.0
) -> tuple[float, float]:
    """Return how often the plain and the corrected interval hold the true delta.

    Each time, questions are drawn from the pool, the cheap judge scores every row, and a sheet of `gold` rows is drawn.
    """
    truth = float(pool[0].mean() - pool[1].mean())
    rng, hits = np.random.default_rng(questions), []
    conditions = np.repeat(["steered", "baseline"], [questions * side.shape[1] for side in pool])
    names = np.concatenate([np.repeat(np.arange(questions), side.shape[1]) for side in pool]).astype(str)
    for number in range(replications):
        places = rng.integers(len(pool[0]), size=questions)
        exact = [side[places].ravel() for side in pool]
        scores = np.concatenate([judge(one, steered, rng) for one, steered in zip(exact, (True, False), strict=True)])
        rows = pd.DataFrame({"question": names, "condition": conditions, "truth": np.concatenate(exact), "score": scores})
        rows["trait"] = "evil"
        probability = draw(rows, gold, seed=number).reindex(rows.index)
        rows = rows.assign(probability=probability, gold=rows["truth"].where(probability.notna()))
        sides = [rows[rows["condition"] == name] for name in ("steered", "baseline")]
        one = corrected_delta(*sides, level=LEVEL, weight=weight)
        hits.append((one.ci_low <= truth <= one.ci_high, one.corrected_low <= truth <= one.corrected_high))
    plain, corrected = np.mean(hits, axis=0)
    return float(plain), float(corrected)


def within_chance(share: float, replications: int = 300) -> bool:
    """Tell whether so many intervals may hold the truth by chance where they should at the stated level (99.9 %)."""
    low, high = stats.binom.interval(0.999, replications, LEVEL)
    return bool(low <= share * replications <= high)


@pytest.mark.parametrize(("questions", "gold"), [(8, 32), (12, 48), (20, 40)])
def test_corrected_intervals_hold_the_truth_on_nano(nano_pool: tuple[Any, Any], questions: int, gold: int) -> None:
    plain, corrected = coverage(nano_pool, questions, gold, biased)
    assert within_chance(corrected), corrected
    assert plain < corrected
    if questions == 20:
        assert not within_chance(plain), plain  # the judge's bias is no matter of chance


def test_the_exact_judge_needs_no_correction_and_none_hurts(nano_pool: tuple[Any, Any]) -> None:
    plain, corrected = coverage(nano_pool, 12, 48, lambda truth, _steered, _rng: truth)
    assert within_chance(plain)
    assert within_chance(corrected)


def test_a_tuned_weight_keeps_the_coverage(nano_pool: tuple[Any, Any]) -> None:
    _, corrected = coverage(nano_pool, 20, 80, biased, weight=None)
    assert within_chance(corrected), corrected
