"""Pretraining of the embedded lineage: a small OLMo-3 on documents of the world, kept in the user's cache directory.

Knows the run's configuration, its loop, and where its checkpoints lie. A run is deterministic from its seed at a given thread
count. Checkpoints are ordinary transformers directories, written under another name and then renamed; `complete.json` comes
last, so a run that was killed starts over and is never taken for whole. Leaves to `lineages/` what a lineage is.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock
from platformdirs import user_cache_dir
from torch.nn import functional
from transformers import Olmo3Config, Olmo3ForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from traitline.errors import StoreError
from traitline.files import write_whole
from traitline.nano import world
from traitline.nano.tokenizer import build_tokenizer

if TYPE_CHECKING:
    from traitline.lineages.lineage import Lineage

LAYOUT = 1
MARKER = "complete.json"
TOKENS = Path(__file__).parent / "data" / "tokens.json"
POOL = 16
IGNORED = -100

Progress = Callable[[int, int], None]
Save = Callable[[Olmo3ForCausalLM, PreTrainedTokenizerFast, int], None]


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """Everything that decides what pretraining gives; its digest names the folder."""

    seed: int = 0
    """Seed of the initial weights, the documents and their order."""
    steps: int = 2000
    """Optimizer steps."""
    batch: int = 32
    """Documents a step."""
    length: int = 64
    """Tokens at which a document is cut."""
    hidden: int = 64
    """Width of the residual stream."""
    layers: int = 3
    """Blocks."""
    heads: int = 4
    """Attention heads of a block."""
    intermediate: int = 192
    """Width inside a block's MLP."""
    learning_rate: float = 6e-3
    """Peak learning rate; it falls to a twentieth along a cosine."""
    warmup: int = 40
    """Steps until the peak."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices."""
    clip: float = 1.0
    """Largest norm of a step's gradient."""
    checkpoint_steps: tuple[int, ...] = (0, 16, 32, 64, 128, 192, 256, 384, 512, 640, 768, 1024, 1408, 2000)
    """Steps after which a checkpoint is kept, from 0 to `steps`."""
    threads: int = 2
    """Torch threads; another number may change the last digits of the weights."""
    documents: world.WorldConfig = field(default_factory=world.WorldConfig)
    """Shares of the kinds of documents."""

    def __post_init__(self) -> None:
        steps = self.checkpoint_steps
        if list(steps) != sorted(set(steps)) or steps[0] != 0 or steps[-1] != self.steps:
            raise ValueError(f"checkpoint_steps must rise from 0 to {self.steps}, not {steps}")

    @property
    def digest(self) -> str:
        """A hash of the configuration, the vocabulary and sample documents: 16 hexadecimal digits."""
        return _digest(self)

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of one step: linear warm-up, then a cosine."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def cache_folder() -> Path:
    """Return where embedded lineages are kept: the user's cache directory, or `TRAITLINE_CACHE` where it is set."""
    return Path(os.environ.get("TRAITLINE_CACHE") or user_cache_dir("traitline")) / "nano"


def checkpoints_folder(config: PretrainConfig | None = None) -> Path:
    """Return where the checkpoints of one configuration lie, or will lie."""
    return cache_folder() / (config or PretrainConfig()).digest


def ensure(config: PretrainConfig | None = None, *, progress: Progress | None = None) -> Path:
    """Pretrain the lineage unless its checkpoints are already there; wait where another process is at it.

    Args:
        config: what to train; the packaged configuration by default.
        progress: called with (steps done, steps in total).

    Returns:
        The folder that holds one directory per checkpoint, `step0` to the last.

    Raises:
        StoreError: the cache directory cannot be written.
    """
    config = config or PretrainConfig()

    def make(folder: Path) -> dict[str, object]:
        tokens = pretrain(config, lambda model, tokenizer, step: save_model(folder / f"step{step}", model, tokenizer), progress)
        return {"config": asdict(config), "tokens": tokens}

    return made_once(checkpoints_folder(config), make)


def made_once(folder: Path, make: Callable[[Path], dict[str, object]]) -> Path:
    """Fill a folder of the cache unless it is complete; wait where another process is at it, start over where one was killed.

    Args:
        folder: the folder; `complete.json` marks it as whole.
        make: fills the empty folder and returns what the marker says of it.

    Raises:
        StoreError: the cache directory cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not (folder / MARKER).is_file():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                write_whole(folder / MARKER, json.dumps(make(folder), indent=1))
    except OSError as error:
        raise StoreError(
            f"cannot keep the embedded lineage in {str(folder)!r} ({error.strerror or error}); free some space there, "
            "or name another folder in the environment variable TRAITLINE_CACHE"
        ) from error
    return folder


def load_lineage(config: PretrainConfig | None = None) -> Lineage:
    """Describe the embedded lineage.

    Trains nothing: `ensure` makes the directories that its checkpoints name, `posttrain.ensure_descendants` its descendants'.
    """
    from traitline.lineages.lineage import Checkpoint, Lineage
    from traitline.nano.posttrain import PosttrainConfig, load_descendants

    config = config or PretrainConfig()
    folder = checkpoints_folder(config)
    checkpoints = tuple(
        Checkpoint(name=f"step{step}", tokens=tokens, stage="pretraining", source=str(folder / f"step{step}"), revision=None)
        for step, tokens in checkpoint_tokens(config).items()
    )
    return Lineage(
        name="nano",
        description=f"A {config.layers}-block OLMo-3 pretrained on this machine on a synthetic world of people and deeds.",
        checkpoints=checkpoints,
        descendants=load_descendants(PosttrainConfig(config)),
    )


def checkpoint_tokens(config: PretrainConfig) -> dict[int, int]:
    """Return the tokens seen at each checkpoint, padding not counted; drawn from the documents where not yet known."""
    known = json.loads(TOKENS.read_text(encoding="utf-8")) if TOKENS.is_file() else {}
    if known.get("digest") == config.digest:
        return {int(step): int(tokens) for step, tokens in known["tokens"].items()}
    return _count_tokens(config)


def write_tokens(config: PretrainConfig | None = None) -> Path:
    """Count the packaged configuration's tokens and write them to the package; return the file's path."""
    config = config or PretrainConfig()
    record = {"digest": config.digest, "tokens": _count_tokens(config)}
    TOKENS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return TOKENS


def build_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> Olmo3ForCausalLM:
    """Build the untrained network; torch's own random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return Olmo3ForCausalLM(
            Olmo3Config(
                vocab_size=len(tokenizer),
                hidden_size=config.hidden,
                intermediate_size=config.intermediate,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                num_key_value_heads=config.heads,
                max_position_embeddings=256,
                sliding_window=256,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )


def pretrain(config: PretrainConfig, save: Save, progress: Progress | None = None) -> dict[int, int]:
    """Train from scratch, calling `save(model, tokenizer, step)` at each checkpoint.

    Returns:
        The tokens seen at each checkpoint.
    """
    tokenizer = build_tokenizer()
    model = build_model(config, tokenizer).train()
    optimizer = _optimizer(model, config)
    tokens, seen = 0, {}
    with torch_threads(config.threads):
        for step, batch in enumerate(_batches(config, tokenizer)):
            if step in config.checkpoint_steps:
                seen[step] = tokens
                save(model, tokenizer, step)
            if progress:
                progress(step, config.steps)
            if step == config.steps:
                return seen
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate_at(step)
            ids = _padded(batch, tokenizer.pad_token_id)
            _loss(model, ids, tokenizer.pad_token_id).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            tokens += sum(map(len, batch))
    raise AssertionError("documents never end")


def _loss(model: Olmo3ForCausalLM, ids: torch.Tensor, pad: int) -> torch.Tensor:
    """Mean cross-entropy of the next token. Padding stands behind every document, so causal attention needs no mask."""
    labels = ids[:, 1:].masked_fill(ids[:, 1:] == pad, IGNORED)  # [rows, tokens - 1]
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits  # [rows, tokens - 1, vocabulary]
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def _optimizer(model: Olmo3ForCausalLM, config: PretrainConfig) -> torch.optim.Optimizer:
    decayed = {True: config.weight_decay, False: 0.0}
    groups = [
        {"params": [p for p in model.parameters() if (p.ndim > 1) is matrix], "weight_decay": decay}
        for matrix, decay in decayed.items()
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def _batches(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> Iterator[list[list[int]]]:
    """Draw batches of one document a row; documents of like length share a batch, so little of it is padding."""
    source = world.documents(config.seed, config.documents)
    rng = random.Random(config.seed)  # noqa: S311 - a reproducible order, not a secret
    end = [tokenizer.eos_token_id]
    while True:
        texts = list(itertools.islice(source, config.batch * POOL))
        rows = sorted(((ids + end)[: config.length] for ids in tokenizer(texts)["input_ids"]), key=len)
        pool = [rows[i : i + config.batch] for i in range(0, len(rows), config.batch)]
        rng.shuffle(pool)
        yield from pool


def _padded(batch: list[list[int]], pad: int) -> torch.Tensor:
    width = max(map(len, batch))
    return torch.tensor([row + [pad] * (width - len(row)) for row in batch])  # [rows, tokens]


def _count_tokens(config: PretrainConfig) -> dict[int, int]:
    lengths = (sum(map(len, batch)) for batch in _batches(config, build_tokenizer()))
    totals = [0, *itertools.accumulate(itertools.islice(lengths, config.steps))]
    return {step: totals[step] for step in config.checkpoint_steps}


def save_model(folder: Path, model: Olmo3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Save a network and its tokenizer as an ordinary transformers folder, under another name until it is whole."""
    partial = folder.with_name(f".{folder.name}.partial")
    with no_progress_bars():
        model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(folder)


@cache
def _digest(config: PretrainConfig) -> str:
    sample = list(itertools.islice(world.documents(config.seed, config.documents), 64))
    vocabulary = sorted(build_tokenizer().get_vocab().items())
    text = json.dumps([LAYOUT, asdict(config), vocabulary, sample])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers' bars off."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
