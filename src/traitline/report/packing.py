"""Columns and texts packed so that a page can carry very many of them: dictionary-coded, deflated, in base64.

Knows the layout that `html/browser.js` unpacks, and nothing of what the columns mean. Nothing in what leaves here can end an
element or be read as markup, whatever the texts hold: base64 has no such character.

Layout before deflating: the length of the header in 4 bytes; the header as JSON; every column as little-endian numbers, in the
header's order; all texts in UTF-8, each ended by a NUL.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

TYPES = {"u1": "Uint8Array", "i2": "Int16Array", "u2": "Uint16Array", "i4": "Int32Array"}
LEVEL = 6
PIECE = 4096  # texts that are joined and deflated at a time


class Dictionary:
    """Names by their code, in the order they first came."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        """All names, by code."""
        return list(self._codes)

    def codes(self, names: Sequence[str] | pd.Series | NDArray[np.object_]) -> NDArray[np.int32]:
        """Return the code of each name, giving new ones to those not seen before."""
        places, found = pd.factorize(np.asarray(names, dtype=object))
        own = np.array([self._codes.setdefault(str(name), len(self._codes)) for name in found], dtype=np.int32)
        return own[places] if len(found) else np.zeros(len(places), dtype=np.int32)


def packed(columns: Mapping[str, NDArray[Any]], texts: Iterable[str], meaning: Mapping[str, Any]) -> str:
    """Return columns and texts as base64, to be embedded in a page.

    Args:
        columns: name -> whole numbers, as many as wanted; each column gets the smallest type that holds it.
        texts: any texts; a NUL in one is replaced.
        meaning: what goes into the header beside the columns, such as the names behind codes.

    Raises:
        ValueError: a column holds a number of more than 31 bits.
    """
    small = {name: _smallest(name, values) for name, values in columns.items()}
    listed = [[name, TYPES[values.dtype.str[1:]], len(values)] for name, values in small.items()]
    header = json.dumps({"columns": listed, **meaning}, ensure_ascii=False).encode("utf-8", "replace")
    deflate = zlib.compressobj(LEVEL)
    pieces = [deflate.compress(struct.pack("<I", len(header)) + header)]
    pieces += [deflate.compress(values.tobytes()) for values in small.values()]
    waiting: list[str] = []
    for text in texts:
        waiting.append(text.replace("\0", "\ufffd"))
        if len(waiting) == PIECE:
            pieces.append(deflate.compress(_joined(waiting)))
            waiting = []
    pieces += [deflate.compress(_joined(waiting)), deflate.flush()]
    return base64.b64encode(b"".join(pieces)).decode("ascii")


def _joined(texts: Sequence[str]) -> bytes:
    return "".join(f"{text}\0" for text in texts).encode("utf-8", "replace")


def _smallest(name: str, values: NDArray[Any]) -> NDArray[Any]:
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    for kind in TYPES:
        limits = np.iinfo(kind)
        if limits.min <= low and high <= limits.max:
            return values.astype(f"<{kind}")
    raise ValueError(f"column {name!r} holds numbers from {low} to {high}, more than 31 bits")
