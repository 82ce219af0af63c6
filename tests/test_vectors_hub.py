"""Published folders: written from vectors and from runs, read from a folder and from a hub on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from small_study import CountingJudge, make_study, make_trait
from traitline.errors import InputError, StoreError
from traitline.study import Study
from traitline.vectors import PersonaVector, export_gguf, export_hub, import_gguf, import_hub
from traitline.vectors.vector import Provenance, load_arrays, save_arrays

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def vector(seed: int = 0, layers: int = 3, **provenance: Any) -> PersonaVector:
    array = np.random.default_rng(seed).normal(size=(layers + 1, 6))
    given = {"trait": "evil", "strategy": "character", "checkpoint": "step20", "lineage": "olmo", **provenance}
    return PersonaVector.from_array(array, **given)


VECTORS = [
    vector(0, checkpoint="step20", source="org/model", n_pairs=4, n_questions=3),
    vector(1, checkpoint="step1000", source="org/model", n_pairs=40, n_questions=30),
    vector(2, trait="funny", strategy="story", source="org/model"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return export_hub(VECTORS, tmp_path / "published")


def front_matter(folder: Path) -> dict[str, Any]:
    _, front, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(front)
    return found


def test_the_layout_is_trait_strategy_checkpoint(folder: Path) -> None:
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == [
        "README.md",
        "config.json",
        "evil/character/step1000.safetensors",
        "evil/character/step20.safetensors",
        "funny/story/step20.safetensors",
    ]
    index = json.loads((folder / "config.json").read_text())
    assert (index["format"], index["layers"], index["hidden"]) == ("traitline-vectors", 3, 6)
    assert [(one["trait"], one["checkpoint"], one["fragile"]) for one in index["vectors"]] == [
        ("evil", "step20", True),
        ("evil", "step1000", False),
        ("funny", "step20", False),
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["published"]  # nothing half written is left beside it


def test_what_is_published_imports_bit_for_bit(folder: Path) -> None:
    for one in VECTORS:
        origin = one.provenance
        back = import_hub(folder, trait=origin.trait, strategy=origin.strategy, checkpoint=origin.checkpoint)
        np.testing.assert_array_equal(back.array, one.array)
        assert back.provenance == origin


def test_what_is_certain_may_be_left_out(folder: Path) -> None:
    assert import_hub(folder, trait="funny").provenance.strategy == "story"
    assert import_hub(folder, checkpoint="step1000").provenance.trait == "evil"
    with pytest.raises(InputError, match=r"2 vectors that fit; say which\. checkpoint: step20, step1000"):
        import_hub(folder, trait="evil")
    with pytest.raises(InputError, match=r"3 vectors that fit; say which\. trait: evil, funny; strategy: character, story;"):
        import_hub(folder)


def test_what_is_not_there_is_told_with_what_is(folder: Path) -> None:
    with pytest.raises(InputError, match="no vector of trait 'rude'; it holds evil, funny"):
        import_hub(folder, trait="rude")
    with pytest.raises(InputError, match="trait 'funny' and checkpoint 'step1000' together"):
        import_hub(folder, trait="funny", checkpoint="step1000")
    with pytest.raises(InputError, match="no vector 'prompt_avg', but response_avg"):
        import_hub(folder, trait="funny", position="prompt_avg")
    with pytest.raises(InputError, match="has no revision 'main'"):
        import_hub(folder, trait="funny", revision="main")
    with pytest.raises(InputError, match="neither a folder here nor an id of the hub"):
        import_hub(folder / "none" / "such", trait="funny")


def test_the_card_has_front_matter_and_leaves_the_licence_open(folder: Path) -> None:
    front = front_matter(folder)
    assert (front["library_name"], front["base_model"]) == ("traitline", ["org/model"])
    assert "steering-vectors" in front["tags"]
    assert "license" not in front
    card = (folder / "README.md").read_text()
    assert "| `evil` | `character` | 2 | 1 | `step20` | `step1000` |" in card
    assert "1 of the vectors are *fragile*" in card


def test_names_cannot_break_out_of_the_card(tmp_path: Path) -> None:
    name = "a`<b>|x"
    folder = export_hub([vector(trait=name, lineage="l`![](x)`")], tmp_path / "out")
    card = (folder / "README.md").read_text()
    assert "`a'<b>/x`" in card
    assert "`l'![](x)'`" in card
    assert import_hub(folder).provenance.trait == name


def test_nothing_published_names_a_folder_of_this_machine(tmp_path: Path) -> None:
    private = tmp_path / "home" / "secret"
    private.mkdir(parents=True)
    made = [
        vector(0, source=str(private), judge=f"local:{private}"),
        vector(1, checkpoint="b", source="org/model", judge="local:org/judge"),
        vector(2, checkpoint="c", source="../secret/", judge="openai:gpt-4.1-mini"),
    ]
    folder = export_hub(made, tmp_path / "out")
    for path in folder.rglob("*.*"):
        assert b"home" not in path.read_bytes()
        assert b"../" not in path.read_bytes()
    found = [import_hub(folder, checkpoint=one).provenance for one in ("step20", "b", "c")]
    assert [one.source for one in found] == ["secret", "org/model", "secret"]
    assert [one.judge for one in found] == ["local:secret", "local:org/judge", "openai:gpt-4.1-mini"]
    assert front_matter(folder)["base_model"] == ["org/model"]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([], "no vectors to publish"),
        ([vector(), vector(1)], "two vectors would be written to 'evil/character/step20.safetensors'"),
        ([vector(), vector(1, trait="EVIL")], "two vectors"),
        ([vector(), vector(1, layers=4, checkpoint="b")], r"\[4, 6\], \[5, 6\] of olmo; publish each model apart"),
        ([vector(), vector(1, lineage="pythia", checkpoint="b")], "olmo, pythia"),
        ([vector(strategy=None, checkpoint="")], "vector 0 does not say its strategy, checkpoint"),
        ([vector(trait="../../etc")], "cannot become a folder"),
        ([vector(trait="a/b")], "holds a slash"),
        ([vector(trait=".git")], "begins with a dot"),
    ],
)
def test_vectors_that_cannot_be_published_together_are_refused(tmp_path: Path, vectors: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        export_hub(vectors, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_never_overwritten(folder: Path) -> None:
    before = (folder / "config.json").read_bytes()
    with pytest.raises(InputError, match="never overwritten"):
        export_hub([vector()], folder)
    assert (folder / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "format: "),
        ({"format_version": 2}, "format_version: "),
        ({"layers": "many"}, "layers: "),
        ({"vectors": []}, "vectors: "),
        ({"vectors": [{"trait": "../../etc", "strategy": "x", "checkpoint": "passwd", "arrays": ["a"]}]}, "cannot become"),
        ({"vectors": [{"trait": "/etc", "strategy": "x", "checkpoint": "y", "arrays": ["a"]}]}, "cannot become"),
    ],
)
def test_an_index_that_means_harm_is_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=message):
        import_hub(folder, position="a")


def test_broken_folders_are_told_apart(folder: Path, tmp_path: Path) -> None:
    (folder / "funny/story/step20.safetensors").unlink()
    with pytest.raises(InputError, match="does not exist"):
        import_hub(folder, trait="funny")
    cut = folder / "evil/character/step20.safetensors"
    cut.write_bytes(cut.read_bytes()[:90])
    with pytest.raises(StoreError, match="is broken"):
        import_hub(folder, checkpoint="step20", trait="evil")
    vector(5, checkpoint="another").save(folder / "evil/character/step1000.safetensors")
    with pytest.raises(StoreError, match=r"is not the vector that config\.json tells of: it is of evil, character, another"):
        import_hub(folder, checkpoint="step1000")
    (folder / "config.json").write_bytes(b"\xff not json")
    with pytest.raises(InputError, match="no index of vectors"):
        import_hub(folder)
    with pytest.raises(InputError, match=r"holds no config\.json.*is it a published folder"):
        import_hub(tmp_path)


@pytest.mark.parametrize("damage", ["nan", "norms"])
def test_a_vector_with_holes_is_refused(folder: Path, damage: str) -> None:
    path = folder / "funny/story/step20.safetensors"
    arrays, provenance = load_arrays(path)
    if damage == "nan":
        arrays["response_avg"][2, 3] = np.nan
    else:
        provenance = replace(provenance, activation_norms=(1.0, 2.0))
    save_arrays(path, arrays, provenance)
    with pytest.raises(StoreError, match="NaN or infinite" if damage == "nan" else "has 3 layers, its activation norms 1"):
        import_hub(folder, trait="funny")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, light_figures: None) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    changes = {
        "traits": [str(make_trait(folder, "even"))],
        "strategies": ["character"],
        "elicit": {"samples": 1, "max_new_tokens": 6},
        "evaluate": {"samples": 1, "max_new_tokens": 1, "layers": [1], "coefs": [0.5]},
        "controls": {"isotropic": 1, "covariance": 0, "shuffled": 0, "bootstrap": 2},
    }
    Study.from_yaml(make_study(folder, **changes), folder / "run").run(judge=CountingJudge())
    return folder / "run"


def test_a_run_is_published_without_its_controls(run: Path, tmp_path: Path) -> None:
    folder = export_hub(run, tmp_path / "out")
    files = sorted(run.glob("cells/*/*/*/vector.safetensors"))
    index = json.loads((folder / "config.json").read_text())
    assert len(index["vectors"]) == len(files) == 3
    first = [one["checkpoint"] for one in index["vectors"] if (one["trait"], one["strategy"]) == ("even", "character")]
    assert first == sorted(first, key=lambda name: int(name.removeprefix("step")))
    for file in files:
        checkpoint, trait, strategy = file.parts[-4:-1]
        which = {"trait": trait, "strategy": strategy, "checkpoint": checkpoint}
        for position in ("response_avg", "prompt_last", "balanced_response_avg"):
            original = PersonaVector.load(file, position)
            np.testing.assert_array_equal(import_hub(folder, **which, position=position).array, original.array)
        published, _ = load_arrays(folder / trait / strategy / f"{checkpoint}.safetensors")
        assert not [name for name in published if name.startswith(("isotropic", "bootstrap", "split"))]
        assert import_hub(folder, **which).provenance.activation_norms


def test_a_published_vector_becomes_a_control_vector(run: Path, tmp_path: Path) -> None:
    folder = export_hub(run, tmp_path / "out")
    one = import_hub(folder, trait="even", strategy="character", checkpoint="step20")
    back = import_gguf(export_gguf(one, tmp_path / "v.gguf", layers=[2], coef=0.5))
    assert one.provenance.activation_norms is not None
    assert np.linalg.norm(back.at(2)) == pytest.approx(0.5 * one.provenance.activation_norms[2], rel=1e-5)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give the directory of a run"):
        export_hub(tmp_path, tmp_path / "out")
    save_arrays(tmp_path / "cells/a/b/c/vector.safetensors", {"other": np.ones((3, 4), dtype=np.float32)}, Provenance())
    with pytest.raises(StoreError, match="holds no vector"):
        export_hub(tmp_path, tmp_path / "out")


class _Hub(ThreadingHTTPServer):
    """Serves one folder as the repository `me/vectors`, and remembers what was asked of it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.folder = folder
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answer(BaseHTTPRequestHandler):
    server: _Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        repository, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if name:  # the client also asks for things of its own
            self.server.asked.append(f"{revision} {name}")
        path = self.server.folder / name
        known = repository == "me/vectors" and revision in ("main", COMMIT) and path.is_file()
        content = path.read_bytes() if known else b""
        self.send_response(200 if known else 404)
        if known:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
        else:
            self.send_header("X-Error-Code", "RepoNotFound" if repository != "me/vectors" else "RevisionNotFound")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(folder: Path) -> Iterator[_Hub]:
    server = _Hub(folder)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_of_a_repository_only_what_is_needed_is_fetched_at_one_commit(hub: _Hub, tmp_path: Path) -> None:
    out = tmp_path / "v.safetensors"

    def command(*args: str) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        env = {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
        line = [sys.executable, "-c", "from traitline.cli import main; main()", "vectors", "import", *args, "--out", str(out)]
        return subprocess.run(line, env=env, capture_output=True, text=True)

    done = command("me/vectors", "--trait", "evil", "--checkpoint", "step1000")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(PersonaVector.load(out).array, VECTORS[1].array)
    assert set(hub.asked) == {"main config.json", f"{COMMIT} evil/character/step1000.safetensors"}
    out.unlink()
    for args, message in ((["me/nothing"], "RepositoryNotFound"), (["me/vectors", "--revision", "v9"], "at revision 'v9'")):
        failed = command(*args)
        assert failed.returncode == 2
        assert message in failed.stderr
        assert "Traceback" not in failed.stderr
        assert not out.exists()
