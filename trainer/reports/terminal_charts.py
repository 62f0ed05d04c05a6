"""Terminal charts: draws line charts as text, with plotext."""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from types import ModuleType

from rich.table import Table
from rich.text import Text

from trainer.errors import EnvironmentFault
from trainer.reports.line_chart import LineChart, thinned
from trainer.reports.sweep_plot import jobs_chart
from trainer.runs.sweep_records import JobRecord
from trainer.terminal.plain_text import one_line

HEIGHT = 13
WIDE = 130
"""In terminals of at least this width, two charts are drawn side by side."""
COLOURS = ("blue", "orange", "green", "magenta", "red", "cyan", "yellow", "white")
DOTS = ("●", "◆", "▲", "■", "○", "◇", "△", "□")
"""The symbols for curves with few points, which can be told apart even without colors."""


def terminal_charts(charts: Sequence[LineChart], width: int) -> Table:
    """Draw the charts below each other or, in a wide terminal, in two columns.

    Raises EnvironmentFault if plotext is not installed.
    """
    columns = 2 if width >= WIDE else 1
    grid = Table.grid(padding=(0, 2 * (columns - 1), 1, 0))
    drawn = [drawn_text(chart, width // columns - 2 * (columns - 1)) for chart in charts]
    for start in range(0, len(drawn), columns):
        grid.add_row(*drawn[start : start + columns])
    return grid


def sweep_chart(results: Sequence[JobRecord], width: int) -> Table | None:
    """A chart of the metrics of a sweep's jobs; None if there are none or plotext is missing."""
    chart = jobs_chart(results)
    if chart is None or find_spec("plotext") is None:
        return None
    return terminal_charts([chart], min(width, WIDE - 1))


def drawn_text(chart: LineChart, width: int) -> Text:
    """Draw one chart as text of this width; values that are not finite are left out."""
    plotext = _plotext()
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.limit_size(False, False)
    plotext.plot_size(width, HEIGHT)
    plotext.title(one_line(chart.title))
    several = len(chart.series) > 1
    for number, series in enumerate(chart.series):
        points = [point for point in thinned(series.points) if math.isfinite(point[1])]
        if not points:
            continue
        steps, values = ([each[side] for each in points] for side in (0, 1))
        colour, dot = COLOURS[number % len(COLOURS)], DOTS[number % len(DOTS)]
        name = one_line(series.name) if several else None
        if series.marked:
            plotext.scatter(steps, values, marker=dot, color=colour, label=name)
        else:
            plotext.plot(steps, values, marker="braille", color=colour, label=name)
    text = Text.from_ansi(plotext.build())
    text.no_wrap = True
    return text


def _plotext() -> ModuleType:
    try:
        import plotext
    except ModuleNotFoundError:
        accepted = "accepted: pip install 'tempering[plots]', or report.html"
        raise EnvironmentFault(f"job=show: plotext is not installed; {accepted}") from None
    return plotext
