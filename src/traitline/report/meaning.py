"""What the vectors mean, as the report shows it: top tokens, where the traits' words stand, the texts at both ends.

Knows how the tables of meanings are cut and worded, and how text that a model wrote is made harmless: unprintable characters
are spelled out here, and the page escapes the rest. Leaves drawing to `meaning_figures.py` and the numbers to `analysis/`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from traitline.report.panels import LABELS
from traitline.report.section import Section, Table
from traitline.report.tables import Run, numbers, unique

VECTOR, PROMOTED, DEMOTED = "vector", "promoted", "demoted"
SETS = ("other verbs", "adjectives", "elicited verbs", "responses")
"""Sets of words, those that tell most first: words that the rows behind a vector hardly can have put there."""
SAID = {
    "other verbs": "the trait's verbs that no elicited situation calls for",
    "adjectives": "the trait's adjectives",
    "elicited verbs": "the trait's verbs that elicited situations call for",
    "responses": "words that more of the accepted positive answers have than of the negative ones",
}
SHOWN_TOKENS, SHOWN_TEXTS, ANYWHERE = 12, 3, 5
LONGEST = 400
GARBAGE = ("special", "unused", "fragment", "blank", "undertrained")


def meaning(run: Run) -> Section | None:
    """Return the section on what the vectors mean; None where the run keeps no meanings."""
    tops, texts = own(run, "lens"), own(run, "nearest_texts")
    if tops.empty and texts.empty:
        return None
    sentences = [
        "Which tokens each vector speaks for, read through the network's own final norm and unembedding (logit lens): "
        "z is a token's logit in standard deviations over random directions. A star marks what stands higher than the token "
        "of that rank does under 95 % of random directions drawn as the network's activations vary.",
        *_filtered(run),
        *_ranked(run),
        *_followed(run),
    ]
    tables = [*_tokens(run, tops), *_words(run), *_drift(run), *_texts(run, texts)]
    return Section("meaning", "Meaning", sentences, tables)


def own(run: Run, name: str) -> pd.DataFrame:
    """Return the rows of a table of meanings at the run's main layer."""
    table = run.tables[name]
    layers = numbers(table, "layer")
    return table[layers == run.layer] if (layers == run.layer).any() else table.iloc[:0]


def last_checkpoint(run: Run, table: pd.DataFrame) -> str:
    """Return the last checkpoint that a table tells of; empty where it tells of none."""
    found = set(table["checkpoint"])
    return next((name for name in reversed(run.axis.checkpoints) if name in found), "")


def spoken(text: object) -> str:
    """Return a quoted text without its quotes, unprintable characters spelled out; a piece within a word begins with a dot."""
    try:
        said = json.loads(str(text))
    except ValueError:
        said = text
    said = str(said)
    start = "" if said[:1].isspace() or not said else "·"
    return start + printable(said.strip())


def printable(text: str) -> str:
    """Return a text on one line, with characters that print nothing, or turn what is beside them, spelled out."""
    return "".join(one if one.isprintable() else " " if one.isspace() else f"\\u{ord(one):04x}" for one in text)


def main_set(words: pd.DataFrame) -> str:
    """Return the set of words that tells most among those there are."""
    found = set(words["set"])
    return next((name for name in SETS if name in found), next(iter(sorted(found)), ""))


def _named(row: Any) -> list[str]:
    return [str(row.trait), LABELS.get(str(row.strategy), str(row.strategy))]


def _in_order(run: Run, table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    for trait in run.traits:
        for strategy in run.strategies:
            part = table[(table["trait"] == trait) & (table["strategy"] == strategy)]
            if len(part):
                yield trait, strategy, part


def _tokens(run: Run, tops: pd.DataFrame) -> list[Table]:
    """Return the top tokens of every vector: at the last checkpoint in the open, at all others folded."""
    vectors = tops[tops["direction"] == VECTOR]
    last = last_checkpoint(run, vectors)
    head = ["trait", "strategy", "promoted", "demoted"]
    tables = []
    for name in [last, *(name for name in reversed([*run.axis.checkpoints, *_after(run, vectors)]) if name != last)]:
        here = vectors[vectors["checkpoint"] == name]
        rows = [
            [trait, LABELS.get(strategy, strategy), *(_listed(part[part["side"] == side]) for side in (PROMOTED, DEMOTED))]
            for trait, strategy, part in _in_order(run, here)
        ]
        if rows:
            caption = f"Tokens at {name}, layer {run.layer}"
            tables.append(Table(caption, head, rows, folded=name != last))
    return [*tables[:1], *_layers(run, last), *tables[1:]]


def _layers(run: Run, checkpoint: str) -> list[Table]:
    """Return the first tokens of every vector of a checkpoint at every layer: middle layers often speak for none."""
    tops = run.tables["lens"]
    tops = tops[(tops["direction"] == VECTOR) & (tops["checkpoint"] == checkpoint) & (numbers(tops, "rank") <= ANYWHERE)]
    rows = [
        [
            trait,
            LABELS.get(strategy, strategy),
            f"{layer:.0f}",
            *(_listed(rows[rows["side"] == side]) for side in (PROMOTED, DEMOTED)),
        ]
        for trait, strategy, part in _in_order(run, tops)
        for layer, rows in part.groupby(numbers(part, "layer"), sort=True)
    ]
    head = ["trait", "strategy", "layer", "promoted", "demoted"]
    return [Table(f"Tokens at {checkpoint}, layer by layer", head, rows)] if rows else []


def _after(run: Run, table: pd.DataFrame) -> list[str]:
    """Return the descendants that a table tells of."""
    return [name for name in unique(table["checkpoint"].astype(str)) if name not in run.axis.checkpoints]


def _listed(rows: pd.DataFrame) -> str:
    ordered = rows.assign(rank=numbers(rows, "rank")).sort_values("rank").head(SHOWN_TOKENS)
    beyond = numbers(ordered, "z").abs() > numbers(ordered, "chance").abs()
    said = [f"{spoken(token)}{'*' if above else ''}" for token, above in zip(ordered["token"], beyond, strict=True)]
    top = numbers(ordered, "z")
    return f"{', '.join(said)} (z {_signed(top.iloc[0])} to {_signed(top.iloc[-1])})" if said else ""


def _filtered(run: Run) -> list[str]:
    table = run.tables["lens_vocabulary"]
    table = table[numbers(table, "n_tokens").notna()]
    if table.empty:
        return []
    last = last_checkpoint(run, table) or str(table["checkpoint"].iloc[-1])
    row = table[table["checkpoint"] == last].iloc[0]
    counts = {why: int(row.get(why, 0)) for why in GARBAGE}
    left = ", ".join(f"{count:,} {why}" for why, count in counts.items() if count)
    kept = f"{int(row['n_kept']):,} of {int(row['n_tokens']):,} tokens are compared"
    return [f"{kept}{f'; left out: {left}' if left else ''} (at {last})."]


def _ranked(run: Run) -> list[str]:
    """Say how high the traits' own words stand at the last checkpoint, against the controls."""
    words = own(run, "lens_words")
    if words.empty:
        return []
    name = main_set(words)
    words = words[words["set"] == name]
    last = last_checkpoint(run, words)
    here = words[(words["checkpoint"] == last) & (words["strategy"] != "forced")]
    vectors, shuffled = (
        numbers(here[here["direction"].str.startswith(start)], "auc").dropna() for start in (VECTOR, "shuffled")
    )
    if vectors.empty:
        return []
    null = f", under shuffled vectors above {_share(shuffled.mean())} %" if len(shuffled) else ""
    drawn = here[here["direction"] == VECTOR]
    beyond, told = (numbers(drawn, "auc") > numbers(drawn, "auc_high")), numbers(drawn, "auc_high").notna()
    return [
        f"At {last}, {SAID.get(name, name)} stand above {_share(vectors.mean())} % of all other tokens, averaged over "
        f"vectors{null}; 50 % by chance. Words of one kind stand together, so single directions scatter: {int(beyond.sum())} "
        f"of {int(told.sum())} vectors are above 95 % of random directions drawn as activations vary."
    ]


def _followed(run: Run) -> list[str]:
    table = own(run, "text_correlations")
    last = last_checkpoint(run, table)
    here = table[table["checkpoint"] == last]
    vectors, shuffled = (
        numbers(here[here["direction"].str.startswith(start)], "correlation").dropna() for start in (VECTOR, "shuffled")
    )
    if vectors.empty:
        return []
    null = f", of shuffled vectors {_signed(shuffled.mean(), 2)}" if len(shuffled) else ""
    n, drawn = int(numbers(here, "n_scored").max()), here[here["direction"] == VECTOR]
    beyond = numbers(drawn, "correlation") > numbers(drawn, "chance_high")
    return [
        f"Over {n} of its own answers without steering, projection and judged trait go together with a mean rank "
        f"correlation of {_signed(vectors.mean(), 2)}{null} (at {last}); {int(beyond.sum())} of {len(drawn)} vectors are above "
        "95 % of random directions."
    ]


def _words(run: Run) -> list[Table]:
    words = own(run, "lens_words")
    if words.empty:
        return []
    names = [name for name in run.axis.checkpoints if name in set(words["checkpoint"])] + _after(run, words)
    rows = []
    for trait, strategy, part in _in_order(run, words):
        for name in [one for one in SETS if one in set(part["set"])]:
            for kind in (VECTOR, "shuffled"):
                chosen = part[(part["set"] == name) & part["direction"].str.startswith(kind)]
                by = chosen.assign(auc=numbers(chosen, "auc")).groupby("checkpoint")["auc"].mean()
                if by.notna().any():
                    cells = [_share(by.get(checkpoint, math.nan)) for checkpoint in names]
                    rows.append([trait, LABELS.get(strategy, strategy), SAID.get(name, name), kind, *cells])
    caption = f"Share of other tokens that the trait's words stand above, %, layer {run.layer}"
    return [Table(caption, ["trait", "strategy", "words", "direction", *names], rows)] if rows else []


def _drift(run: Run) -> list[Table]:
    table = own(run, "lens_drift")
    table = table[table["side"] == PROMOTED]
    names = [name for name in run.axis.checkpoints if name in set(table["checkpoint"])]
    rows = []
    for trait, strategy, part in _in_order(run, table):
        for column, said in (
            ("overlap_last", "with the last"),
            ("rbo_last", "with the last, by rank"),
            ("overlap_previous", "with the previous"),
        ):
            for kind in (VECTOR, "shuffled"):
                chosen = part[part["direction"].str.startswith(kind)]
                by = chosen.assign(value=numbers(chosen, column)).groupby("checkpoint")["value"].mean()
                if by.notna().any():
                    cells = [_share(by.get(checkpoint, math.nan)) for checkpoint in names]
                    rows.append([trait, LABELS.get(strategy, strategy), said, kind, *cells])
    k = int(numbers(table, "k").max()) if len(table) else 0
    chance = numbers(table, "chance").mean()
    caption = f"Top {k} promoted tokens shared along training, % ({_share(chance)} % by chance), layer {run.layer}"
    return [Table(caption, ["trait", "strategy", "shared", "direction", *names], rows)] if rows else []


def _texts(run: Run, texts: pd.DataFrame) -> list[Table]:
    """Return the answers at both ends of every vector of the last checkpoint, a table per trait."""
    last = last_checkpoint(run, texts)
    here = texts[texts["checkpoint"] == last]
    head = ["strategy", "end", "projection", "score", "coherence", "asked for", "question", "answer"]
    tables = []
    for trait in run.traits:
        rows = []
        for _, strategy, part in _in_order(run, here[here["trait"] == trait]):
            for end in ("high", "low"):
                ordered = part[part["end"] == end].assign(place=numbers(part, "place")).sort_values("place")
                for row in ordered.head(SHOWN_TEXTS).itertuples():
                    numbered = [_signed(float(str(row.projection)), 3), _whole(row.trait_score), _whole(row.coherence)]
                    texts_of = [str(row.text_trait), _cut(row.question), _cut(row.response)]
                    rows.append([LABELS.get(strategy, strategy), end, *numbered, *texts_of])
        if rows:
            caption = f"Answers furthest along the vectors of {trait} at {last}, layer {run.layer}"
            tables.append(Table(caption, head, rows))
    return tables


def _cut(text: object) -> str:
    try:
        said = str(json.loads(str(text)))
    except ValueError:
        said = str(text)
    said = printable(said.strip())
    return said if len(said) <= LONGEST else f"{said[:LONGEST]} …"


def _share(value: float) -> str:
    return "" if not np.isfinite(value) else f"{100 * value:.0f}"


def _signed(value: float, digits: int = 1) -> str:
    return "" if not np.isfinite(value) else f"{value + 0.0:+.{digits}f}".replace("-", "−")


def _whole(value: Any) -> str:
    number = pd.to_numeric(value, errors="coerce")
    return "" if pd.isna(number) else f"{number:.0f}"
