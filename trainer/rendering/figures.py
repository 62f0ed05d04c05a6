"""Figures: numbers as people read them."""

import math
from typing import Any


def count(number: float) -> str:
    """A quantity: 7,104 as it is, three digits from a million on: 22.7 M."""
    if number < 1e6:
        return f"{number:,.0f}"
    for size, unit in ((1e6, "M"), (1e9, "B")):
        if number < 999.5 * size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e12:,.3f}".rstrip("0").rstrip(".") + " T"


def plural(number: int, noun: str) -> str:
    """1 step, 2 steps."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def measure(value: Any) -> str:
    """A loss or a metric: four decimals while they say something; '-' for None and NaN."""
    if value is None or math.isnan(value):
        return "-"
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return f"{value:.2e}"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"


def share(value: float) -> str:
    """A part of 1 as whole percents."""
    return f"{100 * value:.0f} %"


def duration(seconds: float) -> str:
    """8.4 s, 2 min 3 s, 3 h 12 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def pace(done: int, share: float, seconds: float) -> tuple[str, str]:
    """Speed and time left, where `done` samples, this share of the work, took so many seconds."""
    left = duration(seconds * (1 - share) / share) if share else "-"
    return speed({"samples_per_second": done / max(seconds, 1e-9)}), left


def speed(row: Any) -> str:
    """Samples a second, or tokens where a sample takes longer than that; '' where unknown."""
    samples, tokens = row.get("samples_per_second"), row.get("tokens_per_second")
    if samples is not None and (samples >= 1 or tokens is None):
        return f"{samples:,.0f} samples/s" if samples >= 10 else f"{samples:.1f} samples/s"
    return "" if tokens is None else f"{tokens:,.0f} tokens/s"


def data_wait(row: Any) -> str:
    """The share of time that training waited for data: `data wait 12 %`; '' below 1 %."""
    waited = row.get("data_wait") or 0.0
    return f"data wait {share(waited)}" if waited >= 0.01 else ""
