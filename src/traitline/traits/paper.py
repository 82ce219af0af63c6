"""The paper's trait files: one JSON file per trait and strategy, questions for extraction and evaluation in two folders.

Knows that layout only: `{"instruction": [{"pos", "neg"}], "questions": [...], "eval_prompt": "..."}` in a file named
`<trait>.json` or `<trait>_<strategy words>.json`, in folders `trait_data_extract` and `trait_data_eval`. The result is an
ordinary `Trait` with one strategy, one rubric, no facets and no `tune` questions; `check.py` tells what it lacks.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import cast

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from traitline.errors import InputError, misfit
from traitline.traits.strategies import STRATEGIES
from traitline.traits.trait import Contrast, Split, StrategyTexts, Text, Trait

FOLDERS: dict[str, Split] = {"trait_data_extract": "elicit", "trait_data_eval": "evaluate"}
POOLED = "combined"
SUFFIXES = {"character": "character", "dialogue": "dialogue", "stories": "story", "story": "story"}
_NAME = re.compile(rf"(?P<trait>.+?)(?:_(?P<word>{'|'.join(SUFFIXES)})(?:_.*)?)?")


class PaperContrast(BaseModel):
    """One pair of instructions. A list of example stories is one instruction, a line each, as in the paper's pipeline."""

    model_config = ConfigDict(extra="ignore")
    pos: Text
    neg: Text

    @field_validator("pos", "neg", mode="before")
    @classmethod
    def _joined(cls, value: object) -> object:
        several = isinstance(value, list) and all(isinstance(part, str) for part in value)
        return "\n".join(cast(list[str], value)) if several else value


class PaperFile(BaseModel):
    """One file of the release. Keys beside these three are ignored."""

    model_config = ConfigDict(extra="ignore")
    instruction: tuple[PaperContrast, ...] = ()
    questions: tuple[Text, ...]
    eval_prompt: Text


def load_paper_trait(path: Path) -> Trait:
    """Read a trait from the paper's JSON layout.

    A file in `trait_data_extract` or `trait_data_eval` is read together with its namesake in the other folder: the first
    gives the contrasts and the split `elicit`, the second the split `evaluate`. Any other file gives `elicit` alone.

    Args:
        path: for example `trait_data_extract/evil_character_neutral_q.json`, which is the trait `evil` with the strategy
            `character`; a name without a strategy is `instruction`. `<trait>_combined.json` holds questions only: it gives
            every strategy of that trait found beside it, evaluated on those questions.

    Raises:
        InputError: the file is missing, is not JSON, does not fit the layout, or has no contrasts.
    """
    trait, strategy = _named(path)
    files = {split: _read(one) for split, one in _pair(path).items()}
    source = files.get("elicit") or files["evaluate"]
    pooled = _pooled(path) if not source.instruction else {strategy: source}
    if not pooled:
        raise InputError(f"trait file {str(path)!r} has no pairs under 'instruction'; a trait needs at least one")
    own = {split: one.questions for split, one in files.items()}
    try:
        return Trait(
            name=trait,
            description=f"The trait {trait} as the rubric of the paper's file {path.name} defines it.",
            rubrics={STRATEGIES[name].style: source.eval_prompt for name in pooled},
            strategies={
                name: StrategyTexts(
                    contrasts=tuple(Contrast(positive=one.pos, negative=one.neg) for one in texts.instruction),
                    questions={"elicit": texts.questions, **own} if texts is not source else own,
                )
                for name, texts in pooled.items()
            },
        )
    except ValidationError as error:
        raise _misfit(path, error) from error


def _named(path: Path) -> tuple[str, str]:
    """Return the trait and the strategy a file's name stands for."""
    if path.stem.endswith(f"_{POOLED}"):
        return path.stem.removesuffix(f"_{POOLED}"), POOLED
    match = _NAME.fullmatch(path.stem)
    if match is None:
        raise InputError(f"trait file {str(path)!r} has no name to call the trait by")
    return match["trait"], SUFFIXES[match["word"]] if match["word"] else "instruction"


def _pooled(path: Path) -> dict[str, PaperFile]:
    """Return the files whose answers a file `<trait>_combined.json`, which has questions only, was made to evaluate."""
    trait, strategy = _named(path)
    if strategy != POOLED:
        return {}
    folder = path.absolute().parent.parent / next(name for name, split in FOLDERS.items() if split == "elicit")
    named = {_named(one): one for one in sorted(folder.glob(f"{trait}_*.json"))}
    return {word: _read(one) for (owner, word), one in named.items() if owner == trait and word != POOLED}


def _pair(path: Path) -> dict[Split, Path]:
    """Return the file of each split; the given one alone where it has no counterpart."""
    if path.absolute().parent.name not in FOLDERS:
        return {"elicit": path}
    folders = path.absolute().parent.parent
    pair = {split: folders / folder / path.name for folder, split in FOLDERS.items()}
    return {split: one for split, one in pair.items() if one.is_file()} or {"elicit": path}


def _read(path: Path) -> PaperFile:
    try:
        return PaperFile.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"trait file {str(path)!r} cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise InputError(f"trait file {str(path)!r} is not valid JSON: {error}") from error
    except ValidationError as error:
        raise _misfit(path, error) from error


def _misfit(path: Path, error: ValidationError) -> InputError:
    return InputError(f"trait file {str(path)!r} does not fit the paper's layout:\n{misfit(error)}")
