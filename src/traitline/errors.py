"""The errors traitline raises on purpose.

One base class, so that a caller can catch everything with one `except` and the command line can print a message instead of a
traceback. Every message says what happened, with which value, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class TraitlineError(Exception):
    """Base of every error that traitline raises on purpose."""


class InputError(TraitlineError):
    """A name, file or argument the user gave cannot be used; the command line exits with 2."""


class ModelError(TraitlineError):
    """A network cannot be loaded, hooked or steered as asked."""


class JudgeError(TraitlineError):
    """A judge cannot score: no key, no server, or a server whose answers cannot be scored."""


class StoreError(TraitlineError):
    """A run directory, a cache or one of their files is broken, locked or full."""


def nearest(name: str, known: Iterable[str], n: int = 3) -> str:
    """Return a phrase naming the known names closest to `name`, to end an error message with."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=n, cutoff=0.4) or names[:n]
    return f"nearest: {', '.join(close)}" if close else "none are known"


def misfit(error: ValidationError) -> str:
    """Return what a file's schema complains of, one indented line each: the place in the file and what is wrong there."""
    return "\n".join(f"  {'.'.join(str(p) for p in e['loc']) or 'file'}: {e['msg']}" for e in error.errors())
