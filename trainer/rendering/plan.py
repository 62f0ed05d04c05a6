"""The output of job=plan: a model's size and files, and the memory that a training step needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.table import Table
from rich.text import Text

from trainer.plurals import plural
from trainer.rendering.layout import labelled, numbers_table

UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


@dataclass(frozen=True)
class Plan:
    """The results of `job=plan` as numbers."""

    path: str
    model_type: str
    parameters: int
    trained: int
    files: Sequence[str]
    file_bytes: int
    stored: Mapping[str, int]
    """Data type in the files -> number of values with this type."""
    optimizer: str
    tokens: int
    """The number of tokens in the micro batch for which `activations` were computed."""
    length: int
    """The number of tokens in each sequence of the micro batch."""
    rows: Sequence[tuple[str, str, Mapping[str, int]]] = ()
    """(strategy, devices, precision -> bytes on one device without activations)."""
    activations: Mapping[str, Mapping[str, int | None]] = field(default_factory=dict)
    """Description of the saved activations -> precision -> bytes; None: unknown until the model
    runs."""


def plan_summary(plan: Plan) -> Text:
    """The model's size, its files and the optimizer, as labeled lines."""
    share = f" ({plan.trained:,} trained)" if plan.trained != plan.parameters else ""
    lines = {
        "model": f"{plan.path} ({plan.model_type})",
        "parameters": f"{plan.parameters:,}{share}",
    }
    if plan.files:
        kinds = ", ".join(f"{count:,} {name}" for name, count in sorted(plan.stored.items()))
        lines["files"] = f"{plural(len(plan.files), 'file')}, {in_bytes(plan.file_bytes)}"
        lines["files"] += f": {kinds}" if kinds else ""
    lines["optimizer"] = plan.optimizer
    return labelled(lines)


def memory_table(plan: Plan) -> Table:
    """The memory of a step on one device: a row for each strategy, a column for each precision."""
    precisions = list(plan.rows[0][2])
    table = numbers_table("memory of a step on each device", "devices", *precisions)
    for strategy, devices, sizes in plan.rows:
        table.add_row(strategy, devices, *(in_bytes(sizes[name]) for name in precisions))
    sequences = plural(max(1, plan.tokens // plan.length), "sequence")
    for number, (what, found) in enumerate(plan.activations.items()):
        label = what if number else f"{what} of {sequences} of {plan.length:,} tokens"
        table.add_row(label, "", *(_added_bytes(found[name]) for name in precisions))
    return table


def _added_bytes(number: int | None) -> str:
    return "?" if number is None else f"+ {in_bytes(number)}"


def in_bytes(number: int) -> str:
    """A number of bytes in decimal units, which are usual for files and models: 4.2 GB."""
    for unit, size in UNITS:
        if number >= 0.99995 * size:  # 1.0 MB, not 1,000.0 kB
            return f"{number / size:,.1f} {unit}"
    return f"{number} B"
