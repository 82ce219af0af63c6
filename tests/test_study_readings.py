"""The readings of a tiny study: what is kept of each checkpoint, added to a finished run, and told of where lacking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from small_study import STEPS, CountingJudge, make_study
from traitline.errors import StoreError
from traitline.models import load_model
from traitline.models.capture import RESPONSE, capture_rows
from traitline.report.tables import read_run
from traitline.study import Study
from traitline.study.plan import Cell
from traitline.study.readings import TEXTS_PER_SIDE, Readings, chosen_pairs, load_readings, question_folds
from traitline.study.run import Outcome, run_study
from traitline.study.store import RunStore, read_rows
from traitline.vectors.vector import load_arrays

LEAN: dict[str, Any] = {
    "evaluate": {"samples": 1, "max_new_tokens": 6, "layers": [1], "coefs": [0.5]},
    "controls": {"isotropic": 0, "covariance": 0, "shuffled": 0, "bootstrap": 0},
    "targets": [],
}
Read = tuple[Study, dict[str, int], Outcome]
"""A study, when each file was written before its readings were asked for, and how the run ended that made them."""
NAMES = [f"step{step}" for step in STEPS]
KEY = ("even", "character")


def run(study: Study) -> Outcome:
    return run_study(study.resolved, study.out, lambda _cache: CountingJudge())


def rows_of(out: Path) -> dict[str, int]:
    """Return when each file of rows or vectors was written."""
    return {str(path): path.stat().st_mtime_ns for path in out.glob("cells/*/*/*/*")}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A finished run without readings."""
    folder = tmp_path_factory.mktemp("plain")
    study = Study.from_yaml(make_study(folder, **LEAN), out=folder / "run")
    assert run(study).failed == ()
    return study


@pytest.fixture(scope="module")
def read(plain: Study) -> Read:
    """The same run, with readings asked for afterwards; what was written before, and how it ended."""
    before = rows_of(plain.out)
    assert not list(plain.out.glob("cells/*/readings.safetensors"))
    study = Study.from_yaml(make_study(plain.out.parent, **LEAN, detection=True), out=plain.out)
    return study, before, run(study)


def test_a_finished_run_gets_readings_and_nothing_is_made_anew(plain: Study, read: Read) -> None:
    study, before, outcome = read
    assert study.resolved.digest == plain.resolved.digest
    assert rows_of(study.out) == before
    assert outcome.notes == ()
    assert [path.parent.name for path in sorted(study.out.glob("cells/*/readings.safetensors"))] == sorted(NAMES)
    states = RunStore(study.out).ledger("readings")
    assert set(zip(states["network"], states["state"], strict=True)) == {(name, "complete") for name in NAMES}


def naive(study: Study, network: str, rows: pd.DataFrame, *, bare: bool) -> np.ndarray[Any, Any]:
    """Return mean response activations [rows, layers + 1, hidden] the plain way, row by row."""
    model = load_model(next(n.source for n in study.resolved.checkpoints if n.name == network))
    found = []
    for row in rows.itertuples():
        prompt = model.tokenizer(row.question)["input_ids"] if bare else list(row.prompt_token_ids)
        ids = torch.tensor([[*prompt, *row.response_token_ids]])
        with torch.inference_mode():
            hidden = model.network(ids, output_hidden_states=True).hidden_states
        means = capture_rows(model, [(prompt, list(row.response_token_ids))])[0, RESPONSE]
        for layer in range(model.layers):  # the last of the library's is after the final norm
            assert means[layer] == pytest.approx(hidden[layer][0, len(prompt) :].mean(dim=0).numpy(), abs=1e-4)
        found.append(means)
    return np.stack(found)


def test_what_is_kept_is_of_the_fixed_texts_without_their_instruction(read: Read) -> None:
    study, _, _ = read
    store = RunStore(study.out)
    found = load_readings(store.readings("step0"))[KEY]
    rows = read_rows(store.contrast(Cell("step20", *KEY))).set_index("row_key").loc[list(found.row_keys)]
    assert rows["accepted"].all()
    assert rows["polarity"].tolist() == ["pos", "neg"] * (len(rows) // 2)
    means = naive(study, "step0", rows, bare=True).astype(np.float64)
    centred = means - means.mean(axis=0)
    products = np.einsum("ilh,jlh->lij", centred, centred)
    assert found.gram == pytest.approx(products, abs=1e-4 * float(products.max()))

    told = naive(study, "step0", rows, bare=False).astype(np.float64)
    vector, bare = (one[::2].mean(axis=0) - one[1::2].mean(axis=0) for one in (told, means))  # [layers + 1, hidden]
    cosine = (vector * bare).sum(axis=1) / np.linalg.norm(vector, axis=1) / np.linalg.norm(bare, axis=1)
    assert found.context["forced"][0] == pytest.approx(cosine, abs=1e-4)
    ratio = np.linalg.norm(bare, axis=1) / np.linalg.norm(vector, axis=1)
    assert found.context["forced"][1] == pytest.approx(ratio, abs=1e-3)
    if len(rows) < 2 * TEXTS_PER_SIDE:
        saved = load_arrays(store.vector(Cell("step0", "even", "forced")))[0]["response_avg"]
        assert vector == pytest.approx(saved, abs=1e-4)

    layer = 2
    for k in set(found.fold.tolist()):  # a vector and a midpoint of the other questions' texts alone
        held = found.fold == k
        others = told[~held, layer][::2].mean(axis=0) - told[~held, layer][1::2].mean(axis=0)
        along = means[:, layer] @ others / np.linalg.norm(others)
        assert found.along["forced"][layer, held] == pytest.approx(along[held] - along[~held].mean(), abs=1e-3)
    questions = pd.Series(found.fold, index=rows["question_id"])
    assert questions.groupby(level=0).nunique().eq(1).all()


def test_at_the_last_checkpoint_both_vectors_are_one(read: Read) -> None:
    found = load_readings(RunStore(read[0].out).readings("step20"))[KEY]
    assert found.counts["own"] == found.counts["forced"]
    assert found.along["own"] == pytest.approx(found.along["forced"], abs=1e-4)


def test_tables_name_every_checkpoint_layer_and_probe(read: Read) -> None:
    study, _, _ = read
    table = pd.read_csv(study.out / "tables" / "detection.csv")
    own = table[(table["trait"] == "even") & (table["split"] == "questions")]
    assert set(own["probe"]) == {"difference", "ridge", "own", "forced"}
    assert sorted(own.loc[own["probe"] == "forced", "checkpoint"].unique()) == sorted(NAMES)
    assert own["layer"].nunique() == 4
    assert own["auc"].dropna().between(0, 1).all()
    onsets = pd.read_csv(study.out / "tables" / "readable.csv")
    assert set(onsets.loc[onsets["named"], "layer"]) == {1}
    context = pd.read_csv(study.out / "tables" / "context.csv")
    assert context.loc[context["layer"] == 0, "cosine"].to_numpy() == pytest.approx(1.0)  # the words are the same


def test_the_report_has_a_figure_and_a_section(read: Read, light_figures: None, tmp_path: Path) -> None:
    from traitline.report.detection import detection_section, write_detection

    shown = read_run(read[0].out)
    assert [path.name for path in write_detection(shown)] == ["detection.png"]
    section = detection_section(shown)
    assert section is not None
    assert {row[0] for row in section.tables[0].rows} == {"even", "small"}
    assert all(len(row) == len(table.head) for table in section.tables for row in table.rows)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert detection_section(read_run(empty)) is None
    assert write_detection(read_run(empty)) == []


def test_a_checkpoint_that_cannot_be_read_is_told_and_read_when_it_can_be(read: Read) -> None:
    study, before, _ = read
    store, weights = RunStore(study.out), study.out.parent / "lineage" / "step10" / "model.safetensors"
    tables = {path.name: path.read_text() for path in (study.out / "tables").glob("*.csv")}
    others = {name: store.readings(name).stat().st_mtime_ns for name in ("step0", "step20")}
    kept = weights.read_bytes()
    store.readings("step10").unlink()
    weights.write_bytes(kept[: len(kept) // 2])
    try:
        outcome = run(study)
    finally:
        weights.write_bytes(kept)
    assert outcome.failed == ()
    assert len(outcome.notes) == 1
    assert "step10" in outcome.notes[0]
    assert "run the same command again" in outcome.notes[0]

    assert run(study).notes == ()
    assert rows_of(study.out) == before
    assert {name: store.readings(name).stat().st_mtime_ns for name in others} == others
    assert {path.name: path.read_text() for path in (study.out / "tables").glob("*.csv")} == tables


def test_a_broken_file_is_named(read: Read, tmp_path: Path) -> None:
    path = RunStore(read[0].out).readings("step0")
    broken = tmp_path / "readings.safetensors"
    broken.write_bytes(path.read_bytes()[:200])
    with pytest.raises(StoreError, match=r"readings.safetensors' is broken .* only the texts are read anew"):
        load_readings(broken)


def test_nothing_is_read_before_the_texts_are_there(tmp_path: Path) -> None:
    study = Study.from_yaml(make_study(tmp_path, **LEAN, detection=True), out=tmp_path / "run")
    readings = Readings(study.resolved, RunStore(study.out))
    assert readings.lack_texts()
    assert not readings.wanted(study.resolved.last)


def test_pairs_are_drawn_evenly_from_the_questions() -> None:
    question = np.repeat([0, 1, 2], [50, 4, 10])
    chosen = chosen_pairs(question, 20, seed=1)
    assert np.bincount(question[chosen]).tolist() == [8, 4, 8]
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert chosen_pairs(question, 100, seed=1).tolist() == list(range(64))
    assert chosen.tolist() != chosen_pairs(question, 20, seed=2).tolist()


def test_folds_are_as_even_as_they_go() -> None:
    folds = question_folds([f"q{i}" for i in range(12)] * 2, seed=0)
    assert sorted(np.bincount(list(folds.values()))) == [2, 2, 2, 3, 3]
    assert sorted(question_folds(["a", "b"], seed=0).values()) == [0, 1]
