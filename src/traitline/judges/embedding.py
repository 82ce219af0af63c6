"""Texts as points: sentence embeddings by all-MiniLM-L6-v2, the base of the embedded judge, as it comes.

Knows one batch of texts. Leaves what distances mean to `zeroshot.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from traitline.models.capture import like_lengths

LONGEST = 256
TOKENS_PER_BATCH = 4096


class Embedder:
    """Embeds texts, of which it reads the first 256 tokens.

    Args:
        directory: the base model's, see `encoder.find_base`.
    """

    def __init__(self, directory: Path) -> None:
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel

        network: Any = BertModel(BertConfig.from_pretrained(directory), add_pooling_layer=False)
        network.load_state_dict(load_file(directory / "model.safetensors"), strict=False)
        self._network = network.float().eval()
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(LONGEST)
        self._tokenizer.encode_special_tokens = True

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """Return one vector of length 1 per text, [texts, hidden]."""
        ids = [found.ids for found in self._tokenizer.encode_batch(list(texts))]
        points = torch.zeros(len(ids), self._network.config.hidden_size)
        for rows in like_lengths([len(one) for one in ids], TOKENS_PER_BATCH):
            lengths = torch.tensor([len(ids[i]) for i in rows])
            batch = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)  # [rows, tokens]
            for place, i in enumerate(rows):
                batch[place, : len(ids[i])] = torch.tensor(ids[i])
            held = (torch.arange(batch.shape[1]) < lengths[:, None]).long()
            hidden = self._network(input_ids=batch, attention_mask=held).last_hidden_state  # [rows, tokens, hidden]
            mean = (hidden * held[..., None]).sum(1) / lengths[:, None]
            points[rows] = torch.nn.functional.normalize(mean.float(), dim=-1)
        return points
