"""Rows in, judged rows out: encode, generate, score. The one path that every response of a study or of `tl.elicit` takes.

Knows how planned rows become a batch of the network and a table of responses. Leaves which rows there are to `plan.py`,
files and resumption to `run.py`, and what a vector is to `vectors/`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from traitline.judges import Judge, Score
from traitline.judges.base import UNAVAILABLE, Annotator, Purpose, Style
from traitline.models import Intervention, Model, Row, encode, generate_rows
from traitline.study.config import Sampling
from traitline.study.plan import PlannedRow, noise_key, row_key
from traitline.traits import Trait
from traitline.traits.strategies import strategy

Resolve = Callable[[PlannedRow], Intervention | None]
"""What is done to a row: None for a baseline or contrast row."""


def generate_table(
    model: Model,
    rows: Sequence[PlannedRow],
    sampling: Sampling,
    *,
    seed: int,
    tokens: int | None = None,
    resolve: Resolve = lambda _row: None,
) -> pd.DataFrame:
    """Generate a batch and return it as response rows, without scores.

    Args:
        model: the network.
        rows: the batch.
        sampling: length, temperature and repetition penalty.
        seed: the study's seed.
        tokens: how many tokens the network was trained on.
        resolve: gives each row's intervention.
    """
    prompts = _encoded(model, rows)
    batch = [Row(ids, noise_key(seed, row.identity), resolve(row)) for ids, row in zip(prompts, rows, strict=True)]
    generations = generate_rows(
        model,
        batch,
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        repetition_penalty=sampling.repetition_penalty,
    )
    records = []
    for row, ids, generation in zip(rows, prompts, generations, strict=True):
        closed = generation.finish == "eos"
        records.append(
            {
                **row.identity.columns(),
                "row_key": row_key(row.identity),
                "tokens": tokens,
                "question": row.question,
                "prompt": row.prompt if isinstance(row.prompt, str) else json.dumps(row.messages(), ensure_ascii=False),
                "prompt_token_ids": ids,
                "response": generation.text,
                "response_token_ids": generation.token_ids[:-1] if closed else generation.token_ids,
                "finish": generation.finish,
            }
        )
    return pd.DataFrame(records)


def _encoded(model: Model, rows: Sequence[PlannedRow]) -> list[list[int]]:
    known: dict[Any, list[int]] = {}
    for row in rows:
        if row.prompt not in known:
            known[row.prompt] = encode(model, row.messages())
    return [known[row.prompt] for row in rows]


def score_table(
    rows: pd.DataFrame,
    judge: Judge,
    traits: dict[str, Trait],
    *,
    wording: Callable[[str], str] = lambda name: name,
    others: bool = False,
) -> pd.DataFrame:
    """Return response rows with their scores.

    Contrast rows are scored to be accepted or not, every other row to be reported.

    Args:
        rows: responses without scores, of one or several traits and strategies.
        judge: who scores.
        traits: by name, all those of the study.
        wording: gives the strategy whose prompts a strategy's rows have; they differ for `forced`.
        others: also score baseline and steered rows on the rubrics of the other traits.

    A judge that can annotate also tells which facets a response shows (`facets`, a JSON list). In `other_scores`, null stands
    where the judge gave no answer.
    """
    scored = rows.reset_index(drop=True)
    scores: dict[int, Score] = {}
    facets: dict[int, str] = {}
    other: list[dict[str, float | None]] = [{} for _ in range(len(scored))]
    for (trait, name, split), part in scored.groupby(["trait", "strategy", "split"], sort=False):
        style = strategy(wording(str(name))).style
        scores |= _scores(judge, traits[str(trait)], part, style, "accept" if split == "elicit" else "evaluate")
        if isinstance(judge, Annotator):
            facets |= _facets(judge, traits[str(trait)], part)
        own = part["vector_strategy"].isna() | part["vector_strategy"].eq(str(name))
        crossed = (
            part[own & part["condition"].isin(["baseline", "steered"])] if others and split == "evaluate" else part.iloc[:0]
        )
        for rubric in traits if len(crossed) else ():
            found = _scores(judge, traits[rubric], crossed, style, "evaluate") if rubric != trait else {}
            for i, score in found.items():
                if score.trait is not None:
                    other[i][rubric] = round(score.trait, 6)
                elif UNAVAILABLE in (score.missing_reason or ""):
                    other[i][rubric] = None
    return scored.assign(
        trait_score=[_number(scores[i].trait) for i in scored.index],
        coherence=[_number(scores[i].coherence) for i in scored.index],
        refusal=[scores[i].refusal for i in scored.index],
        missing_reason=pd.Series([scores[i].missing_reason for i in scored.index], dtype=object),
        other_scores=pd.Series([json.dumps(o, sort_keys=True) if o else None for o in other], dtype=object),
        facets=pd.Series([facets.get(i) for i in scored.index], dtype=object),
        flagged=[scores[i].flagged for i in scored.index],
        judge=judge.name,
    )


def unanswered(rows: pd.DataFrame) -> pd.Series:
    """Tell of each row whether the judge left it or its scores on other rubrics unanswered, so that another time it may not."""
    own = rows["missing_reason"].fillna("").astype(str).str.contains(UNAVAILABLE, regex=False)
    return own | rows["other_scores"].fillna("").astype(str).str.contains(": null", regex=False)


def _facets(judge: Annotator, trait: Trait, rows: pd.DataFrame) -> dict[int, str]:
    """Return the facets that the rows show, as JSON by index: of positive contrast rows, baseline and steered rows."""
    told = rows["polarity"].eq("pos") | rows["condition"].isin(["baseline", "steered"])
    chosen = rows[told & rows["split"].ne("tune")]
    shown = judge.annotate(trait, chosen["question"].tolist(), chosen["response"].tolist())
    return {i: json.dumps(sorted(one)) for i, one in zip(chosen.index.tolist(), shown, strict=True) if one is not None}


def _scores(judge: Judge, trait: Trait, rows: pd.DataFrame, style: Style, purpose: Purpose) -> dict[int, Score]:
    """Return the score of each row by its index."""
    scores = judge.score(trait, rows["question"].tolist(), rows["response"].tolist(), style=style, purpose=purpose)
    return dict(zip(rows.index.tolist(), scores, strict=True))


def _number(value: float | None) -> float:
    return math.nan if value is None else value
