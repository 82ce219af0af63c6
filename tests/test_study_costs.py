"""What judging will cost by the plan, against what it does cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from misbehaving_server import WAYS, MisbehavingServer, chat_completion
from small_study import make_study
from traitline.errors import InputError
from traitline.judges.api import prices
from traitline.study import Study
from traitline.study.config import DATA, StudyConfig, load_config
from traitline.study.costs import EMBEDDED_RATE, describe_spending
from traitline.study.plan import make_plan
from traitline.study.run import run_study
from traitline.study.study import run_spending

CONTROLS = {"isotropic": 0, "covariance": 0, "shuffled": 0, "bootstrap": 0}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MisbehavingServer]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with MisbehavingServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield server


def study(folder: Path, judge: str = "openai:gpt-4.1-mini", **changes: Any) -> Study:
    small = {"strategies": ["character"], "controls": CONTROLS, "checkpoints": ["step0"]}
    return Study.from_yaml(make_study(folder, judge=judge, **{**small, **changes}), out=folder / "run")


def test_a_plan_estimates_the_money_and_the_run_tells_what_it_was(server: MisbehavingServer, tmp_path: Path) -> None:
    server.plan = lambda prompt, nth: "counted"

    def counted(handler: Any) -> None:
        usage = {"prompt_tokens": -(-len(handler.prompt) // 4), "completion_tokens": 1}
        handler.send(200, json.dumps(chat_completion(handler.prompt, probabilities=True) | {"usage": usage}).encode())

    WAYS["counted"] = counted
    planned = study(tmp_path)
    found = planned.plan()
    expected = found["total"]["money"]
    assert expected == pytest.approx(sum(phase["money"] for phase in found["phases"].values()))
    assert "estimated in US dollars, request by request, by logprobs: $0.4 per million tokens sent" in found["judging"]
    assert planned.spent().empty
    run_study(planned.resolved, planned.out, planned.make_judge)
    [spent] = planned.spent().to_dict("records")
    assert run_spending(planned.out).equals(planned.spent())
    assert f"for {spent['requests']:,} requests" in str(describe_spending(planned.spent()))
    assert (spent["judge"], spent["batch"]) == ("openai:gpt-4.1-mini", False)
    assert spent["usd"] < expected < 3 * spent["usd"]
    assert spent["prompt_tokens"] < found["total"]["judge_tokens"]
    price = prices.find_price("gpt-4.1-mini")
    assert price is not None
    assert spent["usd"] == pytest.approx((spent["prompt_tokens"] * 0.4 + spent["completion_tokens"] * 1.6) / 1e6)


def test_batches_cost_half_and_samples_so_many_times(tmp_path: Path) -> None:
    def money(name: str, **judging: Any) -> float:
        changes = {"judging": judging} if judging else {}
        return float(study(tmp_path / name, **changes).plan()["total"]["money"])

    once = money("a")
    assert money("b", batch=True) == pytest.approx(once / 2)
    assert 3 * once < money("c", method="sample", samples=3) < 4 * once
    own = tmp_path / "p.yaml"
    own.write_text("models:\n  gpt-4.1-mini: {input_usd: 0.8, output_usd: 3.2}\n")
    assert money("d", prices=str(own)) == pytest.approx(2 * once)


def test_a_judge_without_a_price_has_no_estimate_but_a_way_out(tmp_path: Path) -> None:
    found = study(tmp_path, judge="openai:org/model").plan()
    assert found["total"]["money"] is None
    assert found["total"]["judge_tokens"] > 0
    assert "no price is known for 'org/model'; write its US dollars per million tokens into a YAML file" in found["judging"]


@pytest.mark.parametrize("judge", ["nano", "words", "distilled", "local:org/model"])
def test_judges_that_run_here_cost_nothing(tmp_path: Path, judge: str) -> None:
    found = study(tmp_path, judge=judge).plan()
    assert (found["total"]["money"], found["total"]["judge_tokens"]) == (0.0, 0)
    assert (found["judging"] is None) == (judge != "distilled")


def test_the_embedded_judges_time_on_the_cpu_is_told(tmp_path: Path) -> None:
    small, large = (study(tmp_path / str(n), judge="distilled", elicit={"samples": n}).plan() for n in (1, 32_000))
    assert "rows on the CPU: under a minute" in small["judging"]
    hours = large["total"]["rows"] / EMBEDDED_RATE / 3600
    assert f"{large['total']['rows']:,} rows on the CPU: {hours:.1f} h" in large["judging"]


def test_what_changes_no_score_changes_no_plan(tmp_path: Path) -> None:
    path = make_study(tmp_path, judge="openai:tiny")
    config = load_config(path)

    def digest(**judging: Any) -> str:
        fields = {**config.model_dump(), "judging": judging}
        return make_plan(StudyConfig.model_validate(fields)).digest

    assert digest() == make_plan(config).digest
    assert digest(batch=True, budget_usd=3.0, budget_tokens=5, drift_prompts=0, drift_hours=1.0) == digest()
    assert len({digest(), digest(joint=True), digest(samples=3), digest(method="sample")}) == 4


def test_judging_is_for_judges_by_api(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"judging is for judges by API .*'nano'; leave it out"):
        load_config(make_study(tmp_path, judge="nano", judging={"batch": True}))
    for bad in ({"budget_usd": 0}, {"samples": 0}, {"budget": 5}, {"drift_hours": -1}):
        with pytest.raises((InputError, ValidationError)):
            load_config(make_study(tmp_path, judge="openai:tiny", judging=bad))


def test_a_facet_judge_by_api_is_counted_and_paid_for(tmp_path: Path) -> None:
    fewer = {"traits": ["evil"], "checkpoints": ["step1408", "step2000"], "facet_judge": None}
    config = yaml.safe_load((DATA / "nano.yaml").read_text()) | fewer
    totals = {}
    for name in (None, "openai:gpt-4.1-mini", "openai:nobody-knows", "local:somewhere"):
        study = tmp_path / "asked.yaml"
        study.write_text(yaml.safe_dump(config | {"facet_judge": name}))
        totals[name] = Study.from_yaml(study).plan()["total"]
    free, paid, unknown, local = totals.values()
    assert free["money"] == local["money"] == 0
    assert paid["judge_calls"] == unknown["judge_calls"] == local["judge_calls"] > free["judge_calls"]
    assert paid["money"] > 0
    assert unknown["money"] is None
    assert paid["judge_tokens"] > free["judge_tokens"]
