"""What a study keeps of the meaning of its vectors, run on tiny random networks; neutral answers; components steered alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from small_study import CountingJudge, make_study
from traitline.errors import InputError
from traitline.models import Model, capture_rows, load_model
from traitline.models.capture import RESPONSE, Calibration
from traitline.report.components import components
from traitline.report.meaning import meaning
from traitline.report.page import render
from traitline.report.tables import read_run
from traitline.study.config import load_config
from traitline.study.plan import Cell, make_plan
from traitline.study.run import run_study
from traitline.study.store import RunStore, read_rows
from traitline.vectors.extract import ControlSeeds, extract_arrays
from traitline.vectors.vector import load_arrays

LAST = "step20"


def add_strategy(path: Path) -> None:
    """Give a trait a second strategy, with the same texts the other way round, and common questions."""
    content = yaml.safe_load(path.read_text())
    texts = content["strategies"]["character"]
    turned = {split: [" ".join(reversed(q.split())) for q in questions] for split, questions in texts["questions"].items()}
    content["strategies"]["story"] = {"contrasts": texts["contrasts"], "questions": turned}
    content["common"] = {"evaluate": texts["questions"]["evaluate"][:4]}
    path.write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one trait and two strategies, with neutral answers and components."""
    folder = tmp_path_factory.mktemp("meanings")
    study = make_study(
        folder,
        traits=[str(folder / "even.yaml")],
        strategies=["character", "story", "combined"],
        checkpoints=["step10", LAST],
        targets=[],
        components=True,
        elicit={"samples": 2, "max_new_tokens": 6, "neutral": True},
        evaluate={"samples": 1, "max_new_tokens": 6, "layers": [2], "coefs": [0.5], "other_rubrics": False},
        controls={"isotropic": 0, "covariance": 0, "shuffled": 1, "bootstrap": 2},
    )
    add_strategy(folder / "even.yaml")
    return study


@pytest.fixture(scope="module")
def run(study: Path) -> Path:
    out = study.parent / "run"
    run_study(make_plan(load_config(study)), out, lambda _cache: CountingJudge())
    return out


def table(run: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(run / "tables" / f"{name}.csv")


def test_every_vector_has_its_tokens_beside_what_chance_gives(run: Path) -> None:
    tops = table(run, "lens")
    vectors = tops[(tops["direction"] == "vector") & (tops["checkpoint"] == LAST)]
    assert set(vectors["layer"]) == {0, 1, 2, 3}, "all layers, not only those that are steered at"
    steered = vectors[(vectors["layer"] == 2) & (vectors["strategy"] == "story")]
    promoted, demoted = (steered[steered["side"] == side] for side in ("promoted", "demoted"))
    assert (len(promoted), len(demoted)) == (20, 20)
    assert promoted["z"].is_monotonic_decreasing
    assert demoted["z"].is_monotonic_increasing
    assert steered["chance"].abs().gt(0).all()
    assert [json.loads(text) for text in promoted["token"]] == [f"w{i}" for i in promoted["token_id"]]
    vocabulary = table(run, "lens_vocabulary").set_index("checkpoint").loc[LAST]
    assert (vocabulary["n_tokens"], vocabulary["n_kept"], vocabulary["special"]) == (64, 61, 3)
    drift = table(run, "lens_drift")
    assert drift.loc[drift["checkpoint"] != LAST, "overlap_last"].between(0, 1).all()


def test_texts_at_the_ends_are_those_with_the_largest_projections(study: Path, run: Path) -> None:
    plan, store = make_plan(load_config(study)), RunStore(run)
    cell = Cell(LAST, "even", "character")
    texts = table(run, "nearest_texts")
    shown = texts[(texts["checkpoint"] == LAST) & (texts["strategy"] == "character") & (texts["layer"] == 2)]
    rows = pd.concat([read_rows(store.evaluation(Cell(LAST, "even", name))) for name in plan.config.strategies])
    rows = rows[(rows["condition"] == "baseline") & (rows["split"] == "evaluate")]
    rows = rows[rows["response_token_ids"].map(len) > 0]
    model = load_model(plan.last.source)
    arrays, _ = load_arrays(store.vector(cell))
    direction, norm = arrays["response_avg"][2], arrays["activation_norms"][2]
    ids = list(zip(rows["prompt_token_ids"], rows["response_token_ids"], strict=True))
    along = capture_rows(model, ids, layers=[2])[:, RESPONSE, 0] @ direction / (np.linalg.norm(direction) * norm)
    assert shown["projection"].max() == pytest.approx(along.max(), rel=1e-4)
    assert shown["projection"].min() == pytest.approx(along.min(), rel=1e-4)
    best = rows.iloc[int(along.argmax())]
    first = shown[(shown["end"] == "high") & (shown["place"] == 1)].iloc[0]
    assert (json.loads(first["response"]), first["trait_score"]) == (best["response"], best["trait_score"])


def test_a_run_from_before_gets_its_meanings_and_no_row_anew(study: Path, run: Path) -> None:
    older = run.parent / "older"
    shutil.copytree(run, older)
    shutil.rmtree(older / "meanings")
    for path in (older / "tables").glob("lens*.csv"):
        path.unlink()
    judge, stamps = CountingJudge(), {path: path.stat().st_mtime_ns for path in older.glob("cells/**/*.*")}
    outcome = run_study(make_plan(load_config(study)), older, lambda _cache: judge)
    assert not judge.seen
    assert not outcome.failed
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    for name in ("lens", "lens_words", "nearest_texts", "text_correlations"):
        assert (older / "tables" / f"{name}.csv").read_bytes() == (run / "tables" / f"{name}.csv").read_bytes()


def test_a_run_whose_networks_are_gone_ends_without_meanings(
    study: Path, run: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    shutil.copytree(run, older)
    shutil.rmtree(older / "meanings" / LAST)
    weights = study.parent / "lineage" / LAST / "model.safetensors"
    weights.rename(weights.with_suffix(".gone"))
    try:
        outcome = run_study(make_plan(load_config(study)), older, lambda _cache: CountingJudge())
    finally:
        weights.with_suffix(".gone").rename(weights)
    assert not outcome.failed
    assert f"{LAST}: what its vectors mean is not kept" in caplog.text


def test_neutral_rows_are_extra_and_both_sides_add_up(study: Path, run: Path) -> None:
    store = RunStore(run)
    rows = read_rows(store.contrast(Cell(LAST, "even", "character")))
    counts = rows["polarity"].value_counts()
    assert counts["pos"] == counts["neg"] == counts["neutral"], "as often as on either side"
    neutral = rows[rows["polarity"] == "neutral"]
    assert not neutral["accepted"].any()
    assert (neutral["prompt"] == neutral["question"]).all(), "without an instruction"
    for name in ("character", "story", "combined"):
        arrays, _ = load_arrays(store.vector(Cell(LAST, "even", name)))
        both = arrays["positive_neutral"] + arrays["neutral_negative"]
        np.testing.assert_allclose(both, arrays["response_avg"], atol=1e-5)
        assert arrays["positive_neutral_bootstrap"].shape == arrays["bootstrap"].shape
    sides = table(run, "neutral_sides")
    own = sides[(sides["checkpoint"] == LAST) & (sides["strategy"] == "story") & (sides["layer"] == 2)].iloc[0]
    arrays, _ = load_arrays(store.vector(Cell(LAST, "even", "story")))
    up, whole = arrays["positive_neutral"][2].astype(float), arrays["response_avg"][2].astype(float)
    assert own["positive_share"] == pytest.approx(up @ whole / (whole @ whole), rel=1e-4)


def test_a_pair_meets_the_neutral_answers_of_its_own_question(llama: Model) -> None:
    def row(polarity: str, question: str, sample: int, words: list[int], coherence: float = 80.0) -> dict[str, Any]:
        who = {
            "polarity": polarity,
            "question_id": question,
            "instruction_id": "n" if polarity == "neutral" else "i",
            "sample": sample,
        }
        scores = {"trait_score": 90.0 if polarity == "pos" else 10.0, "coherence": coherence}
        return who | scores | {"prompt_token_ids": [1, 5], "response_token_ids": words}

    rows = pd.DataFrame(
        [
            row("pos", "a", 0, [7, 8]), row("neg", "a", 0, [9]), row("pos", "b", 0, [10]), row("neg", "b", 0, [11, 12]),
            row("neutral", "a", 0, [13]), row("neutral", "a", 1, [14]), row("neutral", "a", 2, [15], coherence=10.0),
        ]
    )  # fmt: skip
    calibration = Calibration(np.ones(4, np.float32), np.ones((2, 4, 32), np.float32), 2)
    arrays, pairs = extract_arrays(llama, rows, calibration, ControlSeeds(bootstraps=3), 0)
    assert len(pairs) == 2
    ids = list(zip(rows["prompt_token_ids"], rows["response_token_ids"], strict=True))
    means = capture_rows(llama, ids)[:, RESPONSE]
    neutral = means[[4, 5]].mean(axis=0)
    np.testing.assert_allclose(arrays["positive_neutral"], means[0] - neutral, atol=1e-5)
    np.testing.assert_allclose(arrays["neutral_negative"], neutral - means[1], atol=1e-5)


def test_components_are_what_strategies_share_and_the_rest_of_each(study: Path, run: Path) -> None:
    store = RunStore(run)
    vector = {n: load_arrays(store.vector(Cell(LAST, "even", n)))[0]["response_avg"] for n in ("character", "story")}
    part = {
        n: load_arrays(store.vector(Cell(LAST, "even", n)))[0]["response_avg"]
        for n in ("shared", "rest-character", "rest-story")
    }
    for name in vector:
        rest, shared = part[f"rest-{name}"][2].astype(float), part["shared"][2].astype(float)
        assert rest @ shared == pytest.approx(0, abs=1e-4 * np.linalg.norm(rest) * np.linalg.norm(shared))
        along = vector[name][2] - rest
        assert abs(along @ shared) == pytest.approx(np.linalg.norm(along) * np.linalg.norm(shared), rel=1e-4)
    effects = table(run, "components")
    done = effects[effects["status"] == "complete"]
    assert done["delta_trait"].notna().all()
    assert done["n_rows_steered"].gt(0).all()
    there = done[done["vector_checkpoint"] == LAST]
    assert set(there.loc[there["strategy"] == "combined", "vector_strategy"]) == {
        "combined",
        "shared",
        "rest-character",
        "rest-story",
    }
    assert set(there.loc[there["strategy"] == "story", "vector_strategy"]) == {"story", "positive-story", "negative-story"}


def test_what_is_new_changes_nothing_for_studies_without_it(tmp_path: Path) -> None:
    study = yaml.safe_load(make_study(tmp_path).read_text())
    plain = load_config(tmp_path / "study.yaml")
    fields = plain.model_dump(mode="json")
    assert "components" not in fields
    assert "neutral" not in fields["elicit"]
    for changes, said in (({"components": True}, "components needs 'combined'"),):
        (tmp_path / "other.yaml").write_text(yaml.safe_dump(study | changes))
        with pytest.raises(InputError, match=said):
            load_config(tmp_path / "other.yaml")
    neutral = study | {"elicit": {**study["elicit"], "neutral": True}}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(neutral))
    plans = [make_plan(load_config(tmp_path / name)) for name in ("study.yaml", "other.yaml")]
    cell = plans[0].cells(plans[0].last)[0]
    rows = [[row.identity for row in plan.elicit_rows(plan.last, cell)] for plan in plans]
    assert rows[1][: len(rows[0])] == rows[0], "neutral rows come behind, and no other row changes"
    assert plans[0].digest != plans[1].digest


def test_the_report_shows_meanings_and_model_text_stays_text(run: Path, tmp_path: Path) -> None:
    shown = tmp_path / "run"
    shutil.copytree(run, shown)
    path = shown / "tables" / "nearest_texts.csv"
    texts = pd.read_csv(path)
    texts["response"] = json.dumps("<script>alert(1)</script>\u202e\x07")
    texts.to_csv(path, index=False)
    path = shown / "tables" / "lens.csv"
    tops = pd.read_csv(path)
    tops["token"] = json.dumps(" <b>nan")
    tops.to_csv(path, index=False)
    found = read_run(shown)
    sections = [section for section in (meaning(found), components(found)) if section is not None]
    assert [section.anchor for section in sections] == ["meaning", "components"]
    words = [cell for section in sections for table in section.tables for row in table.rows for cell in row]
    assert any("<script>" in cell for cell in words)
    assert any("<b>nan" in cell for cell in words)
    assert not any(character in cell for cell in words for character in "\u202e\x07\n")
    page = render(found)
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page
