"""Other layers and coefficients for some networks: what is run, and what the tables compare."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from small_study import CountingJudge, make_study
from traitline.study import Study
from traitline.study.places import as_at_last, as_at_target

EVALUATE = {
    "samples": 1,
    "max_new_tokens": 4,
    "layers": [1],
    "coefs": [0.5, -0.5],
    "where": [
        {"through": "step10", "traits": ["even"], "layers": [2], "coefs": [0.2, -0.2]},
        {"traits": ["small"], "coefs": [1.0]},
    ],
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("places")
    none = {"isotropic": 1, "covariance": 0, "shuffled": 0, "bootstrap": 0}
    file = make_study(folder, evaluate=EVALUATE, strategies=["character"], controls=none)
    return Study.from_yaml(file, out=folder / "run")


def test_every_network_is_steered_in_its_own_place(study: Study) -> None:
    study.run(CountingJudge())
    table = pd.read_csv(study.out / "tables" / "emergence.csv")
    even = table[table["trait"] == "even"]
    assert set(zip(even["target"], even["layer"], even["coef"], strict=True)) == {
        *(("step0", 2, c) for c in (0.2, -0.2)),
        *(("step10", 2, c) for c in (0.2, -0.2)),
        *(("step20", 1, c) for c in (0.5, -0.5)),
    }
    assert (table["status"] == "complete").all()
    assert table["n_rows_steered"].gt(0).all()
    verdicts = pd.read_csv(study.out / "tables" / "verdicts.csv")
    assert set(verdicts.loc[verdicts["trait"].eq("even"), "coef"]) == {0.5}  # as the last checkpoint is steered
    assert set(verdicts.loc[verdicts["trait"].eq("small"), "coef"]) == {1.0}
    assert verdicts["sentence"].notna().all()


def test_doses_are_compared_by_their_place_in_the_lists(study: Study) -> None:
    doses = pd.DataFrame({"trait": ["even", "even", "even", "small"], "target": ["step0", "step10", "step20", "step0"]}).assign(
        layer=[2, 2, 1, 1], coef=[0.2, -0.2, 0.5, 1.0]
    )
    last = as_at_last(study.resolved, doses)
    assert list(zip(last["layer"], last["coef"], strict=True)) == [(1, 0.5), (1, -0.5), (1, 0.5), (1, 1.0)]
    pd.testing.assert_frame_equal(as_at_target(study.resolved, last), doses)
    none = doses.assign(target=None, layer=[1, 1, 1, 1], coef=0.5)
    pd.testing.assert_frame_equal(as_at_target(study.resolved, none), none)


def test_lists_of_other_lengths_stand_for_nothing(tmp_path: Path) -> None:
    where = [{"through": "step0", "coefs": [0.2]}]
    study = Study.from_yaml(make_study(tmp_path, evaluate={**EVALUATE, "where": where}))
    doses = pd.DataFrame({"trait": ["even"], "target": ["step0"], "layer": [1], "coef": [0.2]})
    pd.testing.assert_frame_equal(as_at_last(study.resolved, doses), doses)
