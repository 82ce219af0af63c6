"""Lineages: what a revision means, packaged, from a file, from a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from traitline.errors import InputError
from traitline.lineages import Checkpoint, Descendant, Lineage, load_lineage, packaged_lineages, safe_name
from traitline.lineages.lineage import EMBEDDED

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
    assert {"nano", "olmo3-7b", "apertus-8b", "pythia-160m"} <= set(packaged_lineages())


@pytest.mark.parametrize("name", [name for name in packaged_lineages() if name not in EMBEDDED])
def test_every_packaged_lineage_loads_under_its_own_name_and_is_ordered(name: str) -> None:
    lineage = load_lineage(name)
    tokens = [one.tokens for one in lineage.checkpoints]
    assert lineage.name == name
    assert None not in tokens
    assert tokens == sorted(tokens)  # type: ignore[type-var]
    assert len(tokens) >= 12


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
    assert [(one.name, one.kind) for one in lineage.descendants] == [("SFT", "sft"), ("DPO", "dpo"), ("Instruct", "rlvr")]
    assert lineage.descendant("Instruct").source == "allenai/Olmo-3-7B-Instruct"


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
