"""Many requests at once and none twice: from the cache, from a batch, from another thread or process, or from the server.

Knows what is under way, and the look at the budget before each request. Leaves what is asked to `asks.py`, one request to
`chat.py`, batches to `batch.py`, and keeping to `judges/cache.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, ThreadPoolExecutor, wait
from typing import Any

from traitline.errors import InputError, JudgeError
from traitline.judges.api.asks import Ask, kept
from traitline.judges.api.batch import Batches
from traitline.judges.api.budget import Bill, Budget
from traitline.judges.api.chat import ChatServer, Reply, Usage
from traitline.judges.api.failures import Failure
from traitline.judges.cache import JudgeCache
from traitline.judges.spending import Spending


class Asker:
    """Has requests answered.

    Args:
        server: who is asked.
        budget: what may be spent.
        concurrency: how many requests may be under way at once, over all threads.
        batches: the server's batch endpoint.

    Attributes:
        cache: where answers are kept; None keeps none.
        cached: answers taken from there so far.
    """

    def __init__(self, server: ChatServer, budget: Budget, *, concurrency: int, batches: Batches) -> None:
        self.cache: JudgeCache | None = None
        self.cached = 0
        self._server = server
        self._budget = budget
        self._batches = batches
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="traitline-judge")
        self._lock = threading.RLock()
        self._under_way: dict[str, Future[Any]] = {}
        self._refused: dict[str, Failure] = {}
        self._paid = Spending()

    @property
    def usage(self) -> Usage:
        """What was spent since this was made."""
        spent = self._server.spent + self._batches.spent
        return Usage(spent.requests, self.cached, spent.prompt_tokens, spent.completion_tokens, spent.cached_tokens)

    @property
    def bill(self) -> Bill:
        """What was spent: ever on this cache file, or by this process where there is none."""
        if self.cache is not None:
            return self._budget.bill(self.cache)
        return self._budget.priced(self._paid, Spending())

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def answer(self, asks: Sequence[Ask], *, by_batch: bool) -> dict[str, Any]:
        """Return what is kept of each answer, by key; a `Failure` where there is none.

        What another thread has under way is waited for, not asked again: an answer is stored before its future is done,
        and looking up and starting happen under one lock.

        Raises:
            BudgetError: there is nothing left of the budget; what was under way is kept.
            JudgeError: no request will be answered.
        """
        refused = self._by_batch(asks, by_batch)
        stop = threading.Event()
        with self._lock:
            answers: dict[str, Any] = self.cache.get_many(ask.key for ask in asks) if self.cache else {}
            self.cached += len(answers)
            answers |= {key: failure for key, failure in refused.items() if key not in answers}
            waiting = {ask.key: self._start(ask, stop) for ask in asks if ask.key not in answers}
        try:
            for future in wait(waiting.values(), return_when=FIRST_EXCEPTION).done:
                if not future.cancelled():
                    future.result()
        except BaseException as error:
            stop.set()
            for future in waiting.values():
                future.cancel()
            if isinstance(error, JudgeError):
                wait(waiting.values())  # what is under way may still be answered, and is kept
            raise
        return answers | {key: _result(future) for key, future in waiting.items()}

    def spend(self, cost: Spending) -> None:
        """Note what was paid for nothing that is kept."""
        if self.cache is not None:
            self.cache.spend(self._server.model, cost)
        with self._lock:
            self._paid += cost

    def _by_batch(self, asks: Sequence[Ask], submit: bool) -> dict[str, Failure]:
        """Have missing answers brought by batches, and wait for those that are in one already; returns what was refused."""
        if self.cache is None:
            if submit:
                raise InputError("judging by batches needs a cache, where it is written down what was submitted; give `cache`")
            return {}
        there = self.cache.found(ask.key for ask in asks)
        missing = [ask for ask in asks if ask.key not in there and ask.key not in self._refused]
        if missing:
            self._refused |= self._batches.fill(self.cache, missing, submit=submit)
        return {ask.key: self._refused[ask.key] for ask in asks if ask.key in self._refused}

    def _start(self, ask: Ask, stop: threading.Event) -> Future[Any]:
        future = self._under_way.get(ask.key)
        if future is None or future.done():
            future = self._pool.submit(self._fetch, ask, stop)
            self._under_way[ask.key] = future
            future.add_done_callback(lambda done: self._forget(ask.key, done))
        return future

    def _forget(self, key: str, done: Future[Any]) -> None:
        with self._lock:
            if self._under_way.get(key) is done:
                del self._under_way[key]

    def _fetch(self, ask: Ask, stop: threading.Event) -> Any:
        """Take the answer that another process has got meanwhile, or get it; returns the kept value, or a `Failure`."""
        if self.cache is None:
            reply = self._ask(ask, stop)
            self.spend(reply.spent)
            return reply if isinstance(reply, Failure) else kept(ask, reply.text, reply.positions)
        with self.cache.asking(ask.key, stop) as stored:
            if stored:
                with self._lock:
                    self.cached += 1
                return stored[ask.key]
            reply = self._ask(ask, stop)
            if isinstance(reply, Failure):
                self.spend(reply.spent)
                return reply
            return self.cache.put(
                ask.key,
                kept(ask, reply.text, reply.positions),
                requests=reply.spent.requests,
                prompt_tokens=reply.spent.prompt_tokens,
                completion_tokens=reply.spent.completion_tokens,
                cached_tokens=reply.spent.cached_tokens,
                payer=self._server.model,
            )

    def _ask(self, ask: Ask, stop: threading.Event) -> Reply | Failure:
        if self._budget.limited:
            self._budget.check(self.bill)
        return self._server.ask(ask.prompt, ask.settings, stop, needs_positions=ask.needs_positions)


def _result(future: Future[Any]) -> Any:
    try:
        return future.result()
    except CancelledError:
        return Failure("unavailable", "stopped")
