"""How much work a plan is, before any of it is done: rows, tokens, judge calls, bytes, and what the statistics can show.

Works offline and loads no model. What cannot be known (a download's size, a rate, a price) is None, never 0. Leaves what
judging costs to `costs.py`, GPU time, downloads and disk to `resources.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from traitline.analysis.significance import minimum_detectable_effect, smallest_p
from traitline.judges.spending import Spending
from traitline.study.config import FORCED
from traitline.study.costs import Rows, in_usd, judging_cost, judging_note, labelling_cost
from traitline.study.facets import facet_calls, facet_rows
from traitline.study.plan import Cell, Identity, Network, Plan
from traitline.study.resources import MEASURED_ON, download_bytes, gpu_seconds, refusals, vector_bytes

ROW_BYTES, TOKEN_BYTES = 60, 4
"""Disk bytes of one response row and of each new token. The demo's rows take 63 bytes in all, its texts being much alike; four
bytes a token (its text and its id, compressed) is an assumption for ordinary text, so the sum is rather high than low."""
TYPICAL_SD = 25.0
"""Standard deviation over questions of a delta, in points, where none was measured yet."""


@dataclass(frozen=True)
class Effort:
    """What one phase takes.

    Attributes:
        rows: responses to generate, at most: rows of a cell without vector are left out when that is known.
        tokens: new tokens, at most.
        judge_calls: judgements asked for, at most (trait and coherence are two; a judge with a cache asks nothing twice).
        judge_tokens: tokens sent to an API and received, roughly; 0 where the judge runs here.
        download_bytes: weights to fetch; None where the lineage does not tell their size.
        disk_bytes: size of the run directory, roughly; of vectors, where the lineage tells width and depth.
        gpu_seconds: on the GPU of `resources.MEASURED_ON`, judging left out; None where the lineage does not tell its
            parameters, 0 on the embedded lineage.
        money: US dollars for judging; None without a price; 0 where the judge runs here.
    """

    rows: int
    tokens: int
    judge_calls: int
    judge_tokens: int
    download_bytes: int | None
    disk_bytes: int
    gpu_seconds: float | None
    money: float | None


def efforts(plan: Plan) -> dict[str, Effort]:
    """Return the effort of each phase, and of all as `total`."""
    e, v = plan.config.elicit, plan.config.evaluate
    others = len(plan.traits) - 1 if v.other_rubrics else 0
    phases: dict[str, tuple[int, int, int]] = {"elicit": (0, e.max_new_tokens, 0)}
    phases |= dict.fromkeys(("evaluate", "transfer"), (0, v.max_new_tokens, 0))
    judged: dict[str, list[Rows]] = {phase: [] for phase in phases}
    labelled: dict[str, list[Rows]] = {phase: [] for phase in phases}
    known: dict[tuple[str, str, str, bool], tuple[int, int]] = {}
    visits = [(p, n) for n in plan.checkpoints for p in ("elicit", "evaluate")]
    visits += [("elicit", n) for n in plan.descendants] + [("transfer", n) for n in plan.targets]
    for phase, network in visits:
        total, length, calls = phases[phase]
        for cell, rows, crossed in _counted(plan, network, phase, known):
            total, calls = total + rows, calls + 2 * rows + 2 * crossed * others
            judged[phase].append(Rows(cell, rows, crossed, length))
        labelled[phase] += [Rows(cell, rows, 0, length) for cell, rows in facet_rows(plan, network, phase)]
        phases[phase] = (total, length, calls + facet_calls(plan, network, phase))
    costs = {phase: (judging_cost(plan, judged[phase]), labelling_cost(plan, labelled[phase])) for phase in phases}
    done = {phase: _effort(plan, phase, costs[phase], *numbers) for phase, numbers in phases.items()}
    return {**done, "total": _sum(list(done.values()))}


def counted(plan: Plan, network: Network, phase: str) -> tuple[int, int]:
    """Return (rows, rows also scored on other rubrics) that a phase has at one network."""
    found = list(_counted(plan, network, phase, {}))
    return sum(rows for _, rows, _ in found), sum(crossed for _, _, crossed in found)


def _counted(
    plan: Plan, network: Network, phase: str, known: dict[tuple[str, str, str, bool], tuple[int, int]]
) -> Iterator[tuple[Cell, int, int]]:
    """Yield (cell, rows, rows also scored on other rubrics) of every cell of one network.

    Cells of one trait and strategy have as many rows at every network but the last checkpoint; `known` keeps what was counted.
    """
    for cell in plan.cells(network):
        kind = (phase, cell.trait, cell.strategy, network == plan.last)
        if kind not in known:
            crossed = [has_other_rubrics(row.identity) for row in _rows(plan, network, cell, phase)]
            known[kind] = (len(crossed), sum(crossed))
        yield cell, *known[kind]


def has_other_rubrics(who: Identity) -> bool:
    """Tell whether a row is also scored on the other traits' rubrics: a baseline, or a cell's own vector, when evaluated."""
    own = who.condition == "baseline" or (who.condition == "steered" and who.vector_strategy == who.strategy)
    return own and who.split == "evaluate"


def _rows(plan: Plan, network: Network, cell: Cell, phase: str) -> Any:
    if phase == "elicit":
        return plan.elicit_rows(network, cell)
    return plan.evaluation_rows(network, cell) if phase == "evaluate" else plan.transfer_rows(network, cell)


def _effort(plan: Plan, phase: str, costs: tuple[Spending, Spending], rows: int, length: int, calls: int) -> Effort:
    judges = (plan.config.judge, plan.config.facet_judge)
    money = [in_usd(judge, plan.config, cost) for judge, cost in zip(judges, costs, strict=True)]
    return Effort(
        rows=rows,
        tokens=rows * length,
        judge_calls=calls,
        judge_tokens=sum(cost.tokens for cost in costs),
        download_bytes=download_bytes(plan, phase),
        disk_bytes=rows * (ROW_BYTES + TOKEN_BYTES * length) + (vector_bytes(plan) if phase == "elicit" else 0),
        gpu_seconds=gpu_seconds(plan, phase, rows * length),
        money=None if None in money else sum(filter(None, money)),
    )


def _sum(parts: list[Effort]) -> Effort:
    def add(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if None in values else sum(values)

    return Effort(**{field.name: add(field.name) for field in fields(Effort)})


def power(plan: Plan) -> list[dict[str, Any]]:
    """Return, per trait and strategy, the smallest p attainable and the smallest effect likely to be found.

    `detectable_effect` is in points, one-sided at the study's level with 80 % power, after Holm over the checkpoints' doses.
    """
    found = []
    for name, trait in plan.traits.items():
        places = [plan.place(checkpoint, name) for checkpoint in plan.order]
        comparisons = sum(len(layers) * len(coefs) for layers, coefs in places)
        for strategy in plan.config.strategies:
            n = len(trait.questions(plan.config.asked(strategy), "evaluate"))
            alpha = plan.config.criteria.alpha / comparisons
            p = smallest_p(n)
            found.append(
                {
                    "trait": name,
                    "strategy": strategy,
                    "questions": n,
                    "smallest_p": p,
                    "smallest_p_adjusted": min(1.0, p * comparisons),
                    "detectable_effect": minimum_detectable_effect(n, TYPICAL_SD, alpha=alpha) if n > 1 else None,
                    "assumed_sd": TYPICAL_SD,
                }
            )
    return found


def describe(plan: Plan) -> dict[str, Any]:
    """Return the plan as plain data: what `traitline plan --json` prints."""
    phases = {name: asdict(effort) for name, effort in efforts(plan).items()}
    total = phases.pop("total")
    return {
        "study": plan.config.name,
        "plan": plan.digest,
        "lineage": plan.lineage.name,
        "checkpoints": plan.order,
        "targets": [network.name for network in plan.targets],
        "traits": list(plan.traits),
        "strategies": list(plan.config.strategies),
        "forced": FORCED in plan.config.strategies,
        "phases": phases,
        "total": total,
        "judging": judging_note(plan.config, total["rows"]),
        "gpu": MEASURED_ON if total["gpu_seconds"] else None,
        "refused": refusals(plan),
        "power": power(plan),
    }
