"""A folder of vectors as one publishes it on the Hugging Face hub, written and read.

Knows its layout: `README.md` (the model card), `config.json` (an index of what is there), and one safetensors file per cell,
`<trait>/<strategy>/<checkpoint>.safetensors`, with its provenance. Nothing is uploaded from here. What is read may come from
anyone: names are checked before they become paths. What is written names no folder of the machine that it was made on. Leaves
the card's words to `hub_card.py`.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from traitline.errors import InputError, StoreError, misfit
from traitline.files import write_whole
from traitline.lineages import safe_name
from traitline.vectors.hub_card import model_card
from traitline.vectors.vector import Floats, PersonaVector, Provenance, load_arrays, save_arrays

INDEX = "config.json"
PUBLISHED = ("response_avg", "prompt_avg", "prompt_last", "balanced_response_avg")
"""The arrays of a run's vector file that are published; controls and bootstrap vectors stay behind."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
LARGEST_INDEX_BYTES = 32 << 20


class HubEntry(BaseModel):
    """One vector file of a published folder."""

    trait: str
    strategy: str
    checkpoint: str
    arrays: list[str] = Field(min_length=1)
    n_pairs: int | None = None
    n_questions: int | None = None
    fragile: bool = False

    @property
    def path(self) -> str:
        """Where it lies in the folder.

        Raises:
            InputError: a name that cannot be part of a path.
        """
        names = [safe_name(name) for name in (self.trait, self.strategy, self.checkpoint)]
        hidden = next((name for name in names if name.startswith(".")), None)
        if hidden is not None:
            raise InputError(f"the name {hidden!r} cannot become a file of a published folder: it begins with a dot")
        return f"{names[0]}/{names[1]}/{names[2]}.safetensors"


class HubIndex(BaseModel):
    """What `config.json` says: the vectors of a folder, in the order of the checkpoints, and what they have in common."""

    format: Literal["traitline-vectors"] = "traitline-vectors"
    format_version: Literal[1] = 1
    lineage: str | None = None
    base_model: list[str] = []
    layers: int = Field(ge=1)
    hidden: int = Field(ge=1)
    layer_conventions: list[str]
    vectors: list[HubEntry] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class _Published:
    """The arrays of one file, as they are written."""

    entry: HubEntry
    arrays: Mapping[str, Floats]
    provenance: Provenance


def export_hub(vectors: str | Path | Iterable[PersonaVector], folder: str | Path) -> Path:
    """Write a folder that can be uploaded to the Hugging Face hub as it is (`hf upload USER/NAME FOLDER`). Returns the folder.

    Args:
        vectors: a run directory, of which the vectors of all cells are published, or vectors, each of which must know its
            trait, strategy and checkpoint.
        folder: what to write; must not exist.

    Raises:
        InputError: no vectors, two of one name, a name missing or unfit for a path, vectors of different models, or a folder
            that exists.
        StoreError: a vector file of the run is broken, or the folder cannot be written.
    """
    folder = Path(folder)
    if folder.exists() or folder.is_symlink():
        raise InputError(f"{str(folder)!r} exists already and is never overwritten; give another folder, or remove it first")
    files = (
        _of_run(Path(vectors)) if isinstance(vectors, (str, Path)) else [_of_vector(i, one) for i, one in enumerate(vectors)]
    )
    index = _index(files)
    partial: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
        content = partial / folder.name
        for file in files:
            save_arrays(content / file.entry.path, dict(file.arrays), file.provenance)
        write_whole(content / INDEX, index.model_dump_json(indent=2) + "\n")
        write_whole(content / "README.md", model_card(index))
        content.rename(folder)
    except OSError as error:
        raise StoreError(f"cannot write {str(folder)!r} ({error.strerror or error}); check the folder's permissions") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def import_hub(
    source: str | Path,
    *,
    trait: str | None = None,
    strategy: str | None = None,
    checkpoint: str | None = None,
    position: str = "response_avg",
    revision: str | None = None,
) -> PersonaVector:
    """Read one vector of a published folder. Of a repository on the hub only its index and that vector are fetched.

    Args:
        source: a folder, or the id of a repository on the hub.
        trait: whose vector; may be left out where there is one only, as may `strategy` and `checkpoint`.
        strategy: how it was elicited.
        checkpoint: whose activations it was made from.
        position: which of the file's arrays.
        revision: branch, tag or commit of the repository.

    Raises:
        InputError: no such folder, repository, revision or vector, several vectors that fit, or an index that cannot be read.
        StoreError: the vector's file is broken, or is not the one that the index tells of.
    """
    index, place = read_index(source, revision=revision)
    entry = _choose(index, {"trait": trait, "strategy": strategy, "checkpoint": checkpoint}, str(source))
    if position not in entry.arrays:
        raise InputError(f"{entry.path!r} in {str(source)!r} holds no vector {position!r}, but {', '.join(entry.arrays)}")
    path = place.file(entry.path)
    vector = PersonaVector.load(path, position)
    origin = vector.provenance
    found = (origin.trait, origin.strategy, origin.checkpoint, vector.layers, vector.hidden)
    if found != (entry.trait, entry.strategy, entry.checkpoint, index.layers, index.hidden):
        raise StoreError(
            f"{entry.path!r} in {str(source)!r} is not the vector that {INDEX} tells of: it is of "
            f"{', '.join(map(str, found[:3]))}, {found[3]} layers x {found[4]}; ask its publisher, or fetch it again"
        )
    return vector


@dataclass(frozen=True, slots=True)
class _Folder:
    """A published folder on this machine."""

    root: Path

    def file(self, name: str) -> Path:
        return self.root / PurePosixPath(name)


@dataclass(frozen=True, slots=True)
class _Repository:
    """A published folder on the hub, at one commit once the first file is here."""

    name: str
    revision: str | None

    def file(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download

        at = f" at revision {self.revision!r}" if self.revision else ""
        try:
            return Path(hf_hub_download(self.name, name, revision=self.revision))
        except Exception as error:  # the hub, its cache and the network raise many kinds
            first = (str(error).strip().splitlines() or ["no message"])[0]
            raise InputError(
                f"cannot fetch {name!r} of {self.name!r}{at} ({type(error).__name__}: {first}), and no such folder is here; "
                "check the spelling, the revision, the network, and whether the repository needs a login"
            ) from error


def read_index(source: str | Path, *, revision: str | None = None) -> tuple[HubIndex, _Folder | _Repository]:
    """Read what vectors a published folder or repository holds, and where its files are to be had.

    Raises:
        InputError: no such folder, repository or revision, or an index that cannot be read.
    """
    name = str(source)
    place: _Folder | _Repository
    if Path(name).is_dir():
        if revision is not None:
            raise InputError(
                f"{name!r} is a folder on this machine, which has no revision {revision!r}; leave the revision out"
            )
        place = _Folder(Path(name))
        path = place.file(INDEX)
    elif HUB_ID.fullmatch(name):
        path = _Repository(name, revision).file(INDEX)
        place = _Repository(name, path.parent.name if path.parent.parent.name == "snapshots" else revision)
    else:
        raise InputError(f"{name!r} is neither a folder here nor an id of the hub, such as 'user/name'; check the spelling")
    try:
        if path.stat().st_size > LARGEST_INDEX_BYTES:
            raise InputError(f"{INDEX} of {name!r} is larger than {LARGEST_INDEX_BYTES >> 20} MB, so it is no index of vectors")
        return HubIndex.model_validate_json(path.read_bytes()), place
    except ValidationError as error:
        raise InputError(f"{INDEX} of {name!r} is no index of vectors that can be read:\n{misfit(error)}") from error
    except OSError as error:
        raise InputError(
            f"{name!r} holds no {INDEX} that can be read ({error.strerror or error}); is it a published folder?"
        ) from error


def _choose(index: HubIndex, wanted: Mapping[str, str | None], source: str) -> HubEntry:
    asked = {field: name for field, name in wanted.items() if name is not None}
    for field, name in asked.items():
        known = list(dict.fromkeys(getattr(entry, field) for entry in index.vectors))
        if name not in known:
            raise InputError(f"{source!r} holds no vector of {field} {name!r}; it holds {_some(known)}")
    fitting = [entry for entry in index.vectors if all(getattr(entry, field) == name for field, name in asked.items())]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise InputError(f"{source!r} holds no vector of {' and '.join(f'{f} {n!r}' for f, n in asked.items())} together")
    open_fields = {f: list(dict.fromkeys(getattr(entry, f) for entry in fitting)) for f in wanted if f not in asked}
    choices = "; ".join(f"{field}: {_some(names)}" for field, names in open_fields.items() if len(names) > 1)
    raise InputError(f"{source!r} holds {len(fitting)} vectors that fit; say which. {choices or 'The index names one twice'}")


def _some(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _of_run(run: Path) -> list[_Published]:
    """Return what is published of a run, checkpoints in the order of training."""
    paths = sorted(run.glob("cells/*/*/*/vector.safetensors"))
    if not paths:
        raise InputError(f"{str(run)!r} holds no vectors (cells/*/*/*/vector.safetensors); give the directory of a run")
    found = []
    for path in paths:
        arrays, provenance = load_arrays(path)
        kept = {name: arrays[name] for name in PUBLISHED if name in arrays}
        if not kept:
            raise StoreError(f"{str(path)!r} holds no vector ({', '.join(PUBLISHED)}); it is not of a run")
        found.append(_published(kept, provenance, str(path)))
    return sorted(found, key=lambda file: (file.entry.trait, file.entry.strategy, _steps(file.entry.checkpoint)))


def _of_vector(number: int, vector: PersonaVector) -> _Published:
    name = vector.provenance.position
    return _published({name: vector.array}, vector.provenance, f"vector {number}")


def _published(arrays: Mapping[str, Floats], provenance: Provenance, what: str) -> _Published:
    names = (provenance.trait, provenance.strategy, provenance.checkpoint)
    if not all(names):
        absent = ", ".join(f for f, n in zip(("trait", "strategy", "checkpoint"), names, strict=True) if not n)
        raise InputError(
            f"{what} does not say its {absent}, which its place in the folder is made of; set it in its provenance"
        )
    entry = HubEntry(
        trait=names[0] or "",
        strategy=names[1] or "",
        checkpoint=names[2] or "",
        arrays=list(arrays),
        n_pairs=provenance.n_pairs,
        n_questions=provenance.n_questions,
        fragile=provenance.fragile,
    )
    return _Published(
        entry, arrays, replace(provenance, source=_public(provenance.source), judge=_public_judge(provenance.judge))
    )


def _index(files: list[_Published]) -> HubIndex:
    """Return the index of the files, which must be of one model and of different names."""
    if not files:
        raise InputError("there are no vectors to publish; give at least one")
    paths: set[str] = set()
    for file in files:
        if file.entry.path.casefold() in paths:
            raise InputError(
                f"two vectors would be written to {file.entry.path!r}; give one of each trait, strategy and checkpoint"
            )
        paths.add(file.entry.path.casefold())
    shapes = sorted({array.shape for file in files for array in file.arrays.values()})
    lineages = sorted({file.provenance.lineage or "unknown" for file in files})
    if len(shapes) > 1 or len(lineages) > 1:
        found = ", ".join(str(list(shape)) for shape in shapes) + f" of {', '.join(lineages)}"
        raise InputError(f"a published folder is of one model, and these vectors are {found}; publish each model apart")
    sources = {file.provenance.source or "" for file in files}
    return HubIndex(
        lineage=files[0].provenance.lineage,
        base_model=sorted(source for source in sources if HUB_ID.fullmatch(source)),
        layers=shapes[0][0] - 1,
        hidden=shapes[0][1],
        layer_conventions=sorted({file.provenance.layer_convention for file in files}),
        vectors=[file.entry for file in files],
    )


def _steps(checkpoint: str) -> list[tuple[int, str]]:
    """Return a key that puts step 1000 after step 20."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", checkpoint)]


def _public(source: str | None) -> str | None:
    """Return a hub id as it is, and of a path on this machine its last part only."""
    if source is None or (HUB_ID.fullmatch(source) and not Path(source).exists()):
        return source
    return re.split(r"[/\\]", source.rstrip("/\\"))[-1] or None


def _public_judge(judge: str | None) -> str | None:
    """Return a judge's name without the folders of a path in it, such as that of `local:` judges."""
    kind, found, rest = (judge or "").partition(":")
    if not found or HUB_ID.fullmatch(rest) or "://" in rest:
        return judge
    return f"{kind}:{_public(rest) or ''}"
