"""Runs in an object store: the same tables as in a folder, resumed from the store alone, one driver at a time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import fsspec
import pytest
from typer.testing import CliRunner

from test_study_executors import Labelled
from traitline.cli import app
from traitline.errors import InputError, StoreError
from traitline.study import Study, lease, mirror, run_status
from traitline.study.mirror import Mirror
from traitline.study.remote import Remote
from traitline.study.remote_store import RemoteStore, working_copy
from traitline.study.run import run_study

PATIENCE_SECONDS = 120
DRIVER = """
import sys
from traitline.study import Study, lease, mirror
from traitline.study.run import run_study
lease.SETTLE_SECONDS = mirror.PUSH_SECONDS = 0.02
study = Study.from_yaml(sys.argv[1], out=sys.argv[2])
run_study(study.resolved, study.url)
"""


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    return Labelled(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the cache directory, as another machine has another one; no waiting for what no test is about."""
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(mirror, "PUSH_SECONDS", 0.02)

    def move(name: str) -> None:
        monkeypatch.setenv("TRAITLINE_CACHE", str(tmp_path / name))

    move("here")
    return move


@pytest.fixture
def bucket() -> Iterator[str]:
    """A URL in this process's memory."""
    url = f"memory://{uuid.uuid4().hex}/run"
    yield url
    fsspec.filesystem("memory").rm(url.rpartition("/")[0], recursive=True)


def tables_at(labelled: Labelled, url: str, folder: Path) -> dict[str, str]:
    Mirror(folder, Remote(url)).fetch(lambda name: name.startswith("tables/"))
    return labelled.read(folder)


def test_a_run_at_a_url_leaves_there_what_a_run_in_a_folder_leaves(
    labelled: Labelled, tmp_path: Path, bucket: str, machine: Callable[[str], None]
) -> None:
    study = Study.from_yaml(labelled.file, out=bucket)
    outcome = study.run()
    assert outcome.failed == ()
    assert tables_at(labelled, bucket, tmp_path / "seen") == labelled.tables
    alone = {
        path.relative_to(labelled.file.parent / "alone").as_posix() for path in (labelled.file.parent / "alone").rglob("*.*")
    }
    there = set(Remote(bucket).names())
    assert {name for name in alone if name.endswith((".parquet", ".safetensors", ".csv", ".yaml", "ledger.sqlite"))} <= there
    assert "report.html" in there
    assert not [name for name in there if name.startswith("parts/") or name.endswith((".claim", ".lock", ".owner"))]

    machine("elsewhere")
    assert run_status(bucket)["state"].eq("complete").all()
    told: list[str] = []
    assert run_study(study.resolved, bucket, progress=lambda what, _rows: told.append(what)) == outcome
    assert told
    assert all("done before" in what for what in told)

    shell = CliRunner()
    status = shell.invoke(app, ["status", bucket])
    assert status.exit_code == 0
    assert bucket in status.output.replace("\n", "")
    Remote(bucket).remove(["report.html"])
    assert shell.invoke(app, ["report", bucket]).exit_code == 0
    assert "report.html" in Remote(bucket).names()


def test_a_killed_run_is_gone_on_with_by_another_machine_from_the_store_alone(
    labelled: Labelled, tmp_path: Path, machine: Callable[[str], None]
) -> None:
    url = f"file://{tmp_path / 'bucket'}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    remote, driver = Remote(url), subprocess.Popen([sys.executable, "-c", DRIVER, str(labelled.file), url], env=environment)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not any(name.startswith("parts/step0/evaluate") for name in remote.names()) and time.monotonic() < deadline:
            assert driver.poll() is None
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    before = remote.names()
    assert any(name.endswith("evaluation.parquet") for name in before)
    assert not any(name.startswith("tables/") for name in before)
    shutil.rmtree(tmp_path / "here")

    machine("elsewhere")
    skipped: list[int] = []
    study = Study.from_yaml(labelled.file, out=url)
    outcome = run_study(study.resolved, url, progress=lambda what, rows: skipped.append(rows if "done" in what else 0))
    assert outcome.failed == ()
    assert tables_at(labelled, url, tmp_path / "seen") == labelled.tables
    assert sum(skipped) > labelled.rows / 4
    assert all(remote.names()[name] == size for name, size in before.items() if name.endswith("evaluation.parquet"))


@pytest.mark.slow
def test_workers_of_a_run_at_a_url_share_its_working_copy(labelled: Labelled, tmp_path: Path, bucket: str) -> None:
    study = Study.from_yaml(labelled.file, out=bucket)
    assert run_study(study.resolved, bucket, workers=2).failed == ()
    assert tables_at(labelled, bucket, tmp_path / "seen") == labelled.tables


def test_a_working_copy_that_another_machine_has_overtaken_is_thrown_away(bucket: str, machine: Callable[[str], None]) -> None:
    def write(name: str) -> None:
        store = RemoteStore(bucket)
        with store.driving():
            path = store.root / "cells" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(name)
            names = sorted(one.name for one in path.parent.iterdir())
            assert names == expected

    expected = ["first.csv"]
    write("first.csv")
    (working_copy(bucket) / "cells" / "unput.csv").write_text("by a run that was killed before it could put it")
    expected = ["first.csv", "second.csv", "unput.csv"]
    write("second.csv")
    (working_copy(bucket) / "cells" / "stale.csv").write_text("as above")
    machine("elsewhere")
    expected = ["first.csv", "second.csv", "third.csv", "unput.csv"]
    write("third.csv")
    machine("here")
    expected = ["first.csv", "fourth.csv", "second.csv", "third.csv", "unput.csv"]
    write("fourth.csv")
    assert "cells/stale.csv" not in Remote(bucket).names()


def test_a_run_has_one_driver_at_a_time(bucket: str, machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.05)
    with RemoteStore(bucket).driving():
        machine("elsewhere")
        with (
            pytest.raises(StoreError, match=r"another process \(\d+ on .*\) is running the study at"),
            RemoteStore(bucket).driving(),
        ):
            pass
    with RemoteStore(bucket).driving():  # the first one has given it back
        pass


def test_a_driver_that_was_taken_for_dead_stops_and_puts_nothing_more(
    bucket: str, machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.1)
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.02)
    first, taken = RemoteStore(bucket), "another driver has taken the run"
    with ExitStack() as held:
        held.enter_context(pytest.raises(StoreError, match=taken))  # also what its work since then is thrown away with
        held.enter_context(first.driving())  # its heart beats too late
        machine("elsewhere")
        monkeypatch.setattr(lease, "BEAT_SECONDS", 0.01)
        held.enter_context(RemoteStore(bucket).driving())
        first._lease.beat()  # type: ignore[union-attr]
        (first.root / "late.csv").write_text("late")
        with pytest.raises(StoreError, match=taken):
            first.check()
    assert "late.csv" not in Remote(bucket).names()


def test_what_says_that_a_cell_is_done_is_put_after_what_it_stands_for_and_parts_go_last(tmp_path: Path, bucket: str) -> None:
    remote, order = Remote(bucket), list[str]()
    put, remove = remote.put, remote.remove
    remote.put = lambda path, name: (order.append(name), put(path, name))[1]  # type: ignore[method-assign,assignment,func-returns-value]
    remote.remove = lambda names: (order.extend(f"-{name}" for name in names), remove(names))[1]  # type: ignore[method-assign,func-returns-value]
    kept = Mirror(tmp_path, remote)
    part = tmp_path / "parts" / "a" / "evaluate" / "000000.parquet"
    part.parent.mkdir(parents=True)
    part.write_text("part")
    (part.parent / "shared").write_text("")
    kept.push()
    cell = tmp_path / "cells" / "a" / "evil" / "character"
    cell.mkdir(parents=True)
    for name in ("evaluation.parquet", "contrast.parquet", "vector.safetensors"):
        (cell / name).write_text(name)
    shutil.rmtree(tmp_path / "parts")
    kept.push()
    assert [name.rpartition("/")[2] for name in order[:2]] == ["000000.parquet", "vector.safetensors"]
    assert {name.rpartition("/")[2] for name in order[2:4]} == {"contrast.parquet", "evaluation.parquet"}
    assert order[4:] == ["-parts/a/evaluate/000000.parquet"]
    kept.push()
    assert len(order) == 5


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, protocol: str) -> None:
    url = f"{protocol}://{tmp_path}/bucket"
    remote, source = Remote(url), tmp_path / "source"
    assert remote.names() == {}
    assert remote.read("a/b.csv") is None
    assert not remote.get("a/b.csv", tmp_path / "copy")
    source.write_bytes(b"1" * 10)
    remote.put(source, "a/b.csv")
    remote.write("a/c.json", b"{}")
    assert remote.names() == {"a/b.csv": 10, "a/c.json": 2}
    assert remote.names("a") == remote.names()
    source.unlink()
    with pytest.raises(StoreError, match="cannot be written"):
        remote.put(source, "a/b.csv")
    assert remote.read("a/b.csv") == b"1" * 10
    remote.remove(["a/b.csv", "a/nothing.csv"])
    assert list(remote.names()) == ["a/c.json"]
    assert not list(tmp_path.rglob("*.partial"))


def test_a_url_that_cannot_be_used_is_told_of_before_anything_is_done(labelled: Labelled) -> None:
    with pytest.raises(InputError, match=r"no place that fsspec knows.*s3://"):
        run_study(Study.from_yaml(labelled.file).resolved, "nowhere://bucket/run")
    with pytest.raises(InputError, match="a password in the URL") as caught:
        Remote("ftp://me:secret@host/run")
    assert "secret" not in str(caught.value)
    with pytest.raises(InputError, match="no run lies in 'memory://nothing/run'"):
        run_status("memory://nothing/run")


def test_an_object_store_that_speaks_s3(labelled: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs", reason="needs s3fs")
    server = pytest.importorskip("moto.server", reason="needs moto[server]").ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        with pytest.raises(StoreError, match=r"'s3://missing/run' cannot be"):
            run_study(Study.from_yaml(labelled.file).resolved, "s3://missing/run")
        fsspec.filesystem("s3").mkdir("s3://traits")
        url = "s3://traits/some/run"
        assert run_study(Study.from_yaml(labelled.file, out=url).resolved, url).failed == ()
        assert tables_at(labelled, url, tmp_path / "seen") == labelled.tables
    finally:
        server.stop()
