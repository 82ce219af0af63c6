"""How one stage of post-training is trained, with TRL: the only room that knows it, and it imports it when a stage starts.

Knows TRL's trainers and their settings, and keeps them to themselves: their random state, bars, logs and telemetry. A stage
reads a network's folder and writes another. Leaves the order of stages to `posttrain.py`.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import Olmo3ForCausalLM, PrinterCallback, TrainerCallback

from traitline.errors import InputError
from traitline.nano import dialogues
from traitline.nano.chat import build_chat_tokenizer, grow
from traitline.nano.pretrain import Progress, no_progress_bars, save_model, torch_threads
from traitline.nano.reward import reward

if TYPE_CHECKING:
    from traitline.lineages.lineage import Kind
    from traitline.nano.posttrain import PosttrainConfig, StageConfig

Train = Callable[["PosttrainConfig", Path, Path, Progress], None]


def require_trl() -> None:
    """Check that TRL is installed, without importing it.

    Raises:
        InputError: it is not; the message names the line that installs it.
    """
    if importlib.util.find_spec("trl") is None:
        raise InputError(
            "the descendants of the embedded lineage are trained with TRL, which is not installed; run "
            "pip install 'traitline[posttrain]', or leave sft, dpo and rlvr out of the study's targets"
        )


def train_sft(config: PosttrainConfig, source: Path, folder: Path, progress: Progress) -> None:
    """Teach a base network to chat, from demonstrations; only what the assistant says is learned."""
    chats = itertools.islice(dialogues.demonstrations(config.seed, config.dialogues), config.sft.rows)
    with _kept_apart(config) as scratch:
        trl = _imported("trl")
        tokenizer = build_chat_tokenizer()
        trainer = trl.SFTTrainer(
            grow(source, len(tokenizer), config.seed),
            args=trl.SFTConfig(**_settings(config, config.sft, scratch), assistant_only_loss=True, max_length=None),
            train_dataset=_dataset({"messages": chat} for chat in chats),
            processing_class=tokenizer,
        )
        _train(trainer, folder, progress)


def train_dpo(config: PosttrainConfig, source: Path, folder: Path, progress: Progress) -> None:
    """Move a chat network towards the preferred of two replies."""
    pairs = itertools.islice(dialogues.preferences(config.seed, config.dialogues), config.dpo.rows)
    with _kept_apart(config) as scratch:
        trl = _imported("trl")
        trainer = trl.DPOTrainer(
            Olmo3ForCausalLM.from_pretrained(source, dtype=torch.float32),
            args=trl.DPOConfig(**_settings(config, config.dpo, scratch), beta=config.dpo.beta, max_length=None),
            train_dataset=_dataset(pairs),
            processing_class=build_chat_tokenizer(),
        )
        _train(trainer, folder, progress)


def train_rlvr(config: PosttrainConfig, source: Path, folder: Path, progress: Progress) -> None:
    """Reward a chat network's own replies for telling the number of deeds it was asked for (GRPO)."""
    asked = itertools.islice(dialogues.requests(config.seed, config.dialogues), config.rlvr.rows)
    with _kept_apart(config) as scratch:
        trl = _imported("trl")
        tokenizer = build_chat_tokenizer()
        trainer = trl.GRPOTrainer(
            Olmo3ForCausalLM.from_pretrained(source, dtype=torch.float32),
            reward_funcs=_form_reward(tokenizer.eos_token_id),
            args=trl.GRPOConfig(
                **_settings(config, config.rlvr, scratch),
                beta=config.rlvr.beta,
                num_generations=config.rlvr.replies,
                max_completion_length=config.rlvr.tokens,
                temperature=1.0,
            ),
            train_dataset=_dataset(asked),
            processing_class=tokenizer,
        )
        _train(trainer, folder, progress)


TRAIN: dict[Kind, Train] = {"sft": train_sft, "dpo": train_dpo, "rlvr": train_rlvr}


def _form_reward(eos: int) -> Callable[..., list[float]]:
    def form(
        completions: list[list[dict[str, str]]],
        completion_ids: list[list[int]],
        question: list[str],
        number: list[int | None],
        **_rest: Any,
    ) -> list[float]:
        return [
            reward(asked, completion[-1]["content"], n, ended=ids[-1:] == [eos])
            for completion, ids, asked, n in zip(completions, completion_ids, question, number, strict=True)
        ]

    return form


def _settings(config: PosttrainConfig, stage: StageConfig, scratch: str) -> dict[str, Any]:
    """Return the settings that all trainers share: plain float32 on the CPU, nothing logged, saved or sent."""
    return {
        "output_dir": scratch,
        "seed": config.seed,
        "max_steps": stage.steps,
        "per_device_train_batch_size": stage.batch,
        "learning_rate": stage.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": stage.warmup,
        "weight_decay": 0.0,
        "optim": "adamw_torch",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _dataset(rows: Iterator[dict[str, Any]]) -> Any:
    return _imported("datasets").Dataset.from_list(list(rows))


def _imported(name: str) -> Any:
    """Import one of the packages of the extra `posttrain`, untyped: mypy also runs where it is not installed."""
    return importlib.import_module(name)


def _train(trainer: Any, folder: Path, progress: Progress) -> None:
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Report(progress))
    trainer.train()
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.config.use_cache = True  # trainers turn it off
    save_model(folder, model, trainer.processing_class)


class _Report(TrainerCallback):
    """Tells how many steps are done."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pass one step on."""
        self.progress(state.global_step, state.max_steps)


@contextmanager
def _kept_apart(config: PosttrainConfig) -> Iterator[str]:
    """Keep a trainer from changing this process: its random numbers, threads and bars stay, and nothing is reported home.

    Yields a folder for whatever it insists on writing, which goes afterwards.
    """
    from huggingface_hub import constants

    state, drawn = random.getstate(), np.random.get_state()  # noqa: NPY002 - trainers seed the global generators
    datasets = _imported("datasets")
    bars, telemetry = datasets.is_progress_bar_enabled(), constants.HF_HUB_DISABLE_TELEMETRY
    with ExitStack() as stack:
        stack.callback(random.setstate, state)
        stack.callback(np.random.set_state, drawn)
        stack.callback(setattr, constants, "HF_HUB_DISABLE_TELEMETRY", telemetry)
        if bars:
            stack.callback(datasets.enable_progress_bars)
        stack.enter_context(torch.random.fork_rng())
        stack.enter_context(torch_threads(config.base.threads))
        stack.enter_context(no_progress_bars())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", FutureWarning)
        constants.HF_HUB_DISABLE_TELEMETRY = True
        datasets.disable_progress_bars()
        yield stack.enter_context(tempfile.TemporaryDirectory())
