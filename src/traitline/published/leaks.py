"""Prompt tails: answers that begin with the end of their own prompt, and what the published effects are without them.

When prompts of a batch are padded on the left and the output is cut at the length of the unpadded prompt, each answer begins
with as many tokens of its prompt as there was padding. Knows how to tell such an answer by its text, and recomputes every
comparison that has some. Leaves reading to `answers.py`, tests to `analysis/significance.py`, and which rows belong to a
comparison to `comparisons.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from traitline.analysis.significance import sign_flip
from traitline.published.answers import Shelf
from traitline.published.comparisons import ALPHA, Comparison, Side, comparisons
from traitline.published.release import RESPONSES, Release
from traitline.published.significance import paired_differences

SHORTEST = 4
"""Characters from which a tail is one by itself; shorter ones need longer ones in their file, see `tail_lengths`."""
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
        tails: Tails = {}
        found = [_marked(one, tails) for one in comparisons(significance[significance["model"] == model], shelf)]
        parts = {part.file: part for one in found for side in one.sides for part in side.parts}
        for file, part in parts.items():
            _note(release, model, file, part.rows, tails[file], "the judge scored it as part of the answer")
        _note_extraction(release, model)
        leaking = [one for one in found if any(side.rows["tail"].any() for side in one.sides)]
        own = [_record(one) for one in leaking]
        records += own
        if own:
            text = _summary(pd.DataFrame(own, columns=COLUMNS), found, leaking, tails)
            release.audit.add("prompt_tail", "", len(own), text, model=model)
    return pd.DataFrame(records, columns=COLUMNS)


Tails = dict[str, NDArray[np.int64]]
"""The length of the prompt tail of every row of a file, by its name."""


def _marked(one: Comparison, tails: Tails) -> Comparison:
    """Return a comparison whose rows have a column `tail`, its length; files not met before are looked through."""
    for part in (part for side in one.sides for part in side.parts):
        if part.file not in tails:
            tails[part.file] = tail_lengths(part.rows)
    baseline, steered = (
        replace(side, rows=side.rows.assign(tail=np.concatenate([tails[part.file] for part in side.parts])))
        for side in one.sides
    )
    return replace(one, baseline=baseline, steered=steered)


def _record(one: Comparison) -> dict[str, Any]:
    """Return the row of a comparison: with and without its leaking rows."""
    whole = _effect(one.baseline.rows, one.steered.rows)
    without = _effect(*(side.rows[side.rows["tail"] == 0] for side in one.sides))
    replaced = _effect(_replaced(one.baseline), _replaced(one.steered))
    return {
        **{name: one.row[name] for name in IDENTITY},
        "n_leaking_baseline": int((one.baseline.rows["tail"] > 0).sum()),
        "n_leaking_steered": int((one.steered.rows["tail"] > 0).sum()),
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
    differences = paired_differences(baseline, steered).to_numpy(dtype=np.float64)
    if not differences.size:
        return Effect(delta, math.nan, math.nan, 0)
    return Effect(delta, float(differences.mean()), sign_flip(differences).p_two_sided, differences.size)


def _replaced(side: Side) -> pd.DataFrame:
    """Return the rows of a side, the trait scores of leaking ones replaced by the mean of the others."""
    scores, sound = side.rows["trait_score"], side.rows["tail"] == 0
    return side.rows.assign(trait_score=scores.where(sound, scores[sound].mean()))


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


def _summary(table: pd.DataFrame, found: Sequence[Comparison], leaking: Sequence[Comparison], tails: Tails) -> str:
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
        f"{int((before & ~replaced).sum())} lose and {int((~before & replaced).sum())} gain it. {_scores(leaking, tails)}"
    )


def _scores(leaking: Sequence[Comparison], tails: Tails) -> str:
    """Say how the baseline rows with a tail were scored, against the others and against what their questions explain."""
    sides = [one.baseline for one in leaking if one.baseline.rows["tail"].any()]
    parts = {part.file: part for side in sides for part in side.parts}
    if not parts:
        return "All of them are steered answers."
    frames = [part.rows.assign(leaks=tails[file] > 0) for file, part in parts.items()]
    rows = pd.concat(frames, ignore_index=True)
    means = rows.groupby("leaks")[["trait_score", "coherence"]].mean().reindex([True, False])
    scores = {name: means[column].tolist() for name, column in (("trait", "trait_score"), ("coherence", "coherence"))}
    words = [f"{name} {tail:.3g} against {other:.3g}" for name, (tail, other) in scores.items()]
    counts = f"{int(rows['leaks'].sum())} baseline rows with a tail against {int((~rows['leaks']).sum())} without"
    shifts = [shift for one in leaking for shift in _shift(one)]
    beyond = f"; beyond what the same questions show when steered, coherence shifts by {np.mean(shifts):+.2g}" if shifts else ""
    return f"Mean scores of the {counts}: {', '.join(words)}{beyond}."


def _shift(one: Comparison) -> list[float]:
    """Return how much less coherent leaking baseline rows are than others, minus the same difference of the steered rows."""
    questions = set(one.baseline.rows.loc[one.baseline.rows["tail"] > 0, "question"])
    gaps = []
    for side in one.sides:
        within = side.rows["question"].isin(questions)
        coherence = side.rows["coherence"].groupby(within).mean()
        gaps.append(float(coherence.get(True, math.nan) - coherence.get(False, math.nan)))
    shift = gaps[0] - gaps[1]
    return [] if math.isnan(shift) else [shift]
