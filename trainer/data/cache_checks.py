"""Checks that a cache entry's arrays are a valid token table for a recipe and a tokenizer."""

import json
from collections.abc import Mapping

import numpy as np

from trainer.tasks.recipe import Axis

OFFSETS = ("sequence_offsets", "sample_offsets")
DROPPED = ("dropped", "reasons")
"""The arrays with the indices of dropped rows, and with the reasons as the bytes of a JSON list."""


def fault_of(
    arrays: Mapping[str, np.ndarray],
    axes: Mapping[str, Axis],
    vocab_size: int,
    num_rows: int | None = None,
    num_roles: int = 0,
) -> str | None:
    """A short description of what is wrong with the arrays; None if they are valid.

    Token ids must be below `vocab_size` and roles below `num_roles`. Offsets must ascend from 0 to
    the length of the array that they cut into parts. Each field must have one entry for each token,
    sequence or sample, depending on its axis. Collating relies on these checks.
    """
    for name in ("input_ids", *OFFSETS):
        if name not in arrays:
            return f"no {name}"
        if arrays[name].ndim != 1 or arrays[name].dtype.kind != "i":
            return f"{name} is not a row of whole numbers"
    tokens = len(arrays["input_ids"])
    sequences, samples = (len(arrays[name]) - 1 for name in OFFSETS)
    ends = {"sequence_offsets": tokens, "sample_offsets": sequences}
    for name, end in ends.items():
        if not _ascends(arrays[name], end):
            return f"{name} does not ascend from 0 to {end}"
    ids = arrays["input_ids"]
    if not tokens or ids.min() < 0 or ids.max() >= vocab_size:
        return f"input_ids beyond the {vocab_size} tokens of the tokenizer"
    if fault := _dropped_fault(arrays, num_rows):
        return fault
    lengths = {"token": tokens, "sequence": sequences, "sample": samples}
    if fault := _fields_fault(arrays, axes, lengths):
        return fault
    roles = arrays.get("roles", np.zeros(0))
    if len(roles) and not 0 <= roles.min() <= roles.max() < num_roles:
        return f"roles beyond the {num_roles} of the recipe"
    return None


def _dropped_fault(arrays: Mapping[str, np.ndarray], num_rows: int | None) -> str | None:
    found = [arrays[name] for name in DROPPED if name in arrays]
    if not found:
        return None
    if len(found) < 2 or any(a.ndim != 1 for a in found) or found[0].dtype.kind != "i":
        return "dropped rows without reasons"
    numbers, reasons = found[0], json.loads(found[1].tobytes())
    texts = isinstance(reasons, list) and all(isinstance(reason, str) for reason in reasons)
    if not texts or len(reasons) != len(numbers):
        return "dropped rows without reasons"
    if len(numbers) and (numbers.min() < 0 or numbers.max() >= (num_rows or np.inf)):
        return f"dropped rows beyond the {num_rows} rows"
    return None


def _fields_fault(
    arrays: Mapping[str, np.ndarray], axes: Mapping[str, Axis], lengths: Mapping[str, int]
) -> str | None:
    wanted = {f"field.{name}": lengths[axis] for name, axis in axes.items()}
    wanted |= {"token_type_ids": lengths["token"], "rows": lengths["sample"]}
    wanted |= {"sequence_rows": lengths["sequence"]}
    wanted["roles"] = lengths["sequence"]
    for name, array in arrays.items():
        if name in ("input_ids", *OFFSETS, *DROPPED):
            continue
        if name.startswith("count."):
            if array.ndim or array.dtype.kind != "i" or array < 0:
                return f"{name} is not a number"
        elif name not in wanted:
            return f"{name}, which the recipe does not have"
        elif array.ndim not in (1, 2) or array.dtype.kind not in "bif":
            return f"{name} does not hold numbers"
        elif len(array) != wanted[name]:
            return f"{name} has {len(array)} entries, not {wanted[name]}"
    return None


def _ascends(offsets: np.ndarray, end: int) -> bool:
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != end:
        return False
    return bool((offsets[1:] >= offsets[:-1]).all())
