"""Rows, keys and batches: fixed by the plan alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from small_study import make_study
from traitline.errors import InputError
from traitline.study import Plan, Study, load_config, make_plan, noise_key, packaged_studies, row_key
from traitline.study.estimate import describe, efforts
from traitline.study.plan import Identity, batches


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return make_plan(load_config(make_study(tmp_path_factory.mktemp("study"))))


def every_row(plan: Plan) -> list[Identity]:
    rows = []
    for network in plan.checkpoints:
        for cell in plan.cells(network):
            rows += [r.identity for r in plan.elicit_rows(network, cell)]
            rows += [r.identity for r in plan.evaluation_rows(network, cell)]
    return rows


def test_every_row_has_a_key_of_its_own(plan: Plan) -> None:
    rows = every_row(plan)
    assert len({row_key(row) for row in rows}) == len(rows)


def test_a_row_key_names_every_field_of_the_identity(plan: Plan) -> None:
    row = every_row(plan)[-1]
    changed = {name: "x" if isinstance(getattr(row, name), str) else 99 for name in Identity.__slots__}
    keys = {row_key(replace(row, **{name: value})) for name, value in changed.items()}
    assert len(keys - {row_key(row)}) == len(changed)


def test_noise_leaves_the_condition_out(plan: Plan) -> None:
    row = every_row(plan)[-1]
    same = replace(row, condition="baseline", layer=None, coef=None, vector_checkpoint=None, control_seed=None)
    assert noise_key(3, row) == noise_key(3, same)
    for change in ({"sample": 9}, {"question_id": "q"}, {"target": "t"}, {"split": "elicit"}, {"polarity": "neg"}):
        assert noise_key(3, replace(row, **change)) != noise_key(3, row)
    assert noise_key(4, row) != noise_key(3, row)


def test_keys_never_change() -> None:
    row = Identity("nano", "step8", "step8", "evil", "character", "evaluate", "baseline", "evil-character-evaluate-00", 1)
    assert row_key(row) == "b20bb30e93ff824b5247e065b37cb8c0"
    assert noise_key(0, row) == 106828956878409542


def test_baselines_have_four_times_the_samples(plan: Plan) -> None:
    rows = Counter(row.condition for row in every_row(plan) if row.split == "evaluate" and row.coef in (None, 0.5))
    assert rows["baseline"] * len(plan.config.evaluate.layers) == 4 * rows["steered"]


def test_forced_generates_no_contrast_rows_and_asks_the_first_strategys_questions(plan: Plan) -> None:
    network = plan.last
    forced = next(cell for cell in plan.cells(network) if cell.strategy == "forced")
    assert not list(plan.elicit_rows(network, forced))
    assert all("-character-" in row.identity.question_id for row in plan.baseline_rows(network, forced, "evaluate"))


def test_the_last_checkpoint_comes_first_and_alone_answers_tune_questions(plan: Plan) -> None:
    assert plan.networks()[0] == plan.last
    tuned = {row.target for row in every_row(plan) if row.split == "tune"}
    assert tuned == {plan.last.name}


def test_batches_keep_the_order(plan: Plan) -> None:
    rows = list(plan.baseline_rows(plan.last, plan.cells(plan.last)[0], "evaluate"))
    parts = list(batches(rows, 7))
    assert [row for part in parts for row in part] == rows
    assert {len(part) for part in parts[:-1]} == {7}


def test_seeds_of_controls_belong_to_one_kind(plan: Plan) -> None:
    seeds = [seed for kind in ("isotropic", "covariance", "shuffled") for seed in plan.control_seeds(kind)]
    assert len(set(seeds)) == len(seeds) == 3


def test_effort_adds_up_and_unknowns_stay_unknown(plan: Plan) -> None:
    found = efforts(plan)
    assert found["total"].rows == sum(found[phase].rows for phase in ("elicit", "evaluate", "transfer"))
    assert found["total"].rows > len(every_row(plan))
    assert found["total"].money is None
    assert describe(plan)["power"][0]["smallest_p"] == 2.0**-6


def test_the_digest_follows_configuration_and_texts(tmp_path: Path, plan: Plan) -> None:
    other = make_plan(load_config(make_study(tmp_path, seed=4)))
    assert other.digest != plan.digest


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoints": ["step11"]}, "step11"),
        ({"targets": ["SFT"]}, "SFT"),
        ({"strategies": ["charcter"]}, "character"),
        ({"strategies": ["story"]}, "story"),
        ({"strategies": ["forced"]}, "at least one besides"),
        ({"traits": ["kindness"]}, "kindness"),
        ({"lineage": "nowhere"}, "nowhere"),
        ({"evaluate": {"layers": [1], "coefs": [0.0]}}, "baseline"),
        ({"evaluate": {"layers": [0], "coefs": [1.0]}}, "layers"),
        ({"surprise": 1}, "surprise"),
        ({"controls": {"bootstrap": 1}}, "at least 2"),
    ],
)
def test_bad_studies_say_what_is_wrong(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_plan(load_config(make_study(tmp_path, **changes)))


def test_broken_yaml_and_missing_files_say_so(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [unclosed")
    with pytest.raises(InputError, match="not valid YAML"):
        load_config(broken)
    with pytest.raises(InputError, match="does not exist"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="nearest: nano"):
        load_config("nanoo")


@pytest.mark.parametrize("name", packaged_studies())
def test_packaged_studies_can_be_planned_offline(name: str) -> None:
    described = Study.from_yaml(name).plan()
    assert described["total"]["rows"] > 0
    assert all(one["smallest_p_adjusted"] < 0.05 for one in described["power"])


def test_a_lineage_that_was_moved_is_the_same_plan(tmp_path: Path) -> None:
    plans = []
    for name in ("here", "there"):
        config = load_config(make_study(tmp_path / name))
        plans.append(make_plan(config))
    moved = [replace(plan, config=plans[0].config).digest for plan in plans]
    assert moved[0] == moved[1]


WHERE = {
    "layers": [1],
    "coefs": [0.5],
    "where": [
        {"traits": ["small"], "layers": [2], "coefs": [0.3, -0.3]},
        {"through": "step10", "traits": ["even"], "coefs": [0.2]},
        {"networks": ["step20"], "coefs": [0.9]},
    ],
}


def test_layers_and_coefs_may_differ_by_trait_and_network(tmp_path: Path) -> None:
    plan = make_plan(load_config(make_study(tmp_path, evaluate={**WHERE, "samples": 1, "max_new_tokens": 4})))
    assert plan.order == ["step0", "step10", "step20"]
    assert plan.layers == (1, 2)
    assert [plan.place(name, "even") for name in plan.order] == [((1,), (0.2,)), ((1,), (0.2,)), ((1,), (0.9,))]
    assert plan.place("step0", "small") == ((2,), (0.3, -0.3))
    assert plan.place("step20", "small") == ((2,), (0.9,))  # a later entry goes before an earlier one, for what it names
    steered = {
        (r.target, r.trait, r.layer, r.coef) for r in every_row(plan) if r.condition == "steered" and r.target != "step10"
    }
    assert steered == {
        ("step0", "even", 1, 0.2),
        ("step20", "even", 1, 0.9),
        ("step0", "small", 2, 0.3),
        ("step0", "small", 2, -0.3),
        ("step20", "small", 2, 0.9),
    }
    assert [one["smallest_p_adjusted"] / one["smallest_p"] for one in describe(plan)["power"]] == [3, 3, 5, 5]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"traits": ["evil"], "coefs": [1.0]}, "names trait 'evil', which the study does not have"),
        ({"networks": ["SFT"], "coefs": [1.0]}, "names network 'SFT'"),
        ({"through": "step7", "coefs": [1.0]}, "names checkpoint 'step7'"),
        ({"traits": ["even"]}, "needs layers, coefs or both"),
        ({"coefs": [0.0]}, "which is the baseline"),
    ],
)
def test_a_place_for_what_is_not_there_is_refused(tmp_path: Path, entry: dict[str, object], message: str) -> None:
    evaluate = {"layers": [1], "coefs": [0.5], "where": [entry]}
    with pytest.raises(InputError, match=message):
        make_plan(load_config(make_study(tmp_path, evaluate=evaluate)))


def test_a_study_that_says_nothing_new_keeps_its_digest(tmp_path: Path) -> None:
    config = load_config("nano")
    assert "where" not in config.model_dump()["evaluate"]
