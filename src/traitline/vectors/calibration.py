"""The calibration texts: the fixed set of passages on which activation norms are measured.

Knows where the texts lie and how the file is divided. They are neutral and of many kinds (encyclopedia, news, recipes, code,
letters, stories), so that a norm belongs to the network and not to a trait or a genre. Changing one changes every norm, and
with it what a coefficient means. Leaves tokens to `models/prompts.py` and the norms to `models/capture.py`.
"""

from __future__ import annotations

from pathlib import Path

TEXTS = Path(__file__).parent / "data" / "calibration.txt"


def calibration_texts() -> list[str]:
    """Return the passages in the file's order; a blank line ends one, line breaks within one stay."""
    return TEXTS.read_text(encoding="utf-8").strip("\n").split("\n\n")
