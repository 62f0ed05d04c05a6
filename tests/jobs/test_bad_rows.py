"""Unusable rows give exit code 2 and one line with row and column, or are left out."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class BadRow:
    """A recipe's arguments, a good row for each number, a bad row, and its error message."""

    recipe: tuple[str, ...]
    good: Callable[[int], dict[str, Any]]
    bad: dict[str, Any]
    said: str


TAGS = ("recipe=token_classification", "metrics=none")
QUESTIONS = ("recipe=question_answering", "metrics=none", "recipe.max_length=40", "recipe.stride=8")
CHOICES = ("recipe=multiple_choice", "metrics=none")
LLAMA = ("model=small_llama", "recipe.chat=false", "recipe.max_length=32")
PREFERENCE = ("recipe=preference", *LLAMA)
SHORT = ("metrics=none", "recipe.max_length=32")
EMBEDDING = ("recipe=sentence_embedding", "recipe.group_size=2", *SHORT)
SCORED = (*EMBEDDING, "recipe.objective=cosent", "recipe.score_range=[0,5]")
SEQ2SEQ = ("recipe=seq2seq", "model=small_t5", "metrics=none")


def tagged(n: int) -> dict[str, Any]:
    return {"tokens": ["Ann", "Lee", f"{n}"], "tags": ["B-per", "I-per", "O"]}


def spanned(n: int) -> dict[str, Any]:
    return {"text": f"Ann left {n}", "label": [[0, 3, "per"]]}


def asked(n: int) -> dict[str, Any]:
    answer = {"text": ["Ann"], "answer_start": [0]}
    return {"question": f"who {n}?", "context": f"Ann left {n}", "answers": answer}


def chosen(n: int) -> dict[str, Any]:
    return {"text": f"one and {n}", "choices": ["yes", f"no {n}"], "label": n % 2}


def preferred(n: int) -> dict[str, Any]:
    return {"prompt": f"why {n}?", "chosen": "because", "rejected": f"no {n}"}


def rated(n: int) -> dict[str, Any]:
    return {"prompt": f"why {n}?", "completion": f"because {n}", "label": bool(n % 2)}


def paired(n: int) -> dict[str, Any]:
    return {"text": f"what is {n}?", "text_pair": f"it is {n}"}


def scored(n: int) -> dict[str, Any]:
    return {**paired(n), "label": n % 6}


def listed(n: int) -> dict[str, Any]:
    return {"text": f"what {n}?", "text_pair": ["a", f"b {n}"], "label": [1, 0]}


def written(n: int) -> dict[str, Any]:
    return {"source": f"number {n}", "target": f"{n}"}


LONG = " ".join(["word"] * 40)
CASES = {
    "a tag that breaks the scheme": BadRow(
        TAGS, tagged, {**tagged(0), "tags": ["B-per", "I-loc", "O"]},
        "'tags': entry 2: I-loc follows",
    ),
    "words and tags of different counts": BadRow(
        TAGS, tagged, {**tagged(0), "tags": ["B-per"]}, "'tags' has 1 tag for 3 words of 'tokens'"
    ),
    "a span outside of its text": BadRow(
        TAGS, spanned, {"text": "Ann left", "label": [[0, 30, "per"]]}, "'label' holds"
    ),
    "an answer that is not in its context": BadRow(
        QUESTIONS, asked, {**asked(0), "answers": {"text": ["Bob"], "answer_start": [0]}},
        "'answers': 'Bob' is not in the context",
    ),
    "an answer elsewhere": BadRow(
        QUESTIONS, asked, {**asked(0), "answers": {"text": ["left"], "answer_start": [0]}},
        "'answers': ",
    ),
    "a window smaller than the question": BadRow(
        QUESTIONS, asked, {**asked(0), "question": LONG},
        "the question's 40 tokens leave 0 of 40 for a window of the context",
    ),
    "choices of unequal kinds": BadRow(
        CHOICES, chosen, {**chosen(0), "choices": ["yes", 3]},
        "'choices': choice 1 is 3 (int); accepted: texts only",
    ),
    "a choice that is not there": BadRow(
        CHOICES, chosen, {**chosen(0), "label": 2}, "'label' is 2; accepted: 0 to 1"
    ),
    "chosen equal to rejected": BadRow(
        PREFERENCE, preferred, {**preferred(0), "rejected": "because"},
        "'chosen' and 'rejected' are equal; accepted: two different completions",
    ),
    "an empty completion": BadRow(
        PREFERENCE, preferred, {**preferred(0), "rejected": ""}, "'rejected' is empty"
    ),
    "a reward's pair that is equal": BadRow(
        ("recipe=reward_modelling", "recipe.chat=false", "recipe.max_length=32"),
        preferred, {**preferred(0), "rejected": "because"}, "'chosen' and 'rejected' are equal",
    ),
    "a rating that is none": BadRow(
        ("recipe=unpaired_preference", *LLAMA), rated, {**rated(0), "label": 7},
        "'label' is 7; accepted: true, false, 1, 0",
    ),
    "a pair twice": BadRow(
        EMBEDDING, paired, paired(3), "the same 'text' and 'text_pair' as in row 3"
    ),
    "a score out of range": BadRow(
        SCORED, scored, {**paired(99), "label": 6}, "'label' is 6; accepted: 0 to 5"
    ),
    "labels and documents of different counts": BadRow(
        ("recipe=reranking", "recipe.objective=listnet", *SHORT), listed,
        {**listed(0), "label": [1]}, "'label'",
    ),
    "an empty reference": BadRow(
        SEQ2SEQ, written, {"source": "number", "target": " "}, "'target' is empty; accepted: a text"
    ),
    "an empty source": BadRow(
        SEQ2SEQ, written, {"source": "", "target": "1"}, "'source' is empty; accepted: a text"
    ),
}  # fmt: skip
NUMBER = 12
"""The index of the bad row, from 0; lines of files count from 1."""


@pytest.mark.parametrize("name", CASES)
def test_a_bad_row_is_named_or_left_out(
    name: str, ask: Callable[..., Any], alone: None, tiny: Path
) -> None:
    case = CASES[name]
    rows = [*map(case.good, range(NUMBER)), case.bad, case.good(NUMBER + 1), case.good(NUMBER + 2)]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = "model=" in " ".join(case.recipe)
    model = f"tokenizer.path={tiny}" if own else f"model.path={tiny}"
    given = (*case.recipe, model, "dataset.train=a.jsonl", "dataset.validation_fraction=0")
    answer = ask(*given, "trainer.max_steps=1")
    assert answer.code == 2, answer.err
    (line,) = answer.err.strip().splitlines()
    assert line.startswith(f"error: dataset.train: a.jsonl:{NUMBER + 1}: "), line
    assert case.said in line, line
    drop = ("dataset.bad_rows=drop", "dataset.max_bad_rows=0.1", "inspect.samples=1")
    answer = ask(*given, "job=inspect", *drop)
    assert answer.code == 0, answer.err
    assert f"dropped: dataset.train: a.jsonl:{NUMBER + 1}: " in answer.out, answer.out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("recipe.group_size=1",), "recipe.group_size: found 1; accepted: 2 or more"),
        (("dataset.max_train_rows=1",), "dataset.train: found 1 row; accepted: 2 or more"),
    ],
)
def test_a_group_of_one_is_refused(
    given: tuple[str, ...], said: str, refused: Any, tiny: Path
) -> None:
    Path("a.jsonl").write_text("".join(json.dumps(paired(n)) + "\n" for n in range(4)))
    data = ("dataset.train=a.jsonl", "dataset.validation_fraction=0", f"model.path={tiny}")
    assert said in refused(*EMBEDDING, *data, *given)
