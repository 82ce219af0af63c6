"""A trait: its texts, read from one YAML file.

Knows the file's schema and where the packaged files lie. Leaves to `strategies.py` how an instruction and a question become a
prompt, to `paper.py` the JSON layout of the paper's release, and to `check.py` whether the texts are any good.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from traitline.errors import InputError, misfit, nearest
from traitline.traits.strategies import COMMON, TASK

Split = Literal["elicit", "tune", "evaluate"]
SPLITS: tuple[Split, ...] = get_args(Split)
Polarity = Literal["pos", "neg"]

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]

DATA = Path(__file__).parent / "data"


class Contrast(BaseModel):
    """Two instructions that differ only in the trait: one asks for it, one for its opposite."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    positive: Text
    negative: Text

    def side(self, polarity: Polarity) -> str:
        """Return the instruction of one polarity."""
        return self.positive if polarity == "pos" else self.negative


class Question(BaseModel):
    """One question and its identity within the trait, for example `evil-character-elicit-03`."""

    model_config = ConfigDict(frozen=True)
    id: str
    text: str


class StrategyTexts(BaseModel):
    """What one strategy needs of a trait: contrasts, and questions in three disjoint splits."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    contrasts: tuple[Contrast, ...] = Field(min_length=1)
    questions: dict[Split, tuple[Text, ...]]

    @model_validator(mode="after")
    def _has_questions(self) -> StrategyTexts:
        if not any(self.questions.values()):
            raise ValueError("no questions in any split")
        return self


class Trait(BaseModel):
    """A behaviour to look for. One YAML file holds one trait; the fields below are the file's keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Name
    """What columns and paths call it."""
    description: Text
    """One or two sentences: what counts as showing the trait, and what does not."""
    rubrics: dict[Literal["continuation", "chat"], Text]
    """Judge prompts with `{question}` and `{answer}`, one for continuations of a text, one for chat answers."""
    facets: dict[Name, Text] = Field(default_factory=dict)
    """Sub-kinds of the trait, each with a sentence telling how to recognise it."""
    common: dict[Split, tuple[Text, ...]] = Field(default_factory=dict)
    """Questions that belong to no strategy: where the vectors of all are compared. Asked like those of `instruction`."""
    task: str = TASK
    """What tells a chat model to continue a text."""
    strategies: dict[Name, StrategyTexts] = Field(min_length=1)

    def texts(self, strategy: str) -> StrategyTexts:
        """Return the texts of one strategy.

        Raises:
            InputError: the trait has no texts for it.
        """
        if strategy not in self.strategies:
            raise InputError(
                f"trait {self.name!r} has no texts for strategy {strategy!r}; {nearest(strategy, self.strategies)}"
            )
        return self.strategies[strategy]

    def questions(self, strategy: str, split: Split) -> list[Question]:
        """Return the questions of one split, each with its id; `common` names those that belong to no strategy."""
        texts = (self.common if strategy == COMMON else self.texts(strategy).questions).get(split, ())
        return [Question(id=f"{self.name}-{strategy}-{split}-{i:02d}", text=text) for i, text in enumerate(texts)]

    @property
    def digest(self) -> str:
        """A hash of every text of the trait: 16 hexadecimal digits."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


def packaged_traits(folder: Path = DATA) -> list[str]:
    """Return the names of the traits that ship with traitline."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_trait(name: str | Path, folder: Path = DATA) -> Trait:
    """Load a trait by its packaged name, or from a YAML file or the paper's JSON file by path.

    Raises:
        InputError: no such trait or file, or a file that does not fit the schema.
    """
    path = Path(name)
    if path.suffix not in {".yaml", ".yml", ".json"}:
        if str(name) not in packaged_traits(folder):
            raise InputError(
                f"no trait is called {str(name)!r}; {nearest(str(name), packaged_traits(folder))}. "
                "For a trait of your own give the path of its .yaml file"
            )
        path = folder / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"trait file {str(path)!r} does not exist")
    if path.suffix == ".json":
        from traitline.traits.paper import load_paper_trait

        return load_paper_trait(path)
    try:
        return Trait.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise InputError(f"trait file {str(path)!r} is not valid YAML: {error}") from error
    except ValidationError as error:
        raise InputError(f"trait file {str(path)!r} does not fit the schema:\n{misfit(error)}") from error
