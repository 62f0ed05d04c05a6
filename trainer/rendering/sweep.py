"""Sweep summary: the jobs of a sweep in a table, and the best of them."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from trainer.launching.sweep_results import JobResult, best
from trainer.rendering.figures import measure
from trainer.rendering.layout import labelled, numbers_table


def sweep_summary(results: Sequence[JobResult], file: str) -> RenderableType:
    """What differs, how each job ended and how good it got; `file` holds the same."""
    metric = next((result.metric for result in results if result.metric), "metric")
    table = numbers_table(*results[0].values, "status", metric, "step", "output")
    for column in table.columns:
        column.justify = "right" if column.header in (metric, "step") else "left"
    for result in results:
        step = "" if result.step is None else f"{result.step:,}"
        facts = [result.status, measure(result.value), step, str(result.output_dir)]
        table.add_row(*result.values.values(), *facts)
    found = best(results)
    lines = {"written to": file}
    if found is not None:
        lines = {"best": f"{found.output_dir} ({found.metric} {measure(found.value)})"} | lines
    return Group(Text(), table, Text(), labelled(lines))
