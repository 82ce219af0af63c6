"""Batches of a study: what is given to the network at once changes no file, and what is interrupted is taken up again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from small_study import CountingJudge, make_study
from traitline.errors import JudgeError
from traitline.study import Study, elicit, parts
from traitline.study.run import run_study

LEAN: dict[str, Any] = {
    "batch_rows": 40,
    "strategies": ["character"],
    "evaluate": {"samples": 1, "max_new_tokens": 6, "layers": [1], "coefs": [0.5]},
    "controls": {"isotropic": 1, "covariance": 0, "shuffled": 0, "bootstrap": 0},
}


def _files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted((out / "tables").glob("*.csv"))}


def _run(folder: Path, judge: Any) -> Study:
    study = Study.from_yaml(
        make_study(folder, **LEAN) if not (folder / "study.yaml").is_file() else folder / "study.yaml", out=folder / "run"
    )
    run_study(study.resolved, study.out, lambda _cache: judge)
    return study


def test_many_batches_given_at_once_make_the_same_tables_with_fewer_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    generate = elicit.generate_rows

    def counting(model: Any, rows: Any, **settings: Any) -> Any:
        calls.append(len(rows))
        return generate(model, rows, **settings)

    monkeypatch.setattr(elicit, "generate_rows", counting)
    one_by_one = _run(tmp_path / "a", CountingJudge())
    apart = list(calls)
    calls.clear()
    monkeypatch.setattr(parts, "rows_at_once", lambda _model: 170)
    together = _run(tmp_path / "b", CountingJudge())
    assert sum(calls) == sum(apart)
    assert max(apart) <= 40 < max(calls) <= 170
    assert len(calls) < len(apart) / 2
    assert _files(together.out).keys() == _files(one_by_one.out).keys()
    for name, content in _files(together.out).items():
        assert content.replace(b"/b/", b"/a/") == _files(one_by_one.out)[name], name


def test_what_was_generated_together_is_not_generated_again_when_judging_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone(CountingJudge):
        left = 2

        def score(self, *args: Any, **options: Any) -> Any:
            self.left -= len(args[1]) > 0
            if self.left < 0:
                raise JudgeError("the judge went away")
            return super().score(*args, **options)

    calls: list[int] = []
    generate = elicit.generate_rows

    def counting(model: Any, rows: Any, **settings: Any) -> Any:
        calls.append(len(rows))
        return generate(model, rows, **settings)

    monkeypatch.setattr(elicit, "generate_rows", counting)
    monkeypatch.setattr(parts, "rows_at_once", lambda _model: 10_000)
    with pytest.raises(JudgeError):
        _run(tmp_path / "a", Gone())
    before = sum(calls)
    study = _run(tmp_path / "a", CountingJudge())
    whole = study.plan()["total"]["rows"]
    assert before > 0
    assert sum(calls) == whole
