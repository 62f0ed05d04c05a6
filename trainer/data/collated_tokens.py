"""Collated tokens: builds batches of tokens with the user's own collator (`data_collator`)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.data.batch import FlatBatch
from trainer.data.collators import Collator, collated
from trainer.data.tokens import TokenTable
from trainer.errors import InputError
from trainer.tasks.recipe import Axis, Recipe


def collate_with(collator: Collator, table: TokenTable, recipe: Recipe, where: str) -> None:
    """Make a table build its batches with a collator that pads rows, like those of transformers.

    The collator receives the rows of a micro batch, with input_ids, attention_mask, token_type_ids
    and the recipe's fields. Its output [B, L] is converted to a flat batch without pads. Raises
    InputError for samples of several sequences, and for a recipe that modifies batches itself.
    """
    several = len(table.sequence_offsets) != len(table.sample_offsets)
    if several or table.roles is not None or table.augment is not None:
        why = "has samples of several sequences" if several else "modifies batches itself"
        found = f"{type(recipe).__name__} {why}"
        raise InputError(f"{where}: data_collator: {found}; accepted: no data_collator")

    def changed(batch: FlatBatch, seed: int, epoch: int | None) -> FlatBatch:
        rows = _rows_of(batch, table.axes)
        made = collated(collator, rows, batch.sample_ids, seed, epoch or 0)
        return _packed(made, batch, recipe)

    table.augment = changed
    table.pure = False  # the collator may use the process's random generators


def _rows_of(batch: FlatBatch, axes: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row for each sample, in the form that tokenizers return."""
    ends = np.cumsum(batch.sequence_lengths.numpy()).tolist()
    rows = []
    for number, (start, stop) in enumerate(zip([0, *ends], ends, strict=False)):
        row: dict[str, Any] = {"input_ids": batch.input_ids[start:stop].tolist()}
        row["attention_mask"] = [1] * (stop - start)
        if batch.token_type_ids is not None:
            row["token_type_ids"] = batch.token_type_ids[start:stop].tolist()
        for name, column in batch.fields.items():
            own = column[start:stop] if axes[name] == "token" else column[number]
            row[name] = own.tolist()
        rows.append(row)
    return rows


def _packed(made: dict[str, Any], batch: FlatBatch, recipe: Recipe) -> FlatBatch:
    """The output of a collator, converted to a flat batch of the same samples."""
    ids = _tensor(made, "input_ids")
    if ids.ndim != 2 or len(ids) != batch.num_samples:
        accepted = f"[{batch.num_samples}, L], a row for each sample"
        found = f"input_ids of shape {list(ids.shape)}"
        raise InputError(f"data_collator: returned {found}; accepted: {accepted}")
    mask = made.get("attention_mask")
    seen = torch.ones_like(ids) if mask is None else _tensor(made, "attention_mask")
    seen = seen.bool()
    lengths = seen.sum(1)
    if not bool(lengths.all()):
        raise InputError("data_collator: returned a row without tokens; accepted: one or more")
    types = None if made.get("token_type_ids") is None else _tensor(made, "token_type_ids")[seen]
    declared = {name: axis for name, axis in recipe.fields.items() if name in made}
    fields = {name: _field(made, name, axis, seen) for name, axis in declared.items()}
    return FlatBatch(
        input_ids=ids[seen],
        position_ids=(seen.cumsum(1) - 1)[seen],
        sequence_lengths=lengths,
        sequence_sample=torch.arange(len(ids)),
        sample_ids=batch.sample_ids,
        token_type_ids=types,
        fields=fields,
    )


def _field(made: dict[str, Any], name: str, axis: Axis, seen: Tensor) -> Tensor:
    column = _tensor(made, name)
    if axis != "token":
        return column
    if column.shape[:2] != seen.shape:
        found = f"'{name}' of shape {list(column.shape)}"
        raise InputError(f"data_collator: returned {found}; accepted: {list(seen.shape)}")
    return column[seen]


def _tensor(made: dict[str, Any], name: str) -> Tensor:
    if name not in made:
        raise InputError(f"data_collator: returned no '{name}'; accepted: at least input_ids")
    return torch.as_tensor(made[name])
