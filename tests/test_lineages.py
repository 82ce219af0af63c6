"""Lineages: what a revision means, packaged, from a file, from a folder; grids of a few of many checkpoints; timelines."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from traitline.cli import app
from traitline.errors import InputError
from traitline.lineages import Checkpoint, Descendant, Lineage, load_lineage, packaged_lineages, safe_name
from traitline.lineages.lineage import EMBEDDED
from traitline.study.config import StudyConfig, load_config
from traitline.study.plan import make_plan

STAGE1 = 1_413_814 * 4_194_304
STAGE2 = STAGE1 + 47_684 * 2_097_152
STAGE3 = STAGE2 + 11_921 * 4_194_304

RULES = """
name: small
description: A lineage of two stages.
source: someone/small
stages:
  - {name: first, pattern: "a-{step}", tokens_per_step: 10, last_step: 95, every: 20}
  - {name: second, pattern: "b-{step}", tokens_per_step: 3, last_step: 7, first_step: 2, every: 2, also: [1]}
checkpoints:
  - {name: final, end_of: second}
default: [a-0, a-95, final]
descendants:
  - {name: SFT, kind: sft, source: someone/small-sft}
"""


def write(folder: Path, text: str, name: str = "lineage-file.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def folder_of(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "config.json").write_text("{}")
    return root


def names(lineage: Lineage) -> list[str]:
    return [one.name for one in lineage.checkpoints]


# Packaged lineages ---------------------------------------------------------------------------------------------------


def test_packaged_names_include_the_embedded_lineage() -> None:
    found = set(packaged_lineages())
    assert {"nano", "olmo3-7b", "olmo3-32b", "apertus-8b", "apertus-70b", "pythia-160m", "smollm3-3b"} <= found
    assert not {"pythia", "shared"} & found


@pytest.mark.parametrize("name", [name for name in packaged_lineages() if name not in EMBEDDED])
def test_every_packaged_lineage_loads_under_its_own_name_and_is_ordered(name: str) -> None:
    lineage = load_lineage(name)
    tokens = [one.tokens for one in lineage.checkpoints]
    assert lineage.name == name
    assert None not in tokens
    assert tokens == sorted(tokens)  # type: ignore[type-var]
    assert len(tokens) >= 8


@pytest.mark.parametrize("name", [name for name in packaged_lineages() if name not in EMBEDDED])
def test_every_packaged_lineage_says_its_size_its_sources_and_what_is_not_verified(name: str) -> None:
    lineage = load_lineage(name)
    assert lineage.parameters is not None
    assert lineage.layers is not None
    assert lineage.hidden is not None
    assert lineage.sources
    assert all(source.startswith("https://") for source in lineage.sources)
    assert lineage.unverified
    if lineage.bytes_per_checkpoint is not None:
        bytes_each = lineage.bytes_per_checkpoint / lineage.parameters
        assert {"float32": 4, "float16": 2, "bfloat16": 2}[lineage.dtype or ""] == pytest.approx(bytes_each, rel=0.2)


OLMO3_GRID = [
    *(f"stage1-step{s}" for s in (3000, 5000, 7000, 9000, 10000, 15000, 20000, 30000, 50000, 99000, 297000, 707000, 1413814)),
    *("stage2-step47684", "stage3-step11921", "main"),
]
APERTUS_GRID = [
    *("step50000-tokens210B", "step100000-tokens420B", "step150000-tokens630B", "step200000-tokens840B"),
    *("step250000-tokens1050B", "step300000-tokens1260B", "step400000-tokens1680B", "step500000-tokens2100B"),
    *("step700000-tokens2940B", "step1000000-tokens4200B", "step1432000-tokens6014B", "step1750000-tokens7652B"),
    *("step2100000-tokens10592B", "step2400000-tokens13112B", "step2627139-tokens15T", "main"),
]


@pytest.mark.parametrize(("name", "revisions"), [("olmo3-7b", OLMO3_GRID), ("apertus-8b", APERTUS_GRID)])
def test_the_papers_grids_are_had_by_name_and_are_what_the_packaged_studies_ask_for(name: str, revisions: list[str]) -> None:
    lineage = load_lineage(name)
    found = [lineage.checkpoint(revision) for revision in revisions]
    assert [one.revision for one in found] == revisions
    assert [one.tokens for one in found] == sorted(one.tokens for one in found if one.tokens is not None)
    assert make_plan(load_config(name)).order == revisions


@pytest.mark.parametrize(
    ("name", "revision", "tokens", "stage"),
    [
        ("olmo3-32b", "stage1-step656000", 656_000 * 8_388_608, "stage1"),
        ("olmo3-32b", "stage2-ingredient2-step1000", 656_000 * 8_388_608 + 1000 * 4_194_304, "stage2-ingredient2"),
        ("olmo3-32b", "stage3-step11921", 656_000 * 8_388_608 + 23_842 * 4_194_304 + 11_921 * 8_388_608, "stage3"),
        ("olmo2-1b", "stage1-step140000-tokens294B", 140_000 * 2_097_152, "stage1"),
        ("olmo2-1b", "stage2-ingredient3-step23852-tokens51B", (1_907_359 + 23_852) * 2_097_152, "stage2-ingredient3"),
        ("olmo2-7b", "stage1-step928646-tokens3896B", 928_646 * 4_194_304, "stage1"),
        ("olmo2-7b", "stage2-ingredient3-step11931-tokens50B", (928_646 + 11_931) * 4_194_304, "stage2-ingredient3"),
        ("olmo2-13b", "stage1-step417450-tokens3502B", 417_450 * 8_388_608, "stage1"),
        ("olmo2-13b", "stage2-ingredient4-step35773-tokens300B", (596_057 + 35_773) * 8_388_608, "stage2-ingredient4"),
        ("olmo2-32b", "stage1-step721901-tokens6056B", 721_901 * 8_388_608, "stage1"),
        ("apertus-70b", "step1155828-tokens15T", 15 * 10**12, "pretraining"),
        ("smollm2-360m", "step-2560000", 4_026_531_840_000, "pretraining"),
        ("smollm3-3b", "stage3-step-4720000", 4_720_000 * 2_359_296, "stage3"),
        ("smollm3-3b", "lc-32k-to-64k-step-4000", (4_720_000 + 20_000 + 4_000) * 2_359_296, "lc-32k-to-64k"),
        ("pythia-12b", "step512", 512 * 2_097_152, "pretraining"),
    ],
)
def test_revisions_as_their_publishers_name_them(name: str, revision: str, tokens: int, stage: str) -> None:
    found = load_lineage(name).checkpoint(revision)
    assert (found.revision, found.tokens, found.stage) == (revision, tokens, stage)


@pytest.mark.parametrize(
    ("name", "revision", "near"),
    [
        ("olmo2-7b", "stage1-step100000-tokens420B", "stage1-step99000-tokens416B"),
        ("olmo2-7b", "stage1-step1000-tokens4B", "stage1-step1000-tokens5B"),
        ("olmo2-7b", "stage1-step5000", "stage1-step5000-tokens21B"),
        ("olmo2-7b", "stage2-ingredient1-step11931-tokens51B", "stage2-ingredient1-step11000-tokens47B"),
        ("smollm3-3b", "stage2-step-40000", "stage2-step-3480000"),
    ],
)
def test_names_that_no_publisher_gave_are_refused_with_the_nearest(name: str, revision: str, near: str) -> None:
    with pytest.raises(InputError, match=re.escape(near)):
        load_lineage(name).checkpoint(revision)


@pytest.mark.parametrize(
    ("revision", "tokens", "stage"),
    [
        ("stage1-step0", 0, "stage1"),
        ("stage1-step3000", 3000 * 4_194_304, "stage1"),
        ("stage1-step1004000", 1_004_000 * 4_194_304, "stage1"),
        ("stage1-step1413814", STAGE1, "stage1"),
        ("stage2-step1000", STAGE1 + 1000 * 2_097_152, "stage2"),
        ("stage2-step47684", STAGE2, "stage2"),
        ("stage3-step11921", STAGE3, "stage3"),
        ("main", STAGE3, "stage3"),
    ],
)
def test_olmo3_revisions_count_the_tokens_of_all_earlier_stages(revision: str, tokens: int, stage: str) -> None:
    found = load_lineage("olmo3-7b").checkpoint(revision)
    assert found == Checkpoint(revision, tokens, stage, "allenai/Olmo-3-1025-7B", revision)


def test_olmo3_selects_the_papers_checkpoints_and_keeps_both_names_of_the_last_weights() -> None:
    lineage = load_lineage("olmo3-7b")
    assert len(lineage.checkpoints) == 18
    assert names(lineage)[0] == "stage1-step1000"
    assert names(lineage)[-3:] == ["stage2-step47684", "stage3-step11921", "main"]
    assert lineage.last == lineage.checkpoint("main")
    assert lineage.last != lineage.checkpoint("stage3-step11921")
    assert [(one.name, one.kind) for one in lineage.descendants[:3]] == [("SFT", "sft"), ("DPO", "dpo"), ("Instruct", "rlvr")]
    assert lineage.descendant("Instruct").source == "allenai/Olmo-3-7B-Instruct"


def test_olmo3_has_three_lines_of_descendants() -> None:
    lineage = load_lineage("olmo3-7b")
    parents = {one.name: one.parent for one in lineage.descendants}
    assert {name: parents[name] for name in ("SFT", "DPO", "Instruct")} == {"SFT": None, "DPO": "SFT", "Instruct": "DPO"}
    assert {parents["Think-SFT"], parents["Think-DPO"], parents["Think"]} == {None, "Think-SFT", "Think-DPO"}
    assert all(parent is None for name, parent in parents.items() if name.startswith("RL-Zero"))
    assert lineage.descendant("RL-Zero-Math").kind == "rlvr"


@pytest.mark.parametrize(
    ("revision", "listed"),
    [
        ("stage1-step1500", ["stage1-step1000", "stage1-step2000"]),
        ("stage1-step1413813", ["stage1-step1413000", "stage1-step1413814"]),
        ("stage1-step1414000", ["stage1-step1413000", "stage1-step1413814"]),
        ("stage2-step0", ["stage2-step1000"]),
        ("stage3-step999999999999", ["stage3-step11000", "stage3-step11921"]),
        ("stage1-step03000", ["stage1-step3000"]),
        ("Main", ["main"]),
        ("stage4-step1000", ["stage1-step1000"]),
        ("", ["nearest"]),
    ],
)
def test_an_unknown_revision_lists_the_nearest(revision: str, listed: list[str]) -> None:
    with pytest.raises(InputError, match="no revision") as caught:
        load_lineage("olmo3-7b").checkpoint(revision)
    assert all(name in str(caught.value) for name in listed)


@pytest.mark.parametrize(
    ("revision", "tokens"),
    [
        ("step50000-tokens210B", 210 * 10**9),
        ("step60000-tokens252B", 252 * 10**9),
        ("step1678000-tokens7.047T", 7_047 * 10**9),
        ("step2627139-tokens15T", 15 * 10**12),
        ("main", 15 * 10**12),
    ],
)
def test_apertus_tokens_are_read_from_the_name(revision: str, tokens: int) -> None:
    assert load_lineage("apertus-8b").checkpoint(revision).tokens == tokens


@pytest.mark.parametrize("revision", ["step50000", "step50000-tokens210", "step50000-tokens210G", "step-1-tokens1B"])
def test_apertus_refuses_names_without_a_token_count(revision: str) -> None:
    with pytest.raises(InputError, match="step50000-tokens210B"):
        load_lineage("apertus-8b").checkpoint(revision)


def test_pythia_has_its_early_powers_of_two_and_no_others() -> None:
    lineage = load_lineage("pythia-160m")
    assert lineage.checkpoint("step64").tokens == 64 * 2_097_152
    assert lineage.checkpoint("main").tokens == lineage.checkpoint("step143000").tokens
    with pytest.raises(InputError, match="step64, step128"):
        lineage.checkpoint("step100")


def test_unknown_names_are_input_errors_that_help(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="olmo3-7b"):
        load_lineage("olmo3")
    with pytest.raises(InputError, match="cannot be read"):
        load_lineage(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="nearest: SFT"):
        load_lineage("olmo3-7b").descendant("sft")


# Lineage files -------------------------------------------------------------------------------------------------------


def test_a_lineage_file_of_ones_own(tmp_path: Path) -> None:
    lineage = load_lineage(write(tmp_path, RULES))
    assert [(one.name, one.tokens, one.stage) for one in lineage.checkpoints] == [
        ("a-0", 0, "first"),
        ("a-95", 950, "first"),
        ("final", 971, "second"),
    ]
    assert lineage.checkpoint("a-80").tokens == 800
    assert lineage.checkpoint("b-1").tokens == 953
    assert lineage.checkpoint("b-4").tokens == 962
    assert lineage.descendant("SFT") == Descendant("SFT", "sft", "someone/small-sft", "main", True)
    for absent in ("b-0", "b-3", "a-90", "a-96", "c-2"):
        with pytest.raises(InputError, match="no revision"):
            lineage.checkpoint(absent)


def test_local_paths_in_a_file_are_relative_to_it_and_carry_no_revision(tmp_path: Path) -> None:
    text = """
name: mixed
description: Checkpoints from several places.
source: ./runs
checkpoints:
  - {name: early, tokens: 5}
  - {name: late, tokens: 9, source: ./elsewhere/late}
  - {name: hub, tokens: 9, source: someone/model, revision: v2}
descendants:
  - {name: DPO, kind: dpo, source: ./dpo, chat: false}
"""
    lineage = load_lineage(write(tmp_path, text))
    assert lineage.checkpoint("early") == Checkpoint("early", 5, None, str(tmp_path / "runs" / "early"), None)
    assert lineage.checkpoint("late") == Checkpoint("late", 9, None, str(tmp_path / "elsewhere" / "late"), None)
    assert lineage.checkpoint("hub") == Checkpoint("hub", 9, None, "someone/model", "v2")
    assert lineage.descendant("DPO") == Descendant("DPO", "dpo", str(tmp_path / "dpo"), None, False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("name: small", "name: [small"), "not valid YAML"),
        (("source: someone/small\n", ""), "source"),
        (("default:", "extra: 1\ndefault:"), "Extra inputs"),
        (("a-{step}", "a-step"), r"\{step\}"),
        (("every: 20", "every: 0"), "every"),
        (("first_step: 2", "first_step: 9"), "after last_step"),
        (("end_of: second", "end_of: third"), "'third'"),
        (("end_of: second", "end_of: second, tokens: 4"), "not both"),
        (("[a-0, a-95, final]", "[a-0, a-94]"), "a-95"),
        (("[a-0, a-95, final]", "[a-95, a-0]"), "in the order of training"),
        (("[a-0, a-95, final]", "[a-95, a-95]"), "twice"),
        (("name: SFT", "name: final"), "twice"),
        (("name: SFT", "name: ../SFT"), "slash"),
        (("kind: sft", "kind: ppo"), "descendants.0.kind"),
        (("kind: sft", "kind: sft, parent: DPO"), "listed before it"),
        (("every: 2, ", "every: 2, parallel_to: third, "), "'third'"),
        (('"b-{step}", tokens_per_step: 3', '"b-{step}-{tokens}"'), "needs tokens_per_step"),
        (("default: [a-0, a-95, final]", "default: 2"), "at least 4"),
        (("default: [a-0, a-95, final]", "default: 99"), "at most"),
    ],
)
def test_a_broken_lineage_file_is_an_input_error_naming_the_reason(
    tmp_path: Path, change: tuple[str, str], reason: str
) -> None:
    assert change[0] in RULES
    with pytest.raises(InputError, match=reason):
        load_lineage(write(tmp_path, RULES.replace(*change)))


@pytest.mark.parametrize("text", ["", "just text", "- a\n- b", "name: x\ndescription: y\nsource: z\n"])
def test_a_file_that_is_no_lineage_is_an_input_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="does not fit the schema"):
        load_lineage(write(tmp_path, text))


def test_a_file_that_is_not_text_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "bytes.yaml"
    path.write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(InputError, match="cannot be read"):
        load_lineage(path)


# Local folders -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ordered",
    [
        ["step0", "step5", "step40", "step300"],
        ["checkpoint-9", "checkpoint-100", "checkpoint-1000", "final"],
        ["stage1-step500", "stage1-step2000", "stage2-step10", "main"],
        ["tokens900M", "tokens1.5B", "tokens210B", "tokens1T", "main"],
        ["v2", "v9", "v10"],
    ],
)
def test_a_folder_is_ordered_by_the_numbers_in_its_names(tmp_path: Path, ordered: list[str]) -> None:
    lineage = load_lineage(folder_of(tmp_path / "run", *reversed(ordered)))
    assert names(lineage) == ordered
    assert lineage.name == "run"
    assert lineage.last.source == str(tmp_path / "run" / ordered[-1])
    assert lineage.last.revision is None


def test_tokens_and_stages_come_from_names_and_steps_are_not_tokens(tmp_path: Path) -> None:
    lineage = load_lineage(folder_of(tmp_path, "stage1-step5", "stage2-step5-tokens2.5M"))
    assert [(one.tokens, one.stage) for one in lineage.checkpoints] == [(None, "stage1"), (2_500_000, "stage2")]


def test_directories_without_a_model_and_hidden_ones_are_left_out(tmp_path: Path) -> None:
    folder_of(tmp_path, "step1", ".cache")
    (tmp_path / "logs").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    assert names(load_lineage(tmp_path)) == ["step1"]
    with pytest.raises(InputError, match="nearest: step1"):
        load_lineage(tmp_path).checkpoint("step2")


NOTES = {
    "name": "mine",
    "checkpoints": [{"name": "zero", "tokens": 0}, {"name": "alpha", "tokens": 700, "stage": "warm"}],
    "descendants": [{"name": "SFT", "kind": "sft", "path": "tuned"}],
}


@pytest.mark.parametrize("name", ["lineage.yaml", "lineage.json"])
def test_notes_in_the_folder_decide_order_tokens_and_descendants(tmp_path: Path, name: str) -> None:
    folder_of(tmp_path, "alpha", "zero", "tuned", "other")
    write(tmp_path, json.dumps(NOTES), name)
    lineage = load_lineage(tmp_path)
    assert lineage.name == "mine"
    assert lineage.checkpoints == (
        Checkpoint("zero", 0, None, str(tmp_path / "zero"), None),
        Checkpoint("alpha", 700, "warm", str(tmp_path / "alpha"), None),
    )
    assert lineage.descendants == (Descendant("SFT", "sft", str(tmp_path / "tuned"), None),)


def test_a_descendant_is_no_checkpoint_of_the_folder_it_lies_in(tmp_path: Path) -> None:
    folder_of(tmp_path, "step2", "step1", "tuned")
    write(tmp_path, "descendants: [{name: SFT, kind: sft, path: tuned}]", "lineage.yaml")
    assert names(load_lineage(tmp_path)) == ["step1", "step2"]


@pytest.mark.parametrize(
    ("notes", "reason"),
    [
        ('{"checkpoints": [{"name": "absent"}]}', "nearest: step1"),
        ('{"checkpoints": [{"name": "../step1"}]}', "slash"),
        ('{"descendants": [{"name": "SFT", "kind": "sft", "path": "absent"}]}', "correct `path`"),
        ('{"checkpoints": [{"name": "step1", "token": 4}]}', "Extra inputs"),
        ('{"checkpoints": [', "not valid JSON"),
    ],
)
def test_broken_notes_are_input_errors(tmp_path: Path, notes: str, reason: str) -> None:
    folder_of(tmp_path, "step1")
    write(tmp_path, notes, "lineage.json")
    with pytest.raises(InputError, match=reason):
        load_lineage(tmp_path)


def test_a_folder_without_checkpoints_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no checkpoint"):
        load_lineage(tmp_path)
    with pytest.raises(InputError, match="itself one checkpoint"):
        load_lineage(folder_of(tmp_path, "step1") / "step1")


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["main", "stage1-step3000", "step50000-tokens210B", "v1.0", "Größe 3", "x" * 200])
def test_names_that_can_be_folders_pass_unchanged(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a..b", "a/b", "a\\b", "/", "a\n", "a\x00b", "a\u202eb", " a", "a ", "x" * 201, "é" * 200, "\ud800"]
)
def test_names_that_cannot_be_folders_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot become a folder"):
        safe_name(name)


def test_a_checkpoint_or_descendant_cannot_carry_an_unsafe_name() -> None:
    with pytest.raises(InputError, match="slash"):
        Checkpoint("branch/one", None, None, "someone/model", "branch/one")
    with pytest.raises(InputError, match="slash"):
        Descendant("a/b", "sft", "someone/model", None)


def test_a_lineage_needs_a_checkpoint() -> None:
    with pytest.raises(InputError, match="no checkpoints"):
        Lineage("empty", "", (), ())


# Files that are like others ------------------------------------------------------------------------------------------


def test_a_file_says_only_what_differs_from_the_one_it_is_like(tmp_path: Path) -> None:
    write(tmp_path, RULES, "base.yaml")
    other = write(tmp_path, "like: base.yaml\nname: larger\nparameters: 10\ndtype: float32\ndefault: [final]", "larger.yaml")
    lineage = load_lineage(other)
    assert (lineage.name, names(lineage), lineage.bytes_per_checkpoint) == ("larger", ["final"], 40)
    assert lineage.checkpoint("b-4").tokens == 962


@pytest.mark.parametrize("like", ["lineage-file.yaml", "ring.yaml", "absent.yaml", "list.yaml"])
def test_a_file_that_is_like_no_other_is_an_input_error(tmp_path: Path, like: str) -> None:
    write(tmp_path, "like: lineage-file.yaml", "ring.yaml")
    write(tmp_path, "- a", "list.yaml")
    with pytest.raises(InputError, match=r"correct `like`|cannot be read"):
        load_lineage(write(tmp_path, f"like: {like}\nname: a"))


# Grids ---------------------------------------------------------------------------------------------------------------


def gaps(lineage: Lineage, k: int) -> list[float]:
    """Logarithms of the ratios of neighbouring tokens, the untrained checkpoint left out."""
    tokens = [one.tokens for one in lineage.grid(k) if one.tokens]
    return [math.log(after / before) for before, after in pairwise(tokens)]


@pytest.mark.parametrize("name", [name for name in packaged_lineages() if name not in EMBEDDED])
@pytest.mark.parametrize("k", [8, 16, 40])
def test_a_grid_is_of_the_size_asked_for_in_order_deterministic_and_ends_with_the_last(name: str, k: int) -> None:
    lineage = load_lineage(name)
    try:
        grid = lineage.grid(k)
    except InputError:
        assert name == "smollm2-135m" or (name, k) == ("smollm2-360m", 40)
        return
    assert len({one.name for one in grid}) == k
    assert list(grid) == sorted(grid, key=lambda one: one.tokens or 0)
    assert grid == load_lineage(name).grid(k)
    assert grid[-1].name == "main"
    assert all(lineage.checkpoint(one.name) == one for one in grid)


def test_a_grid_holds_the_untrained_the_first_and_the_end_of_every_stage() -> None:
    found = [one.name for one in load_lineage("olmo3-7b").grid(10)]
    assert found[:2] == ["stage1-step0", "stage1-step1000"]
    assert found[-3:] == ["stage1-step1413814", "stage2-step47684", "main"]  # main is the end of stage 3
    ends = {"stage1-step-3440000", "stage2-step-4200000", "stage3-step-4720000", "lc-4k-to-32k-step-20000", "main"}
    assert ends <= {one.name for one in load_lineage("smollm3-3b").grid(8)}


def test_a_grid_takes_no_checkpoints_of_parallel_runs() -> None:
    found = {one.stage for one in load_lineage("olmo2-13b").grid(120)}
    assert found == {"stage1", "stage2-ingredient1"}


def test_a_grid_is_even_where_checkpoints_are_dense_and_takes_each_where_they_are_not() -> None:
    lineage = load_lineage("olmo3-7b")
    assert max(gaps(lineage, 16)[:-2]) < 1.3 * sum(gaps(lineage, 16)[:-2]) / len(gaps(lineage, 16)[:-2])
    assert [one.name for one in lineage.grid(40)][1:8] == [f"stage1-step{step}000" for step in range(1, 8)]
    assert max(gaps(load_lineage("apertus-8b"), 12)) < math.log(2) + 0.01


def test_a_grid_of_everything_is_everything(tmp_path: Path) -> None:
    lineage = load_lineage(write(tmp_path, RULES))
    every = ["a-0", "a-20", "a-40", "a-60", "a-80", "a-95", "b-1", "b-2", "b-4", "b-6", "final"]
    assert [one.name for one in lineage.grid(11)] == every
    assert [one.name for one in lineage.grid(4)] == ["a-0", "a-20", "a-95", "final"]


@pytest.mark.parametrize(("k", "match"), [(0, "at least 4"), (3, "at least 4"), (12, "11 checkpoints"), (-5, "at least 4")])
def test_a_grid_that_cannot_be_says_what_can(tmp_path: Path, k: int, match: str) -> None:
    with pytest.raises(InputError, match=match):
        load_lineage(write(tmp_path, RULES)).grid(k)


def test_a_grid_of_billions_of_checkpoints_lists_none_of_them(tmp_path: Path) -> None:
    text = """
name: long
description: One checkpoint a step.
source: someone/long
stages: [{name: only, pattern: "step{step}", tokens_per_step: 1, last_step: 4000000000, first_step: 1, every: 1}]
default: 33
"""
    found = load_lineage(write(tmp_path, text)).checkpoints
    steps = [one.tokens or 0 for one in found]
    assert steps[:4] == [1, 2, 4, 8]
    assert all(1.9 < after / before < 2.1 for before, after in pairwise(steps[5:]))


def test_a_grid_of_a_folder_goes_by_tokens_else_by_steps(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "steps", *(f"step{step}" for step in (0, 1, 2, 3, 4, 5, 6, 7, 8, 16)), "final")
    assert [one.name for one in load_lineage(folder).grid(6)] == ["step0", "step1", "step2", "step4", "step8", "final"]
    folder = folder_of(tmp_path / "tokens", "tokens1M", "tokens2M", "tokens90M", "tokens100M")
    assert [one.name for one in load_lineage(folder).grid(3)] == ["tokens1M", "tokens2M", "tokens100M"]
    folder = folder_of(tmp_path / "neither", "first", "second", "third")
    with pytest.raises(InputError, match="tokens of 'first' are not known"):
        load_lineage(folder).grid(2)


# A study that asks for a grid ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of a lineage file; nothing of it is ever loaded."""
    folder = tmp_path_factory.mktemp("study")
    fields = {
        "name": "counted",
        "lineage": str(write(folder, RULES)),
        "checkpoints": 6,
        "traits": ["evil"],
        "evaluate": {"layers": [1], "coefs": [0.5]},
    }
    return write(folder, yaml.safe_dump(fields), "study.yaml")


def test_a_number_of_checkpoints_is_resolved_to_names_that_decide_the_plan(study: Path) -> None:
    config = load_config(study)
    counted = make_plan(config)
    assert counted.order == ["a-0", "a-20", "a-40", "a-60", "a-95", "final"]
    assert counted.config.model_dump(mode="json")["checkpoints"] == counted.order
    named = StudyConfig.model_validate({**config.model_dump(), "checkpoints": counted.order})
    assert make_plan(named).digest == counted.digest
    assert make_plan(StudyConfig.model_validate_json(config.everything())).digest == counted.digest


def test_a_changed_lineage_file_is_another_plan_where_the_grid_changes(study: Path) -> None:
    before, path = make_plan(load_config(study)), study.parent / "lineage-file.yaml"
    path.write_text(RULES.replace("every: 20", "every: 10"))
    after = make_plan(load_config(study))
    path.write_text(RULES)
    assert after.order != before.order
    assert after.digest != before.digest


@pytest.mark.parametrize("wrong", [0, -1, True, 2.5, "3"])
def test_what_is_no_number_of_checkpoints_is_refused(study: Path, tmp_path: Path, wrong: Any) -> None:
    fields = {**yaml.safe_load(study.read_text()), "checkpoints": wrong}
    with pytest.raises(InputError, match="checkpoints"):
        load_config(write(tmp_path, yaml.safe_dump(fields)))


def test_more_checkpoints_than_there_are_is_an_input_error(study: Path) -> None:
    with pytest.raises(InputError, match="11 checkpoints are known"):
        make_plan(load_config(study).model_copy(update={"checkpoints": 12}))


# Shown in the terminal -----------------------------------------------------------------------------------------------


def shown(*args: object, columns: int = 100) -> Result:
    return CliRunner().invoke(app, ["lineages", "show", *map(str, args)], env={"COLUMNS": str(columns), "NO_COLOR": "1"})


def timeline(text: str) -> dict[str, str]:
    """The lines from the axis to the empty line behind it, by what stands before them."""
    lines = text[text.index("\ntokens") :].strip().split("\n\n")[0].splitlines()
    return {line.split()[0]: line for line in lines[:-1]}


@pytest.mark.parametrize("columns", [60, 100])
@pytest.mark.parametrize("name", ["olmo3-7b", "smollm3-3b", "pythia-70m", "apertus-70b", "olmo2-13b"])
def test_the_timeline_fits_the_terminal_and_marks_every_stage_of_the_default(name: str, columns: int) -> None:
    result = shown(name, columns=columns)
    assert result.exit_code == 0, result.output
    drawn = timeline(result.stdout)
    assert max(map(len, drawn.values())) <= columns
    stages = {one.stage.split()[0] for one in load_lineage(name).checkpoints if one.stage}
    assert len(drawn) == len(stages) + 1
    assert all("●" in line for key, line in drawn.items() if key != "tokens")
    assert "\x1b" not in result.stdout


def test_the_timeline_is_logarithmic() -> None:
    axis, row = (timeline(shown("pythia-70m").stdout)[key] for key in ("tokens", "pretraining"))
    assert [axis.index(label) for label in ("2.1M", "10M", "100M", "1B", "10B")] == sorted(
        axis.index(label) for label in ("2.1M", "10M", "100M", "1B", "10B")
    )
    assert row.startswith("pretraining ● ")  # the untrained checkpoint lies before the axis
    decades = [axis.index(label) + len(label) // 2 for label in ("10M", "100M", "1B", "10B")]
    assert (
        max(after - before for before, after in pairwise(decades)) - min(after - before for before, after in pairwise(decades))
        <= 2
    )


def test_descendants_are_shown_as_a_tree() -> None:
    lines = shown("olmo3-7b").stdout.splitlines()
    depth = {line.split()[-4]: len(line) - len(line.lstrip("│├└─ ")) for line in lines if ", chat, allenai/" in line}
    assert depth["SFT"] == depth["Think-SFT"] == depth["RL-Zero-IF"] < depth["DPO"] < depth["Instruct"] == depth["Think"]


def test_show_tells_size_sources_and_what_is_not_verified() -> None:
    told = shown("olmo2-13b").stdout
    assert "13,716,198,400 parameters, 40 layers x 5,120, 54.9 GB a checkpoint (float32)" in told
    assert "https://github.com/allenai/OLMo" in told
    assert "Not verified" in told
    assert "main is in HuggingFaceTB/SmolLM3-3B-Base" in shown("smollm3-3b").stdout


def test_show_draws_the_grid_that_is_asked_for() -> None:
    result = shown("olmo3-7b", "--grid", 9)
    assert "9 of 1,475 checkpoints, a grid" in result.stdout
    assert "stage1-step0 " in result.stdout
    assert shown("olmo3-7b", "--grid", 2).exit_code == 2
    assert "at least 5" in shown("olmo3-7b", "--grid", 2).output


def test_show_prints_one_json_object() -> None:
    found = json.loads(shown("olmo3-7b", "--json", "--grid", 12).stdout)
    assert found["grid"] == 12
    assert [one["name"] for one in found["checkpoints"]] == [one.name for one in load_lineage("olmo3-7b").grid(12)]
    assert found["descendants"][1]["parent"] == "SFT"
    assert (found["layers"], found["hidden"], found["parameters"]) == (32, 4096, 7_298_011_136)
    assert found["bytes_per_checkpoint"] == 2 * found["parameters"]


def test_a_lineage_without_tokens_or_steps_is_shown_without_an_axis(tmp_path: Path) -> None:
    result = shown(folder_of(tmp_path / "run", "one", "two", "three"))
    assert result.exit_code == 0
    assert "three" in result.stdout
    assert "●" not in result.stdout


def test_names_from_a_file_do_not_reach_the_terminal_as_commands(tmp_path: Path) -> None:
    notes = {"checkpoints": [{"name": "a", "tokens": 5, "stage": "warm\x1b[31m[bold]up"}, {"name": "b", "tokens": 9}]}
    folder_of(tmp_path, "a", "b")
    (tmp_path / "lineage.yaml").write_text(yaml.safe_dump(notes))
    result = shown(tmp_path)
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "[bold]" in result.stdout
