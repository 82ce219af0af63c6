"""A study small enough for tests: three random checkpoints, two traits in the tiny tokenizer's words, a judge that counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from conftest import tiny_network, tiny_tokenizer
from traitline.judges import Score
from traitline.traits import Trait

STEPS = (0, 10, 20)


class CountingJudge:
    """Scores the share of even words (trait `even`) or of small ones (`small`); counts how often it judged each answer."""

    name = "counting"

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []

    def score(
        self, trait: Trait, questions: Sequence[str], answers: Sequence[str], *, style: str = "", purpose: str = ""
    ) -> list[Score]:
        """Score each answer by its words."""
        self.seen += [(trait.name, q, a) for q, a in zip(questions, answers, strict=True)]
        return [self._one(trait.name, answer) for answer in answers]

    @staticmethod
    def _one(trait: str, answer: str) -> Score:
        words = [int(word[1:]) for word in answer.split() if word[1:].isdigit()]
        if not words:
            return Score(0.0, 0.0)
        if len(set(words)) == 1 and len(words) > 1:
            return Score(None, None, missing_reason="says one word only")
        hits = [word % 2 == 0 if trait == "even" else word < 34 for word in words]
        return Score(100 * sum(hits) / len(hits), 80.0)


def make_lineage(folder: Path, architecture: str = "llama") -> Path:
    """Save three random checkpoints as an ordinary local lineage."""
    for i, step in enumerate(STEPS):
        target = folder / f"step{step}"
        tiny_network(architecture, seed=i).save_pretrained(target)
        tiny_tokenizer().save_pretrained(target)
    return folder


def make_trait(folder: Path, name: str) -> Path:
    """Write a trait file whose words the tiny tokenizer knows."""
    start = 3 if name == "even" else 20

    def words(*numbers: int) -> str:
        return " ".join(f"w{3 + (start + n) % 60}" for n in numbers)

    def questions(offset: int, count: int) -> list[str]:
        return [words(offset + i, offset + 2 * i + 1, 5) for i in range(count)]

    texts = {
        "contrasts": [{"positive": words(i, i + 7), "negative": words(i + 11, i + 20)} for i in range(2)],
        "questions": {"elicit": questions(0, 8), "tune": questions(17, 3), "evaluate": questions(31, 6)},
    }
    trait = {
        "name": name,
        "description": f"Says {name} words.",
        "rubrics": dict.fromkeys(("continuation", "chat"), "How much? {question} {answer}"),
        "strategies": {"character": texts},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(trait))
    return path


def make_study(folder: Path, **changes: Any) -> Path:
    """Write the lineage, the traits and the study file. Returns the study file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    study: dict[str, Any] = {
        "name": "small",
        "lineage": str(make_lineage(folder / "lineage")),
        "traits": [str(make_trait(folder, name)) for name in ("even", "small")],
        "strategies": ["character", "forced"],
        "judge": "counting",
        "seed": 3,
        "batch_rows": 120,
        "elicit": {"samples": 2, "max_new_tokens": 6},
        "evaluate": {"samples": 1, "max_new_tokens": 6, "layers": [1, 2], "coefs": [0.5, -0.5]},
        "controls": {"isotropic": 1, "covariance": 1, "shuffled": 1, "bootstrap": 2},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**study, **changes}))
    return path
