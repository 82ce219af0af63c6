"""Networks: load one, turn prompts into ids, generate with a condition per row, read every layer in one pass.

The only package that hooks a network. It receives resolved rows (ids, keys, per-row layer, delta and positions) and knows no
trait, judge or dose.
"""

from traitline.models.capture import Calibration, calibrate, capture_rows, capture_sums
from traitline.models.generate import Generation, Intervention, Row, generate_rows
from traitline.models.loading import Model, load_model
from traitline.models.prompts import Prompt, encode
from traitline.models.sums import Moments, Sums

__all__ = [
    "Calibration",
    "Generation",
    "Intervention",
    "Model",
    "Moments",
    "Prompt",
    "Row",
    "Sums",
    "calibrate",
    "capture_rows",
    "capture_sums",
    "encode",
    "generate_rows",
    "load_model",
]
