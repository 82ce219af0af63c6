"""Directions: persona vectors, how they are estimated, their controls, their doses, and other tools' files."""

from traitline.vectors.dose import Steer, steer
from traitline.vectors.gguf_files import export_gguf, import_gguf
from traitline.vectors.hub import export_hub, import_hub
from traitline.vectors.interop import export_pt, import_pt
from traitline.vectors.vector import PersonaVector, Provenance

__all__ = [
    "PersonaVector",
    "Provenance",
    "Steer",
    "export_gguf",
    "export_hub",
    "export_pt",
    "import_gguf",
    "import_hub",
    "import_pt",
    "steer",
]
