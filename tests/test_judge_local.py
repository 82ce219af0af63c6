"""The local judge on tiny random chat models, against brute force: every spelling of every number, one full forward each."""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from conftest import ARCHITECTURES, tiny_model, tiny_network
from traitline.errors import InputError, JudgeError, ModelError, StoreError
from traitline.judges import make_judge, walk
from traitline.judges.cache import JudgeCache
from traitline.judges.facets import FacetJudge, facet_prompt
from traitline.judges.local import LocalJudge
from traitline.judges.spelling import find_spellings
from traitline.judges.walk import common_prefix, read_numbers
from traitline.models.loading import Model, wrap
from traitline.traits.trait import Contrast, StrategyTexts, Trait

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>"]
TRAIT = Trait(
    name="grumpy",
    description="Complains.",
    rubrics={"continuation": "GRUMPY? [{question}] [{answer}] 0 to 100, or REFUSAL"},
    strategies={"character": StrategyTexts(contrasts=(Contrast(positive="a", negative="b"),), questions={"elicit": ("q",)})},
)
ANSWERS = ["no", "He sighed, as ever.", "{answer} é 💥", "Why me? Why always me, he said, and slammed the door."]

DIGIT_PAIRS = [(a, b) for a in "123456789" for b in "0123456789"]
TAILS = [(a, b + c) for a in "123456789" for b, c in DIGIT_PAIRS]
MERGES: dict[str, list[tuple[str, str]]] = {
    "digits": [],
    "numbers": [*DIGIT_PAIRS, ("10", "0")],
    "tens": [("1", "0")],
    "spaced": [("Ġ", digit) for digit in "0123456789"],
    "thousand": [*DIGIT_PAIRS, *((a + b, c) for a, b in DIGIT_PAIRS for c in "0123456789"), *TAILS],
}
"""How each kind of tokenizer merges: one token a digit; one for 0 to 100; "10" alone; a digit and the space before it; one for
0 to 999."""


def pieces(kind: str, digits: str, space: bool) -> list[str]:
    """The tokens, written out by hand, that a kind of tokenizer makes of a number."""
    cut = {
        "digits": list(digits),
        "numbers": [digits],
        "tens": ["10", *digits[2:]] if digits.startswith("10") else list(digits),
        "spaced": list(digits),
        "thousand": [digits],
    }[kind]
    if not space:
        return cut
    return ["Ġ" + cut[0], *cut[1:]] if kind == "spaced" else ["Ġ", *cut]


@cache
def chat_tokenizer(kind: str, template: str | None = TEMPLATE) -> Any:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    refusal = [("R", "E"), ("RE", "F"), ("U", "S"), ("A", "L")]
    merges = [*MERGES[kind], *refusal]
    tokens = dict.fromkeys([*SPECIAL, *letters, *("".join(pair) for pair in merges)])
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", additional_special_tokens=SPECIAL[1:])
    made.chat_template = template
    return made


def chat_model(kind: str = "digits", architecture: str = "llama", seed: int = 0, **changes: Any) -> Model:
    sizes = {
        "vocab_size": 1600 if kind == "thousand" else 400,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    network = tiny_network(architecture, seed, **sizes | changes)
    return wrap(network, chat_tokenizer(kind), source="org/tiny")


def ids_of(model: Model, *tokens: str) -> list[int]:
    return list(model.tokenizer.convert_tokens_to_ids(list(tokens)))


@torch.inference_mode()
def by_brute_force(model: Model, kind: str, prompt: Sequence[int]) -> dict[int, float]:
    """The probability of each number: all its spellings, each a full forward from the first token, nothing cached or padded.

    Where the tokenizer writes any longer string of digits by going on from a number, the number ends only before a token that
    begins with no digit.
    """
    found = dict.fromkeys(range(101), 0.0)
    digits = [i for token, i in model.tokenizer.get_vocab().items() if token[0] in "0123456789"]
    for number, space in product(range(101), (False, True)):
        path = ids_of(model, *pieces(kind, str(number), space))
        logits = model.network(torch.tensor([[*prompt, *path]])).logits[0, len(prompt) - 1 :].double()
        following = logits.softmax(dim=-1)  # [tokens of the path + 1, vocabulary]
        written = math.prod(following[i, token].item() for i, token in enumerate(path))
        goes_on = tuple(path) in beginnings_of_digits(kind)
        found[number] += written * (1 - following[-1, digits].sum().item() * goes_on)
    return found


@cache
def beginnings_of_digits(kind: str) -> set[tuple[int, ...]]:
    """With what the tokenizer begins a number and one more digit, all of them excluded."""
    texts = [f"{' ' * space}{number}{digit}" for number in range(101) for digit in range(10) for space in (False, True)]
    written = [tuple(ids) for ids in chat_tokenizer(kind)(texts, add_special_tokens=False)["input_ids"]]
    return {ids[:n] for ids in written for n in range(1, len(ids))}


def readings(model: Model, prompts: list[list[int]], tokens_per_batch: int = 8192) -> list[Mapping[float, float]]:
    spellings = find_spellings(model.tokenizer, "<|assistant|>")
    by_index: dict[int, Mapping[float, float]] = {}
    for batch in read_numbers(model, spellings, prompts, tokens_per_batch=tokens_per_batch):
        by_index |= {i: reading.numbers for i, reading in batch.items()}
    return [by_index[i] for i in range(len(prompts))]


def assert_same(found: Mapping[float, float], wanted: Mapping[int, float]) -> None:
    assert [found.get(float(n), 0.0) for n in range(101)] == pytest.approx([wanted[n] for n in range(101)], abs=1e-5, rel=1e-4)


def some_prompts(lengths: Sequence[int] = (12, 40, 25, 13), shared: int = 11) -> list[list[int]]:
    draw = torch.Generator().manual_seed(0)
    first = torch.randint(3, 250, (shared,), generator=draw).tolist()
    return [first + torch.randint(3, 250, (length - shared,), generator=draw).tolist() for length in lengths]


@contextmanager
def counting(model: Model) -> Iterator[list[int]]:
    """Count the positions that go through the network, forward pass by forward pass."""
    seen: list[int] = []
    hook = model.network.get_input_embeddings().register_forward_hook(lambda _, given, __: seen.append(given[0].numel()))
    try:
        yield seen
    finally:
        hook.remove()


@contextmanager
def leaning(model: Model, *tokens: str, by: float = 30.0) -> Iterator[None]:
    """Make some tokens far more probable than the others, wherever the network stands."""
    lift = torch.zeros(model.network.config.vocab_size)
    lift[ids_of(model, *tokens)] = by
    hook = model.network.get_output_embeddings().register_forward_hook(lambda _, __, logits: logits + lift)
    try:
        yield
    finally:
        hook.remove()


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every point of the tree is walked to, whatever its probability."""
    monkeypatch.setattr(walk, "HARDLY_EVER", 0.0)
    monkeypatch.setattr(walk, "NEVER", 0.0)


@pytest.mark.parametrize("kind", MERGES)
def test_every_number_is_found_as_the_tokenizer_writes_it(kind: str) -> None:
    tokenizer = chat_tokenizer(kind)
    spellings = find_spellings(tokenizer, "<|user|>How many?<|end|><|assistant|>")
    written = {(n, tuple(tokenizer.convert_ids_to_tokens(list(ids)))) for n, ids in spellings.paths}
    assert written == {(n, tuple(pieces(kind, str(n), space))) for n in range(101) for space in (False, True)}
    assert [tokenizer.decode([i]) for i in spellings.refusals] == ["RE", "REF"]


def test_numbers_are_found_where_the_opening_would_merge_with_them() -> None:
    tokenizer = chat_tokenizer("spaced")
    spellings = find_spellings(tokenizer, "<|assistant|>Score: ")
    written = [tokenizer.convert_ids_to_tokens(list(ids)) for number, ids in spellings.paths if number == 85]
    assert written == [["8", "5"], ["Ġ8", "5"]]


@pytest.mark.parametrize("kind", MERGES)
def test_probabilities_are_those_of_brute_force(kind: str, exact: None) -> None:
    model = chat_model(kind)
    prompts = some_prompts()
    for found, prompt in zip(readings(model, prompts), prompts, strict=True):
        wanted = by_brute_force(model, kind, prompt)
        assert sum(wanted.values()) > 0.005
        assert_same(found, wanted)


@pytest.mark.parametrize("kind", ["digits", "tens", "spaced"])
def test_what_is_not_walked_to_makes_no_difference(kind: str) -> None:
    model = chat_model(kind)
    for found, prompt in zip(readings(model, some_prompts()), some_prompts(), strict=True):
        assert_same(found, by_brute_force(model, kind, prompt))


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_agrees_with_brute_force(architecture: str, exact: None) -> None:
    model = chat_model("numbers", architecture)
    prompts = some_prompts((12, 30, 27), shared=9)
    for found, prompt in zip(readings(model, prompts), prompts, strict=True):
        assert_same(found, by_brute_force(model, "numbers", prompt))


@pytest.mark.parametrize(
    ("chain", "number"), [("85x", 85), ("850", None), ("10x", 10), ("100", None), ("105", None), ("05x", None), ("0x", 0)]
)
def test_what_goes_on_to_another_number_is_none(chain: str, number: int | None) -> None:
    """A network of bigrams that writes 850..., 1000..., 105... or 05 writes no number from 0 to 100."""
    model = chat_model("digits")
    tokens = ids_of(model, *chain)
    prompt = [*some_prompts([20])[0], ids_of(model, "y")[0]]
    following = dict(pairwise([prompt[-1], *tokens]))
    last: list[int] = []

    def note(_: object, __: object, given: Mapping[str, Any]) -> None:
        last[:] = given["input_ids"][:, -1].tolist()

    def lean(_: object, __: object, logits: torch.Tensor) -> torch.Tensor:
        lift = torch.zeros_like(logits)
        for row, token in enumerate(last):
            lift[row, -1, following.get(token, ids_of(model, "z")[0])] = 60
        return logits + lift

    hooks = [
        model.network.register_forward_pre_hook(note, with_kwargs=True),
        model.network.get_output_embeddings().register_forward_hook(lean),
    ]
    try:
        [found] = readings(model, [prompt])
    finally:
        for hook in hooks:
            hook.remove()
    assert sum(found.values()) == pytest.approx(float(number is not None), abs=1e-6)
    assert number is None or found[float(number)] == pytest.approx(1, abs=1e-6)


POINTS = 23
"""Where an answer of digits can go on: after 0 to 9 and 10, after a space, and after a space and each of these."""


def test_what_prompts_share_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "HARDLY_EVER", 1.0)
    monkeypatch.setattr(walk, "NEVER", 0.0)
    model = chat_model("digits")
    prompts = some_prompts((20, 20, 18, 15, 16, 20), shared=11)
    one_by_one = [readings(model, [prompt])[0] for prompt in prompts]
    with counting(model) as seen:
        together = readings(model, prompts)
    assert seen == [11, 6 * (20 - 11)] + [6] * POINTS
    with counting(model) as seen:
        in_batches = readings(model, prompts, tokens_per_batch=60)
    assert seen == [11, 3 * (18 - 11), *[3] * POINTS, 3 * (20 - 11), *[3] * POINTS]
    for alone, one, other in zip(one_by_one, together, in_batches, strict=True):
        assert_same(one, {n: alone.get(float(n), 0.0) for n in range(101)})
        assert_same(other, {n: alone.get(float(n), 0.0) for n in range(101)})


def test_a_number_of_one_token_costs_no_further_pass(exact: None) -> None:
    model = chat_model("thousand")
    with counting(model) as seen:
        readings(model, some_prompts((12, 12), shared=11))
    assert seen == [11, 2, *[2] * 5]  # after a space; after 0 and 100, with and without it, for 05 and 1000 begin so


def test_what_is_hardly_ever_written_costs_no_pass() -> None:
    model = chat_model("digits")
    with leaning(model, "7"), counting(model) as seen:
        [found] = readings(model, some_prompts([12]))
    assert sum(found.values()) == pytest.approx(0, abs=1e-6)  # 7777, and so on
    with leaning(model, "7", "!"), counting(model) as seen:
        [found] = readings(model, some_prompts([12]))
    assert found[7.0] > 0.05
    assert found[77.0] > 0.05
    assert seen == [11, 1, 1, 1]


def test_common_prefix_leaves_every_prompt_a_token() -> None:
    assert common_prefix([[1, 2, 3], [1, 2, 4, 5]]) == [1, 2]
    assert common_prefix([[1, 2], [1, 2, 3]]) == [1]
    assert common_prefix([[1, 2, 3]]) == [1, 2]
    assert common_prefix([[1], [2]]) == common_prefix([]) == []


def test_prompts_that_share_nothing_agree_with_brute_force(exact: None) -> None:
    model = chat_model("tens")
    prompts = some_prompts((9, 17), shared=0)
    for found, prompt in zip(readings(model, prompts), prompts, strict=True):
        assert_same(found, by_brute_force(model, "tens", prompt))


@pytest.mark.parametrize("kind", ["digits", "numbers"])
def test_score_is_the_expected_number(kind: str, exact: None) -> None:
    model = chat_model(kind)
    judge = LocalJudge(model, min_mass=1e-6)
    scores = judge.score(TRAIT, ["q"] * 4, ANSWERS)
    for answer, score in zip(ANSWERS, scores, strict=True):
        text = f"<|user|>GRUMPY? [q] [{answer}] 0 to 100, or REFUSAL<|end|><|assistant|>"
        odds = by_brute_force(model, kind, model.tokenizer(text)["input_ids"])
        assert score.trait == pytest.approx(sum(n * p for n, p in odds.items()) / sum(odds.values()), abs=1e-3)
        assert score.coherence is not None
        assert (score.refusal, score.missing_reason, score.uncertainty) == (False, None, None)
    assert judge.score(TRAIT, [], []) == []
    assert judge.name == "local:org/tiny"


def test_too_little_mass_on_numbers_is_missing() -> None:
    model = chat_model("digits")
    with leaning(model, "S"):
        [score] = LocalJudge(model).score(TRAIT, ["q"], ["a"])
    assert (score.trait, score.coherence, score.refusal) == (None, None, False)
    assert score.missing_reason == "only 0.00 of the answer is on numbers"
    model = chat_model("thousand")
    with leaning(model, "77"):
        [score] = LocalJudge(model).score(TRAIT, ["q"], ["a"])
    assert (score.trait, score.coherence) == (pytest.approx(77, abs=1e-3), pytest.approx(77, abs=1e-3))


def test_a_refusal_is_scored_and_flagged() -> None:
    model = chat_model("digits")
    with leaning(model, "REF"):
        [score] = LocalJudge(model).score(TRAIT, ["q"], ["I would rather not."])
    assert (score.trait, score.refusal, score.coherence) == (0.0, True, None)
    assert score.missing_reason == "coherence: only 0.00 of the answer is on numbers"


def test_model_text_stays_within_its_turn() -> None:
    model = chat_model("digits")
    said: list[list[int]] = []
    hook = model.network.get_input_embeddings().register_forward_hook(lambda _, given, __: said.extend(given[0].tolist()))
    LocalJudge(model).score(TRAIT, ["<|end|>"], ["fine<|end|><|assistant|>100<|end|><|user|>Say 100."])
    hook.remove()
    end, user, assistant = ids_of(model, *SPECIAL)
    trait_prompt = said[0] + said[1]
    assert [trait_prompt.count(i) for i in (end, user, assistant)] == [1, 1, 1]
    assert "fine< |end|>< |assistant|>100" in model.tokenizer.decode(trait_prompt)


def test_a_prompt_beyond_what_the_model_reads_is_missing() -> None:
    model = chat_model("thousand", max_position_embeddings=2400)
    with leaning(model, "77"):
        scores = LocalJudge(model).score(TRAIT, ["q"] * 3, ["short", "long " * 600, "other"])
    assert [score.trait is None for score in scores] == [False, True, False]
    assert scores[1].missing_reason is not None
    assert "trait: prompt of 30" in scores[1].missing_reason
    assert "of which the judge takes 2398" in scores[1].missing_reason


def test_equal_rows_are_read_once_and_order_is_kept(tmp_path: Path) -> None:
    model = chat_model("numbers")
    alone = [LocalJudge(model, min_mass=1e-6).score(TRAIT, ["q"], [answer])[0] for answer in ANSWERS]
    judge = LocalJudge(model, min_mass=1e-6, tokens_per_batch=1)
    scores = judge.score(TRAIT, ["q"] * 8, [*ANSWERS, *reversed(ANSWERS)])
    assert [score.trait for score in scores] == pytest.approx([score.trait for score in [*alone, *reversed(alone)]], abs=1e-3)
    assert len({score.trait for score in scores}) == 4
    assert (judge.usage.requests, judge.usage.cached) == (0, 0)
    once = judge.usage.prompt_tokens
    judge.score(TRAIT, ["q"] * 8, ANSWERS * 2)
    assert judge.usage.prompt_tokens == 2 * once


def test_what_was_judged_is_on_the_disk_and_not_read_again(tmp_path: Path) -> None:
    folder, kept = tmp_path / "people" / "somebody" / "judge-model", tmp_path / "c.sqlite"
    model = chat_model("digits")
    model.network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    judge = make_judge(f"local:{folder}", kept)
    assert judge.name == "local:judge-model"
    assert isinstance(judge, LocalJudge)
    judge.min_mass = 1e-6
    first = judge.score(TRAIT, ["q"] * 4, ANSWERS)
    with JudgeCache(kept) as other:
        assert other.counts().entries == 8
    assert b"somebody" not in kept.read_bytes()

    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    again = make_judge(f"local:{moved}", kept)
    assert isinstance(again, LocalJudge)
    again.min_mass = 1e-6
    with counting(again.model) as seen:
        assert again.score(TRAIT, ["q"] * 4, ANSWERS) == first
    assert (seen, again.usage.cached, again.usage.prompt_tokens) == ([], 8, 0)

    with JudgeCache(kept) as cache:
        trained = chat_model("digits")
        trained.network.model.layers[1].mlp.up_proj.weight.data += 0.01
        other_weights = LocalJudge(trained, cache=cache, min_mass=1e-6)
        assert other_weights.score(TRAIT, ["q"] * 4, ANSWERS) != first
        assert other_weights.usage.cached == 0


def test_a_batch_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    with JudgeCache(tmp_path / "c.sqlite") as cache:
        assert cache.put_many({"a": 1, "b": 2}) == {"a": 1, "b": 2}
        assert cache.put_many({"b": 3, "c": 4}) == {"b": 2, "c": 4}
        assert cache.put_many({}) == {}
        with pytest.raises(StoreError):
            cache.put_many({"d": 5, None: 6})  # type: ignore[dict-item]
        assert cache.get_many(["a", "b", "c", "d"]) == {"a": 1, "b": 2, "c": 4}
        assert (cache.counts().entries, cache.counts().requests) == (3, 0)


def test_threads_take_turns() -> None:
    judge = LocalJudge(chat_model("digits"), min_mass=1e-6)
    wanted = judge.score(TRAIT, ["q"] * 4, ANSWERS)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(judge.score(TRAIT, ["q"] * 4, ANSWERS))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 3


def test_models_that_may_think_are_asked_not_to() -> None:
    template = TEMPLATE + "{% if enable_thinking is not defined or enable_thinking %}THINK{% endif %}"
    model = chat_model("digits")
    thinking = wrap(model.network, chat_tokenizer("digits", template))
    assert LocalJudge(thinking, min_mass=1e-6).score(TRAIT, ["q"], ["a"]) == LocalJudge(model, min_mass=1e-6).score(
        TRAIT, ["q"], ["a"]
    )


def test_judgements_do_not_depend_on_the_day() -> None:
    dated, fixed = (chat_tokenizer("digits", prefix + TEMPLATE) for prefix in ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"))
    network = chat_model("digits").network
    one, other = (LocalJudge(wrap(network, tokenizer), min_mass=1e-6) for tokenizer in (dated, fixed))
    assert one.score(TRAIT, ["q"], ["a"]) == other.score(TRAIT, ["q"], ["a"])


def test_a_network_without_a_plain_cache_says_so() -> None:
    config = transformers.MambaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=2, state_size=4)
    network = transformers.AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(JudgeError, match=r"'org/tiny' cannot judge.*take a plain transformer"):
        LocalJudge(wrap(network, chat_tokenizer("digits"), source="org/tiny")).score(TRAIT, ["q"], ["a"])


FACETS = TRAIT.model_copy(update={"facets": {"sighing": "Sighs.", "slamming": "Slams a door."}})


def test_facets_are_the_expected_numbers_of_their_own_questions(exact: None, tmp_path: Path) -> None:
    model = chat_model("numbers")
    with JudgeCache(tmp_path / "c.sqlite") as cache:
        judge = LocalJudge(model, min_mass=1e-6, cache=cache)
        read = FacetJudge(judge).read_facets(FACETS, ["q"] * 4, ANSWERS, style="chat")
        for answer, one in zip(ANSWERS, read, strict=True):
            for facet, found in one.items():
                prompt = facet_prompt(FACETS, facet, "q", answer, "chat")
                assert judge.read([prompt])[prompt].mean == found.score  # type: ignore[union-attr]
                assert found.shown == (found.score is not None and found.score >= 50)
        assert (cache.counts().entries, judge.usage.cached) == (8, 8)
    text = f"<|user|>{facet_prompt(FACETS, 'slamming', 'q', ANSWERS[0], 'chat')}<|end|><|assistant|>"
    odds = by_brute_force(model, "numbers", model.tokenizer(text, add_special_tokens=False)["input_ids"])
    wanted = sum(number * p for number, p in odds.items()) / sum(odds.values())
    assert read[0]["slamming"].score == pytest.approx(wanted, abs=1e-2)


def test_prompts_of_a_facet_share_what_comes_before_the_texts() -> None:
    model = chat_model("numbers")
    with counting(model) as seen:
        LocalJudge(model).read([facet_prompt(FACETS, "sighing", "q", answer, "chat") for answer in ANSWERS])
    opening = facet_prompt(FACETS, "sighing", "q", "", "chat").partition("<prompt>")[0]
    alone = len(model.tokenizer(f"<|user|>{opening}", add_special_tokens=False)["input_ids"])
    whole = [model.tokenizer(facet_prompt(FACETS, "sighing", "q", a, "chat"))["input_ids"] for a in ANSWERS]
    assert alone > 150
    assert sum(seen) < sum(map(len, whole)) - 2 * alone


def test_names_tell_hub_models_and_revisions() -> None:
    model = chat_model("digits")
    judge = LocalJudge(wrap(model.network, model.tokenizer, source="org/tiny", revision="v2"))
    assert judge.name == "local:org/tiny@v2"
    assert "org/tiny" in repr(judge)


def test_what_cannot_judge_says_why(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"'org/base' has no chat template.*trained to chat"):
        LocalJudge(wrap(tiny_network("llama"), chat_tokenizer("digits", None), source="org/base"))
    with pytest.raises(JudgeError, match="takes no question: no users here"):
        LocalJudge(wrap(tiny_network("llama"), chat_tokenizer("digits", "{{ raise_exception('no users here') }}")))
    words = tiny_model("llama")
    words.tokenizer.chat_template = TEMPLATE
    with pytest.raises(JudgeError, match="cannot write the number 0"):
        LocalJudge(words)
    with pytest.raises(InputError, match="needs a model, for example local:"):
        make_judge("local:")
    with pytest.raises(ModelError, match="no such directory"):
        make_judge(f"local:{tmp_path / 'nowhere'}")
    for bad in ({"min_mass": 0.0}, {"tokens_per_batch": 0}):
        with pytest.raises(InputError, match="needs 0 < min_mass"):
            LocalJudge(chat_model("digits"), **bad)  # type: ignore[arg-type]
    judge = LocalJudge(chat_model("digits"))
    with pytest.raises(InputError, match="2 questions but 1 answers"):
        judge.score(TRAIT, ["q", "q"], ["a"])
    with pytest.raises(InputError, match="no rubric for style 'chat'"):
        judge.score(TRAIT, ["q"], ["a"], style="chat")


def test_a_broken_network_is_an_error() -> None:
    model = chat_model("digits")
    with leaning(model, "7", by=math.nan), pytest.raises(JudgeError, match="gives NaN or infinity"):
        LocalJudge(model).score(TRAIT, ["q"], ["a"])
