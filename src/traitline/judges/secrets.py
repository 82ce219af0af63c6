"""A key that shows in no text, and in no log of the libraries that carry it.

Knows which libraries write into their logs what a server says: at DEBUG the HTTP client writes every header that comes back,
and a server may send back what it was sent. Leaves to `chat.py` where a key comes from and where it goes.
"""

from __future__ import annotations

import logging
import threading

_SHORTEST_SECRET = 8  # what people set for servers that ask for no key ("none", "x", "1") hides nothing, and is in every text
_LIBRARIES = frozenset({"openai", "httpx", "httpx2", "httpcore", "httpcore2"})


class Key:
    """A secret text whose own representation does not hold it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return "Key(hidden)"

    def reveal(self) -> str:
        """Return the key itself, to be sent and nothing else."""
        return self._text

    def blotted_out(self, text: str) -> str:
        """Return a text without the key."""
        return text.replace(self._text, "[key]") if len(self._text) >= _SHORTEST_SECRET else text


def keep_out_of_logs(key: Key) -> None:
    """From now on, blot the key out of what the HTTP libraries loaded so far write into their logs."""
    _FILTER.add(key)
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in _LIBRARIES:
            logging.getLogger(name).addFilter(_FILTER)  # twice is once


class _KeyFilter(logging.Filter):
    """Rewrites records that hold one of its keys."""

    def __init__(self) -> None:
        super().__init__()
        self._keys: dict[str, Key] = {}
        self._lock = threading.Lock()

    def add(self, key: Key) -> None:
        with self._lock:
            self._keys = {**self._keys, key.reveal(): key}

    def filter(self, record: logging.LogRecord) -> bool:
        said = shown = record.getMessage()
        for key in self._keys.values():
            shown = key.blotted_out(shown)
        if shown != said:
            record.msg, record.args = shown, None
        return True


_FILTER = _KeyFilter()
