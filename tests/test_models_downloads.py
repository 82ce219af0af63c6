"""Checkpoints come from the hub whole, once, and only as much of them as loading needs; or it is said why not."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import tiny_network, tiny_tokenizer
from fake_hub import FakeHub
from traitline.errors import ModelError
from traitline.models import downloads, load_model, snapshots
from traitline.models.disk import Disk, Held
from traitline.models.downloads import Download, Snapshot, fetch, look
from traitline.models.retries import ATTEMPTS
from traitline.models.snapshots import Listing

REPO = "org/model"
SHARDS = tuple(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3))
DECOYS = ("pytorch_model.bin", "consolidated.safetensors", "model.onnx", "model.gguf", "README.md", "original/params.json")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four revisions; the last two are the same files."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for i in range(3):
        target = folder / str(i)
        tiny_network("llama", seed=i).save_pretrained(target, max_shard_size="60KB")
        tiny_tokenizer().save_pretrained(target)
        for decoy in DECOYS:
            (target / decoy).parent.mkdir(exist_ok=True)
            (target / decoy).write_bytes(b"not needed" * 1000)
    return {"step1": folder / "0", "step2": folder / "1", "step3": folder / "2", "main": folder / "2"}


@pytest.fixture
def hub(checkpoints: dict[str, Path], tmp_path: Path) -> Iterator[FakeHub]:
    """A hub to which this process is connected, with an empty cache."""
    with FakeHub({REPO: checkpoints}) as hub, hub.connected(tmp_path / "cache"):
        yield hub


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses pass at once, and are kept."""
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    return pauses


def needs(hub: FakeHub, revision: str) -> int:
    """How many bytes loading a revision needs."""
    return hub.size(REPO, revision) - sum(hub.size(REPO, revision, decoy) for decoy in DECOYS)


def on_disk() -> int:
    """How many bytes the cache's blobs take, halves included."""
    blobs = snapshots.repository(REPO) / "blobs"
    return sum(path.stat().st_size for path in blobs.glob("*"))


# What comes


def test_only_what_loading_needs_comes_and_only_once(hub: FakeHub) -> None:
    snapshot = fetch(REPO, "step1")
    assert snapshot.commit == hub.commit(REPO, "step1")
    assert hub.bytes_sent() == needs(hub, "step1") == on_disk()
    asked = len(hub.log)
    assert fetch(REPO, "step1") == snapshot
    model = load_model(REPO, "step1", device="cpu", snapshot=snapshot)
    assert (model.source, model.revision, model.commit) == (REPO, "step1", snapshot.commit)
    assert len(hub.log) == asked


def test_a_revision_without_safetensors_comes_as_it_is(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for name in ("config.json", "tokenizer.json", "pytorch_model.bin"):
        (old / name).write_bytes((checkpoints["step1"] / name).read_bytes())
    with FakeHub({REPO: {"step0": old}}) as hub, hub.connected(tmp_path / "cache"):
        assert sorted(path.name for path in fetch(REPO, "step0").folder.iterdir()) == sorted(p.name for p in old.iterdir())


def test_files_that_are_here_are_taken_without_a_request_and_offline(hub: FakeHub, tmp_path: Path) -> None:
    fetch(REPO, "step1")
    asked = len(hub.log)
    with hub.connected(tmp_path / "cache", offline=True):
        assert fetch(REPO, "step1").commit == hub.commit(REPO, "step1")
        with pytest.raises(ModelError, match=r"org/model at step2 is not in the cache .*HF_HUB_OFFLINE.*unset"):
            fetch(REPO, "step2")
    assert len(hub.log) == asked


def test_what_something_else_has_put_into_the_cache_is_checked_once_and_without_a_request(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_model(REPO, "step1", device="cpu")  # transformers downloads it
    asked, hashed = len(hub.log), list[Path]()
    really = snapshots._hash
    monkeypatch.setattr(snapshots, "_hash", lambda path, file: (hashed.append(path), really(path, file))[1])
    snapshot = fetch(REPO, "step1")
    fetch(REPO, "step1")
    assert len(hub.log) == asked
    assert {path.name for path in hashed} >= set(SHARDS)
    assert len(hashed) == len(set(hashed))
    assert load_model(REPO, "step1", device="cpu", snapshot=snapshot).commit == hub.commit(REPO, "step1")


def test_a_plainly_loaded_network_knows_its_commit(hub: FakeHub) -> None:
    assert load_model(REPO, "step1", device="cpu").commit == hub.commit(REPO, "step1")


def test_a_branch_that_moves_is_what_it_was_when_it_was_pinned(hub: FakeHub, checkpoints: dict[str, Path]) -> None:
    disk, first = Disk(snapshots.cache_folder() / "run"), hub.commit(REPO, "main")
    assert disk.note_commit(REPO, "main", first) == first
    second = hub.move(REPO, "main", checkpoints["step1"])
    assert disk.note_commit(REPO, "main", second) == first == disk.commit(REPO, "main")
    assert fetch(REPO, "main", disk.commit(REPO, "main")).commit == first


# What goes wrong and passes


@pytest.mark.parametrize("status", [500, 503, 429])
@pytest.mark.parametrize("file", ["api/info", "tokenizer.json", SHARDS[1]])
def test_a_hub_that_fails_for_a_while_is_asked_again(hub: FakeHub, file: str, status: int, slept: list[float]) -> None:
    hub.fault(file, status=status, times=2)
    fetch(REPO, "step1")
    assert on_disk() == needs(hub, "step1") == hub.bytes_sent()
    assert slept


def test_the_pause_that_the_hub_wishes_for_is_kept(hub: FakeHub, slept: list[float]) -> None:
    hub.fault("api/info", status=503, retry_after=33)
    fetch(REPO, "step1")
    assert 33 <= max(slept) <= 40


def test_a_cut_connection_is_gone_on_with_where_it_was_cut(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # what the library keeps at least
    hub.fault(SHARDS[0], truncate=10_000)
    fetch(REPO, "step1")
    assert hub.bytes_sent(SHARDS[0]) == hub.size(REPO, "step1", SHARDS[0])
    assert [asked.first for asked in hub.log if asked.name == SHARDS[0] and asked.method == "GET"] == [0, 10_000]


def test_a_file_with_a_wrong_byte_comes_again(hub: FakeHub, caplog: pytest.LogCaptureFixture) -> None:
    hub.fault(SHARDS[0], corrupt=5000)
    with caplog.at_level(logging.INFO, "traitline"):
        snapshot = fetch(REPO, "step1")
    load_model(REPO, "step1", device="cpu", snapshot=snapshot)
    assert hub.bytes_sent(SHARDS[0]) == 2 * hub.size(REPO, "step1", SHARDS[0])
    assert hub.bytes_sent(SHARDS[1]) == hub.size(REPO, "step1", SHARDS[1])
    assert "came broken: expected sha256" in caplog.text
    assert "org/model at step1: here and whole" in caplog.text


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_file_that_was_harmed_on_the_disk_comes_again(hub: FakeHub, harm: str, tmp_path: Path) -> None:
    snapshot = fetch(REPO, "step1")
    blob = (snapshot.folder / SHARDS[2]).resolve()
    content = bytearray(blob.read_bytes())
    content[3000] ^= 1
    if harm == "remove":
        blob.unlink()
    else:
        blob.write_bytes(content[: 4000 if harm == "cut" else None])
    with (
        hub.connected(tmp_path / "cache", offline=True),
        pytest.raises(
            ModelError, match=rf"{SHARDS[2]} of org/model at step1 is not whole .*expected .*, found .*HF_HUB_OFFLINE"
        ),
    ):
        fetch(REPO, "step1")
    before = hub.bytes_sent()
    fetch(REPO, "step1")
    assert hub.bytes_sent() - before == hub.size(REPO, "step1", SHARDS[2])
    assert (snapshot.folder / SHARDS[2]).resolve().read_bytes() != content


# What goes wrong for good


def test_a_file_that_always_comes_broken_is_named_with_what_was_found(hub: FakeHub) -> None:
    hub.fault(SHARDS[0], corrupt=5000, times=None)
    right = next(file.etag for file in downloads.ask(REPO, "step1").listing.files if file.name == SHARDS[0])
    with pytest.raises(
        ModelError, match=rf"{SHARDS[0]} of org/model at step1, tried 5 times.*sha256 {right}, found (?!{right})"
    ):
        fetch(REPO, "step1")
    assert hub.requests(SHARDS[0], method="GET") == ATTEMPTS
    assert not (snapshots.repository(REPO) / "blobs" / right).exists()


def test_a_file_that_never_comes_whole_is_given_up_and_the_others_are_kept(hub: FakeHub) -> None:
    hub.fault(SHARDS[0], truncate=20_000, times=None)
    with pytest.raises(ModelError, match=rf"cannot download {SHARDS[0]} of org/model at step1, tried 5 times"):
        fetch(REPO, "step1")
    hub.mend()
    before = hub.bytes_sent(SHARDS[0])
    fetch(REPO, "step1")
    assert hub.bytes_sent(SHARDS[1]) == hub.size(REPO, "step1", SHARDS[1])
    assert hub.bytes_sent(SHARDS[0]) - before <= hub.size(REPO, "step1", SHARDS[0])


def test_a_hub_that_is_down_is_given_up_after_growing_pauses(hub: FakeHub, slept: list[float]) -> None:
    hub.fault(status=503, times=None)
    with pytest.raises(ModelError, match=r"list of files of org/model at step1, tried 5 times: .*status 503; .*Run the same"):
        fetch(REPO, "step1")
    assert slept == [2.0, 4.0, 8.0, 16.0]


@pytest.mark.parametrize(
    ("repo", "revision", "said"),
    [
        (REPO, "step4", r"'org/model' has no revision 'step4'; nearest: step"),
        ("org/modal", "main", r"no repository 'org/modal', or not for you; check the spelling"),
        ("not/a/name", "main", r"'not/a/name' is neither a directory here nor a repository's name"),
    ],
)
def test_what_does_not_exist_is_said_at_once(hub: FakeHub, slept: list[float], repo: str, revision: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        fetch(repo, revision)
    assert not slept


def test_a_full_disk_is_said_at_once(hub: FakeHub, slept: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    with pytest.raises(
        ModelError, match=r"disk of .* is full \(No space left on device\); free some space.*HF_HUB_CACHE.*disk_gb"
    ):
        fetch(REPO, "step1")
    assert not slept


def test_a_repository_that_is_no_model_is_said(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "README.md").write_text("nothing")
    with (
        FakeHub({REPO: {"main": tmp_path / "files"}}) as hub,
        hub.connected(tmp_path / "cache"),
        pytest.raises(ModelError, match=r"org/model at main holds no config\.json or no weights"),
    ):
        fetch(REPO, "main")


# Seen from outside


def test_who_watches_is_told_how_far_it_is(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "LOOK_SECONDS", 0.01)
    hub.rate = 200_000
    told: list[Download] = []
    fetch(REPO, "step1", watch=told.append)
    done = [one.done_bytes for one in told]
    assert {(one.source, one.revision, one.total_bytes) for one in told} == {(REPO, "step1", needs(hub, "step1"))}
    assert done == sorted(done)
    assert done[-1] == needs(hub, "step1")
    assert len({one for one in done if 0 < one < done[-1]}) > 3


def test_a_killed_download_is_gone_on_with_and_its_halves_go(hub: FakeHub, tmp_path: Path) -> None:
    """The hub's library goes on with whole files only: of what was under way it keeps nothing."""
    hub.fault(SHARDS[0], hold=30_000)
    program = (
        "from pathlib import Path; from traitline.models.disk import Disk; from traitline.models.downloads import fetch\n"
        "from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = 1000\n"
        f"disk = Disk(Path({str(tmp_path / 'run')!r}))\n"
        f"fetch({REPO!r}, 'step1', admit=lambda listing: disk.admit(listing, lambda *_: 0, now=True))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    assert hub.reached.wait(60)
    others = [name for name in hub.files(REPO, "step1") if name not in {SHARDS[0], *DECOYS}]
    folder = snapshots.repository(REPO)

    def all_but_a_half() -> bool:
        if len(list((folder / "snapshots").glob("*/*"))) < len(others):
            return False
        return [path.stat().st_size > 20_000 for path in (folder / "blobs").glob("*.incomplete")] == [True]

    wait_until(all_but_a_half)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.release()
    disk = Disk(tmp_path / "run")
    fetch(REPO, "step1", admit=lambda listing: disk.admit(listing, lambda *_: 0, now=True) or pytest.fail("no room"))
    assert on_disk() == needs(hub, "step1")
    for name in others:
        assert hub.bytes_sent(name) == hub.size(REPO, "step1", name)


def wait_until(true: Callable[[], bool], turns: int = 10_000_000) -> None:
    for _ in range(turns):
        if true():
            return
        os.sched_yield()
    raise AssertionError("in vain")


# Room on the disk


class Run:
    """A run that downloads revisions one after the other, with room for so many of them."""

    def __init__(self, hub: FakeHub, folder: Path, checkpoints_at_once: float | None) -> None:
        self.size = needs(hub, "step1")
        self.budget = None if checkpoints_at_once is None else round(self.size * checkpoints_at_once)
        self.disk = Disk(folder, self.budget)
        self.later: dict[str, int] = {}
        self.commits = {hub.commit(REPO, name): name for name in ("step1", "step2", "step3", "main")}

    def rank(self, _source: str, commit: str) -> int | None:
        return self.later.get(self.commits[commit])

    def bring(self, revision: str, *, now: bool = True) -> bool:
        admitted: list[bool] = []

        def admit(listing: Listing) -> None:
            admitted.append(self.disk.admit(listing, self.rank, now=now))
            if not admitted[-1]:
                raise ModelError("later")

        try:
            self.disk.finished(fetch(REPO, revision, admit=admit).commit)
        except ModelError:
            if admitted:
                return False
            raise
        return True

    @property
    def here(self) -> set[str]:
        snapshot_folders = (snapshots.repository(REPO) / "snapshots").glob("*")
        return {self.commits[folder.name] for folder in snapshot_folders if any(folder.iterdir())}


def test_spent_checkpoints_leave_and_nothing_else_does_as_long_as_there_is_room(hub: FakeHub, tmp_path: Path) -> None:
    run = Run(hub, tmp_path / "run", 2.1)
    for revision, there in (("step1", {"step1"}), ("step2", {"step1", "step2"}), ("step3", {"step2", "step3"})):
        assert run.bring(revision)
        assert run.here == there
        assert on_disk() <= run.budget
        assert look(REPO, revision).misfits() == []


def test_without_a_budget_nothing_leaves(hub: FakeHub, tmp_path: Path) -> None:
    run = Run(hub, tmp_path / "run", None)
    assert all(run.bring(revision) for revision in ("step1", "step2", "step3"))
    assert run.here == {"step1", "step2", "step3"}


def test_what_a_later_phase_needs_leaves_last_and_only_for_what_is_needed_now(hub: FakeHub, tmp_path: Path) -> None:
    run = Run(hub, tmp_path / "run", 2.1)
    run.later = {"step1": 5, "step2": 9}
    assert run.bring("step1")
    assert run.bring("step2")
    assert not run.bring("step3", now=False)
    assert run.here == {"step1", "step2"}
    assert run.bring("step3")
    assert run.here == {"step1", "step3"}


def test_what_a_process_uses_stays_until_it_ends_however_it_ends(hub: FakeHub, tmp_path: Path) -> None:
    run = Run(hub, tmp_path / "run", 1.1)
    assert run.bring("step1")
    program = (
        "import sys; from pathlib import Path; from traitline.models.disk import Disk\n"
        f"with Disk(Path('run')).using({REPO!r}, {hub.commit(REPO, 'step1')!r}):\n"
        "    print('used', flush=True); sys.stdin.read()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, **pipes)
    assert process.stdout.readline() == b"used\n"
    assert not run.bring("step2")
    assert run.here == {"step1"}
    process.kill()
    process.communicate()
    assert run.bring("step2")
    assert run.here == {"step2"}


def test_what_was_there_before_stays(hub: FakeHub, tmp_path: Path) -> None:
    fetch(REPO, "step1")
    run = Run(hub, tmp_path / "run", 1.1)
    for revision in ("step1", "step2", "step3"):
        assert run.bring(revision)
    assert run.here == {"step1", "step3"}
    assert look(REPO, "step1").misfits() == []


def test_files_of_a_checkpoint_that_were_there_before_stay(hub: FakeHub, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    config = Path(hf_hub_download(REPO, "config.json", revision="step1"))
    weights = Path(hf_hub_download(REPO, SHARDS[0], revision="step1"))
    run = Run(hub, tmp_path / "run", 1.1)
    assert run.bring("step1")
    assert run.bring("step2")
    assert {path.name for path in config.parent.iterdir()} == {"config.json", SHARDS[0]}
    assert weights.stat().st_size == hub.size(REPO, "step1", SHARDS[0])
    assert run.bring("step1")


def test_a_content_that_two_checkpoints_share_counts_once_and_leaves_with_the_last(hub: FakeHub, tmp_path: Path) -> None:
    run = Run(hub, tmp_path / "run", 1.1)
    assert run.bring("step3")
    before = hub.bytes_sent()
    assert run.bring("main")
    assert hub.bytes_sent() == before
    assert run.here == {"step3", "main"}
    assert run.bring("step1")
    assert on_disk() <= run.budget
    assert "step1" in run.here
    assert look(REPO, "step1").misfits() == []


def test_one_that_is_larger_than_the_budget_is_said_with_the_setting(hub: FakeHub, tmp_path: Path) -> None:
    run = Run(hub, tmp_path / "run", 0.5)
    listing = downloads.ask(REPO, "step1").listing
    with pytest.raises(
        ModelError, match=r"org/model at step1 alone needs 1\d\d kB, and disk_gb is .*; set disk_gb to 0\.1 or more"
    ):
        run.disk.admit(listing, run.rank, now=True)


def test_a_disk_that_others_have_filled_counts_as_the_budget(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(hub, tmp_path / "run", 100)
    assert run.bring("step1")
    monkeypatch.setattr("traitline.models.disk.free_bytes", lambda: run.size // 2)
    assert run.bring("step2")
    assert run.here == {"step2"}
    listing = Listing(REPO, "huge", "f" * 40, tuple(snapshots.HubFile(str(i), run.size, str(i)) for i in range(3)))
    with pytest.raises(ModelError, match=r"org/model at huge needs .* are free on the disk of .*HF_HUB_CACHE"):
        run.disk.admit(listing, run.rank, now=True)


def test_what_a_run_holds_can_be_seen_from_elsewhere(hub: FakeHub, tmp_path: Path) -> None:
    run = Run(hub, tmp_path / "run", 2.1)
    assert run.bring("step1")
    (held,) = Disk(tmp_path / "run").held()
    assert isinstance(held, Held)
    assert (held.revision, held.done, sum(held.blobs.values())) == ("step1", True, run.size)
    assert isinstance(fetch(REPO, "step1"), Snapshot)
