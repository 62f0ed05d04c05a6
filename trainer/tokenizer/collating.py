"""Collating: encodings of single texts, of any framework, to one batch with rows of one length."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trainer.errors import InputError, RowError
from trainer.tokenizer.lengths import Lengths

PADS = {"attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1}
"""What a pad position has beside pad_token_id as its input_id."""


def collate(
    encoded: Mapping[str, Any] | Sequence[Mapping[str, Any]], shape: Lengths, masked: bool
) -> tuple[dict[str, Any], str | None]:
    """Columns [B] of rows that are padded as `shape` says, and the framework that they came in.

    One text's encoding stays one. With `masked` an attention_mask is made where there is none.
    """
    columns = dict(encoded) if isinstance(encoded, Mapping) else _columns(list(encoded))
    if "input_ids" not in columns:
        found = ", ".join(columns) or "nothing"
        raise InputError(f"encoded_inputs: found {found}; accepted: encodings with input_ids")
    framework = _framework(columns["input_ids"])
    columns = {name: _plain(values) for name, values in columns.items()}
    single = bool(columns["input_ids"]) and isinstance(columns["input_ids"][0], int)
    if single:
        columns = {name: [values] for name, values in columns.items()}
    rows = columns["input_ids"]
    if masked and "attention_mask" not in columns:
        columns["attention_mask"] = [[1] * len(row) for row in rows]
    if shape.padding != "do_not_pad":
        _pad(columns, shape)
    return ({name: rows[0] for name, rows in columns.items()} if single else columns), framework


def _columns(encodings: list[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = list(encodings[0]) if encodings else []
    for row, encoding in enumerate(encodings):
        if not isinstance(encoding, Mapping) or set(encoding) != set(names):
            found = ", ".join(encoding) if isinstance(encoding, Mapping) else repr(encoding)
            accepted = f"what the first row has: {', '.join(names)}"
            raise RowError(row, f"encoded_inputs[{row}]: found {found:.80}; accepted: {accepted}")
    return {name: [encoding[name] for encoding in encodings] for name in names}


def _framework(rows: Any) -> str | None:
    """The return_tensors that gives what the rows are."""
    first = rows[0] if isinstance(rows, (list, tuple)) and rows else rows
    if isinstance(first, torch.Tensor):
        return "pt"
    if isinstance(first, np.ndarray):
        return "np"
    return "tf" if hasattr(first, "numpy") else None


def _plain(values: Any) -> Any:
    if isinstance(values, (list, tuple)):
        return [_plain(value) for value in values]
    if isinstance(values, torch.Tensor):
        return values.tolist()
    if hasattr(values, "numpy"):
        values = values.numpy()
    return values.tolist() if isinstance(values, (np.ndarray, np.generic)) else values


def _pad(columns: dict[str, Any], shape: Lengths) -> None:
    """Lengthen each row of the columns that are made of tokens."""
    rows = columns["input_ids"]
    length = shape.limit if shape.padding == "max_length" else max(map(len, rows), default=0)
    multiple = shape.pad_to_multiple_of or 1
    length = -(-length // multiple) * multiple
    missing = [max(0, length - len(row)) for row in rows]
    for name, pad in {"input_ids": shape.pad_token_id, **PADS}.items():
        if name in columns:
            _check_lengths(name, columns[name], rows)
            pairs = [(row, [pad] * n) for row, n in zip(columns[name], missing, strict=True)]
            left = shape.padding_side == "left"
            columns[name] = [pads + row if left else row + pads for row, pads in pairs]


def _check_lengths(name: str, values: list[Any], rows: list[list[int]]) -> None:
    for row, (found, ids) in enumerate(zip(values, rows, strict=True)):
        if len(found) != len(ids):
            there = f"{len(found)} numbers for {len(ids)} input_ids"
            raise RowError(row, f"encoded_inputs[{row}]: {name} has {there}; accepted: as many")
