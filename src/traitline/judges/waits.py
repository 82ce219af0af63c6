"""How long a busy server asks to be left alone, read from the headers of its answer.

Knows Retry-After (seconds, milliseconds or a date) and the x-ratelimit headers. Leaves to `chat.py` who waits, and how long at
most.
"""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Mapping

_LIMITS = ("tokens", "requests")
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:([\d.]+)s)?(?:([\d.]+)ms)?")
_PAST_ANY_DURATION = 1e9  # seconds since 1970, as some servers give instead of seconds from now


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
    """Read `6m0s`, `1.5s`, `120ms`, `59.7` (seconds), or a time since 1970."""
    text = text.strip()
    try:
        number = float(text)
        return number if number < _PAST_ANY_DURATION else number - time.time()
    except ValueError:
        found = _DURATION.fullmatch(text)
    try:
        return (
            sum(float(part or 0) * unit for part, unit in zip(found.groups(), (3600, 60, 1, 0.001), strict=True))
            if found
            else None
        )
    except ValueError:
        return None


def _positive(seconds: float | None) -> float | None:
    return seconds if seconds is not None and math.isfinite(seconds) and seconds > 0 else None
