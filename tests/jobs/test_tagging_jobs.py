"""Token classification from the command line: CoNLL files, spans, Doccano's texts, bad rows."""

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from trainer.models.of_task import model_class

NAMES = {"per": ["Ann", "Bob Lee", "Carla"], "loc": ["Paris", "New York"]}
FAST = ("trainer.learning_rate=3e-3", "trainer.num_epochs=8", "trainer.global_batch_size=8")
RECIPE = ("recipe=token_classification", "recipe.max_length=16", "recipe.stride=4")


def tagged(seed: int) -> tuple[list[str], list[str]]:
    """A text of a few or many sentences; long texts have several windows."""
    draw = random.Random(seed)
    words: list[str] = []
    tags: list[str] = []
    for _ in range(draw.choice([1, 1, 5])):
        for kind in ("per", "loc"):
            name = draw.choice(NAMES[kind]).split()
            words += [*name, draw.choice(["went", "saw", "left"])]
            tags += [f"B-{kind}", *[f"I-{kind}"] * (len(name) - 1), "O"]
    return words, tags


def write_conll(file: str, seeds: range) -> None:
    rows = [zip(*tagged(seed), strict=True) for seed in seeds]
    texts = ["\n".join(f"{word} X {tag}" for word, tag in row) for row in rows]
    Path(file).write_text("\n\n".join(texts) + "\n")


@pytest.mark.parametrize("crf", [False, True])
def test_conll_is_learnt_evaluated_and_predicted(
    ask: Callable[..., Any], alone: None, tiny: Path, crf: bool
) -> None:
    write_conll("train.conll", range(80))
    write_conll("dev.conll", range(100, 120))
    data = ("dataset.train=train.conll", "dataset.validation=dev.conll")
    train = (*data, *RECIPE, *FAST, f"model.path={tiny}", f"recipe.crf={crf}", "output_dir=run")
    answer = ask(*train)
    assert answer.code == 0, answer.err
    metrics = json.loads(Path("run/results.json").read_text())
    assert metrics["metrics"]["eval_entity_f1"] > 0.95
    assert [row["label"] for row in metrics["report"]["classes"]] == ["loc", "per"]

    path = "model.path=run/model"
    answer = ask("job=predict", path, "input.file=dev.conll", "output.file=out.jsonl")
    assert answer.code == 0, answer.err
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    right = 0
    for row, seed in zip(rows, range(100, 120), strict=True):
        words, tags = tagged(seed)
        assert row["tokens"] == words and len(row["tags"]) == len(words)
        right += row["tags"] == tags
        for found in row["entities"]:
            assert " ".join(words)[found["start"] : found["end"]] == found["text"]
    assert right >= 18

    Path("texts.jsonl").write_text('{"text": "Then Bob Lee left  Paris."}\n{"text": ""}\n')
    answer = ask(
        "job=predict", path, "input.file=texts.jsonl", "recipe.text=text", "output.file=o.csv"
    )
    assert answer.code == 0, answer.err
    with open("o.csv", newline="") as file:
        found, empty = (json.loads(row["entities"]) for row in csv.DictReader(file))
    assert {("Bob Lee", "per"), ("Paris", "loc")} <= {(e["text"], e["label"]) for e in found}
    assert empty == []

    theirs = transformers.AutoModelForTokenClassification.from_pretrained("run/model").eval()
    ours = model_class("token_classification" + "_crf" * crf).from_pretrained("run/model")
    ids = torch.tensor([[101, 5754, 2187, 3000, 102]])
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=1e-5, atol=1e-6)


def test_spans_are_inspected_and_bad_rows_named_or_dropped(
    ask: Callable[..., Any], alone: None, tiny: Path
) -> None:
    rows = [{"text": f"Ann {n} left", "label": [[0, 3, "per"]]} for n in range(30)]
    rows[4]["label"] = [[0, 2, "per"]]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = (
        *RECIPE,
        f"model.path={tiny}",
        "dataset.train=a.jsonl",
        "dataset.validation_fraction=0",
    )
    answer = ask(*shared, "job=inspect")
    assert answer.code == 2
    assert answer.err.startswith("error: dataset.train: a.jsonl:5: 'label': 'An' (0 to 2) is not")
    drop = ("dataset.bad_rows=drop", "dataset.max_bad_rows=0.1", "inspect.samples=1")
    answer = ask(*shared, *drop, "job=inspect")
    assert answer.code == 0, answer.err
    assert "ann/B-per" in answer.out and "dropped" in answer.out
    write_conll("b.conll", range(30))
    text = Path("b.conll").read_text().replace("B-per", "I-per", 1)
    Path("b.conll").write_text(text)
    broken = (
        *RECIPE,
        f"model.path={tiny}",
        "dataset.train=b.conll",
        "dataset.validation_fraction=0",
    )
    answer = ask(*broken, "job=inspect")
    assert answer.code == 2 and "b.conll row 1: 'tags': entry 1: I-per follows" in answer.err
    assert ask(*broken, "job=inspect", "recipe.repair=true").code == 0
