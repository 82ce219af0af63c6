"""Makes docs/performance.md and its plot of what `benchmarks/engine.py` wrote: `python benchmarks/page.py GPU.json CPU.json`.

Every figure on the page comes from these files; the sentences between are in `TEXT` below.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Line = dict[str, Any]
DOCS = Path(__file__).parents[1] / "docs"
TEXT = """# How fast it is

What `traitline` does with a checkpoint, beside the released recipe written plainly anew (`benchmarks/recipe.py`): the same
weights, prompts and sampling in one run. `python benchmarks/engine.py` makes the figures again, `benchmarks/page.py` this page.

{about}

![Generated tokens per second against rows at once]({plot})

*Tokens per second against rows at once, prompts of 24 tokens, 64 new tokens, mixed conditions. Dotted is the bound: each stage
of a step takes the longer of moving its bytes and doing its arithmetic, at the rates measured in the same run.*

## What the figures mean

- **Bound** and **share**: the most that the chip could do at that many rows, and the share of it that was reached, reading the
  prompts and all waiting included. Shared prompts count once, so the bound is a strict one.
- **Ratio**: against the recipe in the same run. The recipe waits for the host most of the time, so a faster host helps it:
  it made 406 tokens/s at 7B on another machine, with an H100. The recipe was timed on few rows
  ({sample}); where it would take hours, its time is scaled from its rates.
- **First token**: a fresh process that never compiled anything for this shape. What is compiled stays on disk, and serves every
  checkpoint of an architecture.
- One checkpoint is 8,000 contrast rows, and 6,400 rows of baseline, steering and controls, 64 new tokens each, and one pass
  over the 8,000 rows with 60 weighted sums (vectors, controls, split halves, bootstraps) and two classes' means and variances.
  Judging and loading are left out on both sides; the recipe loads the network 20 times, traitline once.
- **Agreement**: of vectors of 40 rows with random tokens, whose two sides differ by nothing but chance, so that rounding shows.
  In bfloat16 two right ways differ; beside it stands how far each is from the same network in float32. The last layer is not in
  it: the recipe's hidden states lie after the final norm there, traitline's before.

{sections}
"""


def _number(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if isinstance(value, float) else f"{value}"


def _table(lines: list[Line], columns: dict[str, str]) -> str:
    rows = ["| " + " | ".join(_cell(line, key) for key in columns) + " |" for line in lines]
    return "\n".join(["| " + " | ".join(columns.values()) + " |", "| --- " * len(columns) + "|", *rows])


def _cell(line: Line, key: str) -> str:
    value = line.get(key)
    if key == "who":
        return "released recipe" if line["what"].startswith("recipe") else "traitline"
    if key == "kind":
        return str(line["what"]).partition(": ")[2]
    if key in {"share", "ratio"} and value is not None:
        return f"{100 * value:.0f} %" if key == "share" else f"{value:.1f} x"
    return f"{value:.5f}" if key in COSINES and value is not None else _number(value)


def _section(lines: list[Line]) -> str:
    """Return what was measured of one shape on one device."""

    def those(*starts: str) -> list[Line]:
        return [line for line in lines if line["what"].startswith(starts)]

    ceilings = ", ".join(f"{line['what']} {_number(line['value'])} {line['unit']}" for line in those("copy", "matrix"))
    first = those("first token")
    told = f" First token of a process that had compiled nothing: {first[0]['seconds']:.1f} s." if first else ""
    parts = [f"## {lines[0]['shape']} on a {'CPU' if lines[0]['device'] == 'cpu' else 'GPU'}", f"Measured {ceilings}.{told}"]
    for title, chosen, columns in (
        ("Generation", those("recipe: prompts", "engine: prompts"), GENERATION),
        ("Extraction: all layers, 3 positions", those("recipe: extr", "engine: extr"), EXTRACTION),
        ("Agreement with the recipe's vectors", those("agreement"), AGREEMENT),
        ("One checkpoint", those("one checkpoint"), CHECKPOINT),
        ("More rows", those("engine: cost"), GROWTH),
        ("Where the time goes", those("profile"), PROFILE),
    ):
        if chosen:
            parts += [f"### {title}", _table(chosen, columns)]
    return "\n\n".join(parts)


GENERATION = {
    "who": "",
    "length": "prompt tokens",
    "rows": "rows",
    "tokens_per_s": "tokens/s",
    "bound": "bound",
    "share": "share",
    "ratio": "ratio",
    "first_s": "first call, s",
    "peak_gib": "peak GiB",
}
EXTRACTION = {
    "who": "",
    "samples": "rows a prompt",
    "rows": "rows",
    "rows_per_s": "rows/s",
    "share": "share",
    "ratio": "ratio",
    "peak_gib": "peak GiB",
}
COSINES = {
    "cosine": "recipe and traitline",
    "recipe_and_float32": "recipe and float32",
    "engine_and_float32": "traitline and float32",
}
AGREEMENT = {"kind": "least cosine over layers", "rows": "rows", **COSINES}
CHECKPOINT = {
    "of": "samples",
    "rows": "rows generated",
    "generate_s": "generating, s",
    "read_s": "reading, s",
    "seconds": "in all, s",
    "recipe_s": "recipe, s",
    "ratio": "ratio",
}
GROWTH = {"rows": "rows", "seconds": "s", "tokens_per_s": "tokens/s"}
PROFILE = {"kind": "", "seconds": "s", "share": "share"}


def _plot(results: list[dict[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    colours = plt.get_cmap("tab10").colors  # type: ignore[attr-defined]
    shapes = dict.fromkeys(line["shape"] for result in results for line in result["lines"] if line["device"] != "cpu")
    for colour, shape in zip(colours, shapes, strict=False):
        lines = [line for result in results for line in result["lines"] if line["shape"] == shape]
        mine = [line for line in lines if line["what"].startswith("engine: prompts of 24") and line["device"] != "cpu"]
        x = [line["rows"] for line in mine]
        axes.plot(x, [line["tokens_per_s"] for line in mine], "o-", color=colour, label=f"{shape}, traitline")
        axes.plot(x, [line["bound"] for line in mine], ":", color=colour, label=f"{shape}, bound")
        recipe = [line for line in lines if line["what"].startswith("recipe: prompts of 24")]
        axes.plot([16], [recipe[0]["tokens_per_s"]], "x", color=colour, label=f"{shape}, released recipe")
    axes.set(xscale="log", yscale="log", xlabel="rows at once", ylabel="generated tokens per second")
    axes.set_xticks([16, 64, 128, 256, 512, 1024], labels=["16", "64", "128", "256", "512", "1,024"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=160)


def main() -> None:
    """Write the page and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", nargs="+", type=Path, help="JSON files of benchmarks/engine.py")
    asked = parser.parse_args()
    results = [json.loads(path.read_text()) for path in asked.results]
    about = []
    for result in results:
        a = result["about"]
        about.append(
            f"- {a['hardware']}: torch {a['torch']}, transformers {a['transformers']}, Python {a['python']}, traitline "
            f"{a['traitline']} at commit `{a['commit']}`; {a['seconds']:.0f} s in all{'; ' + a['note'] if 'note' in a else ''}."
        )
    sections, samples = [], []
    for result in results:
        for shape in dict.fromkeys(line["shape"] for line in result["lines"]):
            lines = [line for line in result["lines"] if line["shape"] == shape]
            samples += [f"{line['rows']}" for line in lines if line["what"].startswith("recipe")]
            sections.append(_section(lines))
    plot = DOCS / "images" / "performance.png"
    _plot(results, plot)
    text = TEXT.format(
        about="\n".join(about),
        sections="\n\n".join(sections),
        plot=plot.relative_to(DOCS),
        sample=", ".join(dict.fromkeys(samples)),
    )
    (DOCS / "performance.md").write_text(text)


if __name__ == "__main__":
    main()
