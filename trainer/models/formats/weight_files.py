"""The safetensors files of a model's folder, single or sharded; tensors are read by name."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from torch import Tensor

from trainer.errors import InputError
from trainer.foreign.json_values import parse_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
NUMBER = "[0-9]" * 5
SHARDS = f"-{NUMBER}-of-{NUMBER}"
"""The pattern of the end of a shard's name, before its suffix."""


class WeightFiles:
    """A context manager with open weight files, which reads tensors on demand.

    Raises InputError for a folder without safetensors and for files whose format does not match
    their name. It also raises InputError for an index that contradicts its shards or points outside
    the folder.
    """

    single, index, pattern, kind = SINGLE, INDEX, "model*.safetensors", "safetensors"
    """The names of a single file and of the index of shards, the pattern of weight files, and the
    name of the format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self._source: dict[str, Any] = {}
        try:
            if (folder / self.single).exists():
                self._add(folder / self.single, None)
            elif (folder / self.index).exists():
                self._add_shards(read_weight_map(folder / self.index))
            else:
                raise InputError(self._why_no_weights())
        except BaseException:
            self._stack.close()
            raise

    @property
    def names(self) -> list[str]:
        """The names of the tensors in the files."""
        return list(self._source)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading its values."""
        return tuple(self._source[name].get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """Read a tensor. It may share memory with the file: copy it before the file is closed."""
        try:
            return self._source[name].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{self.folder}: tensor {name} cannot be read ({error})") from None

    def read_rows(self, name: str, rows: range) -> Tensor:
        """Read some rows of a tensor without reading the others."""
        try:
            return self._source[name].get_slice(name)[rows.start : rows.stop]
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
            self._add(shard_path(self.folder / self.index, shard), names)

    def _add(self, file: Path, names: Iterable[str] | None) -> None:
        opened = self._stack.enter_context(_open(file))
        present = set(opened.keys())
        for name in present if names is None else names:
            if name not in present:
                raise InputError(f"{file}: has no tensor {name}, although {INDEX} lists it")
            self._source[name] = opened

    def _why_no_weights(self) -> str:
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


def saved_weights(folder: Path) -> list[Path]:
    """The weights that an earlier save left in a folder; other files may be the user's own."""
    patterns = (SINGLE, INDEX, f"model{SHARDS}.safetensors")
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except FileNotFoundError:
        raise InputError(f"{file}: missing, but {INDEX} lists it") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: {why_invalid(file, WeightFiles.kind, error)}") from None


def why_invalid(file: Path, kind: str, error: Exception) -> str:
    """Explain why a file is not a valid file of this kind."""
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
    return f"is truncated or not a {kind} file ({reason})"


def read_weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> shard file, from an index of shards. Raises InputError if it is invalid."""
    try:
        weight_map = parse_json(index.read_text(encoding="utf-8"))["weight_map"]
        valid = all(isinstance(shard, str) for shard in weight_map.values()) and weight_map
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        valid = False
    if not valid:
        raise InputError(f"{index}: accepted: a JSON object whose weight_map maps tensors to files")
    return weight_map


def shard_path(index: Path, shard: str) -> Path:
    """The file of a shard, which must be in the folder of its index.

    A snapshot in the hub's cache is a folder of links to blobs of the same repository; only such
    links may point outside the folder.
    """
    folder = index.parent
    allowed = [folder.resolve()]
    if folder.parent.name == "snapshots":
        allowed.append((folder.parent.parent / "blobs").resolve())
    file = folder / shard
    bare = shard not in ("", ".", "..") and "/" not in shard and "\\" not in shard
    if not bare or file.resolve().parent not in allowed:
        raise InputError(f"{index}: found the shard '{shard}'; accepted: a file in the same folder")
    return file
