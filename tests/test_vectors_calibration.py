"""The calibration texts: how many, how long, and that they differ."""

from __future__ import annotations

import re

from traitline.vectors.calibration import calibration_texts


def test_there_are_forty_passages() -> None:
    assert len(calibration_texts()) == 40


def test_every_passage_has_forty_to_seventy_words() -> None:
    lengths = {text[:40]: len(text.split()) for text in calibration_texts()}
    assert {start: n for start, n in lengths.items() if not 40 <= n <= 70} == {}


def test_passages_are_clean_of_space_at_their_ends_and_of_blank_lines() -> None:
    for text in calibration_texts():
        assert text == text.strip()
        assert all(line.strip() for line in text.splitlines())


def test_no_passage_repeats_or_nearly_repeats_another() -> None:
    texts = calibration_texts()
    words = [set(re.findall(r"\w{4,}", text.lower())) for text in texts]
    shared = {(i, j): len(words[i] & words[j]) / min(len(words[i]), len(words[j])) for i in range(len(words)) for j in range(i)}
    assert len(set(texts)) == len(texts)
    assert max(shared.values()) < 0.3, max(shared, key=lambda pair: shared[pair])


def test_some_passages_hold_letters_beyond_ascii_line_breaks_and_indented_code() -> None:
    texts = calibration_texts()
    assert sum(not text.isascii() for text in texts) >= 4
    assert sum("\n" in text for text in texts) >= 5
    assert any("\n    " in text for text in texts)
