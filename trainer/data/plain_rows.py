"""Plain rows: rows for plain modules, with entries named like the parameters of `forward`."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.errors import InputError

ACCEPTED = "accepted: a number, a tensor or a text, of the same shape in every row"
RAGGED = "accepted: equal shapes, a list of rows, or data_collator=function that pads them"


def input_names_of(model: nn.Module) -> list[str]:
    """The names of the parameters of a model's `forward`; empty if it declares none."""
    # the `forward` of PEFT's wrapper may declare no names
    of_peft: Callable[[], nn.Module] | None = getattr(model, "get_base_model", None)
    inner = model if of_peft is None else of_peft()
    parameters = list(inspect.signature(type(inner).forward).parameters.values())[1:]
    return [
        each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]


def named(row: object, input_names: Sequence[str]) -> Mapping[str, Any]:
    """A row as a mapping. The entries of a tuple are arguments of `forward`, in order.

    If a tuple has several entries, the last one holds the labels, as in (input, target) of
    PyTorch's data sets. Raises InputError for a tuple with more inputs than `forward` has
    parameters.
    """
    if isinstance(row, Mapping):
        return row
    if hasattr(row, "_asdict"):
        return dict(row._asdict())
    if dataclasses.is_dataclass(row) and not isinstance(row, type):
        return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    entries = tuple(row) if isinstance(row, (tuple, list)) else (row,)
    inputs = [name for name in input_names if name != "labels"]
    num_inputs = len(entries) - 1 if len(entries) > 1 else 1
    if num_inputs > len(inputs):
        found = f"a {type(row).__name__} of {len(entries)}"
        takes = ", ".join(inputs) or "any keyword argument"
        raise InputError(
            f"rows of a plain data set: found {found}, and forward takes {takes}; accepted: "
            "dicts, or tuples of its parameters in order and the labels last"
        )
    names = [*inputs[:num_inputs], *["labels"] * (len(entries) > 1)]
    return dict(zip(names, entries, strict=True))


def stacked(rows: Sequence[Mapping[str, Any]], name: str) -> Any:
    """A column as one tensor, [N, ...], or a list of texts. Raises InputError for other cells."""
    where = f"column '{name}' of a plain data set"
    if missing := sum(name not in row for row in rows):
        raise InputError(f"{where}: {missing} rows do not have it; {ACCEPTED}")
    cells = [row[name] for row in rows]
    if all(isinstance(cell, str) for cell in cells):
        return cells
    try:
        tensors = [torch.as_tensor(cell) for cell in cells]
    except (TypeError, ValueError, RuntimeError) as error:
        found = " ".join(str(error).split())
        raise InputError(f"{where}: {found}; {ACCEPTED}") from error
    shapes = sorted({tuple(tensor.shape) for tensor in tensors})
    if len(shapes) > 1:
        raise InputError(f"{where}: found the shapes {shapes[0]} and {shapes[1]}; {RAGGED}")
    return torch.stack(tensors)


def shape_kinds(rows: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """[N], a number per row, equal for rows of equal shapes; None if all have equal shapes."""
    numbers: dict[tuple[Any, ...], int] = {}
    kinds = [
        numbers.setdefault(tuple((n, _shape(row[n])) for n in sorted(row)), len(numbers))
        for row in rows
    ]
    return np.array(kinds) if len(numbers) > 1 else None


def _shape(cell: object) -> tuple[int, ...]:
    if isinstance(cell, (Tensor, np.ndarray)):
        return tuple(cell.shape)
    if isinstance(cell, (list, tuple)):
        return (len(cell), *(_shape(cell[0]) if cell else ()))
    return ()
