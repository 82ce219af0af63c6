"""Directions: persona vectors, how they are estimated, their controls, their doses, and other tools' files."""

from traitline.vectors.dose import Steer, steer
from traitline.vectors.interop import export_pt, import_pt
from traitline.vectors.vector import PersonaVector, Provenance

__all__ = ["PersonaVector", "Provenance", "Steer", "export_pt", "import_pt", "steer"]
