"""What a study keeps of the meaning of its vectors at each checkpoint, and the tables made of it.

Once a network's vectors exist, they are read through its logit lens and projected on a bounded sample of its own unsteered
answers; the network's folder below `meanings/` then holds `lens.csv`, `words.csv`, `texts.csv` and, written last,
`vocabulary.csv`. A run from before this gets them when it is run again. Knows which vectors, controls, words and texts these
are. Leaves reading networks to `models/`, numbers to `analysis/semantics.py`, and tables to `meaning_tables.py`.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from traitline.analysis import semantics
from traitline.errors import ModelError
from traitline.files import write_whole
from traitline.models import Calibration, Model, capture_rows
from traitline.models.capture import RESPONSE
from traitline.models.lens import GARBAGE, Lens, lens, word_tokens
from traitline.study.config import FORCED
from traitline.study.plan import Cell, Network, Plan, derived_seed
from traitline.study.store import RunStore, read_rows
from traitline.vectors.controls import as_activations_vary
from traitline.vectors.vector import Floats, load_arrays

TOP, TOP_ELSEWHERE = 20, 5
"""Tokens kept of each side of a vector: at the layers that are steered at, and at the others."""
CHANCE_DIRECTIONS = 100
"""Random directions at each layer. What the traits' words do by chance is told at the layers that are steered at alone."""
MOST_TEXTS = 240
"""Answers that a network's vectors are projected on, evenly over traits and strategies."""
ENDS = 5
"""Texts shown of either end of a vector."""
VECTOR, MAIN = "vector", "response_avg"
RESPONSES = "responses"
"""The set of words that the accepted rows themselves give."""

WHO = ["checkpoint", "tokens", "trait", "strategy", "layer", "direction"]
TOKENS = [*WHO, "side", "rank", "token_id", "token", "z", "chance", "logit", "skipped"]
WORDS = [
    *[*WHO, "set", "n_words", "n_own", "n_opposite", "auc", "auc_low", "auc_high"],
    *["auc_opposite", "auc_opposite_low", "auc_opposite_high", "median_rank", "own", "opposite"],
]
TEXTS = [
    *[*WHO[:-1], "end", "place", "projection", "text_trait", "text_strategy", "question_id", "sample", "row_key"],
    *["trait_score", "coherence", "question", "response"],
]
CORRELATIONS = [*WHO, "n_texts", "n_scored", "correlation", "chance_low", "chance_high"]
FILES = {"lens": TOKENS, "words": WORDS, "texts": TEXTS, "correlations": CORRELATIONS}
VOCABULARY = ["checkpoint", "tokens", "n_tokens", "n_kept", *GARBAGE, "reason"]
DONE = "vocabulary.csv"

log = logging.getLogger("traitline")


@dataclass(frozen=True, eq=False)
class _Reading:
    """A network whose vectors are read."""

    plan: Plan
    store: RunStore
    network: Network
    model: Model
    arrays: dict[Cell, dict[str, Floats]]

    def who(self, cell: Cell, layer: int, direction: str = VECTOR) -> dict[str, Any]:
        """Return the columns that say which direction a row is about."""
        values = (cell.network, self.network.tokens, cell.trait, cell.strategy, layer, direction)
        return dict(zip(WHO, values, strict=True))

    def directions(self, layer: int, *, controls: bool) -> Iterator[tuple[Cell, str, NDArray[np.float32]]]:
        """Yield (cell, name, direction [hidden]) of every vector at a layer, and of its shuffled controls if asked."""
        for cell, arrays in self.arrays.items():
            for name in (MAIN, *(name for name in arrays if controls and name.startswith("shuffled_"))):
                direction = arrays[name][layer]
                if np.isfinite(direction).all() and np.any(direction):
                    yield cell, VECTOR if name == MAIN else name, direction

    @property
    def steered(self) -> tuple[int, ...]:
        """The layers that vectors are steered at."""
        return tuple(layer for layer in self.plan.layers if layer <= self.model.layers)


def lacks_meanings(plan: Plan, store: RunStore, network: Network) -> bool:
    """Tell whether a network has vectors whose meaning is not kept."""
    cells = [cell for cell in _cells(plan, network) if store.vector(cell).is_file()]
    return bool(cells) and not (store.meanings(network.name) / DONE).is_file()


def keep_meanings(plan: Plan, store: RunStore, network: Network, model: Model, calibration: Calibration) -> None:
    """Read a network's vectors and write what they mean; nothing where it has no vector.

    Raises:
        ModelError: the network gives NaN or infinity, or a text does not fit into memory.
        StoreError: a file of the run is broken or cannot be written.
    """
    cells = [cell for cell in _cells(plan, network) if store.vector(cell).is_file()]
    if not cells:
        return
    found = _Reading(plan, store, network, model, {cell: load_arrays(store.vector(cell))[0] for cell in cells})
    tables: dict[str, pd.DataFrame] = {}
    counted: dict[str, Any] = {"checkpoint": network.name, "tokens": network.tokens}
    try:
        seen = lens(model)
    except ModelError as error:
        log.warning("%s: no logit lens: %s", network.name, error)
        counted["reason"] = str(error)
    else:
        tables["lens"], tables["words"] = _through(found, seen, calibration)
        reasons = pd.Series(seen.garbage).value_counts()
        counted |= {"n_tokens": len(seen.texts), "n_kept": int(seen.kept.sum())}
        counted |= {why: int(reasons.get(why, 0)) for why in GARBAGE}
    tables["texts"], tables["correlations"] = _along_texts(found, calibration)
    folder = store.meanings(network.name)
    (folder / DONE).unlink(missing_ok=True)
    for name, columns in FILES.items():
        _write(folder / f"{name}.csv", tables.get(name, pd.DataFrame(columns=columns)))
    _write(folder / DONE, pd.DataFrame([counted]).reindex(columns=VOCABULARY))


def _cells(plan: Plan, network: Network) -> list[Cell]:
    return plan.cells(network) if network in plan.checkpoints else plan.elicited(network)


# Tokens


def _through(found: _Reading, seen: Lens, calibration: Calibration) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the top tokens and the ranks of the traits' words, layer by layer."""
    tokens: list[dict[str, Any]] = []
    ranks: list[dict[str, Any]] = []
    kept, words = seen.kept, {cell: _words(found, cell) for cell in found.arrays}
    for layer in range(found.model.layers + 1):
        steered = layer in found.steered
        asked = list(found.directions(layer, controls=steered))
        if not asked:
            continue
        k = TOP if steered else TOP_ELSEWHERE
        random = semantics.Standings(seen.scores(seen.logits(_random(found, calibration, layer))), kept)
        chance = random.levels(k)
        logits = seen.logits(np.stack([direction for _, _, direction in asked]))
        scores = seen.scores(logits)
        ranks += _standings(found, asked, layer, semantics.Standings(scores, kept), random if steered else None, words)
        for (cell, name, _), row, z in zip(asked, logits, scores, strict=True):
            who = found.who(cell, layer, name)
            if name == VECTOR or (name.startswith("shuffled_") and name == _first(found.arrays[cell], "shuffled_")):
                tokens += [{**who, **one} for one in _top(row, z, seen, kept, k, chance)]
    return pd.DataFrame(tokens, columns=TOKENS), pd.DataFrame(ranks, columns=WORDS)


def _top(
    logits: Floats, z: Floats, seen: Lens, kept: NDArray[np.bool_], k: int, chance: tuple[Any, Any]
) -> Iterator[dict[str, Any]]:
    for side, rank, token, skipped in semantics.top_tokens(z, kept, k):
        yield {
            "side": side,
            "rank": rank,
            "token_id": token,
            "token": json.dumps(seen.texts[token]),  # quoted: spaces are seen, and no table program takes it for a formula
            "z": float(z[token]),
            "chance": float(chance[semantics.SIDES.index(side)][rank - 1]),
            "logit": float(logits[token]),
            "skipped": skipped,
        }


def _random(found: _Reading, calibration: Calibration, layer: int) -> Floats:
    """Return random directions drawn as the network's activations vary at a layer, [directions, hidden]."""
    seed = derived_seed(found.plan.config.seed, found.network.name, "lens")
    drawn = as_activations_vary(calibration.sample[:, layer], [(seed, layer, i) for i in range(CHANCE_DIRECTIONS)])
    there: Floats = drawn[drawn.any(axis=1)]
    return there if len(there) else np.ones((1, drawn.shape[1]), dtype=np.float32)


def _first(arrays: dict[str, Floats], start: str) -> str:
    return min((name for name in arrays if name.startswith(start)), default="")


# Words


@dataclass(frozen=True)
class _Words:
    """A set of words of a trait and of its opposite, with the tokens of those that are one token."""

    name: str
    n_words: int
    own: tuple[str, ...]
    opposite: tuple[str, ...]
    own_tokens: tuple[int, ...]
    opposite_tokens: tuple[int, ...]


def _words(found: _Reading, cell: Cell) -> list[_Words]:
    """Return the sets of words of a cell's trait; a token of both sides is left out."""
    sets = []
    for name, sides in _word_sets(found, cell).items():
        own, opposite = (word_tokens(found.model.tokenizer, side) for side in sides)
        both = {*own.values()} & {*opposite.values()}
        own, opposite = ({word: token for word, token in side.items() if token not in both} for side in (own, opposite))
        tokens = tuple(own.values()), tuple(opposite.values())
        sets.append(_Words(name, len(sides[0]), tuple(own), tuple(opposite), *tokens))
    return sets


def _word_sets(found: _Reading, cell: Cell) -> dict[str, tuple[list[str], list[str]]]:
    """Return name -> (words of the trait, words of its opposite): those of its own rows, and what nano's lexicon says."""
    sets: dict[str, tuple[list[str], list[str]]] = {}
    if found.plan.lineage.name == "nano":
        from traitline.nano.lexicon import HALVES, TRAITS

        if cell.trait in TRAITS:
            words = TRAITS[cell.trait]
            sets["adjectives"] = (list(words.adjectives["pos"]), list(words.adjectives["neg"]))
            for half, name in zip(HALVES, ("elicited verbs", "other verbs"), strict=True):
                verbs = [[phrase.split()[0] for phrase in words.actions[half, side]] for side in ("pos", "neg")]
                sets[name] = (verbs[0], verbs[1])
    if found.store.contrast(cell).is_file():
        rows = read_rows(found.store.contrast(cell))
        rows = rows[rows["accepted"].fillna(False).astype(bool)]
        sides = [rows.loc[rows["polarity"] == polarity, "response"].fillna("").tolist() for polarity in ("pos", "neg")]
        sets[RESPONSES] = semantics.distinctive_words(sides[0], sides[1])
    return sets


def _standings(
    found: _Reading,
    asked: list[tuple[Cell, str, Floats]],
    layer: int,
    standings: semantics.Standings,
    random: semantics.Standings | None,
    words: dict[Cell, list[_Words]],
) -> Iterator[dict[str, Any]]:
    """Yield where the words of each direction's trait stand, beside where they stand under random directions."""
    for cell, sets in words.items():
        places = [i for i, (one, _, _) in enumerate(asked) if one == cell]
        for one in sets if places else ():
            chance = random.words(one.own_tokens, one.opposite_tokens) if random else pd.DataFrame()
            spans = {
                f"{column}_{end}": _percentile(chance[column], level)
                for column in ("auc", "auc_opposite")
                for end, level in (("low", 100.0 - semantics.LEVEL), ("high", semantics.LEVEL))
                if column in chance.columns
            }
            said = {"set": one.name, "n_words": one.n_words, "own": " ".join(one.own), "opposite": " ".join(one.opposite)}
            rows = standings.words(one.own_tokens, one.opposite_tokens).to_dict("records")
            for i in places:
                ranks = {str(name): value for name, value in rows[i].items()}
                yield {**found.who(cell, layer, asked[i][1]), **said, **ranks, **spans}


def _percentile(values: pd.Series, level: float) -> float:
    return float(np.percentile(values, level)) if values.notna().all() and len(values) else math.nan


# Texts


def _along_texts(found: _Reading, calibration: Calibration) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the texts at both ends of each vector, and how far projections follow the judge's scores."""
    texts = _sample(found)
    layers = found.steered
    if texts.empty or not layers:
        return pd.DataFrame(columns=TEXTS), pd.DataFrame(columns=CORRELATIONS)
    ids = list(zip(texts["prompt_token_ids"], texts["response_token_ids"], strict=True))
    means = capture_rows(found.model, ids, layers=layers)[:, RESPONSE]  # [texts, layers, hidden]
    scored = {trait: _scores(texts, trait) for trait in found.plan.traits}
    ends: list[pd.DataFrame] = []
    correlations: list[dict[str, Any]] = []
    for place, layer in enumerate(layers):
        norm, random = float(calibration.norms[layer]), means[:, place] @ _random(found, calibration, layer).T
        spans = {trait: _span(random, scores) for trait, scores in scored.items()}
        for cell, name, direction in found.directions(layer, controls=True):
            along = means[:, place] @ direction / (np.linalg.norm(direction) * norm)
            scores, who = scored[cell.trait], found.who(cell, layer, name)
            counts = {"n_texts": len(texts), "n_scored": int(np.isfinite(scores).sum())}
            correlation = float(semantics.rank_correlations(along[:, None], scores)[0])
            correlations.append({**who, **counts, "correlation": correlation, **spans[cell.trait]})
            if name == VECTOR:
                ends.append(_ends(texts.assign(projection=along, trait_score=scores), who))
    texts = pd.concat(ends, ignore_index=True) if ends else pd.DataFrame(columns=TEXTS)
    return texts, pd.DataFrame(correlations, columns=CORRELATIONS)


def _span(projections: Floats, scores: NDArray[np.float64]) -> dict[str, float]:
    """Return between which correlations with the scores random directions lie, of projections [texts, directions]."""
    found = pd.Series(semantics.rank_correlations(projections, scores))
    ends = (("low", 100.0 - semantics.LEVEL), ("high", semantics.LEVEL))
    return {f"chance_{end}": _percentile(found, level) for end, level in ends}


def _sample(found: _Reading) -> pd.DataFrame:
    """Return unsteered answers of a network to the questions that are reported, as many of each trait and strategy."""
    frames = []
    cells = [cell for cell in found.plan.cells(found.network) if cell.strategy != FORCED]
    for cell in cells:
        path = found.store.evaluation(cell)
        if not path.is_file():
            continue
        rows = read_rows(path)
        rows = rows[rows["condition"].eq("baseline") & rows["split"].eq("evaluate") & rows["response_token_ids"].map(len).gt(0)]
        seed = derived_seed(found.plan.config.seed, *(cell.network, cell.trait, cell.strategy), "texts")
        frames.append(
            rows.iloc[np.sort(np.random.default_rng(seed).permutation(len(rows))[: max(1, MOST_TEXTS // len(cells))])]
        )
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _scores(texts: pd.DataFrame, trait: str) -> NDArray[np.float64]:
    """Return each text's score on one trait's rubric, NaN where it was not scored on it."""
    others = [json.loads(text) if isinstance(text, str) else {} for text in texts["other_scores"]]
    own = texts["trait"].eq(trait).to_numpy()
    crossed = np.array([math.nan if one.get(trait) is None else float(one[trait]) for one in others])
    return np.where(own, texts["trait_score"].to_numpy(dtype=np.float64), crossed)


def _ends(texts: pd.DataFrame, who: dict[str, Any]) -> pd.DataFrame:
    ordered = texts.sort_values(["projection", "row_key"], ascending=False, kind="stable")
    ordered = ordered[~ordered.duplicated(["question_id", "response"])]
    shown = min(ENDS, len(ordered) // 2)
    parts = []
    for end, part in (("high", ordered.iloc[:shown]), ("low", ordered.iloc[::-1].iloc[:shown])):
        named = part.rename(columns={"trait": "text_trait", "strategy": "text_strategy"})
        named = named.drop(columns=[name for name in (*WHO, "end", "place") if name in named.columns])
        quoted = {
            name: [json.dumps(text, ensure_ascii=False) for text in named[name].fillna("")] for name in ("question", "response")
        }
        known = {name: who[name] for name in WHO[:-1]}
        parts.append(named.assign(**known, end=end, place=range(1, len(named) + 1), **quoted))
    return pd.concat(parts, ignore_index=True).reindex(columns=TEXTS)


def _write(path: Path, table: pd.DataFrame) -> None:
    write_whole(path, table.to_csv(index=False, lineterminator="\n"))
