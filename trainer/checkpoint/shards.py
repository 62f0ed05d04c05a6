"""Tensors of a checkpoint's state/: in one file, or in one from each rank that holds some rows."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from trainer.checkpoint import files
from trainer.checkpoint.verify import CorruptCheckpoint, unreadable

if TYPE_CHECKING:
    from torch import Tensor

ROWS = "rows"
"""The entry of a part's metadata: JSON of tensor name -> [its first row, rows of the whole]."""


FAULTS: tuple[type[Exception], ...] = (
    *(FileNotFoundError, SafetensorError, ValueError, TypeError, AttributeError),
    *(RecursionError, OverflowError),
)
"""What reading a file raises that is not one of ours."""


@dataclass(frozen=True)
class Share:
    """What one rank of many holds of every parameter."""

    rank: int
    world_size: int
    rows: Mapping[str, tuple[range, int]]
    """Parameter name -> (the rows held, how many there are on all ranks)."""


def write_part(folder: Path, stem: str, tensors: "Mapping[str, Tensor]", share: Share) -> None:
    """Write one rank's rows as <stem>-00001-of-00004.safetensors.

    A tensor is named by its parameter, or <parameter>/<moment>. Single numbers are the same on
    every rank: the first one's file has them.
    """
    rows, held = {}, {}
    for name, tensor in tensors.items():
        if tensor.dim():
            own, total = share.rows[name if name in share.rows else name.rpartition("/")[0]]
            rows[name] = [own.start, total]
        if tensor.dim() or share.rank == 0:
            held[name] = tensor
    number = f"{share.rank + 1:05d}-of-{share.world_size:05d}"
    path = folder / f"{stem}-{number}.safetensors"
    files.write_tensors(path, held, {ROWS: json.dumps(rows)})


def read_tensors(folder: Path, stem: str, rows: Mapping[str, range]) -> "dict[str, Tensor]":
    """The tensors of <stem>.safetensors or of its parts, on the CPU, by name.

    Of a parameter in `rows` only these, however many ranks have written it. Raises
    CorruptCheckpoint naming the file.
    """
    pieces: dict[str, list[tuple[int, int | None, Tensor]]] = {}
    paths = _paths(folder, stem)
    for path in paths:
        for name, *piece in _pieces(path):
            pieces.setdefault(name, []).append(tuple(piece))  # type: ignore[arg-type]
    found = {}
    for name, parts in pieces.items():
        tensor = _joined(parts, rows.get(name, rows.get(name.rpartition("/")[0])))
        if tensor is None:
            raise CorruptCheckpoint(paths[0], f"the parts of {name} do not make a whole")
        found[name] = tensor
    return found


def exist(folder: Path, stem: str) -> bool:
    """Whether there are such tensors."""
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


def _pieces(path: Path) -> "Iterator[tuple[str, int, int | None, Tensor]]":
    """(name, first row, rows of the whole or None, tensor) of every tensor in a file."""
    try:
        with safe_open(path, "pt") as opened:
            rows = json.loads((opened.metadata() or {}).get(ROWS, "{}"))
            for name in opened.keys():  # noqa: SIM118 (not a mapping)
                first, total = rows.get(name, (0, None))
                if not all(type(n) is int and n >= 0 for n in (first, total or 0)):
                    raise ValueError(f"rows of {name}: {rows[name]!r:.60}")
                yield name, first, total, opened.get_tensor(name)
    except FAULTS as error:
        raise CorruptCheckpoint(path, f"not a whole safetensors file ({error})") from None
    except OSError as error:
        raise unreadable(path, error) from error


def _joined(parts: "list[tuple[int, int | None, Tensor]]", wanted: range | None) -> "Tensor | None":
    """The wanted rows (None: all), copied out of the parts; None where some are missing."""
    import torch

    _, total, tensor = parts[0]
    if tensor.dim() == 0:
        return tensor
    if total is None:
        return tensor if wanted is None else tensor[wanted.start : wanted.stop].clone()
    wanted = range(total) if wanted is None else wanted
    slices, reached = [], 0
    for first, _, tensor in parts:
        if first != reached:
            return None
        reached += tensor.shape[0]
        slices.append(tensor[max(wanted.start - first, 0) : max(wanted.stop - first, 0)])
    return torch.cat(slices) if reached == total else None
