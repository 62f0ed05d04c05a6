"""GGUF files (llama.cpp's format): reads dequantized weights under the hub's names."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.interop.gguf_check import check_entry, check_structure
from trainer.interop.gguf_names import (
    hub_name,
    is_offset,
    is_reordered,
    is_transposed,
    unrotated,
)
from trainer.models.formats.weight_files import WeightFiles, why_invalid

SUFFIX = ".gguf"
ROPE_FACTORS = "rope_freqs.weight"
"""The tensor with the rope scaling of Llama 3."""
SHORT_FACTORS, LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"
"""The tensors with LongRoPE's factors for short and for long texts."""
NO_WEIGHTS = (ROPE_FACTORS, SHORT_FACTORS, LONG_FACTORS)

FAULTS = (ValueError, LookupError, OSError, OverflowError, TypeError, MemoryError)
"""The exceptions that the package gguf raises for incomplete files."""


class GGUF:
    """An open GGUF file with its metadata and its tensors.

    Raises InputError if the package gguf is not installed, or if the file is truncated, damaged,
    not a GGUF file, or contains a tensor type that the package does not know.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        reader_module = import_gguf().gguf_reader
        try:
            check_structure(file)
            reader = reader_module.GGUFReader(file)
            self.tensors = {tensor.name: tensor for tensor in reader.tensors}
            self._fields = dict(reader.fields)
        except InputError:
            raise
        except FAULTS as e:
            if "GGMLQuantizationType" in str(e):
                accepted = "those that the installed package gguf supports; pip install -U gguf"
                raise InputError(f"{file}: tensor type: {e}; accepted: {accepted}") from None
            raise InputError(f"{file}: {why_invalid(file, 'GGUF', e)}") from None

    @property
    def architecture(self) -> str:
        """llama.cpp's name for the architecture, such as llama or qwen2."""
        return str(self.get("general.architecture", ""))

    @property
    def keys(self) -> list[str]:
        """The metadata keys, without those that the package adds for the file header."""
        return [name for name in self._fields if not name.startswith("GGUF.")]

    def get(self, name: str, default: object = None) -> Any:
        """A metadata value as a Python object. Raises InputError for an invalid value."""
        field = self._fields.get(name)
        if field is None:
            return default
        try:
            value = field.contents()
        except (ValueError, IndexError, KeyError, TypeError) as error:
            raise InputError(f"{self.file}: {name}: cannot be read ({error})") from None
        check_entry(self.file, name, value)
        return value

    def model(self, name: str, default: object = None) -> Any:
        """The metadata value with the key `<architecture>.<name>`."""
        return self.get(f"{self.architecture}.{name}", default)

    def heads(self, name: str) -> int:
        """The number of attention heads in the query or key tensor `name`."""
        queries = int(self.model("attention.head_count"))
        is_key = name.rpartition(".")[0].endswith("attn_k")
        return int(self.model("attention.head_count_kv", queries)) if is_key else queries

    def dequantised(self, name: str, expert: int | None = None) -> np.ndarray:
        """A tensor, or the part of it for one expert, in fp32 with the axes in torch's order."""
        tensor = self.tensors[name]
        quants = import_gguf().quants
        try:
            data = tensor.data if expert is None else tensor.data[expert]
            return quants.dequantize(data, tensor.tensor_type)
        except (NotImplementedError, ValueError, LookupError, TypeError) as error:
            raise InputError(f"{self.file}: tensor {name}: {error}") from None


def is_gguf(path: Path) -> bool:
    """Whether a path names a GGUF file."""
    return path.suffix == SUFFIX and not path.is_dir()


def opened(file: Path) -> GGUF:
    """Open a file. The file stays open, so that the config, tokenizer and weights share it."""
    stat = file.stat()
    return _opened(file, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1)
def _opened(file: Path, modified: int, size: int) -> GGUF:
    return GGUF(file)


class GGUFWeights(WeightFiles):
    """`WeightFiles` for a GGUF file: tensors in fp32, under the hub's names."""

    pattern, kind = f"*{SUFFIX}", "GGUF"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gguf = opened(folder)
        names = [name for name in self.gguf.tensors if name not in NO_WEIGHTS]
        self._source = {hub: found for name in names for hub, found in self._parts(name)}

    def shape(self, name: str) -> tuple[int, ...]:
        found, expert = self._source[name]
        shape = tuple(int(size) for size in self.gguf.tensors[found].shape)
        shape = shape if expert is None else shape[:-1]
        return shape if is_transposed(found, self.gguf.architecture) else shape[::-1]

    def read(self, name: str) -> Tensor:
        found, expert = self._source[name]
        array = self.gguf.dequantised(found, expert)
        if is_reordered(found, self.gguf.architecture):
            array = unrotated(array, self.gguf.heads(found))
        if is_offset(found, self.gguf.architecture):
            array = array - 1
        transposed = is_transposed(found, self.gguf.architecture)
        return torch.from_numpy(np.array(array.T if transposed else array))

    def _parts(self, name: str) -> Iterator[tuple[str, tuple[str, int | None]]]:
        """Yield the hub's name of a tensor, or one name for each expert in the tensor.

        Each name comes with the source of its values: (name in the file, index of the expert or
        None).
        """
        hub, shape = self._hub_name(name), self.gguf.tensors[name].shape
        if "*" not in hub:
            yield hub, (name, None)
            return
        if len(shape) != 3:
            found = f"found {len(shape)} axes; accepted: 3, one for the experts"
            raise InputError(f"{self.gguf.file}: tensor {name}: {found}")
        for expert in range(int(shape[-1])):
            yield hub.replace("*", str(expert)), (name, expert)

    def _hub_name(self, name: str) -> str:
        architecture = self.gguf.architecture
        if (found := hub_name(name, architecture)) is None:
            what = f"tensor {name} does not belong to a {architecture} model"
            raise InputError(f"{self.gguf.file}: {what}")
        return found

    def __exit__(self, *_: object) -> None:
        """Do nothing, so that the file stays mapped: the tokenizer may be read from it next."""


def import_gguf() -> ModuleType:
    """Import the package gguf. Raises InputError, which names the extra, if it is missing."""
    try:
        import gguf
    except ImportError:
        raise InputError(
            "model.path: a GGUF file needs the package gguf, which is not installed; accepted: "
            "pip install 'tempering[gguf]'"
        ) from None
    return gguf


def number(value: Any) -> float:
    """Convert a float32 from metadata to the Python float with the same shortest decimal form."""
    return float(str(np.float32(value)))


def entries_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `found` whose values are not None."""
    return {name: value for name, value in found.items() if value is not None}


def size(gguf: GGUF, name: str) -> int:
    """The metadata value `<architecture>.<name>`. Raises InputError if it is not an integer > 0."""
    value = gguf.model(name)
    if not isinstance(value, int) or value < 1:
        where = f"{gguf.architecture}.{name}"
        raise InputError(f"{gguf.file}: {where}: found {value!r:.40}; accepted: a size")
    return value
