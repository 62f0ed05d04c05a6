"""Figures are formatted for people."""

import math

import pytest

from trainer.plurals import of_all, plural
from trainer.rendering.figures import amount, count, duration, epochs_passed, measure, share, speed
from trainer.rendering.plan import in_bytes


@pytest.mark.parametrize(
    "found, expected",
    [
        (count(7104), "7,104"),
        (count(999_999), "999,999"),
        (count(22_713_216), "22.7 M"),
        (count(999_999_999), "1 B"),
        (count(134_515_008), "135 M"),
        (count(15.4e12), "15.4 T"),
        (plural(1, "step"), "1 step"),
        (plural(2000, "step"), "2,000 steps"),
        (plural(2, "class"), "2 classes"),
        (of_all(1, 3, "row"), "1 of 3 rows is"),
        (of_all(2, 3, "row"), "2 of 3 rows are"),
        (of_all(1, 1, "row"), "1 of 1 row is"),
        (amount(1, "token"), "1 token"),
        (amount(1_234_567, "token"), "1.23 M tokens"),
        (epochs_passed(1.0), "1 epoch"),
        (epochs_passed(0.5), "0.5 epochs"),
        (epochs_passed(9999), "9999 epochs"),
        (epochs_passed(123_456), "123,456 epochs"),
        (in_bytes(999), "999 B"),
        (in_bytes(999_940), "999.9 kB"),
        (in_bytes(999_960), "1.0 MB"),
        (in_bytes(2_500_000_000_000), "2.5 TB"),
        (measure(0.84123), "0.8412"),
        (measure(-0.5), "-0.5000"),
        (measure(0), "0.0000"),
        (measure(0.00012), "1.20e-04"),
        (measure(1234.56), "1,234.6"),
        (measure(math.nan), "-"),
        (measure(None), "-"),
        (measure(math.inf), "inf"),
        (share(0.468), "47 %"),
        (duration(8.44), "8.4 s"),
        (duration(59.99), "1 min 0 s"),
        (duration(123.4), "2 min 3 s"),
        (duration(3 * 3600 + 12 * 60 + 5), "3 h 12 min"),
        (speed({"samples_per_second": 312.4, "tokens_per_second": 5e4}), "312 samples/s"),
        (speed({"samples_per_second": 2.25}), "2.2 samples/s"),
        (speed({"samples_per_second": 0.4, "tokens_per_second": 51234.2}), "51,234 tokens/s"),
        (speed({}), ""),
    ],
)
def test_figures(found, expected):
    assert found == expected
