"""Impossible paths and circular links give a one-line error wherever they are used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LONG = "a" * 5000
CIRCLE = "circle"


@pytest.mark.parametrize("path", [LONG, CIRCLE, f"{CIRCLE}/x.csv"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("dataset.path={}",),
        ("dataset.train={}",),
        ("model.path={}", "dataset.train=train.jsonl"),
        ("model.path={}/model", "dataset.train=train.jsonl"),
        ("tokenizer.path={}", "dataset.train=train.jsonl"),
        ("output_dir={}", "dataset.train=train.jsonl"),
        ("output_dir={}/run", "dataset.train=train.jsonl"),
        ("job=predict", "recipe=sequence_classification", "input.file={}"),
        ("job=predict", "recipe=sequence_classification", "input.text=a", "output.file={}.csv"),
        ("job=generate", "input.prompt=a", "output.file={}.csv"),
        ("from={}",),
        ("--config-dir", "{}"),
    ],
)
def test_a_path_that_cannot_be_is_one_line(
    ask: Callable[..., Any], table: Path, tiny: Path, arguments: tuple[str, ...], path: str
) -> None:
    Path(CIRCLE).symlink_to(CIRCLE)
    given = [argument.format(path) for argument in arguments]
    model = [] if any("model.path" in argument for argument in given) else [f"model.path={tiny}"]
    answer = ask(*model, *given)
    assert answer.code in ((2,) if path == LONG else (2, 3)), answer.err
    lines = answer.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and len(lines[0]) < 400, answer.err
