"""What was submitted to a batch endpoint and not collected yet, kept in the judge cache.

Knows the tables `batches` and `batch_keys`. An order is written down, with its keys and a tag, before anything is sent; what
the provider calls it follows when that is known. A process that dies in between leaves an order without an id, which the next
one looks for by its tag. Answers, what they cost and the end of the order are written in one transaction, so that none counts
twice.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from traitline.judges.api.asks import Ask
from traitline.judges.cache import JudgeCache, cache_key
from traitline.judges.schema import record_judgements, record_spending
from traitline.judges.spending import Spending

_HELD = "SELECT key, logprobs, pair FROM batch_keys WHERE tag = ?"


@dataclass(frozen=True, slots=True)
class Order:
    """A batch as the judge cache knows it.

    Attributes:
        tag: what it is found by.
        payer: the model.
        id: what the provider calls it; None until that is known.
        planned_at: seconds since 1970.
        estimate: what it was expected to cost at most.
        asks: the requests in it by key, as far as their answers need it: without prompts.
    """

    tag: str
    payer: str
    id: str | None
    planned_at: float
    estimate: Spending
    asks: Mapping[str, Ask]


class Orders:
    """The open orders of one model at one server.

    Args:
        cache: where they are kept.
        payer: the model.
        url: the server's address, of which only a hash is kept.
    """

    def __init__(self, cache: JudgeCache, payer: str, url: str) -> None:
        self._cache = cache
        self._payer = payer
        self._server = cache_key({"server": url}, "")[:16]
        self.claim = cache_key({"orders": self._server}, payer)

    def open(self) -> list[Order]:
        """Return what was ordered and not collected, oldest first."""
        with self._cache.transaction() as connection:
            rows = connection.execute(
                "SELECT tag, id, planned_at, prompt_tokens, completion_tokens FROM batches "
                "WHERE payer = ? AND server = ? AND state = 'open' ORDER BY planned_at",
                (self._payer, self._server),
            ).fetchall()
            held = {tag: connection.execute(_HELD, (tag,)).fetchall() for tag, *_ in rows}
        return [
            Order(tag, self._payer, known, at, Spending(len(held[tag]), sent, received), _asks(held[tag]))
            for tag, known, at, sent, received in rows
        ]

    def plan(self, asks: Sequence[Ask], estimate: Spending) -> Order:
        """Write down an order before it is sent."""
        held = [(ask.key, ask.needs_positions, ask.pair) for ask in asks]
        order = Order(secrets.token_hex(16), self._payer, None, time.time(), estimate, _asks(held))
        with self._cache.transaction() as connection:
            connection.execute(
                "INSERT INTO batches VALUES (?, ?, ?, NULL, 'open', ?, ?, ?)",
                (order.tag, self._payer, self._server, order.planned_at, estimate.prompt_tokens, estimate.completion_tokens),
            )
            connection.executemany("INSERT INTO batch_keys VALUES (?, ?, ?, ?)", [(order.tag, *one) for one in held])
        return order

    def sent(self, order: Order, known: str) -> Order:
        """Write down what the provider calls an order."""
        with self._cache.transaction() as connection:
            connection.execute("UPDATE batches SET id = ? WHERE tag = ?", (known, order.tag))
        return replace(order, id=known)

    def close(self, order: Order, answers: Sequence[tuple[str, str, Spending]] = (), wasted: Spending | None = None) -> bool:
        """End an order, with what it brought; does nothing where another process has done so.

        Args:
            order: the order.
            answers: key, value as JSON, cost.
            wasted: what was paid for answers of no use.

        Returns:
            Whether it was this call that ended it.
        """
        with self._cache.transaction() as connection:
            ended = connection.execute("UPDATE batches SET state = 'closed' WHERE tag = ? AND state = 'open'", (order.tag,))
            if ended.rowcount:
                rows = [(key, value, cost, self._payer) for key, value, cost in answers]
                record_judgements(connection, rows, batch=True)
                record_spending(connection, self._payer, wasted or Spending(), batch=True)
                connection.execute("DELETE FROM batch_keys WHERE tag = ?", (order.tag,))
        return bool(ended.rowcount)


def _asks(held: Sequence[tuple[str, int, int]]) -> dict[str, Ask]:
    """Return what is known of requests by their (key, whether by logprobs, whether for two numbers)."""
    return {key: Ask(key, "", {"logprobs": True} if logprobs else {}, bool(pair)) for key, logprobs, pair in held}
