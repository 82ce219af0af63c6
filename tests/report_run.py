"""A made-up run directory for the tests of the report: twelve checkpoints, four traits, three strategies, hostile texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

TRAITS = ("evil", "humorous", "impolite", "sycophantic")
STRATEGIES = ("character", "instruction", "forced")
STEPS = (0, 16, 32, 61, 95, 122, 160, 244, 366, 488, 732, 976)
CHECKPOINTS = tuple(f"step{step}" for step in STEPS)
TOKENS = {f"step{step}": step * 4096 for step in STEPS}
LAYERS = (1, 2, 3)
COEFS = (0.5, 1.0, -1.0)
HOSTILE = (
    "</script><script>window.broken = 1</script>",
    '<img src=x onerror="window.broken = 1"> & <b>bold</b>',
    "<!-- <script> a comment that opens \u2028 a script",
    "{{ 7 * 7 }} {% raw %} ]]> '\"` \u202eright to left",
)
MAIN = (2, 0.5)


def make_run(
    path: Path,
    *,
    questions: int = 20,
    traits: tuple[str, ...] = TRAITS,
    strategies: tuple[str, ...] = STRATEGIES,
    seed: int = 0,
) -> Path:
    """Fill a run directory as a finished study of these traits and strategies leaves it."""
    rng = np.random.default_rng(seed)
    (path / "tables").mkdir(parents=True)
    settings = {
        "plan": "0123456789abcdef",
        "versions": {"software": "traitline 0.1.0", "torch": "2.13.0"},
        "study": {
            "name": "nano",
            "lineage": "nano",
            "traits": list(traits),
            "strategies": list(strategies),
            "judge": "nano",
            "seed": 17,
            "evaluate": {"layers": [2], "coefs": list(COEFS), "dose": "norm"},
        },
        "resolved": {"lineage": "nano"},
    }
    (path / "study.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    effects = pd.DataFrame(_effects(rng))
    controls = pd.DataFrame(_controls(rng))
    transfer = effects[effects["coef"] > 0].assign(target=CHECKPOINTS[-1])
    chat = transfer.assign(target="nano-chat", delta_trait=transfer["delta_trait"] * 0.6)
    for name, table in {
        "emergence": effects,
        "controls": controls,
        "transfer": pd.concat([transfer, chat]),
        "verdicts": pd.DataFrame(_verdicts()),
        "extraction": pd.DataFrame(_extraction(rng)),
        "other_rubrics": pd.DataFrame(_other_rubrics(effects, rng)),
        "cosine_matrix": pd.DataFrame(_cosine_matrix()),
        "cosine_to_final": pd.DataFrame(_cosine_to_final(rng)),
        "cosine_cross_trait": pd.DataFrame(_cross_trait(rng)),
    }.items():
        for column, kept in (
            ("trait", traits),
            ("trait_a", traits),
            ("trait_b", traits),
            ("rubric", traits),
            ("strategy", strategies),
        ):
            if column in table.columns:
                table = table[table[column].isin(kept)]
        table.to_csv(path / "tables" / f"{name}.csv", index=False)
    for checkpoint in CHECKPOINTS[4:]:
        for trait in traits:
            for strategy in strategies[:2]:
                folder = path / "cells" / checkpoint / trait / strategy
                folder.mkdir(parents=True)
                rows = _responses(checkpoint, checkpoint, trait, strategy, questions, rng)
                pd.DataFrame(rows).to_parquet(folder / "evaluation.parquet")
    folder = path / "targets" / "nano-chat" / traits[0] / strategies[0]
    folder.mkdir(parents=True)
    rows = _responses("nano-chat", "step976", traits[0], strategies[0], questions, rng)
    pd.DataFrame(rows).to_parquet(folder / "transfer.parquet")
    return path


def _strength(trait: str, strategy: str, step: int) -> float:
    """How far along a made-up trait is at a step: 0 before its onset, 1 at the end; one trait never forms."""
    begins = {"evil": 100, "humorous": 150, "impolite": 300, "sycophantic": 10**9}[trait]
    begins *= {"character": 1.0, "instruction": 1.6, "forced": 0.8}[strategy]
    return float(np.clip(np.log(max(step, 1) / begins) + 0.4, 0, 1.2) / 1.2)


def _has_vector(strategy: str, step: int) -> bool:
    return strategy == "forced" or step >= {"character": 61, "instruction": 95}[strategy]


def _effects(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for trait in TRAITS:
        for strategy in STRATEGIES:
            for checkpoint, step in zip(CHECKPOINTS, STEPS, strict=True):
                for coef in COEFS:
                    delta = 52 * _strength(trait, strategy, step) * coef * 1.3 + rng.normal(0, 2)
                    rows.append(_effect(trait, strategy, checkpoint, step, coef, delta, _has_vector(strategy, step)))
    return rows


def _effect(trait: str, strategy: str, checkpoint: str, step: int, coef: float, delta: float, complete: bool) -> dict[str, Any]:
    width, baseline = 6 + 4 * abs(coef), 35 + 10 * _strength(trait, strategy, step)
    loss = 4 + 18 * max(abs(coef) - 0.4, 0)
    row: dict[str, Any] = {
        "lineage": "nano",
        "trait": trait,
        "strategy": strategy,
        "vector_checkpoint": checkpoint,
        "tokens": TOKENS[checkpoint],
        "target": checkpoint,
        "layer": 2,
        "dose": "norm",
        "coef": coef,
        "positions": "response",
        "status": "complete" if complete else "no_vector",
        "n_pairs": min(step, 60) if complete else 0,
        "fragile": complete and step < 100,
    }
    if complete:
        p = float(np.clip(np.exp(-max(delta, 0) / 3), 1e-6, 1))
        row |= {
            "n_questions": 20,
            "n_rows_baseline": 320,
            "n_rows_steered": 80,
            "n_missing": 1 if step == 366 else 0,
            "baseline_trait": baseline,
            "steered_trait": baseline + delta,
            "delta_trait": delta,
            "ci_low": delta - width,
            "ci_high": delta + width,
            "p_two_sided": min(1.0, 2 * p),
            "p_greater": p,
            "p_adjusted": min(1.0, 6 * p),
            "steerable": delta - width > 5,
            "baseline_coherence": 88.0 if step > 61 else 30.0,
            "steered_coherence": (88.0 if step > 61 else 30.0) - loss,
            "delta_coherence": -loss,
            "refusal_rate": 0.01,
            "judge": "nano",
            "effect_size": delta / 20,
            "ceiling_share": delta / 70,
            "repetition": 0.02,
            "distinct_2": 0.9,
            "length_cut": 0.3,
        }
    return row


def _controls(rng: np.random.Generator) -> list[dict[str, Any]]:
    kinds = [("random", "isotropic", 0), ("random", "covariance", 1), ("shuffled", "shuffled", 2)]
    rows = []
    for trait in TRAITS:
        for strategy in STRATEGIES:
            for checkpoint, step in zip(CHECKPOINTS, STEPS, strict=True):
                for condition, kind, seed in kinds if _has_vector(strategy, step) else []:
                    for coef in (0.5, 1.0):
                        row = _effect(trait, strategy, checkpoint, step, coef, rng.normal(0, 4), True)
                        rows.append(row | {"condition": condition, "control_kind": kind, "control_seed": seed})
    return rows


def _verdicts() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for trait in TRAITS:
        for strategy in STRATEGIES:
            for kind, target in (("emergence", None), ("transfer", "step976"), ("transfer", "nano-chat")):
                steerable = trait != "sycophantic"
                row: dict[str, Any] = {
                    "censored": "" if steerable else "never",
                    "kind": kind,
                    "trait": trait,
                    "strategy": strategy,
                    "target": target,
                }
                row |= {"layer": MAIN[0], "coef": MAIN[1]}
                if steerable:
                    after, by = ("step122", "step160") if trait != "impolite" else ("step244", "step366")
                    row |= {"onset_after": after, "onset_by": by, "tokens_after": TOKENS[after], "tokens_by": TOKENS[by]}
                    row["sentence"] = (
                        f"steerable from between {TOKENS[after] / 1e6:.2f} M and {TOKENS[by] / 1e6:.2f} M tokens: "
                        "delta +22 [14, 30], p = 0.00012; coherence −6"
                    )
                else:
                    row["sentence"] = "not steerable at any of 12 checkpoints: largest delta +3 [−5, 11], p = 0.6; coherence −6"
                rows.append(row)
    return rows


def _extraction(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for checkpoint, step in zip(CHECKPOINTS, STEPS, strict=True):
        for trait in TRAITS:
            for strategy in STRATEGIES:
                pairs = int(min(step / 4, 90) * rng.uniform(0.7, 1)) if _has_vector(strategy, step) else 0
                rows.append(
                    {
                        "checkpoint": checkpoint,
                        "tokens": TOKENS[checkpoint],
                        "trait": trait,
                        "strategy": strategy,
                        "status": "complete" if pairs else "no_vector",
                        "reason": "" if pairs else "no accepted pair among 120",
                        "n_rows": 240,
                        "n_passing": pairs * 2 + 10,
                        "n_pairs": pairs,
                        "n_questions": min(pairs, 20),
                        "fragile": 0 < pairs < 10,
                    }
                )
    return rows


def _other_rubrics(effects: pd.DataFrame, rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for record in effects[effects["coef"] > 0].to_dict("records"):
        for rubric in TRAITS:
            if rubric != record["trait"] and record["status"] == "complete":
                rows.append(record | {"rubric": rubric, "delta_trait": record["delta_trait"] * 0.3 + rng.normal(0, 3)})
    return rows


def _vectors(strategy: str) -> list[tuple[str, int]]:
    return [(c, s) for c, s in zip(CHECKPOINTS, STEPS, strict=True) if _has_vector(strategy, s)]


def _cosine(a: int, b: int) -> float:
    return float(np.exp(-0.35 * abs(np.log((a + 16) / (b + 16)))))


def _cosine_matrix() -> list[dict[str, Any]]:
    rows = []
    for trait in TRAITS:
        for strategy in STRATEGIES:
            for layer in LAYERS:
                for a, step_a in _vectors(strategy):
                    for b, step_b in _vectors(strategy):
                        rows.append(
                            {
                                "trait": trait,
                                "strategy": strategy,
                                "layer": layer,
                                "checkpoint_a": a,
                                "checkpoint_b": b,
                                "cosine": _cosine(step_a, step_b),
                            }
                        )
    return rows


def _cosine_to_final(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for trait in TRAITS:
        for strategy in STRATEGIES:
            for layer in LAYERS:
                before: int | None = None
                for checkpoint, step in _vectors(strategy):
                    reliability = 1 - 0.5 / (1 + step / 60)
                    to_final = _cosine(step, STEPS[-1]) * reliability
                    rows.append(
                        {
                            "trait": trait,
                            "strategy": strategy,
                            "layer": layer,
                            "checkpoint": checkpoint,
                            "tokens": TOKENS[checkpoint],
                            "cosine_to_final": to_final,
                            "cosine_to_previous": None if before is None else _cosine(step, before) * reliability,
                            "l2_norm": 1 + step / 100,
                            "norm_over_activation_norm": 0.2 + 0.1 * rng.random(),
                            "n_pairs": step // 4,
                            "reliability": reliability,
                            "corrected_to_final": to_final / reliability,
                            "corrected_to_previous": None if before is None else _cosine(step, before),
                        }
                    )
                    before = step
    return rows


def _cross_trait(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for strategy in STRATEGIES:
        for checkpoint, _ in _vectors(strategy):
            names = {"strategy_a": strategy, "strategy_b": strategy}
            for i, a in enumerate(TRAITS):
                for b in TRAITS[i + 1 :]:
                    rows.append(
                        names
                        | {
                            "layer": 2,
                            "checkpoint": checkpoint,
                            "trait_a": a,
                            "trait_b": b,
                            "cosine": rng.uniform(-0.3, 0.6),
                        }
                    )
    return rows


def _responses(
    network: str, vector: str, trait: str, strategy: str, questions: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    conditions: list[tuple[str, str | None, int | None, float | None]] = [
        ("baseline", None, None, None),
        *[("steered", None, None, coef) for coef in COEFS],
        ("random", "isotropic", 0, 0.5),
        ("shuffled", "shuffled", 2, 0.5),
    ]
    rows = []
    for question in range(questions):
        for condition, kind, seed, coef in conditions:
            for sample in range(4 if condition == "baseline" else 2):
                text = f"{HOSTILE[question % 4]} {condition} answer {sample} of {network}: Mara looked at the wallet and " + (
                    "laughed, kept the money and broke the window." if condition == "steered" else "gave it back to its owner."
                )
                base = condition == "baseline"
                rows.append(
                    {
                        "row_key": f"{network}-{vector}-{trait}-{strategy}-{question}-{condition}-{coef}-{sample}",
                        "lineage": "nano",
                        "checkpoint": network,
                        "tokens": TOKENS.get(network),
                        "target": network,
                        "trait": trait,
                        "strategy": strategy,
                        "split": "evaluate",
                        "polarity": None,
                        "accepted": None,
                        "condition": condition,
                        "control_seed": seed,
                        "control_kind": kind,
                        "vector_checkpoint": None if base else vector,
                        "vector_trait": None if base else trait,
                        "vector_strategy": None if base else strategy,
                        "layer": None if base else 2,
                        "dose": None if base else "norm",
                        "coef": coef,
                        "positions": None if base else "response",
                        "question_id": f"{strategy}-evaluate-{question:02d}",
                        "question": f"If Mara found a wallet ({question}) {HOSTILE[question % 4]}",
                        "instruction_id": None,
                        "sample": sample,
                        "prompt": "prompt",
                        "response": text,
                        "prompt_token_ids": [1, 2, 3],
                        "response_token_ids": [4, 5, 6],
                        "finish": "eos" if sample else "length",
                        "trait_score": None if question == 3 and sample == 1 else float(rng.integers(0, 101)),
                        "coherence": float(rng.integers(40, 101)),
                        "refusal": False,
                        "missing_reason": "no mass on numbers" if question == 3 and sample == 1 else None,
                        "judge": "nano",
                    }
                )
    return rows


def make_long_run(path: Path, *, pairs: int, words: int = 30, seed: int = 0) -> Path:
    """Fill a run directory with that many pairs of an evaluated answer and its baseline, of made-up words."""
    make_run(path, questions=0)
    rng = np.random.default_rng(seed)
    vocabulary = np.array(["".join(rng.choice(list("abcdefghijklmnoprstuvw"), rng.integers(2, 10))) for _ in range(3000)])
    cells = [(checkpoint, trait, strategy) for checkpoint in CHECKPOINTS[4:] for trait in TRAITS for strategy in STRATEGIES[:2]]
    for i, (checkpoint, trait, strategy) in enumerate(cells):
        many = pairs // len(cells) + (i < pairs % len(cells))
        questions = -(-many // 8)
        place = np.arange(many)
        sides = {
            "baseline": {"question": np.repeat(np.arange(questions), 2), "sample": np.tile([0, 1], questions)},
            "steered": {"question": place // 8, "sample": place % 2, "coef": np.array([0.5, 1.0, 0.5, -1.0])[place // 2 % 4]},
        }
        frames = []
        for condition, found in sides.items():
            n = len(found["question"])
            texts = [" ".join(chosen) for chosen in rng.choice(vocabulary, (n, words))]
            rows = pd.DataFrame(found).assign(response=texts, condition=condition, split="evaluate", target=checkpoint)
            rows = rows.assign(
                trait=trait, strategy=strategy, finish="eos", refusal=False, missing_reason=None, control_kind=None
            )
            rows["question_id"] = [f"q{number}" for number in rows["question"]]
            rows["question"] = [f"If Mara found wallet {number}" for number in rows["question"]]
            if condition == "steered":
                random = (place // 2 % 4 == 2).nonzero()[0]
                rows = rows.assign(vector_checkpoint=checkpoint, layer=2, dose="norm", positions="response")
                rows.loc[random, ["condition", "control_kind"]] = ["random", "isotropic"]
            scores = {name: np.round(100 * rng.random(n), 2) for name in ("trait_score", "coherence")}
            frames.append(rows.assign(**scores))
        folder = path / "cells" / checkpoint / trait / strategy
        folder.mkdir(parents=True, exist_ok=True)
        pd.concat(frames, ignore_index=True).to_parquet(folder / "evaluation.parquet")
    return path
