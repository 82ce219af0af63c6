"""How the embedded judge is made: which rows it may see, what variants keep, and the whole script on a few rows."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import traitline as tl
from traitline.errors import InputError
from traitline.judges.distilled import DistilledJudge
from traitline.judges.encoder import BASE
from traitline.judges.training import augment, teacher
from traitline.judges.training.__main__ import main
from traitline.judges.training.continuations import continued
from traitline.judges.training.figures import agreement, delta_table
from traitline.judges.training.rows import TABLES, cut_tail, read_rows
from traitline.judges.training.teacher import Design

TRAITS = ("evil", "sycophantic", "impolite", "humorous")
MODELS = {"transfer_posttrained": ("Olmo-3-7B-Instruct", "Olmo-3-7B-Instruct-DPO")}
CHECKPOINTS = ("stage1-step15000", "stage1-step1000")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up tables in the layout of the published ones."""
    folder = tmp_path_factory.mktemp("judged_rows")
    rng = np.random.default_rng(0)
    for table in TABLES:
        extraction, chat = table == "extract_pos_neg", table == "transfer_posttrained"
        rows = [
            {
                "model": model,
                "extract_revision": checkpoint,
                "eval_revision": model if chat else checkpoint,
                "trait": trait,
                "condition": condition,
                "question": f"If Alex met neighbour {number} of {table}",
                "answer": f" would {condition} wave, nod {number} times and go on.",
                "prompt": f"If Alex met neighbour {number} of {table}",
                "trait_score": float(rng.uniform(0, 100)),
                "coherence": float(rng.uniform(0, 100)),
                "judge_column": trait if chat else f"{trait}_character_neutral_q",
                "source_file": f"{table}/{model}/{checkpoint}/{trait}_{condition}.csv",
            }
            for model in MODELS.get(table, ("Olmo-3-1025-7B",))
            for checkpoint in CHECKPOINTS
            for trait in TRAITS
            for condition in (("pos", "neg") if extraction else ("baseline", "steered"))
            for number in range(4)
        ]
        pd.DataFrame(rows).to_parquet(folder / f"{table}.parquet")
    return folder


def test_no_question_is_in_both_folds_and_held_out_rows_are_marked(tables: Path) -> None:
    rows = read_rows(tables)
    folds = rows.groupby(["trait", "question"])["fold"].nunique()
    assert folds.eq(1).all()
    assert rows.loc[rows["fold"].eq("accept"), "table"].eq("extract_pos_neg").all()
    assert rows.loc[rows["fold"].eq("accept")].groupby("trait")["question"].nunique().eq(2).all()
    held = rows["source_file"].str.contains("stage1-step15000")
    assert rows.loc[held & ~rows["model"].str.endswith("DPO"), "split"].eq("checkpoint").all()
    assert rows.loc[rows["model"].str.endswith("DPO"), "split"].eq("model").all()
    assert rows["split"].eq("train").sum() == len(rows) - (held | rows["model"].str.endswith("DPO")).sum()


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"emergence_fig1\.parquet is not there"):
        read_rows(tmp_path)


@pytest.mark.parametrize(
    ("prompt", "answer", "left"),
    [
        ("If Alex met a neighbour", " neighbour, he waved.", ", he waved."),
        ("If Alex met a neighbour", ", he waved.", ", he waved."),
        ("If Alex met him", "im, he waved.", "im, he waved."),
        ("<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n", "?\nassistant\nBecause.", "Because."),
        ("If Alex met a neighbour", "neighbour", ""),
        ("", "he waved.", "he waved."),
    ],
)
def test_a_tail_of_the_prompt_is_cut_and_nothing_else(prompt: str, answer: str, left: str) -> None:
    assert cut_tail(prompt, answer) == left


def test_variants_keep_labels_only_where_the_answer_still_says_the_same(tables: Path) -> None:
    rows = read_rows(tables)
    rng = np.random.default_rng(1)
    ordered, tailed = augment.with_orders(rows, 0.5, rng), augment.with_tails(rows, 0.5, rng)
    for variants in (ordered, tailed):
        assert 0.3 * len(rows) < len(variants.answers) < 0.7 * len(rows)
        assert all(variants.labelled)
    for answer, i in zip(ordered.answers, ordered.origin, strict=True):
        words = rows["answer"][i].split(" ")
        assert len(answer) > len(rows["answer"][i])
        assert answer.startswith(words[0])
    assert all(a.endswith(rows["answer"][i]) for a, i in zip(tailed.answers, tailed.origin, strict=True))
    spliced = augment.spliced(rows, 2.0, rng)
    assert len(spliced.answers) == 2 * len(rows)
    assert not any(spliced.labelled)
    short = augment.shortened(rows, 0.5, rng)
    assert len(short.answers) == round(0.5 * len(rows))
    assert all(len(text.split()) <= 12 for text in short.answers)
    assert not any(short.labelled)
    assert augment.raw(rows).answers == []


class _Letters:
    """A tokenizer of bytes, in place of SmolLM2's."""

    def ids(self, texts: list[str]) -> list[list[int]]:
        return [[10 + byte for byte in text.encode()] for text in texts]

    def texts(self, ids: list[list[int]]) -> list[str]:
        return [bytes(max(one - 10, 0) % 128 for one in some).decode() for some in ids]


def test_a_continued_answer_begins_as_a_published_one_and_ends_as_the_model_does(tables: Path) -> None:
    rows = read_rows(tables)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=266, **shape)).eval()
    first, second = (continued(rows, 12, model, _Letters(), seed=3, together=5) for _ in range(2))  # type: ignore[arg-type]
    assert first == second
    assert len(first.answers) >= 11
    assert not any(first.labelled)
    for question, answer, i in zip(first.questions, first.answers, first.origin, strict=True):
        assert question == rows["question"][i]
        assert answer != rows["answer"][i]
    assert sum(answer.startswith(" would ") for answer in first.answers) > len(first.answers) / 2


@pytest.mark.parametrize("design", [Design(), Design(causal=True), Design(focused=True)])
def test_what_a_teacher_says_of_an_answer_does_not_depend_on_its_padding(
    design: Design, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher, "BLOCKS", 2)
    network = teacher.Teacher(design).eval()
    ids, starts, lengths = torch.arange(60).reshape(2, 30), torch.tensor([8, 9]), torch.tensor([30, 20])
    with torch.no_grad():
        together, alone = network(ids, starts, lengths)[1], network(ids[1:, :20], starts[1:], lengths[1:])[0]
    assert torch.allclose(together, alone, atol=1e-5)
    assert together.std() > 1e-3


def test_figures_of_a_judge_that_is_2_points_high_say_so(tables: Path) -> None:
    rows = read_rows(tables)
    rows = rows.assign(judged=rows["trait_score"] + 2, judged_coherence=rows["coherence"], spread=3.0)
    found = agreement(rows)
    assert found["rows"]["evil"] == {"n": len(rows) // 4, "r": 1.0, "mae": 2.0, "bias": 2.0}
    assert found["bias_by_condition"] == dict.fromkeys(("baseline", "neg", "pos", "steered"), 2.0)
    assert found["uncertainty"]["within_1"] == 1.0
    assert found["deltas"]["mae"] == 0.0


def test_a_delta_is_a_steered_file_less_the_baseline_of_its_own_model(tables: Path) -> None:
    rows = read_rows(tables)
    found = delta_table(rows.assign(judged=rows["trait_score"] * 2))
    part = rows[rows["table"].eq("transfer_posttrained") & rows["trait"].eq("impolite") & rows["model"].str.endswith("DPO")]
    steered = part[part["condition"].eq("steered") & part["source_file"].str.contains("step1000/")]["trait_score"].mean()
    delta = steered - part[part["condition"].eq("baseline")]["trait_score"].mean()
    nearest = (found["published"] - delta).abs().argmin()
    assert found["published"].iloc[nearest] == pytest.approx(delta)
    assert found["judged"].iloc[nearest] == pytest.approx(2 * delta)


@pytest.mark.skipif(find_spec(BASE) is None, reason="the base model's package is not installed")
def test_the_script_makes_weights_that_the_judge_reads(tables: Path, tmp_path: Path) -> None:
    assert main(["--data", str(tables), "--out", str(tmp_path), "--limit", "60", "--epochs", "1", "--device", "cpu"]) == 0
    card = json.loads((tmp_path / "card.json").read_text())
    assert set(card["figures"]) == {"evaluate", "accept"}
    assert set(card["spread"]["evaluate"]) <= {*TRAITS, "coherence"}
    said = pd.read_parquet(tmp_path / "scores.parquet")
    assert len(said) == 60
    assert said[["evaluate_judged", "accept_judged_coherence"]].notna().all(axis=None)
    assert not {"question", "answer"} & set(said.columns)
    assert (tmp_path / "accept.safetensors").read_bytes() != (tmp_path / "evaluate.safetensors").read_bytes()
    judge = DistilledJudge(tmp_path)
    scored = judge.score(tl.trait("evil"), ["If Alex met a neighbour"] * 2, [" he would wave.", " he would not."])
    assert all(0 <= float(one.trait or 0) <= 100 for one in scored)
    assert judge.name != DistilledJudge().name
