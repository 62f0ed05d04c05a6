"""Class report: a table of metrics by class, and a colored confusion matrix."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from trainer.rendering.figures import measure
from trainer.rendering.layout import numbers_table

MAX_CLASSES = 20
"""The maximum number of classes to show; results.json has the metrics of all classes."""
LABEL_WIDTH = 24
SHORTEST_LABEL = 8
WIDTH_OF_F1 = len("  0.0000  support")
"""The width, in characters, of the columns beside the label in a table with only F1 and support."""


def class_report(report: Mapping[str, Any], width: int) -> RenderableType | None:
    """Format the result of `ClassReport.to_dict()`; returns None if there are too many classes.

    If precision and recall do not fit in `width` columns, they are left out. The confusion matrix
    is left out too if it does not fit.
    """
    if len(report["classes"]) > MAX_CLASSES:
        return None
    table = class_table(report["classes"])
    if _width(table) > width:
        label_width = max(SHORTEST_LABEL, min(LABEL_WIDTH, width - WIDTH_OF_F1))
        table = class_table(report["classes"], ("f1",), label_width)
    parts: list[RenderableType] = [table]
    if report["confusion"]:
        matrix = confusion_matrix(report["classes"], report["confusion"])
        if _width(matrix) <= width:
            parts += [Text("\nrows: true class, columns: predicted class", style="dim"), matrix]
    return Group(*parts)


def class_table(
    classes: list[Mapping[str, Any]],
    figures: Sequence[str] = ("precision", "recall", "f1"),
    label_width: int = LABEL_WIDTH,
) -> Table:
    """A table with precision, recall, F1 and support in one line for each class."""
    table = numbers_table("class", *figures, "support")
    for number, row in enumerate(classes):
        values = [measure(row[key]) for key in figures]
        table.add_row(_label(number, row, label_width), *values, f"{row['support']:,}")
    return table


def confusion_matrix(classes: list[Mapping[str, Any]], confusion: list[list[int]]) -> Table:
    """A table of `confusion`, the numbers of samples [true class][predicted class].

    Correct samples are green. Errors are yellow or red if they are a large share of their row.
    """
    table = numbers_table("", *(str(number) for number in range(len(classes))))
    table.padding = (0, 1, 0, 0)
    for number, (row, counts) in enumerate(zip(classes, confusion, strict=True)):
        cells = [_cell(n, sum(counts), k == number) for k, n in enumerate(counts)]
        table.add_row(_label(number, row, LABEL_WIDTH), *cells)
    return table


def _cell(samples: int, support: int, right: bool) -> Text:
    if samples == 0:
        return Text(".", style="dim")
    part = samples / support
    style = "green" if right else "red" if part >= 0.2 else "yellow" if part >= 0.05 else ""
    return Text(str(samples), style=style)


def _label(number: int, row: Mapping[str, Any], width: int) -> Text:
    label = Text(f"{number:>2} ", style="dim").append(str(row["label"]), style="not dim")
    label.truncate(width, overflow="ellipsis")
    return label


def _width(table: Table) -> int:
    from rich.console import Console

    wide = Console(width=10_000)
    return Measurement.get(wide, wide.options, table).maximum
