"""The judge that asks a language model on any OpenAI-compatible server.

Knows by which method a server can be read, and what an answer makes of a response. Leaves having many questions answered
without ever asking twice to `api/asking.py`, the server to `api/chat.py`, reading numbers to `numbers.py`, and what is asked to
`questions.py` and `api/joint.py`.

Two methods. `logprobs`: the expected value over the number tokens 0 to 100 among the 20 most probable first tokens; needs a
server that gives probabilities and a tokeniser that keeps such numbers whole. `sample`: the mean of several answers drawn at
temperature 1. `auto` asks the server which of the two it can do.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

from traitline.errors import InputError, JudgeError
from traitline.judges.api.asking import Asker
from traitline.judges.api.asks import Manner, Settled, pair_reading, reading
from traitline.judges.api.batch import Batches
from traitline.judges.api.budget import Bill, Budget
from traitline.judges.api.chat import ChatServer, Usage
from traitline.judges.api.drift import keep_prompts
from traitline.judges.api.joint import Pair, joint_prompt
from traitline.judges.api.prices import find_price
from traitline.judges.api.probe import PROBED, against_logprobs
from traitline.judges.base import Purpose, Score, Style
from traitline.judges.cache import JudgeCache, cache_key
from traitline.judges.injections import addresses_judge
from traitline.judges.numbers import Reading
from traitline.judges.questions import MIN_MASS, questions_about, score_from
from traitline.traits.trait import Trait

Method = Literal["auto", "logprobs", "sample"]


class OpenAIJudge:
    """Scores responses with a chat model.

    Args:
        model: the name the server knows the model by.
        base_url: the server's address up to `/v1`; None reads OPENAI_BASE_URL, then falls back on OpenAI's own.
        cache: where judgements are kept; None keeps none. May be set later (`judge.cache = ...`) as long as nothing is
            being scored.
        concurrency: how many requests may be under way at once, over all threads that call `score`.
        max_retries: how often one request is repeated after a passing failure.
        timeout_seconds: how long one request may take, to its answer's last byte.
        method: `logprobs`, `sample`, or `auto` to use logprobs where the server can.
        samples: answers drawn per question with `sample`.
        min_mass: the share of probability (or of samples) on numbers under which a score is missing.
        backoff_seconds: the wait before the first retry.
        patience_seconds: how long a busy server (HTTP 429, or one that says when to come back) may put one question off;
            this counts as no retry.
        batch: judge through the server's batch endpoint; needs a cache.
        joint: ask for trait and coherence in one request. This is another judge: coherence is told after the trait's number.
        budget_usd: US dollars after which no request is sent, of all that was ever spent on this model with this cache.
        budget_tokens: likewise, tokens sent and received.
        prices: a file of prices that goes before ours.
        drift_prompts: how many of the first prompts are kept in the cache, to be asked again (see `api/drift.py`).

    Raises:
        JudgeError: no key (environment variable OPENAI_API_KEY) for a server that is not on this machine.
        InputError: an argument out of range, a file of prices that cannot be read, or a budget in US dollars for a model
            without a price.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        cache: JudgeCache | None = None,
        concurrency: int = 16,
        max_retries: int = 5,
        timeout_seconds: float = 60.0,
        method: Method = "auto",
        samples: int = 5,
        min_mass: float = MIN_MASS,
        backoff_seconds: float = 0.5,
        patience_seconds: float = 600.0,
        batch: bool = False,
        joint: bool = False,
        budget_usd: float | None = None,
        budget_tokens: int | None = None,
        prices: Path | None = None,
        drift_prompts: int = 0,
    ) -> None:
        if not model:
            raise InputError("an openai judge needs a model's name, for example openai:gpt-4.1-mini")
        if method not in get_args(Method):
            raise InputError(f"method {method!r} is none of {', '.join(get_args(Method))}")
        fits = min(concurrency, samples) >= 1 and min(max_retries, patience_seconds, drift_prompts) >= 0 and 0 < min_mass <= 1
        if not fits or min(timeout_seconds, backoff_seconds) <= 0:
            raise InputError(
                "an openai judge needs concurrency and samples >= 1, max_retries and patience_seconds >= 0, timeout_seconds "
                f"and backoff_seconds > 0 and 0 < min_mass <= 1; got {concurrency}, {samples}, {max_retries}, "
                f"{patience_seconds}, {timeout_seconds}, {backoff_seconds} and {min_mass}"
            )
        budget = Budget(model, budget_usd, budget_tokens, find_price(model, prices))
        self.model = model
        self.samples = samples
        self.min_mass = min_mass
        self.batches = batch
        self._drift_prompts = drift_prompts
        self.joint = joint
        self._method = method
        self._settled = self._used = _known(method)
        self._server = ChatServer(
            model,
            base_url,
            max_retries=max_retries,
            timeout_seconds=timeout_seconds,
            backoff_seconds=backoff_seconds,
            patience_seconds=patience_seconds,
        )
        batches = Batches(self._server, budget, backoff_seconds=backoff_seconds, patience_seconds=patience_seconds)
        self._asker = Asker(self._server, budget, concurrency=concurrency, batches=batches)
        self._asker.cache = cache
        self._settle_lock = threading.Lock()

    @property
    def cache(self) -> JudgeCache | None:
        """Where judgements are kept."""
        return self._asker.cache

    @cache.setter
    def cache(self, cache: JudgeCache | None) -> None:
        self._asker.cache = cache

    @property
    def name(self) -> str:
        """`openai:` and the model; with `joint`, and with the number of samples once the judge is known to sample."""
        manner = ["joint"] if self.joint else []
        manner += [f"{self.samples} samples"] if self._used == "sample" else []
        return f"openai:{self.model}" + (f" ({', '.join(manner)})" if manner else "")

    @property
    def usage(self) -> Usage:
        """What this judge has spent since it was made; of a batch, when it was collected."""
        return self._asker.usage

    @property
    def bill(self) -> Bill:
        """What was ever spent on this model with this cache, by batches or not, in tokens and in US dollars."""
        return self._asker.bill

    def __repr__(self) -> str:
        return f"OpenAIJudge({self._server})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and close the connections; the cache stays open for its owner."""
        self._asker.close()
        self._server.close()

    def score(
        self,
        trait: Trait,
        questions: Sequence[str],
        answers: Sequence[str],
        *,
        style: Style = "continuation",
        purpose: Purpose = "evaluate",
    ) -> list[Score]:
        """Score `answers[i]`, given in reply to `questions[i]`: one question about the trait, one about coherence.

        An answer that tries to tell the judge what to say is flagged, by its wording alone; its scores stand as they are.

        A refusal shows nothing of the trait: it is flagged and its trait score is 0; coherence is judged as ever. A score is
        missing where too little of the judge's answer is a number, and `unavailable` where retries did not help; only
        the first is kept in the cache. A server that leaves many questions in a row unanswered is an error instead.
        `purpose` makes no difference: an unfitted judge has no errors of its own fitting to reward.

        Returns:
            One `Score` per answer, in order. `uncertainty` is the standard error over samples, None with logprobs.

        Raises:
            InputError: lists of different lengths, or a style the trait has no rubric for.
            BudgetError: there is nothing left of the budget. What was answered before is kept.
            JudgeError: wrong key, unknown model, no server that answers at the address, or `logprobs` asked of a server
                without. What was answered before is kept.
            StoreError: a judgement could not be kept.
        """
        asked = questions_about(trait, questions, answers, style)
        both: list[tuple[Reading | str, Reading | str]]
        if self.joint:
            pairs = self._read_pairs([joint_prompt(each.trait, style) for each in asked])
            told = [pairs[joint_prompt(each.trait, style)] for each in asked]
            both = [(pair, pair) if isinstance(pair, str) else (pair[0], pair[1]) for pair in told]
        else:
            readings = self.read(self.prompts(trait, questions, answers, style=style))
            both = [(readings[each.trait], readings[each.coherence]) for each in asked]
        scores = [self._score(about_trait, about_coherence) for about_trait, about_coherence in both]
        return [replace(one, flagged=addresses_judge(answer)) for one, answer in zip(scores, answers, strict=True)]

    def prompts(
        self, trait: Trait, questions: Sequence[str], answers: Sequence[str], *, style: Style = "continuation"
    ) -> list[str]:
        """Return the prompts that `score` has answered, each once, so that they can be asked together with others.

        Raises:
            InputError: as `score`.
        """
        asked = questions_about(trait, questions, answers, style)
        if self.joint:
            return [*dict.fromkeys(joint_prompt(each.trait, style) for each in asked)]
        return [*dict.fromkeys([each.trait for each in asked] + [each.coherence for each in asked])]

    def holds(self, prompts: Sequence[str]) -> bool:
        """Tell whether prompts from `prompts` are all answered in the cache."""
        return not prompts or self._kept_method(prompts, self.joint, "") is not None

    def ask(self, prompts: Sequence[str]) -> None:
        """Have prompts from `prompts` answered into the cache, so that `score` finds them there.

        Raises:
            JudgeError: as `score`.
        """
        if self.joint:
            self._read_pairs(prompts)
        else:
            self.read(prompts)

    def settle(self) -> Settled:
        """Find out, once, whether this server can be read by logprobs; the answer is kept in the cache, too.

        Raises:
            JudgeError: a server that does not answer, or that rejects the simplest question, or `logprobs` asked of one
                that cannot give them.
        """
        with self._settle_lock:
            if self._settled is None:
                finding = self._finding()
                if finding and self._method == "logprobs":
                    raise JudgeError(
                        f"{self._server} cannot be read by logprobs: {finding}; use method='auto' or method='sample'"
                    )
                self._settled = "sample" if finding else "logprobs"
                self._used = self._settled
            return self._settled

    def _finding(self) -> str:
        if self.cache is None:
            return against_logprobs(self._server)
        key = cache_key({"probe": self.model, "url": self._server.url, "version": 1}, list(PROBED))
        with self.cache.asking(key, threading.Event()) as kept:
            if kept:
                return str(kept[key]["finding"])
            before = self._server.spent
            finding = against_logprobs(self._server)
            self.cache.put(key, {"finding": finding}, requests=0)
            self._asker.spend(self._server.spent - before)
        return finding

    def numbers(self, prompts: Sequence[str], again: str = "") -> dict[str, list[Reading | str]]:
        """Return what the judge says to prompts from `prompts`: of each one reading, or two where it asks for two numbers.

        Raises:
            JudgeError: as `score`.
        """
        if not self.joint:
            return {prompt: [told] for prompt, told in self.read(prompts, again=again).items()}
        pairs = self._read_pairs(prompts, again=again)
        return {prompt: [pair, pair] if isinstance(pair, str) else list(pair) for prompt, pair in pairs.items()}

    def read(self, prompts: Sequence[str], *, again: str = "") -> dict[str, Reading | str]:
        """Have any prompts answered with a number 0 to 100, each paid at most once: `score` asks by this, too.

        Args:
            prompts: whole prompts, each ending in the instruction to answer with a number; repeated ones are asked once.
            again: names a repetition: everything is asked anew under this name, never by batch, and kept beside the first.

        Returns:
            prompt -> what the judge says to it, or why it says nothing.

        Raises:
            JudgeError: as `score`.
            StoreError: a judgement could not be kept.
        """
        asked = self._asked(prompts, pair=False, again=again)
        return {prompt: reading(values) for prompt, values in asked.items()}

    def _read_pairs(self, prompts: Sequence[str], *, again: str = "") -> dict[str, Pair | str]:
        asked = self._asked(prompts, pair=True, again=again)
        return {prompt: pair_reading(values) for prompt, values in asked.items()}

    def _asked(self, prompts: Sequence[str], *, pair: bool, again: str) -> dict[str, list[Any]]:
        """Return what is kept of the answers to each prompt: one, or one per sample."""
        if not prompts:
            return {}
        method = self._settled or self._kept_method(prompts, pair, again) or self.settle()
        self._used = method
        manner = self._manner(method)
        asks = {prompt: manner.asks(prompt, pair=pair, again=again) for prompt in prompts}
        answers = self._asker.answer([ask for several in asks.values() for ask in several], by_batch=self.batches and not again)
        if self._drift_prompts and self.cache is not None and not again:
            kept = keep_prompts(self.cache, self.name, prompts, self._drift_prompts)
            self._drift_prompts = 0 if kept else self._drift_prompts
        return {prompt: [answers[ask.key] for ask in several] for prompt, several in asks.items()}

    def _manner(self, method: Settled) -> Manner:
        return Manner(self.model, method, self.samples)

    def _kept_method(self, prompts: Sequence[str], pair: bool, again: str) -> Settled | None:
        """The method by which everything asked is in the cache already, so that no server is needed."""
        methods: tuple[Settled, ...] = ("logprobs", "sample") if self._method == "auto" else ("logprobs",)
        for method in methods:
            asks = (ask for prompt in prompts for ask in self._manner(method).asks(prompt, pair=pair, again=again))
            if self.cache and self.cache.holds(ask.key for ask in asks):
                return method
        return None

    def _score(self, about_trait: Reading | str, about_coherence: Reading | str) -> Score:
        score = score_from(about_trait, about_coherence, self.min_mass)
        if self._used != "sample" or isinstance(about_trait, str) or score.refusal or score.trait is None:
            return score
        counted = round(about_trait.mass * self.samples)
        return replace(score, uncertainty=about_trait.spread / math.sqrt(counted - 1) if counted > 1 else None)


def make(rest: str, cache: Path | None = None, **options: Any) -> OpenAIJudge:
    """Return the judge named by what follows `openai:`, a model's name.

    Args:
        rest: the model's name.
        cache: the SQLite file to keep judgements in, closed when the judge is gone; None keeps none.
        options: further arguments of `OpenAIJudge`.

    Raises:
        JudgeError: no key for a server that is not on this machine.
        InputError: no model's name, or an option out of range.
        StoreError: the cache file cannot be used.
    """
    judge = OpenAIJudge(rest, **options)
    if cache is not None:
        judge.cache = JudgeCache(cache)
        weakref.finalize(judge, judge.cache.close)
    return judge


def _known(method: Method) -> Settled | None:
    """The method in use before any server was asked."""
    return "sample" if method == "sample" else None
