"""The judge that runs here: any chat model transformers can load, asked the questions of the openai judge.

Knows the chat prompt, what identifies a model, and how judgements are kept. Leaves the probabilities of numbers to `walk.py`
and `spelling.py`, what is asked to `questions.py` and keeping to `cache.py`.

A score is the expected value over all numbers 0 to 100, of one token or of several, as the first thing the model would write:
no sampling, no cut after the 20 most probable tokens. Model text cannot leave the user's turn: whatever the tokenizer would
take for a special token is broken up by a space.
"""

from __future__ import annotations

import hashlib
import re
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from traitline.errors import InputError, JudgeError
from traitline.judges.api.chat import Usage
from traitline.judges.base import Purpose, Score, Style
from traitline.judges.cache import JudgeCache, cache_key
from traitline.judges.numbers import Reading
from traitline.judges.questions import MIN_MASS, questions_about, score_from
from traitline.judges.spelling import find_spellings
from traitline.judges.walk import read_numbers
from traitline.models import Model, load_model
from traitline.traits.trait import Trait

TOKENS_PER_BATCH = 8192
_SAMPLED_PER_TENSOR = 1024
_DATED = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}"


class LocalJudge:
    """Scores responses with a chat model on this machine, on the device and in the dtype it was loaded with.

    Calls from several threads take turns. Scores do not depend on which rows are judged together beyond rounding.

    Args:
        model: a loaded chat model.
        cache: where judgements are kept; None keeps none.
        min_mass: the share of probability on numbers under which a score is missing.
        tokens_per_batch: padded tokens that share a forward pass.

    Raises:
        JudgeError: the model has no chat template, or one that takes no question, or a tokenizer that cannot write numbers.
        InputError: an argument out of range.
    """

    def __init__(
        self,
        model: Model,
        *,
        cache: JudgeCache | None = None,
        min_mass: float = MIN_MASS,
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ) -> None:
        if not 0 < min_mass <= 1 or tokens_per_batch < 1:
            raise InputError(
                f"a local judge needs 0 < min_mass <= 1 and tokens_per_batch >= 1; got {min_mass} and {tokens_per_batch}"
            )
        if not model.is_chat:
            raise JudgeError(
                f"{model.source!r} has no chat template, so it cannot be asked to judge; take a model trained to chat (its "
                "name often ends in Instruct or Chat), or save a tokenizer with a chat template beside its weights"
            )
        self.model = model
        self.cache = cache
        self.min_mass = min_mass
        self.tokens_per_batch = tokens_per_batch
        self._template = _undated(model.tokenizer)
        self._special = _special_tokens(model.tokenizer)
        self._spellings = find_spellings(model.tokenizer, self._render(""))
        self._longest = _longest_prompt(model, self._spellings.depth)
        self._identity = {
            "judge": "local",
            "version": 2,
            "weights": fingerprint(model),
            "spellings": [[number, *ids] for number, ids in self._spellings.paths],
            "refusals": list(self._spellings.refusals),
        }
        self._lock = threading.Lock()
        self._usage = Usage()

    @property
    def name(self) -> str:
        """`local:` and the model: its hub id with the revision, or the last part of its directory's path."""
        source = Path(self.model.source)
        shown = source.resolve().name if source.is_dir() else self.model.source
        return f"local:{shown}" + (f"@{self.model.revision}" if self.model.revision else "")

    @property
    def usage(self) -> Usage:
        """What this judge has read since it was made; `requests` stays 0, for nothing is paid."""
        return self._usage

    def __repr__(self) -> str:
        return f"LocalJudge({self.model})"

    def score(
        self,
        trait: Trait,
        questions: Sequence[str],
        answers: Sequence[str],
        *,
        style: Style = "continuation",
        purpose: Purpose = "evaluate",
    ) -> list[Score]:
        """Score each answer; `purpose` changes nothing. Every judgement is on the disk when this returns.

        A prompt longer than the model can read, and an answer too little of which is on numbers, are missing scores.

        Raises:
            InputError: not one question per answer, or no rubric for `style`.
            JudgeError: the network gives NaN or infinity.
            StoreError: the cache cannot be read or written.
        """
        asked = questions_about(trait, questions, answers, style)
        about_trait = self.read([each.trait for each in asked])
        about_coherence = self.read([each.coherence for each in asked])
        return [score_from(about_trait[each.trait], about_coherence[each.coherence], self.min_mass) for each in asked]

    def read(self, prompts: Sequence[str]) -> dict[str, Reading | str]:
        """Have any prompts answered with a number 0 to 100: `score` asks by this, too.

        Args:
            prompts: whole prompts, each ending in the instruction to answer with a number; repeated ones are read once. Those
                of one rubric open alike, which is read once: give them together, and no others.

        Returns:
            prompt -> what the judge says to it, or why it says nothing.

        Raises:
            JudgeError: the network gives NaN or infinity.
            StoreError: the cache cannot be read or written.
        """
        with self._lock:
            return self._read(prompts)

    def _read(self, prompts: Sequence[str]) -> dict[str, Reading | str]:
        distinct = list(dict.fromkeys(prompts))
        ids = {prompt: self._encode(prompt) for prompt in distinct}
        keys = {prompt: cache_key(self._identity, ids[prompt]) for prompt in distinct}
        kept = self.cache.get_many(keys.values()) if self.cache else {}
        answers: dict[str, Reading | str] = {
            prompt: Reading.from_json(kept[key])
            if key in kept
            else f"prompt of {len(ids[prompt])} tokens, of which the judge takes {self._longest}"
            for prompt, key in keys.items()
        }
        todo = [prompt for prompt in distinct if keys[prompt] not in kept and len(ids[prompt]) <= self._longest]
        encoded = [ids[prompt] for prompt in todo]
        for batch in read_numbers(self.model, self._spellings, encoded, tokens_per_batch=self.tokens_per_batch):
            values = {keys[todo[i]]: reading.to_json() for i, reading in batch.items()}
            held = self.cache.put_many(values) if self.cache else values
            answers |= {todo[i]: Reading.from_json(held[keys[todo[i]]]) for i in batch}
        self._usage = Usage(
            cached=self._usage.cached + len(kept), prompt_tokens=self._usage.prompt_tokens + sum(map(len, encoded))
        )
        return answers

    def _encode(self, prompt: str) -> list[int]:
        return list(self.model.tokenizer(self._render(prompt), add_special_tokens=False)["input_ids"])

    def _render(self, prompt: str) -> str:
        """Put a question in the chat template, up to where the answer begins.

        Models that can think first are asked not to. Templates that tell the date are told the same one for ever: a judge
        that knew the day would give other scores tomorrow.
        """
        message = {"role": "user", "content": self._special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", prompt)}
        try:
            return str(
                self.model.tokenizer.apply_chat_template(
                    [message],
                    tokenize=False,
                    add_generation_prompt=True,
                    enable_thinking=False,
                    chat_template=self._template,
                )
            )
        except Exception as error:  # a template raises its own kinds
            raise JudgeError(
                f"the chat template of {self.model.source!r} takes no question: {error}; take another model"
            ) from error


def make(rest: str, cache: Path | None = None) -> LocalJudge:
    """Return the judge named by what follows `local:`, a hub id or a directory, with every option at its default.

    Args:
        rest: the model; a hub id may be followed by `@` and a revision.
        cache: the SQLite file to keep judgements in, closed when the judge is gone; None keeps none.

    Raises:
        InputError: no model is named.
        ModelError: the model cannot be loaded.
        JudgeError: the model cannot judge.
        StoreError: the cache file cannot be used.
    """
    if not rest:
        raise InputError(
            "a local judge needs a model, for example local:HuggingFaceTB/SmolLM2-1.7B-Instruct or local:a/directory"
        )
    source, _, revision = (rest, "", "") if Path(rest).is_dir() else rest.partition("@")
    judge = LocalJudge(load_model(source, revision or None))
    if cache is not None:
        judge.cache = JudgeCache(cache)
        weakref.finalize(judge, judge.cache.close)
    return judge


def fingerprint(model: Model) -> str:
    """Return a hash that tells a network's weights from others, wherever they came from and on whatever device they lie.

    It is over the names, shapes and dtypes of all tensors and about 1,024 values of each, evenly spaced: a step of training
    changes it.
    """
    found = hashlib.sha256()
    for name, tensor in model.network.state_dict().items():
        found.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        values = tensor.reshape(-1)
        found.update(values[:: max(1, len(values) // _SAMPLED_PER_TENSOR)].float().cpu().numpy().tobytes())
    return found.hexdigest()


def _special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Return a pattern of the texts that the tokenizer takes for special tokens, the longest first."""
    texts = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special} | set(
        tokenizer.all_special_tokens
    )
    return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True) if len(text) > 1) or r"(?!)")


def _undated(tokenizer: Any) -> str | None:
    """Return a chat template that tells the same date for ever; None where the tokenizer's own tells none."""
    try:
        template = str(tokenizer.get_chat_template())
    except ValueError:  # several, none of them the default; asking will say so
        return None
    return _DATED + template if "strftime_now" in template else None


def _longest_prompt(model: Model, number_tokens: int) -> float:
    """Return how many tokens of a prompt the network can take, with room for a number."""
    limit = getattr(model.network.config.get_text_config(), "max_position_embeddings", None)
    return limit - number_tokens if limit else float("inf")
