"""The verbs of the public API: what a notebook needs, each one screen long.

Ties the rooms together for one model and one trait at a time; a whole lineage is a `Study`. Everything here can be done with
the rooms themselves, which the functions name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from traitline.errors import InputError
from traitline.judges import Judge, default_judge, make_judge
from traitline.judges.base import Annotator
from traitline.judges.facets import make_facet_judge
from traitline.lineages import Checkpoint, Lineage
from traitline.models import Calibration, Generation, Model, Prompt, Row, calibrate, capture_rows, encode, generate_rows
from traitline.models.divergence import Divergence
from traitline.models.generate import Intervention, Positions
from traitline.models.prompts import encode_response
from traitline.models.stream import Step, stream_rows
from traitline.study.config import Elicitation, Evaluation, Sampling, StudyConfig
from traitline.study.elicit import generate_table, score_table
from traitline.study.plan import Cell, Network, Plan, batches, derived_seed
from traitline.traits import Trait, load_trait
from traitline.vectors import PersonaVector, Provenance, Steer
from traitline.vectors.calibration import calibration_texts
from traitline.vectors.dose import KL
from traitline.vectors.estimators import accepted
from traitline.vectors.extract import VECTORS, ControlSeeds, extract_arrays
from traitline.vectors.projection import Axis, axis

_calibrations: WeakKeyDictionary[Model, Calibration] = WeakKeyDictionary()
_kl_doses: WeakKeyDictionary[Model, dict[tuple[bytes, int, float, Positions], Intervention]] = WeakKeyDictionary()


def trait(name: str | Path) -> Trait:
    """Return a trait by its packaged name, or from a YAML file or the paper's JSON by path; `nano:evil` is nano's own.

    Raises:
        InputError: no such trait, or a file that does not fit.
    """
    if str(name).startswith("nano:"):
        from traitline.nano import traits_folder

        return load_trait(str(name).removeprefix("nano:"), folder=traits_folder())
    return load_trait(name)


def judge(name: str = "distilled", cache: str | Path | None = None, **options: Any) -> Judge:
    """Return a judge by name, for example `openai:gpt-4.1-mini` or `nano`; the embedded one where none is named.

    Args:
        name: kind and model.
        cache: SQLite file in which a judge by API or a local model keeps every judgement.
        options: what `OpenAIJudge` takes, for a judge by API: batch, budget_usd, samples and others.

    Raises:
        InputError: no such judge.
        JudgeError: it cannot be used, for example without a key.
    """
    return make_judge(name, Path(cache) if cache is not None else None, **options)


def facet_judge(name: str, cache: str | Path | None = None) -> Annotator:
    """Return who tells which facets of a trait a text shows: `openai:<model>`, `local:<model>`, or `nano` on its own texts.

    Args:
        name: kind and model, as for `judge`.
        cache: SQLite file in which every answer is kept.

    Raises:
        InputError: no such judge, or one that knows no facets.
        JudgeError: it cannot be used, for example without a key.
    """
    return make_facet_judge(name, Path(cache) if cache is not None else None)


def elicit(
    model: Model,
    trait: Trait,
    strategy: str = "character",
    *,
    judge: Judge | None = None,
    samples: int = 1,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    batch_rows: int = 64,
) -> pd.DataFrame:
    """Generate and judge the contrast rows of one trait and strategy.

    Args:
        model: the network to elicit from; prompted with its chat template where it has one, else plainly.
        trait: whose contrasts and `elicit` questions to use.
        strategy: `instruction`, `character`, `dialogue` or `story`.
        judge: who scores the answers; the embedded one where left out.
        samples: responses per contrast, question and polarity.
        max_new_tokens: where a response is cut.
        temperature: 0 is greedy.
        seed: of the sampling.
        batch_rows: rows generated together.

    Returns:
        One row per response, with the columns of a run's contrast.parquet; `accepted` tells whether its pair was.

    Raises:
        InputError: the trait has no texts for the strategy.
    """
    sampling = Sampling(samples=samples, max_new_tokens=max_new_tokens, temperature=temperature)
    plan, network = _single(model, trait, strategy, sampling, seed)
    rows = list(plan.elicit_rows(network, Cell(network.name, trait.name, strategy)))
    if not rows:
        raise InputError(f"trait {trait.name!r} has no 'elicit' questions for strategy {strategy!r}; add some to its file")
    tables = [generate_table(model, batch, sampling, seed=seed) for batch in batches(rows, batch_rows)]
    scored = score_table(pd.concat(tables, ignore_index=True), judge or make_judge(default_judge()), {trait.name: trait})
    return scored.assign(accepted=accepted(scored))


def extract(model: Model, rows: pd.DataFrame, *, position: str = "response_avg", seed: int = 0) -> PersonaVector:
    """Return the persona vector of judged contrast rows: the difference of means over accepted pairs.

    Args:
        model: the network whose activations are read; any checkpoint of the lineage may read rows of another.
        rows: contrast rows as `elicit` returns them, or as read from a run's contrast.parquet.
        position: `response_avg`, `prompt_avg` or `prompt_last`; `balanced_response_avg` for the cell-balanced estimator.
        seed: of the split halves behind reliability.

    Raises:
        InputError: no pair was accepted, or an unknown position.
    """
    if position not in VECTORS:
        raise InputError(f"no vector is called {position!r}; there are {', '.join(VECTORS)}")
    calibration = _calibration(model)
    arrays, pairs = extract_arrays(model, rows, calibration, ControlSeeds(), derived_seed(seed))
    if not arrays:
        raise InputError(
            f"none of the {len(rows)} rows belongs to an accepted pair (positive trait >= 50, negative < 50, both coherent); "
            "elicit more samples, use another strategy, or a later checkpoint"
        )
    first = rows.iloc[0]
    provenance = Provenance(
        lineage=first["lineage"],
        checkpoint=first["checkpoint"],
        source=model.source,
        commit=model.commit,
        trait=first["trait"],
        strategy=first["strategy"],
        position=position.removeprefix("balanced_"),
        estimator="balanced" if position.startswith("balanced_") else "pairs",
        n_pairs=len(pairs),
        n_questions=pairs.questions,
        judge=first["judge"],
        activation_norms=tuple(float(norm) for norm in calibration.norms),
    )
    return PersonaVector(arrays[position], provenance)


def capture(
    model: Model,
    prompts: Sequence[Prompt],
    responses: Sequence[str | Sequence[int]],
    *,
    layers: Sequence[int] | None = None,
) -> NDArray[np.float32]:
    """Return the mean activation of each row's segments at every layer, float32 [rows, 3, layers + 1, hidden].

    Segments are prompt_avg, prompt_last, response_avg; the response mean of an empty response is NaN. Prompts and responses
    are texts or token ids; a closing EOS of a response is left out. Of a large network's many rows, ask only for the layers
    you need: [rows, 3, layers, hidden] in the order asked for, and no block after the last of them is computed.

    Raises:
        InputError: as many responses as prompts are needed, or a layer that the network does not have.
    """
    if len(prompts) != len(responses):
        raise InputError(f"{len(prompts)} prompts but {len(responses)} responses; give one response per prompt")
    rows = [(encode(model, p), encode_response(model, r)) for p, r in zip(prompts, responses, strict=True)]
    return capture_rows(model, rows, layers=layers)


def generate(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    steer: Steer | Sequence[Steer | None] | None = None,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    batch_rows: int = 64,
) -> list[Generation]:
    """Generate one response per prompt, steered or not.

    Prompt i draws the same random numbers whatever it is steered with, so that texts under different conditions can be
    compared.

    Args:
        model: the network.
        prompts: texts, lists of chat messages, or lists of token ids.
        steer: one for all prompts, or one (or None) per prompt.
        max_new_tokens: where a response is cut.
        temperature: 0 is greedy.
        repetition_penalty: 1 is none.
        seed: of the sampling.
        batch_rows: rows generated together.

    Raises:
        InputError: a steer that does not fit the network, or not as many as prompts.
    """
    rows = _rows(model, prompts, steer, [derived_seed(seed, i) for i in range(len(prompts))])
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt_ids))  # rows of like length pad each other least
    done: dict[int, Generation] = {}
    for start in range(0, len(order), batch_rows):
        part = order[start : start + batch_rows]
        out = generate_rows(
            model,
            [rows[i] for i in part],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            repetition_penalty=repetition_penalty,
        )
        done |= dict(zip(part, out, strict=True))
    return [done[i] for i in range(len(rows))]


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """Responses while they are generated: iterate over its steps. `axis` tells what the projections are of."""

    axis: Axis
    steps: Iterator[Step]

    def __iter__(self) -> Iterator[Step]:
        return self.steps


def stream(
    model: Model,
    prompts: Sequence[Prompt],
    vector: PersonaVector,
    layer: int,
    *,
    steer: Steer | Sequence[Steer | None] | None = None,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
) -> Stream:
    """Generate one response per prompt and tell every token as it comes, with its projection onto a vector.

    A token's projection is the dot product of the residual stream at its own position, after block `layer`, and the unit
    vector, as a share of the model's activation norm there. What steering adds at that layer is not in it, so with steering
    at the same layer it is what the text alone reads like: the same tokens project the same, however they came about.

    Args:
        model: the network.
        prompts: texts, lists of chat messages, or lists of token ids; generated together. All draw the same random numbers,
            those of the first prompt in `generate`: they are meant to be one prompt under several conditions.
        vector: what is projected onto.
        layer: where, 1..L.
        steer: one for all prompts, or one (or None) per prompt.
        max_new_tokens: where a response is cut.
        temperature: 0 is greedy.
        repetition_penalty: 1 is none.
        seed: of the sampling.

    Raises:
        InputError: a vector, layer or steer that does not fit the network, or not as many steers as prompts.
    """
    _check_fit(model, vector)
    onto = axis(vector, layer, _calibration(model))
    rows = _rows(model, prompts, steer, [derived_seed(seed, 0)] * len(prompts))
    steps = stream_rows(
        model,
        rows,
        onto.probe,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        repetition_penalty=repetition_penalty,
    )
    return Stream(onto, steps)


def _rows(
    model: Model, prompts: Sequence[Prompt], steer: Steer | Sequence[Steer | None] | None, noise_keys: list[int]
) -> list[Row]:
    """Resolve prompts and steers into rows."""
    steers = [steer] * len(prompts) if steer is None or isinstance(steer, Steer) else list(steer)
    if len(steers) != len(prompts):
        raise InputError(f"{len(prompts)} prompts but {len(steers)} steers; give one (or None) per prompt, or one for all")
    resolved = _resolved(model, {one for one in steers if one is not None})
    return [
        Row(encode(model, prompt), key, resolved[one] if one is not None else None)
        for prompt, key, one in zip(prompts, noise_keys, steers, strict=True)
    ]


def _resolved(model: Model, steers: set[Steer]) -> dict[Steer, Intervention]:
    """Return what each steer does to a model; the coefficient of a kl dose is looked for once."""
    meters: dict[Positions, Divergence] = {}
    found: dict[Steer, Intervention] = {}
    for one in steers:
        _check_fit(model, one.vector)
        norms = np.ones(model.layers + 1, dtype=np.float32) if one.dose == "raw" else _calibration(model).norms
        if one.dose != KL:
            found[one] = one.resolve(norms)
            continue
        known = _kl_doses.setdefault(model, {})
        key = (one.vector.at(one.layer).tobytes(), one.layer, one.coef, one.positions)
        if key not in known:
            if one.positions not in meters:
                meters[one.positions] = Divergence(model, _neutral(model), one.positions)
            known[key] = one.resolve(norms, meters[one.positions])
        found[one] = known[key]
    return found


def _check_fit(model: Model, vector: PersonaVector) -> None:
    if (vector.layers, vector.hidden) != (model.layers, model.hidden):
        raise InputError(
            f"the vector is for {vector.layers} blocks x {vector.hidden}, but {model.source!r} has "
            f"{model.layers} x {model.hidden}; a vector fits only models of its own depth and width"
        )


def _calibration(model: Model) -> Calibration:
    """Measure a model's activation norms once."""
    if model not in _calibrations:
        _calibrations[model] = calibrate(model, _neutral(model))
    return _calibrations[model]


def _neutral(model: Model) -> list[list[int]]:
    """Return the calibration texts as token ids."""
    texts = _nano_texts() if _is_nano(model) else calibration_texts()
    return [encode(model, text) for text in texts]


def _is_nano(model: Model) -> bool:
    """Tell whether a model is of the embedded lineage, which knows few words of ordinary texts."""
    from traitline.nano.pretrain import cache_folder

    return cache_folder().resolve() in Path(model.source).resolve().parents


def _nano_texts() -> list[str]:
    from traitline.nano import calibration_texts

    return calibration_texts()


def _single(model: Model, trait: Trait, strategy: str, sampling: Sampling, seed: int) -> tuple[Plan, Network]:
    """Return a plan of one network and one trait, so that its rows have the identities they would have in a study."""
    name = (model.revision or Path(model.source).name).replace("/", "--")
    checkpoint = Checkpoint(name=name, tokens=None, stage=None, source=model.source, revision=model.revision)
    network = Network(name, model.source, model.revision, None, "chat" if model.is_chat else "plain")
    config = StudyConfig(
        name="single",
        lineage=model.source,
        traits=(trait.name,),
        strategies=(strategy,),
        judge="given",
        seed=seed,
        elicit=Elicitation(**sampling.model_dump()),
        evaluate=Evaluation(layers=(1,), coefs=(1.0,)),
    )
    lineage = Lineage(name=Path(model.source).name, description="", checkpoints=(checkpoint,), descendants=())
    return Plan(config, lineage, (network,), (), {trait.name: trait}), network
