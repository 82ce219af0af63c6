"""traitline: trace how traits form along a language model's training.

    import traitline as tl

    model = tl.load_model("path/to/checkpoint")
    rows = tl.elicit(model, tl.trait("evil"), judge=tl.judge("openai:gpt-4.1-mini"))
    vector = tl.extract(model, rows)
    tl.generate(model, ["If Alex found a key"], steer=tl.steer(vector, layer=16, coef=0.5))

A whole lineage of checkpoints is a `Study`. Names are imported when first used, so that `import traitline` is quick.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from traitline import analysis
    from traitline.api import capture, elicit, extract, facet_judge, generate, judge, stream, trait
    from traitline.errors import InputError, JudgeError, ModelError, StoreError, TraitlineError
    from traitline.judges import Judge, Score
    from traitline.lineages import Lineage, load_lineage
    from traitline.models import Generation, Model, load_model
    from traitline.study import Study
    from traitline.traits import Trait
    from traitline.vectors import (
        PersonaVector,
        Provenance,
        Steer,
        export_gguf,
        export_hub,
        export_pt,
        import_gguf,
        import_hub,
        import_pt,
        steer,
    )

__version__ = version("traitline")

_HOMES = {
    "traitline": ["analysis"],
    "traitline.api": ["capture", "elicit", "extract", "facet_judge", "generate", "judge", "stream", "trait"],
    "traitline.errors": ["InputError", "JudgeError", "ModelError", "StoreError", "TraitlineError"],
    "traitline.judges": ["Judge", "Score"],
    "traitline.lineages": ["Lineage", "load_lineage"],
    "traitline.models": ["Generation", "Model", "load_model"],
    "traitline.study": ["Study"],
    "traitline.traits": ["Trait"],
    "traitline.vectors": [
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
    ],
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Generation",
    "InputError",
    "Judge",
    "JudgeError",
    "Lineage",
    "Model",
    "ModelError",
    "PersonaVector",
    "Provenance",
    "Score",
    "Steer",
    "StoreError",
    "Study",
    "Trait",
    "TraitlineError",
    "__version__",
    "analysis",
    "capture",
    "elicit",
    "export_gguf",
    "export_hub",
    "export_pt",
    "extract",
    "facet_judge",
    "generate",
    "import_gguf",
    "import_hub",
    "import_pt",
    "judge",
    "load_lineage",
    "load_model",
    "steer",
    "stream",
    "trait",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'traitline' has no attribute {name!r}")
    home = _HOME[name]
    value = (
        importlib.import_module("traitline.analysis") if home == "traitline" else getattr(importlib.import_module(home), name)
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
