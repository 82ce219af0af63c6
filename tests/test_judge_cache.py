"""The judge cache on real files: threads, processes, kills, damage and full disks."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from traitline.errors import StoreError
from traitline.judges.cache import JudgeCache, cache_key


def test_key_depends_on_identity_and_content_and_not_on_the_order_of_fields() -> None:
    base = cache_key({"model": "m", "seed": 0}, "prompt")
    assert base == cache_key({"seed": 0, "model": "m"}, "prompt")
    others = {
        cache_key({"model": "n", "seed": 0}, "prompt"),
        cache_key({"model": "m", "seed": 1}, "prompt"),
        cache_key({"model": "m", "seed": 0}, "prompt "),
    }
    assert len(others | {base}) == 4


def test_key_takes_any_text() -> None:
    assert cache_key({"m": 1}, "\ud800 {} \x00") != cache_key({"m": 1}, "{} \x00")


def test_values_and_costs_outlive_the_cache_object(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cache.sqlite"
    with JudgeCache(path) as cache:
        cache.put("a", {"numbers": [[85.0, 0.25]]}, requests=2, prompt_tokens=30, completion_tokens=1)
        cache.put("b", "text", prompt_tokens=12)
    with JudgeCache(path) as cache:
        assert cache.get_many(["a", "b", "c", "a"]) == {"a": {"numbers": [[85.0, 0.25]]}, "b": "text"}
        assert cache.holds(["a", "b"])
        assert not cache.holds(["a", "c"])
        counts = cache.counts()
    assert (counts.hits, counts.misses, counts.entries) == (2, 1, 2)
    assert (counts.requests, counts.prompt_tokens, counts.completion_tokens) == (3, 42, 1)


def test_first_value_stays_and_every_cost_counts(tmp_path: Path) -> None:
    with JudgeCache(tmp_path / "c.sqlite") as one, JudgeCache(tmp_path / "c.sqlite") as other:
        assert one.put("k", 1, prompt_tokens=5) == 1
        assert other.put("k", 2, prompt_tokens=5) == 1
        assert one.get_many(["k"]) == {"k": 1}
        assert one.counts().prompt_tokens == 10


def test_more_keys_than_one_query_takes(tmp_path: Path) -> None:
    with JudgeCache(tmp_path / "c.sqlite") as cache:
        cache.put("k7", 7)
        cache.put("k1999", 1999)
        keys = [f"k{i}" for i in range(2000)]
        assert cache.get_many(keys) == {"k7": 7, "k1999": 1999}
        assert cache.counts().misses == 1998


def test_many_threads_write_and_read(tmp_path: Path) -> None:
    with JudgeCache(tmp_path / "c.sqlite") as cache:

        def work(thread: int) -> None:
            for i in range(10):
                cache.put(f"{thread}-{i}", i)
                assert cache.get_many([f"{thread}-{i}"]) == {f"{thread}-{i}": i}

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert cache.counts().entries == 80
        assert cache.counts().hits == 80


def test_what_threads_put_at_once_is_written_together(tmp_path: Path) -> None:
    """While one thread waits for the file, seven more judgements come in; they cost one more write, not seven."""
    path, log = tmp_path / "c.sqlite", tmp_path / "c.sqlite-wal"
    found: list[int] = []
    with JudgeCache(path) as cache:
        before = log.stat().st_size
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        threads = [threading.Thread(target=lambda n=n: found.append(cache.put(f"k{n}", n))) for n in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        assert not found
        holder.execute("ROLLBACK")
        for thread in threads:
            thread.join()
        assert sorted(found) == list(range(8))
        assert cache.counts().entries == 8
        assert log.stat().st_size - before < 4 * 4200  # every write is a page of 4 KiB, and a little
    with JudgeCache(path) as cache:
        assert cache.get_many([f"k{n}" for n in range(8)]) == {f"k{n}": n for n in range(8)}


WRITER = """
import sys
from traitline.judges.cache import JudgeCache
with JudgeCache(sys.argv[1]) as cache:
    for i in range(int(sys.argv[3])):
        cache.put(f"{sys.argv[2]}-{i}", i)
        print(i, flush=True)
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, str(count)], stdout=subprocess.PIPE, text=True)


def test_two_processes_share_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    both = [writer(path, name, 40) for name in "ab"]
    for process in both:
        process.communicate(timeout=60)
    assert [process.returncode for process in both] == [0, 0]
    with JudgeCache(path) as cache:
        assert cache.counts().entries == 80
        assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)


ASKER = """
import sys, threading
from traitline.judges.cache import JudgeCache
with JudgeCache(sys.argv[1]) as cache, cache.asking(sys.argv[2], threading.Event()) as stored:
    print(stored, flush=True)
    sys.stdin.read()
    cache.put(sys.argv[2], "asked")
"""


@pytest.mark.parametrize("killed", [False, True])
def test_what_one_process_asks_for_another_waits_for(tmp_path: Path, killed: bool) -> None:
    path, key, other_key = tmp_path / "c.sqlite", cache_key({}, "one"), cache_key({}, "other")
    process = subprocess.Popen(
        [sys.executable, "-c", ASKER, str(path), key], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "{}\n"
    found: list[dict[str, str]] = []
    with JudgeCache(path) as cache:

        def ask(wanted: str, stop: threading.Event) -> None:
            with cache.asking(wanted, stop) as stored:
                found.append(stored)

        ask(other_key, threading.Event())
        assert found == [{}]
        gives_up = threading.Event()
        threading.Timer(0.2, gives_up.set).start()
        ask(key, gives_up)
        assert found == [{}, {}]
        waiting = threading.Thread(target=ask, args=(key, threading.Event()))
        waiting.start()
        waiting.join(timeout=0.3)
        assert waiting.is_alive()
        if killed:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate("", timeout=30)
        waiting.join(timeout=10)
        assert found == [{}, {}, {} if killed else {key: "asked"}]


def test_what_put_returned_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    process = writer(path, "k", 100_000)
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(15)]
    os.kill(process.pid, signal.SIGKILL)
    said += process.stdout.readlines()
    process.wait(timeout=30)
    done = [line.strip() for line in said if line.endswith("\n")]
    assert len(done) >= 15
    with JudgeCache(path) as cache:
        assert cache.holds(f"k-{i}" for i in done)


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 4096])
def test_damaged_file_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.sqlite"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"c\.sqlite' is damaged.*Move it away"):
        JudgeCache(path)
    assert path.read_bytes() == content


def test_truncated_file_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    with JudgeCache(path) as cache:
        for i in range(200):
            cache.put(f"{i:064d}", "x" * 200)
    path.write_bytes(path.read_bytes()[:9000])

    def read_all() -> None:
        with JudgeCache(path) as cache:
            cache.get_many(f"{i:064d}" for i in range(200))

    with pytest.raises(StoreError, match=r"is damaged.*Move it away"):
        read_all()


def test_other_databases_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE cells (id)")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="not a judge cache"):
        JudgeCache(path)
    assert sqlite3.connect(path).execute("SELECT name FROM sqlite_master").fetchall() == [("cells",)]


def test_unusable_paths_and_a_closed_cache(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be used"):
        JudgeCache(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        JudgeCache(tmp_path / "file" / "c.sqlite")
    cache = JudgeCache(tmp_path / "c.sqlite")
    cache.close()
    cache.close()
    with pytest.raises(StoreError, match="closed"):
        cache.put("k", 1)
    with pytest.raises(StoreError, match="closed"), cache.asking(cache_key({}, "k"), threading.Event()):
        pass


FULL_DISK = """
import resource, sys
from traitline.errors import StoreError
from traitline.judges.cache import JudgeCache
with JudgeCache(sys.argv[1]) as cache:
    cache.put("small", 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        cache.put("large", "x" * 1_000_000)
    except StoreError as error:
        print(error)
    print(cache.get_many(["small", "large"]))
"""


def test_a_disk_without_room_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    said = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, timeout=60)
    error, held = said.stdout.splitlines()
    assert "cannot be used" in error
    assert "disk is not full" in error
    assert held == "{'small': 1}"
    with JudgeCache(path) as cache:
        assert cache.put("large", 2) == 2


def test_a_locked_file_is_waited_for(tmp_path: Path) -> None:
    with JudgeCache(tmp_path / "c.sqlite") as cache:
        holder = sqlite3.connect(tmp_path / "c.sqlite", isolation_level=None, check_same_thread=False)
        holder.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.3, lambda: holder.execute("COMMIT"))
        release.start()
        began = time.monotonic()
        cache.put("k", 1)
        assert time.monotonic() - began > 0.2
        release.join()
        holder.close()
