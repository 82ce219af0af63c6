"""What was spent on a judge: requests and tokens, as the server counts them.

Knows sums. Leaves money to `api/prices.py`, limits to `api/budget.py`, and keeping to `cache.py`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spending:
    """Requests and their tokens.

    Attributes:
        requests: HTTP requests, or lines of a batch.
        prompt_tokens: tokens sent.
        completion_tokens: tokens received.
        cached_tokens: those of the sent ones that the server had read before, and may charge less for.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Tokens sent and received."""
        return self.prompt_tokens + self.completion_tokens

    def __sub__(self, other: Spending) -> Spending:
        return self + Spending(-other.requests, -other.prompt_tokens, -other.completion_tokens, -other.cached_tokens)

    def __add__(self, other: Spending) -> Spending:
        return Spending(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
        )
