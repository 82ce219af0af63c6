"""Runs on a Ray cluster of two nodes on this machine: the same tables as by one process, also when a node is lost."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from batch_server import BatchServer
from small_study import make_study
from test_judge_server import KEY
from test_study_executors import SIZES, Labelled, files
from traitline.errors import InputError
from traitline.judges.api import provider
from traitline.judges.api.budget import BudgetError
from traitline.study import Study
from traitline.study.cluster import OnRay
from traitline.study.remote import Remote
from traitline.study.run import Outcome, run_study
from traitline.study.store import RunStore

ray = pytest.importorskip("ray", reason="needs ray: pip install 'traitline[ray]'")
from ray._private.state import available_resources_per_node  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

PATIENCE_SECONDS = 120
MEMORY_BYTES = 80 * 2**20


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    return Labelled(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that only drives, and two nodes with one CPU each."""
    before = dict(os.environ)
    os.environ |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1", "RAY_DEDUP_LOGS": "0"}
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    made = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": MEMORY_BYTES,
            "include_dashboard": False,
            "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 6},
        },
    )
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, object_store_memory=MEMORY_BYTES)
        ray.init(address=made.address, log_to_driver=False, logging_level="error")
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
        os.environ.clear()
        os.environ.update(before)


def busy_nodes(cluster: Any) -> list[Any]:
    """Return the nodes whose CPU a task has."""
    free = {name for name, left in available_resources_per_node().items() if left.get("CPU", 0) >= 1}
    return [node for node in cluster.worker_nodes if node.node_id not in free]


def on_ray(study: Study, url: str | None = None, told: list[int] | None = None) -> Outcome:
    heard = told if told is not None else []
    return run_study(study.resolved, url or study.out, None, lambda _what, rows: heard.append(rows), None, 0, OnRay())


def test_a_node_that_is_lost_in_the_middle_costs_nothing_but_time(labelled: Labelled, tmp_path: Path, cluster: Any) -> None:
    study, rows, lost, ended = labelled.at(tmp_path / "run"), list[int](), list[Any](), list[str]()

    def lose() -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not files(study.out / "parts" / "step20" / "evaluate", ".parquet") and time.monotonic() < deadline:
            time.sleep(0.005)
        ended.extend(one.name for one in files(study.out / "cells", "evaluation.parquet"))
        lost.extend(busy_nodes(cluster))
        for node in lost:
            cluster.remove_node(node, allow_graceful=False)

    loser = threading.Thread(target=lose)
    loser.start()
    outcome = on_ray(study, told=rows)
    loser.join()
    assert (len(lost), ended) == (1, [])  # it was lost before the first checkpoint was done, for which the other waits
    assert outcome == Outcome(complete=12, no_vector=0, failed=())
    assert labelled.read(study.out) == labelled.tables
    assert sum(rows) == labelled.rows
    assert not list((study.out / "parts").glob("*"))
    batches = RunStore(study.out).ledger("batches")
    assert (batches["attempts"] > 1).sum() <= 2  # what was under way, at the most


def test_a_run_at_a_url_is_driven_from_elsewhere(
    labelled: Labelled, tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAITLINE_CACHE", str(tmp_path / "cache"))
    url = f"file://{tmp_path}/bucket/run"
    study = Study.from_yaml(labelled.file, out=url)
    assert on_ray(study, url).failed == ()
    assert labelled.read(tmp_path / "bucket" / "run") == labelled.tables
    assert Remote(url).names("parts") == {}
    with pytest.raises(InputError, match="a run in memory:// is seen by no other process"):
        on_ray(study, "memory://bucket/run")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    with BatchServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)  # known to the driver alone: the cluster was started before
        monkeypatch.setattr(provider, "SETTLING_SECONDS", 0.5)
        yield server


def test_the_driver_alone_asks_by_api_pays_and_keeps_to_the_budget(server: BatchServer, tmp_path: Path, cluster: Any) -> None:
    sizes = {**SIZES, "elicit": {"samples": 1, "max_new_tokens": 6}, "strategies": ["character"]}
    file = make_study(tmp_path, judge="openai:tiny", judging={"budget_tokens": 1200}, **sizes)
    study = Study.from_yaml(file, out=tmp_path / "run")
    with pytest.raises(BudgetError, match=r"1,200 tokens \(budget_tokens\) for judge model 'tiny' is used up"):
        on_ray(study)
    before = sum(server.completed.values())
    assert 100 <= before <= 100 + 16  # and what was under way
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "judging": {"batch": True, "drift_prompts": 0}}))
    assert on_ray(Study.from_yaml(file, out=tmp_path / "run")).failed == ()
    assert 1 <= len(server.batches) <= 3
    assert sum(server.completed.values()) - len(server.completed) <= 16


def test_a_task_that_no_node_has_room_for_is_refused(labelled: Labelled, tmp_path: Path, cluster: Any) -> None:
    study = labelled.at(tmp_path / "run")
    with pytest.raises(InputError, match=r"a task takes 64 CPUs and 0 GPUs, and no node .* set --task-cpus and --task-gpus"):
        run_study(study.resolved, study.out, executor=OnRay(cpus=64))
    with pytest.raises(InputError, match="a task takes 1 CPUs and 2 GPUs"):
        run_study(study.resolved, study.out, executor=OnRay(gpus=2))
    with pytest.raises(InputError, match="no executor is called 'rey'; nearest: ray"):
        run_study(study.resolved, study.out, executor="rey")
