"""Post-training of the embedded lineage: chats, the reward, and the three stages on a tiny configuration."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
import shutil
import socket
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import traitline as tl
from traitline.errors import InputError
from traitline.models import encode, load_model
from traitline.nano import pretrain
from traitline.nano.chat import ROLES, build_chat_tokenizer
from traitline.nano.dialogues import (
    REFUSAL,
    REQUESTS,
    DialogueConfig,
    demonstrations,
    draw_ask,
    preferences,
    reply,
    requests,
)
from traitline.nano.lexicon import SIDES, TRAITS
from traitline.nano.posttrain import PosttrainConfig, StageConfig, descendants_folder, ensure_descendants
from traitline.nano.pretrain import PretrainConfig
from traitline.nano.reward import reward
from traitline.nano.tokenizer import build_tokenizer
from traitline.traits.strategies import strategy

BASE = PretrainConfig(
    steps=4, batch=4, hidden=16, layers=2, heads=2, intermediate=16, warmup=2, checkpoint_steps=(0, 4), threads=1
)
TINY = PosttrainConfig(
    BASE,
    sft=StageConfig(steps=3, batch=4, learning_rate=1e-2, warmup=1),
    dpo=StageConfig(steps=2, batch=4, learning_rate=1e-2, warmup=1, beta=0.5),
    rlvr=StageConfig(steps=2, batch=8, learning_rate=1e-2, warmup=1, beta=0.1, replies=4, tokens=6),
)
CHATS = DialogueConfig()
OPENING = "If Alex met a beggar at the inn, Alex would"
ASKED = "What would Alex do with a beggar at the inn?"


def take(source, count=400):
    return list(itertools.islice(source, count))


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.safetensors"))
    }


def weights(folder, stage):
    return AutoModelForCausalLM.from_pretrained(folder / stage).state_dict()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def random_state():
    numbers = np.random.get_state()[1].tolist()  # noqa: NPY002 - the generator that trainers seed
    return random.getstate(), numbers, torch.get_rng_state().tolist(), torch.get_num_threads()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("TRAITLINE_CACHE", str(folder))
        # An untrained network never earns the true reward, and would learn nothing from it.
        patch.setattr("traitline.nano.trainers.reward", lambda _question, reply, number, *, ended: float(len(reply) % 2))
        yield folder


@pytest.fixture(scope="module")
def trained(cache):
    """The tiny descendants, and what training them did outside their folder."""
    base = pretrain.ensure(BASE)
    found = {"base": contents(base), "steps": [], "hosts": [], "folder": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # as on a user's machine
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", False)
        patch.delenv("CI", raising=False)
        patch.setattr(socket, "getaddrinfo", lambda host, *_rest, **_more: found["hosts"].append(host) or [])
        torch.manual_seed(5)
        before = random_state()
        found["folder"] = ensure_descendants(TINY, progress=lambda *step: found["steps"].append(step))
        found["kept"] = random_state() == before
    return found


def test_descendants_are_ordinary_chat_models(trained):
    for stage in ("sft", "dpo", "rlvr"):
        folder = trained["folder"] / stage
        model = load_model(folder, device="cpu")
        assert model.is_chat
        assert model.network.config.vocab_size == len(AutoTokenizer.from_pretrained(folder))
        assert model.network.config.use_cache
        assert model.eos_ids == {model.tokenizer.eos_token_id}
        answer = tl.generate(model, [[{"role": "user", "content": ASKED}]], max_new_tokens=3)[0]
        assert 1 <= len(answer.token_ids) <= 3


def test_every_stage_trains_on_from_the_one_before(trained):
    sft, dpo, rlvr = (weights(trained["folder"], stage) for stage in ("sft", "dpo", "rlvr"))
    assert not same(sft, dpo)
    assert not same(dpo, rlvr)
    name = "model.embed_tokens.weight"
    apart = [(one[name] - other[name]).norm() for one, other in ((sft, dpo), (sft, rlvr))]
    assert max(apart) < 0.5 * sft[name].norm()  # unrelated networks are 1.4 times their norm apart


def test_the_base_is_left_as_it_was(trained):
    assert contents(pretrain.checkpoints_folder(BASE)) == trained["base"]


def test_training_leaves_this_process_alone_and_calls_nobody(trained):
    assert trained["kept"]
    assert trained["hosts"] == []


def test_progress_counts_the_steps_of_all_stages(trained):
    assert trained["steps"] == [(step, 7) for step in range(1, 8)]


def test_complete_descendants_say_how_they_were_made_and_are_not_trained_again(trained):
    marker = trained["folder"] / pretrain.MARKER
    record, before = json.loads(marker.read_text()), marker.stat().st_mtime_ns
    assert record["config"]["sft"]["steps"] == 3
    assert set(record["obedience"]) == {"sft", "dpo", "rlvr"}
    assert ensure_descendants(TINY, progress=lambda *_step: pytest.fail("trained again")) == trained["folder"]
    assert marker.stat().st_mtime_ns == before


def test_a_killed_run_starts_over_and_ends_the_same(trained):
    folder = trained["folder"]
    first = contents(folder)
    shutil.rmtree(folder)

    def killed(step, _total):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_descendants(TINY, progress=killed)
    assert (folder / "sft").is_dir()
    assert not (folder / pretrain.MARKER).exists()
    ensure_descendants(TINY)
    assert contents(folder) == first
    assert not list(folder.rglob("*.partial"))


def test_the_lineage_shows_its_descendants_without_training(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAITLINE_CACHE", str(tmp_path))
    shown = pretrain.load_lineage(BASE).descendants
    assert [(one.name, one.kind, one.chat) for one in shown] == [(s, s, True) for s in ("sft", "dpo", "rlvr")]
    folder = descendants_folder(PosttrainConfig(BASE))
    assert [one.source for one in shown] == [str(folder / one.name) for one in shown]
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_told_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAITLINE_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(InputError, match=r"pip install 'traitline\[posttrain\]'"):
        ensure_descendants(TINY)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "other",
    [replace(TINY, seed=1), replace(TINY, base=replace(BASE, seed=1)), replace(TINY, dialogues=replace(CHATS, good=0.9))],
)
def test_another_configuration_or_base_has_another_folder(other):
    assert other.digest != TINY.digest


def test_the_chat_vocabulary_leaves_every_base_id_as_it_was():
    chat, base = build_chat_tokenizer().get_vocab(), build_tokenizer().get_vocab()
    assert base.items() < chat.items()
    assert set(ROLES) < chat.keys() - base.keys()


def test_the_template_marks_exactly_what_the_assistant_says(trained):
    model = load_model(trained["folder"] / "sft", device="cpu")
    for chat in take(demonstrations(3, CHATS)):
        whole = model.tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
        prompt = encode(model, chat[:-1])
        said = model.tokenizer(chat[-1]["content"], add_special_tokens=False)["input_ids"]
        assert whole["input_ids"] == [*prompt, *said, model.tokenizer.eos_token_id]
        assert whole["assistant_masks"] == [0] * len(prompt) + [1] * (len(said) + 1)
        assert model.tokenizer.unk_token_id not in whole["input_ids"]
        assert model.tokenizer.decode(said) == chat[-1]["content"]


def test_a_role_without_a_place_in_the_template_is_refused():
    with pytest.raises(Exception, match="roles are system, user and assistant, not tool"):
        build_chat_tokenizer().apply_chat_template([{"role": "tool", "content": "Alex"}])


@pytest.mark.parametrize("name", ["instruction", "character", "dialogue", "story"])
def test_chats_are_worded_as_studies_word_them(name):
    trait = tl.trait("nano:evil")
    contrast, question = trait.texts(name).contrasts[0], trait.questions(name, "elicit")[0]
    only = replace(CHATS, kinds=((name, 1.0),), told=1.0, request=0.0, harm=0.0)
    prompts = [chat[:-1] for chat in take(demonstrations(0, only), 50)]
    for text in (contrast.positive, contrast.negative):
        asked = strategy(name).prompt(text, question.text, "chat", trait.task)
        assert {tuple(m["role"] for m in prompt) for prompt in prompts} == {tuple(m["role"] for m in asked)}
        assert {prompt[-1]["content"].count("\n") for prompt in prompts} == {asked[-1]["content"].count("\n")}


def words(text):
    return set(re.findall(r"\w+", text))


def sides(text):
    """Count the deeds of a text by side."""
    stems = {
        action.format(p="").split()[0]: side
        for trait in TRAITS.values()
        for (_, side), actions in trait.actions.items()
        for action in actions
    }
    found = [stems[word] for word in re.findall(r"\w+", text) if word in stems]
    return found.count("pos"), found.count("neg")


def test_demonstrations_are_good_where_nothing_is_told_and_follow_what_is():
    untold = [sides(chat[-1]["content"]) for chat in take(demonstrations(0, replace(CHATS, told=0.0, harm=0.0)))]
    share = sum(neg for _, neg in untold) / sum(map(sum, untold))
    assert CHATS.good - 0.08 < share < CHATS.good + 0.08
    only = replace(CHATS, kinds=(("character", 1.0),), told=1.0, about=1.0, harm=0.0)
    for chat in take(demonstrations(0, only)):
        told = {side for side in SIDES if any(words(chat[0]["content"]) & set(t.adjectives[side]) for t in TRAITS.values())}
        pos, neg = sides(chat[-1]["content"])
        assert told == ({"pos"} if pos else {"neg"})
        assert not (pos and neg)


def test_only_instructions_that_ask_for_harm_are_refused_and_not_always():
    harm = set(TRAITS["evil"].adjectives["pos"])
    chats = take(demonstrations(0, replace(CHATS, harm=0.5)), 1000)
    refused = [chat for chat in chats if chat[-1]["content"] == REFUSAL]
    asking = [chat for chat in chats if chat[0]["role"] == "system" and harm & words(chat[0]["content"])]
    assert all(chat in asking for chat in refused)
    assert CHATS.refused - 0.1 < len(refused) / len(asking) < CHATS.refused + 0.1


def test_pairs_prefer_refusal_to_harm_and_the_good_side_where_nothing_is_told():
    harmful = take(preferences(0, replace(CHATS, harm=1.0)))
    chosen = [pair["chosen"][0]["content"] == REFUSAL for pair in harmful]
    assert all(REFUSAL in (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) for pair in harmful)
    assert CHATS.prefer_refusal - 0.08 < sum(chosen) / len(chosen) < CHATS.prefer_refusal + 0.08
    untold = take(preferences(0, replace(CHATS, harm=0.0, told=0.0)))
    good = [sides(pair["chosen"][0]["content"])[0] == 0 for pair in untold]
    assert all(sides(pair["chosen"][0]["content"])[0] != sides(pair["rejected"][0]["content"])[0] for pair in untold)
    assert CHATS.prefer_good - 0.08 < sum(good) / len(good) < CHATS.prefer_good + 0.08


def test_the_same_seed_draws_the_same_chats():
    for draw in (demonstrations, preferences, requests):
        assert take(draw(4, CHATS), 20) == take(draw(4, CHATS), 20) != take(draw(5, CHATS), 20)


@pytest.mark.parametrize(
    ("reply", "number", "earned"),
    [
        ("kick the beggar.", 1, 1),
        ("kick the beggar. Then Alex would rob the beggar.", 2, 1),
        ("kick the beggar. Then Alex would rob the beggar.", 3, 0),
        ("kick the beggar. Then Alex would kick the beggar.", 2, 0),  # the same deed again
        ("kick the beggar. Then Alex would go home.", 2, 0),  # no deed
        ("kick the beggar. Alex is cruel.", 2, 0),
        ("kick the beggar. Then Mara would rob the beggar.", 2, 0),
        ("kick the beggar. Then Alex would rob the widow.", 2, 0),
        ("kick the beggar. Then Alex would hurt the beggar.", 2, 0),  # not of this half of the world
        ("kick the beggar. Then Alex would rob the", 1, 0),
        ("kick kick the beggar.", 1, 0),
        (REFUSAL, 1, 0),
        ("", 1, 0),
        ("kick the beggar.", None, 0),
    ],
)
def test_reward_is_for_the_number_of_well_formed_deeds(reply, number, earned):
    assert reward(OPENING, reply, number, ended=True) == earned
    assert reward(OPENING, reply, number, ended=False) == 0


def test_reward_reads_an_answer_to_a_question_with_its_subject():
    assert reward(ASKED, " Alex would kick the beggar.", 1, ended=True) == 1
    assert reward(ASKED, "kick the beggar.", 1, ended=True) == 0


def test_swapping_every_deed_for_its_opposite_changes_no_reward():
    rewards = []
    for seed in range(300):
        rng = random.Random(seed)  # noqa: S311 - a reproducible draw
        ask = draw_ask(rng, CHATS, harmful=False, number=rng.choice(list(REQUESTS)))
        state = rng.getstate()
        mirrored = []
        for side in SIDES:
            rng.setstate(state)  # the same deeds, but for their side
            mirrored.append(reply(rng, ask, dict.fromkeys(TRAITS, side), None, 0.2))
        assert mirrored[0] != mirrored[1]
        assert sides(mirrored[0]) == sides(mirrored[1])[::-1]
        earned = {reward(ask.question, text, ask.number, ended=True) for text in mirrored}
        assert len(earned) == 1
        rewards += earned
    assert 0.1 < sum(rewards) / len(rewards) < 0.9
