"""A judge that changes behind its name is found out, one that does not is left alone, and looking is paid once."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import misbehaving_server
from misbehaving_server import MisbehavingServer
from small_study import make_study
from test_judge_server import TRAIT, rows
from traitline.errors import JudgeError
from traitline.judges.api.budget import BudgetError
from traitline.judges.api.drift import check_drift, drift_table
from traitline.judges.cache import JudgeCache
from traitline.judges.openai import OpenAIJudge
from traitline.study import Study
from traitline.study.run import run_study

Make = Callable[..., OpenAIJudge]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MisbehavingServer]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with MisbehavingServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield server


@pytest.fixture
def judge_at(server: MisbehavingServer, tmp_path: Path) -> Iterator[Make]:
    made: list[OpenAIJudge] = []
    cache = JudgeCache(tmp_path / "c.sqlite")

    def make(**options: Any) -> OpenAIJudge:
        made.append(OpenAIJudge("tiny", **{"cache": cache, "drift_prompts": 20, "backoff_seconds": 0.01, **options}))
        return made[-1]

    yield make
    for judge in made:
        judge.close()
    cache.close()


def shift(monkeypatch: pytest.MonkeyPatch, points: int) -> None:
    """Let the server give every prompt other numbers than before."""
    before = misbehaving_server.number_for
    monkeypatch.setattr(
        misbehaving_server,
        "number_for",
        lambda prompt: before(prompt) if prompt.startswith("Repeat") else min(before(prompt) + points, 100),
    )


@pytest.mark.parametrize("options", [{}, {"method": "sample", "samples": 2}, {"batch": False, "concurrency": 2}])
def test_a_judge_that_stays_the_same_shows_no_change(
    server: MisbehavingServer, judge_at: Make, options: dict[str, Any]
) -> None:
    judge = judge_at(**options)
    assert check_drift(judge, hours=0) is None
    judge.score(TRAIT, *rows(30))
    before = server.requests
    found = check_drift(judge, hours=0)
    assert found is not None
    assert (found.n, found.n_missing, found.mean_change, found.mae, found.beyond_noise) == (20, 0, 0.0, 0.0, False)
    assert server.requests == before + 20 * options.get("samples", 1)
    assert check_drift(judge, hours=24) is None
    assert server.requests == before + 20 * options.get("samples", 1)
    assert "no sign of a change" in str(found)


def test_a_judge_that_changes_is_found_out_after_a_restart(
    server: MisbehavingServer, judge_at: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge_at().score(TRAIT, *rows(30))
    shift(monkeypatch, 9)
    later = judge_at()
    found = check_drift(later, hours=0)
    assert found is not None
    assert found.beyond_noise
    assert found.mean_change is not None
    assert found.ci_low is not None
    assert 2 < found.ci_low < found.mean_change < 9
    assert "it has changed" in str(found)
    scores = later.score(TRAIT, *rows(30))
    assert scores == judge_at().score(TRAIT, *rows(30))  # what was judged before stays as it is
    table = drift_table(later)
    assert table["beyond_noise"].tolist() == [True]
    assert table["n"].tolist() == [20]


def test_half_of_the_prompts_ask_about_coherence(judge_at: Make, tmp_path: Path) -> None:
    judge_at().score(TRAIT, *rows(30))
    with sqlite3.connect(tmp_path / "c.sqlite") as kept:
        prompts = [prompt for (prompt,) in kept.execute("SELECT prompt FROM drift_prompts")]
    assert sum("GRUMPY" in prompt for prompt in prompts) == 10
    assert len(set(prompts)) == 20


def test_a_look_that_is_cut_short_is_finished_and_not_paid_again(
    server: MisbehavingServer, judge_at: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge_at().score(TRAIT, *rows(30))
    asked = server.requests
    server.plan = lambda prompt, nth: "401" if server.requests > asked + 12 else "answer"
    with pytest.raises(JudgeError):
        check_drift(judge_at(concurrency=2), hours=0)
    done = sum(server.completed.values())
    server.plan = lambda prompt, nth: "answer"
    found = check_drift(judge_at(), hours=24)  # the old look is due, whatever the hours
    assert found is not None
    assert found.n == 20
    assert sum(server.completed.values()) - done < 20
    assert max(server.completed.values()) == 2


def test_looking_is_within_the_budget(server: MisbehavingServer, judge_at: Make) -> None:
    judge_at().score(TRAIT, *rows(30))
    spent = judge_at().bill.total.tokens
    with pytest.raises(BudgetError):
        check_drift(judge_at(budget_tokens=spent), hours=0)


def test_a_run_looks_when_it_is_due_and_tells(
    server: MisbehavingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controls = {"isotropic": 0, "covariance": 0, "shuffled": 0, "bootstrap": 0}
    path = make_study(tmp_path, judge="openai:tiny", strategies=["character"], controls=controls, checkpoints=["step0"])
    study = Study.from_yaml(path, out=tmp_path / "run")
    first = run_study(study.resolved, study.out, study.make_judge)
    assert first.notes == ()
    asked = server.requests
    assert run_study(study.resolved, study.out, study.make_judge).notes == ()
    assert server.requests == asked
    with sqlite3.connect(study.out / "judge-cache.sqlite") as kept:
        kept.execute("UPDATE drift_checks SET at = ?", (time.time() - 25 * 3600,))
    shift(monkeypatch, -9)
    [told] = run_study(study.resolved, study.out, study.make_judge).notes
    assert "after 1.0 days" in told
    assert "it has changed" in told
    assert server.requests == asked + 20
    header, row = (study.out / "tables" / "drift.csv").read_text().splitlines()
    assert header.startswith("judge,asked_first,asked_again,n,")
    assert row.startswith("openai:tiny,")
    assert row.endswith(",True")
