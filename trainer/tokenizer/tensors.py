"""Tensors: converts lists of numbers to arrays of PyTorch, NumPy or TensorFlow."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from trainer.errors import InputError
from trainer.tokenizer.lengths import accept

FRAMEWORKS = ("pt", "np", "tf")


def as_tensors(columns: Mapping[str, Any], framework: str) -> dict[str, Any]:
    """Convert each column to an array of the framework; a list of rows becomes [B, L].

    Lists of integers become int64, or int32 in TensorFlow. Floats become float32 in PyTorch and
    TensorFlow. Raises InputError for an unknown framework, for rows of unequal lengths, for values
    that are not numbers, and if TensorFlow is not installed.
    """
    accept("return_tensors", framework, FRAMEWORKS)
    arrays = {name: _array(name, values) for name, values in columns.items()}
    if framework == "np":
        return arrays
    if framework == "pt":
        return {name: torch.from_numpy(_narrow(array, "f")) for name, array in arrays.items()}
    tensorflow = _tensorflow()
    return {name: tensorflow.constant(_narrow(array, "fi")) for name, array in arrays.items()}


def _array(name: str, values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        return values.cpu().numpy()
    if isinstance(values, np.ndarray):
        return values
    if any(isinstance(row, (list, tuple)) and len(row) != len(values[0]) for row in values):
        raise InputError(
            f"return_tensors: the rows of {name} have unequal numbers of tokens; "
            "accepted: with padding=True"
        )
    try:
        array = np.array(values)
    except ValueError as error:
        raise InputError(f"return_tensors: {name}: {error}") from error
    if array.size == 0 or array.dtype.kind in "iu":
        return array.astype(np.int64)
    if array.dtype.kind not in "fb":
        raise InputError(f"return_tensors: {name}: found {array.dtype}; accepted: numbers")
    return array


def _narrow(array: np.ndarray, kinds: str) -> np.ndarray:
    """Convert floats to float32, or integers to int32, if `kinds` has the array's dtype.kind."""
    if array.dtype.kind not in kinds:
        return array
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int32)


def _tensorflow() -> Any:
    try:
        import tensorflow
    except ImportError as error:
        raise InputError(
            "return_tensors: 'tf' needs TensorFlow, which is not installed; "
            "it comes with the extra [tensorflow]"
        ) from error
    return tensorflow
