"""What a study reads at each checkpoint to tell when a trait is readable, and what it keeps of that: one small file a network.

One fixed set of texts per trait and strategy, the accepted rows of the last checkpoint, is read again at every checkpoint as
bare answers: teacher-forced by their token ids after the question alone, for with its instruction a text gives away what was
asked for. Kept are the products of the texts' mean activations, from which any linear probe can be fitted later without the
network; how far the texts lie along the network's own vector and along `forced`, each extracted from other questions than the
text's; and how alike these vectors are to those read without instruction. Knows which texts these are and the names of the
arrays. Leaves reading a network to `models/capture.py` and every measure to `analysis/detection.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from traitline.errors import InputError, ModelError, StoreError
from traitline.files import write_whole
from traitline.models import Model, capture_rows, encode
from traitline.models.capture import RESPONSE, capture_sums
from traitline.study.plan import Cell, Network, Plan, derived_seed
from traitline.study.store import RunStore, read_rows
from traitline.traits.strategies import strategy
from traitline.vectors.estimators import Pairs, find_pairs
from traitline.vectors.vector import Floats, Provenance

TEXTS_PER_SIDE = 100
"""The fixed texts of a trait and strategy are at most so many pairs, drawn evenly from the questions. At 33 layers their
products take 33 x 200 x 200 x 4 bytes, 5.3 MB for each trait and strategy of a checkpoint."""
FOLDS = 5
"""The questions are cut into so many parts, or into single ones where there are fewer."""
OWN, FORCED_VECTOR = "own", "forced"
"""The two vectors of a checkpoint: of its own accepted rows, and of the last checkpoint's as the checkpoint reads them."""
COSINE, NORM_RATIO = 0, 1
"""The lines of a `context` array."""


@dataclass(frozen=True, eq=False)
class CellReadings:
    """What was read of the fixed texts of one trait and strategy at one network.

    Attributes:
        row_keys: the texts, contrast rows of the last checkpoint: a positive one, its negative partner, and so on. [n]
        fold: which part of the questions each text's belongs to. [n]
        gram: products of the texts' mean response activations less their mean over the texts, [layers + 1, n, n].
        along: vector (`own`, `forced`) -> how far each text lies along it, from the midpoint between the sides, vector and
            midpoint being of other questions than the text's, [layers + 1, n]. A network without accepted pairs has no `own`.
        context: vector -> cosine between the vector and the one read without instruction, and the ratio of the latter's norm
            to the former's, [2, layers + 1].
        counts: vector -> the accepted pairs and the questions behind it.
    """

    row_keys: tuple[str, ...]
    fold: NDArray[np.int64]
    gram: Floats
    along: dict[str, Floats]
    context: dict[str, Floats]
    counts: dict[str, tuple[int, int]]


class Readings:
    """The readings of one run: made where they are lacking.

    Args:
        plan: the study.
        store: its run directory.
    """

    def __init__(self, plan: Plan, store: RunStore) -> None:
        self._plan, self._store = plan, store

    def lack_texts(self) -> bool:
        """Tell whether readings are asked for and the rows that the fixed texts are taken from are not all there."""
        return self._plan.config.detection and not all(self._store.contrast(cell).is_file() for cell in self._sources())

    def wanted(self, network: Network) -> bool:
        """Tell whether a network, if it is a checkpoint, is still to be read, and can be."""
        asked = self._plan.config.detection and network in self._plan.checkpoints
        return asked and not self._store.readings(network.name).is_file() and not self.lack_texts()

    def make(self, network: Network, model: Model) -> None:
        """Read the fixed texts at a checkpoint, if that is wanted; one that cannot be read keeps its results."""
        if not self.wanted(network):
            return
        started = time.monotonic()
        try:
            self._write(network, model)
            self._note(network, "complete", None, time.monotonic() - started)
        except (ModelError, InputError) as error:
            self.fail(network, str(error))

    def fail(self, network: Network, reason: str) -> None:
        """Record that a network could not be read, if that is wanted; it is tried again when the run is."""
        if self.wanted(network):
            self._note(network, "failed", reason)

    def _note(self, network: Network, state: str, reason: str | None, seconds: float = 0.0) -> None:
        self._store.note_cell(Cell(network.name, "", ""), state, reason, seconds=seconds, table="readings")

    def lacking(self) -> tuple[str, ...]:
        """Return a sentence about the checkpoints that should have readings and have none, if there are any."""
        names = [network.name for network in self._plan.checkpoints if not self._store.readings(network.name).is_file()]
        if not names or not self._plan.config.detection:
            return ()
        ledger = self._store.ledger("readings")
        told = ledger[ledger["network"].isin(names) & ledger["state"].eq("failed")]
        why = f" ({told.iloc[0]['network']}: {told.iloc[0]['reason']})" if len(told) else ""
        return (f"the fixed texts were not read at {', '.join(names)}{why}; run the same command again to read them",)

    def _sources(self) -> list[Cell]:
        return [Cell(self._plan.last.name, trait, one) for trait in self._plan.traits for one in self._plan.config.generating]

    def _write(self, network: Network, model: Model) -> None:
        arrays: dict[str, Floats] = {}
        header: list[dict[str, Any]] = []
        for source in self._sources():
            rows = read_rows(self._store.contrast(source))
            pairs = find_pairs(rows)
            if len(pairs) < 2:
                continue
            own = Cell(network.name, source.trait, source.strategy)
            reader = _Reader(self._plan, network, model, own)
            found, kept = reader.read(rows, pairs, read_rows(self._store.contrast(own)))
            arrays |= {f"{source.trait}/{source.strategy}/{name}": array for name, array in found.items()}
            header.append({"trait": source.trait, "strategy": source.strategy, **kept})
        provenance = Provenance(
            lineage=self._plan.lineage.name,
            checkpoint=network.name,
            source=network.source if network.revision else Path(network.source).name,
            commit=model.commit,
            estimator="readings",
        )
        save_readings(self._store.readings(network.name), arrays, header, provenance)


class _Reader:
    """Reads the texts of one trait and strategy at one network."""

    def __init__(self, plan: Plan, network: Network, model: Model, cell: Cell) -> None:
        self._model = model
        self._seed = derived_seed(plan.config.seed, "readings", cell.trait, cell.strategy)  # of every network the same
        self._trait, self._form, self._wording = plan.traits[cell.trait], network.form, strategy(cell.strategy)
        self._bare: dict[str, list[int]] = {}

    def read(self, rows: pd.DataFrame, pairs: Pairs, own: pd.DataFrame) -> tuple[dict[str, Floats], dict[str, Any]]:
        """Return the arrays of the fixed texts, and what the header tells of them.

        Args:
            rows: the last checkpoint's contrast rows.
            pairs: the accepted ones among them.
            own: this network's contrast rows.
        """
        texts = rows.iloc[_side_by_side(pairs, chosen_pairs(pairs.question, TEXTS_PER_SIDE, self._seed))]
        folds = question_folds(texts["question_id"], self._seed)
        fold = np.array([folds[one] for one in texts["question_id"]])
        means = capture_rows(self._model, self._rows(texts, bare=True))[:, RESPONSE]  # [n, layers + 1, hidden]

        arrays = {"gram": centred_products(means)}
        counts: dict[str, list[int]] = {}
        for name, found in ((FORCED_VECTOR, texts), (OWN, own.iloc[_side_by_side(find_pairs(own))])):
            if len(found):
                told = self._sums(found, folds, bare=False)
                bare = means[::2] - means[1::2] if found is texts else self._sums(found, folds, bare=True)
                arrays[f"along/{name}"] = held_out_scores(means, told, fold)
                arrays[f"context/{name}"] = compared(told.sum(axis=0), bare.sum(axis=0))
                counts[name] = [len(found) // 2, found["question_id"].nunique()]
        return arrays, {"row_keys": texts["row_key"].tolist(), "fold": fold.tolist(), "counts": counts}

    def _sums(self, rows: pd.DataFrame, folds: dict[str, int], *, bare: bool) -> Floats:
        """Return the sum of the differences of each fold's pairs, and last of pairs in none, [folds + 1, layers + 1, hidden].

        Args:
            rows: accepted rows, pair by pair.
            folds: the fold of each question.
            bare: read them without their instruction.
        """
        rest = max(folds.values()) + 1
        of_row = np.array([folds.get(one, rest) for one in rows["question_id"]])
        signs = np.where(np.arange(len(rows)) % 2, -1.0, 1.0)
        weights = np.equal.outer(np.arange(rest + 1), of_row) * signs  # [folds + 1, rows]
        return capture_sums(self._model, self._rows(rows, bare=bare), {"response_avg": weights}).segments["response_avg"]

    def _rows(self, rows: pd.DataFrame, *, bare: bool) -> list[tuple[list[int], list[int]]]:
        prompts = [self._prompt(one) for one in rows["question"]] if bare else rows["prompt_token_ids"]
        return list(zip(prompts, rows["response_token_ids"], strict=True))

    def _prompt(self, question: str) -> list[int]:
        if question not in self._bare:
            prompt = self._wording.prompt(None, question, self._form, self._trait.task)
            self._bare[question] = encode(self._model, prompt)
        return self._bare[question]


def chosen_pairs(question: NDArray[np.intp], most: int, seed: int) -> NDArray[np.intp]:
    """Return at most so many pairs, in rising order: as evenly from the questions as they go, by chance within them.

    Args:
        question: integer code of each pair's question, [pairs].
        most: how many pairs to keep.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(question))
    rank = np.zeros(len(question), dtype=np.intp)  # its place among the pairs of its question
    for code in np.unique(question):
        mine = order[question[order] == code]
        rank[mine] = np.arange(len(mine))
    kept: NDArray[np.intp] = np.sort(order[np.argsort(rank[order], kind="stable")][:most])
    return kept


def question_folds(questions: Sequence[str] | pd.Series, seed: int) -> dict[str, int]:
    """Return which fold each question belongs to; no question belongs to two."""
    names = sorted(set(questions))
    order = np.random.default_rng((seed, 1)).permutation(len(names))
    return {names[i]: place % min(FOLDS, len(names)) for place, i in enumerate(order)}


def _side_by_side(pairs: Pairs, chosen: NDArray[np.intp] | slice = slice(None)) -> NDArray[np.intp]:
    """Return the row numbers of pairs, a positive row and its partner, the next pair, and so on: [2 x pairs]."""
    return np.stack([pairs.positive[chosen], pairs.negative[chosen]], axis=1).ravel()


def centred_products(means: Floats) -> Floats:
    """Return the products of activations less their mean over the texts, float32 [layers + 1, n, n].

    A probe with an intercept does not see the mean, and beside a large one float32 would not see the differences.

    Args:
        means: mean response activations, [n, layers + 1, hidden].
    """
    n, layers = means.shape[:2]
    products = np.empty((layers, n, n), dtype=np.float32)
    for layer in range(layers):
        values = means[:, layer].astype(np.float64)
        values -= values.mean(axis=0)
        products[layer] = values @ values.T
    return products


def held_out_scores(means: Floats, sums: Floats, fold: NDArray[np.int64]) -> Floats:
    """Return how far each text lies along a vector of other questions' pairs, float32 [layers + 1, n].

    0 is the midpoint between the sides of the other folds' texts; NaN where no other question has a pair.

    Args:
        means: mean response activations of the texts, pairs side by side, [n, layers + 1, hidden].
        sums: sums of the differences of each fold's pairs, and of further ones, [folds + 1, layers + 1, hidden].
        fold: the fold of each text, [n].
    """
    scores = np.full((means.shape[1], len(means)), np.nan, dtype=np.float32)
    others = sums.astype(np.float64).sum(axis=0) - sums  # [folds + 1, layers + 1, hidden]
    for k in np.unique(fold):
        held, rest = fold == k, fold != k
        for layer in range(means.shape[1]):
            length = float(np.linalg.norm(others[k, layer]))
            if length > 0 and rest.any():
                along = means[:, layer].astype(np.float64) @ (others[k, layer] / length)
                scores[layer, held] = along[held] - along[rest].mean()  # as many texts of either side
    return scores


def compared(told: Floats, bare: Floats) -> Floats:
    """Return the cosine between two vectors, and the ratio of the second's norm to the first's, [2, layers + 1].

    NaN where the first, or for the cosine either, is zero.
    """
    a, b = told.astype(np.float64), bare.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    missing = np.full(len(a), np.nan)
    product = lengths[0] * lengths[1]
    cosine = np.divide(np.einsum("lh,lh->l", a, b), product, out=missing.copy(), where=product > 0)
    return np.stack([cosine, np.divide(lengths[1], lengths[0], out=missing, where=lengths[0] > 0)]).astype(np.float32)


def save_readings(path: Path, arrays: dict[str, Floats], header: list[dict[str, Any]], provenance: Provenance) -> None:
    """Write a network's readings whole: arrays named `<trait>/<strategy>/<what>`, texts and counts in the header."""
    from safetensors.numpy import save

    tensors = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in arrays.items()}
    metadata = {"traitline": provenance.to_json(), "readings": json.dumps(header)}
    write_whole(path, save(tensors, metadata=metadata))


def load_readings(path: Path) -> dict[tuple[str, str], CellReadings]:
    """Return a network's readings by trait and strategy; none of those without accepted pairs at the last checkpoint.

    Raises:
        StoreError: the file is truncated or is none of readings.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})["readings"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return {(one["trait"], one["strategy"]): _cell_readings(one, arrays) for one in header}
    except Exception as error:  # safetensors raises its own kinds, OSError on a short read, KeyError on a strange header
        raise StoreError(f"{str(path)!r} is broken ({error}); delete it and run again: only the texts are read anew") from error


def _cell_readings(kept: dict[str, Any], arrays: dict[str, Floats]) -> CellReadings:
    head = f"{kept['trait']}/{kept['strategy']}"
    along = {name: arrays[f"{head}/along/{name}"] for name in kept["counts"]}
    context = {name: arrays[f"{head}/context/{name}"] for name in kept["counts"]}
    counts = {name: (int(pairs), int(questions)) for name, (pairs, questions) in kept["counts"].items()}
    fold = np.array(kept["fold"], dtype=np.int64)
    return CellReadings(tuple(kept["row_keys"]), fold, arrays[f"{head}/gram"], along, context, counts)
