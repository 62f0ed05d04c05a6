"""Class report: the table by class, and the confusion matrix coloured by share of its row."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from trainer.rendering.figures import measure
from trainer.rendering.layout import numbers_table

MAX_CLASSES = 20
"""More than these are a matter for results.json."""
LABEL_WIDTH = 24


def class_report(report: Mapping[str, Any], width: int) -> RenderableType | None:
    """The report of `ClassReport.to_dict()` in `width` columns; None if there are too many classes.

    The matrix is left out where it does not fit.
    """
    if len(report["classes"]) > MAX_CLASSES:
        return None
    parts: list[RenderableType] = [class_table(report["classes"])]
    if report["confusion"]:
        matrix = confusion_matrix(report["classes"], report["confusion"])
        if _width(matrix) <= width:
            parts += [Text("\ntrue class below, predicted class across", style="dim"), matrix]
    return Group(*parts)


def class_table(classes: list[Mapping[str, Any]]) -> Table:
    """Precision, recall, F1 and support, a line for each class."""
    table = numbers_table("class", "precision", "recall", "f1", "support")
    for number, row in enumerate(classes):
        values = [measure(row[key]) for key in ("precision", "recall", "f1")]
        table.add_row(_label(number, row), *values, f"{row['support']:,}")
    return table


def confusion_matrix(classes: list[Mapping[str, Any]], confusion: list[list[int]]) -> Table:
    """[true][predicted] samples; what is right is green, large shares of errors stand out."""
    table = numbers_table("", *(str(number) for number in range(len(classes))))
    table.padding = (0, 1, 0, 0)
    for number, (row, counts) in enumerate(zip(classes, confusion, strict=True)):
        cells = [_cell(n, sum(counts), k == number) for k, n in enumerate(counts)]
        table.add_row(_label(number, row), *cells)
    return table


def _cell(samples: int, support: int, right: bool) -> Text:
    if samples == 0:
        return Text(".", style="dim")
    part = samples / support
    style = "green" if right else "red" if part >= 0.2 else "yellow" if part >= 0.05 else ""
    return Text(str(samples), style=style)


def _label(number: int, row: Mapping[str, Any]) -> Text:
    label = Text(f"{number:>2} ", style="dim").append(str(row["label"]), style="not dim")
    label.truncate(LABEL_WIDTH, overflow="ellipsis")
    return label


def _width(table: Table) -> int:
    from rich.console import Console

    wide = Console(width=10_000)
    return Measurement.get(wide, wide.options, table).maximum
