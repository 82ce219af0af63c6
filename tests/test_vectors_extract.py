"""Everything kept of a cell, read in one pass, against the estimators applied to the rows' means in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from conftest import tiny_model
from traitline.models import Model, calibrate, capture_rows
from traitline.models.capture import SEGMENTS
from traitline.vectors.controls import covariance, isotropic, shuffled
from traitline.vectors.estimators import (
    cell_balanced,
    difference_of_means,
    find_pairs,
    passing,
    question_bootstrap,
    split_half_cosine,
)
from traitline.vectors.extract import VECTORS, ControlSeeds, extract_arrays

SEEDS = ControlSeeds(isotropic=range(1), covariance=range(1, 2), shuffled=range(2, 5), bootstraps=3)
MOMENTS = {f"{side}_{name}" for side in ("positive", "negative") for name in ("mean", "variance")}


def _contrast(questions: int = 6, samples: int = 4, seed: int = 0) -> pd.DataFrame:
    """Contrast rows of two instructions; some fail, some lack a score, some are empty, and one cell has one side only."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for instruction in ("i1", "i2"):
        for question in range(questions):
            for sample in range(samples):
                for polarity, trait in (("pos", 90.0), ("neg", 5.0)):
                    rows.append(
                        {
                            "instruction_id": instruction,
                            "question_id": f"q{question}",
                            "sample": sample,
                            "polarity": polarity,
                            "trait_score": trait,
                            "coherence": 20.0 if rng.random() < 0.15 else 90.0,
                            "prompt_token_ids": rng.integers(3, 64, size=rng.integers(1, 8)),
                            "response_token_ids": rng.integers(3, 64, size=rng.integers(1, 10)),
                        }
                    )
    table = pd.DataFrame(rows)
    table.loc[7, "trait_score"] = np.nan
    table.at[10, "response_token_ids"] = np.array([], dtype=np.int64)
    table.loc[table["question_id"].eq("q0") & table["polarity"].eq("neg") & table["instruction_id"].eq("i1"), "coherence"] = 1
    return table.sample(frac=1, random_state=2).set_index(np.zeros(len(table), dtype=int))


def _in_memory(model: Model, table: pd.DataFrame, seed: int) -> dict[str, np.ndarray]:
    """Make the arrays of rows' means, all in memory."""
    rows = table.reset_index(drop=True)
    pairs = find_pairs(rows)
    means = capture_rows(model, list(zip(rows["prompt_token_ids"], rows["response_token_ids"], strict=True)))
    response = means[:, 2]
    differences = response[pairs.positive] - response[pairs.negative]
    made = {name: difference_of_means(means[:, i], pairs) for i, name in enumerate(SEGMENTS)}
    made["balanced_response_avg"] = cell_balanced(response, rows)
    made["split_half_cosine"] = split_half_cosine(differences, pairs.question, (seed, 4))
    made["bootstrap"] = question_bootstrap(differences, pairs.question, 3, (seed, 3))
    for k in (2, 3, 4):
        made[f"shuffled_{k}"] = shuffled(differences, pairs.question, (seed, 2, k))  # type: ignore[assignment]
    for side, members in (("positive", response[pairs.positive]), ("negative", response[pairs.negative])):
        made[f"{side}_mean"] = members.mean(axis=0, dtype=np.float64)
        made[f"{side}_variance"] = members.var(axis=0, ddof=1, dtype=np.float64)
    return made


@pytest.mark.parametrize("architecture", ["olmo3", "gemma2", "gpt2", "gpt_neox", "qwen3"])
def test_one_pass_gives_what_the_estimators_give(architecture: str) -> None:
    model, table = tiny_model(architecture), _contrast()
    calibration = calibrate(model, [[1, 5, 9, 33, 20]] * 4)
    arrays, pairs = extract_arrays(model, table, calibration, SEEDS, 11)
    assert 20 < len(pairs) < passing(table).sum() / 2  # some rows that pass have no partner
    expected = _in_memory(model, table, 11)
    expected["activation_norms"] = calibration.norms
    expected["isotropic_0"] = isotropic(arrays["response_avg"], (11, 0, 0))
    expected["covariance_1"] = covariance(arrays["response_avg"], calibration.sample, (11, 1, 1))
    assert set(arrays) == set(expected)
    for name, array in arrays.items():
        assert array.dtype == np.float32, name
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(array, expected[name], atol=1e-5 * scale, rtol=1e-4, err_msg=name)
        if name.startswith(("isotropic", "covariance", "shuffled")):
            norms = [np.linalg.norm(one, axis=1) for one in (array, arrays["response_avg"])]
            np.testing.assert_allclose(*norms, rtol=1e-5)


def test_the_vector_is_what_lies_between_the_classes(llama: Model) -> None:
    arrays, _ = extract_arrays(llama, _contrast(), calibrate(llama, [[1, 5, 9]]), ControlSeeds(), 0)
    np.testing.assert_allclose(arrays["response_avg"], arrays["positive_mean"] - arrays["negative_mean"], atol=1e-5)
    assert set(arrays) == {*VECTORS, *MOMENTS, "split_half_cosine", "activation_norms"}


def test_a_single_pair_gives_vectors_and_no_spread(llama: Model) -> None:
    table = _contrast().query("question_id == 'q3' and instruction_id == 'i2' and coherence > 50 and trait_score >= 0")
    table = table[table["sample"] == table["sample"].mode()[0]]
    arrays, pairs = extract_arrays(llama, table, calibrate(llama, [[1, 5, 9]]), SEEDS, 0)
    assert len(pairs) == 1
    assert not {name for name in arrays if name.startswith("shuffled")}
    np.testing.assert_allclose(arrays["bootstrap"], np.stack([arrays["response_avg"]] * 3), rtol=1e-6)
    np.testing.assert_allclose(arrays["balanced_response_avg"], arrays["response_avg"], rtol=1e-6)
    for name in ("split_half_cosine", "positive_variance", "negative_variance"):
        assert np.isnan(arrays[name]).all()


def test_without_an_accepted_pair_nothing_is_read(llama: Model) -> None:
    arrays, pairs = extract_arrays(llama, _contrast().query("polarity == 'pos'"), calibrate(llama, [[1, 5, 9]]), SEEDS, 0)
    assert (arrays, len(pairs)) == ({}, 0)
