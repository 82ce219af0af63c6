"""The vectors of a release, each file read once.

Knows the `.pt` files and which of them can be used: one tensor of floats, of the shape that most of the model's have. What
cannot be used is a finding in the audit, and its place stays, empty. Leaves comparing them to `directions.py`.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from traitline.published.extraction import statuses
from traitline.published.release import VECTORS, Release

Array = NDArray[np.float32]
Name = tuple[str, str]


@dataclass(frozen=True)
class Vectors:
    """The vectors of one model.

    Attributes:
        model: its name.
        arrays: (trait, strategy) -> revision -> `[layers + 1, hidden]`, in order of training; None where no vector can be used.
        places: revision -> its tokens, NaN where unknown; revisions whose names cannot be read are not in it.
    """

    model: str
    arrays: dict[Name, dict[str, Array | None]]
    places: dict[str, float]

    @cached_property
    def shape(self) -> tuple[int, ...] | None:
        """The shape that the vectors have; None where none can be used."""
        every = (array for named in self.arrays.values() for array in named.values() if array is not None)
        return next((array.shape for array in every), None)

    @property
    def depth(self) -> int:
        """Layers + 1."""
        return self.shape[0] if self.shape else 0

    def usable(self, name: Name, layers: Sequence[int]) -> dict[str, Array]:
        """Return revision -> `[layers wanted, hidden]` of the vectors that can be used."""
        return {revision: at_layers(array, layers) for revision, array in self.arrays[name].items() if array is not None}

    def padded(self, name: Name, layers: Sequence[int]) -> dict[str, Array]:
        """Return the same with NaN for the vectors that cannot be used."""
        width = self.shape[1] if self.shape else 0
        empty = np.full((len(layers), width), np.nan, dtype=np.float32)
        return {revision: empty if array is None else at_layers(array, layers) for revision, array in self.arrays[name].items()}


def read_vectors(release: Release, model: str) -> Vectors:
    """Read every vector of a model, and note what cannot be used."""
    paths = {(revision, name): path for revision, name, path in release.vector_files(model)}
    raw = {key: _load(release, model, path) for key, path in paths.items()}
    shapes = Counter(array.shape for array in raw.values() if array is not None and array.ndim == 2 and array.size)
    shape = shapes.most_common(1)[0][0] if shapes else None
    for key, array in raw.items():
        if array is not None:
            raw[key] = _checked(release, model, paths[key], array, shape)
    keys = {*paths, *statuses(release, model)}
    order = release.ordered(model, (revision for revision, _ in keys))
    places = {revision: place.tokens for revision in order if (place := release.place(model, revision)) is not None}
    for revision in order:
        if revision not in places:
            count = sum(one == revision for one, _ in keys)
            text = "its place in training cannot be read from its name; it stands last in matrices and in no trajectory"
            release.audit.add("unreadable_revision", (VECTORS / model / revision).as_posix(), count, text, model=model)
    names = sorted({name for _, name in keys})
    arrays = {
        release.split(name): {revision: raw.get((revision, name)) for revision in order if (revision, name) in keys}
        for name in names
    }
    return Vectors(model, arrays, places)


def _load(release: Release, model: str, path: Path) -> Array | None:
    """Return the one tensor of floats that a file holds; None where it holds anything else, which is noted."""
    import torch

    if os.path.islink(path) and not os.path.exists(path):
        problem = "it is a link to a file that is not there"
    elif os.path.isdir(path):
        problem = "it is a folder"
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                tensor = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                array: Array = tensor.detach().float().numpy()
                return array
            problem = f"it holds {_kind(tensor)} and not one tensor of floats"
        except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError ...
            problem = f"it is truncated, or holds more than tensors ({type(error).__name__})"
    text = f"the vector cannot be read: {problem}; its cosines are empty"
    release.audit.add("unreadable_vector", release.file(path), 1, text, model=model)
    return None


def _kind(value: object) -> str:
    dtype = getattr(value, "dtype", None)
    return f"a {type(value).__name__}" if dtype is None else f"numbers of the kind {str(dtype).removeprefix('torch.')}"


def _checked(release: Release, model: str, path: Path, array: Array, shape: tuple[int, ...] | None) -> Array | None:
    """Return a vector that has the shape of the others, None otherwise; note layers without a direction."""
    if array.shape != shape:
        others = f"most of the model's have {list(shape)}" if shape else "a vector is [layers + 1, hidden]"
        text = f"the vector has shape {list(array.shape)}, and {others}; its cosines are empty"
        release.audit.add("mismatched_shape", release.file(path), 1, text, model=model)
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        length = np.abs(array).max(axis=1)
    void = np.flatnonzero(~np.isfinite(length) | (length == 0))
    if len(void):
        text = f"layers {listed(void)} are zero or not finite and have no direction; their cosines are empty"
        release.audit.add("zero_layer", release.file(path), len(void), text, model=model)
    return array


def at_layers(array: Array, layers: Sequence[int]) -> Array:
    """Return some layers of a vector, itself where they are all."""
    return array if len(layers) == len(array) else array[list(layers)]


def listed(values: Iterable[object]) -> str:
    """Return values in a row for a sentence, the first ten of them."""
    names = [str(value) for value in values]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
