"""What reaches the screen: tables, plain lines, one JSON object, and the error messages.

Knows that results go to stdout and everything else to stderr, and that texts of models and files are untrusted: control
characters are shown instead of obeyed, and markup is never interpreted. Knows nothing of what is printed.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from traitline.errors import InputError

UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories that steer a terminal or reorder a line."""
UNKNOWN = "unknown"

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]


def harmless(text: object) -> str:
    """Return a text whose control characters are written out; line breaks stay."""
    return "".join(_written_out(c) if unicodedata.category(c) in UNSAFE else c for c in str(text))


def _written_out(character: str) -> str:
    return {"\n": "\n", "\t": "    "}.get(character) or character.encode("unicode_escape").decode("ascii")


def say(text: object) -> None:
    """Print one plain line of the result."""
    typer.echo(harmless(text))


def note(text: object) -> None:
    """Print one plain line beside the result, on stderr."""
    typer.echo(harmless(text), err=True)


def print_json(data: Mapping[str, Any]) -> None:
    """Print one JSON object; what is not a number there is null."""
    typer.echo(json.dumps(_plain(data), allow_nan=False, indent=2))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, lines: bool = False) -> None:
    """Print a table. Columns whose name begins with `>` are aligned to the right; `lines` draws one between rows."""
    table = Table(title=Text(harmless(title)), title_justify="left", box=box.SIMPLE_HEAD, show_lines=lines, pad_edge=False)
    for column in columns:
        right = column.startswith(">")
        table.add_column(Text(harmless(column.removeprefix(">"))), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(harmless(cell)) for cell in row))
    Console().print(table)


def known(value: Any, form: Callable[[Any], str] = str) -> str:
    """Return a value as text, `unknown` where it is None."""
    return UNKNOWN if value is None else form(value)


def count(number: int) -> str:
    """Return a whole number with separators."""
    return f"{number:,}"


def size(number: float) -> str:
    """Return a number of bytes in a unit that reads well."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def rounded(number: int) -> str:
    """Return a number as it is, or with three digits where it is a large one: 5,240, 731 k, 46.8 M."""
    if number < 100_000:
        return count(number)
    unit, scale = next((unit, scale) for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if number >= scale)
    return f"{number / scale:.3g} {unit}"


def duration(seconds: float) -> str:
    """Return a time as people say it: seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def new_file(path: Path) -> Path:
    """Return a path that does not exist yet.

    Raises:
        InputError: something lies there already.
    """
    if path.exists() or path.is_symlink():
        raise InputError(f"{str(path)!r} exists already and is never overwritten; give another path, or remove it first")
    return path
