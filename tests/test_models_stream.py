"""Streamed tokens: the texts of `generate_rows`, cut at the tokens, each with the projection of what a plain reading gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from plain import hidden_states

from conftest import tiny_model, tiny_network
from traitline.errors import InputError, ModelError
from traitline.models.generate import Intervention, Probe, Row, generate_rows
from traitline.models.loading import Model, wrap
from traitline.models.pieces import Pieces
from traitline.models.prompts import decode
from traitline.models.stream import Step, Token, stream_rows

STEPS = 12
PROMPTS = [[1, *np.random.default_rng(i).integers(3, 64, size=1 + i).tolist()] for i in range(6)]


def _direction(seed: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=32) * scale).astype(np.float32)


def _rows(layer: int) -> list[Row]:
    """A baseline and steered rows of every kind of positions, all at one layer, of different lengths."""
    kinds: Any = ("response", "prompt", "all")
    return [
        Row(ids, noise_key=40 + i, steer=Intervention(layer, _direction(i, 3.0), kinds[i % 3]) if i % 4 else None)
        for i, ids in enumerate(PROMPTS)
    ]


def _ending(model: Model) -> Model:
    """The model, told to end on tokens that some of its greedy rows reach, one of them at once, and one never."""
    endless = replace(model, eos_ids=frozenset())
    rows = generate_rows(endless, _rows(2), max_new_tokens=STEPS, temperature=0, repetition_penalty=1.1)
    ends = {row.token_ids[3 * i] for i, row in enumerate(rows[:3])}
    kept = next(row.token_ids for row in reversed(rows) if rows[0].token_ids[0] not in row.token_ids)
    return replace(model, eos_ids=frozenset(ends - set(kept)))


def _by_row(steps: list[Step], rows: int) -> list[list[Token]]:
    told = [token for step in steps for token in step.tokens]
    return [[token for token in told if token.row == r] for r in range(rows)]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_streamed_rows_are_the_generated_rows(model: Model, temperature: float) -> None:
    ends, rows = _ending(model), _rows(2)
    options: dict[str, Any] = {"max_new_tokens": STEPS, "temperature": temperature, "repetition_penalty": 1.1}
    expected = generate_rows(ends, rows, **options)
    steps = list(stream_rows(ends, rows, Probe(2, _direction(9)), **options))
    finished = {r: how for step in steps for r, how in step.finished.items()}
    for r, (tokens, generation) in enumerate(zip(_by_row(steps, len(rows)), expected, strict=True)):
        assert "".join(token.text for token in tokens) == generation.text
        kept = generation.token_ids[:-1] if generation.finish == "eos" else generation.token_ids
        assert [token.id for token in tokens] == kept
        assert finished[r] == generation.finish
    if temperature == 0:
        assert set(finished.values()) == {"eos", "length"}
        assert any(not generation.text for generation in expected)


@pytest.mark.parametrize("layer", [1, 3])
def test_projections_are_those_of_reading_the_text_unsteered(model: Model, layer: int) -> None:
    ends, rows, along = _ending(model), _rows(layer), _direction(9)
    steps = list(stream_rows(ends, rows, Probe(layer, along), max_new_tokens=STEPS, temperature=0))
    for row, tokens in zip(rows, _by_row(steps, len(rows)), strict=True):
        n = len(row.prompt_ids)
        states = hidden_states(model, [*row.prompt_ids, *(token.id for token in tokens)])[layer, n:]
        np.testing.assert_allclose([token.projection for token in tokens], states @ along, atol=2e-4, rtol=1e-4)
    assert sum(row.steer is not None for row in rows) > 2


def test_a_probe_behind_the_steered_layer_sees_the_steering() -> None:
    llama = tiny_model("llama")  # asking for hidden states leaves transformers' own hooks
    row = Row(PROMPTS[3], steer=Intervention(1, _direction(1, 4.0)))
    tokens = _by_row(list(stream_rows(llama, [row], Probe(3, _direction(9)), max_new_tokens=5, temperature=0)), 1)[0]
    states = hidden_states(llama, [*row.prompt_ids, *(token.id for token in tokens)])[3, len(row.prompt_ids) :]
    assert np.abs([token.projection for token in tokens] - states @ _direction(9)).min() > 0.01


def test_rows_are_told_while_they_are_generated(llama: Model) -> None:
    endless = replace(llama, eos_ids=frozenset())
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    handle = llama.network.register_forward_hook(count)
    told = []
    for step in stream_rows(endless, _rows(2)[:3], Probe(2, _direction(9)), max_new_tokens=4, temperature=0):
        told.append((passes, [token.row for token in step.tokens], dict(step.finished)))
    handle.remove()
    assert told == [
        (1, [], {}),  # the prompt went in, the first tokens were chosen
        (2, [0, 1, 2], {}),
        (3, [0, 1, 2], {}),
        (4, [0, 1, 2], {}),
        (5, [0, 1, 2], {0: "length", 1: "length", 2: "length"}),
    ]


def test_the_network_is_free_between_steps_and_after_an_early_stop(llama: Model) -> None:
    row = Row(PROMPTS[2], steer=Intervention(2, _direction(1, 9.0)))
    bare = generate_rows(llama, [Row(PROMPTS[2])], max_new_tokens=6, temperature=0)
    whole = generate_rows(llama, [row], max_new_tokens=6, temperature=0)[0]
    told = []
    for step in stream_rows(llama, [row], Probe(2, _direction(9)), max_new_tokens=6, temperature=0):
        assert generate_rows(llama, [Row(PROMPTS[2])], max_new_tokens=6, temperature=0) == bare
        told += [token.text for token in step.tokens]
    assert "".join(told) == whole.text != bare[0].text

    steps = stream_rows(llama, [row], Probe(2, _direction(9)), max_new_tokens=6)
    next(steps)
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in llama.blocks)


def test_what_does_not_fit_is_refused_before_the_first_step(llama: Model) -> None:
    row, probe = Row(PROMPTS[0]), Probe(2, _direction(9))
    with pytest.raises(InputError, match="cannot read at layer 4"):
        stream_rows(llama, [row], Probe(4, _direction(9)), max_new_tokens=3)
    with pytest.raises(InputError, match="32 wide"):
        stream_rows(llama, [row], Probe(2, np.ones(31, dtype=np.float32)), max_new_tokens=3)
    with pytest.raises(InputError, match="NaN"):
        stream_rows(llama, [row], Probe(2, np.full(32, np.nan, dtype=np.float32)), max_new_tokens=3)
    with pytest.raises(InputError, match="empty prompt"):
        stream_rows(llama, [Row([])], probe, max_new_tokens=3)
    with pytest.raises(InputError, match="max_new_tokens"):
        stream_rows(llama, [row], probe, max_new_tokens=0)


def test_broken_weights_are_an_error_of_the_model() -> None:
    network = tiny_network("llama")
    with torch.no_grad():
        network.lm_head.weight[5] = float("nan")
    broken = wrap(network, tiny_model("llama").tokenizer)
    with pytest.raises(ModelError, match="NaN"):
        list(stream_rows(broken, [Row([1, 5])], Probe(2, _direction(9)), max_new_tokens=2))


TEXTS = ["naïve café", "日本語を話す", "a 😀😀 b", "he said , don't ! it 's ' here ' .", "x\n\n y\ttab", "  spaced   out "]


def _byte_level(clean: bool) -> Any:
    """A GPT-2-like tokenizer with so few merges that most characters beyond ASCII are several tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS[3:4] * 3, trainers.BpeTrainer(vocab_size=275, initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=clean)


def _byte_fallback() -> Any:
    """A Llama-2-like tokenizer: words with a mark for the space, and bytes for everything else."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "▁", *"aehino", "▁a", "▁said", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", clean_up_tokenization_spaces=False)


def _nano() -> Any:
    from traitline.nano.tokenizer import build_tokenizer

    return build_tokenizer()


@pytest.mark.parametrize(
    "tokenizer",
    [_byte_level(False), _byte_level(True), _byte_fallback(), _nano()],
    ids=["bytes", "cleaned", "fallback", "nano"],
)
def test_pieces_join_to_the_text_of_any_ids(tokenizer: Any, llama: Model) -> None:
    model = replace(llama, tokenizer=tokenizer)
    rng = np.random.default_rng(0)
    sequences = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    sequences += [rng.integers(0, len(tokenizer), size=30).tolist() for _ in range(150)]  # broken characters among them
    sequences += [rng.permutation(np.concatenate(sequences[: len(TEXTS)])).tolist() for _ in range(100)]
    early = 0
    for ids in [[], *sequences]:
        pieces = Pieces(model)
        given = [piece for token in ids for piece in pieces.add(token)]
        early += len(given)
        given += pieces.close()
        assert "".join(given) == decode(model, ids)
        assert len(given) == len(ids)
    assert early > 0.4 * sum(map(len, sequences))


def test_a_piece_comes_with_its_own_token() -> None:
    model = replace(tiny_model("llama"), tokenizer=_byte_level(False))
    ids = model.tokenizer("a 😀b")["input_ids"]
    pieces = Pieces(model)
    assert [pieces.add(token) for token in ids] == [["a"], [" "], [], [""], [""], ["", "😀"], ["b"]]
    assert pieces.close() == []
