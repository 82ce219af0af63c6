"""What the scores mean: tables in, tables and verdicts out. Nothing here loads a network."""

from traitline.analysis import effects, emergence, geometry, significance, transfer

__all__ = ["effects", "emergence", "geometry", "significance", "transfer"]
