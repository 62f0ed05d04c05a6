"""tf_model.h5, written as transformers' TensorFlow classes read it, without TensorFlow."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from trainer.checkpoint import files
from trainer.errors import InputError
from trainer.interop.tensorflow_names import is_transposed, keras_path, model_name, top_layer
from trainer.interop.tensorflow_weights import INDEX, SINGLE, import_h5py
from trainer.models import saving
from trainer.models.encoder import Encoder
from trainer.models.keys import BODY

if TYPE_CHECKING:
    from trainer.models.pretrained import PretrainedModel

ATTRIBUTE_BYTES = 60_000
"""HDF5 keeps an attribute in a header of 64 KiB; Keras cuts longer ones, and so do we."""

_Tensors = dict[str, Tensor]


def save_model(model: "PretrainedModel", directory: Path, max_shard_size: int | str) -> None:
    """Writes config.json and tf_model.h5 in fp32 (in shards above `max_shard_size`).

    Then the h5 files of an earlier save are removed; those of other formats stay. Raises
    InputError where h5py is not installed, and for a family that has no TensorFlow classes.
    """
    import_h5py()
    if not isinstance(model.body, Encoder):
        raise InputError(
            f"format: found tf for {model.architecture}, which has no TensorFlow class; "
            "accepted: safetensors"
        )
    shards = saving.split(_tensors(model), saving.size_in_bytes(max_shard_size))
    name = model_name(model.architecture)
    config = {**saving.config_entries(model), "dtype": "float32"}
    files.make_folder(directory)
    files.write_json(directory / "config.json", config)
    if len(shards) == 1:
        files.write_bytes(directory / SINGLE, _single(shards[0], name, _tied_layer(model)))
        written = {SINGLE}
    else:
        written = _write_shards(directory, shards, name)
    for old in sorted({*directory.glob("tf_model*.h5"), *directory.glob(INDEX)}):
        if old.name not in written:
            files.remove_file(old)


def _tensors(model: "PretrainedModel") -> _Tensors:
    """Path below the model's name -> tensor, the body's first: the bare model has a prefix too."""
    tensors = {}
    for name, parameter in model.named_parameters():
        hub_name = model.hub_name(name)
        if name.startswith(BODY) and model.task == "base":
            hub_name = f"{model.config.family.prefix}.{hub_name}"
        path = keras_path(hub_name, model.get_submodule(name.rpartition(".")[0]))
        value = parameter.detach().to(torch.float32)
        tensors[path] = value.T if is_transposed(path) else value
    return tensors


def _tied_layer(model: "PretrainedModel") -> str | None:
    """The top layer whose output weights are the embeddings: Keras lists those there again."""
    module = model.family_head.keys.get("") if model.family_head.tied else None
    return None if module is None else top_layer(module)


def _write_shards(directory: Path, shards: list[_Tensors], name: str) -> set[str]:
    """Writes the shards and their index; returns the names of the files."""
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"tf_model-{number:05d}-of-{len(shards):05d}.h5"
        files.write_bytes(directory / file, _shard(shard))
        weight_map |= {f"{name}/{path}": file for path in shard}
    size = sum(tensor.numel() * 4 for shard in shards for tensor in shard.values())
    files.write_json(
        directory / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map}
    )
    return {INDEX, *weight_map.values()}


def _single(tensors: _Tensors, name: str, tied_layer: str | None) -> bytes:
    """A file as Keras saves weights: a group for each of the model's top layers."""
    embeddings = [f"{name}/{path}" for path in tensors if path.split("/")[1] == "embeddings"]
    layers: dict[str, _Tensors] = {}
    for path, tensor in tensors.items():
        layers.setdefault(path.split("/")[0], {})[f"{name}/{path}"] = tensor

    def fill(file: Any) -> None:
        file.attrs["backend"] = "tensorflow"
        _set_names(file, "layer_names", list(layers))
        for layer, variables in layers.items():
            group = file.create_group(layer)
            again = embeddings if layer == tied_layer else []
            _set_names(group, "weight_names", [*variables, *again])
            _add_arrays(group, variables)
            for path in again:  # the same bytes under a second name
                group[path] = file[f"{path.split('/')[1]}/{path}"]

    return _bytes_of(fill)


def _shard(tensors: _Tensors) -> bytes:
    """A shard as transformers saves it: the arrays by their paths, all named in layer_names."""

    def fill(file: Any) -> None:
        _set_names(file, "layer_names", list(tensors))
        _add_arrays(file, tensors)

    return _bytes_of(fill)


def _bytes_of(fill: Any) -> bytes:
    buffer = io.BytesIO()  # whole in memory, so that the disk is written in one place alone
    with import_h5py().File(buffer, "w") as file:
        fill(file)
    return buffer.getvalue()


def _add_arrays(group: Any, tensors: _Tensors) -> None:
    for path, tensor in tensors.items():
        group.create_dataset(path, data=tensor.cpu().numpy())


def _set_names(group: Any, attribute: str, names: list[str]) -> None:
    """A list of names as an attribute, in as many pieces of equal length as it needs."""
    whole = np.array([name.encode() for name in names])
    if whole.nbytes <= ATTRIBUTE_BYTES:
        group.attrs[attribute] = whole
        return
    for number, piece in enumerate(np.array_split(whole, -(-whole.nbytes // ATTRIBUTE_BYTES))):
        group.attrs[f"{attribute}{number}"] = piece
