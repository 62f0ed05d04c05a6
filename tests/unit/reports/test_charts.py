"""Charts: round ticks, curves that keep their extremes, gaps, and descriptions in words."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.reports.axes import axis_of, short
from trainer.reports.facts import Histogram
from trainer.reports.line_chart import LineChart, Series, described, smoothed, thinned

properties = settings(deadline=None, database=None, derandomize=True)
NUMBERS = st.floats(-1e12, 1e12, allow_nan=False)


@properties
@given(st.lists(NUMBERS, min_size=1, max_size=20), st.booleans())
def test_an_axis_holds_all_values_and_has_few_ticks(values: list[float], zero: bool) -> None:
    axis = axis_of(values, 50, 400, zero=zero)
    assert all(50 - 1e-6 <= axis.place(value) <= 400 + 1e-6 for value in values)
    ticks = axis.ticks(5)
    assert 1 <= len(ticks) <= 12
    assert all(axis.low - 1e-6 <= tick <= axis.high * (1 + 1e-9) + 1e-6 for tick in ticks)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (1500, "1500"), (15000, "15k"), (2e6, "2M"), (3e-5, "3e-05")],
)
def test_numbers_on_axes_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_a_long_curve_keeps_its_extremes() -> None:
    points = [(float(step), math.sin(step)) for step in range(10_000)]
    points[4321] = (4321.0, 99.0)
    points[8765] = (8765.0, -99.0)
    found = thinned(points)
    assert len(found) <= 610 and points[4321] in found and points[8765] in found
    assert found[0] == points[0] and found[-1] == points[-1]
    assert [x for x, _ in found] == sorted(x for x, _ in found)


def test_a_value_that_is_not_finite_interrupts_the_curve() -> None:
    points = [(1.0, 1.0), (2.0, math.nan), (3.0, 2.0), (4.0, 3.0)]
    drawn = LineChart("Loss", [Series("training", points)]).render()
    (path,) = (part for part in drawn.split("<path")[1:])
    assert path.split('d="')[1].split('"')[0].count("M") == 2
    assert "NaN" not in drawn and "nan" not in drawn


def test_a_curve_in_words() -> None:
    series = Series("training", [(1, 3.0), (2, math.nan), (3, 1.0), (4, 2.0)])
    assert described(series, "step") == (
        "training: first 3 at step 1, last 2 at step 4, lowest 1 at step 3, highest 3 at step 1"
    )
    assert described(Series("x", [(1, math.nan)]), "step") == "x: no finite value"


def test_a_moving_average_of_a_constant_is_the_constant() -> None:
    found = smoothed([(float(step), 2.0) for step in range(100)])
    assert [y for _, y in found] == pytest.approx([2.0] * 100)


@properties
@given(st.lists(st.integers(0, 5000), min_size=1, max_size=50))
def test_a_histogram_counts_every_number_once(numbers: list[int]) -> None:
    found = Histogram.of(np.array(numbers))
    assert sum(found.counts) == len(numbers) and len(found.counts) <= 24
    assert found.total == sum(numbers) and found.longest == max(numbers)
    pairs = zip(found.edges, found.edges[1:], found.counts, strict=False)
    for low, high, count in pairs:
        assert count == sum(low <= number < high for number in numbers)
