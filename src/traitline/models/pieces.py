"""Token ids -> pieces of text while they come, one piece per token, that join to the text of the whole response.

Knows that a token may hold part of a character, and which tokenizers change text that they have already decoded. A piece is
given once nothing that follows can change it. Leaves to `prompts.py` what the text of ids is.
"""

from __future__ import annotations

import re

from traitline.models.loading import Model
from traitline.models.prompts import decode

INCOMPLETE = "\ufffd"
"""What stands for a character of which some bytes are still missing."""
BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
"""A byte-fallback token. One byte too few or too many turns the whole run of them into replacement characters."""
CLEANED = 8
"""Characters from the end within which a tokenizer that cleans up spaces may still delete one (its patterns have 4)."""


class Pieces:
    """The text of one growing response, cut at its tokens."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._unsettled = CLEANED if getattr(model.tokenizer, "clean_up_tokenization_spaces", False) else 0
        self._ids: list[int] = []
        self._ends: list[int] = []  # of each token's piece in the text
        self._given = 0  # tokens whose piece was given

    def add(self, token: int) -> list[str]:
        """Take one more token. Returns the pieces, in order, of the tokens whose piece is now certain."""
        self._ids.append(token)
        whole = decode(self._model, self._ids)
        text = whole.rstrip(INCOMPLETE)
        self._ends.append(max(len(text), self._start))
        if BYTE.fullmatch(str(self._model.tokenizer.convert_ids_to_tokens(token))):
            return []
        certain = len(text) - self._unsettled
        tokens = len(self._ids) - (text != whole)  # the newest waits for the rest of its character
        settled = self._given
        while settled < tokens and self._ends[settled] <= certain:
            settled += 1
        return self._give(text, settled)

    def close(self) -> list[str]:
        """Return the pieces of the remaining tokens: the response has ended."""
        text = decode(self._model, self._ids)
        if self._ends:
            self._ends[-1] = len(text)
        return self._give(text, len(self._ends))

    @property
    def _start(self) -> int:
        """Where the text begins that was not given yet."""
        return self._ends[self._given - 1] if self._given else 0

    def _give(self, text: str, settled: int) -> list[str]:
        pieces = []
        for i in range(self._given, settled):
            pieces.append(text[self._start : self._ends[i]])
            self._ends[i] = max(self._ends[i], self._start)
            self._given = i + 1
        return pieces
