"""The persona vector: one direction per layer, and where it came from.

Knows the layer convention, arithmetic, and the safetensors file. A layer without a direction, as files of other tools have,
is a row of NaN: it is never zero, and steering there is refused. Leaves to `estimators.py` how a vector is made of rows, to
`controls.py` what it is compared with, and to `interop.py` and `gguf_files.py` the files of others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traitline.errors import InputError, StoreError, nearest
from traitline.files import write_whole

LAYER_CONVENTION = "0 = embeddings, l = output of block l before the final norm"
LAST_AFTER_NORM = "0 = embeddings, l = output of block l, the last entry after the final norm"
FRAGILE_PAIRS, FRAGILE_QUESTIONS = 10, 5
SHARED = ("lineage", "checkpoint", "source", "commit", "trait", "strategy", "judge", "prompt_hash", "activation_norms")
"""What a sum or a difference keeps of its parts' provenance only where they agree."""

Floats = NDArray[np.float32]


def software() -> str:
    """Return the name and version that go into every file."""
    return f"traitline {version('traitline')}"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a vector came from. Fields that do not apply are None.

    Attributes:
        lineage: the lineage's name.
        checkpoint: the revision whose activations it was made from.
        source: hub id or directory loaded.
        commit: the hub's commit hash.
        trait: the trait's name.
        strategy: how the trait was elicited.
        position: which segment was averaged: `response_avg`, `prompt_avg` or `prompt_last`.
        estimator: how rows became a vector.
        layer_convention: what the row index of the array means.
        n_pairs: accepted pairs behind it.
        n_questions: distinct questions among them.
        judge: who accepted the pairs.
        prompt_hash: hash of the trait's texts.
        activation_norms: the network's activation norm per layer, [layers + 1].
        software: what made it.
    """

    lineage: str | None = None
    checkpoint: str | None = None
    source: str | None = None
    commit: str | None = None
    trait: str | None = None
    strategy: str | None = None
    position: str = "response_avg"
    estimator: str = "pairs"
    layer_convention: str = LAYER_CONVENTION
    n_pairs: int | None = None
    n_questions: int | None = None
    judge: str | None = None
    prompt_hash: str | None = None
    activation_norms: tuple[float, ...] | None = None
    software: str = field(default_factory=software)

    @property
    def fragile(self) -> bool:
        """Whether it rests on too few pairs or questions to lean on; unknown counts are not fragile."""
        few = self.n_pairs is not None and self.n_pairs < FRAGILE_PAIRS
        return few or (self.n_questions is not None and self.n_questions < FRAGILE_QUESTIONS)

    def to_json(self) -> str:
        """Return it as one JSON object, which is what files carry."""
        return json.dumps(asdict(self), sort_keys=True, default=lambda value: value.tolist())  # numpy's numbers

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """Read what `to_json` wrote, from a file that anyone may have written.

        Raises:
            ValueError: not one JSON object, a field that does not exist, or a value of the wrong kind.
        """
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError(f"the provenance is a {type(fields).__name__}, not an object")
        for name, value in fields.items():
            if name not in cls.__dataclass_fields__:
                raise ValueError(f"the provenance has a field {name!r}, which is unknown; a newer traitline may read it")
            required = name in ("position", "estimator", "layer_convention", "software")
            if not (value is None and not required) and not _fits(name, value):
                raise ValueError(f"the provenance's {name} cannot be {str(value)[:60]!r}")
        if fields.get("activation_norms") is not None:
            fields["activation_norms"] = tuple(fields["activation_norms"])
        return cls(**fields)


def _fits(name: str, value: Any) -> bool:
    """Tell whether a value can stand in a field of the provenance."""
    if name in ("n_pairs", "n_questions"):
        return type(value) is int
    if name == "activation_norms":
        return isinstance(value, list) and all(type(one) in (int, float) and 0 <= one < math.inf for one in value)
    return isinstance(value, str)


@dataclass(frozen=True, eq=False)
class PersonaVector:
    """A direction per layer, float32 [layers + 1, hidden], with its provenance."""

    array: Floats
    provenance: Provenance = field(default_factory=Provenance)

    @classmethod
    def from_array(cls, array: Any, **provenance: Any) -> PersonaVector:
        """Make a vector of anything array-like, [layers + 1, hidden].

        Raises:
            InputError: not numbers, the wrong number of dimensions, or NaN or infinity in it.
        """
        try:
            values = np.array(array, dtype=np.float32)
        except (TypeError, ValueError) as error:  # ragged lists, text, tensors on a GPU or in bfloat16
            raise InputError(f"a persona vector is an array of numbers, [layers + 1, hidden]; this is not: {error}") from error
        if values.ndim != 2 or values.shape[0] < 2:
            raise InputError(f"a persona vector is [layers + 1, hidden]; this array has shape {list(values.shape)}")
        if not np.isfinite(values).all():
            raise InputError(f"the array holds {int((~np.isfinite(values)).sum())} values that are NaN or infinite")
        return cls(values, Provenance(**provenance))

    @classmethod
    def from_directions(cls, directions: Mapping[int, Any], layers: int, **provenance: Any) -> PersonaVector:
        """Make a vector of the directions at some layers; the others have none, and steering at them is refused.

        Args:
            directions: layer 0..L -> direction [hidden].
            layers: number of blocks L of the network it belongs to.
            provenance: fields of `Provenance`.

        Raises:
            InputError: no direction, a layer out of range, or directions that are not finite numbers of one width.
        """
        rows = dict(sorted(directions.items()))
        outside = [layer for layer in rows if not 0 <= layer <= layers]
        if not rows or outside:
            raise InputError(
                f"there is no layer {outside[0]} in a network of {layers} blocks" if outside else "there is no direction"
            )
        stack = [np.zeros_like(next(iter(rows.values()))), *rows.values()]  # two rows at least
        known = cls.from_array(stack, **provenance)
        array = np.full((layers + 1, known.hidden), np.nan, dtype=np.float32)
        array[list(rows)] = known.array[1:]
        return replace(known, array=array)

    @property
    def layers(self) -> int:
        """Number of blocks L of the network it belongs to."""
        return int(self.array.shape[0]) - 1

    @property
    def hidden(self) -> int:
        """Width of the residual stream it belongs to."""
        return int(self.array.shape[1])

    @property
    def held_layers(self) -> tuple[int, ...]:
        """The layers 1..L at which it has a direction: all, but for vectors from files that hold only some."""
        return tuple(layer for layer in range(1, self.layers + 1) if not np.isnan(self.array[layer, 0]))

    @property
    def norms(self) -> Floats:
        """L2 norm per layer, [layers + 1]; NaN where there is no direction."""
        norms: Floats = np.linalg.norm(self.array, axis=1)
        return norms

    def at(self, layer: int) -> Floats:
        """Return the direction at one layer 1..L, [hidden].

        Raises:
            InputError: no such layer, or no direction there.
        """
        if not 1 <= layer <= self.layers:
            raise InputError(f"layer {layer} is out of range: this vector can steer at layers 1 to {self.layers}")
        direction: Floats = self.array[layer]
        if np.isnan(direction).any():
            held = spans(self.held_layers)
            raise InputError(f"this vector has no direction at layer {layer}, only at {held}; choose one of these")
        return direction

    def cosine(self, other: PersonaVector) -> Floats:
        """Return the cosine to another vector at each layer, [layers + 1]; NaN where either is zero or absent."""
        self._same_shape(other)
        norms = self.norms * other.norms
        dots = np.einsum("lh,lh->l", self.array, other.array)
        cosines: Floats = np.divide(dots, norms, out=np.full(len(norms), np.nan, dtype=np.float32), where=norms > 0)
        return cosines

    def __add__(self, other: PersonaVector) -> PersonaVector:
        self._same_shape(other)
        return self._derived(self.array + other.array, "sum", other)

    def __sub__(self, other: PersonaVector) -> PersonaVector:
        self._same_shape(other)
        return self._derived(self.array - other.array, "difference", other)

    def __mul__(self, factor: float) -> PersonaVector:
        return replace(self, array=(self.array * factor).astype(np.float32))

    __rmul__ = __mul__

    def __neg__(self) -> PersonaVector:
        return self * -1.0

    def unit(self) -> PersonaVector:
        """Return the vector scaled to norm 1 at every layer; a zero layer stays zero, an absent one absent."""
        norms = self.norms[:, None]
        return replace(self, array=np.divide(self.array, norms, out=np.zeros_like(self.array), where=norms != 0))

    def without(self, other: PersonaVector) -> PersonaVector:
        """Return the part of this vector orthogonal to another at every layer."""
        self._same_shape(other)
        axis = other.unit().array
        return self._derived(self.array - np.einsum("lh,lh->l", self.array, axis)[:, None] * axis, "orthogonal part", other)

    def save(self, path: str | Path) -> Path:
        """Write the vector as safetensors, its provenance in the header. Returns the path."""
        save_arrays(Path(path), {self.provenance.position: self.array}, self.provenance)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path, name: str = "response_avg") -> PersonaVector:
        """Read one vector of a safetensors file; a file that holds one only gives that one.

        Raises:
            InputError: no such file, or no vector of that name in it.
            StoreError: the file is broken, or its vector is.
        """
        arrays, provenance = load_arrays(Path(path))
        matrices = [key for key, value in arrays.items() if value.ndim == 2]
        if name not in matrices:
            if len(matrices) != 1:
                raise InputError(f"{str(path)!r} holds no vector {name!r}; {nearest(name, matrices)}")
            name = matrices[0]
        position = name.removeprefix("balanced_")
        estimator = "balanced" if name.startswith("balanced_") else provenance.estimator
        _check_rows(Path(path), name, arrays[name], provenance)
        return cls(arrays[name], replace(provenance, position=position, estimator=estimator))

    def _same_shape(self, other: PersonaVector) -> None:
        if self.array.shape != other.array.shape:
            raise InputError(
                f"vectors of shapes {list(self.array.shape)} and {list(other.array.shape)} cannot be combined; "
                "they come from models of different depth or width"
            )

    def _derived(self, array: Floats, how: str, other: PersonaVector) -> PersonaVector:
        """Make a vector of this one and another: what they do not share is unknown, counts are the smaller, warnings stay."""
        mine, theirs = self.provenance, other.provenance
        unshared: dict[str, Any] = {name: None for name in SHARED if getattr(mine, name) != getattr(theirs, name)}
        conventions = {mine.layer_convention, theirs.layer_convention}
        provenance = replace(
            mine,
            **unshared,
            estimator=how,
            n_pairs=_fewest(mine.n_pairs, theirs.n_pairs),
            n_questions=_fewest(mine.n_questions, theirs.n_questions),
            layer_convention=LAST_AFTER_NORM if LAST_AFTER_NORM in conventions else mine.layer_convention,
        )
        return PersonaVector(array, provenance)


def spans(layers: Sequence[int]) -> str:
    """Return ascending layers as a phrase, such as `2, 4 to 8`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs) or "none"


def _check_rows(path: Path, name: str, array: Floats, provenance: Provenance) -> None:
    """Refuse a vector whose rows are neither finite nor absent as a whole, or whose activation norms are of another depth."""
    absent = np.isnan(array).all(axis=1)
    norms = provenance.activation_norms
    if min(array.shape) == 0 or absent.all() or not np.isfinite(array[~absent]).all():
        problem = "has values that are NaN or infinite" if array.size else "is empty"
    elif norms is not None and len(norms) != len(array):
        problem = f"has {len(array) - 1} layers, its activation norms {len(norms) - 1}"
    else:
        return
    raise StoreError(f"vector {name!r} in {str(path)!r} {problem}; the file is broken, make or fetch it again")


def _fewest(*counts: int | None) -> int | None:
    return min((count for count in counts if count is not None), default=None)


def save_arrays(path: Path, arrays: dict[str, Floats], provenance: Provenance) -> None:
    """Write named float32 arrays with a provenance as one safetensors file, whole or not at all."""
    from safetensors.numpy import save

    tensors = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in arrays.items()}
    write_whole(path, save(tensors, metadata={"traitline": provenance.to_json()}))


def load_arrays(path: Path) -> tuple[dict[str, Floats], Provenance]:
    """Read every array of a safetensors file, and its provenance where it has one.

    Raises:
        InputError: no such file.
        StoreError: the file is truncated, is no safetensors file, or its provenance cannot be read.
    """
    from safetensors import safe_open

    if not path.is_file():
        raise InputError(f"vector file {str(path)!r} does not exist")
    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())  # a safetensors handle is no mapping
            arrays = {name: file.get_tensor(name).astype(np.float32) for name in names}
            header = (file.metadata() or {}).get("traitline", "{}")
        provenance = Provenance.from_json(header)
    except Exception as error:  # safetensors raises its own kinds, OSError on a short read, ValueError on the provenance
        raise StoreError(f"vector file {str(path)!r} is broken ({error}); delete it and run again to rebuild it") from error
    return arrays, provenance
