"""The verbs of the public API."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import traitline as tl
from small_study import CountingJudge, make_trait
from traitline.models.loading import Model


@pytest.fixture(scope="module")
def trait(tmp_path_factory: pytest.TempPathFactory) -> tl.Trait:
    return tl.trait(make_trait(tmp_path_factory.mktemp("trait"), "even"))


def test_every_public_name_exists() -> None:
    for name in tl.__all__:
        assert getattr(tl, name) is not None
    assert tl.analysis.significance.sign_flip([1.0, 2.0, 3.0]).p_greater == 0.125


def test_import_is_light() -> None:
    code = "import sys, traitline; print([m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="persona"):
        _ = tl.persona


def test_packaged_traits_and_nanos_own() -> None:
    assert tl.trait("evil").digest != tl.trait("nano:evil").digest
    with pytest.raises(tl.InputError, match="nearest"):
        tl.trait("evli")


def test_elicit_extract_steer_generate(llama: Model, trait: tl.Trait, tmp_path: Path) -> None:
    rows = tl.elicit(llama, trait, judge=CountingJudge(), samples=2, max_new_tokens=6, seed=1)
    assert len(rows) == 2 * 8 * 2 * 2
    assert rows["accepted"].any()
    vector = tl.extract(llama, rows)
    assert vector.array.shape == (llama.layers + 1, llama.hidden)
    assert vector.provenance.n_pairs == rows["accepted"].sum() / 2
    assert tl.extract(llama, rows, position="balanced_response_avg").provenance.estimator == "balanced"
    loaded = tl.PersonaVector.load(vector.save(tmp_path / "even.safetensors"))
    np.testing.assert_array_equal(loaded.array, vector.array)
    steer = tl.steer(loaded, layer=2, coef=2.0)
    prompts = ["w5 w6", "w9", "w12 w4 w7"]
    baseline = tl.generate(llama, prompts, max_new_tokens=8, seed=4)
    mixed = tl.generate(llama, prompts, steer=[None, steer, None], max_new_tokens=8, seed=4)
    assert [a.text == b.text for a, b in zip(baseline, mixed, strict=True)] == [True, False, True]


def test_the_vector_is_the_difference_of_captured_means(llama: Model, trait: tl.Trait) -> None:
    rows = tl.elicit(llama, trait, judge=CountingJudge(), max_new_tokens=6)
    kept = rows[rows["accepted"]]
    means = tl.capture(llama, kept["prompt_token_ids"].tolist(), kept["response_token_ids"].tolist())
    positive = (kept["polarity"] == "pos").to_numpy()
    expected = means[positive, 2].mean(axis=0) - means[~positive, 2].mean(axis=0)
    np.testing.assert_allclose(tl.extract(llama, rows).array, expected, atol=1e-5)


def test_no_accepted_pair_is_said(llama: Model, trait: tl.Trait) -> None:
    rows = tl.elicit(llama, trait, judge=CountingJudge(), max_new_tokens=6)
    with pytest.raises(tl.InputError, match="accepted pair"):
        tl.extract(llama, rows.assign(coherence=0.0))


def test_texts_and_ids_capture_the_same(llama: Model) -> None:
    texts = tl.capture(llama, ["w5 w6"], ["w7 w8"])
    ids = tl.capture(llama, [[1, 5, 6]], [[7, 8, 2]])  # the closing EOS is left out
    np.testing.assert_allclose(texts, ids, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: tl.capture(m, ["w5"], []), "1 prompts but 0 responses"),
        (lambda m: tl.generate(m, ["w5"], steer=[None, None]), "1 prompts but 2 steers"),
        (lambda m: tl.generate(m, ["w5"], steer=tl.steer(tl.PersonaVector.from_array(np.ones((4, 8))), 1, 1.0)), "3 x 32"),
        (lambda m: tl.steer(tl.PersonaVector.from_array(np.ones((4, 32))), 4, 1.0), "1 to 3"),
        (lambda m: tl.judge("gpt"), "no judge"),
        (lambda m: tl.Study.from_yaml("nothing"), "no study"),
    ],
)
def test_bad_arguments_say_what_is_wrong(llama: Model, call: object, words: str) -> None:
    with pytest.raises(tl.InputError, match=words):
        call(llama)  # type: ignore[operator]


def test_a_judge_without_a_key_says_which_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(tl.JudgeError, match="OPENAI_API_KEY"):
        tl.judge("openai:gpt-4.1-mini")


def test_nano_judge_takes_a_cache_and_ignores_it(tmp_path: Path) -> None:
    assert tl.judge("nano", tmp_path / "cache.sqlite").name == "nano"
