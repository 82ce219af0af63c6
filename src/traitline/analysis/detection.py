"""When a trait is linearly readable: how well probes tell the sides of a fixed set of texts apart, by checkpoint and layer.

Texts are compared with texts of the same question alone, so that the question gives nothing away, and the statistical unit is
the question. Where other words are held out, the few words are what varies, so there the p-value comes from dealing them to
the sides anew. Knows what stands beside each measure (shuffled labels, the words alone, layer 0, the untrained checkpoint)
and when it counts as readable. Leaves probes to `probes.py`, held-out texts to `holdout.py`, tests to `significance.py`, and
reading networks to the study.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from traitline.analysis.holdout import Floats, Part, Split, Texts, other_questions, other_words
from traitline.analysis.probes import PROBES, Probe
from traitline.analysis.significance import bootstrap_interval, holm, sign_flip

MINIMUM_AUC = 0.6
"""What the lower bound of the AUC (with other words: the AUC) must exceed to count as readable."""
BEYOND = 0.05
"""By so much that bound must exceed what words alone and the untrained checkpoint reach, for reading to tell of more."""
EXACT_QUESTIONS, SIGN_DRAWS, RESAMPLES = 24, 100_000, 2_000
KEY = ["trait", "strategy", "split", "probe"]
COLUMNS = [
    *["lineage", "checkpoint", "tokens", "trait", "strategy", "split", "probe", "layer", "status"],
    *["n_texts", "n_questions", "n_words", "auc", "ci_low", "ci_high", "accuracy", "p", "p_adjusted"],
    *["p_shuffled", "shuffled_low", "shuffled_high", "auc_words", "auc_length", "auc_untrained", "auc_layer_0"],
    *["gain_layer_0", "gain_low_layer_0", "gain_high_layer_0", "above_words", "readable"],
]


@dataclass(frozen=True, eq=False)
class Measured:
    """How well one probe tells held-out texts apart.

    Attributes:
        auc: share of comparisons that the positive text wins, of each question, [questions]; NaN where there was none.
        accuracy: share of texts on the right side of the midpoint, of each question, [questions].
        null: mean AUC under each labelling of the null, NaN where it leaves nothing to compare.
        margins: how far the positive texts are ahead, as a mean over its root mean square, under the true labelling and each
            of the null; unlike an AUC it goes on rising where all comparisons are won. [1 + null]
        n_texts: texts tested.
        units: questions or words held out.
    """

    auc: Floats
    accuracy: Floats
    null: Floats
    margins: Floats
    n_texts: int
    units: int

    @property
    def p_null(self) -> float:
        """The share of labellings whose margin reaches the true one's, which is counted among them."""
        known = self.margins[~np.isnan(self.margins)]
        return math.nan if np.isnan(self.margins[0]) else float((known >= self.margins[0] - 1e-12).mean())


def splits(texts: Texts, seed: int) -> list[Split]:
    """Return the ways of holding texts out that these texts allow."""
    words = other_words(texts, seed)
    return [other_questions(texts, seed), *([words] if words is not None else [])]


def measure(products: Floats, texts: Texts, split: Split, probe: Probe) -> Measured:
    """Fit a probe to each part of a split, test it on the other, and do the same with every labelling of the null.

    Args:
        products: of the texts' activations, with whatever mean, [n, n].
        texts: the texts.
        split: what is held out.
        probe: what is fitted.
    """
    scored = []
    for part in split.parts:
        own, cross = products[np.ix_(part.train, part.train)], products[np.ix_(part.test, part.train)]
        scored.append((part, probe(own, cross, split.labels[:, part.train], texts.question[part.train])))
    return _tally(scored, texts, split)


def measure_scores(scores: Floats, texts: Texts, split: Split) -> Measured:
    """Measure scores that were found elsewhere, such as projections; the null exchanges sides in the tested texts alone.

    Args:
        scores: of each text, 0 between the sides, NaN where there is none, [n].
        texts: the texts.
        split: that of other questions, whose parts and null are used.
    """
    return _tally([(part, scores[None, part.test]) for part in split.parts], texts, split)


def _tally(scored: Sequence[tuple[Part, Floats]], texts: Texts, split: Split) -> Measured:
    """Add up comparisons and hits, for every labelling.

    Args:
        scored: each part with the scores of its tested texts, [labellings or 1, tested].
        texts: the texts.
        split: what was held out.
    """
    questions = int(texts.question.max(initial=-1)) + 1
    won, compared = (np.zeros((len(split.labels), questions)) for _ in range(2))
    margins, counted = (np.zeros(len(split.labels)) for _ in range(2))
    right, seen, tested = np.zeros(questions), np.zeros(questions), np.zeros(len(texts), dtype=bool)
    for part, scores in scored:
        ahead = scores[:, part.first] - scores[:, part.second]  # [labellings or 1, comparisons]
        gone = np.isnan(ahead[0])
        if gone.any():
            part, ahead = part.without(gone), np.where(gone, 0.0, ahead)
        won += (np.sign(ahead) * part.due) @ part.question
        compared += part.compared
        many = part.compared.sum(axis=1)
        lead, squares = (ahead * part.due).sum(axis=1), (ahead * ahead * np.abs(part.due)).sum(axis=1)
        margins += np.divide(lead, np.sqrt(squares * many), out=np.zeros(len(many)), where=squares > 0)
        counted += many > 0
        known = ~np.isnan(scores[0])
        here = part.test[known]
        hits = np.sign(scores[0][known]) == texts.labels[here]
        right += np.bincount(texts.question[here], weights=hits, minlength=questions)
        seen += np.bincount(texts.question[here], minlength=questions)
        tested[here] = True
    auc = (1 + _over(won, compared)) / 2
    null = _over(np.nansum(auc, axis=1), (~np.isnan(auc)).sum(axis=1))[1:]
    return Measured(auc[0], _over(right, seen), null, _over(margins, counted), int(tested.sum()), split.units)


def surface(texts: Texts, ways: Sequence[Split]) -> dict[tuple[str, str, str], float]:
    """Return (split, probe, `words` or `length`) -> AUC that the words alone, or the number of tokens alone, reach."""
    length = np.array([[float(len(one))] for one in texts.tokens])
    found = {"words": texts.shares @ texts.shares.T, "length": length @ length.T}
    return {
        (way.held, name, kind): _mean(measure(products, texts, way.true_alone(), probe).auc)
        for way in ways
        for name, probe in PROBES.items()
        for kind, products in found.items()
    }


def measurements(
    gram: NDArray[np.float32], along: Mapping[str, NDArray[np.float32]], texts: Texts, ways: Sequence[Split]
) -> Iterator[tuple[str, str, int, Measured]]:
    """Yield (split, probe, layer, what was measured) of one network.

    Args:
        gram: products of the texts' activations, [layers + 1, n, n].
        along: vector -> scores of the texts along it, each from other questions' texts, [layers + 1, n].
        texts: the texts.
        ways: what is held out; scores along vectors are measured on other questions alone.
    """
    for layer in range(len(gram)):
        products = gram[layer].astype(np.float64)
        for way in ways:
            for name, probe in PROBES.items():
                yield way.held, name, layer, measure(products, texts, way, probe)
            for name, scores in along.items() if way.held == "questions" else ():
                yield way.held, name, layer, measure_scores(scores[layer].astype(np.float64), texts, way)


def statistics(found: Mapping[int, Measured], split: str, seed: int) -> pd.DataFrame:
    """Return one row per layer of one network, trait, strategy, split and probe: what was measured, with its p and interval.

    Over other questions p is that of the sign-flip test of the questions' AUCs less a half, and the interval is over
    questions; over other words p is the share of ways of dealing the words that reach the true one, and there is no interval,
    as the questions share the few words.

    Args:
        found: layer -> what was measured.
        split: what was held out.
        seed: of draws.
    """
    first = found.get(0)
    return pd.DataFrame([_row(layer, one, first, split, seed) for layer, one in found.items()])


def _row(layer: int, one: Measured, first: Measured | None, split: str, seed: int) -> dict[str, Any]:
    known = one.auc[~np.isnan(one.auc)]
    null = one.null[~np.isnan(one.null)]
    row: dict[str, Any] = {
        "layer": layer,
        "status": "complete" if len(known) else "no_texts",
        "n_texts": one.n_texts,
        "n_questions": len(known),
        "n_words": one.units if split == "words" else pd.NA,
        "auc": _mean(one.auc),
        "accuracy": _mean(one.accuracy),
        "p_shuffled": one.p_null,
        "shuffled_low": float(np.quantile(null, 0.025)) if len(null) else math.nan,
        "shuffled_high": float(np.quantile(null, 0.975)) if len(null) else math.nan,
        "auc_layer_0": _mean(first.auc) if first is not None else math.nan,
    }
    if split == "words":
        return row | {"p": one.p_null}
    if len(known):
        row |= {"p": sign_flip(known - 0.5, seed=seed, exact_up_to=EXACT_QUESTIONS, draws=SIGN_DRAWS).p_greater}
        row |= dict(zip(("ci_low", "ci_high"), bootstrap_interval(known, draws=RESAMPLES, seed=seed), strict=True))
    gains = one.auc - first.auc if first is not None and layer else np.empty(0)
    gains = gains[~np.isnan(gains)]
    if len(gains):
        low, high = bootstrap_interval(gains, draws=RESAMPLES, seed=seed)
        row |= {"gain_layer_0": gains.mean(), "gain_low_layer_0": low, "gain_high_layer_0": high}
    return row


def judged(table: pd.DataFrame, order: Sequence[str], *, alpha: float = 0.05) -> pd.DataFrame:
    """Return a table of statistics with adjusted p, the untrained checkpoint beside each row, and what counts as readable.

    p is Holm's over the layers and checkpoints of one trait, strategy, split and probe; with other words, over the
    checkpoints of each layer, as the number of ways of dealing the words bounds p from below. A row is readable where the
    adjusted p is under alpha, the lower bound (with other words: the AUC) exceeds `MINIMUM_AUC` and (with other questions)
    the upper end of the null's middle 95 %, and all of that holds at the next checkpoint too. `above_words` tells whether that
    bound also exceeds, by `BEYOND`, what the words alone and the untrained checkpoint reach: without it, words may be all that
    is read.

    Args:
        table: rows of `statistics` with `lineage`, `checkpoint`, `tokens`, `trait`, `strategy`, `split`, `probe`,
            `auc_words` and `auc_length`.
        order: the checkpoints in order of training.
        alpha: the level.
    """
    found = table.reindex(columns=COLUMNS).reset_index(drop=True)
    worded = found["split"].eq("words")
    family = [found[name] for name in KEY] + [found["layer"].where(worded, -1)]
    found["p_adjusted"] = found.groupby(family, sort=False)["p"].transform(holm)
    blank = found[found["tokens"].eq(0) & found["status"].eq("complete")]
    at = [*KEY, "layer"]
    known = blank.drop_duplicates(at).set_index(at)["auc"]
    found["auc_untrained"] = known.reindex(pd.MultiIndex.from_frame(found[at])).to_numpy(dtype=np.float64)
    bound = found["ci_low"].where(~worded, found["auc"])
    beside = found[["auc_words", "auc_untrained"]].max(axis=1).fillna(-np.inf)
    found["above_words"] = (bound > beside + BEYOND).astype("boolean").mask(found["status"].ne("complete"))
    alone = (found["p_adjusted"] < alpha) & (bound > MINIMUM_AUC) & (worded | (bound > found["shuffled_high"]))
    place = found["checkpoint"].map({name: i for i, name in enumerate(order)})
    rows = found.assign(alone=alone, place=place)[found["status"].eq("complete")].sort_values("place", kind="stable")
    next_too = rows.groupby(at, sort=False)["alone"].shift(-1, fill_value=True)
    lasting = (rows["alone"] & next_too).reindex(found.index, fill_value=False)
    found["readable"] = lasting.astype("boolean").mask(found["status"].ne("complete"))
    return found


def _over(values: Floats, counts: NDArray[Any]) -> Floats:
    """Return a ratio, NaN where nothing was counted."""
    ratio: Floats = np.divide(values, counts, out=np.full(values.shape, np.nan), where=counts > 0)
    return ratio


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
