"""Decoding on a GPU: many rows at once, each under its own condition, at the speed of the chip.

Rows live in slots (`slots.py`) of one batch that never waits: a finished row leaves, the next one takes its slot. Prompts are
read once and shared (`memory.py` says how many fit, `attention.py` where keys and values lie), and one step of the network,
from token to token, is a captured graph that the loop in `decoder.py` replays. `kernels.py` has the two kernels that PyTorch
does not offer. What a row is and what sampling means stays in `models/generate.py` and `models/sampler.py`, which
also holds the way for networks and devices that this cannot serve.
"""

from traitline.models.decoding.decoder import decode_rows, serves

__all__ = ["decode_rows", "serves"]
