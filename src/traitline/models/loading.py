"""Load a network and its tokenizer, by hub id and revision or from a directory.

Knows how transformers loads, which dtype and device are the default, and what can go wrong while loading. Leaves to
`blocks.py` where the blocks are, and to `lineages/` which revision means what. Remote code runs only when asked for by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from traitline.errors import ModelError, nearest
from traitline.models.blocks import find_blocks
from traitline.models.downloads import Snapshot
from traitline.models.retries import revisions
from traitline.models.snapshots import cached_commit


@dataclass(frozen=True, eq=False)
class Model:
    """A causal language model ready to be read and steered.

    Attributes:
        network: the transformers model, in evaluation mode.
        tokenizer: its tokenizer.
        blocks: its decoder blocks, in order.
        source: hub id or directory it came from.
        revision: the revision asked for, None for a directory.
        commit: the hub's commit hash where known.
        eos_ids: the token ids that end a response.
        hidden: width of the residual stream.
    """

    network: Any
    tokenizer: Any
    blocks: list[nn.Module]
    source: str
    revision: str | None
    commit: str | None
    eos_ids: frozenset[int]
    hidden: int

    @property
    def layers(self) -> int:
        """Number of blocks L; layers are counted 0 (embeddings) to L."""
        return len(self.blocks)

    @property
    def device(self) -> torch.device:
        """Where the embeddings live, which is where token ids go."""
        return self.network.get_input_embeddings().weight.device  # type: ignore[no-any-return]

    @property
    def is_chat(self) -> bool:
        """Whether the tokenizer carries a chat template."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    def __repr__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"Model({self.source}{at}: {self.layers} blocks x {self.hidden}, {self.network.dtype}, {self.device})"


def load_model(
    source: str | Path,
    revision: str | None = None,
    *,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
    snapshot: Snapshot | None = None,
) -> Model:
    """Load a causal language model.

    Args:
        source: hub id, or a local directory as `save_pretrained` writes it.
        revision: branch, tag or commit on the hub; must be None for a directory.
        device: where to put it; a GPU if there is one, else the CPU. `auto` spreads a network that is too large for one GPU
            over all of them (needs accelerate).
        dtype: weights' type; bfloat16 on a GPU, float32 on the CPU.
        trust_remote_code: run model code that the repository ships. Only for code you have read.
        snapshot: that revision's files, where they were downloaded and checked before (`downloads.fetch`).

    Raises:
        ModelError: no such model, revision or device, broken or incomplete files, or an architecture whose blocks cannot be
            found.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = str(source)
    if Path(name).is_dir():
        if revision is not None:
            raise ModelError(f"{name!r} is a local directory, which has no revision {revision!r}; leave the revision out")
        if not (Path(name) / "config.json").is_file():
            raise ModelError(f"directory {name!r} holds no config.json, so no model; give a checkpoint's own directory")
    place, dtype = _place(device, dtype)
    options: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    where = str(snapshot.folder) if snapshot is not None else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
        with _quietly():
            loaded: Any = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, output_loading_info=True, **place, **options)
        network, report = loaded
        if not place:  # else the weights lie where they belong
            network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except Exception as error:  # transformers, safetensors and the hub raise many kinds
        raise ModelError(_why(name, revision, error, is_here=Path(where).exists())) from error
    absent = sorted(set(report["missing_keys"]) & {key for key, _ in network.named_parameters()})  # tied weights come once
    if absent:  # transformers fills them with random numbers
        raise ModelError(
            f"the weights in {name!r} are incomplete: {len(absent)} are missing, {absent[0]!r} among them; "
            "fetch or save that checkpoint again"
        )
    network.requires_grad_(False)
    commit = snapshot.commit if snapshot is not None else None
    if commit is None and not Path(name).exists():
        commit = getattr(network.config, "_commit_hash", None) or cached_commit(name, options["revision"])
    return wrap(network, tokenizer, source=name, revision=revision, commit=commit)


def _place(device: str | None, dtype: torch.dtype | None) -> tuple[dict[str, Any], torch.dtype]:
    """Return how transformers is told to put weights straight where they belong, nothing for the CPU; and their type."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    straight = find_spec("accelerate") is not None
    if device == "auto":
        if not straight:
            raise ModelError(
                "spreading a network over several GPUs needs accelerate: pip install accelerate, or give one device"
            )
        return {"device_map": "auto"}, dtype or (torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    try:
        torch.empty(0, device=device)
    except Exception as error:  # torch raises RuntimeError or AssertionError, by device
        raise ModelError(f"this machine cannot use the device {device!r}; give 'cpu', or leave the device out") from error
    if device == "cpu":
        return {}, dtype or torch.float32
    return {"device_map": {"": device}} if straight else {}, dtype or torch.bfloat16


def wrap(
    network: Any, tokenizer: Any, *, source: str = "in memory", revision: str | None = None, commit: str | None = None
) -> Model:
    """Make a `Model` of a transformers network and tokenizer already in memory.

    Raises:
        ModelError: its blocks cannot be found.
    """
    config = network.config.get_text_config()
    return Model(
        network=network.eval(),
        tokenizer=tokenizer,
        blocks=find_blocks(network),
        source=source,
        revision=revision,
        commit=commit or getattr(network.config, "_commit_hash", None),
        eos_ids=_eos_ids(network, tokenizer),
        hidden=int(config.hidden_size),
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep transformers' progress bars off while weights load: a study loads dozens of networks."""
    from transformers.utils import logging as module

    logging: Any = module  # its functions carry no types
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _eos_ids(network: Any, tokenizer: Any) -> frozenset[int]:
    """Every id that ends a response: the generation config's (chat models list several), the config's and the tokenizer's."""
    ids: set[int] = set()
    for holder in (getattr(network, "generation_config", None), network.config, tokenizer):
        found = getattr(holder, "eos_token_id", None)
        ids.update([found] if isinstance(found, int) else found or [])
    return frozenset(ids)


def _why(name: str, revision: str | None, error: Exception, *, is_here: bool) -> str:
    kind, text = type(error).__name__, str(error).strip().splitlines()
    first = text[0] if text else "no message"
    at = f" at revision {revision!r}" if revision else ""
    if not is_here:
        known = revisions(name) if revision else []
        if known and revision not in known:
            return f"{name!r} has no revision {revision!r}; {nearest(revision or '', known)}"
        return (
            f"cannot load {name!r}{at}: no such directory here, and the hub did not give it ({kind}: {first}). "
            "Check the spelling, the network, and whether the model needs a login"
        )
    if "SafetensorError" in kind or "header" in first.lower():
        return f"the weights in {name!r} are broken ({kind}: {first}); fetch or save that checkpoint again"
    return f"cannot load {name!r}{at} ({kind}: {first})"
