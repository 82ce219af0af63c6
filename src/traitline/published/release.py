"""A published release on disk: which models it holds, where their files lie, and what its names mean.

Knows the layout of the paper's release: `results/MODEL/...`, `data/persona_vectors/MODEL/REVISION/...`,
`data/model_responses/{extract,eval}/MODEL/...` and the trait files. No model, trait or run is named here; every name is read
from the folders. Leaves what the files say to the other rooms, and defects to `audit.py`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from traitline.errors import InputError, nearest
from traitline.lineages import load_lineage, packaged_lineages
from traitline.lineages.folder import NameParts
from traitline.lineages.lineage import Lineage
from traitline.published.audit import Audit

RESULTS, VECTORS, RESPONSES = Path("results"), Path("data/persona_vectors"), Path("data/model_responses")
TRAIT_FILES = ("data/trait_data_extract", "data/trait_data_eval", "data/upstream_trait_data_eval")
FINAL = "main"
UNKNOWN = float("nan")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a revision stands in training: `tokens` is NaN where nothing says; `rank` orders the revisions of a model."""

    revision: str
    tokens: float
    stage: str
    rank: tuple[float, float, float]


class Release:
    """A release of judged answers, vectors and result tables.

    Raises:
        InputError: the folder does not exist or holds neither `results` nor `data`.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = _root(Path(root).expanduser())
        self.audit = Audit()

    @cached_property
    def models(self) -> list[str]:
        """The models found: every folder in `results` and in `data/persona_vectors`."""
        found = {path.name for folder in (RESULTS, VECTORS) for path in self._folders(self.root / folder)}
        return sorted(found)

    def chosen(self, model: str | None) -> list[str]:
        """Return the models asked for: one, or all.

        Raises:
            InputError: the release has no such model, or none at all.
        """
        if not self.models:
            raise InputError(f"release {str(self.root)!r} holds no model in results or data/persona_vectors; is it unpacked?")
        if model is None:
            return self.models
        if model not in self.models:
            raise InputError(f"release {str(self.root)!r} has no model {model!r}; {nearest(model, self.models)}")
        return [model]

    @cached_property
    def traits(self) -> list[str]:
        """Every trait name in use, strategies and all: trait files, vectors and judged extraction files."""
        names = {path.stem for folder in TRAIT_FILES for path in (self.root / folder).glob("*.json")}
        names |= {name for model in self.models for _, name, _ in self.vector_files(model)}
        for path in (self.root / RESULTS).rglob("combined_significance.csv"):
            names |= _distinct(path, ("trait", "vector_trait"))
        return sorted(names)

    def split(self, name: str) -> tuple[str, str]:
        """Split a name such as `evil_character_neutral_q` into trait and strategy, both verbatim.

        A name that stands for an original trait is that trait. Else the trait is the longest original trait that the name
        begins with, else the shortest name of the release that it begins with, else its first word, which the audit tells. The
        strategy is what follows, empty where nothing does.
        """
        original = [base for base in self._bases if name == base or name.startswith(f"{base}_")]
        heads = [head for head in self.traits if name.startswith(f"{head}_")]
        head = max(original, key=len, default="") or min(heads, key=len, default="") or name.partition("_")[0]
        if not original and not heads and head != name:
            text = f"nothing else is called {head}, so {head} was taken for the trait and the rest for the strategy"
            self.audit.add("guessed_trait", "", 1, f"the name {name} is told apart by its first word: {text}")
        return head, name[len(head) + 1 :]

    @cached_property
    def _bases(self) -> set[str]:
        """Names of the original traits, which carry no strategy whatever their words."""
        return {path.stem for path in (self.root / TRAIT_FILES[-1]).glob("*.json")}

    def place(self, model: str, revision: str) -> Place | None:
        """Return where a revision stands; None where its name cannot be read."""
        lineage = self._lineages.get(model.lower())
        if lineage is not None:
            return _placed(lineage, revision)
        parts = NameParts.of(revision)
        if revision == FINAL:
            return Place(revision, UNKNOWN, "", (float("inf"), 0.0, 0.0))
        number = parts.tokens if parts.tokens is not None else parts.step
        if number is None:
            return None
        stage = "" if parts.stage is None else f"stage{parts.stage}"
        tokens = UNKNOWN if parts.tokens is None else float(parts.tokens)
        return Place(revision, tokens, stage, (float(parts.stage or 0), float(number), 0.0))

    def ordered(self, model: str, revisions: Iterable[str]) -> list[str]:
        """Return the revisions in order of training, those whose names cannot be read last."""
        places = {name: self.place(model, name) for name in dict.fromkeys(revisions)}
        late = (float("inf"), float("inf"), float("inf"))
        return sorted(places, key=lambda name: (place.rank if (place := places[name]) else late, name))

    def tokens(self, model: str, revision: str) -> float:
        """Return the cumulative tokens of a revision, NaN where unknown."""
        place = self.place(model, revision)
        return UNKNOWN if place is None else place.tokens

    def vector_files(self, model: str) -> list[tuple[str, str, Path]]:
        """Return (revision, trait name, file) of every vector of a model, averages over the response only."""
        ending = "_response_avg_diff.pt"
        files = sorted((self.root / VECTORS / model).glob(f"*/*{ending}"))
        return [(path.parent.name, path.name.removesuffix(ending), path) for path in files]

    def file(self, path: Path) -> str:
        """Return how the audit names a file: its path inside the release."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name

    def table(self, path: Path, needed: Sequence[str], *, model: str = "") -> pd.DataFrame | None:
        """Read a CSV, or note in the audit why it cannot be used and return None.

        Texts are kept as written: nothing in a text column becomes missing but an empty cell.
        """
        problem = ""
        try:
            table = pd.read_csv(path, low_memory=False, keep_default_na=False, na_values=["", "nan", "NaN"])
        except FileNotFoundError:
            problem, kind = "the file is missing", "missing_file"
        except pd.errors.EmptyDataError:
            problem, kind = "the file is empty", "empty_file"
        except (OSError, ValueError, csv.Error) as error:
            problem, kind = f"the file cannot be read: {str(error).splitlines()[0]}", "unreadable_file"
        else:
            lacking = [name for name in needed if name not in table.columns]
            if lacking:
                problem, kind = f"the columns {', '.join(lacking)} are missing", "missing_columns"
            elif table.empty:
                problem, kind = "the file has a header and no rows", "empty_file"
        if problem:
            self.audit.add(kind, self.file(path), 1, f"{problem}; nothing is computed from it", model=model)
            return None
        return table

    @cached_property
    def _lineages(self) -> dict[str, Lineage]:
        """The packaged lineages by the lower-cased last part of their source: the model's name on a hub."""
        found = {}
        for name in packaged_lineages():
            if name != "nano":
                lineage = load_lineage(name)
                found[lineage.last.source.rpartition("/")[2].lower()] = lineage
        return found

    def descendants(self, model: str) -> dict[str, str]:
        """Return the descendants of a model that a packaged lineage knows: model name -> kind of post-training, in order."""
        lineage = self._lineages.get(model.lower())
        return {} if lineage is None else {one.source.rpartition("/")[2]: one.kind for one in lineage.descendants}

    @staticmethod
    def _folders(folder: Path) -> list[Path]:
        """Return the folders in a folder, but for those that systems and archives leave behind."""
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        return [path for path in found if path.is_dir() and not path.name.startswith((".", "__"))]


def _root(path: Path) -> Path:
    if not path.is_dir():
        what = "is a file; unpack it and give the folder" if path.exists() else "does not exist"
        raise InputError(f"release {str(path)!r} {what}; it must hold the folders results and data")
    inner = [one for one in sorted(path.iterdir()) if one.is_dir()]
    for folder in (path, *inner):
        if (folder / RESULTS).is_dir() or (folder / VECTORS).is_dir() or (folder / RESPONSES).is_dir():
            return folder
    raise InputError(
        f"release {str(path)!r} has no results, data/persona_vectors or data/model_responses; give the folder that has"
    )


def _placed(lineage: Lineage, revision: str) -> Place | None:
    try:
        found = lineage.checkpoint(revision)
    except InputError:
        return None
    tokens = UNKNOWN if found.tokens is None else float(found.tokens)
    stage = re.sub(r"\W", "", found.stage or "")
    return Place(revision, tokens, stage, (0.0, tokens if tokens == tokens else float("inf"), float(revision == FINAL)))


def _distinct(path: Path, columns: Sequence[str]) -> set[str]:
    """Return the names in some columns of a CSV; none where it cannot be read, which whoever reads it in full reports."""
    try:
        table = pd.read_csv(path, usecols=lambda name: name in columns, dtype=str)
    except (OSError, ValueError):
        return set()
    return {str(name) for column in table.columns for name in table[column].dropna().unique()}
