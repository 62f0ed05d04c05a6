"""Reads tf_model.h5, in one file or in shards, under the hub's names and without TensorFlow."""

from collections.abc import Iterable, Iterator
from itertools import count, takewhile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.interop.tensorflow_names import hub_name, is_transposed
from trainer.interop.tensorflow_types import Hdf5
from trainer.models.formats.weight_files import WeightFiles, why_invalid

SINGLE = "tf_model.h5"
INDEX = "tf_model.h5.index.json"
DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError)
"""The exceptions that h5py raises for a damaged file."""


class TensorFlowWeights(WeightFiles):
    """`WeightFiles` for files of transformers' TensorFlow classes; matrices are transposed as in
    torch.

    Raises InputError if h5py is not installed, or if a file refers to data in other files.
    """

    single, index, pattern, kind = SINGLE, INDEX, "tf_model*.h5", "HDF5"

    def shape(self, name: str) -> tuple[int, ...]:
        dataset = self._source[name]
        return dataset.shape[::-1] if is_transposed(dataset.name) else dataset.shape

    def read(self, name: str) -> Tensor:
        dataset = self._source[name]
        try:
            array = dataset[()]
        except DAMAGE as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{self.folder}: tensor {name} cannot be read ({reason})") from None
        tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
        return tensor.T if is_transposed(dataset.name) else tensor

    def _add(self, file: Path, names: Iterable[str] | None) -> None:
        opened = self._stack.enter_context(self._open(file))
        try:
            self._source |= self._found(file, opened)
        except InputError:
            raise
        except DAMAGE as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{file}: damaged ({reason})") from None

    def _found(self, file: Path, opened: Hdf5) -> dict[str, Any]:
        """The hub's tensor name -> array, for all arrays in an opened file."""
        layers = _attribute(opened, "layer_names")
        if not layers:
            raise InputError(
                f"{file}: has no layer_names; accepted: a file in Keras' weight format"
            )
        found: dict[str, Any] = {}
        for path, name in _variables(opened, layers):
            dataset = opened.get(path)
            if not _is_plain(dataset, opened):
                raise InputError(
                    f"{file}: {path}: accepted: an array of floats stored in this file"
                )
            found.setdefault(name, dataset)  # a layer with tied weights lists the embeddings again
        return found

    def _open(self, file: Path) -> Any:
        h5py = import_h5py()
        try:
            return h5py.File(file, "r")
        except FileNotFoundError:
            raise InputError(f"{file}: missing, but {INDEX} lists it") from None
        except OSError as error:
            raise InputError(f"{file}: {why_invalid(file, self.kind, error)}") from None


def import_h5py() -> ModuleType:
    """Import the package h5py. Raises InputError, which names the extra, if it is missing."""
    try:
        import h5py
    except ImportError:
        raise InputError(
            "tf_model.h5: the package h5py is not installed; accepted: "
            "pip install 'tempering[tensorflow]'"
        ) from None
    return h5py


def _variables(opened: Hdf5, layers: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (path in the file, hub's name) of every variable.

    In a file that is one of several shards, `layers` are the paths of the variables themselves.
    """
    for layer in layers:
        group = opened.get(layer)
        if hasattr(group, "shape"):
            yield layer, hub_name(layer)
        elif group is not None:
            for path in _attribute(group, "weight_names"):
                yield f"{layer}/{path}", hub_name(path, layers)


def _attribute(group: Hdf5, name: str) -> list[str]:
    """The list of names in an attribute; Keras splits long lists into name0, name1, ...."""
    attributes = group.attrs
    numbered = takewhile(attributes.__contains__, (f"{name}{number}" for number in count()))
    pieces = [name] if name in attributes else list(numbered)
    texts = (text for piece in pieces for text in np.atleast_1d(attributes[piece]))
    return [text.decode() if isinstance(text, bytes) else str(text) for text in texts]


def _is_plain(dataset: Hdf5, opened: Hdf5) -> bool:
    """Whether `dataset` is an array of floats that is stored in the opened file itself."""
    if not hasattr(dataset, "shape") or dataset.file.filename != opened.filename:
        return False
    numbers = dataset.dtype.kind == "f" and dataset.dtype.itemsize <= 8
    return numbers and not dataset.is_virtual and dataset.external is None
