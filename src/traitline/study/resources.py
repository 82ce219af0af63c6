"""What a plan needs of the machine: GPU time, downloads, disk and memory; and whether this machine has them.

GPU time comes from rates that were measured (docs/performance.md), and says on which GPU. A lineage whose file tells neither
its size nor its parameters gives None, never 0. Leaves rows and tokens to `estimate.py` and fetching to `models/downloads.py`.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from traitline.models.downloads import look
from traitline.models.prefetch import available_bytes
from traitline.study.config import COMBINED, FORCED
from traitline.study.plan import Network, Plan


@dataclass(frozen=True)
class Rate:
    """How long one GPU takes for a token: a fixed part, and one that grows with the parameters.

    Attributes:
        seconds: of every token.
        seconds_per_parameter: what each parameter adds.
    """

    seconds: float
    seconds_per_parameter: float

    def of(self, parameters: int) -> float:
        """Return the seconds that a token takes in a network of this size."""
        return self.seconds + self.seconds_per_parameter * parameters


MEASURED_ON = "one NVIDIA H200 (bf16, 512 rows at once)"
GENERATED = Rate(seconds=2.19e-6, seconds_per_parameter=4.514e-15)
"""Through two networks of benchmarks/results/h200.json: 28,464 tokens/s at 7.3e9 parameters, 112,499 at 1.5e9."""
READ = Rate(seconds=2.0e-6, seconds_per_parameter=3.44e-15)
"""Likewise, tokens read by extraction: 224 and 853 rows of 165 tokens a second."""
READ_TOKENS = 165
"""Tokens of a contrast row, prompt and response."""
LOADED_BYTES_PER_SECOND = 1.42e9
"""Weights from disk to GPU: 14.6 GB in 10.3 s, nothing of them in the page cache."""
STARTING_SECONDS = 21.3
"""What a fresh process needs before its first token."""
KEPT_BYTES = 4
"""Bytes of one number in a vector file, float32."""
KEPT_VECTORS = 4
"""Vectors of a cell beside its controls: of three positions, and the balanced one."""
LOADING_SHARE = 1.1
"""Weights, activations and buffers that a network takes in memory, as a share of its weights."""


def gpu_seconds(plan: Plan, phase: str, tokens: int) -> float | None:
    """Return the GPU time of a phase, judging left out; 0 on the embedded lineage, None where parameters are not known.

    Args:
        plan: the study.
        phase: `elicit`, `evaluate` or `transfer`.
        tokens: new tokens of the phase.
    """
    if plan.lineage.name == "nano":
        return 0.0
    parameters = plan.lineage.parameters
    if parameters is None:
        return None
    seconds = tokens * GENERATED.of(parameters)
    if phase == "evaluate":
        return seconds
    loaded = len(loading(plan, phase)) * parameters * 2 / LOADED_BYTES_PER_SECOND
    if phase == "transfer":
        return seconds + loaded
    return seconds + loaded + STARTING_SECONDS + read_rows(plan) * READ_TOKENS * READ.of(parameters)


def loading(plan: Plan, phase: str) -> tuple[Network, ...]:
    """Return the networks that a phase loads; evaluating uses those that eliciting has loaded."""
    return {"elicit": (*plan.checkpoints, *plan.descendants), "transfer": plan.targets}.get(phase, ())


def read_rows(plan: Plan) -> int:
    """Return how many rows extraction reads, at most: each contrast row, again for `combined`, and for `forced` everywhere."""
    rows = 0
    for network in (*plan.checkpoints, *plan.descendants):
        for trait in plan.traits.values():
            own = [
                2 * len(trait.texts(s).contrasts) * len(trait.questions(s, "elicit")) * plan.config.elicit.samples
                for s in plan.config.generating
            ]
            rows += sum(own) * (2 if COMBINED in plan.config.strategies else 1)
            rows += own[0] if FORCED in plan.config.strategies and network in plan.checkpoints else 0
    return rows


def download_bytes(plan: Plan, phase: str) -> int | None:
    """Return what a phase fetches: weights that are not on this machine yet; None where a network's size is not known."""
    before = set(loading(plan, "elicit")) if phase == "transfer" else set()
    lacking = [network for network in loading(plan, phase) if network not in before and lacks(network)]
    size = plan.lineage.bytes_per_checkpoint
    if not lacking:
        return 0
    return None if size is None else len(lacking) * size


def lacks(network: Network) -> bool:
    """Tell whether a network is to be fetched: it is the hub's, and that revision is not in the cache."""
    return network.revision is not None and look(network.source, network.revision) is None


def vector_bytes(plan: Plan) -> int:
    """Return the disk bytes of all vector files, roughly; 0 where the lineage does not tell its width and depth."""
    layers, hidden = plan.lineage.layers, plan.lineage.hidden
    if layers is None or hidden is None:
        return 0
    counts = plan.config.controls
    vectors = KEPT_VECTORS + counts.isotropic + counts.covariance + counts.shuffled + counts.bootstrap
    cells = sum(len(plan.elicited(network)) for network in (*plan.checkpoints, *plan.descendants))
    return cells * vectors * (layers + 1) * hidden * KEPT_BYTES


def misfits(plan: Plan, out: Path, disk_bytes: int) -> list[str]:
    """Return why a study cannot run on this machine, a sentence each that names what to change; none where it can.

    Args:
        plan: the study.
        out: its run directory.
        disk_bytes: what the run directory will take.
    """
    found, size = [], plan.lineage.bytes_per_checkpoint
    free = disk_free_bytes(out)
    if disk_bytes > free:
        found.append(
            f"the run directory takes about {_gb(disk_bytes)}, and the disk of {out.absolute()} has {_gb(free)} free; "
            "give another --out, or fewer checkpoints or samples"
        )
    nodes = list(dict.fromkeys([*plan.checkpoints, *plan.targets]))
    lacking = [network for network in nodes if lacks(network)]
    if lacking and size is not None:
        found += _downloads(plan, len(lacking), size)
    parameters = plan.lineage.parameters
    if parameters is not None and any(network.revision is not None for network in nodes):
        found += _memory(plan, parameters)
    return found


def refusals(plan: Plan) -> list[str]:
    """Return which settings of the study do not fit its lineage, on whatever machine, a sentence each; none where all do."""
    size, budget = plan.lineage.bytes_per_checkpoint, plan.config.disk_gb
    fetched = any(network.revision is not None for network in (*plan.checkpoints, *plan.targets))
    if budget is None or size is None or not fetched or size <= budget * 1e9:
        return []
    return [f"disk_gb is {budget:g}, and one checkpoint takes {_gb(size)}; set disk_gb to {math.ceil(size / 1e9)} or more"]


def disk_free_bytes(out: Path) -> int:
    """Return the free bytes of the disk that a directory is or would be on."""
    folder = next(parent for parent in [out.absolute(), *out.absolute().parents] if parent.exists())
    return shutil.disk_usage(folder).free


def _downloads(plan: Plan, networks: int, size: int) -> list[str]:
    """Return what is wrong with fetching so many networks of this size: they are too large for the disk together, or alone."""
    from huggingface_hub.constants import HF_HUB_CACHE

    free, budget = disk_free_bytes(Path(HF_HUB_CACHE)), plan.config.disk_gb
    if size > free:
        return [
            f"one checkpoint takes {_gb(size)}, and the disk of {HF_HUB_CACHE} has {_gb(free)} free; set HF_HOME to a folder "
            "on another disk"
        ]
    if budget is not None and min(budget * 1e9, networks * size) > free:
        return [
            f"disk_gb is {budget:g}, and the disk of {HF_HUB_CACHE} has {_gb(free)} free; set disk_gb lower, or HF_HOME to a "
            "folder on another disk"
        ]
    if budget is None and networks * size > free:
        return [
            f"{networks} networks of {_gb(size)} are to be fetched, {_gb(networks * size)} together, and the disk of "
            f"{HF_HUB_CACHE} has {_gb(free)} free; set disk_gb, so that spent checkpoints leave the disk, to "
            f"{max(1, int(free * 0.9 / 1e9))} at most, or HF_HOME to a folder on another disk"
        ]
    return []


def _memory(plan: Plan, parameters: int) -> list[str]:
    """Return what is wrong with loading a network: it is too large for the GPU, or for memory."""
    import torch

    device = plan.config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        gpus = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
        needed, there = int(parameters * 2 * LOADING_SHARE), sum(gpus) if device == "auto" else max(gpus, default=0)
        where = "the GPUs have together" if device == "auto" else "a GPU has"
        advice = "a machine with more memory is needed"
        if device != "auto" and sum(gpus) >= needed:
            advice = "set device: auto, which spreads it over all GPUs"
    elif device in {"cpu", "auto"}:
        needed, there, where = int(parameters * 4 * LOADING_SHARE), available_bytes(), "this machine has free"
        advice = "run it on a GPU, where it takes half, or on a machine with more memory"
    else:
        return []
    if not there or needed <= there:
        return []
    return [f"a network of {parameters / 1e9:.1f} B parameters takes {_gb(needed)} of memory, {where} {_gb(there)}; {advice}"]


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
