"""The report by class agrees with scikit-learn's."""

import json
import math

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from trainer.metrics.report import classification_report


def _assert_agrees(report, predictions, references):
    expected = precision_recall_fscore_support(references, predictions, labels=range(4))
    found = (report.precision, report.recall, report.f1, report.support)
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=0, atol=1e-15)


def test_classes():
    generator = np.random.default_rng(1)
    predictions, references = generator.integers(0, 4, 80), generator.integers(0, 4, 80)
    report = classification_report(predictions, references, list("abcd"))
    _assert_agrees(report, predictions, references)
    assert report.confusion == confusion_matrix(references, predictions).tolist()


def test_label_sets():
    generator = np.random.default_rng(2)
    predictions, references = generator.integers(0, 2, (2, 80, 4))
    report = classification_report(predictions, references, list("abcd"))
    _assert_agrees(report, predictions, references)
    assert report.confusion is None


def test_what_is_undefined_is_nan_and_none_in_json():
    report = classification_report(np.array([0, 1, 1]), np.array([0, 0, 0]), ["a", "b", "c"])
    assert report.precision[:2] == [1.0, 0.0] and math.isnan(report.precision[2])
    assert report.recall[0] == 1 / 3 and math.isnan(report.recall[1])
    assert report.f1[:2] == [0.5, 0.0] and math.isnan(report.f1[2])
    form = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert form["classes"][2] == {
        "label": "c",
        "precision": None,
        "recall": None,
        "f1": None,
        "support": 0,
    }
    assert form["confusion"] == [[1, 2, 0], [0, 0, 0], [0, 0, 0]]
