"""A key that shows in no text, and in no log of the libraries that carry it.

Knows where the key comes from, and which libraries write into their logs what a server says: at DEBUG the HTTP client writes
every header that comes back, a traceback quotes what could not be read, and a server may send back what it was sent. Leaves to
`chat.py` where the key goes.
"""

from __future__ import annotations

import logging
import os
import threading

from traitline.errors import JudgeError

KEY_VARIABLE = "OPENAI_API_KEY"
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
        """Return a text without the key, as it is or as Python quotes it."""
        if len(self._text) < _SHORTEST_SECRET:
            return text
        return text.replace(self._text, "[key]").replace(repr(self._text)[1:-1], "[key]")


def key_from_environment() -> Key:
    """Return the key that OPENAI_API_KEY holds; an empty one where it is not set.

    Raises:
        JudgeError: it holds what no key does.
    """
    text = os.environ.get(KEY_VARIABLE, "").strip()
    if any(not "!" <= letter <= "~" for letter in text):
        raise JudgeError(f"{KEY_VARIABLE} holds blanks or letters that no key has; copy the key again")
    return Key(text)


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
        self._keys: tuple[Key, ...] = ()
        self._lock = threading.Lock()

    def add(self, key: Key) -> None:
        with self._lock:
            if all(key.reveal() != known.reveal() for known in self._keys):
                self._keys += (key,)

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        shown = self._blotted_out(said)
        if shown != said:
            record.msg, record.args = shown, None
        if record.exc_info:
            traced = record.exc_text or _PLAIN.formatException(record.exc_info)
            if (shown := self._blotted_out(traced)) != traced:
                record.exc_text, record.exc_info = shown, None
        return True

    def _blotted_out(self, text: str) -> str:
        for key in self._keys:
            text = key.blotted_out(text)
        return text


_PLAIN = logging.Formatter()
_FILTER = _KeyFilter()
