"""Foreign numbers: those too large for a float count as not finite, without an exception."""

import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from trainer.checkpoint.state_checks import FACTS
from trainer.data.labels import as_number
from trainer.errors import InputError
from trainer.foreign.numbers import decimal, is_finite, is_number
from trainer.generation.settings import GenerationSettings
from trainer.tasks.label_config import labels_of_config

HUGE = 10**400
NO_NUMBERS: list[Any] = [HUGE, -HUGE, float("nan"), float("inf"), True, None, "1"]


def test_what_is_a_number() -> None:
    assert all(map(is_number, (0, -1, 2**100, 1e308, 5e-324)))
    assert not any(map(is_number, NO_NUMBERS))


def test_what_is_a_finite_number_of_python_code() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(map(is_finite, (0, 1e308, Fraction(1, 3), np.float16(1), np.float32(0.1))))
        assert not any(map(is_finite, [*NO_NUMBERS, np.float32("inf"), np.bool_(True)]))


def test_texts_of_digits() -> None:
    """`int` raises ValueError for a superscript, and for more than 4,300 digits."""
    assert decimal("0") == 0 and decimal(" 0012 ") == 12 and decimal("9" * 18) == 10**18 - 1
    for text in ("", "-1", "1.0", "x", "²", "9" * 19, "9" * 5000):
        assert decimal(text) is None
    for key in ("²", "9" * 5000):
        with pytest.raises(InputError, match="id2label: found"):
            labels_of_config({"id2label": {key: "a"}})


def test_readers_refuse_whole_numbers_that_no_float_can_hold() -> None:
    window = {"losses": [HUGE], "samples": 0, "tokens": 0, "seconds": 0.0, "before": 0.0}
    assert not FACTS["throughput"][0](window)
    window["losses"] = [1.0]
    assert FACTS["throughput"][0](window) and FACTS["throughput"][0](window | {"waited": 2.5})
    for waited in (HUGE, -1.0, None, "1", [1]):
        assert not FACTS["throughput"][0](window | {"waited": waited})
    assert as_number(HUGE) is None
    with pytest.raises(InputError, match="generation.temperature: found 1000"):
        GenerationSettings(temperature=HUGE)
