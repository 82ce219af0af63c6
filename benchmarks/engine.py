"""How fast traitline is beside the released recipe, on this machine: same weights, prompts and sampling, one run.

    python benchmarks/engine.py                       # a GPU: the OLMo-3-7B shape and 1B, under 8 minutes
    python benchmarks/engine.py --device cpu          # two cores: a network of 100 million parameters

Prints a table and writes JSON (`--out`); `benchmarks/page.py` makes docs/performance.md of such files. The recipe is timed on a
sample, and what would take it hours is scaled from there, which the table says. `recipe.py` is the recipe, `bounds.py` what the
chip could do, `networks.py` the networks.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import recipe
import torch
import transformers
from bounds import Ceilings, measure, read_bound, step_bound
from networks import random_model

from traitline import __version__
from traitline.models import Intervention, Model, Row, generate_rows
from traitline.models.blocks import find_blocks
from traitline.models.capture import SEGMENTS, capture_sums
from traitline.models.decoding import decoder

NEW = 64
KINDS = {
    "attention": ("_attend", "flash"),
    "sampling": ("_reduce", "_choose"),
    "matrix products": ("nvjet", "gemm", "cutlass"),
    "norms, gates and rotary positions": ("triton",),
}
"""Parts of kernels' names, by kind of work."""
SAMPLING = {"max_new_tokens": NEW, "temperature": 0.5, "repetition_penalty": 1.1}


class Bench:
    """One network on one device, its measurements, and what was printed of them."""

    def __init__(self, shape: str, device: str) -> None:
        self.shape, self.device = shape, device
        self.model = random_model(shape, device)
        self.ceilings: Ceilings = measure(device)
        self.lines: list[dict[str, Any]] = []
        self.rng = np.random.default_rng(0)
        self.say("copy bandwidth", value=self.ceilings.bandwidth / 1e12, unit="TB/s")
        self.say("matrix rate", value=self.ceilings.rate / 1e12, unit="TFLOP/s")

    def say(self, what: str, **figures: Any) -> None:
        """Print a line and keep it."""
        self.lines.append({"shape": self.shape, "device": self.device, "what": what, **figures})
        shown = "  ".join(f"{k} {v:,.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
        print(f"{self.shape:9s} {what:52s} {shown}", flush=True)

    def timed(self, run: Callable[[], Any], times: int = 1) -> float:
        """Return the best time of a few calls."""
        best = float("inf")
        for _ in range(times):
            self.wait()
            start = time.perf_counter()
            run()
            self.wait()
            best = min(best, time.perf_counter() - start)
        return best

    def wait(self) -> None:
        """Wait until the device is done."""
        if self.device != "cpu":
            torch.cuda.synchronize()

    def prompts(self, count: int, length: int) -> list[list[int]]:
        """Return random prompts of one length."""
        return self.rng.integers(3, 30_000, size=(count, length)).tolist()

    def delta(self) -> np.ndarray:
        """Return a random steering delta."""
        return (self.rng.normal(size=self.model.hidden) * 0.05).astype(np.float32)

    def rows(self, count: int, length: int, samples: int) -> list[Row]:
        """Rows of `samples` a prompt; of every four one bare, the others steered at two layers in three ways."""
        prompts = self.prompts(-(-count // samples), length)
        layers = (self.model.layers // 2, self.model.layers * 5 // 8)
        deltas = [self.delta() for _ in range(3)]
        return [
            Row(prompts[i // samples], i, Intervention(layers[i % 2], deltas[i % 4 - 1]) if i % 4 else None)
            for i in range(count)
        ]

    def texts(self, count: int, samples: int) -> list[tuple[list[int], list[int]]]:
        """Contrast rows as they come: prompts of about 100 tokens, `samples` responses of about 64 to each."""
        prompts = [self.prompts(1, int(n))[0] for n in self.rng.integers(70, 135, -(-count // samples))]
        return [(prompts[i // samples], self.prompts(1, int(n))[0]) for i, n in enumerate(self.rng.integers(50, 77, count))]


def generation(bench: Bench, *, length: int, samples: int, batches: Sequence[int], sample: int) -> float:
    """Time the recipe on a sample and the engine at several batches. Returns the recipe's tokens a second."""
    prompts = [p for p in bench.prompts(-(-sample // samples), length) for _ in range(samples)][:sample]
    steer = bench.model.layers // 2, bench.delta()
    recipe.generate(bench.model, prompts[: recipe.GENERATE], steer, 4)
    made: list[int] = []
    plain = bench.timed(lambda: made.append(recipe.generate(bench.model, prompts, steer, NEW)))
    rate = made[0] / plain
    name = f"prompts of {length} tokens, {samples} samples each"
    bench.say(f"recipe: {name}", tokens_per_s=rate, rows=sample, length=length)
    for rows in batches:
        todo = bench.rows(rows, length, samples)
        first = bench.timed(lambda todo=todo: generate_rows(bench.model, todo, **SAMPLING))
        took = bench.timed(lambda todo=todo: generate_rows(bench.model, todo, **SAMPLING), 2)
        bound = step_bound(bench.model, bench.ceilings, rows, length, NEW, samples)
        speed = rows * NEW / took
        figures = {"tokens_per_s": speed, "bound": rows / bound, "share": speed * bound / rows, "ratio": speed / rate}
        bench.say(f"engine: {name}, {rows} rows", **figures, first_s=first, peak_gib=_peak(bench), rows=rows, length=length)
    return rate


def extraction(bench: Bench, *, rows: int, sample: int) -> float:
    """Time the recipe on a sample and the engine on `rows`, one and ten a prompt. Returns the recipe's rows a second."""
    texts = bench.texts(rows, 1)
    recipe.extract(bench.model, texts[: recipe.EXTRACT])
    rate = sample / bench.timed(lambda: recipe.extract(bench.model, texts[:sample]))
    bench.say("recipe: extraction", rows_per_s=rate, rows=sample, samples=1)
    for samples in (1, 10):
        texts = bench.texts(rows, samples)
        speed = rows / _read(bench, texts)
        tokens = sum(len(response) for _, response in texts) + sum(len(prompt) for prompt, _ in texts[::samples])
        share = read_bound(bench.model, bench.ceilings, tokens) * speed / rows
        figures = {"rows_per_s": speed, "ratio": speed / rate, "share": share, "peak_gib": _peak(bench)}
        bench.say(
            f"engine: extraction, {samples} a prompt", **figures, rows=rows, samples=samples, tokens_per_row=tokens / rows
        )
    return rate


def _read(bench: Bench, texts: list[tuple[list[int], list[int]]], functionals: int = 60) -> float:
    """Time one pass that gives what a cell keeps: vectors, controls, bootstraps and split halves, 60 sums and two classes."""
    weights = bench.rng.normal(size=(functionals, len(texts))) / len(texts)
    asked = {name: weights if name == "response_avg" else weights[:1] for name in SEGMENTS}
    classes = np.arange(len(texts)) % 2
    capture_sums(bench.model, texts[:64], {name: w[:, :64] for name, w in asked.items()}, classes=classes[:64])
    return bench.timed(lambda: capture_sums(bench.model, texts, asked, classes=classes))


def agreement(bench: Bench) -> None:
    """Compare vectors of the same rows, read in bfloat16 by the recipe and by the engine: the least cosine over layers.

    Two right ways differ by rounding; how far each is from the same network in float32 says which rounds more. The last layer
    is left out: the recipe's states lie after the final norm there, the engine's before.
    """
    model, exact = (_in_type(bench.model, dtype) for dtype in (torch.bfloat16, torch.float32))
    for samples in (1, 10):
        texts = bench.texts(40, samples)
        sides = np.where(np.arange(40) % 2, 1 / 20, -1 / 20)[None]
        plain, true = (np.einsum("r,rslh->slh", sides[0], recipe.extract(one, texts).numpy()) for one in (model, exact))
        ours = capture_sums(model, texts, dict.fromkeys(SEGMENTS, sides)).segments
        for i, segment in enumerate(SEGMENTS):
            if samples > 1 and segment != "response_avg":
                continue  # the prompts of both sides are the same, so their difference is rounding
            figures = {
                "cosine": _least_cosine(plain[i], ours[segment][0]),
                "recipe_and_float32": _least_cosine(plain[i], true[i]),
                "engine_and_float32": _least_cosine(ours[segment][0], true[i]),
            }
            bench.say(f"agreement: {segment}, {samples} a prompt", **figures, rows=40, samples=samples)


def _in_type(model: Model, dtype: torch.dtype) -> Model:
    """Return the network in a type: itself, or a copy."""
    if model.network.dtype == dtype:
        return model
    network = copy.deepcopy(model.network).to(dtype)
    return replace(model, network=network, blocks=find_blocks(network))


def _least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the least cosine over layers of two [layers + 1, hidden], the last left out."""
    a, b = a[:-1], b[:-1]
    return float(((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).min())


def checkpoint(bench: Bench, generating: float, extracting: float, *, part: int = 1) -> None:
    """Do what one checkpoint takes with four traits, without judging; the recipe's time is scaled from its rates.

    Contrast rows: 4 traits x 5 instruction pairs x 2 sides x 20 questions x 10 samples. Evaluation: per trait 20 questions x 10
    samples, baseline and steered, and 6 controls. `part` divides the samples.
    """
    samples = 10 // part
    contrast = bench.rows(800 * samples, 60, samples)
    evaluation = bench.rows(80 * 8 * samples, 24, 8 * samples)
    texts = bench.texts(800 * samples, samples)
    generate = bench.timed(
        lambda: (generate_rows(bench.model, contrast, **SAMPLING), generate_rows(bench.model, evaluation, **SAMPLING))
    )
    read = _read(bench, texts)
    rows = len(contrast) + len(evaluation)
    plain = rows * NEW / generating + len(texts) / extracting
    bench.say(
        "one checkpoint, 4 traits, one load (recipe scaled from its rates)", seconds=generate + read, generate_s=generate,
        read_s=read, recipe_s=plain, ratio=plain / (generate + read), rows=rows, of=f"1/{part}",
    )  # fmt: skip


def linear(bench: Bench, counts: Sequence[int]) -> None:
    """Show that time grows with rows."""
    for rows in counts:
        took = bench.timed(lambda rows=rows: generate_rows(bench.model, bench.rows(rows, 24, 10), **SAMPLING))
        bench.say("engine: cost of more rows", rows=rows, seconds=took, tokens_per_s=rows * NEW / took)


def profile(bench: Bench, rows: int) -> None:
    """Say where the time of decoding goes: on the device by kind of work, and what is left, when it waits for the host."""
    from torch.profiler import ProfilerActivity

    todo = bench.rows(rows, 24, 10)
    generate_rows(bench.model, todo, **SAMPLING)
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA], acc_events=True) as seen:
        took = bench.timed(lambda: generate_rows(bench.model, todo, **SAMPLING))
    spent: dict[str, float] = defaultdict(float)
    for event in seen.events():
        spent[_kind(event.name)] += event.device_time_total / 1e6
    spent["waiting for the host"] = took - sum(spent.values())
    for kind, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        bench.say(f"profile of {rows} rows: {kind}", seconds=seconds, share=seconds / took)


def _kind(name: str) -> str:
    return next((kind for kind, parts in KINDS.items() if any(part in name.lower() for part in parts)), "the rest")


def _peak(bench: Bench) -> float:
    if bench.device == "cpu":
        return float("nan")
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return peak


def on_gpu(shape: str) -> list[dict[str, Any]]:
    """Everything, on one GPU."""
    bench = Bench(shape, "cuda")
    start = time.perf_counter()
    generate_rows(bench.model, bench.rows(512, 24, 10)[:1], **{**SAMPLING, "max_new_tokens": 1})
    bench.say("first token of a fresh process, compiling included", seconds=time.perf_counter() - start)
    rate = generation(bench, length=24, samples=10, batches=(64, 128, 256, 512, 1024), sample=32)
    generation(bench, length=120, samples=10, batches=(512,), sample=32)
    decoder.release(bench.model)
    agreement(bench)
    reading = extraction(bench, rows=1024, sample=32)
    if shape == "olmo3-7b":
        checkpoint(bench, rate, reading)
        linear(bench, (512, 1024, 2048, 5120))
        profile(bench, 512)
    decoder.release(bench.model)
    return bench.lines


def on_cpu(shape: str) -> list[dict[str, Any]]:
    """Everything, smaller, on the CPU."""
    bench = Bench(shape, "cpu")
    rate = generation(bench, length=24, samples=10, batches=(16, 64, 128), sample=32)
    generation(bench, length=120, samples=10, batches=(64,), sample=32)
    agreement(bench)
    reading = extraction(bench, rows=60, sample=16)
    checkpoint(bench, rate, reading, part=10)
    return bench.lines


def _commit() -> str | None:
    def told(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()  # noqa: S607

    commit = told("rev-parse", "--short", "HEAD")
    return f"{commit} with changes" if commit and told("status", "--porcelain", "-uno") else commit or None


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--shapes", nargs="+", help="of networks.py; olmo3-7b and 1b on a GPU, 100m on a CPU")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"))
    asked = parser.parse_args()
    if asked.out.exists():
        parser.error(f"{asked.out} exists; give another --out")
    shapes = asked.shapes or (["olmo3-7b", "1b"] if asked.device == "cuda" else ["100m"])
    start = time.perf_counter()
    lines: list[dict[str, Any]] = []
    for shape in shapes:
        lines += (on_gpu if asked.device == "cuda" else on_cpu)(shape)
        torch.cuda.empty_cache()
    about = {
        "hardware": torch.cuda.get_device_name() if asked.device == "cuda" else f"{torch.get_num_threads()} CPU threads",
        "torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version(),
        "traitline": __version__, "commit": _commit(), "seconds": time.perf_counter() - start,
    }  # fmt: skip
    asked.out.write_text(json.dumps({"about": about, "lines": lines}, indent=1) + "\n")
    print(f"{about['seconds']:.0f} s; wrote {asked.out}")


if __name__ == "__main__":
    main()
