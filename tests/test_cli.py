"""The command line: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from conftest import tiny_network, tiny_tokenizer
from small_study import CountingJudge, make_study
from traitline.cli import app
from traitline.cli.console import harmless
from traitline.cli.progress import Meter
from traitline.judges import Score
from traitline.judges.base import KINDS
from traitline.traits import Trait
from traitline.vectors import PersonaVector

ESCAPE = "\x1b]0;owned\x07"


class StoppedJudge(CountingJudge):
    """Behaves as if the user pressed Ctrl-C while it judges."""

    def score(self, trait: Trait, questions: Sequence[str], answers: Sequence[str], **_: str) -> list[Score]:
        raise KeyboardInterrupt


def make_counting(_rest: str, _cache: Path | None) -> CountingJudge:
    return CountingJudge()


def make_stopped(_rest: str, _cache: Path | None) -> CountingJudge:
    return StoppedJudge()


def call(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def asked(*args: object) -> dict[str, Any]:
    result = call(*args, "--json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module", autouse=True)
def _judges_of_this_file() -> Any:
    KINDS.update(counting=f"{__name__}:make_counting", stopped=f"{__name__}:make_stopped")
    yield
    del KINDS["counting"], KINDS["stopped"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def study(folder: Path) -> Path:
    path = make_study(
        folder,
        elicit={"samples": 1, "max_new_tokens": 6},
        evaluate={"samples": 1, "max_new_tokens": 6, "layers": [2], "coefs": [0.5]},
        controls={"isotropic": 1, "covariance": 0, "shuffled": 0, "bootstrap": 0},
    )
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**content, "traits": content["traits"][:1]}))
    return path


@pytest.fixture(scope="module")
def checkpoint(study: Path) -> Path:
    return study.parent / "lineage" / "step20"


@pytest.fixture(scope="module")
def vector(folder: Path) -> Path:
    array = np.random.default_rng(0).standard_normal((4, 32))
    return PersonaVector.from_array(array, trait="even", n_pairs=3, n_questions=2).save(folder / "even.safetensors")


@pytest.fixture(scope="module")
def broken_run(study: Path, folder: Path, light_figures: None) -> tuple[Path, Any]:
    weights = study.parent / "lineage" / "step0" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    result = call("run", study, "--out", folder / "run", "--json")
    weights.write_bytes(whole)
    return folder / "run", result


def test_help_and_listings_do_not_wait_for_torch() -> None:
    code = (
        "import sys, traitline.cli\n"
        "for args in (['--help'], ['--version'], ['traits', 'list'], ['lineages', 'list'], ['traits', 'check', 'evil']):\n"
        "    traitline.cli.app(args, standalone_mode=False)\n"
        "assert not {'torch', 'transformers', 'pandas', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_wrong_usage_and_wrong_input_end_with_2_and_no_traceback(tmp_path: Path) -> None:
    for args in (["nonsense"], ["steer"], ["traits", "show", "evli"], ["run", tmp_path / "none.yaml"], ["status", tmp_path]):
        result = call(*args)
        assert result.exit_code == 2
        assert result.stderr
        assert "Traceback" not in result.output
    assert "nearest: evil" in call("traits", "show", "evli").stderr


def test_a_broken_checkpoint_fails_alone_and_is_retried_by_the_same_command(broken_run: tuple[Path, Any], study: Path) -> None:
    out, first = broken_run
    assert first.exit_code == 3, first.stderr
    found = json.loads(first.stdout)
    assert found["states"]["failed"] == 2
    assert "step0" in first.stderr
    assert "Traceback" not in first.stderr
    assert [one["strategy"] for one in found["verdicts"]] == ["character", "forced"]
    assert asked("status", out)["states"]["cells"] == {"failed": 2, "complete": 4}
    assert "are broken" in call("status", out).stdout

    second = call("run", study, "--out", out)
    assert second.exit_code == 0, second.stderr
    assert str((out / "report.html").resolve()) in second.stdout.splitlines()
    assert "steerable" in second.stdout
    assert "%" in second.stderr
    assert "%" not in second.stdout.splitlines()[0]
    assert asked("status", out)["states"]["cells"] == {"complete": 6}


def test_report_is_written_again(broken_run: tuple[Path, Any]) -> None:
    out, _ = broken_run
    (out / "report.html").unlink(missing_ok=True)
    assert asked("report", out)["report"] == str((out / "report.html").resolve())
    assert (out / "report.html").stat().st_size > 1000


def test_an_interrupted_run_says_how_to_go_on(study: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped.yaml"
    stopped.write_text(yaml.safe_dump({**yaml.safe_load(study.read_text()), "judge": "stopped"}))
    result = call("run", stopped, "--out", tmp_path / "run")
    assert result.exit_code == 130
    assert "run the same command again" in result.stderr


def test_a_plan_says_what_it_takes_and_what_it_can_show(study: Path) -> None:
    found = asked("plan", study)
    total = {"rows", "tokens", "judge_calls", "download_bytes", "disk_bytes", "gpu_seconds", "money"}
    assert total <= set(found["total"])
    assert found["total"]["money"] is None
    assert found["total"]["rows"] == sum(phase["rows"] for phase in found["phases"].values()) > 0
    text = call("plan", study).stdout
    assert f"{found['total']['rows']:,}" in text
    assert "unknown" in text
    assert "assumed, not measured" in text


def test_planning_nano_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAITLINE_CACHE", str(tmp_path))
    assert asked("plan", "nano")["lineage"] == "nano"
    assert list(tmp_path.rglob("*")) == []


def test_extract_saves_a_vector_once(study: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "even.safetensors"
    args = ["extract", checkpoint, "--trait", study.parent / "even.yaml", "--strategy", "character", "--judge", "counting"]
    found = asked(*args, "--out", out, "--max-new-tokens", 6)
    saved = PersonaVector.load(out)
    assert (found["pairs"], found["questions"]) == (saved.provenance.n_pairs, saved.provenance.n_questions)
    assert found["fragile"] is saved.provenance.fragile
    before = out.read_bytes()
    again = call(*args, "--out", out)
    assert again.exit_code == 2
    assert "never overwritten" in again.stderr
    assert out.read_bytes() == before


def test_steer_shows_baseline_and_every_coefficient(checkpoint: Path, vector: Path) -> None:
    args = ["steer", checkpoint, vector, "w5 w6", "--layer", 2, "--max-new-tokens", 8, "--temperature", 0.8]
    baseline, strong, weak = asked(*args, "--coef", 3, "--coef", 1e-7)["rows"]
    assert weak["text"] == baseline["text"]  # the same random numbers, and next to no vector
    assert strong["text"] != baseline["text"]
    assert "baseline" in call(*args, "--coef", 3).stdout
    assert call(*args, "--coef", 3, "--positions", "everywhere").exit_code == 2
    assert "1 to 3" in call("steer", checkpoint, vector, "w5", "--layer", 9, "--coef", 1).stderr


def test_what_a_model_says_cannot_steer_the_terminal(vector: Path, tmp_path: Path) -> None:
    tiny_network("llama").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    content["model"]["vocab"] = {f"[bold]{ESCAPE}{k}" if k[1:].isdigit() and k != "w3" else k: i for k, i in words.items()}
    path.write_text(json.dumps(content))
    result = call("steer", tmp_path, vector, "w3", "--layer", 1, "--coef", 1, "--max-new-tokens", 3)
    assert result.exit_code == 0, result.stderr
    assert "[bold]" in result.stdout
    assert "\\x1b]0;owned" in "".join(result.stdout.split())
    assert "\x1b" not in result.stdout
    assert harmless("a\u202eb\u2028c\td\ne") == "a\\u202eb\\u2028c    d\ne"


def test_vectors_are_shown_compared_and_converted(vector: Path, tmp_path: Path) -> None:
    shown = asked("vectors", "show", vector)
    assert (shown["layers"], shown["hidden"], shown["fragile"]) == (3, 32, True)
    assert shown["provenance"]["trait"] == "even"
    assert "(fragile)" in call("vectors", "show", vector).stdout

    out = tmp_path / "even_response_avg_diff.pt"
    asked("vectors", "export", vector, "--out", out)
    back = tmp_path / "back.safetensors"
    asked("vectors", "import", out, "--out", back)
    compared = asked("vectors", "compare", vector, back, "--layer", 2)
    assert compared["layers"][0]["cosine"] == pytest.approx(1)
    assert "after the final norm" in call("vectors", "compare", vector, back).stderr
    assert call("vectors", "compare", vector, back, "--layer", 7).exit_code == 2
    for args in (["export", vector, "--out", out], ["import", out, "--out", back]):
        assert "never overwritten" in call("vectors", *args).stderr


def test_vectors_go_to_llama_cpp_and_back(vector: Path, tmp_path: Path) -> None:
    out = tmp_path / "even.gguf"
    result = call("vectors", "export", vector, "--out", out, "--model-hint", "llama")
    assert result.exit_code == 0, result.stderr
    assert "layers left out: 1" in result.stderr
    assert "--control-vector even.gguf" in result.stderr
    target = PersonaVector.from_array(np.ones((4, 32)), activation_norms=(1, 2, 3, 4)).save(tmp_path / "target.safetensors")
    dose = ["vectors", "export", vector, "--out", tmp_path / "dosed.gguf", "--layer", 2, "--coef", 0.5]
    assert "activation norms" in call(*dose).stderr
    assert asked(*dose, "--norms-of", target)["written_layers"] == [2]
    dosed = tmp_path / "dosed.safetensors"
    asked("vectors", "import", tmp_path / "dosed.gguf", "--out", dosed)
    assert asked("vectors", "show", dosed)["norms"][2] == pytest.approx(0.5 * 3)

    back = tmp_path / "back.safetensors"
    assert "directions at layers 2 to 3 only" in call("vectors", "import", out, "--out", back).stderr
    shown = asked("vectors", "show", back)
    assert [norm is None for norm in shown["norms"]] == [True, True, False, False]
    assert shown["held_layers"] == [2, 3]
    assert "none" in call("vectors", "show", back).stdout
    assert asked("vectors", "compare", vector, back, "--layer", 3)["layers"][0]["cosine"] == pytest.approx(1)
    assert "none" in call("vectors", "compare", vector, back).stdout
    assert "only at 2 to 3" in call("vectors", "compare", vector, back, "--layer", 1).stderr

    wrong = [
        (["export", vector, "--out", tmp_path / "v.pt", "--layer", 2, "--coef", 1], "--layer, --coef is for a .gguf file only"),
        (["export", vector, "--out", tmp_path / "v.onnx"], "neither .pt nor .gguf"),
        (["export", vector, "--out", tmp_path / "v.gguf", "--layer", 1], "layer 1 cannot be written"),
        (["import", out, "--out", tmp_path / "v.safetensors", "--trait", "even"], "--trait is for a published folder only"),
        (["import", tmp_path / "out.txt", "--out", tmp_path / "v.safetensors"], "neither a folder here nor an id"),
        (["import", out, "--out", tmp_path / "v.safetensors", "--depth", 9], "3 blocks, not 9"),
    ]
    for args, message in wrong:
        failed = call("vectors", *args)
        assert failed.exit_code == 2
        assert message in failed.stderr
        assert "Traceback" not in failed.output
    assert {path.name for path in tmp_path.iterdir()} == {
        "even.gguf",
        "dosed.gguf",
        "dosed.safetensors",
        "back.safetensors",
        "target.safetensors",
    }


def test_a_run_is_published_and_read_back(vector: Path, tmp_path: Path) -> None:
    known = {"trait": "even", "strategy": "character", "checkpoint": "step0"}
    original = PersonaVector.from_array(PersonaVector.load(vector).array, **known)
    original.save(tmp_path / "run/cells/step0/even/character/vector.safetensors")
    result = call("vectors", "publish", tmp_path / "run", "--out", tmp_path / "a folder")
    assert result.exit_code == 0, result.stderr
    assert "hf upload USER/NAME" in result.stderr
    assert "'" + str(tmp_path / "a folder") + "'" in result.stderr
    back = tmp_path / "back.safetensors"
    asked("vectors", "import", tmp_path / "a folder", "--trait", "even", "--out", back)
    assert [one["cosine"] for one in asked("vectors", "compare", vector, back)["layers"]] == pytest.approx([1] * 4)
    again = call("vectors", "publish", tmp_path / "run", "--out", tmp_path / "a folder")
    assert again.exit_code == 2
    assert "never overwritten" in again.stderr


def test_a_truncated_vector_file_is_a_failure_with_a_message(vector: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(vector.read_bytes()[:100])
    result = call("vectors", "show", cut)
    assert result.exit_code == 1
    assert "is broken" in result.stderr


def test_a_new_trait_file_is_all_placeholders(tmp_path: Path) -> None:
    path = tmp_path / "vain.yaml"
    assert call("traits", "new", "vain", "--out", path).exit_code == 0
    checked = call("traits", "check", path, "--json")
    assert checked.exit_code == 1
    findings = json.loads(checked.stdout)["findings"]
    places = {one["where"] for one in findings if "placeholder" in one["message"]}
    assert {"description", "rubrics.chat", "facets.first_kind", "story-contrast-00 negative", "vain-dialogue-tune-00"} <= places
    assert len(places) == 4 + 4 * 5 + 2  # every text of the file
    assert "never overwritten" in call("traits", "new", "vain", "--out", path).stderr
    assert call("traits", "new", "../vain").exit_code == 2


def test_packaged_traits_are_listed_shown_and_clean() -> None:
    names = [one["name"] for one in asked("traits", "list")["traits"]]
    assert {"evil", "humorous", "impolite", "sycophantic", "nano:evil"} <= set(names)
    assert asked("traits", "check", "evil")["errors"] == 0
    assert asked("traits", "show", "nano:evil")["name"] == "evil"
    assert "elicit" in call("traits", "show", "evil").stdout


def test_lineages_are_listed_and_shown(study: Path) -> None:
    assert {"nano", "olmo3-7b"} <= {one["name"] for one in asked("lineages", "list")["lineages"]}
    found = asked("lineages", "show", study.parent / "lineage")
    assert [one["name"] for one in found["checkpoints"]] == ["step0", "step10", "step20"]
    assert "stage3-step11921" in call("lineages", "show", "olmo3-7b").stdout


def test_doctor_tells_whether_there_is_a_key_but_not_which(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("TRAITLINE_CACHE", str(tmp_path))
    result = call("doctor", "--json")
    assert result.exit_code == 0
    assert "sk-secret" not in result.output
    found = json.loads(result.stdout)
    assert found["OPENAI_API_KEY"] is True
    assert found["nano_pretrained"] is False
    assert "sk-secret" not in call("doctor").output


def test_doctor_tells_which_extras_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    known = metadata.version

    def version(name: str) -> str:
        if name == "trl":
            raise metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(metadata, "version", version)
    extras = json.loads(call("doctor", "--json").stdout)["extras"]
    assert extras["trl"] is None
    assert extras["gguf"] == known("gguf")
    assert "descendants of nano" in call("doctor").output


def test_time_left_comes_from_the_rows_worked_on() -> None:
    now = 0.0
    meter = Meter(10_000, batch=50, clock=lambda: now)
    for seconds, rows in ((0.5, 4000), (0.01, 50), (0.01, 50)):  # a network done before, two batches without vector
        now += seconds
        meter.settle(rows)
    assert meter.percent == 41
    assert meter.seconds_left() is None
    for _ in range(4):
        now += 1.0
        meter.settle(0)  # a batch begins
        now += 1.0
        meter.settle(50)
    assert meter.seconds_left() == pytest.approx(2 * (10_000 - 4_300) / 50)
    now += 1.5
    assert meter.seconds_left() == pytest.approx(2 * (10_000 - 4_300) / 50 - 1.5)
    assert meter.phrase() == "about 4 min left"


def test_time_left_forgets_a_slower_phase_after_a_minute() -> None:
    now = 0.0
    meter = Meter(100_000, batch=50, clock=lambda: now)
    for seconds in [10.0] * 20 + [1.0] * 61:
        now += seconds
        meter.settle(50)
    assert meter.seconds_left() == pytest.approx((100_000 - 81 * 50) / 50, rel=0.01)
