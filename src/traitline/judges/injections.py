"""Whether a response's wording tries to tell its judge what to say.

Knows phrases (`data/injections.yaml`), and nothing of meaning: a flag says "look at this row", not that a score is wrong, and a
text without one may still sway a judge. English only. The signs are rare in answers that mean nothing of the sort: words of
grading close to a grade at an end of the scale, telling the reader to leave the task or to write down a number, and marks that
close the tags around the response or take another side of the chat. docs/judges.md says how many attempts are seen.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import yaml

SIGNS = Path(__file__).parent / "data" / "injections.yaml"
_REFUSAL = re.compile(r"\bREFUSAL\b")


def addresses_judge(text: str) -> bool:
    """Return whether a response's wording tries to tell its judge what to say."""
    return bool(_REFUSAL.search(text) or any(sign.search(text) for sign in _signs()))


@cache
def _signs() -> tuple[re.Pattern[str], ...]:
    """Return one expression per kind of sign."""
    content = yaml.safe_load(SIGNS.read_text(encoding="utf-8"))
    names: dict[str, str] = {}

    def spelled_out(pattern: str) -> str:
        return re.sub(r"<([A-Z_]+)>", lambda found: names[found.group(1)], pattern.replace(" ", r"\s+"))

    for name, pattern in content["names"].items():
        names[name] = spelled_out(pattern)
    kinds = ("|".join(f"(?:{spelled_out(pattern)})" for pattern in patterns) for patterns in content["signs"].values())
    return tuple(re.compile(kind, re.IGNORECASE) for kind in kinds)
