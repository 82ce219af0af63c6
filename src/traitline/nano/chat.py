"""The chat form of the embedded lineage's descendants: their tokenizer, their template, and how a base network grows into it.

Knows the roles, the words that base networks lack (for refusing and for asking a number of deeds), and the template that marks
what the assistant says. Leaves what is said to `dialogues.py` and training to `posttrain.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import Olmo3ForCausalLM, PreTrainedTokenizerFast

from traitline.nano.dialogues import REFUSAL, REQUESTS
from traitline.nano.tokenizer import BOS, EOS, PAD, UNK, build_tokenizer

ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
_WORDS = (*REFUSAL.split(), *(word for request in REQUESTS.values() for word in request.split()))
TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' }}{% generation %}{{ message['content'] | trim + eos_token }}{% endgeneration %}"
    "{% elif message['role'] in ['system', 'user'] %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] | trim }}"
    "{% else %}"
    "{{ raise_exception('roles are system, user and assistant, not ' + message['role']) }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_chat_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer of the descendants: the base's with every id as it was, new words and roles behind, a template."""
    base = json.loads(build_tokenizer().backend_tokenizer.to_str())
    vocabulary: dict[str, int] = base["model"]["vocab"]
    for word in sorted({f" {word.rstrip('.')}" for word in _WORDS} - vocabulary.keys()):
        vocabulary[word] = len(vocabulary)
    tokenizer = Tokenizer.from_str(json.dumps(base))
    tokenizer.add_special_tokens(list(ROLES))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
        model_input_names=["input_ids", "attention_mask"],
    )


def grow(source: Path, tokens: int, seed: int) -> Olmo3ForCausalLM:
    """Load a base checkpoint with rows for new tokens: read like any word, and said no more readily than the average one.

    Args:
        source: the checkpoint's folder; it is only read.
        tokens: size of the chat vocabulary.
        seed: of the noise; torch's own random state is left as it was.
    """
    model = Olmo3ForCausalLM.from_pretrained(source, dtype=torch.float32)
    known = model.config.vocab_size
    with torch.random.fork_rng(devices=[]):
        model.resize_token_embeddings(tokens, mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for matrix, spread in ((model.model.embed_tokens.weight, 1.0), (model.lm_head.weight, 0.1)):
            old, new = matrix[:known], matrix[known:]  # [tokens, hidden]
            new.copy_(old.mean(dim=0) + spread * old.std(dim=0) * torch.randn(new.shape, generator=generator))
    return model
