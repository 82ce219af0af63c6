"""The judge protocol: what every judge takes and returns, and how a judge is found by its name.

Knows `Score`, the `Judge` protocol and the registry of judge kinds. Leaves each kind to its own module (`openai.py`,
`traitline.nano.judge`), imported only when asked for, so that scoring on nano never imports an HTTP client.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

from traitline.errors import InputError, nearest
from traitline.traits.trait import Trait

UNAVAILABLE = "unavailable"
"""The reason for a missing score where the judge gave no answer: a study asks once more for what has it."""
Style = Literal["continuation", "chat"]
Purpose = Literal["accept", "evaluate"]


@dataclass(frozen=True, slots=True)
class Score:
    """What a judge says of one response.

    Attributes:
        trait: how strongly the response shows the trait, 0 to 100; None only where the judge itself failed.
        coherence: how well-formed and on-topic the response is, 0 to 100; None only where the judge itself failed.
        refusal: the model declined to answer (scored all the same).
        missing_reason: why a score is None, in a few words.
        uncertainty: standard error of `trait` in points, where the judge can state one.
        flagged: the response's wording tries to tell a judge what to say (looked for where the judge could be talked to).
    """

    trait: float | None
    coherence: float | None
    refusal: bool = False
    missing_reason: str | None = None
    uncertainty: float | None = None
    flagged: bool = False


class Judge(Protocol):
    """Anything that scores responses.

    `name` is what result files say in their `judge` column. `purpose` tells a judge what its scores are for: with `accept`
    they decide which rows a vector is made from, with `evaluate` they are what is reported. A judge that could reward its
    own errors uses disjoint parts of itself for the two; other judges ignore it.
    """

    @property
    def name(self) -> str:
        """The name written beside every score."""
        ...

    def score(
        self,
        trait: Trait,
        questions: Sequence[str],
        answers: Sequence[str],
        *,
        style: Style = "continuation",
        purpose: Purpose = "evaluate",
    ) -> list[Score]:
        """Score `answers[i]`, given in reply to `questions[i]`, on one trait's rubric and on coherence.

        Returns:
            One `Score` per answer, in order.

        Raises:
            JudgeError: the judge cannot be used at all. One bad answer never raises: its score is missing, with a reason.
        """
        ...


def check_one_question_each(questions: Sequence[str], answers: Sequence[str]) -> None:
    """Refuse lists of different lengths.

    Raises:
        InputError: there are not as many questions as answers.
    """
    if len(questions) != len(answers):
        raise InputError(f"{len(questions)} questions but {len(answers)} answers; give one question per answer")


@runtime_checkable
class Annotator(Protocol):
    """A judge that also tells which facets of a trait a response shows."""

    def annotate(self, trait: Trait, questions: Sequence[str], answers: Sequence[str]) -> list[frozenset[str] | None]:
        """Return, per answer, the names of the trait's facets that it shows; None where the judge itself failed."""
        ...


@runtime_checkable
class StatesError(Protocol):
    """A judge that knows how far off the effects are that it measures."""

    def delta_error(self, trait: Trait) -> float | None:
        """Return the mean absolute error, in points, of steering deltas on one trait; None where that was not measured."""
        ...


# kind -> "module:factory"; the factory takes what follows the colon in the judge's name ("" where nothing does), and where
# its cache may lie (None: keep nothing).
KINDS: dict[str, str] = {
    "nano": "traitline.nano.judge:make",
    "words": "traitline.judges.words:make",
    "distilled": "traitline.judges.distilled:make",
    "zeroshot": "traitline.judges.zeroshot:make",
    "fitted": "traitline.judges.fitted:make",
    "local": "traitline.judges.local:make",
    "openai": "traitline.judges.openai:make",
    "labels": "traitline.judges.labels:make",
}


def default_judge(lineage: str = "") -> str:
    """Return the name of the judge of a study that names none: the exact one on the embedded lineage, else the embedded one."""
    return "nano" if lineage == "nano" else "distilled"


def make_judge(name: str, cache: Path | None = None, **options: Any) -> Judge:
    """Return the judge called `name`: `nano`, or a kind and a model such as `openai:gpt-4.1-mini`.

    Args:
        name: kind, and after a colon what that kind needs to know.
        cache: SQLite file in which a judge by API or a local model keeps every judgement, so that none is made twice.
        options: what `OpenAIJudge` takes, for a judge by API: batch, budget_usd, samples and others.

    Raises:
        InputError: no such kind of judge, or options for one that takes none.
        JudgeError: the judge exists but cannot be used, for example without a key.
    """
    kind, _, rest = name.partition(":")
    if kind not in KINDS:
        raise InputError(f"no judge is called {name!r}; {nearest(kind, KINDS)}")
    if options and kind != "openai":
        raise InputError(f"judge {name!r} takes no options, but was given {', '.join(options)}; only openai:<model> takes some")
    module, _, factory = KINDS[kind].partition(":")
    return cast(Judge, getattr(importlib.import_module(module), factory)(rest, cache, **options))
