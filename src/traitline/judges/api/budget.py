"""What a judge may spend, in US dollars and in tokens, and what it has spent by now.

Knows limits and the message at a limit. Leaves prices to `prices.py`, and what was paid to the judge cache, which outlives
processes: the budget is that of everything ever paid on one cache file for this model, so that a run that is started again has
no new budget. Every request is preceded by a look at what is spent, so that a budget is exceeded by no more than the requests
under way.
"""

from __future__ import annotations

from dataclasses import dataclass

from traitline.errors import InputError, JudgeError
from traitline.judges.api.prices import Price, no_price
from traitline.judges.cache import JudgeCache
from traitline.judges.spending import Spending


class BudgetError(JudgeError):
    """There is nothing left of a judge's budget; what was judged is kept."""


@dataclass(frozen=True, slots=True)
class Bill:
    """What was spent.

    Attributes:
        direct: by requests, one answer each.
        batch: by batches.
        usd: US dollars for both; None where the model's price is not known.
    """

    direct: Spending
    batch: Spending
    usd: float | None

    @property
    def total(self) -> Spending:
        """Both kinds together."""
        return self.direct + self.batch

    def __str__(self) -> str:
        total = self.total
        money = "at an unknown price" if self.usd is None else shown_usd(self.usd)
        return f"{money} for {total.requests:,} requests of {total.tokens:,} tokens"


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of one model's spending; None for no limit.

    Attributes:
        model: who is paid.
        usd: US dollars.
        tokens: tokens, sent and received.
        price: the model's; needed for a limit in US dollars.

    Raises:
        InputError: a limit that is not positive, or one in US dollars without a price.
    """

    model: str
    usd: float | None = None
    tokens: int | None = None
    price: Price | None = None

    def __post_init__(self) -> None:
        if min(1.0 if self.usd is None else self.usd, 1 if self.tokens is None else self.tokens) <= 0:
            raise InputError(f"a judge's budget must be above 0; got {self.usd} US dollars and {self.tokens} tokens")
        if self.usd is not None and self.price is None:
            raise InputError(f"a budget in US dollars needs a price, and {no_price(self.model)}, or give budget_tokens instead")

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return self.usd is not None or self.tokens is not None

    def bill(self, cache: JudgeCache) -> Bill:
        """Return what the model was ever paid on a cache file; what was paid before payers were noted counts as its own."""
        spent = cache.spent()
        direct = spent.get((self.model, False), Spending()) + spent.get(("", False), Spending())
        return self.priced(direct, spent.get((self.model, True), Spending()))

    def priced(self, direct: Spending, batch: Spending) -> Bill:
        """Return the bill of what was spent in the two ways."""
        usd = self.price.usd(direct) + self.price.usd(batch, batch=True) if self.price else None
        return Bill(direct, batch, usd)

    def reached(self, bill: Bill) -> bool:
        """Tell whether nothing is left."""
        in_usd = self.usd is not None and bill.usd is not None and bill.usd >= self.usd
        return in_usd or (self.tokens is not None and bill.total.tokens >= self.tokens)

    def passed(self, bill: Bill) -> bool:
        """Tell whether a bill is above a limit."""
        in_usd = self.usd is not None and bill.usd is not None and bill.usd > self.usd
        return in_usd or (self.tokens is not None and bill.total.tokens > self.tokens)

    def check(self, bill: Bill) -> None:
        """Let a request pass where there is something left.

        Raises:
            BudgetError: there is not.
        """
        if self.reached(bill):
            raise self.used_up(bill)

    def used_up(self, bill: Bill, what_now: str = "") -> BudgetError:
        """Return the error that says what was spent, what is kept, and how to go on."""
        limits = [] if self.usd is None else [f"{shown_usd(self.usd)} (budget_usd)"]
        limits += [] if self.tokens is None else [f"{self.tokens:,} tokens (budget_tokens)"]
        happened = what_now or "is used up"
        return BudgetError(
            f"the budget of {' and '.join(limits)} for judge model {self.model!r} {happened}: spent by now, earlier runs with "
            f"this judge cache included, {bill}. Everything judged so far is kept and is not paid again; raise the budget and "
            "run again"
        )


def shown_usd(usd: float) -> str:
    """Return an amount of money as text, with cents, or more digits where it is small."""
    return f"${usd:,.2f}" if usd >= 1 or usd == 0 else f"${usd:.4f}"
