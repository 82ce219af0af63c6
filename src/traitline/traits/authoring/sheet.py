"""The draft so far: what a trait file will hold, in the order in which a model wrote it, and the file it is kept in.

Knows the draft's file and how the questions written for a strategy are dealt over its three splits. Leaves to `parts.py` what
is still missing, and to `pages.py` the finished file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from traitline.errors import InputError, misfit
from traitline.files import write_whole
from traitline.traits.authoring.prompts import PROMPTS, Style
from traitline.traits.check import QUESTIONS
from traitline.traits.strategies import COMMON, STRATEGIES
from traitline.traits.trait import Contrast, Name, Split, StrategyTexts, Text, Trait

Verdict = Literal["cannot_show", "gives_away", "harmful"]
VERDICTS: tuple[Verdict, ...] = ("cannot_show", "gives_away", "harmful")

DEALT: dict[bool, tuple[Split, ...]] = {
    False: ("elicit", "evaluate", "tune", "evaluate", "elicit"),
    True: ("evaluate", "tune", "evaluate"),
}
"""Questions are dealt over the splits in turns, in these numbers (those of no strategy: True): a model's ideas change while it
writes, and a split should not hold its first or its last ones alone."""


class Sheet(BaseModel):
    """What was drafted so far, and for whom."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    draft: Literal[1] = 1
    """The form of this file."""
    name: Name
    described: Text
    """What the user said that the trait means."""
    prompts: int = PROMPTS
    models: list[str] = Field(default_factory=list)
    """Who wrote it; the last one most recently."""
    requests: int = Field(default=0, ge=0)
    """Answers that were asked for, over all calls."""
    description: str = ""
    facets: dict[Name, Text] = Field(default_factory=dict)
    rubrics: dict[Style, Text] = Field(default_factory=dict)
    contrasts: dict[str, list[Contrast]] = Field(default_factory=dict)
    questions: dict[str, list[Text]] = Field(default_factory=dict)
    verdicts: dict[str, dict[Verdict, list[Text]]] = Field(default_factory=dict)
    """What the model itself found wrong with the questions of a strategy; the questions in full."""
    guesses: dict[Style, str] = Field(default_factory=dict)
    """What the model took a rubric to score without being told; empty where it could not say."""

    def save(self, path: Path) -> None:
        """Write the draft.

        Raises:
            StoreError: the disk is full or the folder cannot be written.
        """
        content = json.dumps(self.model_dump(mode="json"), ensure_ascii=False, indent=2)  # which is YAML, written in no time
        write_whole(path, f"# A trait being drafted; the same command goes on with it.\n{content}\n")

    def split(self, asked: str, split: Split) -> list[str]:
        """Return the questions dealt to one split; `asked` is a strategy or `common`."""
        turns = DEALT[asked == COMMON]
        return [text for i, text in enumerate(self.questions.get(asked, ())) if turns[i % len(turns)] == split]

    def trait(self) -> Trait:
        """Return the trait that was drafted.

        Raises:
            ValidationError: it is not complete.
        """
        strategies = {
            name: StrategyTexts(
                contrasts=tuple(self.contrasts.get(name, ())),
                questions={split: tuple(self.split(name, split)) for split in QUESTIONS},
            )
            for name in STRATEGIES
        }
        common: dict[Split, tuple[str, ...]] = {split: tuple(self.split(COMMON, split)) for split in ("tune", "evaluate")}
        return Trait(
            name=self.name,
            description=self.description,
            rubrics=dict(self.rubrics),
            facets=dict(self.facets),
            common=common,
            strategies=strategies,
        )


def wanted_questions(asked: str) -> int:
    """Return how many questions a strategy needs over its splits, or how many stand in `common`."""
    splits: Sequence[Split] = ("tune", "evaluate") if asked == COMMON else tuple(QUESTIONS)
    return sum(QUESTIONS[split] for split in splits)


def open_sheet(path: Path, name: str, described: str) -> Sheet:
    """Return the draft that lies at a path, or a new one.

    Raises:
        InputError: something else lies there, or the draft of another trait.
    """
    if not path.exists():
        return Sheet(name=name, described=described)
    try:
        found = Sheet.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"the draft {str(path)!r} cannot be read ({error}); remove it, or give another --out") from error
    except ValidationError as error:
        raise InputError(
            f"{str(path)!r} is no draft of this version, and is not overwritten; remove it, or give another --out:\n"
            f"{misfit(error)}"
        ) from error
    if found.name != name:
        raise InputError(f"{str(path)!r} is the draft of {found.name!r}, not of {name!r}; remove it, or give another --out")
    if " ".join(found.described.split()) != " ".join(described.split()):
        raise InputError(
            f"{str(path)!r} was begun with another description, {found.described[:80]!r}; go on with that one, or remove the "
            "draft to begin anew"
        )
    if found.prompts != PROMPTS:
        raise InputError(
            f"{str(path)!r} was begun with prompts of version {found.prompts}, and these are of version {PROMPTS}; remove it "
            "to begin anew"
        )
    return found
