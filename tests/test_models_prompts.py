"""Texts, messages and ids as prompts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from conftest import tiny_network, tiny_tokenizer
from traitline.errors import InputError, ModelError
from traitline.models.loading import Model, wrap
from traitline.models.prompts import decode, encode, encode_response

WITH_SYSTEM = "{{ bos_token }} {% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}w60"
WITHOUT_SYSTEM = (
    "{{ bos_token }} {% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ m.content }} {% endfor %}w60"
)
DROPS_SYSTEM = "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }} {% endif %}{% endfor %}w60"
MESSAGES = [{"role": "system", "content": "w10 w11"}, {"role": "user", "content": "w20"}]


def _chat(template: str | None) -> Model:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return wrap(tiny_network("llama"), tokenizer, source="tiny chat")


def _processed(llama: Model, single: str, special: list[tuple[str, int]]) -> Model:
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=special)
    return replace(llama, tokenizer=tokenizer)


def test_a_text_is_tokenised_as_in_pretraining(llama: Model) -> None:
    assert encode(llama, "w5 w6") == [1, 5, 6]


def test_a_text_that_brings_its_own_bos_has_one(llama: Model) -> None:
    assert encode(llama, "<bos> w5") == [1, 5]


def test_an_eos_that_the_tokenizer_appends_is_dropped(llama: Model) -> None:
    closing = _processed(llama, "<bos> $A <eos>", [("<bos>", 1), ("<eos>", 2)])
    assert encode(closing, "w5 w6") == [1, 5, 6]


def test_ids_are_returned_as_they_are(llama: Model) -> None:
    assert encode(llama, [1, 1, 7, 2]) == [1, 1, 7, 2]


@pytest.mark.parametrize("prompt", ["", []])
def test_an_empty_prompt_starts_from_the_bos(llama: Model, prompt: Any) -> None:
    assert encode(llama, prompt) == [1]


@pytest.mark.parametrize("prompt", ["", []])
def test_an_empty_prompt_without_a_bos_is_refused(llama: Model, prompt: Any) -> None:
    plain = _processed(llama, "$A", [])
    plain.tokenizer.bos_token = None
    assert encode(plain, "w5") == [5]
    with pytest.raises(InputError, match="empty"):
        encode(plain, prompt)


def test_a_chat_prompt_has_one_bos_and_is_ready_for_the_answer() -> None:
    ids = encode(_chat(WITH_SYSTEM), MESSAGES)
    assert ids.count(1) == 1
    assert (ids[0], ids[-1]) == (1, 60)
    assert [i for i in ids if i in (10, 11, 20)] == [10, 11, 20]


def test_a_template_that_writes_two_bos_gives_one() -> None:
    assert encode(_chat("{{ bos_token }} " + WITH_SYSTEM), MESSAGES)[:2] != [1, 1]


def test_a_template_without_bos_gets_none() -> None:
    assert 1 not in encode(_chat(WITH_SYSTEM.removeprefix("{{ bos_token }} ")), MESSAGES)


@pytest.mark.parametrize("template", [WITHOUT_SYSTEM, DROPS_SYSTEM])
def test_a_system_message_the_template_will_not_take_opens_the_users_turn(template: str) -> None:
    ids = encode(_chat(template), MESSAGES)
    assert [i for i in ids if i != 1] == [10, 11, 20, 60]


def test_an_empty_system_message_costs_nothing_else() -> None:
    ids = encode(_chat(WITHOUT_SYSTEM), [{"role": "system", "content": ""}, MESSAGES[1]])
    assert ids == [1, 20, 60]


def test_later_turns_stay_in_order() -> None:
    later = [{"role": "assistant", "content": "w30"}, {"role": "user", "content": "w31"}]
    assert encode(_chat(WITHOUT_SYSTEM), [*MESSAGES, *later]) == [1, 10, 11, 20, 30, 31, 60]


def test_a_template_that_refuses_is_an_error_with_its_reason() -> None:
    with pytest.raises(ModelError, match="'tiny chat' refuses these messages: never"):
        encode(_chat("{{ raise_exception('never') }}"), [MESSAGES[1]])


def test_a_template_that_refuses_even_the_folded_system_message_is_an_error() -> None:
    with pytest.raises(ModelError, match="never"):
        encode(_chat("{{ raise_exception('never') }}"), MESSAGES)


def test_messages_need_a_chat_template() -> None:
    with pytest.raises(InputError, match="'tiny chat' has no chat template"):
        encode(_chat(None), MESSAGES)


def test_a_response_gets_no_special_tokens_and_loses_its_eos(llama: Model) -> None:
    assert encode_response(llama, "w5 w6") == [5, 6]
    assert encode_response(llama, "w5 <eos>") == [5]
    assert encode_response(llama, [5, 6, 2]) == [5, 6]
    assert encode_response(llama, [2, 5]) == [2, 5]
    assert encode_response(llama, []) == []


def test_text_leaves_special_tokens_out(llama: Model) -> None:
    assert decode(llama, [1, 5, 6, 2]).split() == ["w5", "w6"]
