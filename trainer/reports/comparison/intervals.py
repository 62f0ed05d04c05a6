"""Intervals: shows confidence intervals, and the rows that only one of two runs gets right."""

import math
from collections.abc import Mapping, Sequence

from trainer.metrics.metric import Metric
from trainer.rendering.figures import measure
from trainer.reports.comparison.bootstrap import ComparedResult, Difference, Interval, paired
from trainer.reports.comparison.compared_rows import ComparedRows
from trainer.reports.markup import Markup, element, folded, joined, section, table
from trainer.reports.run_record import RunRecord
from trainer.reports.sections.examples import example

FEWEST_ROWS = 10
"""The minimum number of rows for which intervals are computed."""
MOST_EXAMPLES = 5


def intervals(runs: Mapping[str, RunRecord], metrics: Mapping[str, Metric]) -> Markup | str:
    """The section, with a table for each evaluation set.

    `metrics` are the metrics of the first run.
    """
    first, *_ = runs.values()
    parts = []
    for name in first.sets:
        rows = ComparedRows.of(list(runs.values()), name)
        if rows.size >= FEWEST_ROWS:
            labels = list(first.facts.class_counts) if first.facts else []
            parts.append(_of_set(name, rows, paired(rows, metrics, labels), list(runs)))
    note = (
        "95 % intervals by the bootstrap: rows are drawn with replacement, the same ones for all "
        f"runs. Differences are relative to {next(iter(runs))}. An interval without 0 and a small "
        "p mean that a difference is not due to the choice of rows; other seeds may still differ."
    )
    title = "Confidence intervals on the same rows"
    return section(title, joined(parts), note=note) if parts else ""


def _of_set(
    name: str, rows: ComparedRows, results: Sequence[ComparedResult], runs: Sequence[str]
) -> Markup:
    left_out = f"; {rows.num_left_out:,} that differ are left out" if rows.num_left_out else ""
    title = element("h3", f"{name}: {rows.size:,} rows{left_out}".removeprefix(": "))
    table_rows = []
    for result in results:
        differences: list[Difference | None] = [None, *result.differences]
        for run, own, difference in zip(runs, result.intervals, differences, strict=True):
            cells = _cells(own, difference, result.num_resamples)
            table_rows.append((result.name, run, *cells, f"{result.num_resamples:,}"))
    headers = ("result", "run", "value", "95 %", "difference", "95 %", "p", "resamples")
    found = table(headers, table_rows, f"intervals {name}")
    return joined((title, found, _disagreements(rows, runs)))


def _cells(own: Interval, difference: Difference | None, num_resamples: int) -> tuple[object, ...]:
    value = (measure(own.value), _range(own))
    if difference is None or math.isnan(difference.p):
        return (*value, "–", "–", "–")
    is_significant = difference.low > 0 or difference.high < 0
    shown = f"{difference.value:+.4f}"
    text = element("strong", shown) if is_significant else shown
    least = 2 / num_resamples
    p = f"{difference.p:.3f}" if difference.p >= least else f"< {least:.2g}"
    return (*value, text, _range(difference), p)


def _range(interval: Interval) -> str:
    return f"{measure(interval.low)} to {measure(interval.high)}"


def _disagreements(rows: ComparedRows, runs: Sequence[str]) -> Markup | str:
    """For classifiers, the number and examples of the rows that only one of two runs gets right."""
    right = [[_is_right(line) for line in own] for own in rows.lines]
    if any(each is None for own in right for each in own):
        return ""
    parts = []
    for number in range(1, len(runs)):
        for good, bad in ((number, 0), (0, number)):
            found = [row for row in range(rows.size) if right[good][row] and not right[bad][row]]
            title = f"{len(found):,} rows that {runs[good]} gets right and {runs[bad]} wrong"
            shown = [example(rows.lines[bad][row]) for row in found[:MOST_EXAMPLES]]
            note = element("p", f"With the answers of {runs[bad]}.", class_="note")
            parts.append(folded(title, note, *shown))
    return joined(parts)


def _is_right(line: Mapping[str, object]) -> bool | None:
    """Whether a predicted class is right; None for other kinds of answers."""
    chosen = line.get("label", line.get("choice", line.get("prediction")))
    return None if chosen is None or "reference" not in line else chosen == line["reference"]
