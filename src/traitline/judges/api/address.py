"""Where a judge's server is: the address a user gives, checked, and how a message names it.

Knows URLs and proxies. Leaves requests to `chat.py`, and keys to `secrets.py`: an address that carries one is not taken.
"""

from __future__ import annotations

import ipaddress
import os
import urllib.request
from urllib.parse import SplitResult, urljoin, urlsplit

from traitline.errors import InputError

URL_VARIABLE = "OPENAI_BASE_URL"
DEFAULT_URL = "https://api.openai.com/v1"


def server_url(given: str | None) -> str:
    """Return the address up to `/v1`: what is given, or else OPENAI_BASE_URL, or else OpenAI's own.

    Raises:
        InputError: no http(s) address, or one that holds a user name, a password or a query.
    """
    url = (given or os.environ.get(URL_VARIABLE, "")).strip().rstrip("/") or DEFAULT_URL
    parts = _split(url)
    if parts is None or not parts.hostname or parts.scheme not in {"http", "https"}:
        raise InputError("the judge's base URL is not an http(s) address; give one such as http://localhost:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InputError(
            f"the judge's base URL, {shown(url)} without them, holds a user name, a password or a query (after `?` or `#`), "
            "which would show in logs; end it with the path, and put the key in OPENAI_API_KEY"
        )
    return url


def on_this_machine(url: str) -> bool:
    """Return whether a server's address is a loopback one."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxied(url: str) -> bool:
    """Return whether the environment names a proxy for such addresses."""
    return not on_this_machine(url) and bool(urllib.request.getproxies().keys() & {urlsplit(url).scheme, "all"})


def shown(url: str) -> str:
    """Return an address fit for a message: without user, password or query."""
    parts = _split(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts else "an address that is none"


def led_to(url: str, location: str) -> str:
    """Return, fit for a message, where a redirection leads that came from `url`."""
    try:
        return shown(urljoin(url, location)) if location else "nowhere"
    except ValueError:
        return shown(location)


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.hostname, parts.port
    except ValueError:
        return None
    return parts
