"""A study that compares strategies and stages: what is planned, pooled, applied and written."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import traitline as tl
from conftest import tiny_network, tiny_tokenizer
from small_study import CountingJudge, make_study, make_trait
from traitline.analysis.effects import largest_control
from traitline.errors import InputError
from traitline.judges import Score
from traitline.study.plan import Cell
from traitline.study.store import RunStore, read_rows
from traitline.traits import Trait

STAGES = ("tuned", "polished")
KINDS = (("tuned", "sft"), ("polished", "dpo"))


class FacetJudge(CountingJudge):
    """Also tells whether an answer holds many words or few."""

    def annotate(self, trait: Trait, questions: Any, answers: list[str]) -> list[frozenset[str] | None]:
        return [frozenset({"many"} if len(answer.split()) > 3 else {"few"}) if answer else None for answer in answers]

    def score(self, trait: Trait, questions: Any, answers: Any, *, style: str = "", purpose: str = "") -> list[Score]:
        return super().score(trait, questions, answers, style=style, purpose=purpose)


def make_full_study(folder: Path, **changes: Any) -> Path:
    """Write a study of two strategies and two descendants, one trait with facets and common questions."""
    path = make_study(folder)
    content = yaml.safe_load(path.read_text())
    for i, name in enumerate(STAGES):
        tiny_network("llama", seed=10 + i).save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    notes = [{"name": name, "kind": kind, "path": f"../{name}", "chat": False} for name, kind in KINDS]
    (folder / "lineage" / "lineage.yaml").write_text(yaml.safe_dump({"descendants": notes}))
    trait = yaml.safe_load(make_trait(folder, "even").read_text())
    texts = trait["strategies"]["character"]
    story = {split: [f"{text} w9" for text in questions] for split, questions in texts["questions"].items()}
    trait["strategies"]["story"] = {"contrasts": texts["contrasts"], "questions": story}
    trait["common"] = {split: [f"w7 {text}" for text in texts["questions"][split]] for split in ("tune", "evaluate")}
    trait["facets"] = {"many": "Says many words.", "few": "Says few."}
    (folder / "even.yaml").write_text(yaml.safe_dump(trait))
    content |= {
        "traits": [str(folder / "even.yaml")],
        "strategies": ["character", "story", "combined", "forced"],
        "targets": ["last", *STAGES],
        "compare_strategies": True,
        "descendant_vectors": True,
        "evaluate": {"samples": 1, "max_new_tokens": 6, "layers": [1], "coefs": [0.5, -0.5]},
        **changes,
    }
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, light_figures: None) -> tl.Study:
    folder = tmp_path_factory.mktemp("full")
    study = tl.Study.from_yaml(make_full_study(folder), folder / "run")
    assert not study.run(judge=FacetJudge()).failed
    return study


def table(study: tl.Study, name: str) -> pd.DataFrame:
    return pd.read_csv(study.out / "tables" / f"{name}.csv")


def test_combined_pools_the_contrast_rows_of_every_strategy(done: tl.Study) -> None:
    store, names = RunStore(done.out), ("character", "story")
    for network in ("step0", "step20", "tuned"):
        parts = [read_rows(store.contrast(Cell(network, "even", name))) for name in names]
        pooled = read_rows(store.contrast(Cell(network, "even", "combined")))
        assert pooled["response"].tolist() == pd.concat(parts)["response"].tolist()
        assert pooled["accepted"].tolist() == pd.concat(parts)["accepted"].tolist()
        assert set(pooled["strategy"]) == {"combined"}
        assert pooled["row_key"].is_unique
        assert set(pooled["row_key"]).isdisjoint(pd.concat(parts)["row_key"])


def test_the_combined_vector_is_the_mean_difference_over_all_pairs(done: tl.Study) -> None:
    store = RunStore(done.out)
    pooled = read_rows(store.contrast(Cell("step20", "even", "combined")))
    plan = done.resolved
    model = tl.load_model(plan.last.source)
    kept = pooled[pooled["accepted"]]
    means = tl.capture(model, [list(p) for p in kept["prompt_token_ids"]], [list(r) for r in kept["response_token_ids"]])[:, 2]
    positive = kept["polarity"].eq("pos").to_numpy()
    expected = means[positive].mean(axis=0) - means[~positive].mean(axis=0)
    saved = tl.PersonaVector.load(store.vector(Cell("step20", "even", "combined")))
    np.testing.assert_allclose(saved.array, expected, atol=1e-5)


def test_strategies_has_every_vector_on_every_set_of_questions(done: tl.Study) -> None:
    found = table(done, "strategies")
    here = found[found["target"].str.startswith("step")]
    sets, vectors = ("character", "story", "common"), ("character", "story", "combined")
    expected = set(itertools.product(("step0", "step10", "step20"), sets, vectors))
    assert set(zip(here["target"], here["strategy"], here["vector_strategy"], strict=True)) == expected
    assert len(here) == len(expected)  # one dose: the positive one
    after = found[~found["target"].str.startswith("step")]
    assert set(after["strategy"]) == {"common"}
    assert set(after["vector_checkpoint"]) == {"step20"}
    assert set(zip(after["target"], after["vector_strategy"], strict=True)) == set(itertools.product(STAGES, vectors))
    complete = found[found["status"] == "complete"]
    assert complete["delta_trait"].notna().all()
    assert complete["n_questions"].eq(6).all()


def test_a_delta_of_another_strategys_vector_follows_from_the_rows(done: tl.Study) -> None:
    rows = read_rows(RunStore(done.out).evaluation(Cell("step20", "even", "story")))
    one = (rows["condition"] == "steered") & (rows["vector_strategy"] == "character") & (rows["split"] == "evaluate")
    base = rows[(rows["condition"] == "baseline") & (rows["split"] == "evaluate")]
    sides = [part.groupby("question_id")["trait_score"].mean() for part in (rows[one], base)]
    found = table(done, "strategies")
    line = found[(found.target == "step20") & (found.strategy == "story") & (found.vector_strategy == "character")].iloc[0]
    assert line["delta_trait"] == pytest.approx((sides[0] - sides[1]).mean())


def test_on_its_own_questions_a_strategy_has_the_delta_of_emergence(done: tl.Study) -> None:
    found, emerged = table(done, "strategies"), table(done, "emergence")
    own = found[(found["strategy"] == found["vector_strategy"]) & found["target"].str.startswith("step")]
    both = own.merge(emerged, on=["trait", "strategy", "target", "vector_checkpoint", "layer", "coef"], suffixes=("", "_e"))
    assert len(both) == 6
    np.testing.assert_allclose(both["delta_trait"], both["delta_trait_e"])


def test_cosines_between_strategies_are_those_of_their_vectors(done: tl.Study) -> None:
    found, store = table(done, "cosine_cross_strategy"), RunStore(done.out)
    a, b = (tl.PersonaVector.load(store.vector(Cell("step20", "even", name))) for name in ("character", "story"))
    line = found[(found.checkpoint == "step20") & (found.strategy_a == "character") & (found.strategy_b == "story")]
    np.testing.assert_allclose(line.sort_values("layer")["cosine"], a.cosine(b), atol=1e-6)


def test_facets_count_the_answers_that_show_them(done: tl.Study) -> None:
    found, store = table(done, "facets"), RunStore(done.out)
    rows = read_rows(store.contrast(Cell("step20", "even", "character")))
    told = rows[rows["accepted"] & (rows["polarity"] == "pos")]
    shown = [json.loads(text) for text in told["facets"].dropna()]
    line = found[(found.set == "elicited") & (found.strategy == "character") & (found.checkpoint == "step20")]
    for facet in ("many", "few"):
        assert line.set_index("facet")["count"][facet] == sum(facet in one for one in shown)
    assert {"elicited", "baseline", "steered +0.5", "steered +0.5, common questions"} == set(found["set"])


def test_descendants_vectors_are_applied_to_every_target(done: tl.Study) -> None:
    found = table(done, "reverse")
    expected = set(itertools.product(STAGES, ("step20", *STAGES), ("character", "story", "combined")))
    assert set(zip(found["vector_checkpoint"], found["target"], found["strategy"], strict=True)) == expected
    assert set(table(done, "transfer")["vector_checkpoint"]) == {"step0", "step10", "step20"}
    rows = read_rows(RunStore(done.out).transfer(Cell("step20", "even", "character")))
    assert set(rows["vector_checkpoint"].dropna()) >= set(STAGES)


def test_stages_compare_each_network_with_the_one_before(done: tl.Study) -> None:
    found = table(done, "stages")
    line = found[found["strategy"] == "combined"].set_index("stage")
    assert line["previous"].fillna("").to_dict() == {"step20": "", "tuned": "step20", "polished": "tuned"}
    store = RunStore(done.out)
    means = {}
    for stage in line.index:
        rows = read_rows(store.transfer(Cell(stage, "even", "combined")))
        means[stage] = rows[rows["condition"] == "baseline"].groupby("question_id")["trait_score"].mean()
        assert line["baseline_trait"][stage] == pytest.approx(means[stage].mean())
    assert line["delta_trait"]["polished"] == pytest.approx((means["polished"] - means["tuned"]).mean())
    assert np.isnan(line["delta_trait"]["step20"])


def test_projections_are_along_the_last_vector_in_shares_of_the_norm(done: tl.Study) -> None:
    store, plan = RunStore(done.out), done.resolved
    found = pd.read_csv(store.projections("tuned"))
    rows = read_rows(store.transfer(Cell("tuned", "even", "story")))
    base = rows[rows["condition"] == "baseline"].reset_index(drop=True)
    model = tl.load_model(next(t.source for t in plan.targets if t.name == "tuned"))
    vector = tl.PersonaVector.load(store.vector(Cell("step20", "even", "story")))
    means = tl.capture(model, [list(p) for p in base["prompt_token_ids"]], [list(r) for r in base["response_token_ids"]])[
        :, 2, 1
    ]
    norm = tl.PersonaVector.load(store.vector(Cell("tuned", "even", "story"))).provenance.activation_norms
    assert norm is not None
    expected = means @ vector.array[1] / (np.linalg.norm(vector.array[1]) * norm[1])
    own = found[(found["strategy"] == "story") & (found["layer"] == 1)].set_index("row_key")["projection"]
    np.testing.assert_allclose(own.reindex(base["row_key"]), expected, atol=1e-5)


def test_plan_and_status_count_the_descendants(done: tl.Study) -> None:
    assert done.plan()["phases"]["elicit"]["rows"] == (3 + 2) * 2 * 2 * 8 * 2 * 2
    status = done.status()
    assert set(status["state"]) == {"complete"}
    cells = status[status["phase"] == "cells"]
    assert len(cells) == 3 * 4 + 2 * 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"strategies": ["character", "combined"]}, "pools the rows of several"),
        ({"strategies": ["character", "story"]}, "needs 'combined'"),
        ({"targets": ["last"]}, "no descendant is among the targets"),
    ],
)
def test_a_study_that_cannot_compare_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        tl.Study.from_yaml(make_full_study(tmp_path, **changes)).plan()


def test_combined_needs_common_questions(tmp_path: Path) -> None:
    path = make_full_study(tmp_path)
    trait = yaml.safe_load((tmp_path / "even.yaml").read_text())
    del trait["common"]
    (tmp_path / "even.yaml").write_text(yaml.safe_dump(trait))
    with pytest.raises(InputError, match="has no common questions"):
        tl.Study.from_yaml(path).plan()


def test_the_page_shows_what_was_compared(done: tl.Study) -> None:
    page = (done.out / "report.html").read_text()
    for title in ("Strategies against each other", "What post-training did", "Descendants&#39; vectors"):
        assert title in page


def test_descendants_meet_the_controls_of_the_last_vector(done: tl.Study) -> None:
    controls, moved = table(done, "controls"), table(done, "transfer")
    for name in STAGES:
        met = controls[controls["target"] == name]
        assert set(met["vector_checkpoint"]) == {"step20"}
        assert set(met["strategy"]) == set(moved["strategy"])
        assert set(met["control_kind"]) == {"isotropic", "covariance", "shuffled"}
        drawn = met[met["status"] == "complete"]
        assert drawn["n_rows_steered"].eq(6).all()
        rows = read_rows(done.out / f"targets/{name}/even/character/transfer.parquet")
        control = rows[(rows["control_kind"] == "isotropic") & (rows["coef"] == 0.5)]
        row = drawn[(drawn["control_kind"] == "isotropic") & (drawn["strategy"] == "character")].iloc[0]
        assert row["steered_trait"] == pytest.approx(control.groupby("question_id")["trait_score"].mean().mean())
    assert not (controls["target"].isin(STAGES) & (controls["vector_checkpoint"] != "step20")).any()
    again = read_rows(done.out / "targets/step20/even/character/transfer.parquet")
    assert not again["condition"].isin(["random", "shuffled"]).any()  # the last checkpoint has met its own before


def test_every_transfer_to_a_descendant_is_held_against_a_control(done: tl.Study) -> None:
    moved, controls = table(done, "transfer"), table(done, "controls")
    here = moved[moved["target"].isin(STAGES) & (moved["status"] == "complete")]
    assert len(here)
    largest = controls.groupby(["target", "trait", "strategy"])["delta_trait"].max()
    keys = pd.MultiIndex.from_frame(here[["target", "trait", "strategy"]])
    assert largest_control(here, controls).to_numpy() == pytest.approx(largest.reindex(keys).to_numpy())
    assert largest_control(here, controls).notna().all()
