"""GGUF control vectors, the files that llama.cpp steers with and that repeng and llama.cpp's own generator write.

Knows their layer convention: the tensor `direction.N` is added to the output of block N counted from zero, so it is our layer
N + 1. llama.cpp refuses `direction.0`, so our layer 1 cannot be written; repeng may write it, and it is read. Knows what a
`norm` dose is there: llama.cpp adds scale x direction, at every position of prompt and response and at all layers of the file
at once. Leaves the bytes to `gguf_container.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from traitline.errors import InputError
from traitline.files import write_whole
from traitline.vectors.dose import norm_dose
from traitline.vectors.gguf_container import GgufHeader, gguf_bytes, read_header, read_tensor
from traitline.vectors.vector import LAST_AFTER_NORM, LAYER_CONVENTION, Floats, PersonaVector, Provenance, spans

ARCHITECTURE = "controlvector"
DEPTH_KEY, PROVENANCE_KEY = "traitline.layers", "traitline.provenance"
DIRECTION = re.compile(r"direction\.(0|[1-9][0-9]{0,8})")
FIRST_LAYER = 2
"""The lowest layer that llama.cpp steers."""
DEEPEST, WIDEST = 1000, 131_072
"""No network has more blocks or a wider residual stream; a file that says so would only fill the memory."""


def export_gguf(
    vector: PersonaVector,
    path: str | Path,
    *,
    layers: Iterable[int] | None = None,
    coef: float | None = None,
    activation_norms: Sequence[float] | Floats | None = None,
    model_hint: str | None = None,
    allow_after_norm: bool = False,
) -> Path:
    """Write a vector as a GGUF control vector. Returns the path.

    llama.cpp adds `scale x direction` (`--control-vector-scaled FILE:SCALE`), which is a `raw` dose at all positions. To get a
    `norm` dose of `coef` at one layer, give `scale = coef x activation norm / |direction|`; or give `coef` here, and a scale of
    1 does what `steer(vector, layer, coef, positions="all")` does.

    Args:
        vector: what to write. Its provenance is kept in the file.
        path: the file to write.
        layers: which of its layers 2..L; all it has by default, without a last one that was read after the final norm.
        coef: `norm` dose that a scale of 1 is to mean. `layers` must be given too: llama.cpp steers at all of a file's layers.
        activation_norms: [layers + 1], of the network to be steered, for `coef`; by default those the vector was made with.
        model_hint: the architecture's name, such as `llama`. Tools show it, and llama.cpp does not check it.
        allow_after_norm: write a last layer that was read after the final norm all the same.

    Raises:
        InputError: a layer that cannot be written, or a dose that cannot be resolved.
    """
    chosen = _writable(vector, layers, allow_after_norm)
    if coef is None and activation_norms is not None:
        raise InputError("activation norms mean nothing without a norm dose; give coef too, or leave them out")
    provenance = vector.provenance
    if coef is None:
        directions = {layer: vector.at(layer) for layer in chosen}
    else:
        if layers is None:
            raise InputError(
                "a norm dose is meant for one layer, and llama.cpp steers at all layers of a file; name the layers to write"
            )
        directions = _dosed(vector, chosen, coef, activation_norms)
        provenance = replace(provenance, estimator=f"{provenance.estimator}, norm dose {coef:g}")
    metadata: dict[str, str | int] = {
        "general.architecture": ARCHITECTURE,
        f"{ARCHITECTURE}.model_hint": model_hint or "unknown",
        f"{ARCHITECTURE}.layer_count": len(directions),
        DEPTH_KEY: vector.layers,
        PROVENANCE_KEY: provenance.to_json(),
    }
    write_whole(Path(path), gguf_bytes(metadata, {f"direction.{layer - 1}": row for layer, row in directions.items()}))
    return Path(path)


def import_gguf(path: str | Path, *, depth: int | None = None) -> PersonaVector:
    """Read a GGUF control vector, of traitline, repeng or llama.cpp.

    Layers that the file does not hold have no direction in the vector (`held_layers` names those that do), and steering at
    them is refused. A file of another tool does not say which position was read nor how, so these are `unknown`; and as
    repeng reads the last block after the final norm, a last layer from such a file is marked as read there.

    Args:
        path: the file.
        depth: number of blocks of the network it belongs to. By default what the file says or, from other tools, one more
            than its last layer's index, since they write all layers up to the last.

    Raises:
        InputError: no such file, one that is damaged, no control vector, or directions that cannot be used.
    """
    path = Path(path)
    header = read_header(path)
    found = _found(path, header)
    directions = {layer: _direction(path, header, name) for layer, name in found.items()}
    own = _own(path, header)
    said, known = own or (None, None)
    if depth is not None and said is not None and depth != said:
        raise InputError(f"{str(path)!r} says that its network has {said} blocks, not {depth}; leave the depth out")
    layers = depth or said or max(found)
    if not max(found) <= layers <= DEEPEST:
        raise InputError(
            f"{str(path)!r} has a direction at layer {max(found)} (direction.{max(found) - 1}), which a network of {layers} "
            f"blocks has not; give the number of its blocks as depth, {DEEPEST} at most"
        )
    if known is None:
        known = Provenance(
            source=path.name,
            position="unknown",
            estimator="unknown",
            layer_convention=LAST_AFTER_NORM if layers in found else LAYER_CONVENTION,
            software="imported",
        )
    elif known.activation_norms is not None and len(known.activation_norms) != layers + 1:
        raise InputError(f"{str(path)!r} has activation norms of {len(known.activation_norms) - 1} layers, not {layers}")
    try:
        return replace(PersonaVector.from_directions(directions, layers), provenance=known)
    except InputError as error:
        raise InputError(f"{str(path)!r} cannot be used: {error}") from error


def written_layers(path: str | Path) -> tuple[int, ...]:
    """Return the layers at which a GGUF control vector has a direction, in traitline's count (`direction.N` is layer N + 1).

    Raises:
        InputError: no such file, one that is damaged, or no control vector.
    """
    return tuple(sorted(_found(Path(path), read_header(Path(path)))))


def _writable(vector: PersonaVector, layers: Iterable[int] | None, allow_after_norm: bool) -> list[int]:
    """Return the layers to write, ascending."""
    after_norm = vector.provenance.layer_convention == LAST_AFTER_NORM and not allow_after_norm
    possible = [n for n in vector.held_layers if n >= FIRST_LAYER and not (after_norm and n == vector.layers)]
    chosen = possible if layers is None else sorted(set(layers))
    for layer in chosen:
        vector.at(layer)
        if layer < FIRST_LAYER:
            raise InputError(
                "layer 1 cannot be written: llama.cpp never steers its first block, and refuses direction.0; choose another"
            )
        if layer not in possible:
            raise InputError(
                f"layer {layer} of this vector was read after the final norm, which is not where llama.cpp adds; "
                "choose an earlier layer, or give allow_after_norm=True"
            )
    if not chosen:
        raise InputError(
            "there is no layer to write: llama.cpp steers from layer 2 on, before the final norm, "
            f"and this vector has directions at {spans(vector.held_layers)}"
        )
    return chosen


def _dosed(
    vector: PersonaVector, layers: Sequence[int], coef: float, activation_norms: Sequence[float] | Floats | None
) -> dict[int, Floats]:
    norms = vector.provenance.activation_norms if activation_norms is None else activation_norms
    if norms is None:
        raise InputError(
            "this vector does not say the activation norms of its network, which a norm dose needs; give activation_norms, "
            "or leave coef out and scale in llama.cpp"
        )
    if len(norms) != vector.layers + 1:
        raise InputError(
            f"the vector has {vector.layers} layers, the activation norms {len(norms) - 1}; give one per layer, from 0"
        )
    if not np.isfinite(coef):
        raise InputError(f"the coefficient must be a finite number, not {coef}")
    return {layer: norm_dose(vector.at(layer), coef, float(norms[layer])) for layer in layers}


def _found(path: Path, header: GgufHeader) -> dict[int, str]:
    """Return layer -> tensor name of a control vector."""
    kind = header.metadata.get("general.architecture")
    if kind != ARCHITECTURE:
        raise InputError(
            f"{str(path)!r} is no control vector: its general.architecture is {_short(kind)}, not {ARCHITECTURE!r}"
        )
    found: dict[int, str] = {}
    for name in header.tensors:
        match = DIRECTION.fullmatch(name)
        if match is None or int(match[1]) >= DEEPEST:
            raise InputError(
                f"{str(path)!r} holds a tensor {_short(name)}; "
                f"a control vector holds nothing but direction.0 to direction.{DEEPEST - 1}"
            )
        found[int(match[1]) + 1] = name
    if not found:
        raise InputError(f"{str(path)!r} holds no direction, so there is nothing to steer with")
    return found


def _direction(path: Path, header: GgufHeader, name: str) -> Floats:
    tensor = header.tensors[name]
    if len(tensor.shape) != 1 or not 1 <= tensor.shape[0] <= WIDEST:
        raise InputError(
            f"tensor {name!r} in {str(path)!r} has shape {list(tensor.shape)}; a direction is one row of 1 to {WIDEST} numbers"
        )
    first = next(iter(header.tensors.values()))
    if tensor.shape != first.shape:
        raise InputError(
            f"{str(path)!r} holds directions of {first.shape[0]} and of {tensor.shape[0]} numbers ({name}), "
            "which cannot belong to one network"
        )
    with np.errstate(over="ignore"):  # a float64 too large for float32 becomes infinite, and is refused
        values: Floats = read_tensor(path, name, tensor).astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError(
            f"tensor {name!r} in {str(path)!r} holds {int((~np.isfinite(values)).sum())} values that are NaN or infinite"
        )
    return values


def _own(path: Path, header: GgufHeader) -> tuple[int, Provenance] | None:
    """Return the depth and provenance that traitline wrote into the file; None in a file of another tool."""
    depth, text = header.metadata.get(DEPTH_KEY), header.metadata.get(PROVENANCE_KEY)
    if depth is None and text is None:
        return None
    try:
        if type(depth) is not int or not isinstance(text, str):
            raise ValueError(f"{DEPTH_KEY} is {_short(depth)} and {PROVENANCE_KEY} {_short(text)}")
        return depth, Provenance.from_json(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{str(path)!r} says where it came from in a way that cannot be read ({error}); make it again"
        ) from error


def _short(value: Any) -> str:
    return "missing" if value is None else repr(value if not isinstance(value, str) else value[:60])
