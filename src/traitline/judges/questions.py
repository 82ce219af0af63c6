"""The two questions a language model is asked of every response, and the `Score` that its two answers make.

Knows which prompts belong to a response, when an answer counts as a refusal and when as no score. Leaves wording to
`rubrics.py`, and how an answer comes about to `openai.py` and `local.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from traitline.errors import InputError
from traitline.judges.base import Score, Style, check_one_question_each
from traitline.judges.numbers import Reading
from traitline.judges.rubrics import COHERENCE, fill, trait_prompt
from traitline.traits.trait import Trait

MIN_MASS = 0.25
"""The share of probability (or of samples) on numbers under which a score is missing, unless a judge is told otherwise."""


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked about one response: how strongly it shows the trait, and how coherent it is."""

    trait: str
    coherence: str


def questions_about(trait: Trait, questions: Sequence[str], answers: Sequence[str], style: Style) -> list[Questions]:
    """Return the two questions about each answer, in order.

    Raises:
        InputError: as many questions as answers are needed, and a rubric for `style`.
    """
    check_one_question_each(questions, answers)
    if style not in trait.rubrics:
        raise InputError(f"trait {trait.name!r} has no rubric for style {style!r}; add it under `rubrics`")
    return [
        Questions(trait_prompt(trait.rubrics[style], question, answer), fill(COHERENCE[style], question, answer))
        for question, answer in zip(questions, answers, strict=True)
    ]


def score_from(about_trait: Reading | str, about_coherence: Reading | str, min_mass: float) -> Score:
    """Make a score of two answers, or of what is there instead of one.

    Args:
        about_trait: the answer to the first question, or why there is none.
        about_coherence: the answer to the second, likewise.
        min_mass: the share of probability on numbers that an answer needs.
    """
    refusal = isinstance(about_trait, Reading) and about_trait.refuses(min_mass)
    trait, trait_gap = (0.0, None) if refusal else _number(about_trait, min_mass)
    coherence, coherence_gap = _number(about_coherence, min_mass)
    return Score(trait, coherence, refusal, _reason(trait_gap, coherence_gap))


def _number(answer: Reading | str, min_mass: float) -> tuple[float | None, str | None]:
    """Return a score and why it is missing, one of the two None."""
    if isinstance(answer, str):
        return None, answer
    if answer.mass < min_mass - 1e-9:
        return None, f"only {answer.mass:.2f} of the answer is on numbers"
    return answer.mean, None


def _reason(trait_gap: str | None, coherence_gap: str | None) -> str | None:
    """Say once what holds of both scores, and otherwise which score it holds of."""
    if trait_gap == coherence_gap:
        return trait_gap
    gaps = {"trait": trait_gap, "coherence": coherence_gap}
    return "; ".join(f"{score}: {gap}" for score, gap in gaps.items() if gap)
