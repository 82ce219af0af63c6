"""What a plan needs of the machine, against calculation by hand; and what it says where there is not enough."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from traitline.cli import app
from traitline.lineages import load_lineage
from traitline.study import Plan, load_config, make_plan, resources
from traitline.study.config import DATA, StudyConfig
from traitline.study.estimate import describe, efforts


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def config() -> StudyConfig:
    return load_config("olmo3-7b")


def changed(config: StudyConfig, **fields: object) -> Plan:
    return make_plan(config.model_copy(update=fields))


def test_olmo_takes_what_a_calculation_by_hand_says(config: StudyConfig) -> None:
    plan = make_plan(config)
    found = efforts(plan)
    parameters = 7_298_011_136  # as the hub's metadata of the weights say
    size = 2 * parameters
    assert load_lineage("olmo3-7b").bytes_per_checkpoint == pytest.approx(size, rel=1e-4)
    assert found["elicit"].download_bytes == pytest.approx((16 + 3) * size, rel=1e-4)
    assert found["evaluate"].download_bytes == 0  # what eliciting has fetched
    assert found["transfer"].download_bytes == 0
    generated = found["evaluate"].tokens / 28_464  # tokens a second, measured
    assert found["evaluate"].gpu_seconds == pytest.approx(generated, rel=0.01)
    read = 8_000 * (16 + 3) + 8_000 * 16  # contrast rows of four traits, and `forced` at the checkpoints
    loading = (16 + 3) * 10.3
    expected = found["elicit"].tokens / 28_464 + read / 224 + loading + 21.3
    assert found["elicit"].gpu_seconds == pytest.approx(expected, rel=0.02)
    vectors = (4 + 6 + 8) * 33 * 4096 * 4  # three positions and the balanced one, controls, bootstraps
    cells = (16 * 2 + 3) * 4  # a descendant has no cell of `forced`
    rows = found["elicit"].rows * (60 + 4 * 64)
    assert found["elicit"].disk_bytes == vectors * cells + rows


def test_descendants_that_are_only_targets_are_fetched_for_the_transfer(config: StudyConfig) -> None:
    found = efforts(changed(config, descendant_vectors=False))
    size = load_lineage("olmo3-7b").bytes_per_checkpoint
    assert size is not None
    assert (found["elicit"].download_bytes, found["transfer"].download_bytes) == (16 * size, 3 * size)


def test_the_embedded_lineage_needs_no_gpu_and_no_download() -> None:
    total = efforts(make_plan(load_config("nano")))["total"]
    assert (total.gpu_seconds, total.download_bytes, total.money) == (0, 0, 0)


def test_what_a_lineage_does_not_tell_is_not_known(tmp_path: Path, config: StudyConfig) -> None:
    lineage = tmp_path / "mine.yaml"
    checkpoints = [{"name": name, "tokens": tokens} for name, tokens in (("early", 10), ("main", 20))]
    lineage.write_text(
        yaml.safe_dump({"name": "mine", "description": "Mine.", "source": "me/mine", "checkpoints": checkpoints})
    )
    bare = {"lineage": str(lineage), "checkpoints": (), "targets": ("last",), "descendant_vectors": False}
    where = config.evaluate.model_copy(update={"where": ()})
    total = efforts(changed(config, **bare, evaluate=where))["total"]
    assert (total.gpu_seconds, total.download_bytes) == (None, None)


def test_a_disk_too_small_for_all_checkpoints_is_told_with_the_setting(
    config: StudyConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(resources, "available_bytes", lambda: 10**12)
    for free, budget, words in (
        (100e9, None, "19 networks of 14.6 GB are to be fetched, 277.3 GB together.*set disk_gb.*to 90 at most"),
        (10e9, None, "one checkpoint takes 14.6 GB.*10.0 GB free; set HF_HOME"),
        (100e9, 200.0, "disk_gb is 200.*100.0 GB free; set disk_gb lower"),
    ):
        monkeypatch.setattr(resources, "disk_free_bytes", lambda _path, free=free: int(free))
        [reason] = resources.misfits(changed(config, disk_gb=budget), tmp_path, 1000)
        assert re.search(words, reason), reason
    monkeypatch.setattr(resources, "disk_free_bytes", lambda _path: int(100e9))
    assert resources.misfits(changed(config, disk_gb=50.0), tmp_path, 1000) == []
    [reason] = resources.misfits(changed(config, disk_gb=50.0), tmp_path, int(200e9))
    assert "the run directory takes about 200.0 GB" in reason
    assert "give another --out" in reason


def test_a_network_too_large_for_memory_is_told(config: StudyConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resources, "disk_free_bytes", lambda _path: 10**13)
    monkeypatch.setattr(resources, "available_bytes", lambda: 8 * 10**9)
    [reason] = resources.misfits(changed(config, device="cpu"), tmp_path, 1000)
    assert "7.3 B parameters takes 32.1 GB of memory" in reason
    assert "8.0 GB; run it on a GPU" in reason


def test_a_budget_smaller_than_one_checkpoint_is_refused(config: StudyConfig, tmp_path: Path) -> None:
    assert describe(changed(config, disk_gb=10.0))["refused"] == [
        "disk_gb is 10, and one checkpoint takes 14.6 GB; set disk_gb to 15 or more"
    ]
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load((DATA / "olmo3-7b.yaml").read_text()), "disk_gb": 10}))
    ended = CliRunner().invoke(app, ["plan", str(file), "--json"])
    assert ended.exit_code == 1
    told = json.loads(ended.stdout)
    assert told["refused"]
    assert {"tokens", "judge_calls", "download_bytes", "disk_bytes", "gpu_seconds", "money"} <= set(told["total"])
