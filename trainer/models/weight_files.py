"""The safetensors files of a model's folder, single or sharded: checked, then read by name."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from torch import Tensor

from trainer.errors import InputError
from trainer.foreign_json import parse_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class WeightFiles:
    """Open files that read a tensor when it is asked for. A context manager.

    Raises InputError, one line, for a folder without safetensors, for files that are not what
    they are named, and for an index that contradicts its shards or leaves the folder.
    """

    single, index, pattern, kind = SINGLE, INDEX, "model*.safetensors", "safetensors"
    """The names of a single file, of the shards' index and of all such files, and the format's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self._source: dict[str, Any] = {}
        try:
            if (folder / self.single).exists():
                self._add(folder / self.single, None)
            elif (folder / self.index).exists():
                self._add_shards(_read_weight_map(folder / self.index))
            else:
                raise InputError(self._no_weights())
        except BaseException:
            self._stack.close()
            raise

    @property
    def names(self) -> list[str]:
        """The names of the tensors, as in the files."""
        return list(self._source)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return tuple(self._source[name].get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """A tensor; its memory may be the file's, so whoever keeps it makes a copy."""
        try:
            return self._source[name].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{self.folder}: tensor {name} cannot be read ({error})") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _add_shards(self, weight_map: dict[str, str]) -> None:
        shards: dict[str, list[str]] = {}
        for name, shard in weight_map.items():
            shards.setdefault(shard, []).append(name)
        for shard, names in shards.items():
            self._add(_shard_path(self.folder / self.index, shard), names)

    def _add(self, file: Path, names: Iterable[str] | None) -> None:
        opened = self._stack.enter_context(_open(file))
        present = set(opened.keys())
        for name in present if names is None else names:
            if name not in present:
                raise InputError(f"{file}: has no tensor {name}, where {INDEX} says it is")
            self._source[name] = opened

    def _no_weights(self) -> str:
        if list(self.folder.glob("tf_model*.h5")) and self.kind == "safetensors":
            return f"{self.folder}: has weights only as tf_model.h5; from_tf=True reads them"
        pickles = sorted(file.name for file in self.folder.glob("*.bin"))
        if pickles:
            return (
                f"{self.folder}: has weights only as {pickles[0]}, a pickle, which is never opened "
                f"here; accepted: {self.single}"
            )
        accepted = f"{self.single}, or shards with {self.index}"
        return f"{self.folder}: has no weights; accepted: {accepted}"


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except FileNotFoundError:
        raise InputError(f"{file}: there is no such file, but {INDEX} names it") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: {what_it_is(file, WeightFiles.kind, error)}") from None


def what_it_is(file: Path, kind: str, error: Exception) -> str:
    """Why a file is none of this kind."""
    if not file.is_file():
        return "is not a file"
    with file.open("rb") as stream:
        start = stream.read(512)
    if not start:
        return "is empty (0 bytes); download it again"
    if start.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the weights; run `git lfs pull` in its repository"
    if start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "is an HTML page, not the weights; download it again"
    reason = str(error).splitlines()[0]
    return f"is truncated or no {kind} file ({reason})"


def _read_weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = parse_json(index.read_text(encoding="utf-8"))["weight_map"]
        valid = all(isinstance(shard, str) for shard in weight_map.values()) and weight_map
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        valid = False
    if not valid:
        raise InputError(f"{index}: accepted: a JSON object whose weight_map names a file a tensor")
    return weight_map


def _shard_path(index: Path, shard: str) -> Path:
    """The file of a shard, which must lie in the folder of its index.

    A snapshot of the hub's cache is a folder of links into the blobs of the same repository:
    those, and no others, may lead out of it.
    """
    folder = index.parent
    allowed = [folder.resolve()]
    if folder.parent.name == "snapshots":
        allowed.append((folder.parent.parent / "blobs").resolve())
    file = folder / shard
    bare = shard not in ("", ".", "..") and "/" not in shard and "\\" not in shard
    if not bare or file.resolve().parent not in allowed:
        raise InputError(f"{index}: found the shard '{shard}'; accepted: a file beside it")
    return file
