"""Judging through a provider's batch endpoint: half the price, up to a day's wait, and no request made twice.

Knows what goes into a batch, what comes back, and what to do with what does not. Leaves HTTP to `provider.py`, and what is
durable to `orders.py`. A batch is cut to the provider's limits and to the budget; what a killed process had submitted is found
again and waited for; a batch that expires or loses lines has given what it has given, and only the rest goes into another.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from traitline.errors import JudgeError
from traitline.judges.api.asks import Ask, kept, usable
from traitline.judges.api.budget import Budget
from traitline.judges.api.chat import ChatServer
from traitline.judges.api.completion import read_completion
from traitline.judges.api.failures import Failure, fit_to_show, meaning
from traitline.judges.api.orders import Order, Orders
from traitline.judges.api.provider import BatchState, Line, Provider, RefusedError, read_line
from traitline.judges.cache import JudgeCache
from traitline.judges.spending import Spending

SMALLEST_BATCH = 10
"""Fewer requests than these are not worth a batch: they are asked one by one."""
MOST_REQUESTS = 50_000
MOST_BYTES = 150_000_000
"""The provider's limit is 200 MB."""
ROUNDS = 3
"""How many batches a request may go into that bring no answer to it; then it is asked by itself."""
CHARACTERS_PER_TOKEN = 4
"""Of English, roughly; what a batch will cost is estimated by it."""

KEPT_SECONDS = 30 * 86400.0
"""How long a provider keeps what a batch has brought; one older than that is given up."""

_DOWNLOADS = 3
_LONGEST_POLL_SECONDS = 60.0
_TELL_EVERY_SECONDS = 600.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Haul:
    """What one batch brought.

    Attributes:
        order: the batch.
        status: how it ended.
        answers: how many answers can be kept.
        failures: by key, what the provider would not answer.
        learned: whether it showed a setting that the server does not take.
        errors: (code, message) of what was wrong with the batch, or with some request of it.
    """

    order: Order
    status: str
    answers: int
    failures: dict[str, Failure]
    learned: bool
    errors: tuple[tuple[str, str], ...]


class Batches:
    """The batches of one model at one server.

    Args:
        server: the model, and how its requests are worded.
        budget: what may be spent.
        backoff_seconds: the first pause between two looks at a batch; it grows to a minute.
        patience_seconds: how long the server may be away before that is an error.

    Attributes:
        spent: what the batches cost that were collected so far.
    """

    def __init__(self, server: ChatServer, budget: Budget, *, backoff_seconds: float, patience_seconds: float) -> None:
        self._server = server
        self._budget = budget
        self._provider = Provider(server.connection, backoff_seconds=backoff_seconds, patience_seconds=patience_seconds)
        self._first_poll_seconds = backoff_seconds
        self._most_requests = MOST_REQUESTS
        self._one_at_a_time = False
        self._lock = threading.Lock()
        self.spent = Spending()

    def fill(self, cache: JudgeCache, asks: Sequence[Ask], *, submit: bool) -> dict[str, Failure]:
        """Have requests answered by batches, into the cache.

        What is in a batch already, of whatever process, is waited for, and never asked again.

        Args:
            cache: where the answers go.
            asks: the requests.
            submit: whether to submit new batches; else only those under way are waited for.

        Returns:
            By key, the requests that the provider will not answer. What is neither here nor in the cache is to be asked one by
            one.

        Raises:
            BudgetError: the rest would pass the budget.
            JudgeError: the provider refuses a batch, cancels it, or stays away.
        """
        orders = Orders(cache, self._server.model, self._server.url)
        if not submit and not orders.open():
            return {}
        wanted = {ask.key: ask for ask in asks}
        failures: dict[str, Failure] = {}
        tried: Counter[str] = Counter()
        with self._lock:
            while True:
                with cache.asking(orders.claim, threading.Event()):
                    under_way = self._found_again(orders)
                    settled = {key for order in under_way for key in order.asks} | failures.keys()
                    settled |= {key for key, times in tried.items() if times >= ROUNDS} | cache.found(wanted)
                    missing = [ask for key, ask in wanted.items() if key not in settled]
                    worth_it = submit and len(missing) >= SMALLEST_BATCH
                    new, cut = self._submitted(cache, orders, missing) if worth_it else ([], None)
                ours = [order for order in under_way if order.asks.keys() & wanted.keys()]
                hauls = self._collected(orders, ours + new, wanted)
                for haul in hauls:
                    failures |= haul.failures
                if cut is not None:
                    raise self._budget.used_up(self._budget.bill(cache), cut)
                if not hauls:
                    return failures
                submitted = {order.tag for order in new}
                for haul in hauls:
                    if self._ran(haul, haul.order.tag in submitted):
                        tried.update(haul.order.asks.keys())

    def _found_again(self, orders: Orders) -> list[Order]:
        """Return the open orders; one that a process died over has its id by now, or was never submitted and is dropped."""
        found = []
        for order in orders.open():
            if time.time() - order.planned_at > KEPT_SECONDS:
                orders.close(order)
            elif order.id is not None:
                found.append(order)
            elif (state := self._provider.find(order.tag, order.planned_at)) is not None:
                found.append(orders.sent(order, state.id))
            else:
                orders.close(order)
        return found

    # Submit

    def _submitted(self, cache: JudgeCache, orders: Orders, asks: Sequence[Ask]) -> tuple[list[Order], str | None]:
        """Submit as much as limits and budget allow; returns the orders, and why there are no more of them."""
        bill = self._budget.bill(cache)
        promised = sum((order.estimate for order in orders.open()), Spending())
        answer_tokens = bill.total.completion_tokens / bill.total.requests if bill.total.requests >= 20 else None
        submitted: list[Order] = []
        for chunk in self._chunks(asks):
            affordable: list[tuple[Ask, bytes]] = []
            estimate = Spending()
            for ask, line in chunk:
                with_it = estimate + _estimate(ask, line, answer_tokens)
                if self._budget.passed(self._budget.priced(bill.direct, bill.batch + promised + with_it)):
                    break
                affordable.append((ask, line))
                estimate = with_it
            if affordable:
                submitted.append(self._submit(orders, affordable, estimate))
                promised += estimate
            if len(affordable) < len(chunk):
                left = len(asks) - sum(len(order.asks) for order in submitted)
                return submitted, f"does not reach for the remaining {left:,} requests, by what they are estimated to cost"
            if self._one_at_a_time:
                break
        return submitted, None

    def _submit(self, orders: Orders, lines: Sequence[tuple[Ask, bytes]], estimate: Spending) -> Order:
        """Write an order down, then send it."""
        order = orders.plan([ask for ask, _ in lines], estimate)
        try:
            file = self._provider.upload(f"traitline-{order.tag}.jsonl", b"".join(line for _, line in lines))
        except JudgeError:
            orders.close(order)
            raise
        try:
            state = self._provider.create(file, order.tag)
        except RefusedError:
            orders.close(order)
            raise
        _log.warning(
            "judge model %s: submitted batch %s with %d requests; it may take up to a day. Stopping is safe: the next run "
            "finds it again",
            self._server,
            state.id,
            len(lines),
        )
        return orders.sent(order, state.id)

    def _chunks(self, asks: Sequence[Ask]) -> Iterator[list[tuple[Ask, bytes]]]:
        """Cut the requests into what one batch may hold."""
        chunk: list[tuple[Ask, bytes]] = []
        size = 0
        for ask in asks:
            body = self._server.body(ask.prompt, self._server.adapted(ask.settings))
            request = {"custom_id": ask.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
            line = json.dumps(request).encode() + b"\n"
            if chunk and (len(chunk) >= self._most_requests or size + len(line) > MOST_BYTES):
                yield chunk
                chunk, size = [], 0
            chunk.append((ask, line))
            size += len(line)
        if chunk:
            yield chunk

    # Wait and collect

    def _collected(self, orders: Orders, waiting: Sequence[Order], wanted: Mapping[str, Ask]) -> list[_Haul]:
        """Wait for batches, and put what each has brought into the cache as soon as it ends."""
        pause, told = self._first_poll_seconds, time.monotonic()
        left, hauls = list(waiting), []
        while left:
            states = [(order, self._provider.state(str(order.id))) for order in left]
            hauls += [self._collect(orders, order, state, wanted) for order, state in states if state.ended]
            left = [order for order, state in states if not state.ended]
            if left and time.monotonic() - told > _TELL_EVERY_SECONDS:
                told = time.monotonic()
                done, total = (sum(getattr(state, name) for _, state in states) for name in ("done", "total"))
                _log.warning("judge model %s: %d of %d requests in its batches are done", self._server, done, total)
            if left:
                time.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_POLL_SECONDS)
        return hauls

    def _collect(self, orders: Orders, order: Order, state: BatchState, wanted: Mapping[str, Ask]) -> _Haul:
        """Read the files of a batch that has ended and close its order."""
        answers: dict[str, tuple[str, str, Spending]] = {}
        failures: dict[str, Failure] = {}
        refused: list[tuple[str, Failure, Mapping[str, Any]]] = []
        wasted, errors = Spending(), list(state.errors)
        for line in self._lines(order, state):
            ask = wanted.get(line.key, order.asks[line.key])
            outcome = self._outcome(ask, line)
            if isinstance(outcome, str) and line.key not in answers:
                answers[line.key] = line.key, outcome, line.cost
                continue
            wasted += line.cost
            if isinstance(outcome, Failure):
                errors.append((outcome.reason, outcome.detail))
                if outcome.rejected:
                    refused.append((line.key, outcome, self._server.adapted(ask.settings)))
        learned = False
        for key, failure, sent in refused:
            if self._server.learn(failure.detail, sent):
                learned = True
            elif key not in answers:
                failures[key] = failure
        if orders.close(order, list(answers.values()), wasted):
            self.spent += sum((cost for _, _, cost in answers.values()), wasted)
        return _Haul(order, state.status, len(answers), failures, learned, tuple(errors[:3]))

    def _lines(self, order: Order, state: BatchState) -> list[Line]:
        """Return what the files of a batch say; files with fewer answers than they should have are fetched again."""
        best: list[Line] = []
        for _ in range(_DOWNLOADS if state.files else 0):
            content = b"\n".join(self._provider.content(file) for file in state.files)
            found = [line for text in content.splitlines() if (line := read_line(text)) and line.key in order.asks]
            best = max(best, found, key=len)
            if len({line.key for line in best if line.status == 200}) >= state.done:
                break
        return best

    def _outcome(self, ask: Ask, line: Line) -> str | Failure:
        """Return what the cache keeps of a line, or why there is nothing to keep."""
        key = self._server.connection.key
        if line.status == 200:
            found = read_completion(line.body)
            if found is None or not usable(ask, found):
                return Failure("unavailable", "the answer cannot be used")
            return json.dumps(kept(ask, key.blotted_out(found.text), found.positions), allow_nan=False)
        outcome = meaning(line.status, fit_to_show(line.said, key), line.code, self._server)
        return outcome if isinstance(outcome, Failure) else Failure("unavailable", str(outcome))

    def _ran(self, haul: _Haul, submitted_now: bool) -> bool:
        """Tell whether a batch was worked on; one that was too large for the account's queue goes again in smaller parts.

        Raises:
            JudgeError: a batch of this call failed as a whole, was cancelled, or brought nothing at all.
        """
        if haul.status == "failed" and any("token_limit" in code for code, _ in haul.errors) and len(haul.order.asks) > 1:
            self._most_requests = min(self._most_requests, len(haul.order.asks) // 2)
            self._one_at_a_time = True
            return False
        said = "; ".join(message or code for code, message in haul.errors)[:300] or "it does not say why"
        if not submitted_now:
            return True
        if haul.status == "failed":
            raise JudgeError(
                f"{self._provider} does not work on a batch for {self._server} ({said}); correct that, or judge without "
                "judging.batch"
            )
        if haul.status == "cancelled":
            raise JudgeError(
                f"a batch for {self._server} was cancelled; the {haul.answers} answers it had are kept, and the next run "
                "submits the rest"
            )
        if not (haul.answers or haul.failures or haul.learned):
            raise JudgeError(
                f"a batch for {self._server} ended ({haul.status}) without one answer ({said}); run again to submit it anew, "
                "or judge without judging.batch"
            )
        return True


def _estimate(ask: Ask, line: bytes, answer_tokens: float | None) -> Spending:
    """Return what a request will cost, roughly: of its prompt by letters, of its answer at most, or as much as others took."""
    received = ask.settings.get("max_tokens", 0) if answer_tokens is None else math.ceil(answer_tokens)
    return Spending(1, -(-len(line) // CHARACTERS_PER_TOKEN), received)
