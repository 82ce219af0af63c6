"""What each failure of a chat server means to the user: the end, one question without an answer, or something that goes by.

Knows HTTP's status codes and the errors of the client libraries. Leaves to `chat.py` what to do about them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from traitline.errors import JudgeError
from traitline.judges.api.address import URL_VARIABLE, led_to, proxied
from traitline.judges.api.secrets import KEY_VARIABLE, Key
from traitline.judges.spending import Spending

if TYPE_CHECKING:
    import openai

_PASSING = {408, 409, 425, 429}
_REMEDIES = {
    401: f"set {KEY_VARIABLE} to a key that this server accepts",
    402: "add credit to the account, then run again: stored judgements are not paid again",
    403: f"use a key ({KEY_VARIABLE}) that may use this model",
    404: f"check the model's name and the server's address ({URL_VARIABLE})",
    407: "check the proxy that the environment names",
}
_FLAGGED = re.compile(r"moderation|flagged|content.(?:policy|filter)", re.I)
_UNREACHABLE = {"ConnectError", "ConnectTimeout", "ProxyError"}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer.

    Attributes:
        reason: a few words for a result table: `unavailable`, or `rejected (HTTP 400)`.
        detail: what the server or the connection said, shortened, without the key.
        rejected: the server took the request and would not answer it; asking again will not help.
        unreachable: nothing answered at the address.
        put_off: the server said that there are too many requests.
        spent: what answers cost that could not be used.
    """

    reason: str
    detail: str
    rejected: bool = False
    unreachable: bool = False
    put_off: bool = False
    spent: Spending = field(default_factory=Spending)


def refused(error: openai.APIStatusError, server: object, url: str, key: Key) -> Failure | JudgeError:
    """Tell what an HTTP error means; a `JudgeError`, not raised, where no question will be answered.

    Args:
        error: what the client made of the answer.
        server: what messages call the server.
        url: its address.
        key: what no message may hold.
    """
    said = fit_to_show(error.message, key)
    if 300 <= error.status_code < 400:
        target = fit_to_show(led_to(url, error.response.headers.get("location", "")), key)
        return JudgeError(
            f"judge model {server} is redirected to {target} (HTTP {error.status_code}), and redirections are not followed; "
            f"check the server's address ({URL_VARIABLE})"
        )
    return meaning(error.status_code, said, error.code, server)


def meaning(status: int, said: str, code: str | None, server: object) -> Failure | JudgeError:
    """Tell what an HTTP status means that is neither success nor a redirection.

    Args:
        status: HTTP's.
        said: the server's message, fit to show.
        code: the server's own name for the error.
        server: what messages call the server.
    """
    remedy = _REMEDIES.get(402 if code == "insufficient_quota" else status)
    if status == 403 and _FLAGGED.search(said):
        return Failure("rejected (HTTP 403)", said, rejected=True)
    if remedy is not None:
        return JudgeError(f"judge model {server} was refused with HTTP {status} ({said}); {remedy}")
    if status < 500 and status not in _PASSING:
        return Failure(f"rejected (HTTP {status})", said, rejected=True)
    return Failure("unavailable", f"HTTP {status}: {said}", put_off=status == 429)


def unconnected(cause: BaseException, url: str, key: Key) -> Failure:
    """Name what went wrong below HTTP, by the error of the HTTP client."""
    kind, said = type(cause).__name__, fit_to_show(str(cause), key)
    through = ", through the proxy that the environment names" if proxied(url) else ""
    return Failure("unavailable", f"{kind}{': ' if said else ''}{said}{through}", unreachable=kind in _UNREACHABLE)


def fit_to_show(text: str, key: Key) -> str:
    """Return what a server or library said on one line, shortened, without the key."""
    return " ".join(key.blotted_out(text).split())[:200]
