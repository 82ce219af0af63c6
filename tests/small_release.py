"""A small release in the paper's layout, with its defects, built from invented answers.

Published numbers are computed here the plain way (all sign vectors listed one by one), so that they are an oracle for the
recomputation. One model with five readable revisions, one descendant, one trait with two strategies.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

MODEL, CHILD = "Tiny-1B", "Tiny-1B-Chat"
TRAIT, NAME = "gloomy", "gloomy_character_plain"
REVISIONS = ("step100-tokens1M", "step200-tokens2M", "step400-tokens4M", "step800-tokens8M", "main")
QUESTIONS = tuple(f"Robin opened door {i} and" for i in range(6))
LAYERS, HIDDEN = 4, 8


def answers(seed: int, mean: float, *, samples: int = 3, column: str = NAME) -> pd.DataFrame:
    """Return invented judged answers: `samples` of every question."""
    rng = np.random.default_rng(seed)
    asked = [question for question in QUESTIONS for _ in range(samples)]
    scores = rng.normal(mean, 8, len(asked)).clip(0, 100)
    told = [f"took note {seed} of thing {i}." for i in range(len(asked))]
    columns = {"question": asked, "prompt": [f"Story. {q}" for q in asked], "answer": told, "question_id": range(len(asked))}
    return pd.DataFrame({**columns, column: scores, "coherence": rng.uniform(60, 90, len(asked))})


def write(frame: pd.DataFrame, root: Path, listed: str) -> str:
    """Write a CSV at its path as listed, and return that path."""
    path = root / listed
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False)
    return listed


def compare(baseline: pd.DataFrame, steered: pd.DataFrame, column: str, tests: int) -> dict[str, float]:
    """Return the published columns of one comparison, by listing every sign vector."""
    left, right = (side.groupby("question")[column].mean() for side in (baseline, steered))
    differences = (right - left).dropna().to_numpy()
    means = [float(np.mean(differences * signs)) for signs in itertools.product((-1, 1), repeat=len(differences))]
    observed = float(differences.mean())
    two_sided = float(np.mean([abs(mean) >= abs(observed) - 1e-12 for mean in means]))
    found = {
        "delta_trait_mean": steered[column].mean() - baseline[column].mean(),
        "delta_coherence_mean": steered["coherence"].mean() - baseline["coherence"].mean(),
        "paired_questions": len(differences),
        "paired_trait_mean_diff": observed,
        "trait_primary_p_two_sided": two_sided,
        "trait_primary_p_greater": float(np.mean([mean >= observed - 1e-12 for mean in means])),
        "trait_primary_p_two_sided_bonferroni_within_trait": min(1.0, two_sided * tests),
    }
    for name, side in (("baseline", baseline), ("output", steered)):
        found |= {f"{name}_rows": len(side), f"{name}_trait_mean": side[column].mean()}
        found[f"{name}_coherence_mean"] = side["coherence"].mean()
    return found


def grid_row(revision: str, target: str, baseline: str, steered: str, numbers: dict[str, float]) -> dict[str, object]:
    """Return a row of the checkpoint grid."""
    who = {"extract_revision": revision, "trait": NAME, "eval_revision": target, "layer": 2, "coef": 0.5}
    return {
        **who,
        "scaling_mode": "unit_norm",
        "baseline_path": baseline,
        "output_path": steered,
        "status": "complete",
        **numbers,
    }


def write_run(root: Path, model: str, family: str, run: str, rows: Sequence[dict[str, object]]) -> Path:
    """Write one `combined_significance.csv`."""
    path = root / "results" / model / family / run / "combined_significance.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def build(root: Path) -> Path:
    """Write the release and return its folder.

    The run `grid` has one row per revision: a match; one counted with its extension twice; one whose steered file is missing;
    one that was computed from other answers; and the last, a match. The run `to_main` has three rows against a baseline
    that was replaced later, the third steered file as well.
    """
    folder = f"data/model_responses/eval/{MODEL}"
    rows, tests = [], len(REVISIONS)
    for i, revision in enumerate(REVISIONS):
        baseline, steered, more = answers(i, 20), answers(10 + i, 20 + 10 * i), answers(20 + i, 30, samples=5)
        listed = write(baseline, root, f"{folder}/{revision}/baseline_plain.csv"), f"{folder}/{revision}/{revision}/steered.csv"
        counted = steered
        if i == 1:
            write(more, root, listed[1].replace(".csv", "_extended.csv"))
            counted = pd.concat([steered, more, more])
        if i != 2:
            write(steered, root, listed[1])
        if i == 3:
            counted = answers(99, 55)
        rows.append(grid_row(revision, revision, *listed, compare(baseline, counted, NAME, tests)))
    write_run(root, MODEL, "checkpoint_grid", "grid", rows)

    old, moved = answers(50, 35), []
    for i, revision in enumerate(REVISIONS[:3]):
        steered = answers(60 + i, 45)
        listed = f"{folder}/main/{revision}/steered.csv"
        write(answers(98, 10) if i == 2 else steered, root, listed)
        moved.append(grid_row(revision, "main", f"{folder}/main/baseline_plain.csv", listed, compare(old, steered, NAME, 3)))
    write_run(root, MODEL, "checkpoint_grid", "to_main", moved)

    folder = f"data/model_responses/eval/{CHILD}/instruct_transfer/chat_v1"
    baseline = answers(70, 5, column=TRAIT)
    listed = write(baseline, root, f"{folder}/baselines/baseline_{TRAIT}.csv")
    chat = []
    for i, revision in enumerate(REVISIONS[:2]):
        steered = answers(80 + i, 25, column=TRAIT)
        who = {
            "trait": TRAIT,
            "vector_trait": NAME,
            "eval_model": f"lab/{CHILD}",
            "eval_model_name": CHILD,
            "layer": 2,
            "coef": 0.5,
        }
        paths = {"baseline_path": listed, "output_path": write(steered, root, f"{folder}/steered/{revision}/steered.csv")}
        found = compare(baseline, steered, TRAIT, 2)
        chat.append({**who, "extract_revision": revision, "eval_revision": CHILD, **paths, "status": "complete", **found})
    write_run(root, MODEL, "instruct_transfer", "chat_v1", chat)
    _write_vectors(root)
    return root


def _write_vectors(root: Path) -> None:
    """Write contrast answers, vectors and activation norms."""
    for i, revision in enumerate(REVISIONS):
        for polarity, seed, mean in (("pos", 200, 80), ("neg", 300, 10)):
            frame = answers(seed + i, mean, samples=4)
            write(frame, root, f"data/model_responses/extract/{MODEL}/{revision}/{NAME}_{polarity}_instruct.csv")
        for j, name in enumerate((NAME, f"{TRAIT}_story_plain")):
            path = root / f"data/persona_vectors/{MODEL}/{revision}/{name}_response_avg_diff.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            vector = np.random.default_rng([7, j]).normal(size=(LAYERS + 1, HIDDEN)) + i * 0.3
            torch.save(torch.tensor(vector, dtype=torch.float32), path)
        norms = pd.DataFrame({"layer": range(LAYERS + 1), "mean_l2": 10.0, "std_l2": 1.0, "count": 5})
        write(norms, root, f"results/{MODEL}/activation_norms/{revision}_norms.csv")
    files = root / "data/upstream_trait_data_eval"
    files.mkdir(parents=True)
    (files / f"{TRAIT}.json").write_text('{"questions": ["How was it?"], "eval_prompt": "Rate it."}', encoding="utf-8")
