"""The embedded judge: a small encoder trained on published scores, on the CPU, without network, key or cost.

Knows four traits and coherence as an API judge scored them in continuations about a named character and in chat answers, both
in English and of about 64 tokens. Leaves the network to `encoder.py` and how it was made to `training/`. How far to trust it
is in `data/distilled/README.md`; `card.json` beside it holds the same figures for programs.

Two encoders were fitted on disjoint questions: one says which rows are accepted for a vector, the other what is reported.
"""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from traitline.errors import InputError, JudgeError
from traitline.judges.base import Purpose, Score, Style, check_one_question_each
from traitline.judges.encoder import (
    ANSWER_TOKENS,
    BINS,
    HEADS,
    HIDDEN,
    QUESTION_TOKENS,
    Encoded,
    Encoder,
    PairTokenizer,
    find_base,
    load_base,
    unpack,
)
from traitline.judges.words import REFUSALS
from traitline.models.capture import like_lengths
from traitline.traits.trait import Trait

DIRECTORY = Path(__file__).parent / "data" / "distilled"
TOKENS_PER_BATCH = 4096
_SHOWN_OF_DIGEST = 8


@dataclass(frozen=True, slots=True)
class Heads:
    """What the encoder says of some answers.

    Attributes:
        means: score of every head, 0 to 100, [rows, heads] in the order of `encoder.HEADS`.
        variances: of every head's distribution, likewise.
        features: what the heads read, [rows, hidden].
    """

    means: torch.Tensor
    variances: torch.Tensor
    features: torch.Tensor


class DistilledJudge:
    """Scores responses with a trained encoder (implements `traitline.judges.base.Judge`).

    Scores do not depend on which rows are judged together beyond rounding (under 1 point in bfloat16). Calls from several
    threads take turns. Weights are read when first needed, those of each purpose by themselves.

    Args:
        directory: holds `card.json`, `accept.safetensors` and `evaluate.safetensors`.
        base: directory of the base model; the installed package's where None.
        precise: compute in float32 even where the processor has bfloat16.

    Raises:
        JudgeError: the base model or a file is missing.
    """

    def __init__(self, directory: Path = DIRECTORY, *, base: Path | None = None, precise: bool = False) -> None:
        self.directory = directory
        self.base = base or find_base()
        self._half = not precise and _has_bfloat16()
        self._tokenizer = PairTokenizer(self.base)
        self._encoders: dict[Purpose, Encoder] = {}
        self._lock = threading.Lock()
        self._warned: set[str] = set()

    @cached_property
    def card(self) -> dict[str, Any]:
        """What the judge was trained on and how it did on held-out rows."""
        loaded: dict[str, Any] = json.loads(_read(self.directory / "card.json"))
        return loaded

    @cached_property
    def name(self) -> str:
        """`distilled:`, its version and the start of the SHA-256 of its files."""
        found = hashlib.sha256()
        for file in ("accept.safetensors", "evaluate.safetensors"):
            found.update(_read(self.directory / file))
        return f"distilled:{self.card['version']}-{found.hexdigest()[:_SHOWN_OF_DIGEST]}"

    @property
    def traits(self) -> tuple[str, ...]:
        """The names of the traits it can score."""
        return HEADS[:-1]

    def __repr__(self) -> str:
        return f"DistilledJudge({self.name!r})"

    def delta_error(self, trait: Trait) -> float:
        """Return the mean absolute error, in points, of steering deltas on held-out models and checkpoints.

        Raises:
            InputError: it was not trained on the trait.
        """
        self._head(trait)
        return float(self.card["delta_error"][trait.name])

    def score(
        self,
        trait: Trait,
        questions: Sequence[str],
        answers: Sequence[str],
        *,
        style: Style = "continuation",
        purpose: Purpose = "evaluate",
    ) -> list[Score]:
        """Score each answer; `style` changes nothing, for the text itself shows it. An answer without a word scores 0 and 0.

        Warns once where it is asked about texts unlike those it was trained on.

        Raises:
            InputError: it was not trained on the trait, or there are not as many questions as answers.
            JudgeError: its weights or its base cannot be read.
        """
        check_one_question_each(questions, answers)
        head = self._head(trait)
        if not answers:
            return []
        read = self.heads(questions, answers, purpose)
        start, slope = self.card["spread"][purpose][trait.name]
        uncertainty = (start + slope * read.variances[:, head]).sqrt()
        return as_scores(answers, read.means[:, head].tolist(), read.means[:, -1].tolist(), uncertainty.tolist())

    def heads(self, questions: Sequence[str], answers: Sequence[str], purpose: Purpose = "evaluate") -> Heads:
        """Return what every head says of each answer, and what the heads read.

        Raises:
            JudgeError: its weights or its base cannot be read.
        """
        encoded = self._tokenizer.encode(questions, answers)
        self._warn_about(questions, encoded)
        with self._lock:
            return self._read(encoded, purpose)

    def _head(self, trait: Trait) -> int:
        if trait.name not in self.traits:
            raise InputError(
                f"the judge 'distilled' was trained on {', '.join(self.traits)}, not on {trait.name!r}; name a judge that "
                "reads the trait's rubric (openai:<model> or local:<model>), fit one to 50 labelled answers or more "
                "(`traitline judges fit`), or try it out with the poor 'zeroshot'"
            )
        return HEADS.index(trait.name)

    @torch.inference_mode()
    def _read(self, encoded: Encoded, purpose: Purpose) -> Heads:
        encoder = self._encoders.get(purpose) or self._load(purpose)
        features = torch.zeros(len(encoded.ids), HIDDEN)
        for rows in like_lengths([len(ids) for ids in encoded.ids], TOKENS_PER_BATCH):
            features[rows] = encoder.features(*encoded.batch(rows))
        share = encoder.heads(features).view(-1, len(HEADS), BINS).softmax(-1)
        grid = torch.linspace(0, 100, BINS)
        means = share @ grid
        return Heads(means, (share @ grid.square() - means.square()).clamp(min=0), features)

    def _load(self, purpose: Purpose) -> Encoder:
        path = self.directory / f"{purpose}.safetensors"
        if not path.is_file():
            raise JudgeError(f"{path} is not there; reinstall traitline, or name another judge")
        encoder = Encoder()
        load_base(encoder, self.base)
        for part in (encoder.heads, encoder.pooled):
            for parameter in part.parameters():
                parameter.data.zero_()
        unpack(encoder, load_file(path))
        if self._half:
            encoder.blocks.to(torch.bfloat16)
        self._encoders[purpose] = encoder.eval()
        return encoder

    def _warn_about(self, questions: Sequence[str], encoded: Encoded) -> None:
        unlike = sum(
            "\n" in question.strip() or start - 2 >= QUESTION_TOKENS
            for question, start in zip(questions, encoded.starts, strict=True)
        )
        pairs = zip(encoded.ids, encoded.starts, strict=True)
        longer = sum(len(ids) - start - 1 >= ANSWER_TOKENS for ids, start in pairs)
        if unlike:
            self._warn(
                "format",
                f"the judge 'distilled' was trained on one-line openings about a character and on chat questions; {unlike} of "
                f"{len(questions)} texts have several lines or {QUESTION_TOKENS} tokens or more (a dialogue, a story), and how "
                "well it scores those was not measured: check a sample with another judge",
            )
        if longer:
            self._warn(
                "length",
                f"the judge 'distilled' reads the first {ANSWER_TOKENS} tokens of an answer; {longer} of {len(questions)} "
                "answers have as many or more",
            )

    def _warn(self, about: str, text: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            warnings.warn(text, stacklevel=4)


def make(rest: str = "", cache: Path | None = None) -> DistilledJudge:
    """Return the judge; scoring costs too little to be cached.

    Args:
        rest: nothing, or the version and digest that the judge's name states, to be sure of them.
        cache: ignored.

    Raises:
        InputError: another version is asked for.
        JudgeError: the base model or a file is missing.
    """
    del cache
    judge = DistilledJudge()
    if rest and judge.name != f"distilled:{rest}":
        raise InputError(f"this traitline ships the judge {judge.name!r}, not 'distilled:{rest}'; write just 'distilled'")
    return judge


def as_scores(
    answers: Sequence[str], trait: Sequence[float], coherence: Sequence[float], uncertainty: Sequence[float]
) -> list[Score]:
    """Return one score per answer: those given, but 0 and 0 for an answer without a word."""
    stripped = [answer.strip() for answer in answers]
    columns = zip(stripped, trait, coherence, uncertainty, strict=True)
    return [
        Score(shown if text else 0.0, sound if text else 0.0, REFUSALS.match(text) is not None, uncertainty=spread)
        for text, shown, sound, spread in columns
    ]


def _has_bfloat16() -> bool:
    """Tell whether the processor multiplies bfloat16 matrices in hardware."""
    known = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(bool(ask()) for ask in known if ask is not None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise JudgeError(f"{path} cannot be read ({error.strerror}); reinstall traitline, or name another judge") from error
