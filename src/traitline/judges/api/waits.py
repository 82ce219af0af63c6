"""How long a busy server asks to be left alone, and how much is left of its limits, read from the headers of its answer.

Knows Retry-After (seconds, milliseconds or a date), the x-ratelimit headers and other providers' ways of writing them. Leaves
to `chat.py` and `pace.py` who waits, and how long at most.
"""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime

_LIMITS = ("tokens", "requests")
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:([\d.]+)s)?(?:([\d.]+)ms)?")
_PAST_ANY_DURATION = 1e9  # seconds since 1970, as some servers give instead of seconds from now
_PAST_ANY_DATE = 1e11  # milliseconds since 1970
_WRITTEN = tuple(
    (limit, left, reset)
    for limit, name in (("requests", "requests"), ("tokens", "tokens"), ("tokens", "input-tokens"), ("tokens", "output-tokens"))
    for left, reset in (
        (f"x-ratelimit-remaining-{name}", f"x-ratelimit-reset-{name}"),
        (f"anthropic-ratelimit-{name}-remaining", f"anthropic-ratelimit-{name}-reset"),
    )
) + tuple(("requests", f"{prefix}ratelimit-remaining", f"{prefix}ratelimit-reset") for prefix in ("", "x-"))
"""Limit, the header with what is left of it, the header with when it is full again."""


def asked_wait_seconds(headers: Mapping[str, str]) -> float | None:
    """Return the seconds from now after which the server wants to be asked again; None where it names no future time.

    Without Retry-After, it is when the used-up limit is full again. Where none is said to be used up, the limit on tokens
    counts: a request can be too large for what is left of it.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if (seconds := _positive(_number_or_date(headers.get(name, ""), unit))) is not None:
            return seconds
    resets = {limit: _positive(_duration(headers.get(f"x-ratelimit-reset-{limit}", ""))) for limit in _LIMITS}
    known = {limit: seconds for limit, seconds in resets.items() if seconds is not None}
    used_up = [seconds for limit, seconds in known.items() if headers.get(f"x-ratelimit-remaining-{limit}", "").strip() == "0"]
    return max(used_up) if used_up else next(iter(known.values()), None)


def allowances(headers: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """Return, for `requests` and `tokens`, how much is left and the seconds until the limit is full again.

    A limit of which the headers do not tell both is left out; of several for tokens the tightest counts.
    """
    found: dict[str, tuple[float, float]] = {}
    for limit, left_name, reset_name in _WRITTEN:
        left = _count(headers.get(left_name, ""))
        seconds = _positive(_duration(headers.get(reset_name, "")))
        if left is not None and seconds is not None and (limit not in found or left < found[limit][0]):
            found[limit] = left, seconds
    return found


def _count(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _number_or_date(text: str, unit: float) -> float | None:
    try:
        return float(text) * unit
    except ValueError:
        date = email.utils.parsedate_tz(text)
    try:
        return email.utils.mktime_tz(date) - time.time() if date else None
    except (OverflowError, ValueError):
        return None


def _duration(text: str) -> float | None:
    """Read `6m0s`, `1.5s`, `120ms`, `59.7` (seconds), a time since 1970, or a date and time."""
    text = text.strip()
    try:
        number = float(text)
        if number >= _PAST_ANY_DATE:
            number /= 1000
        return number if number < _PAST_ANY_DURATION else number - time.time()
    except ValueError:
        found = _DURATION.fullmatch(text)
    try:
        if "T" in text:
            return (datetime.fromisoformat(text) - datetime.now(UTC)).total_seconds()
        return (
            sum(float(part or 0) * unit for part, unit in zip(found.groups(), (3600, 60, 1, 0.001), strict=True))
            if found
            else None
        )
    except (ValueError, TypeError):
        return None


def _positive(seconds: float | None) -> float | None:
    return seconds if seconds is not None and math.isfinite(seconds) and seconds > 0 else None
