"""GGUF files: llama.cpp's models, weights dequantised and read by the hub's names."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.interop.gguf_check import check_entry, check_structure
from trainer.interop.gguf_names import hub_name, is_transposed, rotated_heads, unrotated
from trainer.models.weight_files import WeightFiles, what_it_is

SUFFIX = ".gguf"
ROPE_FACTORS = "rope_freqs.weight"
"""What stands in the place of Llama 3's rope scaling."""


FAULTS = (ValueError, LookupError, OSError, OverflowError, TypeError, MemoryError)
"""What the package raises for files that are not whole."""


class GGUF:
    """An open file: what it says of its model and tokenizer, and its tensors.

    Raises InputError, one line, where the package gguf is not installed, and for a file that is
    cut off, damaged, of another kind, or has numbers of a type that the package does not know.
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
                accepted = "those that the installed package gguf knows; pip install -U gguf"
                raise InputError(f"{file}: type of numbers: {e}; accepted: {accepted}") from None
            raise InputError(f"{file}: {what_it_is(file, 'GGUF', e)}") from None

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the kind of model, such as llama or qwen2."""
        return str(self.get("general.architecture", ""))

    @property
    def keys(self) -> list[str]:
        """The names of the metadata, without the package's own of the file's head."""
        return [name for name in self._fields if not name.startswith("GGUF.")]

    def get(self, name: str, default: Any = None) -> Any:
        """An entry of the metadata, as Python's values."""
        field = self._fields.get(name)
        if field is None:
            return default
        try:
            value = field.contents()
        except (ValueError, IndexError, KeyError, TypeError) as error:
            raise InputError(f"{self.file}: {name}: cannot be read ({error})") from None
        check_entry(self.file, name, value)
        return value

    def model(self, name: str, default: Any = None) -> Any:
        """An entry under the architecture's name."""
        return self.get(f"{self.architecture}.{name}", default)

    def dequantised(self, name: str) -> np.ndarray:
        """A tensor as fp32, in torch's order of axes."""
        tensor = self.tensors[name]
        quants = import_gguf().quants
        try:
            return quants.dequantize(tensor.data, tensor.tensor_type)
        except (NotImplementedError, ValueError, LookupError, TypeError) as error:
            raise InputError(f"{self.file}: tensor {name}: {error}") from None


def is_gguf(path: Path) -> bool:
    """Whether a path is meant to be a GGUF file."""
    return path.suffix == SUFFIX and not path.is_dir()


def opened(file: Path) -> GGUF:
    """The file, opened once for its config, its tokenizer and its weights."""
    stat = file.stat()
    return _opened(file, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1)
def _opened(file: Path, modified: int, size: int) -> GGUF:
    return GGUF(file)


class GGUFWeights(WeightFiles):
    """As `WeightFiles`, over the tensors of a GGUF file: fp32, under the hub's names."""

    pattern, kind = f"*{SUFFIX}", "GGUF"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gguf = opened(folder)
        names = [name for name in self.gguf.tensors if name != ROPE_FACTORS]
        self._source = {hub_name(name, self.gguf): name for name in names}

    def shape(self, name: str) -> tuple[int, ...]:
        found = self._source[name]
        shape = tuple(int(size) for size in self.gguf.tensors[found].shape)
        return shape if is_transposed(found, self.gguf.architecture) else shape[::-1]

    def read(self, name: str) -> Tensor:
        found = self._source[name]
        array = self.gguf.dequantised(found)
        if heads := rotated_heads(found, self.gguf):
            array = unrotated(array, heads)
        transposed = is_transposed(found, self.gguf.architecture)
        return torch.from_numpy(np.array(array.T if transposed else array))

    def __exit__(self, *_: object) -> None:
        """The file stays mapped: its tokenizer may be wanted next."""


def import_gguf() -> ModuleType:
    """The package gguf. Raises InputError naming the extra that installs it."""
    try:
        import gguf
    except ImportError:
        raise InputError(
            "model.path: a GGUF file needs the package gguf, which is not installed; accepted: "
            "pip install 'tempering[gguf]'"
        ) from None
    return gguf


def number(value: Any) -> float:
    """A number of the metadata, which has 32 bits, as people wrote it: 1e-05."""
    return float(str(np.float32(value)))


def entries_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that are there."""
    return {name: value for name, value in found.items() if value is not None}
