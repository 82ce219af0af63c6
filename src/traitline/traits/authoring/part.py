"""What every part of a draft can do, and what comes of an answer to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from traitline.traits.authoring.sheet import Sheet


@dataclass
class Reading:
    """What an answer held: items to keep, items with a flaw, and what to tell the model."""

    taken: list[Any] = field(default_factory=list)
    spare: list[Any] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


class Part(Protocol):
    """One part of a trait."""

    @property
    def title(self) -> str:
        """What messages call it."""
        ...

    @property
    def at_once(self) -> int:
        """Items asked for in one request."""
        ...

    @property
    def optional(self) -> bool:
        """Whether a trait is whole without it."""
        ...

    def missing(self, sheet: Sheet) -> int:
        """How many items are still wanted."""
        ...

    def prompt(self, sheet: Sheet, n: int, turn: int) -> str:
        """Ask for `n` items, for the `turn`-th time."""
        ...

    def read(self, sheet: Sheet, found: Any) -> Reading:
        """Read what was found in an answer."""
        ...

    def add(self, sheet: Sheet, items: Sequence[Any]) -> None:
        """Put items on the sheet."""
        ...

    def usable(self, sheet: Sheet) -> bool:
        """Whether what there is of it will do, where no more comes."""
        ...
