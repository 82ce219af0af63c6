"""Vectors of other tools: the paper's `.pt` files, read and written.

A `.pt` file is read with weights only, so it can hold tensors and nothing that runs. The paper's arrays have the same row
index as ours, but their last row was read after the final norm; that is recorded and such a row is refused for steering.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch

from traitline.errors import InputError
from traitline.files import write_whole
from traitline.vectors.vector import LAST_AFTER_NORM, PersonaVector, spans


def import_pt(path: str | Path, *, lineage: str | None = None, checkpoint: str | None = None) -> PersonaVector:
    """Read a vector of the paper's release, a tensor [layers + 1, hidden].

    The trait and the position are taken from a file name such as `evil_response_avg_diff.pt`, the checkpoint from the
    folder's name unless given.

    Raises:
        InputError: no such file, or it holds anything but one such tensor.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"vector file {str(path)!r} does not exist")
    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError ...
        raise InputError(
            f"{str(path)!r} cannot be read as a tensor file ({type(error).__name__}); it is truncated, or holds more than "
            "tensors, which is never loaded"
        ) from error
    if not isinstance(tensor, torch.Tensor):
        raise InputError(f"{str(path)!r} holds a {type(tensor).__name__}, not one tensor [layers + 1, hidden]")
    trait, position = _from_name(path.stem)
    return PersonaVector.from_array(
        tensor.detach().float().numpy(),
        lineage=lineage,
        checkpoint=checkpoint or path.parent.name or None,
        source=path.name,
        trait=trait,
        position=position,
        layer_convention=LAST_AFTER_NORM,
        software="imported",
    )


def export_pt(vector: PersonaVector, path: str | Path) -> Path:
    """Write a vector in the paper's form: one float32 tensor [layers + 1, hidden]. Returns the path.

    Raises:
        InputError: it has no direction at some layer, and this form has no way to say so.
    """
    if np.isnan(vector.array).any():
        raise InputError(
            f"this vector has directions only at layers {spans(vector.held_layers)}, and a .pt file has a row for every layer "
            "and the embeddings; keep it as .safetensors or .gguf"
        )
    buffer = io.BytesIO()
    torch.save(torch.from_numpy(vector.array).clone(), buffer)
    write_whole(Path(path), buffer.getvalue())
    return Path(path)


def _from_name(stem: str) -> tuple[str | None, str]:
    for position in ("response_avg", "prompt_avg", "prompt_last"):
        head, found, _ = stem.partition(f"_{position}")
        if found:
            return head or None, position
    return None, "response_avg"
