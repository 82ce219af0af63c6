"""Prompt tails: answers that begin with the end of their own prompt, and what the published effects are without them.

When prompts of a batch are padded on the left and the output is cut at the length of the unpadded prompt, each answer begins
with as many tokens of its prompt as there was padding. Knows how to tell such an answer by its text, and recomputes every
comparison that has some. Leaves reading to `answers.py`, tests to `analysis/significance.py`, and which files belong to a
comparison to the table of `significance.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from traitline.analysis.significance import sign_flip
from traitline.published.answers import Answers, Shelf
from traitline.published.release import RESPONSES, Release

SHORTEST = 4
"""Characters from which a tail is one by itself; shorter ones need longer ones in their file, see `tail_lengths`."""
ALPHA = 0.05
MARKER = re.compile(r"<\|[^<>|]*\|>|</?s>|<(?:bos|eos|pad)>|<(?:start|end)_of_turn>")
"""Special tokens, which stand in a stored prompt and are dropped when an answer is decoded."""
IDENTITY = [
    *("model", "run", "trait", "strategy", "extract_revision", "eval_model", "eval_revision", "layer", "coef", "status"),
]
COLUMNS = [
    *IDENTITY,
    *("n_leaking_baseline", "n_leaking_steered", "n_rows_baseline", "n_rows_steered"),
    *("delta_trait", "delta_trait_without", "paired_diff", "paired_diff_without", "p_two_sided", "p_two_sided_without"),
    *("n_questions_without", "conclusion_changes", "paired_diff_replaced", "p_two_sided_replaced"),
]


def tail_lengths(rows: pd.DataFrame) -> NDArray[np.int64]:
    """Return how many characters of the end of its own prompt each answer begins with; 0 where there is no prompt tail.

    The longest proper suffix of the prompt that the answer starts with counts, the prompt with or without its special
    tokens. From four characters it is a tail: where output was cut in the right place, nothing longer than one character
    occurs in tens of thousands of answers. A shorter one, such as the line break that ends a chat prompt, is a tail only in
    a file that has longer ones: what the padding leaks there can be as short as one token.

    Args:
        rows: columns prompt and answer, as texts.
    """
    visible = {prompt: MARKER.sub("", prompt) for prompt in rows["prompt"].unique()}
    lengths = np.array(
        [
            max(_overlap(prompt, answer), _overlap(visible[prompt], answer))
            for prompt, answer in zip(rows["prompt"], rows["answer"], strict=True)
        ],
        dtype=np.int64,
    )
    return lengths if (lengths >= SHORTEST).any() else np.zeros_like(lengths)


def _overlap(prompt: str, answer: str) -> int:
    """Return the length of the longest proper suffix of `prompt` that `answer` starts with."""
    start = max(1, len(prompt) - len(answer))
    while answer and (start := prompt.find(answer[0], start)) >= 0:
        if answer.startswith(prompt[start:]):
            return len(prompt) - start
        start += 1
    return 0


def leak_table(release: Release, significance: pd.DataFrame, shelves: Mapping[str, Shelf]) -> pd.DataFrame:
    """Recompute every comparison with prompt tails without the rows that have them.

    `delta_trait` is over all rows of a side, each once, `paired_diff` and p over the questions left on both sides: without the
    leaking rows the two sides of `delta_trait` may ask different questions, those of `paired_diff` never do. A conclusion
    changes when p crosses .05, or when a significant difference changes its sign; it also changes when no question is left.
    Few questions may be left, so that p rises from lost power alone: `..._replaced` keeps every question, with the scores of
    leaking rows replaced by the mean of the other rows of their side.
    Tails go to the audit, per file and summed up per model; those in extraction answers too.

    Args:
        release: the release.
        significance: the table of `significance.py`.
        shelves: model -> its judged answers.
    """
    records: list[dict[str, Any]] = []
    for model, shelf in shelves.items():
        found = list(_comparisons(significance[significance["model"] == model], shelf))
        _note_files(release, model, (side for one in found for side in (one.baseline, one.steered)))
        _note_extraction(release, model)
        leaking = [one for one in found if one.baseline.leaks.any() or one.steered.leaks.any()]
        own = [_record(one) for one in leaking]
        records += own
        if own:
            text = _summary(pd.DataFrame(own, columns=COLUMNS), found, leaking)
            release.audit.add("prompt_tail", "", len(own), text, model=model)
    return pd.DataFrame(records, columns=COLUMNS)


@dataclass(frozen=True)
class Side:
    """One side of a comparison: its rows, each once, and the length of the prompt tail of each."""

    parts: tuple[Answers, ...]
    rows: pd.DataFrame
    leaks: NDArray[np.int64]  # [rows]


@dataclass(frozen=True)
class Comparison:
    """One row of the significance table whose answers can be read."""

    who: dict[str, Any]
    baseline: Side
    steered: Side

    @property
    def files(self) -> tuple[str, ...]:
        """The files it compares: the same ones are the same comparison, whichever table lists it."""
        return tuple(part.file for side in (self.baseline, self.steered) for part in side.parts)


def _comparisons(significance: pd.DataFrame, shelf: Shelf) -> Iterator[Comparison]:
    lengths: dict[str, NDArray[np.int64]] = {}

    def side(*parts: Answers) -> Side:
        for part in parts:
            if part.file not in lengths:
                lengths[part.file] = tail_lengths(part.rows)
        rows = pd.concat([part.rows for part in parts], ignore_index=True)
        return Side(parts, rows, np.concatenate([lengths[part.file] for part in parts]))

    for record in significance[significance["status"] != "raw_missing"].to_dict("records"):
        traits = str(record["judge_traits"]).split("|")
        baseline = shelf.answers(str(record["baseline_file"]), traits)
        steered = shelf.answers(str(record["steered_file"]), traits)
        if baseline is None or steered is None:
            continue
        more = shelf.extended(str(record["steered_file"]), traits) if "+" in str(record["repeat"]) else None
        who = {name: record[name] for name in IDENTITY}
        yield Comparison(who, side(baseline), side(steered, more) if more is not None else side(steered))


def _record(one: Comparison) -> dict[str, Any]:
    """Return the row of a comparison: with and without its leaking rows."""
    whole = _effect(one.baseline.rows, one.steered.rows)
    kept = [side.rows[side.leaks == 0] for side in (one.baseline, one.steered)]
    without = _effect(*kept)
    replaced = _effect(_replaced(one.baseline), _replaced(one.steered))
    return {
        **one.who,
        "n_leaking_baseline": int((one.baseline.leaks > 0).sum()),
        "n_leaking_steered": int((one.steered.leaks > 0).sum()),
        "n_rows_baseline": len(one.baseline.rows),
        "n_rows_steered": len(one.steered.rows),
        "delta_trait": whole.delta,
        "delta_trait_without": without.delta,
        "paired_diff": whole.paired,
        "paired_diff_without": without.paired,
        "p_two_sided": whole.p,
        "p_two_sided_without": without.p,
        "n_questions_without": without.n_questions,
        "conclusion_changes": whole.conclusion != without.conclusion,
        "paired_diff_replaced": replaced.paired,
        "p_two_sided_replaced": replaced.p,
    }


@dataclass(frozen=True)
class Effect:
    """Steered minus baseline: over all rows, over questions, and the two-sided p of the latter."""

    delta: float
    paired: float
    p: float
    n_questions: int

    @property
    def conclusion(self) -> int | None:
        """1 or -1 for a significant difference with that sign, 0 for none; None where there was nothing to test."""
        if math.isnan(self.p):
            return None
        return int(math.copysign(1, self.paired)) if self.p < ALPHA else 0


def _effect(baseline: pd.DataFrame, steered: pd.DataFrame) -> Effect:
    delta = float(steered["trait_score"].mean() - baseline["trait_score"].mean())
    means = [side.groupby("question")["trait_score"].mean() for side in (steered, baseline)]
    differences = (means[0] - means[1]).dropna().to_numpy(dtype=np.float64)
    if not differences.size:
        return Effect(delta, math.nan, math.nan, 0)
    return Effect(delta, float(differences.mean()), sign_flip(differences).p_two_sided, differences.size)


def _replaced(side: Side) -> pd.DataFrame:
    """Return the rows of a side, the trait scores of leaking ones replaced by the mean of the others."""
    scores = side.rows["trait_score"]
    return side.rows.assign(trait_score=scores.where(side.leaks == 0, scores[side.leaks == 0].mean()))


def _note_files(release: Release, model: str, sides: Iterable[Side]) -> None:
    """Put the files with prompt tails, and those without prompts, into the audit, each once."""
    seen: set[str] = set()
    for side in sides:
        start = 0
        for part in side.parts:
            leaks = side.leaks[start : (start := start + part.n)]
            if part.file not in seen:
                seen.add(part.file)
                _note(release, model, part.file, part.rows, leaks, "the judge scored it as part of the answer")


def _note_extraction(release: Release, model: str) -> None:
    """Look for prompt tails in the answers that vectors were made from; files that cannot be read are noted elsewhere."""
    consequence = "it counts as response in the activations the vector is made from"
    for path in sorted((release.root / RESPONSES / "extract" / model).rglob("*.csv")):
        rows = _texts(path)
        if rows is not None:
            _note(release, model, release.file(path), rows, tail_lengths(rows), consequence)


def _texts(path: Path) -> pd.DataFrame | None:
    try:
        return pd.read_csv(path, usecols=["prompt", "answer"], dtype=str, keep_default_na=False)
    except (OSError, ValueError):
        return None


def _note(release: Release, model: str, file: str, rows: pd.DataFrame, leaks: NDArray[np.int64], consequence: str) -> None:
    nameless = int((rows["prompt"] == "").sum())
    if nameless:
        text = "no prompt is given, so whether these answers begin with the end of theirs cannot be said"
        release.audit.add("missing_prompts", file, nameless, text, model=model)
    count = int((leaks > 0).sum())
    if count:
        blank = sum(not answer[:n].strip() for answer, n in zip(rows["answer"], leaks, strict=True) if n)
        invisible = f", {blank} of them with white space only" if blank else ""
        size = f"{leaks[leaks > 0].min()} to {leaks.max()} characters"
        text = f"{count} of {len(rows)} answers begin with the end of their prompt ({size}{invisible}); {consequence}"
        release.audit.add("prompt_tail", file, count, text, model=model)


def _summary(table: pd.DataFrame, found: Sequence[Comparison], leaking: Sequence[Comparison]) -> str:
    """Say in words how far the effects move, each comparison once, and how the scores of leaking rows differ."""
    once = {one.files: i for i, one in reversed(list(enumerate(leaking)))}
    table = table.iloc[sorted(once.values())]
    moves = (table["delta_trait_without"] - table["delta_trait"]).abs()
    paired = (table["paired_diff_without"] - table["paired_diff"]).abs()
    left = table["n_questions_without"]
    before, without, replaced = (table[f"p_two_sided{name}"] < ALPHA for name in ("", "_without", "_replaced"))
    powerless = int((2.0 ** (1 - left) >= ALPHA).sum())
    return (
        f"{len(table)} of {len({one.files for one in found})} comparisons have answers that begin with the end of their "
        f"prompt. Without those rows the delta moves by {moves.median():.2g} points (median; largest {moves.max():.3g}), the "
        f"paired difference by {paired.median():.2g} (largest {paired.max():.3g}), over the {left.min()} to {left.max()} "
        f"questions left. At p < {ALPHA:g}, {int(table['conclusion_changes'].sum())} conclusions change: "
        f"{int((before & ~without).sum())} lose significance, {int((~before & without).sum())} gain it; {powerless} could not "
        f"reach it with so few questions. With every question kept and the leaking scores replaced by the mean of the others, "
        f"{int((before & ~replaced).sum())} lose and {int((~before & replaced).sum())} gain it. {_scores(leaking)}"
    )


def _scores(leaking: Iterable[Comparison]) -> str:
    """Say how the baseline rows with a tail were scored, against the others and against what their questions explain."""
    sides = {side.parts[0].file: side for one in leaking for side in (one.baseline,) if (side.leaks > 0).any()}
    if not sides:
        return "All of them are steered answers."
    rows = pd.concat([side.rows.assign(leaks=side.leaks > 0) for side in sides.values()], ignore_index=True)
    means = rows.groupby("leaks")[["trait_score", "coherence"]].mean().reindex([True, False])
    scores = {name: means[column].tolist() for name, column in (("trait", "trait_score"), ("coherence", "coherence"))}
    parts = [f"{name} {tail:.3g} against {other:.3g}" for name, (tail, other) in scores.items()]
    counts = f"{int(rows['leaks'].sum())} baseline rows with a tail against {int((~rows['leaks']).sum())} without"
    shifts = [shift for one in leaking for shift in _shift(one)]
    beyond = f"; beyond what the same questions show when steered, coherence shifts by {np.mean(shifts):+.2g}" if shifts else ""
    return f"Mean scores of the {counts}: {', '.join(parts)}{beyond}."


def _shift(one: Comparison) -> list[float]:
    """Return how much less coherent leaking baseline rows are than others, minus the same difference of the steered rows."""
    questions = set(one.baseline.rows.loc[one.baseline.leaks > 0, "question"])
    gaps = []
    for side in (one.baseline, one.steered):
        within = side.rows["question"].isin(questions)
        coherence = side.rows["coherence"].groupby(within).mean()
        gaps.append(float(coherence.get(True, math.nan) - coherence.get(False, math.nan)))
    shift = gaps[0] - gaps[1]
    return [] if math.isnan(shift) else [shift]
