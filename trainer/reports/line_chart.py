"""LineChart: draws curves over the steps of a run, as inline SVG."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trainer.reports.axes import Axis, axis_of, short
from trainer.reports.markup import Markup, element, figure, joined

WIDTH, HEIGHT = 420, 236
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 10, 30
MOST_POINTS = 600
"""Longer curves are divided into parts, and only each part's extreme points are drawn."""
SMOOTHED_FROM = 60
"""A noisy curve with at least this many points is drawn faintly behind its moving average."""
NUM_COLOURS = 8
"""The number of colors; further curves reuse them with dashed lines."""

Points = Sequence[tuple[float, float]]
"""(step, value) for each point; a value that is not finite interrupts the curve."""


@dataclass(frozen=True)
class Series:
    """One curve."""

    name: str
    points: Points
    marked: bool = False
    """Whether to show the points as dots; this has no effect on curves with more than 60 points."""
    noisy: bool = False
    """Whether to draw the curve faintly behind its moving average if it has many points."""
    colour: int = 0
    """The curve's index in its chart, which determines its color; the chart sets it."""


@dataclass(frozen=True)
class LineChart:
    """A chart with several curves."""

    title: str
    series: Sequence[Series]
    zero: bool = False
    """Whether the vertical axis begins at 0."""
    note: str = ""
    x_name: str = "step"

    def render(self) -> Markup:
        """Draw the chart, with a description for screen readers that gives values of each curve."""
        drawn = [
            replace(series, points=thinned(series.points), colour=number)
            for number, series in enumerate(self.series)
            if series.points
        ]
        across = axis_of((x for s in drawn for x, _ in s.points), LEFT, WIDTH - RIGHT)
        up = axis_of((y for s in drawn for _, y in s.points), HEIGHT - BOTTOM, TOP, zero=self.zero)
        lines = joined(_curve(series, across, up) for series in drawn)
        picture = element(
            "svg",
            frame(across, up, self.x_name),
            lines,
            element("line", class_="cursor", y1=TOP, y2=HEIGHT - BOTTOM, x1=0, x2=0),
            viewBox=f"0 0 {WIDTH} {HEIGHT}",
            role="img",
            aria_label=self._description(),
        )
        return figure(
            self.title,
            legend(drawn),
            picture,
            note=self.note,
            class_="chart",
            data_chart=self._data(drawn, across, up),
        )

    def _description(self) -> str:
        description = "; ".join(described(s, self.x_name) for s in self.series if s.points)
        return f"{self.title}: {description}"

    def _data(self, drawn: Sequence[Series], across: Axis, up: Axis) -> str:
        """The points and axes as JSON, with which the page's script shows values at the pointer."""
        curves = [
            {"name": s.name, "points": [[x, y if math.isfinite(y) else None] for x, y in s.points]}
            for s in drawn
        ]
        axes = [[a.low, a.high, a.start, a.end] for a in (across, up)]
        return json.dumps({"x": axes[0], "y": axes[1], "x_name": self.x_name, "series": curves})


def legend(drawn: Sequence[Series]) -> Markup | str:
    """The names and colors of the curves; empty if there is a single curve."""
    if len(drawn) < 2:
        return ""
    entries = (
        element("li", element("i", class_=_colour(series.colour)), series.name) for series in drawn
    )
    return element("ul", *entries, class_="legend")


def described(series: Series, x_name: str) -> str:
    """A curve in words: its first, last, lowest and highest value."""
    finite = [point for point in series.points if math.isfinite(point[1])]
    if not finite:
        return f"{series.name}: no finite value"
    low, high = (choose(finite, key=lambda point: point[1]) for choose in (min, max))
    ends = (("first", finite[0]), ("last", finite[-1]), ("lowest", low), ("highest", high))
    description = ", ".join(f"{word} {short(y)} at {x_name} {x:,.10g}" for word, (x, y) in ends)
    return f"{series.name}: {description}"


def thinned(points: Points, most: int = MOST_POINTS) -> Points:
    """Keep the lowest and the highest point of each part of a curve, about `most` points in all."""
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / (most / 2))
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        ends = {min(part, key=_height), max(part, key=_height)}
        kept += sorted(ends)
    return [points[0], *kept, points[-1]]


def _height(point: tuple[float, float]) -> float:
    return point[1] if math.isfinite(point[1]) else -math.inf


def frame(across: Axis, up: Axis, x_name: str) -> Markup:
    """The grid, the tick labels of both axes, and the name of the horizontal axis."""
    parts = []
    for tick in up.ticks(5):
        y = f"{up.place(tick):.1f}"
        parts.append(element("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y))
        parts.append(element("text", short(tick), x=LEFT - 6, y=y, dy="0.32em", class_="end"))
    for tick in across.ticks(5):
        x = f"{across.place(tick):.1f}"
        parts.append(
            element("text", short(tick), x=x, y=HEIGHT - BOTTOM + 15, text_anchor="middle")
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(element("text", x_name, x=middle, y=HEIGHT - 2, text_anchor="middle"))
    return joined(parts)


def _curve(series: Series, across: Axis, up: Axis) -> Markup:
    colour = _colour(series.colour)
    noisy = series.noisy and len(series.points) >= SMOOTHED_FROM
    raw = element(
        "path", d=_path(series.points, across, up), class_=f"{colour} faint" * noisy or colour
    )
    if noisy:
        smooth = element("path", d=_path(smoothed(series.points), across, up), class_=colour)
        return joined((raw, smooth))
    is_single = len(series.points) == 1
    dots = (
        element(
            "circle", cx=f"{across.place(x):.1f}", cy=f"{up.place(y):.1f}", r=2.6, class_=colour
        )
        for x, y in series.points
        if math.isfinite(y) and (is_single or (series.marked and len(series.points) <= 60))
    )
    return joined((raw, *dots))


def smoothed(points: Points) -> Points:
    """The exponential moving average of the values, with a window of about 1/40 of the curve."""
    keep = 1 - 1 / max(2.0, len(points) / 40)
    total = weight = 0.0
    found = []
    for x, y in points:
        if math.isfinite(y):
            total, weight = keep * total + (1 - keep) * y, keep * weight + (1 - keep)
        found.append((x, total / weight if weight and math.isfinite(y) else math.nan))
    return found


def _path(points: Points, across: Axis, up: Axis) -> str:
    """The commands of an SVG path with gaps at values that are not finite."""
    commands, pen = [], "M"
    for x, y in points:
        if math.isfinite(y):
            commands.append(f"{pen}{across.place(x):.1f} {up.place(y):.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(commands) or "M0 0"


def _colour(number: int) -> str:
    """The CSS class for a curve: its color, and dashed lines once all colors are in use."""
    return f"c{number % NUM_COLOURS}" + " dashed" * (number >= NUM_COLOURS)
