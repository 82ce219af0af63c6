"""Whether a server can be read by logprobs: it must give probabilities, and its tokeniser must keep numbers whole.

Knows the requests that both methods send, and the few test requests that tell them apart. Leaves to `judges/openai.py` what
follows from the finding.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from traitline.errors import JudgeError
from traitline.judges.api.address import URL_VARIABLE
from traitline.judges.api.chat import ChatServer
from traitline.judges.api.failures import Failure
from traitline.judges.numbers import keeps_whole

LOGPROBS_SETTINGS: Mapping[str, Any] = {
    "max_tokens": 4,
    "temperature": 0,
    "seed": 0,
    "logprobs": True,
    "top_logprobs": 20,
}
SAMPLE_SETTINGS: Mapping[str, Any] = {"max_tokens": 16, "temperature": 1}
PROBED = (42, 87, 100)
_PROMPT = "Repeat this number and write nothing else: {number}"


def against_logprobs(server: ChatServer) -> str:
    """Have numbers repeated, and see how they come back.

    Returns:
        What speaks against reading this server by logprobs; "" where nothing does.

    Raises:
        JudgeError: the server does not answer, or rejects even a plain request.
    """
    without = 0
    whole: list[bool | None] = []
    for number in PROBED:
        reply = server.ask(_PROMPT.format(number=number), LOGPROBS_SETTINGS, threading.Event())
        if isinstance(reply, Failure):
            return _failed(server, reply)
        if reply.positions is None:
            without += 1
        else:
            whole.append(keeps_whole(number, reply.positions))
    if without == len(PROBED):
        return "the server gives no probabilities"
    if False in whole:
        return "its tokeniser cuts numbers into several tokens"
    return "" if True in whole else "it did not repeat a number as one token"


def _failed(server: ChatServer, failure: Failure) -> str:
    if failure.unreachable:
        raise JudgeError(
            f"nothing answers for {server} ({failure.detail}); start the server, or check {URL_VARIABLE} and the network"
        )
    if not failure.rejected:
        raise JudgeError(
            f"{server} does not answer for now ({failure.detail}); run again when it does: stored judgements are not paid again"
        )
    plain = server.ask(_PROMPT.format(number=PROBED[0]), SAMPLE_SETTINGS, threading.Event())
    if isinstance(plain, Failure) and plain.rejected:
        raise JudgeError(f"{server} rejects even a one-line request: {plain.detail}; is it a chat model?")
    return f"the server rejects the request ({failure.detail})"
