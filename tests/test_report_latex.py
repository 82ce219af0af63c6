"""LaTeX tables, read by a strict reader of our own: environments, columns, and every special character escaped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from report_run import make_run
from traitline.report.latex import Tabular, latex, write_latex
from traitline.report.tables import read_run

COMMANDS = {
    *("footnotesize", "setlength", "tabcolsep", "begin", "end", "caption", "label", "toprule", "midrule", "bottomrule"),
    *("endfirsthead", "endhead", "endlastfoot", "linewidth", "times", "rightarrow", "geq", "leq", "ldots"),
    *("textbackslash", "textasciitilde", "textasciicircum"),
}


def check(text: str) -> list[list[str]]:
    """Return the cells of the table; fail on what LaTeX would not compile."""
    body = re.sub(r"(?<!\\)%.*", "", text)
    assert body.isprintable() or set(body) - set("\n") == {c for c in body if c.isprintable()}
    assert all(ord(c) < 0x180 for c in body)
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        opened.append(name) if kind == "begin" else opened.remove(name)
    assert opened == []
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", body):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    assert set(re.findall(r"\\([a-zA-Z]+)", body)) <= COMMANDS
    plain = re.sub(r"\\[&%$#_{}\\]", "", body)
    assert not re.search(r"[#_^~]", re.sub(r"\\label\{[^}]*\}|~", "", plain))
    assert plain.count("$") % 2 == 0
    form = re.search(r"\\begin\{longtable\}\{((?:[lr]|p\{[0-9.]+\\linewidth\})+)\}", body)
    assert form is not None
    columns = len(re.findall(r"[lr]|p\{", re.sub(r"linewidth", "", form[1])))
    lines = [line for line in body.splitlines() if line.endswith(r"\\") and not line.startswith(r"\caption")]
    cells = [re.split(r"(?<!\\)&", line.removesuffix(r"\\")) for line in lines]
    assert {len(line) for line in cells} == {columns}
    return [[cell.strip() for cell in line] for line in cells]


def test_every_table_of_a_run_reads_back(tmp_path: Path) -> None:
    path = make_run(tmp_path / "nano", questions=1, traits=("evil",), strategies=("character",))
    written = write_latex(read_run(path))
    names = {file.stem for file in written}
    assert names == {"emergence", "transfer-step976", "transfer-nano-chat", "verdicts", "extraction", "cosine_to_final"}
    for file in written:
        assert file.parent == path / "latex"
        check(file.read_text(encoding="utf-8"))
    rows = check((path / "latex/emergence.tex").read_text(encoding="utf-8"))
    assert (
        rows[0]
        == rows[1]
        == ["trait", "checkpoint", "tokens", "pairs", "baseline", "steered", r"delta {[}95 \%{]}", "p", "coherence"]
    )
    assert len(rows) == 2 + 12
    assert rows[2][:6] == ["evil", "step0", "0", "0", "", ""]
    assert rows[2][6] == "no vector"
    assert re.fullmatch(r"(\+|\$-\$)[0-9.]+ \{\[\}(\+|\$-\$)[0-9.]+, (\+|\$-\$)[0-9.]+\{\]\}", rows[-1][6])


def test_hostile_texts_are_set_as_they_stand() -> None:
    nasty = r"a_b & 50 % of {x} \input{/etc/passwd} $1 #2 ~^ <b> [*] − × → ≥ … “é” 漢 🙂" + "\n\\end{longtable}"
    text = latex(Tabular("n_1", nasty, ["l", "r"], ["one", "two"], [[nasty, "1"], ["[x]", "*"]]))
    rows = check(text)
    assert rows[-1] == ["{[}x{]}", "{*}"]
    assert r"\textbackslash{}input\{/etc/passwd\}" in text
    assert "é" in text
    assert "漢" not in text


@pytest.mark.parametrize("strategies", [["s", "s"], ["s", "t"]])
def test_a_shared_strategy_moves_into_the_caption(strategies: list[str]) -> None:
    text = latex(Tabular("x", "Caption.", [*"ll"], ["trait", "strategy"], [["evil", name] for name in strategies]))
    assert ("Strategy: s." in text) == (len(set(strategies)) == 1)
    assert len(check(text)[0]) == len(set(strategies))


def test_a_run_without_tables_has_no_latex(tmp_path: Path) -> None:
    assert write_latex(read_run(tmp_path)) == []
    assert not (tmp_path / "latex").exists()
