"""Whether a greater result is better depends on its metric, not on its name."""

import pytest

from recipes.token_classification import TokenClassification
from trainer.errors import InputError
from trainer.metrics.classification import F1, Accuracy
from trainer.metrics.direction import direction, directions, metric_for_best_model
from trainer.metrics.entities import EntityF1
from trainer.metrics.regression import MeanSquaredError

METRICS = {"accuracy": Accuracy(), "f1": F1(), "error": MeanSquaredError()}


@pytest.mark.parametrize(
    "name, better",
    [
        ("accuracy", True),
        ("eval_accuracy", True),
        ("f1_macro", True),
        ("mse", False),
        ("eval_mse", False),
        ("loss", False),
        ("eval_loss", False),
        ("matched_accuracy", True),
        ("eval_mis_matched_mse", False),
        ("eval_matched_loss", False),
    ],
)
def test_direction(name, better):
    assert direction(METRICS, name, sets=("matched", "mis_matched")) is better


@pytest.mark.parametrize("name", ["acuracy", "eval_acuracy"])
def test_an_unknown_result_is_refused_with_the_nearest(name):
    with pytest.raises(InputError) as refusal:
        direction(METRICS, name)
    assert str(refusal.value) == (
        f"trainer.metric_for_best_model: found '{name}'; "
        "accepted: loss, accuracy, f1_macro, mse; did you mean 'accuracy'?"
    )


@pytest.mark.parametrize(
    ("wanted", "sets", "name"),
    [
        (None, ["entity", "other"], "eval_entity_entity_f1"),
        ("tag_accuracy", ["tag", "other"], "eval_tag_tag_accuracy"),
        ("other_tag_accuracy", ["tag", "other"], "eval_other_tag_accuracy"),
        ("eval_tag_loss", ["tag", "other"], "eval_tag_loss"),
        ("tag_accuracy", [""], "eval_tag_accuracy"),
    ],
)
def test_a_set_may_be_named_as_a_result_begins(wanted, sets, name):
    recipe = TokenClassification(labels=["O", "B-x"], scheme="BIO")
    found = metric_for_best_model(wanted, recipe, {"entity_f1": EntityF1()}, sets)
    assert found == (name, "loss" not in name)


def test_two_metrics_of_one_name_are_refused():
    with pytest.raises(InputError, match="metrics.again: found 'f1_macro' twice"):
        directions({"f1": F1(), "again": F1()})
