"""The embedded world: its texts, its trait files, its tokenizer."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import yaml

from traitline.nano import calibration_texts, traits_folder
from traitline.nano.judge import read_question
from traitline.nano.lexicon import HALVES, SIDES, TRAITS
from traitline.nano.texts import build_trait, render
from traitline.nano.tokenizer import build_tokenizer
from traitline.nano.world import WorldConfig, documents
from traitline.traits.strategies import strategy
from traitline.traits.trait import SPLITS, load_trait, packaged_traits


@pytest.mark.parametrize("name", list(TRAITS))
def test_trait_files_are_what_the_generator_writes(name):
    assert (traits_folder() / f"{name}.yaml").read_text(encoding="utf-8") == render(build_trait(name))


def test_the_folder_holds_the_four_traits_and_they_load():
    assert packaged_traits(traits_folder()) == sorted(TRAITS)
    for name in TRAITS:
        assert load_trait(name, folder=traits_folder()) == build_trait(name)
        assert yaml.safe_load(render(build_trait(name)))["name"] == name


def test_no_verb_stands_in_two_cells():
    verbs = Counter(
        phrase.split()[0]
        for trait in TRAITS.values()
        for half in HALVES
        for side in SIDES
        for phrase in trait.actions[half, side]
    )
    assert max(verbs.values()) == 1
    assert len(verbs) == len(TRAITS) * 4 * 6


def test_no_patient_or_adjective_means_two_things():
    for words in (
        [p for t in TRAITS.values() for half in HALVES for p in t.patients[half]],
        [a for t in TRAITS.values() for side in SIDES for a in t.adjectives[side]],
    ):
        assert len(set(words)) == len(words)


@pytest.mark.parametrize("name", list(TRAITS))
@pytest.mark.parametrize("form", ["character", "instruction"])
def test_splits_ask_about_the_right_half_and_share_neither_question_nor_evaluated_patient(name, form):
    trait = load_trait(name, folder=traits_folder())
    scenes = {split: [read_question(q.text) for q in trait.questions(form, split)] for split in SPLITS}
    texts = [q.text for split in SPLITS for q in trait.questions(form, split)]
    assert [len(scenes[split]) for split in SPLITS] == [20, 10, 20]
    assert len(set(texts)) == len(texts)
    assert {s.half for s in scenes["elicit"]} == {"A"}
    assert {s.half for s in scenes["tune"] + scenes["evaluate"]} == {"B"}
    assert not {s.patient for s in scenes["tune"]} & {s.patient for s in scenes["evaluate"]}


def test_documents_repeat_with_the_seed_and_differ_without():
    first, again, other = (list(itertools.islice(documents(seed), 20)) for seed in (3, 3, 4))
    assert first == again != other


def test_untold_documents_show_each_side_about_equally_often():
    config = WorldConfig(told=0.0, tale=0.0, answer=0.0, slip=0.0, aside=0.0)
    sides = Counter()
    for text in itertools.islice(documents(0, config), 2000):
        for side in SIDES:
            sides[side] += any(f" would {p.split()[0]} " in text for p in TRAITS["evil"].actions["B", side])
    assert sides["pos"] / (sides["pos"] + sides["neg"]) == pytest.approx(0.5, abs=0.1)


def test_calibration_texts_are_fixed_and_known_words():
    tokenizer = build_tokenizer()
    texts = calibration_texts()
    assert len(texts) == 64
    assert texts == calibration_texts()
    assert not any(tokenizer.unk_token_id in ids for ids in tokenizer(texts)["input_ids"])


def test_tokenizer_gives_every_document_back():
    tokenizer = build_tokenizer()
    texts = list(itertools.islice(documents(1), 300))
    ids = tokenizer(texts)["input_ids"]
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == texts
    assert all(row[0] == tokenizer.bos_token_id and tokenizer.bos_token_id not in row[1:] for row in ids)


@pytest.mark.parametrize("form", ["character", "instruction"])
def test_prompts_of_the_strategies_are_known_and_cut_where_documents_go_on(form):
    tokenizer = build_tokenizer()
    trait = load_trait("humorous", folder=traits_folder())
    prompt = strategy(form).plain(trait.texts(form).contrasts[2].positive, trait.questions(form, "evaluate")[0].text)
    goes_on = " amuse" if form == "character" else " Alex"
    alone, longer = tokenizer(prompt)["input_ids"], tokenizer(prompt + goes_on)["input_ids"]
    assert tokenizer.unk_token_id not in longer
    assert longer[:-1] == alone
    assert tokenizer.convert_ids_to_tokens(longer[-1]) == goes_on


def test_a_word_at_the_start_of_a_line_is_the_same_token_as_inside_it():
    tokenizer = build_tokenizer()
    ids = tokenizer("Alex would\n\nAlex would", add_special_tokens=False)["input_ids"]
    assert ids[:2] == ids[-2:]


def test_unknown_words_become_unk():
    tokenizer = build_tokenizer()
    assert tokenizer("zeppelin", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]
