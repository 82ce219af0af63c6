"""A lineage proposed from a model's repository on a hub: its branches and tags, as far as their names tell what they are.

Knows what is asked of the hub (names, files' sizes; no weights), and writes a lineage file that says what it rests on and what
was not understood. Leaves recognising names to `patterns.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from traitline.errors import InputError, misfit
from traitline.lineages.patterns import Found, find_rules
from traitline.lineages.rules import LineageFile
from traitline.lineages.stages import CountedRule

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MAIN = "main"
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
WEIGHTS = (".safetensors", ".bin")
USUAL = 12
"""Checkpoints of the default selection, where there are as many."""
SHOWN = 20
"""Names told of those that were not understood."""


@dataclass(frozen=True)
class Repository:
    """What the hub tells of a model.

    Attributes:
        name: its id.
        names: branches, then tags.
        weight_bytes: size of the weights of `main`; None where it holds none.
        parameters: how many numbers it has, as far as the hub knows.
        dtype: as what they are stored.
    """

    name: str
    names: tuple[str, ...]
    weight_bytes: int | None = None
    parameters: int | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Proposal:
    """A lineage file that was written by rule.

    Attributes:
        file: its content.
        text: the same as YAML, to be looked through.
        strange: names that were not understood.
        notes: what else is to be looked at, a sentence each.
    """

    file: LineageFile
    text: str
    strange: tuple[str, ...]
    notes: tuple[str, ...]


def read_repository(name: str) -> Repository:
    """Ask the hub (`HF_ENDPOINT`) for the names of a model's branches and tags, and for the size of its weights.

    Raises:
        InputError: no id of a hub, no such model, or no answer.
    """
    if not HUB_ID.fullmatch(name):
        raise InputError(f"{name!r} is no id of a model on a hub, such as 'allenai/Olmo-3-1025-7B'; check the spelling")
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        refs = api.list_repo_refs(name)
        info = api.model_info(name, files_metadata=True)
    except Exception as error:  # the hub and the network raise many kinds
        raise InputError(_why(name, str(api.endpoint), error)) from error
    names = dict.fromkeys(ref.name for ref in (*refs.branches, *refs.tags))
    sizes: dict[str, list[int | None]] = {kind: [] for kind in WEIGHTS}
    for file in info.siblings or ():
        for kind in WEIGHTS:
            if file.rfilename.endswith(kind):
                sizes[kind].append(file.size)
    weights = next((found for found in sizes.values() if found), [])
    stored = info.safetensors.parameters if info.safetensors else {}
    return Repository(
        name,
        tuple(names),
        sum(size or 0 for size in weights) or None,
        sum(stored.values()) or None,
        DTYPES.get(max(stored, key=lambda kind: stored[kind])) if stored else None,
    )


def propose(repository: Repository) -> Proposal:
    """Write a lineage file for a repository. It loads as it is, and should be looked through before use.

    Raises:
        InputError: none of its names looks like a checkpoint.
    """
    found = find_rules(name for name in repository.names if name != MAIN)
    if not found.stages and not found.checkpoints and found.counted is None:
        raise InputError(
            f"none of the {len(repository.names)} branches and tags of {repository.name!r} looks like a checkpoint "
            f"({_some(repository.names)}); if some are, write a lineage file that lists them"
        )
    _add_main(found, repository)
    notes = list(found.notes)
    if found.strange:
        notes.append(f"Not understood, and left out: {_some(found.strange)}.")
    if repository.dtype is None:
        notes.append("The hub does not tell as what the weights are stored.")
    if repository.weight_bytes is not None:
        notes.append("The bytes of a checkpoint are those of main.")
    fields: dict[str, Any] = {
        "name": repository.name.rpartition("/")[2].lower(),
        "description": f"Checkpoints of {repository.name}, as the names of its branches and tags tell them.",
        "source": repository.name,
        "parameters": repository.parameters,
        "dtype": repository.dtype,
        "bytes_per_checkpoint": repository.weight_bytes,
        "stages": found.stages,
        "counted": found.counted,
        "checkpoints": found.checkpoints,
        "default": 1,
        "sources": [f"https://huggingface.co/{repository.name}"],
        "unverified": notes,
    }
    fields = {name: value for name, value in fields.items() if value not in (None, [])}
    try:
        course = LineageFile.model_validate(fields).course()
        fields["default"] = max(len(course.anchors), min(USUAL, course.most))
        file = LineageFile.model_validate(fields)
        file.lineage()
    except ValidationError as error:
        raise InputError(
            f"no lineage file follows from the branches of {repository.name!r}:\n{misfit(error)}\nWrite one that lists them"
        ) from error
    head = (
        f"# Proposed from the {len(repository.names):,} branches and tags of {repository.name}. Look it through before use.\n"
    )
    return Proposal(file, head + _yaml(fields), tuple(found.strange), tuple(notes))


def _yaml(fields: dict[str, Any]) -> str:
    """Write the fields, a stage or checkpoint in a line, a sentence in a line."""
    prose = {name: fields[name] for name in ("sources", "unverified")}
    rest = {name: value for name, value in fields.items() if name not in prose}
    options: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": 118}
    written = yaml.safe_dump(rest, default_flow_style=None, **options) + yaml.safe_dump(prose, **options)
    return str(written)


def _add_main(found: Found, repository: Repository) -> None:
    """Put `main` at the end, if it holds weights."""
    if MAIN not in repository.names:
        return
    if repository.weight_bytes is None:
        found.notes.append("The branch main holds no weights, so it is left out.")
        return
    found.notes.append("The branch main is taken to be at the end of the last stage.")
    end = found.last_stage
    tokens = [one["tokens"] for one in found.checkpoints if "tokens" in one]
    if found.counted is not None:
        rule = CountedRule.model_validate(found.counted)
        tokens += [count for name in rule.saved if (count := rule.tokens_of(name)) is not None]
    place = {"end_of": end} if end else {"tokens": max(tokens)} if tokens else {}
    found.checkpoints.append({"name": MAIN, **place})


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")


def _why(name: str, endpoint: str, error: Exception) -> str:
    """Say why a hub gave no answer, and what to do."""
    kind, first = type(error).__name__, (str(error).strip().splitlines() or ["no message"])[0]
    if kind == "OfflineModeIsEnabled":
        return f"the branches of {name!r} cannot be read, as HF_HUB_OFFLINE forbids asking {endpoint}; unset it"
    if kind in {"RepositoryNotFoundError", "GatedRepoError", "DisabledRepoError"}:
        return f"{endpoint} shows no model {name!r}; check the spelling, and whether it needs a login (hf auth login)"
    if kind == "HFValidationError":
        return f"{name!r} is no id of a model on a hub ({first}); check the spelling"
    return f"the branches of {name!r} cannot be read from {endpoint} ({kind}: {first}); check the network and HF_ENDPOINT"
