"""The judge for a trait that nothing was trained on: how near an answer lies to the trait's own texts. Poor, and says so.

Knows two likenesses of an answer: to the trait's description, and to its positive more than to its negative instructions.
Leaves embeddings to `embedding.py`, coherence to the embedded judge, and how the two are weighed and how far off they are to
`training/zeroshot.py`, which measured it on four traits, each scored as if it were unknown (`data/zeroshot.json`).

Scores are spread as widely as an API judge's, so that some reach 50; steering deltas come out too small all the same.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from traitline.errors import InputError
from traitline.judges.base import Purpose, Score, Style, check_one_question_each
from traitline.judges.distilled import DistilledJudge, as_scores
from traitline.judges.embedding import Embedder
from traitline.traits.trait import Trait

CARD = Path(__file__).parent / "data" / "zeroshot.json"


class ZeroShotJudge:
    """Scores responses by their likeness to a trait's texts (implements `traitline.judges.base.Judge`).

    Raises:
        JudgeError: the base model is missing.
    """

    def __init__(self) -> None:
        self._coherence = DistilledJudge()
        self._embedder: Embedder | None = None
        self._warned: set[str] = set()

    @cached_property
    def card(self) -> dict[str, Any]:
        """Its weights, and how it did on each trait that was left out when they were found."""
        loaded: dict[str, Any] = json.loads(CARD.read_text(encoding="utf-8"))
        return loaded

    @property
    def name(self) -> str:
        """`zeroshot:` and its version."""
        return f"zeroshot:{self.card['version']}"

    def __repr__(self) -> str:
        return f"ZeroShotJudge({self.name!r})"

    def delta_error(self, trait: Trait) -> float:
        """Return the largest error of a steering delta, in points, that was seen on a trait left out."""
        del trait
        return float(max(figures["delta_worst"] for figures in self.card["left_out"].values()))

    def score(
        self,
        trait: Trait,
        questions: Sequence[str],
        answers: Sequence[str],
        *,
        style: Style = "continuation",
        purpose: Purpose = "evaluate",
    ) -> list[Score]:
        """Score each answer; `style` changes nothing. Warns once per trait of how poor these scores are.

        Raises:
            InputError: there are not as many questions as answers.
            JudgeError: a weight cannot be read.
        """
        check_one_question_each(questions, answers)
        self._warn(trait)
        if not answers:
            return []
        likenesses = self.likenesses(trait, answers)  # [rows, 2]
        weights, start = self.card["weights"], self.card["start"]
        shown = (likenesses @ likenesses.new_tensor(weights) + start).clamp(0, 100).tolist()
        coherence = self._coherence.heads(questions, answers, purpose).means[:, -1].tolist()
        error = max(figures["rmse"] for figures in self.card["left_out"].values())
        return as_scores(answers, shown, coherence, [error] * len(answers))

    def likenesses(self, trait: Trait, answers: Sequence[str]) -> Tensor:
        """Return [rows, 2]: the cosine to the description, and the place between the negative and positive instructions.

        The second is measured from the middle between them, along the line that joins their means.
        """
        if self._embedder is None:
            self._embedder = Embedder(self._coherence.base)
        contrasts = [contrast for texts in trait.strategies.values() for contrast in texts.contrasts]
        positive = self._embedder.embed([contrast.positive for contrast in contrasts]).mean(0)
        negative = self._embedder.embed([contrast.negative for contrast in contrasts]).mean(0)
        line = (positive - negative) / (positive - negative).norm().clamp(min=1e-9)
        described = self._embedder.embed([trait.description])[0]
        points = self._embedder.embed(answers)
        return torch.stack([points @ described, (points - (positive + negative) / 2) @ line], dim=1)

    def _warn(self, trait: Trait) -> None:
        if trait.name in self._warned:
            return
        self._warned.add(trait.name)
        rows = [figures["r"] for figures in self.card["left_out"].values()]
        deltas = [figures["delta_r"] for figures in self.card["left_out"].values()]
        warnings.warn(
            f"the judge 'zeroshot' only compares answers with the texts of {trait.name!r}: on traits it was not fitted on, its "
            f"scores correlate {min(rows):.2f} to {max(rows):.2f} with an API judge's, its deltas {min(deltas):.2f} to "
            f"{max(deltas):.2f}; try a study out with it, and conclude with openai:<model>, local:<model>, or a judge made by "
            "`traitline judges fit`",
            stacklevel=3,
        )


def make(rest: str = "", cache: Path | None = None) -> ZeroShotJudge:
    """Return the judge; it takes nothing after its name but the version, and keeps nothing.

    Raises:
        InputError: another version is asked for.
        JudgeError: the base model is missing.
    """
    del cache
    judge = ZeroShotJudge()
    if rest and judge.name != f"zeroshot:{rest}":
        raise InputError(f"this traitline has the judge {judge.name!r}, not 'zeroshot:{rest}'; write just 'zeroshot'")
    return judge
