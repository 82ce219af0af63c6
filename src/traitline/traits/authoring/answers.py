"""What a chat model answered, as data: JSON found in it, texts tidied, a refusal told apart from babble.

Knows the ways in which models wrap, cut and spoil JSON: code fences, thoughts and phrases around it, commas too many, real line
breaks within texts, an end that never came. Knows nothing of traits. What a model says is untrusted: it is parsed, never
run, and shown only through `quoted`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST_ANSWER = 60_000
"""Characters that are read of an answer."""
_STARTS = 200
_SHOWN = 160
_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_OPENING = re.compile(r"[\[{]")
_GAP = re.compile(r"[\s,]*")
_COMMA = re.compile(r",(?=\s*[\]}])")
_REFUSED = re.compile(
    r"\b(?:can(?:no|')t|cannot|won't|unable|not able|not comfortable|not going|sorry|apologi[sz]e|refuse|decline|must not)\b",
    re.IGNORECASE,
)
_UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"
_DECODER = json.JSONDecoder(strict=False)


def find_json(answer: str) -> Any:
    """Return the largest JSON object or array that an answer holds, whatever stands around it; None where there is none.

    Of an array that breaks off, what is whole of it is returned.
    """
    text = _THOUGHT.sub("", answer[:LONGEST_ANSWER])
    for candidate in (text, _COMMA.sub("", text)):
        spans = list(_spans(candidate))
        whole = [found for found in spans if isinstance(found[1], (dict, list)) and found[1]]
        broken = _broken_off(candidate)
        largest = max(whole, key=lambda found: found[0], default=None)
        if largest is not None and (broken is None or largest[0] >= broken[0]):
            return largest[1]
        if broken is not None and candidate is not text:
            return broken[1]
    return None


def _spans(text: str) -> Iterator[tuple[int, Any]]:
    """Yield (length, value) of what can be read from each opening bracket that lies in nothing read before."""
    at, starts = 0, 0
    while starts < _STARTS and (match := _OPENING.search(text, at)):
        starts += 1
        try:
            value, end = _DECODER.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            at = match.end()
            continue
        yield end - match.start(), value
        at = end


def _broken_off(text: str) -> tuple[int, list[Any]] | None:
    """Return (length, items) of the first array that has items and no end."""
    for match in list(re.finditer(r"\[", text))[:_STARTS]:
        items: list[Any] = []
        at = match.end()
        while True:
            at = _between(text, at)
            try:
                value, at = _DECODER.raw_decode(text, at)
            except (ValueError, RecursionError):
                break
            items.append(value)
        if items and text[at : at + 1] != "]":
            return at - match.start(), items
    return None


def _between(text: str, at: int) -> int:
    """Return where the next item of an array begins."""
    gap = _GAP.match(text, at)
    return gap.end() if gap else at


def listed(found: Any, key: str) -> list[Any] | None:
    """Return the list in an answer: below `key`, below whatever single key has one, or the answer itself."""
    if isinstance(found, list):
        return found
    if not isinstance(found, Mapping):
        return None
    if isinstance(found.get(key), list):
        return list(found[key])
    lists = [value for value in found.values() if isinstance(value, list)]
    return list(lists[0]) if len(lists) == 1 else None


def tidy(value: Any, *, lines: bool = False) -> str:
    """Return a text without control characters and stray blanks, "" where it is none; line breaks stay with `lines`.

    A text that was put into an object of one field is taken out of it, and a leading number in a list is dropped.
    """
    if isinstance(value, Mapping) and len(value) == 1:
        value = next(iter(value.values()))
    if not isinstance(value, str):
        return ""
    if lines:
        value = value.replace("\\n", "\n")  # written twice: the break came as a backslash and an n
    value = "".join(c for c in value if c in "\n\t" or c in _JOINERS or unicodedata.category(c) not in _UNSHOWN)
    kept = [" ".join(line.split()) for line in value.splitlines()]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip() if lines else " ".join(" ".join(kept).split())
    return re.sub(r"^\(?\d{1,2}[.)]\s+(?=\S)", "", text)


def refuses(answer: str) -> bool:
    """Tell whether an answer without JSON reads like a refusal."""
    said = _THOUGHT.sub("", answer).replace("’", "'").strip()
    return bool(_REFUSED.search(said[:300]))


def quoted(answer: str) -> str:
    """Return what a model said fit to show: one line, shortened, in quotation marks, control characters written out."""
    flat = " ".join(_THOUGHT.sub("", answer).split())
    return repr(flat if len(flat) <= _SHOWN else flat[: _SHOWN - 3] + "...") if flat else "nothing"
