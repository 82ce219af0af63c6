"""Who writes a draft: a chat model on a server or on this machine. A prompt goes in, the text of an answer comes out.

Knows how each is reached, and which failures pass. Servers, keys and rate limits are those of the judges (`judges/api`): the
address from OPENAI_BASE_URL, the key from OPENAI_API_KEY. Leaves what is asked to `prompts.py`, tries to `drafting.py`.
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from traitline.errors import InputError, JudgeError, ModelError, TraitlineError
from traitline.judges.api.chat import ChatServer, Reply
from traitline.judges.api.prices import find_price
from traitline.traits.authoring.answers import quoted

if TYPE_CHECKING:
    from traitline.models import Model

ANSWER_TOKENS = 4096
"""The most that a server may write in one answer, thinking included."""
LOCAL_ANSWER_TOKENS = 1536
SHORTEST_ANSWER_TOKENS = 256
TEMPERATURE = 0.8
KINDS = "openai:<model> or local:<directory or hub id>"


class DraftError(TraitlineError):
    """A trait cannot be drafted any further for now; what was drafted is kept."""


class UnansweredError(DraftError):
    """There is no answer to one request. `passing`: asking again may help."""

    def __init__(self, message: str, *, passing: bool) -> None:
        super().__init__(message)
        self.passing = passing


class Writer(Protocol):
    """A chat model."""

    @property
    def name(self) -> str:
        """What the draft says of who wrote it."""
        ...

    @property
    def spent(self) -> str:
        """What it has cost since it was made, in words; "" where it costs nothing."""
        ...

    def write(self, prompt: str, seed: int) -> str:
        """Answer a prompt.

        Args:
            prompt: what the model is told, as one user message.
            seed: of the sampling, as far as the model takes one.

        Raises:
            UnansweredError: there is no answer to this request.
            DraftError: there will be none to any.
        """
        ...


class ServerWriter:
    """A chat model on an OpenAI-compatible server; usable as a context manager.

    Args:
        model: the name the server knows the model by.
        base_url: the server's address up to `/v1`; None reads OPENAI_BASE_URL, then falls back on OpenAI's own.
        timeout_seconds: how long one answer may take.
        patience_seconds: how long a busy server (HTTP 429) may put one request off.
        backoff_seconds: the wait before a busy server is asked again that does not say when.

    Raises:
        InputError: no model's name, or an address that is none.
        DraftError: no key for a server that is not on this machine.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        timeout_seconds: float = 180.0,
        patience_seconds: float = 600.0,
        backoff_seconds: float = 0.5,
    ) -> None:
        if not model:
            raise InputError(f"the model has no name; give {KINDS}, for example openai:gpt-4.1-mini")
        self.name = f"openai:{model}"
        self._price = find_price(model)
        try:
            self._server = ChatServer(
                model,
                base_url,
                max_retries=0,
                timeout_seconds=timeout_seconds,
                backoff_seconds=backoff_seconds,
                patience_seconds=patience_seconds,
            )
        except JudgeError as error:
            raise DraftError(_of_a_writer(error)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    @property
    def spent(self) -> str:
        """Tokens and, where the model's price is known, US dollars."""
        spent = self._server.spent
        money = f", {self._price.usd(spent):.4f} US dollars" if self._price else ", at an unknown price"
        return f"{spent.tokens:,} tokens{money}"

    def write(self, prompt: str, seed: int) -> str:
        """Answer a prompt; see `Writer`."""
        settings = {"max_tokens": ANSWER_TOKENS, "temperature": TEMPERATURE, "seed": seed}
        try:
            outcome = self._server.ask(prompt, settings, threading.Event())
        except JudgeError as error:
            raise DraftError(_of_a_writer(error)) from None
        if isinstance(outcome, Reply):
            return outcome.text
        if outcome.rejected:
            raise UnansweredError(f"{self.name} rejects the request: {quoted(outcome.detail)}", passing=False)
        raise UnansweredError(f"{self.name} does not answer: {quoted(outcome.detail or outcome.reason)}", passing=True)


class LocalWriter:
    """A chat model on this machine.

    Args:
        model: a loaded model with a chat template.
        answer_tokens: where an answer is cut.
        temperature: of the sampling; 0 is greedy.

    Raises:
        InputError: a model without a chat template.
    """

    spent = ""

    def __init__(self, model: Model, *, answer_tokens: int = LOCAL_ANSWER_TOKENS, temperature: float = TEMPERATURE) -> None:
        if not model.is_chat:
            raise InputError(
                f"{model.source!r} has no chat template, so it cannot be asked for anything; take a model trained to chat (its "
                "name often ends in Instruct or Chat)"
            )
        source = Path(model.source)
        self.name = f"local:{source.resolve().name if source.is_dir() else model.source}"
        self._model = model
        self._answer_tokens = answer_tokens
        self._temperature = temperature

    def write(self, prompt: str, seed: int) -> str:
        """Answer a prompt; see `Writer`."""
        from traitline.models import Row, encode, generate_rows

        ids = encode(self._model, [{"role": "user", "content": prompt}])
        context = getattr(self._model.network.config.get_text_config(), "max_position_embeddings", None)
        room = min(self._answer_tokens, context - len(ids)) if isinstance(context, int) else self._answer_tokens
        if room < min(SHORTEST_ANSWER_TOKENS, self._answer_tokens):
            raise DraftError(
                f"{self.name} reads {context} tokens and a request has {len(ids)}, which leaves no room for an answer; take a "
                "model with a longer context"
            )
        try:
            (answer,) = generate_rows(self._model, [Row(ids, seed)], max_new_tokens=room, temperature=self._temperature)
        except ModelError as error:
            raise DraftError(f"{self.name} cannot write: {error}") from error
        return answer.text


def make_writer(name: str) -> ServerWriter | LocalWriter:
    """Return the chat model that a name stands for: `openai:<model>`, or `local:<directory or hub id>`, which is loaded.

    Raises:
        InputError: a name of another kind, or a local model without a chat template.
        ModelError: a local model that cannot be loaded.
        DraftError: no key for a server that is not on this machine.
    """
    kind, _, rest = name.partition(":")
    if kind == "openai" and rest:
        return ServerWriter(rest)
    if kind == "local" and rest:
        from traitline.models import load_model

        return LocalWriter(load_model(rest))
    raise InputError(f"{name[:80]!r} names no chat model; give {KINDS}")


def _of_a_writer(error: JudgeError) -> str:
    """Word an error of a judge's server for a model that judges nothing."""
    said = str(error).replace("judge model", "model").replace("the judge at", "the model at")
    return said.replace(": stored judgements are not paid again", "")
