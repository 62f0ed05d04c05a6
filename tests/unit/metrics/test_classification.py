"""Scores of classes agree with scikit-learn and with counting by hand."""

import math
import warnings

import numpy as np
import pytest
import sklearn.metrics as sklearn_metrics

from trainer.errors import InputError
from trainer.metrics.classification import F1, Accuracy, Matthews, Precision, Recall

FUNCTIONS = {
    Precision: sklearn_metrics.precision_score,
    Recall: sklearn_metrics.recall_score,
    F1: sklearn_metrics.f1_score,
}


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def _pairs(classes, shape, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, classes, shape), generator.integers(0, classes, shape)


@pytest.mark.parametrize("shape, classes", [(57, 4), ((57, 5), 2)], ids=["classes", "label sets"])
@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
@pytest.mark.parametrize("metric", FUNCTIONS)
def test_averages_agree_with_scikit_learn(metric, average, shape, classes):
    predictions, references = _pairs(classes, shape)
    expected = FUNCTIONS[metric](references, predictions, average=average)
    found = metric(average=average).compute(predictions, references)
    assert found == {f"{metric.name}_{average}": pytest.approx(expected, abs=1e-15)}


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
@pytest.mark.parametrize("metric", FUNCTIONS)
def test_sets_of_one_label_score_that_label_alone(metric, average):
    predictions, references = _pairs(2, (57, 1))
    expected = FUNCTIONS[metric](references[:, 0], predictions[:, 0])
    scored = metric(average=average)
    assert list(scored.compute(predictions, references).values()) == [expected]
    twice = [np.hstack([each, each]) for each in (predictions, references)]
    assert list(scored.compute(*twice).values()) == [pytest.approx(expected)]
    nothing = np.zeros_like(references)
    assert list(scored.compute(predictions, nothing).values()) == [0.0]
    assert math.isnan(next(iter(scored.compute(nothing, nothing).values())))


def test_hand_counts():
    predictions, references = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0])
    # class 0: tp 1 fp 1 fn 1, class 1: tp 2 fp 0 fn 1, class 2: tp 0 fp 1 fn 0
    assert Accuracy().compute(predictions, references) == {"accuracy": 3 / 5}
    f1 = F1().compute(predictions, references)["f1_macro"]
    assert f1 == pytest.approx((1 / 2 + 4 / 5 + 0) / 3)
    assert Precision().compute(predictions, references)["precision_macro"] == pytest.approx(0.5)
    recall = Recall().compute(predictions, references)["recall_macro"]
    assert recall == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)


def test_binary_counts_class_one_alone():
    predictions, references = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 1, 1])
    assert F1(average="binary").compute(predictions, references) == {"f1_binary": 2 / 3}
    with pytest.raises(InputError, match="f1: found class 2; accepted: two classes"):
        F1(average="binary").compute(np.array([2]), np.array([0]))
    with pytest.raises(InputError, match="found label sets"):
        F1(average="binary").compute(np.eye(2, dtype=int), np.eye(2, dtype=int))


def test_accuracy_of_label_sets_is_the_exact_match():
    references = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    predictions = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 0], [0, 1, 1]])
    assert Accuracy().compute(predictions, references) == {"accuracy": 0.5}
    assert Accuracy().compute(predictions.astype(bool), references) == {"accuracy": 0.5}


def test_matthews_of_two_and_of_several_classes():
    predictions, references = np.array([1, 1, 0, 0, 1, 1]), np.array([1, 0, 0, 0, 1, 0])
    tp, tn, fp, fn = 2, 2, 2, 0
    by_hand = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    found = Matthews().compute(predictions, references)
    assert found == {"matthews": pytest.approx(by_hand, abs=1e-15)}
    predictions, references = _pairs(4, 91)
    guess, truth = (np.eye(4)[side] - np.eye(4)[side].mean(0) for side in (predictions, references))
    by_covariance = (guess * truth).sum() / math.sqrt((guess**2).sum() * (truth**2).sum())
    assert Matthews().compute(predictions, references)["matthews"] == pytest.approx(by_covariance)


def test_what_is_undefined_is_nan_and_what_is_0_by_convention_is_0():
    nothing, ones, zeros = np.array([], dtype=int), np.ones(3, dtype=int), np.zeros(3, dtype=int)
    for metric in (Accuracy(), F1(), Precision(), Recall(), Matthews()):
        assert math.isnan(metric.compute(nothing, nothing)[metric.names()[0]])
    for metric in (F1("binary"), Precision("binary"), Recall("binary")):
        assert math.isnan(metric.compute(zeros, zeros)[metric.names()[0]])
    assert math.isnan(F1("micro").compute(np.zeros((3, 2), int), np.zeros((3, 2), int))["f1_micro"])
    assert Precision("binary").compute(zeros, ones) == {"precision_binary": 0.0}
    assert Recall("binary").compute(ones, zeros) == {"recall_binary": 0.0}
    assert Matthews().compute(ones, ones) == {"matthews": 0.0}


@pytest.mark.parametrize(
    "metric, predictions, references, message",
    [
        (
            Accuracy(),
            np.zeros(3, int),
            np.zeros(4, int),
            r"shapes \[3\] and \[4\]; accepted: equal",
        ),
        (F1(), np.zeros(3), np.zeros(3, int), r"found float64 of shape \[3\]; accepted: class ids"),
        (
            Matthews(),
            np.zeros((2, 2), int),
            np.zeros((2, 2), int),
            r"\[2, 2\]; accepted: class ids",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(metric, predictions, references, message):
    with pytest.raises(InputError, match=message):
        metric.compute(predictions, references)


def test_an_unknown_average_is_refused_when_the_metric_is_made():
    with pytest.raises(InputError, match="f1: found average 'samples'; accepted: average: macro"):
        F1(average="samples")
