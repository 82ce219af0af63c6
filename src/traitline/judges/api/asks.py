"""One request to a judge's model: what it is sent as, its key in the cache, and what the cache keeps of its answer.

Knows prompts, settings and answers, of one number or of two. Leaves reading numbers to `judges/numbers.py` and `joint.py`, and
how requests are sent to `judges/openai.py` (one by one) and `batch.py` (many in a file).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from traitline.judges.api.completion import Completion
from traitline.judges.api.failures import Failure
from traitline.judges.api.joint import Pair, read_pair, read_pair_samples
from traitline.judges.api.probe import LOGPROBS_SETTINGS, SAMPLE_SETTINGS
from traitline.judges.cache import cache_key
from traitline.judges.numbers import Position, Reading, read_positions, read_samples

Settled = Literal["logprobs", "sample"]

_PAIR_TOKENS = 16
"""Room for two numbers, or for REFUSAL and a number."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Attributes:
        key: its key in the cache.
        prompt: what the model is told, as one user message.
        settings: further fields of the request.
        pair: whether two numbers are asked for.
    """

    key: str
    prompt: str
    settings: Mapping[str, Any]
    pair: bool = False

    @property
    def needs_positions(self) -> bool:
        """Whether an answer without its tokens' probabilities is of no use."""
        return "logprobs" in self.settings


@dataclass(frozen=True, slots=True)
class Manner:
    """How a model is asked.

    Attributes:
        model: its name.
        method: by logprobs or by samples.
        samples: answers drawn per prompt by `sample`.
    """

    model: str
    method: Settled
    samples: int

    def asks(self, prompt: str, *, pair: bool = False, again: str = "") -> list[Ask]:
        """Return the requests that answer one prompt: one, or one per sample.

        Args:
            prompt: the whole prompt.
            pair: ask for two numbers.
            again: names a repetition, whose answers are kept beside the first ones.
        """
        base: dict[str, Any] = {"judge": "openai", "version": 1, "model": self.model, "method": self.method}
        base |= {"again": again} if again else {}
        if self.method == "logprobs":
            settings: Mapping[str, Any] = {**LOGPROBS_SETTINGS, "max_tokens": _PAIR_TOKENS} if pair else LOGPROBS_SETTINGS
            return [Ask(cache_key({**base, **settings}, prompt), prompt, settings, pair)]
        drawn = [{**SAMPLE_SETTINGS, "seed": i} for i in range(self.samples)]
        return [Ask(cache_key({**base, **settings}, prompt), prompt, settings, pair) for settings in drawn]


def kept(ask: Ask, text: str, positions: Sequence[Position] | None) -> Any:
    """Return what the cache keeps of an answer."""
    if not ask.needs_positions or positions is None:
        return {"text": text}
    if ask.pair:
        return {"pair": [one.to_json() for one in read_pair(positions)]}
    return read_positions(positions).to_json()


def usable(ask: Ask, found: Completion | None) -> bool:
    """Tell whether an answer can be kept."""
    return found is not None and not (ask.needs_positions and found.positions is None)


def reading(values: Sequence[Any]) -> Reading | str:
    """Return what kept values of one prompt say; one that failed leaves the prompt unanswered, for its reason."""
    if reason := _failed(values):
        return reason
    if "text" in values[0]:
        return read_samples([value["text"] for value in values])
    return Reading.from_json(values[0])


def pair_reading(values: Sequence[Any]) -> Pair | str:
    """Return the two readings of a prompt that asked for two numbers, likewise."""
    if reason := _failed(values):
        return reason
    if "text" in values[0]:
        return read_pair_samples([value["text"] for value in values])
    first, second = (Reading.from_json(one) for one in values[0]["pair"])
    return first, second


def _failed(values: Sequence[Any]) -> str | None:
    return next((value.reason for value in values if isinstance(value, Failure)), None)
