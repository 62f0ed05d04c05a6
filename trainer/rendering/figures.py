"""Figures: formats numbers for people."""

import math
from typing import Any


def count(number: float) -> str:
    """A number: in full below a million (7,104), otherwise with three digits (22.7 M)."""
    if number < 1e6:
        return f"{number:,.0f}"
    for size, unit in ((1e6, "M"), (1e9, "B")):
        if number < 999.5 * size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e12:,.3f}".rstrip("0").rstrip(".") + " T"


def amount(number: int, noun: str) -> str:
    """A number with a noun: 1 token, 2 tokens, 22.7 M tokens."""
    return f"{count(number)} {noun}" + "s" * (number != 1)


def epochs_passed(epochs: float) -> str:
    """A number of epochs: 1 epoch, 1.5 epochs."""
    shown = f"{epochs:.4g}" if epochs < 9999.5 else f"{epochs:,.0f}"
    return f"{shown} epoch" + "s" * (shown != "1")


def measure(value: Any) -> str:
    """A loss or a metric with four decimals; '-' for None and NaN.

    Very small or large numbers are written with a power of ten. Positive numbers of type int are
    counts, which are shown in full.
    """
    if value is None or math.isnan(value):
        return "-"
    if isinstance(value, int) and value > 0:
        return f"{value:,}"
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return f"{value:.2e}"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"


def share(value: float) -> str:
    """A fraction as a whole percentage."""
    return f"{100 * value:.0f} %"


def duration(seconds: float) -> str:
    """A time in words: 8.4 s, 2 min 3 s, 3 h 12 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def clock(seconds: float) -> str:
    """A time in the form of a clock: 0:08, 2:03, 3:12:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def memory(gib: float | None) -> str:
    """A size of memory: 614 MiB, 1.2 GiB; '' if it is unknown."""
    if gib is None:
        return ""
    return f"{gib:,.1f} GiB" if gib >= 0.95 else f"{gib * 1024:.0f} MiB"


def pace(done: int, share: float, seconds: float) -> tuple[str, str]:
    """The speed and the time left, if `done` samples, a `share` of all work, took `seconds`."""
    left = duration(seconds * (1 - share) / share) if share else "-"
    return speed({"samples_per_second": done / max(seconds, 1e-9)}), left


def speed(row: Any) -> str:
    """Samples per second, or tokens per second if samples take over a second; '' if unknown."""
    samples, tokens = row.get("samples_per_second"), row.get("tokens_per_second")
    if samples is not None and (samples >= 1 or tokens is None):
        return f"{samples:,.0f} samples/s" if samples >= 10 else f"{samples:.1f} samples/s"
    return "" if tokens is None else f"{tokens:,.0f} tokens/s"


def data_wait(row: Any) -> str:
    """The share of the time in which training waited for data: `data wait 12 %`; '' below 1 %."""
    waited = row.get("data_wait") or 0.0
    return f"data wait {share(waited)}" if waited >= 0.01 else ""
