"""Post-training of the embedded lineage: chat descendants by SFT, then DPO, then RLVR, kept beside its checkpoints.

Knows the stages' configuration, their order, and where their networks lie. Each stage starts from the network that the one
before it saved, the first from the last base checkpoint; a run is deterministic from its seed at a given thread count. Leaves
to `trainers.py` how a stage is trained, to `dialogues.py` on what, and to `reward.py` what RLVR rewards.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from traitline.nano import dialogues, pretrain
from traitline.nano.chat import TEMPLATE, build_chat_tokenizer
from traitline.nano.reward import reward

if TYPE_CHECKING:
    from traitline.lineages.lineage import Descendant, Kind

LAYOUT = 1
STAGES: tuple[Kind, ...] = ("sft", "dpo", "rlvr")
OBEDIENCE_PROMPTS = 300
UNSEEN_SEED = 1_000_003


@dataclass(frozen=True, slots=True)
class StageConfig:
    """One stage's optimizer.

    Attributes:
        steps: optimizer steps.
        batch: rows a step: chats, pairs, or sampled replies.
        learning_rate: peak learning rate; it falls to 0 along a cosine.
        warmup: steps until the peak.
        beta: how strongly DPO and RLVR are held to the network they start from; SFT has none.
        replies: RLVR's sampled replies to one prompt, compared with each other.
        tokens: at which RLVR cuts a reply.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 10
    beta: float = 0.0
    replies: int = 1
    tokens: int = 40

    @property
    def rows(self) -> int:
        """How many chats, pairs or prompts the stage sees, each once."""
        return self.steps * self.batch // self.replies


@dataclass(frozen=True, slots=True)
class PosttrainConfig:
    """Everything that decides what post-training gives; its digest names the folder."""

    base: pretrain.PretrainConfig = field(default_factory=pretrain.PretrainConfig)
    """The pretraining whose last checkpoint it starts from."""
    seed: int = 0
    """Seed of the new vocabulary's rows, the chats, their order, and RLVR's samples."""
    sft: StageConfig = field(default_factory=lambda: StageConfig(steps=400, batch=32, learning_rate=2e-3, warmup=20))
    dpo: StageConfig = field(default_factory=lambda: StageConfig(steps=120, batch=32, learning_rate=2e-4, beta=1.0))
    rlvr: StageConfig = field(
        default_factory=lambda: StageConfig(steps=100, batch=128, learning_rate=6e-4, warmup=5, beta=0.1, replies=8)
    )
    dialogues: dialogues.DialogueConfig = field(default_factory=dialogues.DialogueConfig)
    """Shares of the kinds of chats and of the habits they teach."""

    @property
    def digest(self) -> str:
        """A hash of the configuration, the base's digest, the chat vocabulary and sample chats: 16 hexadecimal digits."""
        return _digest(self)

    @property
    def steps(self) -> int:
        """Optimizer steps of all stages."""
        return self.sft.steps + self.dpo.steps + self.rlvr.steps


def descendants_folder(config: PosttrainConfig | None = None) -> Path:
    """Return where the descendants of one configuration lie, or will lie."""
    return pretrain.cache_folder() / (config or PosttrainConfig()).digest


def load_descendants(config: PosttrainConfig | None = None) -> tuple[Descendant, ...]:
    """Describe the descendants. Trains nothing: `ensure_descendants` makes the directories that they name."""
    from traitline.lineages.lineage import Descendant

    folder = descendants_folder(config)
    return tuple(Descendant(stage, stage, str(folder / stage), None, chat=True) for stage in STAGES)


def ensure_descendants(config: PosttrainConfig | None = None, *, progress: pretrain.Progress | None = None) -> Path:
    """Train the descendants unless they are already there, their base first; wait where another process is at it.

    Args:
        config: what to train; the packaged configuration by default.
        progress: called with (steps done, steps in total), all stages together.

    Returns:
        The folder that holds the directories `sft`, `dpo` and `rlvr`, and in `complete.json` how often each does what it is
        asked.

    Raises:
        InputError: the extra `posttrain` is not installed.
        StoreError: the cache directory cannot be written.
    """
    config = config or PosttrainConfig()
    folder = descendants_folder(config)
    if (folder / pretrain.MARKER).is_file():
        return folder
    from traitline.nano import trainers

    trainers.require_trl()
    base = pretrain.ensure(config.base)

    def make(folder: Path) -> dict[str, object]:
        source, done = base / f"step{config.base.steps}", 0
        for stage in STAGES:
            trainers.TRAIN[stage](config, source, folder / stage, _from(done, config.steps, progress))
            source, done = folder / stage, done + getattr(config, stage).steps
        return {"config": asdict(config), "obedience": {stage: obedience(folder / stage, config) for stage in STAGES}}

    return pretrain.made_once(folder, make)


def obedience(folder: Path, config: PosttrainConfig) -> float:
    """Return how often a chat network tells exactly the number of deeds it is asked for, on prompts that no stage saw."""
    from traitline.models import Row, encode, generate_rows, load_model

    with torch.random.fork_rng(devices=[]):  # transformers 4 draws numbers while it loads
        model = load_model(folder, device="cpu")
    asking = replace(config.dialogues, unasked=0.0)
    asked = list(itertools.islice(dialogues.requests(UNSEEN_SEED + config.seed, asking), OBEDIENCE_PROMPTS))
    rows = [Row(encode(model, one["prompt"]), noise_key=i) for i, one in enumerate(asked)]
    with pretrain.torch_threads(config.base.threads):
        replies = generate_rows(model, rows, max_new_tokens=config.rlvr.tokens)
    told = [
        reward(one["question"], reply.text, one["number"], ended=reply.finish == "eos")
        for one, reply in zip(asked, replies, strict=True)
    ]
    return sum(told) / len(told)


def _from(done: int, total: int, progress: pretrain.Progress | None) -> pretrain.Progress:
    """Count a stage's steps on from those of the stages before it."""
    return lambda step, _steps: progress(done + step, total) if progress else None


@cache
def _digest(config: PosttrainConfig) -> str:
    drawn = (dialogues.demonstrations, dialogues.preferences, dialogues.requests)
    sample = [list(itertools.islice(draw(config.seed, config.dialogues), 32)) for draw in drawn]
    vocabulary = sorted(build_chat_tokenizer().get_vocab().items())
    text = json.dumps([LAYOUT, config.base.digest, asdict(config), vocabulary, TEMPLATE, sample])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
