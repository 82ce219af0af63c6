"""How well probes tell texts apart: held-out questions and words, their nulls, and what counts as readable when."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from traitline.analysis.detection import judged, measure, measure_scores, measurements, splits, statistics, surface
from traitline.analysis.holdout import FEWEST, Texts, dealings, other_questions, other_words, telling_words
from traitline.analysis.probes import STRENGTHS, difference_of_means, ridge
from traitline.analysis.readable import readable_table

QUESTIONS, PAIRS, WORDS, HIDDEN = 10, 6, 5, 48
POSITIVE, NEGATIVE, FILLER = 100, 200, 300
Floats = NDArray[np.float64]


def make_texts(seed: int = 0) -> Texts:
    """Every text says one word of its side's five, once or twice, among words that both sides say."""
    rng = np.random.default_rng(seed)
    tokens, question = [], []
    for q in range(QUESTIONS):
        for _ in range(PAIRS):
            for start in (POSITIVE, NEGATIVE):
                words = [start + int(rng.integers(WORDS))] * int(rng.integers(1, 3))
                tokens.append([*words, *(FILLER + rng.integers(5, size=4)).tolist()])
                question.append(q)
    question_of = np.array(question)
    return Texts(question_of, question_of % 4, tokens)


TEXTS = make_texts()
WAYS = splits(TEXTS, 1)
RNG = np.random.default_rng(5)
OF_QUESTION = 5 * RNG.normal(size=(QUESTIONS, HIDDEN))[TEXTS.question]
NOISE = RNG.normal(size=(len(TEXTS), HIDDEN))
TRAIT = TEXTS.labels[:, None] * np.linspace(1, 0, HIDDEN) + NOISE + OF_QUESTION
WORDS_ALONE = TEXTS.shares @ RNG.normal(size=(TEXTS.shares.shape[1], HIDDEN)) + 0.02 * NOISE


def auc(activations: Floats, held: str = "questions", probe: str = "difference") -> tuple[float, float]:
    """Return the AUC and the null's p of one way of holding texts out."""
    fitted = {"difference": difference_of_means, "ridge": ridge}[probe]
    way = next(way for way in WAYS if way.held == held)
    found = measure(activations @ activations.T, TEXTS, way, fitted)
    return float(np.nanmean(found.auc)), found.p_null


@pytest.mark.parametrize("probe", ["difference", "ridge"])
def test_what_is_represented_is_read_from_other_questions_and_other_words(probe: str) -> None:
    for held in ("questions", "words"):
        value, p = auc(TRAIT, held, probe)
        assert value > 0.95
        assert p <= 0.01


@pytest.mark.parametrize("probe", ["difference", "ridge"])
def test_random_embeddings_are_read_by_their_words_and_not_beyond_them(probe: str) -> None:
    value, p = auc(WORDS_ALONE, "questions", probe)
    assert value > 0.8
    assert p <= 0.02
    value, p = auc(WORDS_ALONE, "words", probe)
    assert value < 0.9
    assert p > 0.05


def test_where_nothing_is_represented_nothing_is_read() -> None:
    values = [auc(RNG.normal(size=(len(TEXTS), HIDDEN)), "questions")[0] for _ in range(20)]
    assert abs(np.mean(values) - 0.5) < 0.04


def test_a_question_tells_nothing() -> None:
    """Activations of the question alone are tied within it, so that no text is ahead."""
    assert auc(OF_QUESTION)[0] == pytest.approx(0.5)


def test_neither_a_common_mean_nor_scale_matters() -> None:
    rows = TRAIT + 40.0
    for probe in ("difference", "ridge"):
        assert auc(3 * rows, "questions", probe)[0] == pytest.approx(auc(TRAIT, "questions", probe)[0], abs=1e-9)


def test_difference_of_means_is_that_of_the_activations() -> None:
    labels = np.stack([TEXTS.labels[:60], np.where(np.arange(60) < 20, 1.0, -1.0)])
    train, test = TRAIT[:60], TRAIT[60:]
    found = difference_of_means(train @ train.T, test @ train.T, labels, TEXTS.question[:60])
    for scores, side in zip(found, labels, strict=True):
        ends = train[side > 0].mean(axis=0), train[side < 0].mean(axis=0)
        assert scores == pytest.approx((test - (ends[0] + ends[1]) / 2) @ (ends[0] - ends[1]))


def test_ridge_is_that_of_the_activations_with_the_penalty_that_leaving_questions_out_chooses() -> None:
    """The oracle fits the weights themselves, and anew without each question, by least squares with an intercept."""
    train, test, labels = TRAIT[:60], TRAIT[60:], TEXTS.labels[:60]
    question = TEXTS.question[:60]
    scale = np.maximum(np.linalg.eigvalsh((train - train.mean(0)) @ (train - train.mean(0)).T), 0).mean()

    def fit(rows: Floats, sides: Floats, penalty: float) -> tuple[Floats, float]:
        mean, level = rows.mean(axis=0), float(sides.mean())
        centred = rows - mean
        weights = np.linalg.solve(centred.T @ centred + penalty * np.eye(HIDDEN), centred.T @ (sides - level))
        return weights, level - float(mean @ weights)

    def error(strength: float) -> float:
        lost = 0.0
        for q in np.unique(question):
            weights, start = fit(train[question != q], labels[question != q], strength * scale)
            lost += float(((train[question == q] @ weights + start - labels[question == q]) ** 2).sum())
        return lost

    chosen = min(STRENGTHS, key=error)
    weights, start = fit(train, labels, chosen * scale)
    found = ridge(train @ train.T, test @ train.T, labels[None], question)
    assert found[0] == pytest.approx(test @ weights + start, abs=1e-8)


def test_questions_are_in_one_part_and_their_null_is_exactly_balanced() -> None:
    way = other_questions(TEXTS, 3)
    assert [len(np.intersect1d(TEXTS.question[p.train], TEXTS.question[p.test])) for p in way.parts] == [0] * 4
    assert sorted(np.concatenate([part.test for part in way.parts])) == list(range(len(TEXTS)))
    kept = way.labels[1:] * TEXTS.labels  # 1 where the side is the true one
    for q in range(QUESTIONS):
        assert (kept[:, TEXTS.question == q].sum(axis=1) == 0).all()
    assert len({row.tobytes() for row in way.labels}) == len(way.labels)


def test_words_that_tell_are_found_and_no_tested_text_has_a_word_fitted_to() -> None:
    held, side = telling_words(TEXTS)
    assert sorted(side) == [-1] * WORDS + [1] * WORDS
    way = other_words(TEXTS, 3)
    assert way is not None
    assert way.units == 2 * WORDS
    for part in way.parts:
        assert not (held[part.train].any(axis=0) & held[part.test].any(axis=0)).any()
        assert min((TEXTS.labels[part.train] == sign).sum() for sign in (1, -1)) >= FEWEST


def test_without_telling_words_there_are_no_other_words_to_hold_out() -> None:
    same = Texts(TEXTS.question, TEXTS.fold, [[1, 2, 3]] * len(TEXTS))
    assert other_words(same, 0) is None
    assert [way.held for way in splits(same, 0)] == ["questions"]


def test_words_are_dealt_in_every_other_way_or_in_different_ones() -> None:
    rng = np.random.default_rng(0)
    side = np.array([1, 1, 1, -1, -1])
    every = dealings(side, 999, rng)
    assert len(every) == math.comb(5, 3) - 1
    assert (every.sum(axis=1) == side.sum()).all()
    assert not (every == side).all(axis=1).any()
    some = dealings(np.repeat([1, -1], 10), 50, rng)
    assert len({row.tobytes() for row in some}) == 50


def test_words_alone_and_length_stand_beside() -> None:
    found = surface(TEXTS, WAYS)
    assert found["questions", "difference", "words"] > 0.95
    assert found["words", "difference", "words"] < 0.75
    assert 0.3 < found["questions", "difference", "length"] < 0.7


def test_scores_along_a_vector_are_measured_as_they_are() -> None:
    way = other_questions(TEXTS, 3)
    perfect = measure_scores(TEXTS.labels.copy(), TEXTS, way)
    assert np.nanmean(perfect.auc) == 1
    assert np.nanmean(perfect.accuracy) == 1
    assert perfect.p_null == pytest.approx(0.01)
    absent = measure_scores(np.full(len(TEXTS), np.nan), TEXTS, way)
    assert np.isnan(absent.auc).all()
    assert math.isnan(absent.p_null)
    assert absent.n_texts == 0


def table_of(layers: list[Floats], checkpoint: str, tokens: float) -> pd.DataFrame:
    """Return the statistics of a network with these activations."""
    gram = np.stack([one @ one.T for one in layers]).astype(np.float32)
    series: dict[tuple[str, str], dict[int, object]] = {}
    along = {"forced": np.stack([TEXTS.labels] * len(layers)).astype(np.float32)}
    for split, probe, layer, one in measurements(gram, along, TEXTS, WAYS):
        series.setdefault((split, probe), {})[layer] = one
    who = {"lineage": "l", "checkpoint": checkpoint, "tokens": tokens, "trait": "t", "strategy": "s", "auc_length": 0.5}
    beside = surface(TEXTS, WAYS)
    return pd.concat(
        [
            statistics(found, split, 0).assign(
                split=split, probe=probe, auc_words=beside.get((split, probe, "words"), math.nan), **who
            )
            for (split, probe), found in series.items()
        ]
    )


ORDER = ["step0", "step1", "step2", "step3"]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Words alone at first; from step2 on the trait itself, at layer 1."""
    networks = [[WORDS_ALONE, WORDS_ALONE], [WORDS_ALONE, WORDS_ALONE], [WORDS_ALONE, TRAIT], [WORDS_ALONE, TRAIT]]
    parts = [table_of(layers, name, 100.0 * i) for i, (layers, name) in enumerate(zip(networks, ORDER, strict=True))]
    return judged(pd.concat(parts), ORDER)


def rows(table: pd.DataFrame, split: str, probe: str, layer: int) -> pd.DataFrame:
    return table[(table["split"] == split) & (table["probe"] == probe) & (table["layer"] == layer)].set_index("checkpoint")


def test_words_are_readable_from_the_start_and_only_other_words_tell_of_more(table: pd.DataFrame) -> None:
    questions, words = rows(table, "questions", "difference", 1), rows(table, "words", "difference", 1)
    assert questions["readable"].tolist() == [True] * 4
    assert questions["above_words"].tolist() == [False] * 4
    assert words["readable"].tolist() == [False, False, True, True]
    assert words.loc["step2", "above_words"]
    assert words["ci_low"].isna().all()
    assert (words["n_words"] == 2 * WORDS).all()
    assert (rows(table, "words", "difference", 0)["readable"] == False).all()  # noqa: E712


def test_the_untrained_checkpoint_and_layer_0_stand_beside_each_row(table: pd.DataFrame) -> None:
    words = rows(table, "words", "ridge", 1)
    assert (words["auc_untrained"] == words.loc["step0", "auc"]).all()
    below = rows(table, "words", "ridge", 0)
    assert words["auc_layer_0"].tolist() == below["auc"].tolist()
    assert rows(table, "questions", "ridge", 1).loc["step3", "gain_layer_0"] == pytest.approx(
        rows(table, "questions", "ridge", 1).loc["step3", "auc"] - rows(table, "questions", "ridge", 0).loc["step3", "auc"]
    )


def test_p_is_adjusted_over_layers_and_checkpoints(table: pd.DataFrame) -> None:
    part = table[(table["split"] == "questions") & (table["probe"] == "forced")]
    assert part["p"].tolist() == [2.0**-QUESTIONS] * 8
    assert part["p_adjusted"].tolist() == pytest.approx([8 * 2.0**-QUESTIONS] * 8)
    words = rows(table, "words", "difference", 1)
    assert words["p_adjusted"].min() == pytest.approx(4 * words["p"].min())


def test_what_the_next_checkpoint_does_not_confirm_is_not_readable() -> None:
    parts = [
        table_of([one], name, 100.0 * i)
        for i, (one, name) in enumerate(((NOISE, "a"), (TRAIT, "b"), (NOISE, "c"), (TRAIT, "d")))
    ]
    found = judged(pd.concat(parts), ["a", "b", "c", "d"])
    assert rows(found, "questions", "difference", 0)["readable"].tolist() == [False, False, False, True]


def verdicts(after: str | None, by: str | None) -> pd.DataFrame:
    who = {"kind": "emergence", "trait": "t", "strategy": "s", "layer": 1, "onset_after": after, "onset_by": by}
    return pd.DataFrame([{**who, "tokens_after": None, "tokens_by": None, "censored": "" if by else "never", "lost": 0}])


@pytest.mark.parametrize(
    ("after", "by", "first"),
    [("step2", "step3", "readable"), ("step0", "step1", "steerable"), ("step1", "step2", "untold"), (None, None, "")],
)
def test_onsets_stand_beside_each_other(table: pd.DataFrame, after: str | None, by: str | None, first: str) -> None:
    found = readable_table(table, verdicts(after, by), ORDER, forced="s")
    row = found[(found["split"] == "words") & (found["probe"] == "difference") & found["named"]].iloc[0]
    assert (row["layer"], row["readable_after"], row["readable_by"], row["beyond_words_by"]) == (1, "step1", "step2", "step2")
    assert row["readable_tokens_by"] == 200.0
    assert row["steerable_by"] == by or (by is None and pd.isna(row["steerable_by"]))
    assert row["first"] == first
    start = found[(found["split"] == "questions") & (found["probe"] == "difference") & found["named"]].iloc[0]
    assert (start["readable_by"], start["readable_censored"]) == ("step0", "from_first")
    assert pd.isna(start["beyond_words_by"])
