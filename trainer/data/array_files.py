"""Array files: .npy files that are written piece by piece and memory-mapped."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from trainer.checkpoint import files

PIECE = 16 << 20
"""The number of bytes of an array that are written at a time."""
VERSION = (1, 0)
"""The version of the .npy format."""


def array_pieces(
    arrays: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype
) -> Iterator[bytes]:
    """Yield the bytes of a .npy file with the concatenation of `arrays`, whose shape is `shape`."""
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype)
    entries = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, entries)
    yield header.getvalue()
    for array in arrays:
        flat = np.ascontiguousarray(array).reshape(-1)
        size = max(1, PIECE // dtype.itemsize)
        for start in range(0, len(flat), size):
            yield flat[start : start + size].tobytes()


def map_array(path: Path) -> np.ndarray:
    """The array in a .npy file, memory-mapped. Raises ValueError for another format."""
    with open(path, "rb") as file:
        return mapped(file)


def mapped(file: io.BufferedReader) -> np.ndarray:
    """The array in an open .npy file, memory-mapped. Raises ValueError for another format."""
    if np.lib.format.read_magic(file) != VERSION:
        raise ValueError("another version of the format")
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError("holds objects")
    if 0 in shape:
        return np.empty(shape, dtype)
    order: Literal["C", "F"] = "F" if by_column else "C"
    # A plain array: indexing a np.memmap would create a new np.memmap each time.
    return np.asarray(np.memmap(file, dtype, "r", file.tell(), shape, order))


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file."""
    files.write_pieces(path, array_pieces([array], array.shape, array.dtype))
