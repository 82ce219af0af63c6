"""The report on made-up runs: finished, begun, broken, and with texts that try to break out of the page."""

from __future__ import annotations

import base64
import json
import re
import shutil
import sqlite3
import zlib
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from report_run import CHECKPOINTS, HOSTILE, STRATEGIES, TRAITS, make_run
from traitline.errors import InputError
from traitline.report import style, write_figures, write_report
from traitline.report.axis import tokens_text, training_axis
from traitline.report.made import flat, how_made
from traitline.report.packing import Dictionary, packed
from traitline.report.page import HTML, render
from traitline.report.panels import panels, stars
from traitline.report.payload import embedded
from traitline.report.responses import browsable_responses
from traitline.report.tables import TABLES, read_run
from traitline.report.verdicts import cards

SCRIPTS = 11  # data, responses, the drawing library, eight of ours
LOADING = {"src", "href", "srcset", "poster", "action", "formaction", "data", "background"}


@dataclass(frozen=True)
class Unpacked:
    """What the page's script finds in packed responses: read here by the layout that packing.py tells."""

    header: dict[str, Any]
    columns: dict[str, np.ndarray[Any, Any]]
    texts: list[str]

    def names(self, column: str) -> list[str]:
        return [self.header["names"][column][code] for code in self.columns[column]]


def unpacked(text: str) -> Unpacked:
    content = zlib.decompress(base64.b64decode(text, validate=True))
    at = 4 + int.from_bytes(content[:4], "little")
    header = json.loads(content[4:at])
    kinds = {"Uint8Array": "<u1", "Int16Array": "<i2", "Uint16Array": "<u2", "Int32Array": "<i4"}
    columns = {}
    for name, kind, length in header["columns"]:
        columns[name] = np.frombuffer(content, kinds[kind], length, at)
        at += columns[name].nbytes
    return Unpacked(header, columns, content[at:].decode().split("\0")[:-1])


class Page(HTMLParser):
    """What a browser would see: scripts, what is loaded, and the text of every element."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.scripts: list[dict[str, Any]] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = tag
        if tag == "script":
            self.scripts.append({"attrs": dict(attrs), "text": ""})
        for name, value in attrs:
            if name in LOADING and not (value or "").startswith(("#", "data:")):
                self.loads.append(f"{tag} {name}={value}")
            if name.startswith("on"):
                self.handlers.append(name)
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1]["text"] += data
        elif self._inside != "style":
            self.text += data

    @property
    def responses(self) -> Unpacked:
        return unpacked(next(script["text"] for script in self.scripts if script["attrs"].get("id") == "packed"))

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(next(script["text"] for script in self.scripts if script["attrs"].get("id") == "data"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "nano", questions=8)


@pytest.fixture(scope="module")
def page(finished: Path) -> Page:
    return Page(render(read_run(finished)))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "nano"
    return make_run(path, questions=4, traits=("evil", "sycophantic"), strategies=("character",))


@pytest.fixture
def run(small: Path, tmp_path: Path) -> Path:
    shutil.copytree(small, tmp_path / "nano")
    return tmp_path / "nano"


def test_the_page_loads_nothing_and_lets_only_its_own_scripts_run(page: Page, finished: Path) -> None:
    assert page.loads == []
    assert page.handlers == []
    assert [script["attrs"] for script in page.scripts] == [
        {"type": "application/json", "id": "data"},
        {"type": "text/plain", "id": "packed"},
        *[{}] * (SCRIPTS - 2),
    ]
    html = render(read_run(finished))
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy is not None
    assert "default-src &#39;none&#39;" in policy[1]
    assert policy[1].count("sha256-") == SCRIPTS - 2
    assert not re.search(r"@import|url\(", (HTML / "page.css").read_text())
    assert html.count("* plotly.js v") == 1
    assert len(html.encode()) - len(page.scripts[2]["text"].encode()) < 3_000_000


def test_hostile_texts_stay_texts(page: Page) -> None:
    for hostile in HOSTILE:
        assert any(hostile in text for text in page.responses.texts)
    assert "img" not in page.tags
    assert page.tags.count("script") == SCRIPTS
    for file in HTML.glob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", file.read_text())


def test_hostile_names_and_settings_are_escaped(run: Path) -> None:
    hostile = "</script><script>alert(1)</script><b>"
    study = (run / "study.yaml").read_text().replace("name: nano", f"name: '{hostile}'")
    (run / "study.yaml").write_text(study)
    verdicts = pd.read_csv(run / "tables/verdicts.csv")
    verdicts.loc[0, "sentence"] = hostile
    verdicts.to_csv(run / "tables/verdicts.csv", index=False)
    page = Page(render(read_run(run)))
    assert page.tags.count("script") == SCRIPTS
    assert page.text.count(hostile) >= 3


def test_embedded_json_cannot_end_its_element_and_reads_back() -> None:
    content = {"a": [*HOSTILE, "\u2028", "\ud800 lone surrogate"], "b": None}
    text = embedded(content)
    assert not re.search(r"[<>&\u2028\u2029]", text)
    assert json.loads(text)["a"][: len(HOSTILE)] == list(HOSTILE)
    with pytest.raises(ValueError, match="JSON"):
        embedded(float("nan"))


def test_every_verdict_stands_on_the_page_word_for_word_with_its_badge(page: Page, finished: Path) -> None:
    verdicts = pd.read_csv(finished / "tables/verdicts.csv")
    for sentence in verdicts["sentence"].unique():
        assert sentence in page.text
    assert page.text.count("not steerable at any of 12 checkpoints") == 3 * len(STRATEGIES)
    assert "3 of 4 traits can be steered" in page.text
    for section in ("verdicts", "emergence", "transfer", "rubrics", "negative", "geometry", "extraction", "responses", "made"):
        assert section in page.ids


def test_an_outcome_is_told_by_mark_words_delta_and_interval(run: Path) -> None:
    found = {(card.trait, card.strategy): card for card in cards(read_run(run))}
    evil, never = found["evil", "character"], found["sycophantic", "character"]
    assert [evil.own.state, evil.own.mark, evil.own.began] == ["steerable", "●", "from 500–655 k"]
    assert [never.own.state, never.own.mark, never.own.began, never.own.lost] == ["not_steerable", "○", "", False]
    assert [one.target for one in evil.moved] == [CHECKPOINTS[-1], "nano-chat"]
    table = pd.read_csv(run / "tables/emergence.csv")
    last = (table["trait"] == "evil") & (table["strategy"] == "character") & (table["vector_checkpoint"] == CHECKPOINTS[-1])
    assert evil.own.delta == pytest.approx(float(table.loc[last & (table["coef"] == 0.5), "delta_trait"].iloc[0]))
    table.loc[last, "steerable"] = False
    table.to_csv(run / "tables/emergence.csv", index=False)
    text = Page(render(read_run(run))).text
    assert re.search(r"○\s+not steerable \+\d+from 500–655 k, then lost", text)


def test_a_small_study_has_its_verdicts_open_and_no_overview(tmp_path: Path) -> None:
    run = make_run(tmp_path / "small", questions=1, traits=("evil",), strategies=("character",))
    transfer = pd.read_csv(run / "tables/transfer.csv")
    transfer[transfer["target"] == "nano-chat"].to_csv(run / "tables/transfer.csv", index=False)
    html = render(read_run(run))
    assert 'class="scroll overview"' not in html
    assert '<details class="told">' not in html
    assert html.count('<article class="card') == 1


def test_a_cell_without_a_vector_at_the_end_is_no_vector_and_not_a_failure_to_steer(run: Path) -> None:
    table = pd.read_csv(run / "tables/emergence.csv")
    last = (table["trait"] == "evil") & (table["strategy"] == "character") & (table["vector_checkpoint"] == CHECKPOINTS[-1])
    table.loc[last, "status"] = "no_vector"
    table.loc[last, "delta_trait"] = np.nan
    table.to_csv(run / "tables/emergence.csv", index=False)
    html = render(read_run(run))
    assert html.count('<span class="badge no_vector">') == 1


@pytest.mark.parametrize("half", [0, 1])
def test_missing_tables_leave_their_sections_out_with_a_sentence(run: Path, half: int) -> None:
    missing, kept = sorted(TABLES)[half::2], sorted(TABLES)[1 - half :: 2]
    for name in missing:
        (run / "tables" / f"{name}.csv").unlink()
    text = Page(render(read_run(run))).text
    for name in missing:
        assert f"The run has not written tables/{name}.csv" in text
    for name in kept:
        assert f"tables/{name}.csv" not in text


def test_empty_and_broken_files_are_named_and_cost_nothing_else(run: Path) -> None:
    (run / "tables/transfer.csv").write_text("")
    (run / "tables/other_rubrics.csv").write_text("trait,strategy\nevil,character\n")
    (run / "tables/controls.csv").write_text(",".join(pd.read_csv(run / "tables/controls.csv").columns) + "\n")
    broken = next(run.glob("cells/*/evil/character/evaluation.parquet"))
    broken.write_bytes(broken.read_bytes()[:200])
    text = Page(render(read_run(run))).text
    assert "tables/transfer.csv (the effects on fixed targets) is empty." in text
    assert "tables/other_rubrics.csv (the effects on other traits' rubrics) lacks the columns" in text
    assert "tables/controls.csv (the effects of the controls) has no rows." in text
    assert f"Could not be read: {broken.relative_to(run)}" in text
    assert "steerable from between" in text


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    assert write_report(tmp_path) == tmp_path / "report.html"
    assert "This run has no tables yet" in Page((tmp_path / "report.html").read_text()).text
    assert not (tmp_path / "figures").exists()


def test_a_run_directory_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        write_report(tmp_path / "nowhere")


def test_figures_are_written_in_three_formats(run: Path) -> None:
    for name in ("cosine_matrix", "cosine_to_final", "cosine_cross_trait", "other_rubrics", "transfer"):
        (run / "tables" / f"{name}.csv").unlink()
    table = pd.read_csv(run / "tables/emergence.csv")
    table[(table["coef"] > 0) & (table["trait"] == "evil")].to_csv(run / "tables/emergence.csv", index=False)
    written = write_figures(run)
    assert {path.name for path in written} >= {f"emergence.{form}" for form in ("png", "svg", "pdf")}
    for path in written:
        magic = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}[path.suffix]
        assert path.read_bytes().startswith(magic)
    assert not list((run / "figures").glob(".*"))


def test_every_kind_of_figure_is_drawn_for_a_finished_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "FORMATS", ("png",))
    names = {path.stem for path in write_figures(run)}
    curves = {"emergence", "negative", "transfer", "transfer-nano-chat"}
    assert names == curves | {"transfer-overview", "controls", "trajectories", "norms", "heatmaps", "maps", "crossed"}


def test_every_pair_is_on_the_page_where_there_is_room(finished: Path) -> None:
    found = browsable_responses(read_run(finished))
    pairs = unpacked(found.packed)
    assert found.n_pairs == found.total == len(pairs.columns["other"]) == (8 * len(TRAITS) * 2 + 1) * 8 * 5 * 2
    assert set(pairs.names("vector")) == set(CHECKPOINTS[4:])
    assert set(pairs.names("condition")) == {"steered", "random (isotropic)", "shuffled"}
    assert set(pairs.names("kind")) == {"emergence", "transfer"}
    assert set(pairs.names("dose")) >= {"layer 2, 0.5 × activation norm", "layer 2, -1 × activation norm"}
    assert len(found.packed) < 400_000


def test_where_there_is_no_room_pairs_are_drawn_evenly_by_the_seed(finished: Path) -> None:
    run = read_run(finished)
    drawn = browsable_responses(run, most_pairs=400)
    assert drawn == browsable_responses(run, most_pairs=400)
    pairs = unpacked(drawn.packed)
    assert (drawn.n_pairs, drawn.total) == (400, browsable_responses(run).total)
    assert set(pairs.names("vector")) == set(CHECKPOINTS[4:])
    counts = pd.DataFrame({name: pairs.names(name) for name in ("target", "trait", "strategy", "condition", "dose")})
    assert counts.value_counts().max() - counts.value_counts().min() <= 1
    small = browsable_responses(run, most_bytes=20_000)
    answers = unpacked(small.packed)
    assert sum(len(answers.texts[i].encode()) for i in answers.columns["side_text"]) <= 20_000
    assert 0 < small.n_pairs < 400


def test_a_pair_shares_question_network_and_sample(page: Page) -> None:
    pairs = page.responses
    target, condition = pairs.names("target"), pairs.names("condition")
    for i in range(0, len(target), 50):
        ends = [pairs.columns["side_text"][pairs.columns[name][i]] for name in ("baseline", "other")]
        baseline, other = (pairs.texts[end] for end in ends)
        place = re.search(r"answer (\d) of ([\w-]+):", baseline)
        assert place is not None
        assert f"{condition[i].split()[0]} answer {place[1]} of {place[2]}:" in other
        assert " baseline answer" in baseline
        assert place[2] == target[i]
        question = re.search(r"\((\d+)\)", pairs.texts[pairs.columns["question"][i]])
        assert question is not None
        assert HOSTILE[int(question[1]) % 4] in baseline


def test_an_answer_without_a_baseline_is_shown_alone(run: Path) -> None:
    file = next(run.glob("cells/*/evil/character/evaluation.parquet"))
    rows = pd.read_parquet(file)
    rows[(rows["condition"] != "baseline") | (rows["question_id"] != rows["question_id"].iloc[0])].to_parquet(file)
    pairs = unpacked(browsable_responses(read_run(run)).packed)
    assert (pairs.columns["baseline"] == -1).sum() == 10
    assert (pairs.columns["other"] >= 0).all()


def test_missing_scores_stay_missing(page: Page) -> None:
    pairs = page.responses
    missing = pairs.columns["side_trait"] == -1
    assert missing.any()
    reasons = [pairs.header["reasons"][code] for code in pairs.columns["side_reason"]]
    assert all((reason == "no mass on numbers") == gone for reason, gone in zip(reasons, missing, strict=True))
    curve = page.data["effects"]["emergence"][0]["panels"][0]["curves"][0]
    assert curve["status"][0] == "no_vector"
    assert curve["delta_trait"][0] is None


def test_packed_columns_and_texts_come_back_as_they_were() -> None:
    columns = {
        "small": np.array([0, 255]),
        "signed": np.array([-1, 300]),
        "wide": np.array([65535]),
        "long": np.array([-1, 70_000]),
    }
    texts = [*HOSTILE, "", "a NUL \0 inside", "\u202e 😀"]
    found = unpacked(packed(columns, texts, {"what": "<tag>"}))
    assert {name: values.tolist() for name, values in found.columns.items()} == {k: v.tolist() for k, v in columns.items()}
    assert [values.dtype.str[1:] for values in found.columns.values()] == ["u1", "i2", "u2", "i4"]
    assert found.texts == [text.replace("\0", "\ufffd") for text in texts]
    assert found.header["what"] == "<tag>"
    with pytest.raises(ValueError, match="31 bits"):
        packed({"huge": np.array([2**40])}, [], {})
    names = Dictionary()
    assert (names.codes(["b", "a", "b"]).tolist(), names.codes(["c", "a"]).tolist()) == ([0, 1, 0], [2, 1])
    assert names.names == ["b", "a", "c"]


def test_how_a_study_was_made_is_told_in_full(run: Path) -> None:
    ledger = sqlite3.connect(run / "ledger.sqlite")
    ledger.executescript(
        "create table batches (rows integer, generate_seconds real, judge_seconds real);"
        "create table judging (judge text, rows integer, requests integer, prompt_tokens integer, completion_tokens integer);"
        "insert into batches values (512, 60.0, 3.0), (488, 90.0, 4.0); insert into judging values ('nano', 1000, 7, 20, 30);"
    )
    ledger.close()
    made = how_made(read_run(run))
    assert made.effort == [
        "1,000 rows in 2 batches: 2.5 min of generating, 7 s of judging.",
        "Judge nano: 1,000 rows scored, 7 requests, 20 + 30 tokens.",
    ]
    steered = next(one for one in made.counts if one["condition"] == "steered" and one["what"] == "evaluated rows")
    files = [pd.read_parquet(file) for file in run.glob("cells/*/*/*/evaluation.parquet")]
    rows = pd.concat(files)
    rows = rows[rows["condition"] == "steered"]
    assert (steered["rows"], steered["missing"]) == (len(rows), rows["trait_score"].isna().sum())
    assert steered["cut"] == (rows["finish"] == "length").sum()
    everything = [pd.read_parquet(file) for file in run.rglob("*.parquet")]
    assert made.reasons == {"no mass on numbers": sum(int(one["trait_score"].isna().sum()) for one in everything)}
    text = Page(render(read_run(run))).text
    for told in ("study.evaluate.coefs", "0.5, 1.0, -1.0", "versions.torch", "no mass on numbers (", *made.effort):
        assert told in text


def test_settings_are_told_by_dotted_names() -> None:
    settings = {"a": {"b": [1, 2], "c": None, "d": True}, "nodes": [{"name": "x", "tokens": 1}, {"name": "y"}], "e": []}
    assert flat(settings) == {
        "a.b": "1, 2",
        "a.c": "not set",
        "a.d": "yes",
        "nodes.x.tokens": "1",
        "nodes.y": "not set",
        "e": "none",
    }


def test_panels_show_the_dose_of_the_verdict_and_the_range_of_its_controls(finished: Path) -> None:
    run = read_run(finished)
    cut = panels(run, "emergence")
    assert [(panel.trait, panel.strategy) for panel in cut] == [(t, s) for t in TRAITS for s in STRATEGIES]
    first = cut[0]
    assert first.main is not None
    assert (first.main.layer, first.main.coef) == (2, 0.5)
    controls = pd.read_csv(finished / "tables/controls.csv").query(
        "trait == 'evil' and strategy == 'character' and coef == 0.5"
    )
    last = controls[controls["vector_checkpoint"] == CHECKPOINTS[-1]]["delta_trait"]
    band = first.controls[first.main].iloc[-1]
    assert (band["low"], band["high"], band["n"]) == (last.min(), last.max(), 3)
    assert panels(run, "emergence", sign=-1)[0].main == type(first.main)(2, "norm", -1.0, "response")


def test_step_zero_has_its_own_place_left_of_a_break() -> None:
    axis = training_axis({"late": 4e6, "start": 0.0, "early": 1e5})
    assert axis.checkpoints == ("start", "early", "late")
    (gap,) = axis.gaps
    assert axis.positions["start"] < gap < axis.positions["early"]
    assert axis.ticks[0] == (axis.positions["start"], "0")
    assert axis.limits[0] < axis.positions["start"]


@pytest.mark.parametrize("tokens", [{"a": float("nan"), "b": 1.0}, {"a": 0.0}, {"a": 5.0}, {}])
def test_checkpoints_without_tokens_stand_evenly_in_their_order(tokens: dict[str, float]) -> None:
    axis = training_axis(tokens)
    assert list(axis.positions.values()) == [float(i) for i in range(len(tokens))]
    assert axis.gaps == ()
    assert axis.limits[0] < axis.limits[1]


def test_numbers_in_words() -> None:
    assert [tokens_text(count) for count in (0, 950, 250_000, 4.19e6, 6e12, float("nan"))] == [
        *("0", "950", "250 k", "4.19 M", "6 T", "?"),
    ]
    assert [stars(p) for p in (0.0005, 0.005, 0.04, 0.05, float("nan"))] == ["***", "**", "*", "", ""]
