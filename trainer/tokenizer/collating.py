"""Collating: combines encodings of single texts, in any framework, into one padded batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trainer.errors import InputError, RowError
from trainer.tokenizer.lengths import Lengths

PADS = {"attention_mask": 0, "special_tokens_mask": 1}
"""A column -> its pad value, for columns whose pad value does not depend on the tokenizer."""


def collate(
    encoded: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    shape: Lengths,
    masked: bool,
    main: str = "input_ids",
) -> tuple[dict[str, Any], str | None]:
    """The columns of the batch, padded to `shape`, and the framework of the inputs.

    The encoding of a single text keeps its shape, without a batch axis. With `masked`, a missing
    attention_mask is added. `main` is the column that determines the lengths.
    """
    columns = dict(encoded) if isinstance(encoded, Mapping) else _columns(list(encoded))
    if main not in columns:
        found = ", ".join(columns) or "nothing"
        raise InputError(f"encoded_inputs: found {found}; accepted: encodings with {main}")
    framework = _framework(columns[main])
    columns = {name: _plain(values) for name, values in columns.items()}
    single = bool(columns[main]) and isinstance(columns[main][0], int)
    if single:
        columns = {name: [values] for name, values in columns.items()}
    rows = columns[main]
    if masked and "attention_mask" not in columns:
        columns["attention_mask"] = [[1] * len(row) for row in rows]
    if shape.padding != "do_not_pad":
        _pad(columns, shape, main)
    return ({name: rows[0] for name, rows in columns.items()} if single else columns), framework


def _columns(encodings: list[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = list(encodings[0]) if encodings else []
    for row, encoding in enumerate(encodings):
        if not isinstance(encoding, Mapping) or set(encoding) != set(names):
            found = ", ".join(encoding) if isinstance(encoding, Mapping) else repr(encoding)
            accepted = f"what the first row has: {', '.join(names)}"
            raise RowError(row, f"encoded_inputs[{row}]: found {found:.80}; accepted: {accepted}")
    return {name: [encoding[name] for encoding in encodings] for name in names}


def _framework(rows: object) -> str | None:
    """The value of `return_tensors` for rows of this type; None for lists."""
    first = rows[0] if isinstance(rows, (list, tuple)) and rows else rows
    if isinstance(first, torch.Tensor):
        return "pt"
    if isinstance(first, np.ndarray):
        return "np"
    return "tf" if hasattr(first, "numpy") else None


def _plain(values: object) -> Any:
    if isinstance(values, (list, tuple)):
        return [_plain(value) for value in values]
    if isinstance(values, torch.Tensor):
        return values.tolist()
    if hasattr(values, "numpy"):
        values = values.numpy()
    return values.tolist() if isinstance(values, (np.ndarray, np.generic)) else values


def _pad(columns: dict[str, Any], shape: Lengths, main: str) -> None:
    """Pad, in place, the rows of all columns that have one value per token."""
    rows = columns[main]
    length = shape.limit if shape.padding == "max_length" else max(map(len, rows), default=0)
    multiple = shape.pad_to_multiple_of or 1
    length = -(-length // multiple) * multiple
    missing = [max(0, length - len(row)) for row in rows]
    pads_of = {**PADS, "token_type_ids": shape.pad_token_type_id, main: shape.pad_token_id}
    for name, pad in pads_of.items():
        if name in columns:
            _check_lengths(name, columns[name], rows, main)
            pairs = [(row, [pad] * n) for row, n in zip(columns[name], missing, strict=True)]
            left = shape.padding_side == "left"
            columns[name] = [pads + row if left else row + pads for row, pads in pairs]


def _check_lengths(name: str, values: list[Any], rows: list[list[int]], main: str) -> None:
    for row, (found, ids) in enumerate(zip(values, rows, strict=True)):
        if len(found) != len(ids):
            there = f"{len(found)} numbers for {len(ids)} {main}"
            raise RowError(row, f"encoded_inputs[{row}]: {name} has {there}; accepted: as many")
