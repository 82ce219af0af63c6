"""The model card of a published folder of vectors: the README.md that the hub shows.

Knows the front matter that the hub reads and what a reader must be told. Names come from lineages and traits that anyone may
have written, so they are shown as code, never as markup. Leaves the layout of the folder to `hub.py`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import yaml

from traitline.vectors.vector import LAST_AFTER_NORM, software

if TYPE_CHECKING:
    from traitline.vectors.hub import HubEntry, HubIndex

TAGS = ["traitline", "persona-vectors", "steering-vectors", "activation-steering", "interpretability"]
PAPER = "https://arxiv.org/abs/2605.13329"


def model_card(index: HubIndex) -> str:
    """Return the card, Markdown with YAML front matter. It names no licence: that is the publisher's to choose."""
    front = {"library_name": "traitline", "tags": TAGS, **({"base_model": index.base_model} if index.base_model else {})}
    of = f" of {_code(index.lineage)}" if index.lineage else ""
    fragile = sum(entry.fragile for entry in index.vectors)
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# Persona vectors{of}",
        f"{len(index.vectors)} vectors, each {index.layers} layers x {index.hidden}, made with {software()} "
        f"([method]({PAPER})). A persona vector is, per layer, the mean activation over texts that show a trait minus the mean "
        "over texts that do not. Added to the activations while a model writes, it is meant to strengthen the trait, and "
        "subtracted to weaken it.",
        _contents(index),
        "## Use",
        _use(index.vectors[-1], max(1, index.layers // 2)),
        "## What to know",
        _notes(index, fragile),
    ]
    return "\n\n".join(parts) + "\n"


def _contents(index: HubIndex) -> str:
    groups: dict[tuple[str, str], list[HubEntry]] = {}
    for entry in index.vectors:
        groups.setdefault((entry.trait, entry.strategy), []).append(entry)
    lines = ["| trait | elicited by | checkpoints | of which fragile | from | to |", "| --- | --- | ---: | ---: | --- | --- |"]
    for (trait, strategy), entries in groups.items():
        names = (_code(entries[0].checkpoint), _code(entries[-1].checkpoint))
        fragile = sum(entry.fragile for entry in entries)
        lines.append(f"| {_code(trait)} | {_code(strategy)} | {len(entries)} | {fragile} | {names[0]} | {names[1]} |")
    return "\n".join(lines)


def _use(entry: HubEntry, layer: int) -> str:
    return f"""```python
import traitline as tl

vector = tl.import_hub(
    "USER/NAME",  # this repository, or a folder
    trait={_quoted(entry.trait)},
    strategy={_quoted(entry.strategy)},
    checkpoint={_quoted(entry.checkpoint)},
)
steer = tl.steer(vector, layer={layer}, coef=0.5)
```

Files lie at `<trait>/<strategy>/<checkpoint>.safetensors`; `config.json` lists them. Each holds float32
`[layers + 1, hidden]` under `{entry.arrays[0]}`, and its header tells where it came from. `tl.export_gguf` makes a control
vector for llama.cpp of one."""


def _notes(index: HubIndex, fragile: int) -> str:
    notes = [f"- Rows: {convention}. Steering adds row l to the output of block l." for convention in index.layer_conventions]
    if LAST_AFTER_NORM in index.layer_conventions:
        notes.append("- A last row read after the final norm does not fit where steering adds; do not steer with it.")
    notes.append("- `activation_norms` in a file's header gives the usual length of that network's activations at each layer.")
    if fragile:
        notes.append(f"- {fragile} of the vectors are *fragile*: made from fewer than 10 pairs or 5 questions.")
    notes.append("- A vector is a summary of what one judge accepted; compare its effect with controls before relying on it.")
    return "\n".join(notes)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _code(text: str | None) -> str:
    """Return a name as inline code that cannot end early, nor end a cell of a table."""
    return "`" + (text or "").replace("`", "'").replace("|", "/") + "`"
