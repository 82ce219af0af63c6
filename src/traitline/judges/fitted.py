"""The judge for a trait of one's own: a line fitted to labelled answers, on what the embedded judge reads of them.

Knows the files of a fitted judge and how they score. Leaves fitting to `fitting.py`, the network and coherence to the embedded
judge, `distilled.py`, which also scores the traits that it was trained on. Named `fitted:FOLDER`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from traitline.errors import InputError, JudgeError
from traitline.judges.base import Purpose, Score, Style, check_one_question_each
from traitline.judges.distilled import DistilledJudge, as_scores
from traitline.judges.embedding import Embedder
from traitline.traits.trait import Trait

CARD, LINES = "card.json", "lines.safetensors"
_SHOWN_OF_DIGEST = 8


class Features:
    """What a fitted judge reads of answers: the embedded judge's features, and the sentence embedding beside them.

    Raises:
        JudgeError: the base model is missing.
    """

    def __init__(self) -> None:
        self.judge = DistilledJudge()
        self._embedder: Embedder | None = None

    def read(self, questions: Sequence[str], answers: Sequence[str], purpose: Purpose) -> tuple[Tensor, Tensor]:
        """Return the features [rows, features] and the coherence [rows] of some answers."""
        if self._embedder is None:
            self._embedder = Embedder(self.judge.base)
        heads = self.judge.heads(questions, answers, purpose)
        return torch.cat([heads.features, self._embedder.embed(answers)], dim=1), heads.means[:, -1]


class FittedJudge:
    """Scores one trait as labelled answers taught it (implements `traitline.judges.base.Judge`).

    Args:
        directory: what `fitting.fit_judge` wrote.

    Raises:
        InputError: no fitted judge lies there.
        JudgeError: it was fitted on another version of the embedded judge.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            self.card: dict[str, Any] = json.loads((directory / CARD).read_text(encoding="utf-8"))
            self._lines = load_file(directory / LINES)
        except (OSError, ValueError) as error:
            raise InputError(
                f"no fitted judge lies in {str(directory)!r} ({error}); make one with `traitline judges fit`"
            ) from error
        self._features = Features()
        if self.card["base"] != self._features.judge.name:
            raise JudgeError(
                f"the judge in {str(directory)!r} was fitted on {self.card['base']!r}, and this traitline ships "
                f"{self._features.judge.name!r}; fit it again with `traitline judges fit`"
            )

    @cached_property
    def name(self) -> str:
        """`fitted:`, the trait and the start of the SHA-256 of what was fitted."""
        found = hashlib.sha256((self.directory / LINES).read_bytes()).hexdigest()
        return f"fitted:{self.card['trait']}-{found[:_SHOWN_OF_DIGEST]}"

    @property
    def training_questions(self) -> tuple[str, ...]:
        """The questions whose answers it learned from: gold rows that are to correct it must not be of them."""
        return tuple(self.card["training_questions"])

    def __repr__(self) -> str:
        return f"FittedJudge({self.name!r})"

    def delta_error(self, trait: Trait) -> float:
        """Return the mean absolute error of differences between groups of labelled answers, in points; see `fitting.py`.

        Raises:
            InputError: neither it nor the embedded judge knows the trait.
        """
        return float(self.card["delta_error"]) if self._is_own(trait) else self._features.judge.delta_error(trait)

    def score(
        self,
        trait: Trait,
        questions: Sequence[str],
        answers: Sequence[str],
        *,
        style: Style = "continuation",
        purpose: Purpose = "evaluate",
    ) -> list[Score]:
        """Score each answer; `style` changes nothing. Another trait is left to the embedded judge.

        Raises:
            InputError: neither it nor the embedded judge knows the trait, or there are not as many questions as answers.
            JudgeError: a weight cannot be read.
        """
        if not self._is_own(trait):
            return self._features.judge.score(trait, questions, answers, style=style, purpose=purpose)
        check_one_question_each(questions, answers)
        if not answers:
            return []
        features, coherence = self._features.read(questions, answers, purpose)
        shown = (features @ self._lines[f"{purpose}.weight"] + self._lines[f"{purpose}.start"]).clamp(0, 100)
        error = float(self.card["figures"][purpose]["rmse"])
        return as_scores(answers, shown.tolist(), coherence.tolist(), [error] * len(answers))

    def _is_own(self, trait: Trait) -> bool:
        return bool(trait.name == self.card["trait"])


def make(rest: str, cache: Path | None = None) -> FittedJudge:
    """Return the judge in the folder named after `fitted:`; it keeps nothing.

    Raises:
        InputError: no fitted judge lies there.
        JudgeError: it was fitted on another version of the embedded judge.
    """
    del cache
    if not rest:
        raise InputError("a fitted judge needs its folder, for example fitted:judges/pessimistic")
    return FittedJudge(Path(rest))
