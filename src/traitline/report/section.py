"""What a section of the page is made of."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """A table of texts: its caption, the names of its columns, its rows."""

    caption: str
    head: list[str]
    rows: list[list[str]]
    folded: bool = True


@dataclass(frozen=True)
class Section:
    """A section of the page: the anchor, the heading, sentences, tables, and the name of the charts drawn into it."""

    anchor: str
    title: str
    sentences: list[str]
    tables: list[Table] = field(default_factory=list)
    charts: str = ""
