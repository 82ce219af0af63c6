"""The bytes of a GGUF file: metadata and tensors, read with every length checked, and written.

Knows version 2 and 3 of the format, little-endian. Files come from anywhere, so no count or length in them is believed before
it is known to fit into what is left of the file, and nothing is allocated by their word. Leaves what the metadata and
the tensors mean to `gguf_files.py`.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traitline.errors import InputError

MAGIC, VERSION, VERSIONS = b"GGUF", 3, (2, 3)
ALIGNMENT = 32
STRING, ARRAY, UINT32 = 8, 9, 4
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
FLOATS: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 1: np.dtype("<f2"), 28: np.dtype("<f8")}
"""Type number -> type of the tensors that are read; the others are quantised or integers."""
DEEPEST_ARRAY, MOST_DIMENSIONS = 4, 4

Metadata = dict[str, str | int | float | bool | None]
"""Key -> value; None for an array, which is stepped over."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies in a file, and as what.

    Attributes:
        shape: its dimensions, the fastest first.
        kind: its type's number in the format.
        start: where it begins, counted from the beginning of the file.
    """

    shape: tuple[int, ...]
    kind: int
    start: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Everything that stands before the tensors' numbers."""

    metadata: Metadata
    tensors: dict[str, StoredTensor]


class _Damaged(Exception):  # noqa: N818 - becomes an InputError that names the file
    """What is wrong with the bytes."""


def read_header(path: Path) -> GgufHeader:
    """Read a file's metadata and where its tensors lie.

    Raises:
        InputError: no such file, no GGUF file, or one that is truncated or damaged.
    """
    if not path.is_file():
        raise InputError(f"GGUF file {str(path)!r} does not exist")
    try:
        with path.open("rb") as file:
            if file.read(4) != MAGIC:
                raise InputError(f"{str(path)!r} is no GGUF file: it does not begin with the letters GGUF")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _header(_Cursor(content, 4))
    except _Damaged as damage:
        raise InputError(f"GGUF file {str(path)!r} is truncated or damaged: {damage}; fetch or make it again") from None
    except OSError as error:
        raise InputError(f"GGUF file {str(path)!r} cannot be read ({error.strerror or error})") from error


def read_tensor(path: Path, name: str, tensor: StoredTensor) -> NDArray[np.floating[Any]]:
    """Read one tensor of floating point numbers, in its own precision and with its own dimensions, the slowest first.

    Raises:
        InputError: numbers of another kind, or the file ends before it.
    """
    if tensor.kind not in FLOATS:
        raise InputError(
            f"tensor {name!r} in {str(path)!r} holds numbers of GGUF type {tensor.kind}; "
            "only float32, float16 and float64 are read, so write the file again without quantising"
        )
    dtype, count = FLOATS[tensor.kind], prod(tensor.shape)
    if tensor.start + count * dtype.itemsize > path.stat().st_size:
        raise InputError(f"GGUF file {str(path)!r} is truncated: it ends before tensor {name!r} does; fetch or make it again")
    values: NDArray[np.floating[Any]] = np.fromfile(path, dtype=dtype, count=count, offset=tensor.start)
    return values.reshape(tensor.shape[::-1])


def gguf_bytes(metadata: Mapping[str, str | int], tensors: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Return a version 3 file with these texts and whole numbers (uint32) and float32 tensors."""
    head = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        stored = struct.pack("<I", value) if isinstance(value, int) else _string(value)
        head += [_string(key), struct.pack("<I", UINT32 if isinstance(value, int) else STRING), stored]
    data = bytearray()
    for name, tensor in tensors.items():
        shape = tensor.shape[::-1]
        head += [_string(name), struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))]
        data += tensor.astype("<f4").tobytes()
        data += bytes(-len(data) % ALIGNMENT)
    before = b"".join(head)
    return before + bytes(-len(before) % ALIGNMENT) + bytes(data)


def _string(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return struct.pack("<Q", len(encoded)) + encoded


class _Cursor:
    """A place in the bytes of a file that moves forward only, and never past the end."""

    def __init__(self, content: mmap.mmap, place: int) -> None:
        self.content = content
        self.place = place

    @property
    def left(self) -> int:
        return len(self.content) - self.place

    def skip(self, length: int) -> int:
        """Step over so many bytes. Returns where they begin."""
        if length > self.left:
            raise _Damaged(f"{length} bytes are announced at byte {self.place}, and {self.left} are left")
        self.place += length
        return self.place - length

    def number(self, kind: str) -> Any:
        start = self.skip(struct.calcsize(f"<{kind}"))
        return struct.unpack_from(f"<{kind}", self.content, start)[0]

    def count(self, what: str, smallest: int) -> int:
        """Read how many of something follow, none of which can be shorter than `smallest` bytes."""
        number = int(self.number("Q"))
        if number * smallest > self.left:
            raise _Damaged(f"{number} {what} are announced at byte {self.place}, and {self.left} bytes are left")
        return number

    def text(self) -> str:
        length = int(self.number("Q"))
        start = self.skip(length)
        try:
            return self.content[start : start + length].decode("utf-8")
        except UnicodeDecodeError:
            raise _Damaged(f"the text at byte {start} is not UTF-8") from None

    def value(self, kind: int, depth: int = 0) -> str | int | float | bool | None:
        if kind == STRING:
            return self.text()
        if kind in SCALARS:
            return self.number(SCALARS[kind])  # type: ignore[no-any-return]
        if kind != ARRAY or depth == DEEPEST_ARRAY:
            raise _Damaged(f"a value at byte {self.place} is of type {kind}, which does not exist or is nested too deeply")
        inner = self.number("I")
        if inner in SCALARS:
            size = struct.calcsize(f"<{SCALARS[inner]}")
            self.skip(self.count("numbers", size) * size)
        else:
            for _ in range(self.count("values", 8)):
                self.value(inner, depth + 1)
        return None


def _header(cursor: _Cursor) -> GgufHeader:
    version = cursor.number("I")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
        raise _Damaged("it is big-endian, which is not read" if swapped else f"its version is {version}, and 2 and 3 are read")
    n_tensors, n_entries = cursor.count("tensors", 24), cursor.count("entries", 13)
    metadata: Metadata = {}
    for _ in range(n_entries):
        key = cursor.text()
        if key in metadata:
            raise _Damaged(f"it has the entry {key[:60]!r} twice")
        metadata[key] = cursor.value(cursor.number("I"))
    tensors: dict[str, StoredTensor] = {}
    for _ in range(n_tensors):
        name = cursor.text()
        if name in tensors:
            raise _Damaged(f"it has the tensor {name[:60]!r} twice")
        n_dimensions = cursor.number("I")
        if not 1 <= n_dimensions <= MOST_DIMENSIONS:
            raise _Damaged(f"tensor {name[:60]!r} has {n_dimensions} dimensions")
        shape = tuple(cursor.number("Q") for _ in range(n_dimensions))
        tensors[name] = StoredTensor(shape, kind=cursor.number("I"), start=cursor.number("Q"))
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise _Damaged(f"its alignment is {alignment!r}, not a power of two")
    data = cursor.place + -cursor.place % alignment
    return GgufHeader(metadata, {n: StoredTensor(t.shape, t.kind, data + t.start) for n, t in tensors.items()})
