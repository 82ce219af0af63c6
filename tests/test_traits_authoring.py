"""Drafting a trait with a chat model: what becomes of good answers, bad ones, refusals, and of a server that dies."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from typer.testing import CliRunner

from author_server import Author, AuthorServer, Way, number_wanted, wanted
from conftest import tiny_network
from traitline.cli import app
from traitline.errors import InputError
from traitline.models.loading import Model, wrap
from traitline.traits import Trait, load_trait, packaged_traits
from traitline.traits.authoring import (
    Drafted,
    DraftError,
    LocalWriter,
    ServerWriter,
    draft,
    draft_path,
    make_writer,
    planned_requests,
    prompts,
    to_look_at,
)
from traitline.traits.authoring.pages import lines, page
from traitline.traits.check import check_trait
from traitline.traits.similarity import words

MEANING = "Expects the worst of everything."
ESCAPE = "\x1b]0;owned\x07"
KEY = "sk-0123456789-secret"


class Scripted:
    """A chat model in this process: gives good answers, or what `say` makes of them."""

    name, spent = "scripted", ""

    def __init__(self, say: Callable[[str, int, str], str] = lambda prompt, number, good: good, seed: int = 0) -> None:
        self.prompts: list[str] = []
        self._say, self._author = say, Author(seed)

    def write(self, prompt: str, seed: int) -> str:
        del seed
        self.prompts.append(prompt)
        return self._say(prompt, len(self.prompts) - 1, self._author.answer(prompt))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[AuthorServer]:
    with AuthorServer() as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield running


@pytest.fixture(scope="module")
def nearly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A draft of which the common questions and what comes after them are missing."""
    path = tmp_path_factory.mktemp("nearly") / "gloomy.yaml"
    with pytest.raises(DraftError):
        draft("gloomy", MEANING, Scripted(), path=path, max_requests=30)
    return draft_path(path)


def kept(nearly: Path) -> Any:
    return json.loads(nearly.read_text().partition("\n")[2])


def resumed(nearly: Path, folder: Path, *missing: str) -> Path:
    """Put a copy of the unfinished draft into a folder, less some parts, and return the trait file it would become."""
    content = kept(nearly)
    for part in missing:
        name, _, inner = part.partition(".")
        content[name] = {k: v for k, v in content[name].items() if k != inner} if inner else type(content[name])()
    (folder / nearly.name).write_text(json.dumps(content))
    return folder / "gloomy.yaml"


def call(*args: object) -> Any:
    return CliRunner().invoke(app, [str(one) for one in args])


def new(path: Path, *more: object) -> Any:
    args = ("--describe", MEANING, "--with", "openai:tiny", "--out", path, *more)
    return call("traits", "new", path.stem, *args)


# Good answers --------------------------------------------------------------------------------------------------------


def test_a_model_that_answers_well_writes_a_whole_trait_that_passes_the_check(server: AuthorServer, tmp_path: Path) -> None:
    path = tmp_path / "gloomy.yaml"
    planned = planned_requests("gloomy", MEANING, path)
    done = new(path, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["errors"], found["warnings"], found["findings"]) == (0, 0, [])
    assert found["requests"] == planned == len(server.prompts)
    assert f"{planned} requests" in done.stderr
    assert found["models"] == ["openai:tiny"]
    assert found["file"] == str(path)
    assert list(tmp_path.iterdir()) == [path]
    trait = load_trait(path)
    assert check_trait(trait) == []
    assert {name: len(texts.contrasts) for name, texts in trait.strategies.items()} == dict.fromkeys(trait.strategies, 5)
    text = path.read_text()
    assert re.search(r"^# Drafted by openai:tiny with version \d+ of traitline's prompts", text)
    assert KEY not in text + done.output
    assert server.keys == {KEY}
    # every pointer leads to the line it speaks of
    listed, questions = (
        text.splitlines(),
        {q.id: q.text for name in trait.strategies for q in trait.questions(name, "evaluate")},
    )
    pointed = [one for one in found["look_at"] if one["where"] in questions and "\n" not in questions[one["where"]]]
    assert pointed
    assert all(questions[one["where"]] in listed[one["line"] - 1] for one in pointed)
    (rubric,) = (one for one in found["look_at"] if one["where"] == "rubrics.chat")
    assert listed[rubric["line"] - 1].startswith("  chat:")
    assert "'gloom'" in rubric["message"]


def test_questions_are_dealt_so_that_no_split_has_a_models_first_or_last_ideas_alone(nearly: Path, tmp_path: Path) -> None:
    writer = Scripted(lambda prompt, number, good: good.replace("What about", f"What about batch{number}"), seed=7)
    path = resumed(nearly, tmp_path, "questions.instruction")
    trait = draft("gloomy", MEANING, writer, path=path, review=False).trait
    spread = {
        split: {words(one.text)[2] for one in trait.questions("instruction", split)} for split in ("elicit", "tune", "evaluate")
    }
    assert spread["elicit"] == spread["tune"] == spread["evaluate"]
    assert len(spread["tune"]) == 5


def wrapped(prompt: str, number: int, good: str) -> str:
    return (
        f"Sure! Here is what you asked for [as JSON]:\n```json\n{good}\n```\nLet me know.",
        f"<think>Maybe {{'questions': 1}} or [1, 2]?</think>\n{good}",
        re.sub(r"([\]}])\s*\}$", r"\1,}", good),
        json.dumps(next(iter(json.loads(good).values()))) if "questions" in good or '"positive"' in good else good,
        good.replace("\\n", "\n"),
    )[number % 5]


def cut(prompt: str, number: int, good: str) -> str:
    """Break off in the middle of a list, now and then."""
    return good[: len(good) * 2 // 3] if number % 3 == 0 and ("questions" in wanted(prompt)) else good


def too_many_or_few(prompt: str, number: int, good: str) -> str:
    found = json.loads(good)
    for key in {"questions", "contrasts"} & found.keys():
        extra = Author(1000 + number)
        make = extra.question if key == "questions" else extra.contrast
        found[key] = found[key][: len(found[key]) // 2] if number % 2 else [*found[key], *(make(prompt) for _ in range(4))]
    return json.dumps(found)


@pytest.mark.parametrize("say", [wrapped, cut, too_many_or_few])
def test_wrapped_cut_short_and_long_answers_are_read_all_the_same(
    say: Callable[..., str], nearly: Path, tmp_path: Path
) -> None:
    path = resumed(nearly, tmp_path, "description", "facets", "rubrics", "contrasts.dialogue", "contrasts.character")
    done = draft("gloomy", MEANING, Scripted(say, seed=7), path=path, review=False)
    assert done.findings == ()
    assert load_trait(done.path) == done.trait


def test_no_prompt_repeats_a_packaged_sentence() -> None:
    def runs(text: str) -> set[str]:
        listed = words(text)
        return {" ".join(listed[i : i + 7]) for i in range(len(listed) - 6)}

    worded = [
        prompts.description_prompt("gloomy", "-"),
        prompts.facets_prompt("gloomy", "-"),
        *(prompts.rubric_prompt("gloomy", "-", style) for style in ("continuation", "chat")),
        *(prompts.rubric("gloomy", style, "-", "-", {"0": "-"}) for style in ("continuation", "chat")),
        *(prompts.contrasts_prompt("gloomy", "-", name, 3, []) for name in ("instruction", "character", "dialogue", "story")),
        *(
            prompts.questions_prompt("gloomy", "-", name, 3, [], 0)
            for name in ("instruction", "character", "dialogue", "story")
        ),
        prompts.review_prompt("gloomy", "-", ["-"]),
    ]
    packaged = {run for name in packaged_traits() for run in runs(load_trait(name).model_dump_json())}
    assert not {run for prompt in worded for run in runs(prompt)} & packaged


# Bad answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("gloom gloom gloom", "the model's answer is no JSON after 3 tries"),
        ("{'description': gloom", "the model's answer is no JSON after 3 tries"),
        ("[" * 5000, "the model's answer is no JSON after 3 tries"),
        ("", "the model's answer is no JSON after 3 tries"),
        (f"I'm sorry, but {ESCAPE} I can't help with that. {KEY}", "refuses (3 tries)"),
        ('{"description": ""}', "missing or no text"),
        ('{"description": {"deep": ["x"]}}', "missing or no text"),
        (f'{{"description": "Whoever is [insert name] {ESCAPE}"}}', "a placeholder in it"),
    ],
)
def test_answers_without_use_end_after_some_tries_in_the_models_own_words(
    server: AuthorServer, tmp_path: Path, said: str, told: str
) -> None:
    server.say = lambda prompt, number, good: said
    path = tmp_path / "gloomy.yaml"
    done = new(path)
    assert done.exit_code == 1
    assert told in done.stderr
    assert "nothing was drafted yet" in done.stderr
    assert "\x1b" not in done.output
    assert KEY not in done.output
    assert len(server.prompts) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_in_the_middle_keeps_the_draft_and_another_model_goes_on(nearly: Path, tmp_path: Path) -> None:
    path, before = resumed(nearly, tmp_path, "facets", "contrasts.dialogue"), kept(nearly)["requests"]
    shy = Scripted(lambda prompt, number, good: "I cannot write that." if "two short scenes" in prompt else good, seed=7)
    with pytest.raises(
        DraftError, match=r"dialogue contrasts: scripted refuses .*'I cannot write that\.'.*gloomy\.draft\.yaml"
    ):
        draft("gloomy", MEANING, shy, path=path)
    bold = Scripted(seed=8)
    bold.name = "bold"
    done = draft("gloomy", MEANING, bold, path=path)
    assert done.models == ("scripted", "bold")
    assert "two short scenes" in bold.prompts[0]
    assert done.requests == before + len(shy.prompts) + len(bold.prompts)
    assert done.findings == ()
    assert "# Drafted by scripted and bold" in path.read_text()
    assert not draft_path(path).exists()


def test_near_copies_are_asked_for_again_with_the_reason(nearly: Path, tmp_path: Path) -> None:
    path = resumed(nearly, tmp_path)
    there = kept(nearly)["questions"]["character"][0]

    def repeat(prompt: str, number: int, good: str) -> str:
        found = json.loads(good)
        if number == 0:
            found["questions"][3] = there.replace("Alex", "Alex then")
            found["questions"][4] = found["questions"][2] + " Now"
        return json.dumps(found)

    writer = Scripted(repeat, seed=7)
    done = draft("gloomy", MEANING, writer, path=path, review=False)
    assert writer.prompts[1].count("nearly the same as") == 2
    assert "8 of the 10 that were asked for could be used; 2 are missing" in writer.prompts[1]
    assert number_wanted(writer.prompts[-1]) == 2
    assert done.findings == ()


def test_lopsided_contrasts_are_asked_for_again_and_used_only_if_nothing_better_comes(nearly: Path, tmp_path: Path) -> None:
    def lopsided(prompt: str, number: int, good: str) -> str:
        if "describes a person called Alex" not in prompt:
            return good
        found = json.loads(good)
        for one in found["contrasts"]:
            one["negative"] += " Alex owns 3 boats in Lisbon and, like Oslo, is glad of it."
        return json.dumps(found)

    writer = Scripted(lopsided, seed=7)
    path = resumed(nearly, tmp_path, "contrasts.character")
    done = draft("gloomy", MEANING, writer, path=path, review=False)
    asked = [prompt for prompt in writer.prompts if "describes a person called Alex" in prompt]
    assert len(asked) == 3
    assert "make them about equally long" in asked[1]
    assert {one.where for one in done.findings} == {f"character-contrast-{i:02d}" for i in range(5)}
    assert {one.level for one in done.findings} == {"warning"}
    found = [one.message for one in done.look if one.kind == "lopsided contrast"]
    assert len(found) == 5
    assert "2.44 times as long" in found[0]
    assert "only the negative side has 3, Lisbon, Oslo" in found[0]


def test_a_part_that_stays_short_but_is_mostly_there_is_left_to_the_check(nearly: Path, tmp_path: Path) -> None:
    path = resumed(nearly, tmp_path)
    writer = Scripted(lambda prompt, number, good: good if number < 2 else json.dumps({"questions": []}), seed=7)
    done = draft("gloomy", MEANING, writer, path=path, review=False)
    assert {one.where for one in done.findings} == {"common-tune", "common-evaluate"}
    assert len(writer.prompts) == 2 + 3


def test_a_part_of_which_next_to_nothing_comes_ends_the_draft(nearly: Path, tmp_path: Path) -> None:
    writer = Scripted(lambda prompt, number, good: json.dumps({"questions": ["{", "What about milk today?"]}), seed=7)
    with pytest.raises(DraftError, match="common questions: nothing in 3 answers"):
        draft("gloomy", MEANING, writer, path=resumed(nearly, tmp_path))


def test_a_model_that_cannot_look_its_draft_over_costs_only_that(nearly: Path, tmp_path: Path) -> None:
    writer = Scripted(lambda prompt, number, good: good if "questions" in wanted(prompt) else "no", seed=7)
    done = draft("gloomy", MEANING, writer, path=resumed(nearly, tmp_path))
    assert len(done.skipped) == 7
    assert done.findings == ()


# Servers, budgets, interruptions -------------------------------------------------------------------------------------


def test_a_server_that_drops_and_throttles_is_asked_again_and_one_that_dies_leaves_a_draft(
    server: AuthorServer, nearly: Path, tmp_path: Path
) -> None:
    path = resumed(nearly, tmp_path)
    before = kept(nearly)
    ways = ["dropped", "500", "429, in seconds", "", "", "half a body", "HTML", "503"]
    server.say = lambda prompt, number, good: Way(ways[number]) if number < len(ways) and ways[number] else good
    server.author = Author(7)
    with ServerWriter("tiny", base_url=server.url) as writer:
        server.say, alive = (lambda prompt, number, good: Way("500")), server.say
        with pytest.raises(DraftError, match=r"HTTP 500.*asked 5 times.*gloomy\.draft\.yaml"):
            draft("gloomy", MEANING, writer, path=path, backoff_seconds=0.001)
        server.prompts.clear()
        server.say = alive
        done = draft("gloomy", MEANING, writer, path=path, backoff_seconds=0.001)
    assert done.findings == ()
    assert [one.text for one in done.trait.questions("story", "elicit")] == [
        text for i, text in enumerate(before["questions"]["story"]) if i % 5 in (0, 4)
    ]
    assert done.models == ("scripted", "openai:tiny")


@pytest.mark.parametrize(("way", "told"), [("401", "OPENAI_API_KEY"), ("404", "check the model's name")])
def test_a_server_that_refuses_everything_is_asked_once(server: AuthorServer, tmp_path: Path, way: str, told: str) -> None:
    server.say = lambda prompt, number, good: Way(way)
    done = new(tmp_path / "gloomy.yaml")
    assert done.exit_code == 1
    assert told in done.stderr
    assert "judge" not in done.stderr
    assert KEY not in done.output
    assert len(server.prompts) == 1


def test_the_budget_of_requests_is_kept_and_the_next_call_goes_on(server: AuthorServer, nearly: Path, tmp_path: Path) -> None:
    path = resumed(nearly, tmp_path)
    server.author = Author(7)
    first = new(path, "--max-requests", 2, "--no-review")
    assert first.exit_code == 1
    assert "2 requests of --max-requests are spent, and at least 1 more are needed" in first.stderr
    assert len(server.prompts) == 2
    assert not path.exists()
    assert new(path, "--max-requests", 2, "--no-review").exit_code == 0
    assert len(server.prompts) == 3
    assert path.exists()


def test_ctrl_c_keeps_what_was_drafted(tmp_path: Path) -> None:
    def stop(prompt: str, number: int, good: str) -> str:
        if number == 7:
            raise KeyboardInterrupt
        return good

    path = tmp_path / "gloomy.yaml"
    needed = planned_requests("gloomy", MEANING, path)
    with pytest.raises(KeyboardInterrupt):
        draft("gloomy", MEANING, Scripted(stop), path=path)
    assert planned_requests("gloomy", MEANING, path) == needed - 7
    again = yaml.safe_load(draft_path(path).read_text())
    assert again["models"] == ["scripted"]
    assert len(again["questions"]["instruction"]) == 20


# Files and names -----------------------------------------------------------------------------------------------------


def test_no_file_is_overwritten_and_no_other_draft_gone_on_with(tmp_path: Path, nearly: Path) -> None:
    path = tmp_path / "gloomy.yaml"
    path.write_text("mine")
    writer = Scripted()
    with pytest.raises(InputError, match="never overwritten"):
        draft("gloomy", MEANING, writer, path=path)
    path.unlink()
    there = draft_path(path)
    for content, told in (
        ("mine", "is no draft"),
        ("- [", "cannot be read"),
        (nearly.read_text().replace('"draft": 1', '"draft": 2'), "is no draft"),
        (nearly.read_text().replace('"gloomy"', '"glum"'), "is the draft of 'glum'"),
        (nearly.read_text().replace(MEANING, "Hopes."), "another description, 'Hopes.'"),
        (nearly.read_text().replace('"prompts": 1', '"prompts": 99'), "prompts of version 99"),
    ):
        there.write_text(content)
        with pytest.raises(InputError, match=told):
            draft("gloomy", MEANING, writer, path=path)
        assert there.read_text() == content
    assert writer.prompts == []


def test_names_and_descriptions_are_looked_at_before_anything_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("../vain", "Vain", "", "a" * 65, "vain\n", "con/x"):
        assert call("traits", "new", name, "--describe", "x", "--with", "openai:tiny").exit_code == 2
    assert "--describe" in call("traits", "new", "vain", "--with", "openai:tiny").stderr
    assert "0 characters" in call("traits", "new", "vain", "--describe", " ", "--with", "openai:tiny").stderr
    for model in ("tiny", "openai:", "hal:9000"):
        result = call("traits", "new", "vain", "--describe", "x", "--with", model)
        assert result.exit_code == 2
        assert "openai:<model> or local:" in result.stderr
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    result = call("traits", "new", "vain", "--describe", "x", "--with", "openai:tiny")
    assert result.exit_code == 1
    assert "needs a key" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_a_model_there_is_a_skeleton_with_the_description_in_it(tmp_path: Path) -> None:
    path = tmp_path / "vain.yaml"
    assert call("traits", "new", "vain", "--describe", 'Admires "itself": always.', "--out", path).exit_code == 0
    assert load_trait(path).description == 'Admires "itself": always.'


# A person's look -----------------------------------------------------------------------------------------------------


def looked(change: Callable[[dict[str, Any]], None], done: Drafted) -> dict[str, list[str]]:
    """Return what a person is shown of a trait that was changed: places by kind."""
    content = done.trait.model_dump(mode="json")
    change(content)
    found: dict[str, list[str]] = {}
    for one in to_look_at(Trait.model_validate(content)):
        found.setdefault(one.kind, []).append(one.where)
    return found


@pytest.fixture(scope="module")
def done(nearly: Path, tmp_path_factory: pytest.TempPathFactory) -> Drafted:
    path = resumed(nearly, tmp_path_factory.mktemp("done"))
    return draft("gloomy", MEANING, Scripted(seed=7), path=path, review=False)


def test_what_a_person_should_look_at_is_found_and_a_clean_trait_shows_its_rubrics_alone(done: Drafted) -> None:
    assert looked(lambda content: None, done) == {"rubric": ["rubrics.continuation", "rubrics.chat"]}

    def spoil(content: dict[str, Any]) -> None:
        story = content["strategies"]["story"]
        story["questions"]["evaluate"][1] = "The gloomiest of days began, and Alex"
        story["questions"]["tune"][2] = "Somebody had built a bomb, and Alex"
        story["questions"]["elicit"][3] = "The ferry was late that day when the old fisherman waved, and Alex"
        story["questions"]["evaluate"][4] = "The ferry was late that week when a young woman waved, and Alex"
        story["contrasts"][1]["positive"] += " Then Alex met Mr Lindqvist, and paid 40 crowns to a man from Malta."

    found = looked(spoil, done)
    assert found["names the trait"] == ["gloomy-story-evaluate-01"]
    assert found["harmful"] == ["gloomy-story-tune-02"]
    assert found["splits alike"] == ["gloomy-story-elicit-03"]
    assert found["lopsided contrast"] == ["story-contrast-01"]


def test_lines_are_told_for_every_text_of_a_packaged_trait() -> None:
    trait = load_trait("evil")
    text = page(trait, [])
    assert Trait.model_validate(yaml.safe_load(text)) == trait
    listed, where = text.splitlines(), lines(text)
    for name in ("instruction", "character", "story", "common"):
        for question in trait.questions(name, "evaluate"):
            assert (
                words(question.text)[:3]
                == words(listed[where[question.id] - 1].replace(">-", "") + listed[where[question.id]])[:3]
            )
    assert listed[where["dialogue-contrast-02 negative"] - 1].strip() == "negative: |-"


# A model on this machine ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local() -> Model:
    """A tiny random chat model of characters."""
    letters = [chr(i) for i in range(32, 127)] + ["\n"]
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(["<pad>", "<bos>", "<eos>", *letters])}, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    fast.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    network = tiny_network("llama", vocab_size=len(letters) + 3, max_position_embeddings=4096)
    return wrap(network, fast, source="tiny/random-chat")


def test_a_tiny_random_local_model_fails_politely(local: Model, tmp_path: Path) -> None:
    writer = LocalWriter(local, answer_tokens=24)
    with pytest.raises(DraftError, match=r"no JSON after 2 tries; local:tiny/random-chat says .*nothing was drafted yet"):
        draft("gloomy", MEANING, writer, path=tmp_path / "gloomy.yaml", tries=2)
    assert list(tmp_path.iterdir()) == []


def test_a_local_model_without_a_template_or_with_a_short_context_says_so(
    local: Model, llama: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="no chat template"):
        LocalWriter(llama)
    monkeypatch.setattr(local.network.config, "max_position_embeddings", 300)
    with pytest.raises(DraftError, match="reads 300 tokens and a request has"):
        draft("gloomy", MEANING, LocalWriter(local), path=tmp_path / "gloomy.yaml")


def test_a_local_model_is_loaded_by_its_directory(local: Model, tmp_path: Path) -> None:
    local.network.save_pretrained(tmp_path / "model")
    local.tokenizer.save_pretrained(tmp_path / "model")
    assert make_writer(f"local:{tmp_path / 'model'}").name == "local:model"
