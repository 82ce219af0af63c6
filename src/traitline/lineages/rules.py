"""Lineage files: how a few lines of YAML describe the hundreds of revisions of a model on a hub.

Knows the file's schema and turns a revision's name into tokens and stage. Three ways to say it, which may be mixed:

* `stages`: a name pattern with `{step}`, the tokens of one step, the last step and the spacing between saved steps;
* `counted`: a name pattern with `{tokens}` (and `{step}`), for names that carry their token count, such as `210B` or `1.5T`;
* `checkpoints`: an explicit list.

`default` selects the checkpoints a study takes when it names none, or says how many a grid chooses. With `like` a file says
only what differs from another one. Leaves the patterns to `stages.py`, grids to `grid.py`, and to `folder.py` folders without
such a file.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from traitline.errors import InputError, misfit, nearest
from traitline.lineages.grid import Course, Point, Strand, anchored, choose, stage_ends
from traitline.lineages.lineage import Checkpoint, Descendant, Kind, Lineage
from traitline.lineages.stages import STEP, CountedRule, StageRule, Text

Tokens = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(gt=0)]
Model = TypeVar("Model", bound=BaseModel)

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of one number, by how it is stored."""
LIKE = "like"


def read_model(schema: type[Model], path: Path) -> Model:
    """Read a YAML or JSON file as one pydantic model.

    Raises:
        InputError: the file is missing, is not valid YAML or JSON, or does not fit the schema.
    """
    try:
        return schema.model_validate(_content(path))
    except ValidationError as error:
        raise InputError(f"lineage file {str(path)!r} does not fit the schema:\n{misfit(error)}") from error


def _content(path: Path, above: tuple[Path, ...] = ()) -> Any:
    """Read a file, and the one that it says it is like: what it says itself goes before that one."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"lineage file {str(path)!r} cannot be read: {error}") from error
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise InputError(f"lineage file {str(path)!r} is not valid {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(content, dict) or LIKE not in content:
        return content
    shared = path.parent / str(content[LIKE])
    chain = (*above, path.resolve())
    base = _content(shared, chain) if shared.resolve() not in chain else None
    if not isinstance(base, dict):
        raise InputError(
            f"lineage file {str(path)!r} is like {str(shared)!r}, which is not another lineage file; correct `like`"
        )
    return {**base, **{field: value for field, value in content.items() if field != LIKE}}


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
    parent: Text | None = None
    """The descendant it was post-trained from; the last checkpoint where left out."""


Entry = TypeVar("Entry", CheckpointEntry, DescendantEntry)


class LineageFile(BaseModel):
    """A lineage file. Finds any revision its rules allow (`find`), and names the nearest ones (`near`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Text
    description: Text
    source: Text
    """A hub id, or a folder with one directory per revision; a path begins with `.`, `/` or `~`."""
    parameters: Count | None = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """As what the weights are stored."""
    bytes_per_checkpoint: Count | None = None
    """What one checkpoint's weights are to download; where left out, the parameters times the bytes of the dtype."""
    layers: Count | None = None
    hidden: Count | None = None
    stages: tuple[StageRule, ...] = ()
    counted: CountedRule | None = None
    checkpoints: tuple[CheckpointEntry, ...] = ()
    default: tuple[Text, ...] | Annotated[int, Field(ge=1, strict=True)] = ()
    descendants: tuple[DescendantEntry, ...] = ()
    sources: tuple[Text, ...] = ()
    """Where all this was read."""
    unverified: tuple[Text, ...] = ()
    """What no source says, and what to beware of."""

    @model_validator(mode="after")
    def _resolves(self) -> LineageFile:
        stages = [stage.name for stage in self.stages]
        for i, stage in enumerate(self.stages):
            known = [one.name for one in self.stages[:i] if one.parallel_to is None]
            if stage.parallel_to is not None and stage.parallel_to not in known:
                raise ValueError(
                    f"stage {stage.name!r} is parallel to {stage.parallel_to!r}, which is no stage of the main line before it; "
                    f"{nearest(stage.parallel_to, known)}"
                )
        for entry in self.checkpoints:
            if entry.end_of is not None and entry.end_of not in stages:
                raise ValueError(f"checkpoint {entry.name!r} ends stage {entry.end_of!r}; {nearest(entry.end_of, stages)}")
        if not self.default and not self.checkpoints:
            raise ValueError("name the checkpoints of a study in `default`, or how many of them, or list `checkpoints`")
        for name in self.default if isinstance(self.default, tuple) else ():
            if self.find(name) is None:
                raise ValueError(f"default names the revision {name!r}, which no rule allows; {self.near(name)}")
        return self

    def find(self, name: str) -> Checkpoint | None:
        """Return the checkpoint called `name`, or None where no rule allows it."""
        for entry in self.checkpoints:
            if entry.name == name:
                return self._listed(entry)
        for stage in self.stages:
            step = stage.step_of(name)
            if step is not None and stage.revision(step) == name and stage.saved(step):
                return self._saved(stage, step)
        if self.counted is not None and (tokens := self.counted.tokens_of(name)) is not None:
            return self._at(name, tokens, self.counted.stage)
        return None

    def near(self, name: str) -> str:
        """Return a phrase naming the closest revisions: by step within a stage, else by spelling."""
        for stage in self.stages:
            if (step := stage.step_of(name)) is not None:
                return f"nearest: {', '.join(map(stage.revision, stage.nearest_steps(step)))}"
        begun = [stage for stage in self.stages if "{tokens}" in stage.pattern and name.startswith(stage.pattern.split("{")[0])]
        if begun and (match := re.search(STEP, name.removeprefix(begun[0].pattern.split("{")[0]))):
            return f"nearest: {', '.join(map(begun[0].revision, begun[0].nearest_steps(int(match['step']))))}"
        saved = self.counted.saved if self.counted is not None else ()
        selected = self.default if isinstance(self.default, tuple) else tuple(one.name for one in self.lineage().checkpoints)
        return nearest(name, dict.fromkeys((*selected, *saved, *(entry.name for entry in self.checkpoints))))

    def lineage(self) -> Lineage:
        """Build the lineage, its rules attached to find the revisions outside the selection."""
        if isinstance(self.default, int):
            selected = choose(self.course(), self.default, self.name)
        else:
            names = self.default or tuple(entry.name for entry in self.checkpoints)
            selected = tuple(found for name in names if (found := self.find(name)) is not None)
        descendants = tuple(
            Descendant(
                one.name,
                one.kind,
                one.source,
                None if _is_path(one.source) else one.revision or "main",
                one.chat,
                one.parent,
            )
            for one in self.descendants
        )
        stored = self.parameters * BYTES[self.dtype] if self.parameters and self.dtype else None
        size = {name: getattr(self, name) for name in ("parameters", "dtype", "layers", "hidden", "sources", "unverified")}
        lineage = Lineage(self.name, self.description, selected, descendants, self)
        return replace(lineage, bytes_per_checkpoint=self.bytes_per_checkpoint or stored, **size)

    def course(self) -> Course:
        """Return what a grid is chosen from: the stages that follow one another, and what is listed beside them."""
        main = [stage for stage in self.stages if stage.parallel_to is None]
        aside = {stage.name for stage in self.stages} - {stage.name for stage in main}
        steps = self.counted is None and any(stage.tokens_per_step is None for stage in main)
        spans = self._spans(steps=steps)
        entries = [entry for entry in self.checkpoints if not {entry.end_of, entry.stage} & aside]
        listed: list[Point] = []
        if self.counted is not None and not steps:
            selected = self.default if isinstance(self.default, tuple) else ()
            named = (self.find(name) for name in self.counted.saved or selected)
            listed += [Point(one.tokens, one) for one in named if one is not None and one.tokens is not None]
        listed += [point for entry in entries if (point := self._point(entry, spans, steps=steps)) is not None]
        listed.sort(key=lambda point: point.amount)
        closing = entries[-1] if entries else None
        ends = stage_ends([point for point in listed if point.checkpoint.stage not in {stage.name for stage in main}])
        strands = []
        for stage in main:
            start, end = spans[stage.name]
            if start is None or end is None:
                continue
            strands.append(Strand(stage, start, 1 if steps else stage.tokens_per_step or 1, partial(self._saved, stage)))
            if closing is None or closing.end_of != stage.name:
                others = (self._listed(entry) for entry in entries if entry.end_of == stage.name)
                closes = self._saved(stage, stage.last_step) if stage.saved(stage.last_step) else next(others, None)
                ends += [Point(end, closes)] if closes is not None else []
        furthest = max(ends + listed, key=lambda point: point.amount, default=None)
        if closing is not None:
            found = self._point(closing, spans, steps=steps)
            ends += [furthest] if found is None and furthest is not None else []
            last = found or Point(furthest.amount if furthest else 1, self._listed(closing))
        elif furthest is not None:
            last = furthest
        else:
            raise InputError(f"lineage {self.name!r} names no checkpoint of which a grid could be made; list some")
        return anchored(ends, last, strands, listed, measure="steps" if steps else "tokens")

    def located(self, base: Path) -> LineageFile:
        """Return the same rules with every local path made absolute; paths in a file are relative to its folder."""
        return self.model_copy(
            update={
                "source": _located(self.source, base),
                "checkpoints": tuple(_entry_located(entry, base) for entry in self.checkpoints),
                "descendants": tuple(_entry_located(entry, base) for entry in self.descendants),
            }
        )

    def _spans(self, *, steps: bool = False) -> dict[str, tuple[int | None, int | None]]:
        """Return the tokens, or steps, at the beginning and the end of each stage; None from where they are not known."""
        spans: dict[str, tuple[int | None, int | None]] = {}
        at: int | None = 0
        for stage in self.stages:
            unit = 1 if steps else stage.tokens_per_step
            if stage.begins_at is not None and not steps:
                start: int | None = stage.begins_at
            elif stage.cumulative:
                start = 0
            else:
                start = spans[stage.parallel_to][0] if stage.parallel_to is not None else at
            end = None if start is None or unit is None else start + stage.last_step * unit
            spans[stage.name] = (start, end)
            at = at if stage.parallel_to is not None else end
        return spans

    def _saved(self, stage: StageRule, step: int) -> Checkpoint:
        start = self._spans()[stage.name][0]
        tokens = None if start is None or stage.tokens_per_step is None else start + step * stage.tokens_per_step
        return self._at(stage.revision(step), tokens, stage.name)

    def _point(self, entry: CheckpointEntry, spans: dict[str, tuple[int | None, int | None]], *, steps: bool) -> Point | None:
        amount = spans[entry.end_of][1] if entry.end_of is not None else None if steps else entry.tokens
        return None if amount is None else Point(amount, self._listed(entry))

    def _listed(self, entry: CheckpointEntry) -> Checkpoint:
        tokens, stage = entry.tokens, entry.stage
        if entry.end_of is not None:
            stage, tokens = entry.end_of, self._spans()[entry.end_of][1]
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
