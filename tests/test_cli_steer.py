"""The command `steer`: what it shows and tells, in a pipe and on a terminal, and how a conversation goes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from typer.testing import CliRunner

import traitline as tl
from conftest import tiny_network, tiny_tokenizer
from traitline.cli import app
from traitline.models import encode
from traitline.models.generate import Batch

ESCAPE = "\x1b]0;owned\x07"
ROLES = "{'system': 'w4', 'user': 'w5', 'assistant': 'w6'}"
TEMPLATE = f"{{% for m in messages %}}{{{{ {ROLES}[m['role']] }}}} {{{{ m['content'] }}}} {{% endfor %}}w6"
HEADER = re.compile(r"^\[(.*)\]$", re.MULTILINE)


def call(*args: object, **options: Any) -> Any:
    return CliRunner().invoke(app, ["steer", *(str(arg) for arg in args)], **options)


def asked(*args: object, **options: Any) -> dict[str, Any]:
    result = call(*args, "--json", **options)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def answers(stdout: str) -> list[dict[str, str]]:
    """Return the texts of a piped run by column, one mapping a turn."""
    parts = HEADER.split(stdout)
    turns: list[dict[str, str]] = []
    for label, rest in zip(parts[1::2], parts[2::2], strict=True):
        if label == "baseline":
            turns.append({})
        turns[-1][label] = rest.strip().split("\n")[0]
    return turns


def saved(folder: Path, *, template: str | None = None, **changes: Any) -> Path:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    tiny_network("llama", **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("chatty"), template=TEMPLATE, eos_token_id=None)


@pytest.fixture(scope="module")
def vector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    array = np.random.default_rng(0).standard_normal((4, 32))
    made = tl.PersonaVector.from_array(array, trait="even", n_pairs=3, n_questions=2)
    return made.save(tmp_path_factory.mktemp("vector") / "even.safetensors")


def test_json_tells_every_token_and_agrees_with_generate(base: Path, vector: Path) -> None:
    found = asked(base, vector, "w5 w6", "--coef", 2, "--coef", -2, "--max-new-tokens", 9, "--temperature", 0.8, "--seed", 3)
    assert (found["layer"], found["prompt"], found["seed"]) == (2, "w5 w6", 3)  # the middle of three
    model, direction = tl.load_model(base), tl.PersonaVector.load(vector)
    assert [row["condition"] for row in found["rows"]] == ["baseline", "steered", "steered"]
    for row, coef in zip(found["rows"], (None, 2.0, -2.0), strict=True):
        steer = None if coef is None else tl.steer(direction, 2, coef)
        expected = tl.generate(model, ["w5 w6"], steer=steer, max_new_tokens=9, temperature=0.8, seed=3)[0]
        assert (row["coef"], row["text"], row["finish"]) == (coef, expected.text, expected.finish)
        assert row["dose"] == (None if coef is None else "norm")
        assert "".join(token["text"] for token in row["tokens"]) == expected.text
        projections = [token["projection"] for token in row["tokens"]]
        assert row["mean_projection"] == pytest.approx(np.mean(projections))
        # over the response's tokens it is what `capture` reads, in the unit of the norm dose
        mean = tl.capture(model, ["w5 w6"], [expected.token_ids])[0, 2, 2]
        unit = direction.at(2) / np.linalg.norm(direction.at(2))
        assert row["mean_projection"] == pytest.approx(mean @ unit / found["activation_norm"], abs=1e-4)
    assert len({row["text"] for row in found["rows"]}) > 1


def test_colours_are_told_against_neutral_texts(base: Path, vector: Path) -> None:
    from traitline.models import calibrate
    from traitline.vectors.calibration import calibration_texts

    found = asked(base, vector, "w5", "--layer", 3, "--max-new-tokens", 1)
    model, direction = tl.load_model(base), tl.PersonaVector.load(vector).at(3)
    measured = calibrate(model, [encode(model, text) for text in calibration_texts()])
    shares = measured.sample[:, 3] @ (direction / np.linalg.norm(direction)) / measured.norms[3]
    assert found["neutral"]["median"] == pytest.approx(np.median(shares), abs=1e-5)
    assert [found["neutral"]["low"], found["neutral"]["high"]] == pytest.approx(np.percentile(shares, [2.5, 97.5]), abs=1e-5)


def test_a_pipe_gets_plain_texts_and_a_table(base: Path, vector: Path) -> None:
    args = (base, vector, "w5 w6", "--coef", 1.5, "--max-new-tokens", 8)
    result, found = call(*args), asked(*args)
    assert result.exit_code == 0
    (texts,) = answers(result.stdout)
    assert texts == {label: row["text"] for label, row in zip(("baseline", "+1.5"), found["rows"], strict=True)}
    assert "\x1b" not in result.output
    for row in found["rows"]:
        assert f"{row['mean_projection']:+.3f}" in result.stdout
    assert "layer 2 of 3 (the middle)" in result.stderr
    assert "fragile" in result.stderr


def test_the_default_doses_are_said(base: Path, vector: Path) -> None:
    result = call(base, vector, "w5", "--max-new-tokens", 2)
    assert list(answers(result.stdout)[0]) == ["baseline", "+0.3", "+0.6"]
    assert "+0.3, +0.6 (dose norm" in result.stderr


def test_a_raw_dose_and_positions_are_passed_on(base: Path, vector: Path) -> None:
    model, direction = tl.load_model(base), tl.PersonaVector.load(vector)
    for dose, positions in (("raw", "response"), ("norm", "prompt"), ("raw", "all")):
        found = asked(base, vector, "w5 w9 w7", "--coef", 3, "--dose", dose, "--positions", positions, "--temperature", 0)
        steer = tl.steer(direction, 2, 3.0, dose=dose, positions=positions)  # type: ignore[arg-type]
        assert found["rows"][1]["text"] == tl.generate(model, ["w5 w9 w7"], steer=steer, temperature=0)[0].text
    assert call(base, vector, "w5", "--positions", "everywhere").exit_code == 2


def test_a_piped_prompt_is_the_prompt(base: Path, vector: Path) -> None:
    assert asked(base, vector, input="w5 w6\n")["rows"] == asked(base, vector, "w5 w6")["rows"]
    for empty in ("", "\n"):
        result = call(base, vector, input=empty)
        assert result.exit_code == 2
        assert "no prompt" in result.stderr
    result = call(base, vector, input=b"w5 \xff\xfe")
    assert result.exit_code == 2
    assert "UTF-8" in result.stderr


def test_a_chat_model_is_asked_through_its_template(chatty: Path, vector: Path) -> None:
    model = tl.load_model(chatty)
    options: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0}
    cli = ("--max-new-tokens", 6, "--temperature", 0, "--coef", 1)
    messages = [{"role": "system", "content": "w9"}, {"role": "user", "content": "w7 w8"}]
    for args, prompt in ((("--system", "w9"), messages), ((), messages[1:]), (("--plain",), "w7 w8")):
        found = asked(chatty, vector, "w7 w8", *args, *cli)
        assert found["rows"][0]["text"] == tl.generate(model, [prompt], **options)[0].text


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("w5", "--layer", 9), "layers 1 to 3"),
        (("w5", "--coef", "nan"), "finite"),
        (("w5", "--chat"), "no chat template"),
        (("w5", "--system", "w6"), "no chat template"),
        (("w5", "--chat", "--json"), "--json"),
        (("w5", "--plain", "--chat"), "--plain"),
        (("w5 " * 128,), "window holds 128"),
    ],
)
def test_what_cannot_be_done_is_said(base: Path, vector: Path, args: tuple[object, ...], words: str) -> None:
    result = call(base, vector, *args)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_a_vector_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    other = tl.PersonaVector.from_array(np.ones((4, 16))).save(tmp_path / "other.safetensors")
    result = call(base, other, "w5")
    assert result.exit_code == 2
    assert "only models of its own depth and width" in result.stderr
    zero = np.ones((4, 32))
    zero[2] = 0
    result = call(base, tl.PersonaVector.from_array(zero).save(tmp_path / "zero.safetensors"), "w5")
    assert result.exit_code == 2
    assert "zero at" in result.stderr


def test_a_response_is_cut_where_the_window_ends(base: Path, vector: Path) -> None:
    found = call(base, vector, "w5 " * 120, "--temperature", 0)
    assert found.exit_code == 0
    assert "cut at 7 tokens" in found.stderr  # 120 words and <bos> of 128


def test_a_checkpoint_is_named_by_its_lineage(
    base: Path, vector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "line").mkdir()
    (tmp_path / "line" / "step7").symlink_to(base)
    monkeypatch.chdir(tmp_path)
    args = ("w5", "--max-new-tokens", 3)
    assert asked("line:step7", vector, *args)["rows"] == asked(base, vector, *args)["rows"]
    assert "step7" in call("line:step8", vector, *args).stderr
    assert "leave the revision" in call("line:step7", vector, *args, "--revision", "main").stderr
    monkeypatch.setenv("TRAITLINE_CACHE", str(tmp_path / "empty"))
    result = call("nano:step2000", vector, *args)
    assert result.exit_code == 2
    assert "traitline demo" in result.stderr


def test_each_column_of_a_chat_remembers_its_own_answers(chatty: Path, vector: Path) -> None:
    options: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0.9}
    cli = ("--chat", "--coef", 4, "--max-new-tokens", 6, "--temperature", 0.9, "--seed", 5)
    lines = ["w7 w8", "w9", "/reset", "w9", "/quit", "w10"]
    result = call(chatty, vector, "w11", *cli, input="\n".join(lines))
    assert result.exit_code == 0, result.output
    turns = answers(result.stdout)
    assert len(turns) == 4

    model, direction = tl.load_model(chatty), tl.PersonaVector.load(vector)
    for label, steer in (("baseline", None), ("+4", tl.steer(direction, 2, 4.0))):
        history: list[dict[str, str]] = []
        for turn, text in enumerate(["w11", "w7 w8", "w9"]):
            history.append({"role": "user", "content": text})
            said = tl.generate(model, [history], steer=steer, seed=5 + turn, **options)[0].text
            assert turns[turn][label] == said
            history.append({"role": "assistant", "content": said})
        alone = tl.generate(model, [[{"role": "user", "content": "w9"}]], steer=steer, seed=5, **options)[0].text
        assert turns[3][label] == alone != turns[2][label]
    assert turns[0]["baseline"] != turns[0]["+4"]


def test_commands_change_what_comes_next(chatty: Path, vector: Path) -> None:
    cli = ("--chat", "--coef", 4, "--max-new-tokens", 5, "--temperature", 0)
    lines = ["w7", "/coef -3, 4 5", "/layer 3", "/system w20 w21", "w8", "/layer nine", "/layer 9", "/coef x", "/coef", "/what"]
    result = call(chatty, vector, *cli, input="\n".join([*lines, "/help"]))
    assert result.exit_code == 0
    first, second = answers(result.stdout)
    assert list(second) == ["baseline", "-3", "+4", "+5"]
    model, direction = tl.load_model(chatty), tl.PersonaVector.load(vector)
    for coef, said in ((-3.0, first["baseline"]), (4.0, first["+4"])):  # a new one goes on from the baseline
        messages = [
            {"role": "system", "content": "w20 w21"},
            {"role": "user", "content": "w7"},
            {"role": "assistant", "content": said},
            {"role": "user", "content": "w8"},
        ]
        steer = tl.steer(direction, 3, coef)
        expected = tl.generate(model, [messages], steer=steer, max_new_tokens=5, temperature=0)[0].text
        assert second[f"{coef:+g}"] == expected
    for words in ("whole number", "layers 1 to 3", "'x' is not a number", "at least one", "'/what'"):
        assert words in result.stderr
    assert result.stderr.count("error: ") == 5
    assert "/reset" in result.stdout


def test_a_conversation_beyond_the_window_says_so_and_goes_on(chatty: Path, vector: Path) -> None:
    lines = ["w7", "w8 " * 125, "/reset", "w9"]
    result = call(chatty, vector, "--chat", "--coef", 1, "--max-new-tokens", 4, input="\n".join(lines))
    assert result.exit_code == 0
    assert "type /reset" in result.stderr
    assert len(answers(result.stdout)) == 2


def test_what_a_model_says_cannot_steer_the_terminal(vector: Path, tmp_path: Path) -> None:
    saved(tmp_path, eos_token_id=None)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    content["model"]["vocab"] = {f"[bold]{ESCAPE}{k}" if k[1:].isdigit() and k != "w3" else k: i for k, i in words.items()}
    path.write_text(json.dumps(content))
    piped = call(tmp_path, vector, "w3", "--coef", 1, "--max-new-tokens", 3)
    assert "[bold]\\x1b]0;owned\\x07" in piped.stdout
    assert "\x1b" not in piped.stdout
    shown = Terminal(tmp_path, vector, "w3", "--coef", "1", "--max-new-tokens", "3").finish()
    assert "owned" in shown
    assert "\x1b]" not in shown
    assert ESCAPE in asked(tmp_path, vector, "w3", "--coef", 1, "--max-new-tokens", 3)["rows"][0]["text"]


def _child(args: list[str], slow: float, environment: dict[str, str]) -> NoReturn:
    """Run the command in a process whose standard streams are a terminal; `slow` seconds pass with every token."""
    code: Any = 1
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        os.environ.pop(name, None)
    os.environ.update({"TERM": "xterm-256color", "COLORTERM": "truecolor", **environment})
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115 - until it exits
    forward = Batch._forward
    Batch._forward = lambda self, **how: (time.sleep(slow), forward(self, **how))[1]  # type: ignore[assignment,method-assign]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app(args)
    except SystemExit as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(int(code or 0))


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self, *args: object, columns: int = 120, slow: float = 0.0, **environment: str) -> None:
        self.pid, self.file = pty.fork()  # much quicker than a new process, which would have to load torch
        if not self.pid:
            _child(["steer", *(str(arg) for arg in args)], slow, environment)
        fcntl.ioctl(self.file, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.seen = ""

    def until(self, done: Callable[[str], bool], seconds: float = 60) -> str:
        """Read until what was seen satisfies `done`."""
        end = time.monotonic() + seconds
        while not done(self.seen):
            assert time.monotonic() < end, self.seen
            if select.select([self.file], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.file, 1 << 16).decode(errors="replace")
                except OSError:
                    assert done(self.seen), self.seen
        return self.seen

    def type(self, text: str) -> None:
        """Type what the user would."""
        self.seen = ""
        os.write(self.file, text.encode())

    def finish(self, code: int = 0) -> str:
        """Read to the end."""
        try:
            while chunk := os.read(self.file, 1 << 16):
                self.seen += chunk.decode(errors="replace")
        except OSError:  # how a terminal tells that the other side has gone
            pass
        assert os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]) == code, self.seen
        return self.seen

    def interrupt(self) -> None:
        """Press Ctrl-C, no sooner than a person could: one that comes just as `input` begins to wait is noticed a key later."""
        time.sleep(0.5)
        self.seen = ""
        os.kill(self.pid, signal.SIGINT)


def test_a_terminal_shows_tokens_as_they_come_in_colour(chatty: Path, vector: Path) -> None:
    args = (chatty, vector, "w7", "--coef", "3", "--max-new-tokens", "12", "--temperature", "0.9")
    found = asked(*args)["rows"][0]["text"].split()
    shown = Terminal(*args, slow=0.1).finish()
    frames = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", frame) for frame in re.split(r"\x1b\[1A\x1b\[2K(?!\r?\x1b\[1A)", shown)]
    words = [len(re.findall(r"\bw\d+", frame.split("dose ")[0])) for frame in frames if "baseline" in frame]
    assert len(words) > 4
    assert words == sorted(words)
    assert words[0] < words[-1] == 2 * len(found)
    colours = set(re.findall(r"\x1b\[(?:1;)?38;2;(\d+;\d+;\d+)m", shown))
    assert len(colours) > 8
    assert "■" in shown


def test_narrow_terminals_stack_and_wide_ones_do_not(chatty: Path, vector: Path) -> None:
    args = (chatty, vector, "w7", "--coef", "3", "--max-new-tokens", "4")
    assert "│" in Terminal(*args, columns=70).finish()
    stacked = Terminal(*args, columns=50).finish()
    assert "│" not in stacked
    assert "── +3 ──" in stacked


@pytest.mark.parametrize(("more", "environment"), [(("--no-color",), {}), ((), {"NO_COLOR": "1"})])
def test_without_colour_numbers_remain(chatty: Path, vector: Path, more: tuple[str, ...], environment: dict[str, str]) -> None:
    args = (chatty, vector, "w7", "--coef", "3", "--max-new-tokens", "4")
    shown = Terminal(*args, *more, **environment).finish()
    assert "38;2" not in shown
    assert "■" not in shown
    for row in asked(*args)["rows"]:
        assert f"{row['mean_projection']:+.3f}" in shown


def test_ctrl_c_stops_the_answer_and_twice_leaves(chatty: Path, vector: Path) -> None:
    args = (chatty, vector, "--chat", "--coef", "3", "--max-new-tokens", "90", "--temperature", "0.9")
    terminal = Terminal(*args, slow=0.15)
    terminal.until(lambda seen: seen.endswith("> "))
    terminal.type("w7\n")
    terminal.until(lambda seen: len(re.findall(r"38;2", seen)) > 8)
    terminal.interrupt()
    seen = terminal.until(lambda seen: seen.endswith("> "))
    assert "stopped" in seen
    terminal.type("/coef 2\n")  # what is typed in between takes the first Ctrl-C back
    terminal.until(lambda seen: seen.endswith("> "))
    terminal.interrupt()
    assert "again leaves" in terminal.until(lambda seen: seen.endswith("> "))
    terminal.interrupt()
    terminal.finish()


def test_ctrl_c_ends_a_single_answer_with_what_was_said(chatty: Path, vector: Path) -> None:
    terminal = Terminal(chatty, vector, "w7", "--coef", "3", "--max-new-tokens", "90", slow=0.15)
    terminal.until(lambda seen: len(re.findall(r"38;2", seen)) > 8)
    terminal.interrupt()
    seen = terminal.finish(130)
    assert seen.count("stopped") == 2
    assert "Traceback" not in seen


def test_without_a_prompt_a_terminal_asks_line_after_line(chatty: Path, vector: Path) -> None:
    terminal = Terminal(chatty, vector, "--coef", "3", "--max-new-tokens", "3", "--plain", "--temperature", "0")
    model = tl.load_model(chatty)
    for text in ("w7", "w8"):
        terminal.until(lambda seen: seen.endswith("> "))
        terminal.type(f"{text}\n")
        said = tl.generate(model, [text], max_new_tokens=3, temperature=0)[0].text  # the line before is not remembered
        assert said.strip() not in {"", text}
        terminal.until(lambda seen, said=said: said in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen))  # type: ignore[misc]
    terminal.until(lambda seen: seen.endswith("> "))
    os.write(terminal.file, b"\x04")
    terminal.finish()
