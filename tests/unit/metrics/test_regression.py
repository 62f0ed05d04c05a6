"""Scores of numbers agree with their formulas."""

import math
import warnings

import numpy as np
import pytest

from trainer.errors import InputError
from trainer.metrics.regression import MeanSquaredError, Pearson, Spearman

REFERENCES = np.array([1.0, 2.0, 2.0, 4.5, 7.0])
PREDICTIONS = np.array([0.5, 2.5, 3.0, 3.0, 5.0], dtype=np.float32)


def _correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum())


def test_formulas():
    squares = (0.25 + 0.25 + 1.0 + 2.25 + 4.0) / 5
    assert MeanSquaredError().compute(PREDICTIONS, REFERENCES) == {"mse": pytest.approx(squares)}
    pearson = _correlation(PREDICTIONS.astype(float), REFERENCES)
    assert Pearson().compute(PREDICTIONS, REFERENCES) == {"pearson": pytest.approx(pearson)}
    ranks = _correlation(np.array([1, 2, 3.5, 3.5, 5]), np.array([1, 2.5, 2.5, 4, 5]))
    assert Spearman().compute(PREDICTIONS, REFERENCES) == {"spearman": pytest.approx(ranks)}


def test_what_is_undefined_is_nan_without_a_warning():
    constant, one = np.full(5, 2.0), np.array([1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for metric in (Pearson(), Spearman()):
            (name,) = metric.names()
            assert math.isnan(metric.compute(constant, REFERENCES)[name])
            assert math.isnan(metric.compute(REFERENCES, constant)[name])
            assert math.isnan(metric.compute(one, one)[name])
            assert math.isnan(metric.compute(one * math.nan, one)[name])
    assert math.isnan(MeanSquaredError().compute(one[:0], one[:0])["mse"])
    assert math.isnan(MeanSquaredError().compute(one * math.nan, one)["mse"])


def test_several_numbers_a_sample_are_refused():
    with pytest.raises(
        InputError, match=r"mse: found float64 of shape \[2, 2\]; accepted: numbers"
    ):
        MeanSquaredError().compute(np.zeros((2, 2)), np.zeros((2, 2)))
