"""The tensors in a checkpoint's state/: one file or, in a sharded run, one file per rank."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from trainer.checkpoint import files
from trainer.checkpoint.verify import CorruptCheckpoint, unreadable
from trainer.errors import allocation_failure

if TYPE_CHECKING:
    from torch import Tensor

ROWS = "rows"
"""The metadata entry of a rank's file that says which rows of each tensor the file has. It is JSON:
{tensor name: [first row, number of rows of the whole tensor]}. If the file has only some columns,
the first column and the number of columns of the whole tensor follow.
"""


FAULTS: tuple[type[Exception], ...] = (
    *(FileNotFoundError, SafetensorError, ValueError, TypeError, AttributeError),
    *(RecursionError, OverflowError),
)
"""The errors that the libraries raise for damaged files."""


@dataclass(frozen=True)
class Share:
    """The rows (or columns) of every parameter that one rank of a sharded run holds."""

    rank: int
    world_size: int
    rows: Mapping[str, tuple[range, int]]
    """Parameter name -> (the rows of this rank, the number of rows on all ranks)"""
    columns: Mapping[str, tuple[range, int]] = field(default_factory=dict)
    """Parameter name -> (the columns of this rank, the number of columns on all ranks), for
    parameters whose columns are split"""
    elsewhere: frozenset[str] = frozenset()
    """The parameters that this rank does not write, since another rank writes the same rows"""


def write_part(folder: Path, stem: str, tensors: "Mapping[str, Tensor]", share: Share) -> None:
    """Write one rank's rows as <stem>-00001-of-00004.safetensors.

    A tensor is named by its parameter, or <parameter>/<moment>. Scalars are the same on every
    rank and are only in the first file.
    """
    rows, written = {}, {}
    for name, tensor in tensors.items():
        parameter = name if name in share.rows else name.rpartition("/")[0]
        if tensor.dim() and parameter not in share.elsewhere:
            parts = [part[parameter] for part in (share.rows, share.columns) if parameter in part]
            rows[name] = [number for held, total in parts for number in (held.start, total)]
            written[name] = tensor
        if not tensor.dim() and share.rank == 0:
            written[name] = tensor
    number = f"{share.rank + 1:05d}-of-{share.world_size:05d}"
    path = folder / f"{stem}-{number}.safetensors"
    files.write_tensors(path, written, {ROWS: json.dumps(rows)})


def read_tensors(
    folder: Path,
    stem: str,
    rows: Mapping[str, range],
    columns: Mapping[str, range] = MappingProxyType({}),
) -> "dict[str, Tensor]":
    """Name -> tensor on the CPU, from <stem>.safetensors or from its parts.

    `rows` and `columns` (parameter name -> range) restrict what is read. The number of ranks that
    wrote the files may differ from the current one. Raises CorruptCheckpoint naming the file.
    """
    pieces: dict[str, list[_Piece]] = {}
    paths = _paths(folder, stem)
    for path in paths:
        for name, piece in _pieces(path):
            pieces.setdefault(name, []).append(piece)
    found = {}
    for name, parts in pieces.items():
        parameter = name if name in rows else name.rpartition("/")[0]
        try:
            tensor = _joined(parts, rows.get(parameter), columns.get(parameter))
        except (RuntimeError, IndexError, TypeError) as error:
            if allocation_failure(error):
                raise
            tensor = None  # shapes that contradict the metadata
        if tensor is None:
            raise CorruptCheckpoint(paths[0], f"the parts of {name} do not make a whole")
        found[name] = tensor
    return found


def exist(folder: Path, stem: str) -> bool:
    """Whether the folder has tensors that were written with this stem."""
    return any(folder.glob(f"{stem}.safetensors")) or any(folder.glob(f"{stem}-*.safetensors"))


def _paths(folder: Path, stem: str) -> list[Path]:
    parts = sorted(folder.glob(f"{stem}-*-of-*.safetensors"))
    if not parts:
        return [folder / f"{stem}.safetensors"]
    number = len(parts)
    for i, path in enumerate(parts, start=1):
        if path.name != f"{stem}-{i:05d}-of-{number:05d}.safetensors":
            raise CorruptCheckpoint(path, f"is not part {i} of {number}")
    return parts


@dataclass(frozen=True)
class _Piece:
    """A tensor in one file, which is a part of a whole tensor."""

    tensor: "Tensor"
    first_row: int = 0
    rows: int | None = None
    """The number of rows of the whole tensor; None if this piece is the whole."""
    first_column: int = 0
    columns: int | None = None
    """The number of columns of the whole tensor; None if this piece has all of them."""


def _pieces(path: Path) -> "Iterator[tuple[str, _Piece]]":
    """The tensors in a file by name."""
    try:
        with safe_open(path, "pt") as opened:
            rows = json.loads((opened.metadata() or {}).get(ROWS, "{}"))
            for name in opened.keys():  # noqa: SIM118 (not a mapping)
                place = rows.get(name, ())
                if len(place) not in (0, 2, 4) or not all(type(n) is int and n >= 0 for n in place):
                    raise ValueError(f"rows of {name}: {rows[name]!r:.60}")
                yield name, _Piece(opened.get_tensor(name), *place)
    except FAULTS as error:
        raise CorruptCheckpoint(path, f"not a whole safetensors file ({error})") from None
    except OSError as error:
        raise unreadable(path, error) from error


def _joined(parts: "list[_Piece]", rows: range | None, columns: range | None) -> "Tensor | None":
    """The wanted rows and columns (None: all), copied from the parts; None if some are missing."""
    tensor, total = parts[0].tensor, parts[0].rows
    if tensor.dim() == 0:
        return tensor
    if total is None:
        whole = tensor if rows is None else tensor[rows.start : rows.stop].clone()
        return whole if columns is None else whole[:, columns.start : columns.stop].clone()
    rows = range(total) if rows is None else rows
    by_columns: dict[int, list[_Piece]] = {}
    for part in parts:
        by_columns.setdefault(part.first_column, []).append(part)
    slices, reached = [], 0
    for first, same in sorted(by_columns.items()):
        joined = _rows_of(sorted(same, key=lambda part: part.first_row), total, rows)
        if joined is None or first != reached:
            return None
        if parts[0].columns is None:
            return joined if columns is None else joined[:, columns.start : columns.stop].clone()
        columns = range(parts[0].columns) if columns is None else columns
        reached += joined.shape[1]
        slices.append(joined[:, max(columns.start - first, 0) : max(columns.stop - first, 0)])
    import torch

    return torch.cat(slices, 1) if reached == parts[0].columns else None


def _rows_of(parts: "list[_Piece]", total: int, wanted: range) -> "Tensor | None":
    """The wanted rows of parts with the same columns, in order; None if some are missing."""
    import torch

    slices, reached = [], 0
    for part in parts:
        if part.first_row != reached:
            return None
        reached += part.tensor.shape[0]
        start = part.first_row
        slices.append(part.tensor[max(wanted.start - start, 0) : max(wanted.stop - start, 0)])
    return torch.cat(slices) if reached == total else None
