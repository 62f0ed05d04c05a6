"""tf_model.h5, single or sharded, read by the hub's names without TensorFlow."""

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
from trainer.models.weight_files import WeightFiles, what_it_is

SINGLE = "tf_model.h5"
INDEX = "tf_model.h5.index.json"
DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError)
"""What h5py raises where the structure of a file is damaged."""


class TensorFlowWeights(WeightFiles):
    """As `WeightFiles`, over what transformers' TensorFlow classes wrote, in torch's orientation.

    Raises InputError where h5py is not installed, and for a file whose data lies in other files.
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

    def _found(self, file: Path, opened: Any) -> dict[str, Any]:
        """The arrays of an opened file by the hub's names."""
        layers = _attribute(opened, "layer_names")
        if not layers:
            raise InputError(f"{file}: has no layer_names; accepted: a file as Keras saves weights")
        found: dict[str, Any] = {}
        for path, name in _variables(opened, layers):
            dataset = opened.get(path)
            if not _is_plain(dataset, opened):
                raise InputError(f"{file}: {path}: accepted: an array of floats in this very file")
            found.setdefault(name, dataset)  # a tied layer lists the embeddings once more
        return found

    def _open(self, file: Path) -> Any:
        h5py = import_h5py()
        try:
            return h5py.File(file, "r")
        except FileNotFoundError:
            raise InputError(f"{file}: there is no such file, but {INDEX} names it") from None
        except OSError as error:
            raise InputError(f"{file}: {what_it_is(file, self.kind, error)}") from None


def import_h5py() -> ModuleType:
    """The package h5py. Raises InputError naming the extra that installs it."""
    try:
        import h5py
    except ImportError:
        raise InputError(
            "tf_model.h5: the package h5py is not installed; accepted: "
            "pip install 'tempering[tensorflow]'"
        ) from None
    return h5py


def _variables(opened: Any, layers: list[str]) -> Iterator[tuple[str, str]]:
    """(path in the file, hub's name) of every variable. A shard's layers are its variables."""
    for layer in layers:
        group = opened.get(layer)
        if hasattr(group, "shape"):
            yield layer, hub_name(layer)
        elif group is not None:
            for path in _attribute(group, "weight_names"):
                yield f"{layer}/{path}", hub_name(path, layers)


def _attribute(group: Any, name: str) -> list[str]:
    """A list of names, which Keras cuts into name0, name1, ... where it is long."""
    attributes = group.attrs
    numbered = takewhile(attributes.__contains__, (f"{name}{number}" for number in count()))
    pieces = [name] if name in attributes else list(numbered)
    texts = (text for piece in pieces for text in np.atleast_1d(attributes[piece]))
    return [text.decode() if isinstance(text, bytes) else str(text) for text in texts]


def _is_plain(dataset: Any, opened: Any) -> bool:
    """Whether this is an array whose numbers lie in the opened file itself."""
    if not hasattr(dataset, "shape") or dataset.file.filename != opened.filename:
        return False
    numbers = dataset.dtype.kind == "f" and dataset.dtype.itemsize <= 8
    return numbers and not dataset.is_virtual and dataset.external is None
