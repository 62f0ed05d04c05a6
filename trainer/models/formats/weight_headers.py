"""The headers of safetensors files, read from a folder or requested from the hub or a store."""

import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

from trainer import hub
from trainer.errors import InputError
from trainer.foreign.json_values import parse_json
from trainer.models.formats.weight_files import (
    INDEX,
    SINGLE,
    read_weight_map,
    shard_path,
    why_invalid,
)
from trainer.stores.store import Store, size_of
from trainer.stores.url import is_in_store

_Entry = tuple[Sequence[int], str, tuple[int, int]]
"""Shape, data type, and the byte offsets at which the values start and end"""
LONGEST_HEADER = 100_000_000
"""In bytes; the package safetensors refuses longer headers."""


@dataclass(frozen=True)
class WeightHeaders:
    """The tensors of safetensors files, without the values."""

    files: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    """Tensor -> shape"""
    dtypes: Mapping[str, str]
    """Tensor -> the format's name of its data type, such as BF16"""
    num_bytes: int
    """The number of bytes of all values"""

    @property
    def parameters(self) -> dict[str, int]:
        """Data type -> number of values."""
        found: Counter[str] = Counter()
        for name, shape in self.shapes.items():
            found[self.dtypes[name]] += prod(shape)
        return dict(found)


def read_headers(path: str, folder: Path, revision: str | None = None) -> WeightHeaders:
    """Read the headers of the weights of `path`; `folder` is the result of `hub.find` for this
    path.

    If the weights of a repository or an object store are not on this machine, only the headers are
    requested. Raises InputError if there are no safetensors files or they are damaged.
    """
    path, revision = hub.of_url(path, revision, "model.path")
    files = _local_files(folder)
    if files is None and is_in_store(path):
        return _headers_from_store(path, folder)
    if files is None and hub.is_remote(path):
        return _headers_from_hub(path, revision)
    if files is None:
        raise InputError(f"{folder}: has no {SINGLE}, and not all shards of an {INDEX}")
    tensors = {name: entry for file in files for name, entry in _header(file).items()}
    return _headers(tuple(file.name for file in files), tensors)


def _local_files(folder: Path) -> list[Path] | None:
    """The weight files of a folder; None if a file is missing."""
    names = [SINGLE]
    if not (folder / SINGLE).exists():
        if not (folder / INDEX).exists():
            return None
        names = sorted(set(read_weight_map(folder / INDEX).values()))
    files = [shard_path(folder / INDEX, name) for name in names]
    return files if all(file.exists() for file in files) else None


def _headers_from_store(url: str, folder: Path) -> WeightHeaders:
    """Read each header in an object store with two requests; `folder` has the other files."""
    store = Store(url, "model.path")
    sizes = {name: size_of(identity) for name, identity in store.listing().items()}
    names = [SINGLE]
    if SINGLE not in sizes and (folder / INDEX).exists():
        names = sorted(set(read_weight_map(folder / INDEX).values()))
    tensors: dict[str, _Entry] = {}
    for name in names:
        if name not in sizes:
            raise InputError(f"model.path: {url}: has no {name}; accepted: safetensors files")
        read = partial(_read_span, store, name)
        tensors |= _entries(shard_path(folder / INDEX, name), sizes[name], read)
    return _headers(tuple(names), tensors)


def _read_span(store: Store, name: str, start: int, end: int) -> bytes:
    return store.read(name, (start, end))


def _header(file: Path) -> dict[str, _Entry]:
    """Read the tensors of a file from its header, and check them against the file's size."""

    def read(start: int, end: int) -> bytes:
        stream.seek(start)
        return stream.read(end - start)

    with file.open("rb") as stream:
        return _entries(file, file.stat().st_size, read)


def _entries(file: Path, size: int, read: Callable[[int, int], bytes]) -> dict[str, _Entry]:
    """Read the tensors of a file of `size` bytes from its header, with `read(start, end)`."""
    try:
        (length,) = struct.unpack("<Q", read(0, min(8, size)))
        if length > min(LONGEST_HEADER, size):
            raise ValueError("the header is longer than the file")
        header = parse_json(read(8, min(8 + length, size)).decode("utf-8"))
        found: dict[str, _Entry] = {
            name: ([int(n) for n in entry["shape"]], str(entry["dtype"]), _span(entry))
            for name, entry in header.items()
            if name != "__metadata__"
        }
        if 8 + length + max(end for *_, (_, end) in found.values()) != size:
            raise ValueError("the values do not end at the end of the file")
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        fault = why_invalid(file, "safetensors", error) if file.exists() else f"damaged ({error})"
        raise InputError(f"{file}: {fault}") from None
    return found


def _span(entry: Mapping[str, Sequence[int]]) -> tuple[int, int]:
    start, end = entry["data_offsets"]
    return int(start), int(end)


def _headers_from_hub(path: str, revision: str | None) -> WeightHeaders:
    """Read the headers of a repository's files, each with one or two range requests."""
    from huggingface_hub import HfApi, constants

    with hub.errors_in_one_line(path, "model.path", revision):
        api = HfApi(endpoint=constants.ENDPOINT)
        found = api.get_safetensors_metadata(path, revision=revision)
    tensors = {
        name: (info.shape, info.dtype, info.data_offsets)
        for file in found.files_metadata.values()
        for name, info in file.tensors.items()
    }
    return _headers(tuple(sorted(found.files_metadata)), tensors)


def _headers(files: tuple[str, ...], tensors: Mapping[str, _Entry]) -> WeightHeaders:
    shapes = {name: tuple(shape) for name, (shape, _, _) in tensors.items()}
    dtypes = {name: dtype for name, (_, dtype, _) in tensors.items()}
    return WeightHeaders(
        files, shapes, dtypes, sum(end - start for *_, (start, end) in tensors.values())
    )
