"""The finished trait file as a person reads it, and on which line of it each text stands.

Knows YAML: long texts are folded, scenes keep their lines, sections are set apart. Leaves the schema to `traits/trait.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from traitline.traits.strategies import COMMON
from traitline.traits.trait import Trait

_WIDTH = 120
_SHORT = 90
_SECTIONS = ("rubrics:", "facets:", "common:", "strategies:")


class _Page(yaml.SafeDumper):
    """Indents lists and chooses for every text the form that reads best."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text and "\n\n<" not in text else ">" if "\n" in text or len(text) > _SHORT else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Page.add_representer(str, _represent)


def page(trait: Trait, head: list[str]) -> str:
    """Return a trait as YAML.

    Args:
        trait: what is written.
        head: lines of a comment at the top.
    """
    content = trait.model_dump(mode="json", exclude_defaults=True)
    text = yaml.dump(content, Dumper=_Page, sort_keys=False, allow_unicode=True, width=_WIDTH)
    if yaml.safe_load(text) != content:  # a text that folding would change
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    comment = "".join(f"# {' '.join(line.split())}\n" for line in head)
    return comment + "".join(f"\n{line}" if line.startswith(_SECTIONS) else line for line in text.splitlines(keepends=True))


def lines(text: str) -> dict[str, int]:
    """Return the line, counted from 1, of everything in a trait file, under the names that `check` uses for it."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    found: dict[str, int] = {}
    fields = dict(_fields(root))
    name = str(fields["name"].value) if "name" in fields else ""
    for key, node in fields.items():
        found[key] = _line(node)
        if key in ("rubrics", "facets"):
            found |= {f"{key}.{inner}": _line(value) for inner, value in _fields(node)}
        elif key == COMMON:
            found |= dict(_asked(name, COMMON, node))
        elif key == "strategies":
            for strategy, texts in _fields(node):
                found[f"strategies.{strategy}"] = _line(texts)
                found |= dict(_strategy(name, strategy, texts))
    return found


def _strategy(name: str, strategy: str, texts: Any) -> Iterator[tuple[str, int]]:
    for key, node in _fields(texts):
        if key == "contrasts":
            yield f"{strategy}-contrasts", _line(node)
            for i, pair in enumerate(_items(node)):
                yield f"{strategy}-contrast-{i:02d}", _line(pair)
                yield from ((f"{strategy}-contrast-{i:02d} {side}", _line(value)) for side, value in _fields(pair))
        elif key == "questions":
            yield from _asked(name, strategy, node)


def _asked(name: str, strategy: str, node: Any) -> Iterator[tuple[str, int]]:
    for split, texts in _fields(node):
        yield f"{strategy}-{split}", _line(texts)
        yield from ((f"{name}-{strategy}-{split}-{i:02d}", _line(text)) for i, text in enumerate(_items(texts)))


def _fields(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, yaml.MappingNode):
        yield from ((str(key.value), value) for key, value in node.value)


def _items(node: Any) -> list[Any]:
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1
