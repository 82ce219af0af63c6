"""Answers that another model finishes: a published answer's first words, then SmolLM2's own. They have no label.

Knows how they are asked for and sampled. Leaves their labels to the teachers. They show the judge a second family's hand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from traitline.judges.training.augment import Variants
from traitline.judges.training.teacher import TeacherTokenizer

_MOST_WORDS = 35
_NEW_TOKENS = 56
_END_OF_TEXT, _END_OF_TURN = 0, 2
_CHAT = "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def continued(
    rows: pd.DataFrame, count: int, model: Any, tokenizer: TeacherTokenizer, *, seed: int = 0, together: int = 4096
) -> Variants:
    """Return answers that keep the first 0 to 35 words of a row's and go on with a model's, sampled at temperature 0.9.

    Args:
        rows: the table of `rows.read_rows`.
        count: how many.
        model: a causal transformers model on its device.
        tokenizer: the model's.
        seed: draws the rows, how much of them is kept, and the words.
        together: how many are sampled at a time.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    chosen = rng.choice(len(rows), count)
    drawn = rows.iloc[chosen]
    words = [text.split(" ") for text in drawn["answer"]]
    kept = [" ".join(some[: min(int(rng.integers(_MOST_WORDS + 1)), len(some) - 1)]) for some in words]
    asked = [
        (_CHAT.format(question=question) if form == "chat" else question) + start
        for question, form, start in zip(drawn["question"], drawn["format"], kept, strict=True)
    ]
    ids = tokenizer.ids(asked)
    order = np.argsort([len(one) for one in ids], kind="stable")
    answers = [""] * count
    for first in range(0, count, together):
        batch = order[first : first + together].tolist()
        for i, text in zip(batch, tokenizer.texts(_sampled(model, [ids[i] for i in batch])), strict=True):
            answers[i] = kept[i] + text
    written = [i for i, text in enumerate(answers) if text.strip()]
    return Variants(
        [drawn["question"].iloc[i] for i in written],
        [answers[i] for i in written],
        [int(chosen[i]) for i in written],
        [False] * len(written),
    )


@torch.no_grad()
def _sampled(model: Any, ids: list[list[int]]) -> list[list[int]]:
    """Return the new tokens after each prompt, up to where the model ends."""
    width = max(map(len, ids))
    padded = [[_END_OF_TURN] * (width - len(one)) + one for one in ids]
    held = [[0] * (width - len(one)) + [1] * len(one) for one in ids]
    found = model.generate(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=torch.tensor(held, device=model.device),
        do_sample=True,
        temperature=0.9,
        top_k=100,
        top_p=1.0,
        max_new_tokens=_NEW_TOKENS,
        pad_token_id=_END_OF_TURN,
        eos_token_id=[_END_OF_TEXT, _END_OF_TURN],
    )
    ends = (_END_OF_TEXT, _END_OF_TURN)
    return [row[: next((n for n, one in enumerate(row) if one in ends), len(row))] for row in found[:, width:].tolist()]
