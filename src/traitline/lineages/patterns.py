"""Rules found in a list of names: what the branches of a model on a hub say of its training, if they say it regularly.

Knows how the names of checkpoints are commonly built, and turns those of one pattern into a stage with its spacing and, where
the names carry tokens, the tokens of one step. Every rule gives back exactly the names it was found in; what fits none is told.
Leaves where the names come from to `refresh.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from traitline.errors import InputError
from traitline.lineages.lineage import safe_name
from traitline.lineages.stages import UNITS, CountedRule, Rounding, StageRule, token_count

WORD = re.compile(
    r"(?<![A-Za-z])(?:global[-_]?step|step|iteration|iter|checkpoint|ckpt)s?[-_]?(?P<step>[0-9]{1,15})(?![0-9.])", re.I
)
TOKENS = re.compile(
    r"(?<![0-9A-Za-z.])(?:tokens?[-_]?)?(?P<amount>[0-9]{1,15}(?:\.[0-9]{1,9})?)(?P<unit>[KMBT])(?=T?(?![0-9A-Za-z]))"
)
ONLY = "pretraining"
"""What a stage is called whose names do not say it."""
ROUNDINGS: tuple[Rounding, ...] = ("up", "nearest", "down")


@dataclass(frozen=True, slots=True)
class Named:
    """What one name says.

    Attributes:
        name: the name.
        pattern: the same with `{step}` and `{tokens}` in the place of numbers.
        step: the step as written, zeros in front included.
        amount: the number of tokens as written, without unit.
        unit: the unit of that.
    """

    name: str
    pattern: str
    step: str | None
    amount: str | None
    unit: str | None

    @property
    def stage(self) -> str:
        """The part of the name in front of what is counted."""
        word = WORD.search(self.name)
        counted = word or TOKENS.search(self.name)
        return self.name[: counted.start() if counted else 0].strip("-_. ") or ONLY

    @property
    def tokens(self) -> int | None:
        """The tokens it carries."""
        return token_count(self.amount, self.unit) if self.amount is not None else None


def read_name(name: str) -> Named | None:
    """Read one name; None where it says neither step nor tokens, or more after them, or cannot become a folder."""
    try:
        safe_name(name)
    except InputError:
        return None
    step = WORD.search(name)
    tokens = TOKENS.search(name, step.end() if step else 0)
    end = max(found.end() for found in (step, tokens) if found) if step or tokens else None
    if end is None or name[end:] not in {"", "T"} or not set("{}").isdisjoint(name):
        return None
    pattern = name
    if tokens:
        pattern = pattern[: tokens.start("amount")] + "{tokens}" + pattern[tokens.end("unit") :]
    if step:
        pattern = pattern[: step.start("step")] + "{step}" + pattern[step.end("step") :]
    return Named(
        name, pattern, step["step"] if step else None, *((tokens["amount"], tokens["unit"]) if tokens else (None, None))
    )


@dataclass
class Found:
    """Fields of a lineage file, and what is to be said of them."""

    stages: list[dict[str, Any]] = field(default_factory=list)
    counted: dict[str, Any] | None = None
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def last_stage(self) -> str | None:
        """The last stage of the main line."""
        return next((one["name"] for one in reversed(self.stages) if "parallel_to" not in one), None)


def find_rules(names: Iterable[str]) -> Found:
    """Find the rules of a list of names, stages in their likely order."""
    found = Found()
    groups: dict[str, list[Named]] = {}
    for name in dict.fromkeys(names):
        one = read_name(name)
        if one is None:
            found.strange.append(name)
        else:
            groups.setdefault(one.pattern, []).append(one)
    ordered = sorted(groups.values(), key=lambda group: _order(group[0].stage))
    labels = Counter(group[0].stage for group in ordered)
    for group in ordered:
        label = group[0].stage if labels[group[0].stage] == 1 else group[0].pattern.replace("{", "").replace("}", "")
        if group[0].step is None or not _as_stage(found, label, group):
            _as_list(found, label, group)
    for before, after in pairwise([one for one in found.stages if "parallel_to" not in one]):
        if _first(after) > before["last_step"]:
            after["cumulative"] = True
            found.notes.append(f"The steps of {after['name']} are taken to count from the beginning of training.")
        else:
            found.notes.append(f"The steps of {after['name']} are taken to begin anew after {before['name']}.")
    if found.stages and found.counted is not None:
        rule = CountedRule.model_validate(found.counted)
        found.stages[0]["begins_at"] = max(rule.tokens_of(name) or 0 for name in rule.saved)
        found.notes.append(f"The stage {found.stages[0]['name']} is taken to follow {rule.stage}.")
    if unknown := [one["name"] for one in found.stages if "tokens_per_step" not in one]:
        found.notes.append(f"The names of {', '.join(unknown)} do not tell the tokens of one step: add tokens_per_step.")
    return found


def _order(stage: str) -> tuple[int, int, list[tuple[int, str]]]:
    """Put stages in their likely order: unnamed ones, numbered ones by their number, others."""
    number = re.match(r"(?:stage|phase)[-_]?([0-9]{1,3})", stage, re.IGNORECASE)
    parts = [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"([0-9]{1,15})", stage)]
    return (0 if stage == ONLY else 1 if number else 2), int(number[1]) if number else 0, parts


def _first(stage: dict[str, Any]) -> int:
    steps: list[int] = [stage.get("first_step", 0), *stage.get("also", ())]
    return min(steps)


def _as_stage(found: Found, label: str, group: Sequence[Named]) -> bool:
    """Describe a group by the rule of a stage, if there is one that gives back its names. Returns whether there is."""
    steps = {int(one.step or 0): one for one in group}
    last = max(steps)
    fields: dict[str, Any] = {"name": label, "pattern": group[0].pattern}
    run = re.match(r"(.*ingredient)[-_]?[0-9]+$", label)
    if main := next((one["name"] for one in found.stages if run and one["name"].startswith(run[1])), None):
        fields["parallel_to"] = main
    odd: Named | None = None
    if group[0].amount is not None:
        per = _per_step(found, group, [one for step, one in steps.items() if step != last])
        if per is None or any(one.unit != "B" or "." in (one.amount or "") for one in group):
            return False
        fields |= {"tokens_per_step": per[0]} | ({"rounding": per[1]} if per[1] != "up" else {})
    padded = {len(one.step) for one in group if one.step and len(one.step) > 1 and one.step.startswith("0")}
    fields |= {"digits": max(padded)} if padded else {}
    fields |= _spacing(set(steps))
    rule = StageRule.model_validate(fields)
    if rule.revision(last) != steps[last].name:
        odd = steps[last]
        fields["absent"] = [*fields.get("absent", ()), last]
        rule = StageRule.model_validate(fields)
    if len(steps) < len(group) or any(
        not rule.saved(s) or rule.revision(s) != one.name for s, one in steps.items() if one != odd
    ):
        return False
    found.stages.append(fields)
    if odd is not None:
        found.checkpoints.append({"name": odd.name, "end_of": label})
    return True


def _per_step(found: Found, group: Sequence[Named], but_last: Sequence[Named]) -> tuple[int, Rounding] | None:
    """Return the tokens of one step and their rounding, of all names or of all but the last, which may be rounded by hand.

    What holds in an earlier stage goes before a number that is less round.
    """
    whole, part = tokens_per_step(group), tokens_per_step(but_last)
    earlier = {one.get("tokens_per_step") for one in found.stages}
    if whole is None or (part is not None and part[0] in earlier and _odd_part(part[0]) < _odd_part(whole[0])):
        return part
    return whole


def _as_list(found: Found, label: str, group: Sequence[Named]) -> None:
    """List the names of a group one by one: under a pattern with tokens if it is the first such, else as checkpoints."""
    group = sorted(group, key=lambda one: (one.tokens or 0, int(one.step or 0)))
    if group[0].amount is not None and found.counted is None and not found.stages:
        found.counted = {"pattern": group[0].pattern, "stage": label, "saved": [one.name for one in group]}
        return
    for one in group:
        told = {"tokens": one.tokens} if one.tokens is not None and not found.stages else {}
        found.checkpoints.append({"name": one.name, **told, "stage": label})
    found.notes.append(f"The names of {label} follow no rule, so they are listed; check their tokens and their place.")


def _spacing(steps: set[int]) -> dict[str, Any]:
    """Describe a set of steps by their spacing, and what differs from it."""
    ordered = sorted(steps)
    last = ordered[-1]
    gaps = Counter(after - before for before, after in pairwise(ordered))
    every = max(gaps, key=lambda gap: (gaps[gap], -gap)) if gaps else max(last, 1)
    regular = [step for step in ordered if step % every == 0]
    first = regular[0] if regular else last
    also = [step for step in ordered if step != last and (step % every or step < first)]
    expected = range(first, last + 1, every) if regular else ()
    if len(regular) < min(2, len(ordered)) or len(expected) - len(regular) + len(also) > max(20, len(ordered) // 2):
        return {
            "last_step": last,
            "first_step": last,
            "every": max(last, 1),
            **({"also": ordered[:-1]} if ordered[:-1] else {}),
        }
    absent = sorted(set(expected) - steps)
    told = {"first_step": first} | ({"also": also} if also else {}) | ({"absent": absent} if absent else {})
    return {"last_step": last, "every": every, **told}


def tokens_per_step(group: Sequence[Named]) -> tuple[int, Rounding] | None:
    """Return the roundest number of tokens of one step that explains the tokens in all names, and how they were rounded.

    A batch is a round number, a multiple of a high power of two or of ten, so the rounding that leads to the roundest is taken.
    """
    found = []
    for rounding in ROUNDINGS:
        low, high = 1, 10**12
        for one in group:
            step, tokens, unit = int(one.step or 0), one.tokens, UNITS[one.unit or "B"]
            if not step or tokens is None:
                continue
            unit //= 10 ** len((one.amount or "").partition(".")[2])
            below, above = {"up": (tokens - unit, tokens), "down": (tokens - 1, tokens + unit - 1)}.get(
                rounding, (tokens - unit // 2 - 1, tokens + -(-unit // 2) - 1)
            )
            low, high = max(low, below // step + 1), min(high, above // step)
        if low <= high < 10**12:
            found.append((_roundest(low, high), rounding))
    return min(found, key=lambda pair: _odd_part(pair[0])) if found else None


def _roundest(low: int, high: int) -> int:
    """Return the number between two, both included, that is a multiple of the highest power of two or of ten."""
    multiples: list[int] = [-(-low // base**k) * base**k for base, most in ((2, 40), (10, 12)) for k in range(most)]
    return min((number for number in multiples if low <= number <= high), key=lambda number: (_odd_part(number), number))


def _odd_part(number: int) -> int:
    """Return what is left of a number without its factors of two, or of ten if that is less."""
    by_two, by_ten = number, number
    while by_two % 2 == 0:
        by_two //= 2
    while by_ten % 10 == 0:
        by_ten //= 10
    return min(by_two, by_ten)
