"""Axes: maps values to pixels, and chooses and formats tick labels."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A range of values, drawn from pixel `start` to pixel `end`."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """The pixel coordinate at which a value is drawn."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, number: int) -> list[float]:
        """About `number` round values in the range."""
        step = _round_step((self.high - self.low) / max(1, number))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [tick * step for tick in range(first, last + 1)]


def axis_of(values: Iterable[float], start: float, end: float, *, zero: bool = False) -> Axis:
    """An axis that covers all values with a small margin; with `zero`, it begins at 0."""
    found = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(found), max(found)
    if zero and low >= 0:
        low = 0.0
    if high == low:
        room = abs(high) * 0.1 or 1.0
        low, high = (low if zero and low == 0 else low - room), high + room
    room = 0.04 * (high - low)
    return Axis(low if zero and low == 0 else low - room, high + room, start, end)


def _round_step(least: float) -> float:
    """The smallest number not below `least` that is 1, 2 or 5 times a power of ten."""
    if not math.isfinite(least) or least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * times for times in (1, 2, 5, 10) if power * times >= least * (1 - 1e-9))


def short(value: float) -> str:
    """Format a number with few characters: 12, 0.25, 1.5k, 3e-05."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    size = abs(value)
    for least, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if 1e15 > size >= least:
            return f"{value / (1000 if unit == 'k' else least):.4g}{unit}"
    return f"{value:.3g}" if size < 1e-3 or size >= 1e15 else f"{value:.4g}"
