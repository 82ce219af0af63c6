"""Text -> token ids, once: the ids made here are what is generated from, stored and read again.

Knows plain texts, chat messages and ready ids, the chat template, and that a beginning-of-sequence token must stand once.
Leaves the wording of prompts to `traits/strategies.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from traitline.errors import InputError, ModelError
from traitline.models.loading import Model

Message = dict[str, str]
Prompt = str | Sequence[Message] | Sequence[int]


def encode(model: Model, prompt: Prompt) -> list[int]:
    """Return the token ids of one prompt.

    Args:
        model: whose tokenizer and chat template to use.
        prompt: a text (tokenised as in pretraining, special tokens in front), a list of messages (put through the chat
            template, ready for the assistant's turn), or token ids (returned as they are, unless there are none).

    Raises:
        InputError: messages for a model without a chat template, or an empty prompt for a model without a first token.
        ModelError: the chat template refuses the messages.
    """
    if isinstance(prompt, str):
        ids = list(model.tokenizer(prompt)["input_ids"])
        while len(ids) > 1 and ids[-1] in model.eos_ids and ids[-1] != model.tokenizer.bos_token_id:
            ids.pop()  # some tokenizers close a text, which would end the response before it starts
        ids = _one_bos(model, ids)
    elif len(prompt) and isinstance(prompt[0], dict):
        ids = _one_bos(model, _encode_chat(model, list(prompt)))  # type: ignore[arg-type]
    else:
        ids = [int(token) for token in prompt]  # type: ignore[arg-type]
    bos = model.tokenizer.bos_token_id
    if not ids and bos is None:
        raise InputError("a prompt is empty and the model has no beginning-of-sequence token to start from; give some text")
    return ids or [bos]


def encode_response(model: Model, response: str | Sequence[int]) -> list[int]:
    """Return the token ids of a response: no special tokens added, the closing EOS left out."""
    if isinstance(response, str):
        ids = list(model.tokenizer(response, add_special_tokens=False)["input_ids"])
    else:
        ids = [int(token) for token in response]
    return ids[:-1] if ids and ids[-1] in model.eos_ids else ids


def decode(model: Model, ids: Sequence[int]) -> str:
    """Return the text of response ids, special tokens left out."""
    return str(model.tokenizer.decode(list(ids), skip_special_tokens=True))


def _encode_chat(model: Model, messages: list[Message]) -> list[int]:
    if not model.is_chat:
        raise InputError(f"{model.source!r} has no chat template; give its prompts as plain text")
    system = messages[0]["content"].strip() if messages[0]["role"] == "system" and len(messages) > 1 else None
    try:
        text = model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template raises its own kind where a role is not allowed
        if system is None:
            raise ModelError(f"the chat template of {model.source!r} refuses these messages: {error}") from error
        text = None
    if system is not None and (text is None or system not in text):  # without a system role: refused (Gemma) or dropped
        first = {"role": "user", "content": f"{system}\n\n{messages[1]['content']}"}
        return _encode_chat(model, [first, *messages[2:]])
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def _one_bos(model: Model, ids: list[int]) -> list[int]:
    bos = model.tokenizer.bos_token_id
    if bos is None:
        return ids
    while len(ids) > 1 and ids[0] == ids[1] == bos:
        ids = ids[1:]
    return ids
