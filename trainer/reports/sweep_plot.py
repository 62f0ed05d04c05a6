"""Sweep plots: draws the metric of all jobs of a sweep against the values of each swept key."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainer.reports.axes import Axis, axis_of, short
from trainer.reports.line_chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    LineChart,
    Series,
)
from trainer.reports.markup import Markup, element, joined
from trainer.runs.sweep_records import JobRecord
from trainer.runs.sweep_results import is_measured, swept_keys

MOST_PANELS = 12
MOST_NAMES = 8
"""The maximum number of labels below the axis of a key whose values are not numbers."""
LOGARITHMIC_FROM = 20.0
"""An axis is logarithmic if its largest value is at least this many times its smallest value."""
STYLE = (
    "svg{font:11.5px system-ui,sans-serif;background:#fff}text{fill:#59626e}"
    ".end{text-anchor:end}.title{fill:#1b2026;font-weight:600}.grid{stroke:#dde1e7}"
    "circle{fill:#1765c9;stroke:#1765c9;stroke-width:1.5}.pruned{fill:none}.best{fill:#c2500a;"
    "stroke:#c2500a}@media(prefers-color-scheme:dark){svg{background:#1c2025}text{fill:#a3adb9}"
    ".title{fill:#e6e9ed}.grid{stroke:#343b44}circle{fill:#6aa9ff;stroke:#6aa9ff}"
    ".pruned{fill:none}.best{fill:#ff9a52;stroke:#ff9a52}}"
)


@dataclass(frozen=True)
class Scale:
    """The horizontal axis for the values of one key."""

    axis: Axis
    position: Callable[[str], float]
    """A function from a value of the key, as text, to its coordinate on the axis."""
    ticks: Sequence[tuple[float, str]]
    """(pixel, label) for each tick."""


def sweep_plot(results: Sequence[JobRecord], best: JobRecord | None) -> str | None:
    """Draw an SVG image with a panel for each swept key; None if there is nothing to compare.

    Jobs that were stopped early are drawn as empty circles, and all others as filled circles.
    """
    shown = _comparable(results)
    if not shown:
        return None
    keys = swept_keys(shown)[:MOST_PANELS]
    panels = [_panel(key, shown, best, number) for number, key in enumerate(keys)]
    picture = element(
        "svg",
        element("style", Markup(STYLE)),
        *panels,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {(HEIGHT + TOP + 14) * max(1, len(panels))}",
        role="img",
        aria_label=f"{shown[0].metric} over {', '.join(keys)}",
    )
    return f"{picture}\n"


def jobs_chart(results: Sequence[JobRecord]) -> LineChart | None:
    """A chart of each job's metric and of the best metric so far; None for fewer than two jobs."""
    shown = _comparable(results)
    if len(shown) < 2:
        return None
    points = [(float(place), result.value or 0.0) for place, result in enumerate(shown, start=1)]
    choose = max if shown[0].greater_is_better else min
    so_far = [(x, choose(y for _, y in points[: int(x)])) for x, _ in points]
    series = (Series("jobs", points, marked=True), Series("best so far", so_far))
    return LineChart(shown[0].metric, series, x_name="job")


def _comparable(results: Sequence[JobRecord]) -> list[JobRecord]:
    """The jobs that have a value of the metric; empty if they have different metrics."""
    shown = [result for result in results if is_measured(result)]
    return shown if len({result.metric for result in shown}) == 1 else []


def _panel(key: str, results: Sequence[JobRecord], best: JobRecord | None, number: int) -> Markup:
    scale = scale_of([result.values.get(key, "") for result in results])
    up = axis_of((result.value or 0.0 for result in results), HEIGHT - BOTTOM, TOP)
    lines = [
        joined(
            (
                element("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y),
                element("text", short(tick), x=LEFT - 6, y=y, dy="0.32em", class_="end"),
            )
        )
        for tick in up.ticks(5)
        for y in (f"{up.place(tick):.1f}",)
    ]
    below = [
        element("text", text, x=f"{x:.1f}", y=HEIGHT - BOTTOM + 15, text_anchor="middle")
        for x, text in scale.ticks
    ]
    title = element("text", f"{results[0].metric} over {key}", x=LEFT, y=2, class_="title")
    dots = [_dot(result, key, scale, up, best) for result in results]
    place = f"translate(0 {(HEIGHT + TOP + 14) * number + TOP + 4})"
    return element("g", title, *lines, *below, *dots, transform=place)


def _dot(result: JobRecord, key: str, scale: Scale, up: Axis, best: JobRecord | None) -> Markup:
    is_best = best is not None and result.label == best.label
    tooltip = f"{result.label}: {result.metric} {short(result.value or 0.0)} ({result.status})"
    dot = element(
        "circle",
        cx=f"{scale.axis.place(scale.position(result.values.get(key, ''))):.1f}",
        cy=f"{up.place(result.value or 0.0):.1f}",
        r=4,
        class_="pruned" if result.pruned else "best" if is_best else None,
    )
    return element("g", element("title", tooltip), dot)


def scale_of(values: Sequence[str]) -> Scale:
    """A logarithmic or linear scale for numbers; for other values, a position for each value."""
    numbers = [_number(value) for value in values]
    if any(number is None for number in numbers):
        return _places(list(dict.fromkeys(values)))
    found = [number for number in numbers if number is not None]
    if min(found) > 0 and max(found) / min(found) >= LOGARITHMIC_FROM:
        axis = axis_of(map(math.log10, found), LEFT, WIDTH - RIGHT)
        powers = range(math.ceil(axis.low), math.floor(axis.high) + 1)
        ticks = [(axis.place(power), short(10.0**power)) for power in powers]
        return Scale(axis, lambda text: math.log10(float(text)), ticks)
    axis = axis_of(found, LEFT, WIDTH - RIGHT)
    return Scale(axis, float, [(axis.place(tick), short(tick)) for tick in axis.ticks(5)])


def _places(values: Sequence[str]) -> Scale:
    axis = Axis(-0.5, len(values) - 0.5, LEFT, WIDTH - RIGHT)
    step = math.ceil(len(values) / MOST_NAMES)
    ticks = [(axis.place(i), values[i][-24:]) for i in range(0, len(values), step)]
    return Scale(axis, lambda text: float(values.index(text)), ticks)


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None
