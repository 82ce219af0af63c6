"""Lineage files: how a few lines of YAML describe the hundreds of revisions of a model on a hub.

Knows the file's schema and turns a revision's name into tokens and stage. Three ways to say it, which may be mixed:

* `stages`: a name pattern with `{step}`, the tokens of one step, the last step and the spacing between saved steps;
* `counted`: a name pattern with `{tokens}` (and `{step}`), for names that carry their token count, such as `210B` or `1.5T`;
* `checkpoints`: an explicit list.

`default` selects the checkpoints a study takes when it names none. Leaves to `folder.py` folders without such a file.
"""

from __future__ import annotations

import json
import re
from heapq import nsmallest
from pathlib import Path
from typing import Annotated, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from traitline.errors import InputError, misfit, nearest
from traitline.lineages.lineage import Checkpoint, Descendant, Kind, Lineage

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Tokens = Annotated[int, Field(ge=0)]
Model = TypeVar("Model", bound=BaseModel)

STEP = r"(?P<step>[0-9]{1,15})"
AMOUNT = r"(?P<amount>[0-9]{1,15}(?:\.[0-9]{1,9})?)(?P<unit>[KMBT])"
UNITS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def token_count(amount: str, unit: str | None) -> int:
    """Return the tokens that `210B`, `1.5T` or, without a unit, a plain number stands for."""
    return round(float(amount) * UNITS[unit]) if unit else round(float(amount))


def read_model(schema: type[Model], path: Path) -> Model:
    """Read a YAML or JSON file as one pydantic model.

    Raises:
        InputError: the file is missing, is not valid YAML or JSON, or does not fit the schema.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return schema.model_validate(json.loads(text) if path.suffix == ".json" else yaml.safe_load(text))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"lineage file {str(path)!r} cannot be read: {error}") from error
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise InputError(f"lineage file {str(path)!r} is not valid {path.suffix[1:].upper()}: {error}") from error
    except ValidationError as error:
        raise InputError(f"lineage file {str(path)!r} does not fit the schema:\n{misfit(error)}") from error


class StageRule(BaseModel):
    """One stage of training whose checkpoints were saved at regular steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Text
    pattern: Text
    """The revision's name, with `{step}` where the step number stands."""
    tokens_per_step: Annotated[int, Field(gt=0)]
    last_step: Annotated[int, Field(ge=0)]
    first_step: Annotated[int, Field(ge=0)] = 0
    every: Annotated[int, Field(gt=0)]
    also: tuple[int, ...] = ()
    """Saved steps beside the multiples of `every`; the last step need not be named."""

    @field_validator("pattern")
    @classmethod
    def _one_step(cls, pattern: str) -> str:
        if pattern.count("{step}") != 1:
            raise ValueError("must hold {step} once")
        return pattern

    @model_validator(mode="after")
    def _ordered(self) -> StageRule:
        if self.first_step > self.last_step:
            raise ValueError(f"first_step {self.first_step} lies after last_step {self.last_step}")
        return self

    def revision(self, step: int) -> str:
        """Name the revision of one step."""
        return self.pattern.replace("{step}", str(step))

    def step_of(self, revision: str) -> int | None:
        """Return the step a name stands for, saved or not; None where the name is not of this stage."""
        match = re.fullmatch(re.escape(self.pattern).replace(re.escape("{step}"), STEP), revision)
        return int(match["step"]) if match else None

    def saved(self, step: int) -> bool:
        """Tell whether a step was saved."""
        regular = self.first_step <= step <= self.last_step and step % self.every == 0
        return regular or step == self.last_step or step in self.also

    def nearest_steps(self, step: int, n: int = 3) -> list[int]:
        """Return the `n` saved steps closest to a step, in order."""
        start = min(max(step, self.first_step), self.last_step) // self.every
        around = (k * self.every for k in range(start - n, start + n + 1))
        saved = {k for k in (*around, *self.also, self.last_step) if self.saved(k)}
        return sorted(nsmallest(n, saved, lambda k: abs(k - step)))


class CountedRule(BaseModel):
    """Revisions whose names carry their cumulative token count."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    pattern: Text
    """The revision's name, with `{tokens}` for a number and unit (K, M, B, T), and `{step}` where a step number stands."""
    stage: Text | None = None

    @field_validator("pattern")
    @classmethod
    def _one_count(cls, pattern: str) -> str:
        if pattern.count("{tokens}") != 1 or pattern.count("{step}") > 1:
            raise ValueError("must hold {tokens} once, and {step} at most once")
        return pattern

    def tokens_of(self, revision: str) -> int | None:
        """Return the tokens a name carries; None where the name does not fit the pattern."""
        expression = re.escape(self.pattern).replace(re.escape("{tokens}"), AMOUNT).replace(re.escape("{step}"), STEP)
        match = re.fullmatch(expression, revision)
        return token_count(match["amount"], match["unit"]) if match else None


class CheckpointEntry(BaseModel):
    """One checkpoint named outright."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Text
    tokens: Tokens | None = None
    stage: Text | None = None
    end_of: Text | None = None
    """The same point of training as the end of this stage: tokens and stage follow from it."""
    source: Text | None = None
    """A hub id or directory of its own, if the lineage's source does not hold it."""
    revision: Text | None = None
    """The revision to load: by default the name, or `main` for a source of its own."""

    @model_validator(mode="after")
    def _says_it_once(self) -> CheckpointEntry:
        if self.end_of and (self.tokens is not None or self.stage):
            raise ValueError("give end_of, or tokens and stage, not both")
        return self


class DescendantEntry(BaseModel):
    """One post-trained model."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Text
    kind: Kind
    source: Text
    revision: Text | None = None
    chat: bool = True


Entry = TypeVar("Entry", CheckpointEntry, DescendantEntry)


class LineageFile(BaseModel):
    """A lineage file. Finds any revision its rules allow (`find`), and names the nearest ones (`near`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Text
    description: Text
    source: Text
    """A hub id, or a folder with one directory per revision; a path begins with `.`, `/` or `~`."""
    stages: tuple[StageRule, ...] = ()
    counted: CountedRule | None = None
    checkpoints: tuple[CheckpointEntry, ...] = ()
    default: tuple[Text, ...] = ()
    descendants: tuple[DescendantEntry, ...] = ()

    @model_validator(mode="after")
    def _resolves(self) -> LineageFile:
        stages = [stage.name for stage in self.stages]
        for entry in self.checkpoints:
            if entry.end_of is not None and entry.end_of not in stages:
                raise ValueError(f"checkpoint {entry.name!r} ends stage {entry.end_of!r}; {nearest(entry.end_of, stages)}")
        if not self.default and not self.checkpoints:
            raise ValueError("name the checkpoints of a study in `default`, or list `checkpoints`")
        for name in self.default:
            if self.find(name) is None:
                raise ValueError(f"default names the revision {name!r}, which no rule allows; {self.near(name)}")
        return self

    @property
    def _offsets(self) -> list[int]:
        """Tokens trained before each stage begins, then those after the last."""
        offsets = [0]
        for stage in self.stages:
            offsets.append(offsets[-1] + stage.last_step * stage.tokens_per_step)
        return offsets

    def find(self, name: str) -> Checkpoint | None:
        """Return the checkpoint called `name`, or None where no rule allows it."""
        for entry in self.checkpoints:
            if entry.name == name:
                return self._listed(entry)
        for stage, offset in zip(self.stages, self._offsets, strict=False):
            step = stage.step_of(name)
            if step is not None and stage.revision(step) == name and stage.saved(step):
                return self._at(name, offset + step * stage.tokens_per_step, stage.name)
        if self.counted is not None and (tokens := self.counted.tokens_of(name)) is not None:
            return self._at(name, tokens, self.counted.stage)
        return None

    def near(self, name: str) -> str:
        """Return a phrase naming the closest revisions: by step within a stage, else by spelling."""
        for stage in self.stages:
            if (step := stage.step_of(name)) is not None:
                return f"nearest: {', '.join(map(stage.revision, stage.nearest_steps(step)))}"
        return nearest(name, dict.fromkeys((*self.default, *(entry.name for entry in self.checkpoints))))

    def lineage(self) -> Lineage:
        """Build the lineage, its rules attached to find the revisions outside the selection."""
        names = self.default or tuple(entry.name for entry in self.checkpoints)
        selected = tuple(found for name in names if (found := self.find(name)) is not None)
        descendants = (
            Descendant(one.name, one.kind, one.source, None if _is_path(one.source) else one.revision or "main", one.chat)
            for one in self.descendants
        )
        return Lineage(self.name, self.description, selected, tuple(descendants), self)

    def located(self, base: Path) -> LineageFile:
        """Return the same rules with every local path made absolute; paths in a file are relative to its folder."""
        return self.model_copy(
            update={
                "source": _located(self.source, base),
                "checkpoints": tuple(_entry_located(entry, base) for entry in self.checkpoints),
                "descendants": tuple(_entry_located(entry, base) for entry in self.descendants),
            }
        )

    def _listed(self, entry: CheckpointEntry) -> Checkpoint:
        tokens, stage = entry.tokens, entry.stage
        if entry.end_of is not None:
            stage = entry.end_of
            tokens = self._offsets[[one.name for one in self.stages].index(stage) + 1]
        if entry.source is None:
            return self._at(entry.name, tokens, stage, entry.revision)
        revision = None if _is_path(entry.source) else entry.revision or "main"
        return Checkpoint(entry.name, tokens, stage, entry.source, revision)

    def _at(self, name: str, tokens: int | None, stage: str | None, revision: str | None = None) -> Checkpoint:
        if _is_path(self.source):
            return Checkpoint(name, tokens, stage, str(Path(self.source) / (revision or name)), None)
        return Checkpoint(name, tokens, stage, self.source, revision or name)


def read_rules(path: Path) -> Lineage:
    """Read a lineage from its YAML file.

    Raises:
        InputError: the file is missing or broken, or its rules contradict each other.
    """
    return read_model(LineageFile, path).located(path.parent).lineage()


def _is_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or Path(source).is_absolute()


def _located(source: str, base: Path) -> str:
    return str((base / Path(source).expanduser()).resolve()) if _is_path(source) else source


def _entry_located(entry: Entry, base: Path) -> Entry:
    return entry if entry.source is None else entry.model_copy(update={"source": _located(entry.source, base)})
