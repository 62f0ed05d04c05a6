"""Rates: a table of the parameter groups, each with its learning rate and weight decay."""

from collections.abc import Mapping, Sequence

from rich.table import Table
from torch import nn

from trainer.rendering.layout import numbers_table
from trainer.training.parameter_groups import Group


def rates_table(
    groups: Sequence[Group], names: Mapping[nn.Parameter, str], learning_rate: float
) -> Table:
    """A table with a row for each group: parameters, sizes, learning rate and weight decay."""
    table = numbers_table("group", "tensors", "parameters", "learning rate", "weight decay")
    for group in groups:
        parameters = group["params"]
        more = f" and {len(parameters) - 1:,} more" if len(parameters) > 1 else ""
        table.add_row(
            f"{names[parameters[0]]}{more}",
            f"{len(parameters):,}",
            f"{sum(p.numel() for p in parameters):,}",
            f"{learning_rate * group['lr_scale']:.3g}",
            f"{group['weight_decay']:.3g}",
        )
    return table
