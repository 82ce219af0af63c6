"""A chat completion as a server sends it: JSON in, the answer's text, its tokens and its cost out.

Knows which parts of the JSON matter and takes nothing else for granted: what a server adds, or says of its own accounts, never
makes an answer unreadable. Leaves to `judges/numbers.py` what the tokens spell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from traitline.judges.numbers import Position


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer: its text, its tokens (None where the server gave no probabilities), and the tokens it cost.

    `cached_tokens` are those of the prompt that the server had read before and may charge less for.
    """

    text: str
    positions: tuple[Position, ...] | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


def read_completion(content: bytes) -> Completion | None:
    """Return what a server's answer says; None where it is not a chat completion."""
    try:
        body = _Body.model_validate_json(content)
    except ValidationError:
        return None
    choice = body.choices[0]
    spent = body.usage if isinstance(body.usage, dict) else {}
    details = spent.get("prompt_tokens_details")
    prompt_tokens = _count(spent.get("prompt_tokens"))
    return Completion(
        choice.message.content or "",
        choice.positions(),
        prompt_tokens,
        _count(spent.get("completion_tokens")),
        min(prompt_tokens, _count(details.get("cached_tokens")) if isinstance(details, dict) else 0),
    )


def _count(tokens: Any) -> int:
    return tokens if isinstance(tokens, int) and tokens > 0 else 0


class _Alternative(BaseModel):
    token: str
    logprob: float

    @property
    def probability(self) -> float:
        return math.exp(min(self.logprob, 0.0)) if self.logprob == self.logprob else 0.0


class _Chosen(_Alternative):
    top_logprobs: list[_Alternative] | None = None

    def position(self) -> Position:
        listed = [(other.token, other.probability) for other in self.top_logprobs or []]
        own = [] if any(token == self.token for token, _ in listed) else [(self.token, self.probability)]
        return Position(self.token, tuple(own + listed))


class _Logprobs(BaseModel):
    content: list[_Chosen] | None = None


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    logprobs: _Logprobs | None = None

    def positions(self) -> tuple[Position, ...] | None:
        """The answer's tokens, or None where there are no probabilities of alternatives."""
        chosen = (self.logprobs.content if self.logprobs else None) or []
        if not any(token.top_logprobs for token in chosen):
            return None
        return tuple(token.position() for token in chosen)


class _Body(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: Any = None
