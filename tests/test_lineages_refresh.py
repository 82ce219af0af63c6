"""Lineages proposed from the names of branches: recognised by pattern, and read from a hub on loopback."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fake_hub import FakeHub
from traitline.cli import app
from traitline.errors import InputError
from traitline.lineages import load_lineage
from traitline.lineages.refresh import Proposal, Repository, propose

STEP_TOKENS = 4_194_304


def tokens(step: int, per: int = STEP_TOKENS) -> str:
    return f"{math.ceil(step * per / 1e9)}B"


OLMO3 = [
    *(f"stage1-step{step}" for step in (*range(0, 1_414_000, 1000), 1_413_814)),
    *(f"stage2-step{step}" for step in (*range(1000, 47_001, 1000), 47_684)),
    *(f"stage3-step{step}" for step in (*range(1000, 11_001, 1000), 11_921)),
    "stage2-step47684-mix-round5-from-2T-ckpt",
]
MISSING = {100_000, 174_000, 317_000, 536_000, 605_000, 632_000, 672_000}
OLMO2 = [
    *(f"stage1-step{s}-tokens{tokens(s)}" for s in (150, 600, *sorted({*range(1000, 929_000, 1000)} - MISSING), 928_646)),
    *(f"stage2-ingredient{i}-step{s}-tokens{tokens(s)}" for i in (1, 2, 3) for s in range(1000, 11_001, 1000)),
    *(f"stage2-ingredient{i}-step11931-tokens50B" for i in (1, 2, 3)),
]
PYTHIA = [f"step{step}" for step in (0, *(2**i for i in range(10)), *range(1000, 143_001, 1000))]
SMOLLM3 = [
    *(f"stage1-step-{step}" for step in range(40_000, 3_440_001, 40_000)),
    *(f"stage2-step-{step}" for step in range(3_480_000, 4_200_001, 40_000)),
    *(f"lc-4k-to-32k-step-{step}" for step in range(4000, 20_001, 4000)),
    *("it-SFT", "it-mid-training"),
]
PADDED = [f"step{step:07d}" for step in (5000, 10_000, 15_000, *range(25_000, 750_001, 25_000), 753_851)]


def proposed(names: Iterable[str], weights: int | None = 100) -> Proposal:
    return propose(Repository("someone/Model", ("main", *names), weights))


def reloaded(found: Proposal, folder: Path) -> Proposal:
    """Check that the text loads as the same lineage."""
    path = folder / "proposed.yaml"
    path.write_text(found.text)
    assert load_lineage(path) == found.file.lineage()
    return found


@pytest.mark.parametrize(
    "names", [OLMO3, OLMO2, PYTHIA, SMOLLM3, PADDED], ids=["olmo3", "olmo2", "pythia", "smollm3", "padded"]
)
def test_the_rules_allow_exactly_the_names_they_were_found_in(names: list[str], tmp_path: Path) -> None:
    found = reloaded(proposed(names), tmp_path)
    understood = [name for name in names if name not in found.strange]
    assert all(found.file.find(name) is not None for name in understood)
    course = found.file.course()
    aside = [name for name in understood if "ingredient2" in name or "ingredient3" in name]
    ends = [entry for entry in found.file.checkpoints if entry.end_of == course.anchors[-1].checkpoint.stage]
    assert course.most == len(understood) - len(aside) + 1 - (1 if ends else 0)  # main is the end of the last stage


def test_stages_spacing_and_ends_are_recognised() -> None:
    first, second, third = proposed(OLMO3).file.stages
    assert (first.pattern, first.first_step, first.every, first.last_step) == ("stage1-step{step}", 0, 1000, 1_413_814)
    assert (second.first_step, second.every, second.last_step, second.cumulative) == (1000, 1000, 47_684, False)
    assert (third.name, third.last_step) == ("stage3", 11_921)


def test_what_is_not_understood_is_told_and_left_out() -> None:
    found = proposed([*OLMO3, "experiment/one", "fp32", "v1.0"])
    assert found.strange == ("stage2-step47684-mix-round5-from-2T-ckpt", "experiment/one", "fp32", "v1.0")
    assert all(name in " ".join(found.notes) for name in found.strange)
    assert "fp32" in " ".join(yaml.safe_load(found.text)["unverified"])


def test_tokens_of_a_step_are_computed_from_names_that_carry_tokens() -> None:
    found = proposed(OLMO2).file
    assert [stage.tokens_per_step for stage in found.stages] == [STEP_TOKENS] * 4
    assert set(found.stages[0].absent) == MISSING
    assert [stage.parallel_to for stage in found.stages] == [None, None, "stage2-ingredient1", "stage2-ingredient1"]
    last = found.find("stage2-ingredient2-step11931-tokens50B")
    assert last is not None
    assert last.tokens == (928_646 + 11_931) * STEP_TOKENS


def test_tokens_of_a_step_that_nothing_tells_are_left_out_and_that_is_said() -> None:
    found = proposed(PYTHIA)
    assert found.file.stages[0].tokens_per_step is None
    assert "pretraining do not tell the tokens of one step" in " ".join(found.notes)
    assert {one.tokens for one in found.file.lineage().checkpoints} == {None}
    assert [one.name for one in found.file.lineage().grid(6)] == ["step0", "step1", "step16", "step256", "step6000", "main"]


def test_steps_that_go_on_across_stages_are_told_from_those_that_begin_anew() -> None:
    assert [stage.cumulative for stage in proposed(SMOLLM3).file.stages] == [False, True, False]


def test_zeros_in_front_of_steps_are_kept() -> None:
    stage = proposed(PADDED).file.stages[0]
    assert (stage.digits, stage.revision(5000)) == (7, "step0005000")
    assert proposed(["iter_0001", "iter_0010", "iter_0100", "iter_1000"]).file.find("iter_0010") is not None


def test_a_batch_that_grew_makes_a_list_of_names_with_their_tokens(tmp_path: Path) -> None:
    names = [f"step{s}-tokens{s * 42 // 10_000}B" for s in range(50_000, 500_001, 50_000)]
    names += ["step600000-tokens2940B", "step650000-tokens3360B", "step700000-tokens3780B", "step900000-tokens5.5T"]
    found = reloaded(proposed(names), tmp_path).file
    assert found.stages == ()
    assert found.counted is not None
    assert found.counted.saved == tuple(names)
    checkpoint = found.find("step900000-tokens5.5T")
    assert checkpoint is not None
    assert checkpoint.tokens == 5_500_000_000_000
    assert [one.name for one in found.lineage().checkpoints][-1] == "main"


def test_a_stage_behind_a_list_of_names_begins_where_that_ends(tmp_path: Path) -> None:
    names = ["step50-tokens210B", "step100-tokens420B", "step150-tokens1.5T"]
    found = proposed([*names, "longctx-step50", "longctx-step100"])
    path = tmp_path / "mine.yaml"
    path.write_text(found.text.replace("longctx-step{step}'", "longctx-step{step}', tokens_per_step: 1000000"))
    lineage = load_lineage(path)
    assert lineage.checkpoint("longctx-step50").tokens == 1_500_000_000_000 + 50_000_000
    assert [one.name for one in found.file.lineage().checkpoints] == [*names, "main"]  # its tokens are not known


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["10B", "21B", "31B", "593B"], "{tokens}"),
        (["tokens1.5T", "tokens900B", "tokens20M"], "tokens{tokens}"),
        (["step-001000-2BT", "step-002000-4BT", "step-090000-189BT"], "step-{step}-{tokens}T"),
        (["global_step1000", "global_step2000"], "global_step{step}"),
        (["ckpt_000", "ckpt_001", "ckpt_358"], "ckpt_{step}"),
        (["checkpoint-9", "checkpoint-100"], "checkpoint-{step}"),
    ],
)
def test_habits_of_naming(names: list[str], pattern: str, tmp_path: Path) -> None:
    found = reloaded(proposed(names), tmp_path).file
    assert pattern in {*(stage.pattern for stage in found.stages), found.counted.pattern if found.counted else ""}
    assert all(found.find(name) is not None for name in names)


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.integers(0, 10**6), min_size=1, max_size=30),
    st.sampled_from([2**20, 2**21 + 2**18, 4_200_000, 8_388_608, 1_572_864]),
    st.sampled_from(["step{}", "stage2-step-{}-tokens{}", "iter_{:07d}", "run7-step{}-{}"]),
)
def test_no_name_is_lost_and_none_is_made_up(steps: set[int], per: int, form: str) -> None:
    names = [form.format(step, tokens(step, per)) for step in sorted(steps)]
    found = proposed(names)
    assert found.strange == ()
    assert [one.name for one in map(found.file.find, names) if one is not None] == names
    assert {one.name for one in found.file.lineage().checkpoints} <= {*names, "main"}
    lost = {form.format(step + 1, tokens(step + 1, per)) for step in steps} - {*names}
    assert found.file.counted is not None or not [name for name in lost if found.file.find(name) is not None]


def test_main_without_weights_is_no_checkpoint() -> None:
    found = proposed(PYTHIA, weights=None)
    assert found.file.find("main") is None
    assert "main holds no weights" in " ".join(found.notes)


def test_a_repository_without_checkpoints_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"none of the 3 branches.*gguf"):
        proposed(["gguf", "v1"])


# From a hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    """A hub with one model whose every branch is the same small folder, and one whose main holds no weights."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "model.safetensors").write_bytes(b"x" * 1234)
    (folder / "bare").mkdir()
    (folder / "bare" / "README.md").write_text("nothing")
    names = ["main", *OLMO3]
    repositories = {
        "org/Model-7B": dict.fromkeys(names, folder / "model"),
        "org/bare": {"main": folder / "bare", "step10": folder / "model", "step20": folder / "model"},
    }
    with FakeHub(repositories) as hub, hub.connected(folder / "cache"):
        yield hub


def called(*args: object) -> Result:
    return CliRunner().invoke(app, ["lineages", "refresh", *map(str, args)], env={"COLUMNS": "80"})


def test_a_lineage_is_proposed_from_a_hub_and_loads(hub: FakeHub, tmp_path: Path) -> None:
    result = called("org/Model-7B")
    assert result.exit_code == 0, result.output
    path = tmp_path / "mine.yaml"
    path.write_text(result.stdout)
    lineage = load_lineage(path)
    assert (lineage.name, lineage.bytes_per_checkpoint) == ("model-7b", 1234)
    assert lineage.checkpoint("stage2-step47684").source == "org/Model-7B"
    assert lineage.last.name == "main"
    assert "stage2-step47684-mix-round5-from-2T-ckpt" in result.stderr
    assert hub.bytes_sent("*.safetensors") == 0


def test_a_proposal_is_written_to_a_new_file_only(hub: FakeHub, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    result = called("org/Model-7B", "--out", path)
    assert result.exit_code == 0, result.output
    assert str(path) in result.stdout
    before = path.read_bytes()
    again = called("org/Model-7B", "--out", path)
    assert again.exit_code == 2
    assert "never overwritten" in again.output
    assert path.read_bytes() == before
    assert len(load_lineage(path).checkpoints) == 12
    assert called("org/Model-7B", "--out", tmp_path / "mine.txt").exit_code == 2
    assert not (tmp_path / "mine.txt").exists()


def test_a_proposal_as_json_is_one_object(hub: FakeHub) -> None:
    found = json.loads(called("org/bare", "--json").stdout)
    assert found["lineage"]["source"] == "org/bare"
    assert [stage["last_step"] for stage in found["lineage"]["stages"]] == [20]
    assert found["not_understood"] == []
    assert any("main holds no weights" in text for text in found["notes"])


@pytest.mark.parametrize(
    ("model", "match"),
    [
        ("org/absent", "shows no model 'org/absent'"),
        ("olmo", "no id of a model"),
        ("../etc/passwd", "no id of a model"),
        ("nano", "made on this machine"),
    ],
)
def test_an_unknown_model_is_an_input_error(hub: FakeHub, model: str, match: str) -> None:
    result = called(model)
    assert result.exit_code == 2
    assert match in result.output
    assert "Traceback" not in result.output


def test_a_packaged_lineage_stands_for_its_model(hub: FakeHub) -> None:
    result = called("pythia-70m")
    assert result.exit_code == 2
    assert "EleutherAI/pythia-70m-deduped" in result.output


def test_a_failing_hub_and_none_at_all_are_told(hub: FakeHub, tmp_path: Path) -> None:
    hub.fault("api/refs", times=None, status=503)
    result = called("org/bare")
    hub.mend()
    assert result.exit_code == 2
    assert "503" in result.output
    with hub.connected(tmp_path, offline=True):
        result = called("org/bare")
    assert result.exit_code == 2
    assert "HF_HUB_OFFLINE" in result.output
