"""Answers as readable lines on a terminal, and as JSON lines elsewhere or on request."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from trainer.data.output_rows import print_rows
from trainer.rendering.answers import answer_lines

LABELLED = {
    "text": "I like it.",
    "label": "good",
    "score": 0.98123,
    "probabilities": {"bad": 0.01877, "good": 0.98123},
}
ENTITIES = [{"text": "New York", "label": "LOC", "score": 0.5, "start": 3, "end": 11}]


@pytest.mark.parametrize(
    ("row", "lines"),
    [
        (
            LABELLED,
            [
                *("text           I like it.", "label          good", "score          0.9812"),
                "probabilities  good 0.9812, bad 0.0188",
            ],
        ),
        (
            {"text": "In New York", "entities": ENTITIES},
            ["text      In New York", "entities  New York  LOC  0.5000  [3:11]"],
        ),
        ({"text": "a", "entities": []}, ["text      a", "entities  none"]),
        (
            {"prompt": "a", "completion": "b\nc"},
            ["prompt      a", "completion  b", "            c"],
        ),
        (
            {"embedding": [0.25] * 384, "labels": ["x", "y"], "none": None},
            [
                "embedding  0.2500, 0.2500, 0.2500, 0.2500, ... (384 numbers)",
                "labels     x, y",
            ],
        ),
        (
            {"probabilities": {f"c{n}": n / 21 for n in range(7)}},
            [
                "probabilities  c6 0.2857, c5 0.2381, c4 0.1905, c3 0.1429, c2 0.0952, and 2 more",
            ],
        ),
        (
            {"prompt": [{"role": "user", "content": "hello"}], "row": {"a": "b"}},
            ["prompt  user  hello", 'row     {"a": "b"}'],
        ),
    ],
)
def test_answers_are_readable(row: dict[str, Any], lines: list[str]) -> None:
    assert [line.rstrip() for line in answer_lines(row).plain.splitlines()] == lines


@pytest.mark.parametrize(("as_json", "starts"), [(False, "text "), (True, '{"text": ')])
def test_a_terminal_shows_lines_unless_json_is_asked_for(
    as_json: bool, starts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.openpty()
    with open(writer, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", terminal)
        print_rows([{**LABELLED, "text": "\x1b[31mred"}], None if as_json else answer_lines)
    shown = os.read(reader, 4096).decode()
    os.close(reader)
    assert starts in shown.splitlines()[0] and "\x1b[31m" not in shown


def test_a_pipe_gets_json_lines(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    print_rows([LABELLED, LABELLED], answer_lines)
    assert list(map(json.loads, capsys.readouterr().out.splitlines())) == [LABELLED] * 2
