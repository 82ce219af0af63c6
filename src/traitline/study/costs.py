"""What judging by an API will cost, before any of it is done, and what it has cost by now.

Knows how prompts grow from rubrics, questions and responses, and which of them a plan leads to. Leaves prices to
`judges/api/prices.py`. An estimate, and rather high than low: tokens are counted as letters by four, every response as long as
it may get, and no two as equal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from traitline.judges.api.batch import CHARACTERS_PER_TOKEN
from traitline.judges.api.budget import shown_usd
from traitline.judges.api.chat import THINKING_TOKENS
from traitline.judges.api.joint import joint_prompt
from traitline.judges.api.prices import find_price, no_price
from traitline.judges.api.probe import LOGPROBS_SETTINGS, SAMPLE_SETTINGS
from traitline.judges.cache import JudgeCache
from traitline.judges.facets import facet_prompt
from traitline.judges.questions import questions_about
from traitline.judges.spending import Spending
from traitline.study.config import StudyConfig
from traitline.study.plan import Cell, Plan
from traitline.traits.strategies import strategy

RUN_HERE = {"nano", "words", "distilled", "zeroshot", "fitted", "labels", "local"}
"""Kinds of judges that send nothing anywhere."""
EMBEDDED_RATE = 200
"""Rows that the embedded judge scores in a second on two cores, responses of about 64 tokens; measured, 182 to 256."""
COLUMNS = ["judge", "batch", "requests", "prompt_tokens", "cached_tokens", "completion_tokens", "usd"]


@dataclass(frozen=True)
class Rows:
    """How many responses of one cell are judged.

    Attributes:
        cell: the cell.
        rows: responses.
        crossed: those that are scored on the other traits' rubrics, too.
        length: tokens of a response, at most.
    """

    cell: Cell
    rows: int
    crossed: int
    length: int


def api_model(config: StudyConfig) -> str | None:
    """Return the model of a study's judge where it is asked through an API, else None."""
    kind, _, model = config.judge.partition(":")
    return model if kind == "openai" else None


def judging_cost(plan: Plan, parts: Iterable[Rows]) -> Spending:
    """Return what judging rows will take, roughly; nothing where the judge runs here.

    Args:
        plan: the study.
        parts: its rows.
    """
    model = api_model(plan.config)
    if model is None:
        return Spending()
    asked = plan.config.judging
    price = find_price(model, asked.prices)
    thinks = price is not None and price.thinking
    samples = asked.samples if asked.method == "sample" or thinks else 1
    answer = SAMPLE_SETTINGS["max_tokens"] if samples > 1 or asked.method == "sample" else LOGPROBS_SETTINGS["max_tokens"]
    answer = THINKING_TOKENS if thinks else answer
    total = Spending()
    for part in parts:
        for rows, rubric in ((part.rows, part.cell.trait), *((part.crossed, other) for other in _others(plan, part.cell))):
            prompts = _prompts(plan, part, rubric, asked.joint, with_coherence=rubric == part.cell.trait)
            tokens = sum(-(-len(prompt) // CHARACTERS_PER_TOKEN) + part.length for prompt in prompts)
            requests = rows * samples * len(prompts)
            total += Spending(requests, rows * samples * tokens, requests * answer)
    return total


def labelling_cost(plan: Plan, parts: Iterable[Rows]) -> Spending:
    """Return what asking the facet judge will take, if every response showed the trait; nothing where it runs here.

    Args:
        plan: the study.
        parts: the responses that it may be asked about; `crossed` is not used.
    """
    asked, total = plan.config.judging, Spending()
    if not (plan.config.facet_judge or "").startswith("openai:"):
        return total
    samples = asked.samples if asked.method == "sample" else 1
    answer = (SAMPLE_SETTINGS if asked.method == "sample" else LOGPROBS_SETTINGS)["max_tokens"]
    for part in parts:
        trait, style = plan.traits[part.cell.trait], strategy(plan.config.asked(part.cell.strategy)).style
        prompts = [facet_prompt(trait, facet, _typical_question(plan, part.cell), "", style) for facet in trait.facets]
        tokens = sum(-(-len(prompt) // CHARACTERS_PER_TOKEN) + part.length for prompt in prompts)
        requests = part.rows * samples * len(prompts)
        total += Spending(requests, part.rows * samples * tokens, requests * answer)
    return total


def in_usd(judge: str | None, config: StudyConfig, cost: Spending) -> float | None:
    """Return what a judge's part is in US dollars: 0 where it runs here, None without a price or where it is not known."""
    kind, _, model = (judge or "").partition(":")
    if judge is None or kind in RUN_HERE:
        return 0.0
    price = find_price(model, config.judging.prices) if kind == "openai" else None
    return None if price is None else price.usd(cost, batch=config.judging.batch)


def judging_note(config: StudyConfig, rows: int) -> str | None:
    """Return how the cost of judging a study's rows was estimated, or what to do where there is no price.

    For the embedded judge, how long it takes; None for others that run here.
    """
    if config.judge == "distilled":
        minutes = rows / EMBEDDED_RATE / 60
        long = f"{minutes / 60:.1f} h" if minutes >= 100 else f"{minutes:.0f} min" if minutes >= 1 else "under a minute"
        return f"the embedded judge scores up to {rows:,} rows on the CPU: {long} at the {EMBEDDED_RATE} rows/s of two cores"
    model = api_model(config)
    if model is None:
        return None
    price = find_price(model, config.judging.prices)
    if price is None:
        return f"the cost of judging is not known: {no_price(model)}"
    manner = "by batches" if config.judging.batch else "request by request"
    drawn = config.judging.method == "sample" or price.thinking
    thinks = f", thinking as long as it is let ({THINKING_TOKENS} tokens), which is rare" if price.thinking else ""
    samples = f", {config.judging.samples} samples per question" if drawn else ", by logprobs"
    return (
        f"judging is estimated in US dollars, {manner}{samples}{thinks}: ${price.input_usd:g} per million tokens sent and "
        f"${price.output_usd:g} received ({price.source or 'your prices'}), tokens counted as letters by {CHARACTERS_PER_TOKEN}"
    )


def spent_so_far(judge: str, cache: Path, prices: Path | None = None) -> pd.DataFrame:
    """Return what was ever paid on a run's judge cache, one row per model and way of asking; `usd` is NaN without a price.

    Args:
        judge: the judge of the run, who has paid where nobody else is known to have.
        cache: the file.
        prices: a file of prices that goes before ours.

    Raises:
        StoreError: the file is no judge cache.
    """
    if not cache.is_file():
        return pd.DataFrame(columns=COLUMNS)
    with JudgeCache(cache) as kept:
        spent = kept.spent()
    records: list[dict[str, Any]] = []
    for (payer, batch), cost in sorted(spent.items()):
        model = payer or judge.partition(":")[2]
        price = find_price(model, prices)
        usd = None if price is None else price.usd(cost, batch=batch)
        tokens = {name: getattr(cost, name) for name in COLUMNS[2:6]}
        records.append({"judge": f"openai:{model}", "batch": batch, **tokens, "usd": usd})
    return pd.DataFrame(records, columns=COLUMNS).astype({"usd": float})


def describe_spending(spent: pd.DataFrame) -> str | None:
    """Return what was spent in one sentence; None where nothing was."""
    if spent.empty:
        return None
    usd = spent["usd"].sum(skipna=False)
    money = "at an unknown price" if pd.isna(usd) else shown_usd(float(usd))
    requests, tokens = int(spent["requests"].sum()), int(spent[["prompt_tokens", "completion_tokens"]].to_numpy().sum())
    return f"judging has cost {money} so far, for {requests:,} requests of {tokens:,} tokens"


def _others(plan: Plan, cell: Cell) -> list[str]:
    return [name for name in plan.traits if name != cell.trait] if plan.config.evaluate.other_rubrics else []


def _prompts(plan: Plan, part: Rows, rubric: str, joint: bool, *, with_coherence: bool) -> list[str]:
    """Return what is asked of one response of a cell by one trait's rubric, the response itself left empty.

    Coherence is asked once, with the cell's own trait, unless it comes with every rubric.
    """
    style = strategy(plan.config.asked(part.cell.strategy)).style
    [both] = questions_about(plan.traits[rubric], [_typical_question(plan, part.cell)], [""], style)
    if joint:
        return [joint_prompt(both.trait, style)]
    return [both.trait, both.coherence] if with_coherence else [both.trait]


def _typical_question(plan: Plan, cell: Cell) -> str:
    """Return a question of a cell that three quarters of its questions are not longer than."""
    asked = plan.config.asked(cell.strategy)
    texts = [question.text for split in ("elicit", "evaluate") for question in plan.traits[cell.trait].questions(asked, split)]
    return sorted(texts, key=len)[len(texts) * 3 // 4] if texts else ""
