"""What the name of a revision says: its step, its tokens, its stage, by the rules of a lineage file or by habit alone.

Knows how a stage of training names the checkpoints it saved, and how many of them lie between two steps, without listing them.
Leaves to `rules.py` how stages follow one another, and to `patterns.py` how rules are found in a list of names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from heapq import nsmallest
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Step = Annotated[int, Field(ge=0)]
Rounding = Literal["up", "nearest", "down"]

STEP = r"(?P<step>[0-9]{1,15})"
AMOUNT = r"(?P<amount>[0-9]{1,15}(?:\.[0-9]{1,9})?)(?P<unit>[KMBT])"
UNITS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def token_count(amount: str, unit: str | None) -> int:
    """Return the tokens that `210B`, `1.5T` or, without a unit, a plain number stands for."""
    return round(float(amount) * UNITS[unit]) if unit else round(float(amount))


def in_billions(tokens: int, rounding: Rounding) -> int:
    """Return whole billions of tokens, rounded as names round them."""
    if rounding == "up":
        return -(-tokens // UNITS["B"])
    return (tokens + (UNITS["B"] // 2 if rounding == "nearest" else 0)) // UNITS["B"]


class StageRule(BaseModel):
    """One stage of training whose checkpoints were saved at regular steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Text
    pattern: Text
    """The revision's name, with `{step}` where the step number stands, and `{tokens}` where those of the stage do, in whole
    billions: `12B`."""
    tokens_per_step: Annotated[int, Field(gt=0)] | None = None
    last_step: Step
    first_step: Step = 0
    every: Annotated[int, Field(gt=0)]
    also: tuple[Step, ...] = ()
    """Saved steps beside the multiples of `every`; the last step need not be named."""
    absent: tuple[Step, ...] = ()
    """Steps that one would expect, and that are not there."""
    digits: Annotated[int, Field(ge=0, le=15)] = 0
    """Fewer digits than this are filled up with zeros: `iter_0001` has 4."""
    rounding: Rounding = "up"
    """How the tokens in a name were rounded."""
    cumulative: bool = False
    """The steps count from the beginning of training, not of the stage."""
    begins_at: Annotated[int, Field(ge=0)] | None = None
    """Tokens trained before it, where the stages before it do not tell them."""
    parallel_to: Text | None = None
    """A stage that began at the same point, of which this is another run: no grid takes checkpoints from here."""

    @field_validator("pattern")
    @classmethod
    def _one_step(cls, pattern: str) -> str:
        if pattern.count("{step}") != 1 or pattern.count("{tokens}") > 1:
            raise ValueError("must hold {step} once, and {tokens} at most once")
        return pattern

    @model_validator(mode="after")
    def _ordered(self) -> StageRule:
        if self.first_step > self.last_step:
            raise ValueError(f"first_step {self.first_step} lies after last_step {self.last_step}")
        if "{tokens}" in self.pattern and self.tokens_per_step is None:
            raise ValueError("a pattern with {tokens} needs tokens_per_step")
        return self

    def revision(self, step: int) -> str:
        """Name the revision of one step."""
        name = self.pattern.replace("{step}", f"{step:0{self.digits}d}")
        if self.tokens_per_step is None:
            return name
        return name.replace("{tokens}", f"{in_billions(step * self.tokens_per_step, self.rounding)}B")

    def step_of(self, revision: str) -> int | None:
        """Return the step a name stands for, saved or not; None where the name is not of this stage."""
        expression = re.escape(self.pattern).replace(re.escape("{step}"), STEP).replace(re.escape("{tokens}"), AMOUNT)
        match = re.fullmatch(expression, revision)
        return int(match["step"]) if match else None

    def saved(self, step: int) -> bool:
        """Tell whether a step was saved."""
        regular = self.first_step <= step <= self.last_step and step % self.every == 0
        return (regular or step == self.last_step or step in self.also) and step not in self.absent

    def nearest_steps(self, step: int, n: int = 3, *, low: int = -1, high: int | None = None) -> list[int]:
        """Return the `n` saved steps closest to a step, in order, of those strictly between `low` and `high`."""
        start, reach = min(max(step, self.first_step), self.last_step) // self.every, n + len(self.absent)
        around = (k * self.every for k in range(start - reach, start + reach + 1))
        within = (k for k in (*around, *self.also, self.last_step) if low < k and (high is None or k < high))
        return sorted(nsmallest(n, {k for k in within if self.saved(k)}, lambda k: abs(k - step)))

    def count(self, low: int, high: int) -> int:
        """Count the saved steps strictly between two steps."""
        first, last = max(self.first_step, low + 1), min(self.last_step, high - 1)
        regular = max(0, last // self.every - (first - 1) // self.every)
        others = {k for k in {*self.also, self.last_step} if low < k < high and self.saved(k)}
        regular -= sum(k % self.every == 0 and first <= k <= last for k in {*self.absent})
        return regular + sum(k % self.every != 0 or not first <= k <= last for k in others)


class CountedRule(BaseModel):
    """Revisions whose names carry their cumulative token count."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    pattern: Text
    """The revision's name, with `{tokens}` for a number and unit (K, M, B, T), and `{step}` where a step number stands."""
    stage: Text | None = None
    saved: tuple[Text, ...] = ()
    """Names that are known to exist, of which a grid is made. A study may name others that fit the pattern."""

    @field_validator("pattern")
    @classmethod
    def _one_count(cls, pattern: str) -> str:
        if pattern.count("{tokens}") != 1 or pattern.count("{step}") > 1:
            raise ValueError("must hold {tokens} once, and {step} at most once")
        return pattern

    @model_validator(mode="after")
    def _fitting(self) -> CountedRule:
        if stray := [name for name in self.saved if self.tokens_of(name) is None]:
            raise ValueError(f"saved holds {stray[0]!r}, which does not fit the pattern {self.pattern!r}")
        return self

    def tokens_of(self, revision: str) -> int | None:
        """Return the tokens a name carries; None where the name does not fit the pattern."""
        expression = re.escape(self.pattern).replace(re.escape("{tokens}"), AMOUNT).replace(re.escape("{step}"), STEP)
        match = re.fullmatch(expression, revision)
        return token_count(match["amount"], match["unit"]) if match else None


@dataclass(frozen=True, slots=True)
class NameParts:
    """What a directory's name says of its place in training."""

    stage: int | None
    step: int | None
    tokens: int | None

    @classmethod
    def of(cls, name: str) -> NameParts:
        """Read `stage2-step1000`, `checkpoint-500`, `step100-tokens210B` and the like."""
        stage = re.search(r"stage[-_]?([0-9]{1,3})", name, re.IGNORECASE)
        step = re.search(r"(?:step|checkpoint|ckpt|iter)s?[-_]?" + STEP, name, re.IGNORECASE)
        tokens = re.search(r"tokens[-_]?" + AMOUNT + r"?(?![A-Za-z0-9])", name)
        return cls(
            int(stage[1]) if stage else None,
            int(step["step"]) if step else None,
            token_count(tokens["amount"], tokens["unit"]) if tokens else None,
        )
