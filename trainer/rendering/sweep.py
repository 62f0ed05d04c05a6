"""Sweep summary: a table of the jobs of a sweep, and the best job."""

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from trainer.rendering.figures import measure
from trainer.rendering.layout import labelled, numbers_table
from trainer.runs.sweep_records import JobRecord
from trainer.runs.sweep_results import best, swept_keys


def sweep_summary(results: Sequence[JobRecord], file: str) -> RenderableType:
    """A table of the jobs: the settings that differ, the status and the best metric.

    `file` is the path of a CSV file with the same table.
    """
    metric = next((result.metric for result in results if result.metric), "metric")
    swept = swept_keys(results)
    table = numbers_table(*swept, "status", metric, "step", "output")
    for column in table.columns:
        column.justify = "right" if column.header in (metric, "step") else "left"
    for result in results:
        step = "" if result.step is None else f"{result.step:,}"
        value = math.nan if result.value is None else result.value
        facts = [result.status, measure(value), step, result.output_dir]
        table.add_row(*(result.values.get(key, "") for key in swept), *facts)
    found = best(results)
    lines = {"written to": file}
    if found is not None:
        lines = {
            "best": f"{found.output_dir} ({found.metric} {measure(found.value or 0.0)})"
        } | lines
    return Group(Text(), table, Text(), labelled(lines))
