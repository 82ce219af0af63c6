"""What the documentation names exists, and what exists is named: links, commands, options, fields, columns, judges."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel

from traitline.analysis.effects import TABLE_COLUMNS
from traitline.cli import app
from traitline.judges.base import KINDS
from traitline.report.tables import OPTIONAL
from traitline.study.config import StudyConfig, packaged_studies
from traitline.study.store import RESPONSES

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def named_commands(path: Path) -> Iterator[list[str]]:
    """Yield the words of every `traitline ...` line in the shell blocks of a page."""
    for language, block in FENCE.findall(path.read_text(encoding="utf-8")):
        for line in block.splitlines() if language in ("sh", "") else ():
            if line.startswith("traitline "):
                yield shlex.split(line.split("#")[0])[1:]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in LINK.findall(FENCE.sub("", text)):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        goal = (path.parent / file) if file else path
        assert goal.exists(), target
        if anchor:
            assert anchor in anchors(goal.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_options_exist(path: Path) -> None:
    for words in named_commands(path):
        command: Any = typer.main.get_command(app)
        rest = list(words)
        while hasattr(command, "commands"):
            name = rest.pop(0) if rest else ""
            assert name in command.commands, words
            command = command.commands[name]
        known = {option for one in command.params for option in one.opts}
        assert {word for word in rest if re.match(r"--[a-z]", word)} <= known, words


def test_every_command_is_in_the_reference() -> None:
    top: Any = typer.main.get_command(app)
    text = page("docs/reference.md")
    for name, command in top.commands.items():
        described = [line for line in text.splitlines() if line.startswith(f"| `traitline {name}")]
        assert described, name
        for inner in getattr(command, "commands", {}):
            assert any(inner in line for line in described), (name, inner)


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (section, field) of every key of a study file."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from fields(inner, name)
        yield prefix, name


def test_every_key_of_a_study_is_in_the_reference() -> None:
    section = page("docs/reference.md").partition("## A study file")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    sampling = {"samples", "max_new_tokens", "temperature", "repetition_penalty"}
    for prefix, name in fields(StudyConfig):
        where = "elicit" if prefix == "evaluate" and name in sampling else prefix  # named once for both
        first = f"| `{where}" if where else f"| `{name}` "
        assert any(row.startswith(first) and re.search(rf"[`.]{name}`", row) for row in rows), (prefix, name)


def test_the_study_of_the_guide_can_be_read() -> None:
    blocks = [block for language, block in FENCE.findall(page("docs/your-model.md")) if language == "yaml"]
    (study,) = (block for block in blocks if "\njudge:" in block)
    read = StudyConfig.model_validate(yaml.safe_load(study))
    for name in ("seed", "batch_rows", "activation_norm", "elicit", "controls", "criteria", "strategies", "descendant_vectors"):
        assert getattr(read, name) == StudyConfig.model_fields[name].default, name  # shown are the defaults


def test_columns_and_tables_are_in_the_reference() -> None:
    text = page("docs/reference.md")
    lacking = [name for name in (*RESPONSES.names, *TABLE_COLUMNS) if f"`{name}`" not in text]
    lacking += [name for name in OPTIONAL if f"`{name}.csv`" not in text]
    assert not lacking


def test_judges_and_studies_are_described() -> None:
    judges = page("docs/judges.md")
    assert all(re.search(rf"^\| `{kind}(:<[\w.]+>)?` \|", judges, re.MULTILINE) for kind in KINDS)
    assert all(f"## {name}\n" in page("docs/studies.md") for name in packaged_studies())


def test_the_file_tree_of_the_readme_is_that_of_the_package() -> None:
    tree = next(block for _, block in FENCE.findall(page("README.md")) if block.startswith("src/traitline/"))
    shown = set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE))
    package = ROOT / "src" / "traitline"
    assert shown == {path.parent.name for path in package.glob("*/__init__.py")}
