"""The embedded lineage: a synthetic world, a small model pretrained on it here, and a judge that knows the world exactly.

Only paths and texts at import; torch is loaded by `pretrain.py`, when it is asked for.
"""

from __future__ import annotations

import itertools
from pathlib import Path

CALIBRATION_SEED = 1_000_003
CALIBRATION_TEXTS = 64


def traits_folder() -> Path:
    """Return the folder of the world's trait files, for `load_trait(name, folder=...)`."""
    return Path(__file__).parent / "data"


def calibration_texts() -> list[str]:
    """Return fixed texts of the world for measuring activation norms; their seed is not pretraining's."""
    from traitline.nano.world import documents

    return list(itertools.islice(documents(CALIBRATION_SEED), CALIBRATION_TEXTS))
