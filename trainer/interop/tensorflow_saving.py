"""Writes tf_model.h5 for transformers' TensorFlow classes, without TensorFlow."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.checkpoint import files
from trainer.errors import InputError
from trainer.interop.tensorflow_names import is_transposed, keras_path, model_name, top_layer
from trainer.interop.tensorflow_types import Hdf5
from trainer.interop.tensorflow_weights import INDEX, SINGLE, import_h5py
from trainer.models.blocks.encoder import Encoder
from trainer.models.family_model import FamilyModel
from trainer.models.formats import saving
from trainer.models.formats.keys import BODY
from trainer.models.formats.weight_files import SHARDS
from trainer.models.quantization.quantized_linear import quantization_of

ATTRIBUTE_BYTES = 60_000
"""The maximum size of an attribute. HDF5 allows 64 KiB; longer attributes are split as in Keras."""

_Tensors = dict[str, Tensor]


def save_model(model: FamilyModel, directory: Path, max_shard_size: int | str) -> None:
    """Write config.json and tf_model.h5 in fp32, in several shards if `max_shard_size` requires it.

    The h5 files of an earlier save are removed afterwards, but files of other formats are kept.
    Raises InputError if h5py is not installed or the family has no TensorFlow classes.
    """
    import_h5py()
    if not isinstance(model.body, Encoder):
        raise InputError(
            f"format: found tf for {model.architecture}, which has no TensorFlow class; "
            "accepted: safetensors"
        )
    if model.task == "masked_lm" and not model.config.tie_word_embeddings:
        raise InputError(
            "format: found tf for a masked language model with tie_word_embeddings=False; "
            "accepted: safetensors"
        )
    if kind := quantization_of(model):
        raise InputError(f"format: found tf for weights in {kind}; accepted: safetensors")
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
    patterns = (SINGLE, INDEX, f"tf_model{SHARDS}.h5")
    for old in sorted(path for pattern in patterns for path in directory.glob(pattern)):
        if old.name not in written:
            files.remove_file(old)


def _tensors(model: FamilyModel) -> _Tensors:
    """Keras path without the model's name -> tensor; the tensors of the body come first.

    The paths of a model without a head have the family's prefix too.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        hub_name = model.hub_name(name)
        if name.startswith(BODY) and model.task == "base":
            hub_name = f"{model.family.prefix}.{hub_name}"
        path = keras_path(hub_name, model.get_submodule(name.rpartition(".")[0]))
        value = parameter.detach().to(torch.float32)
        tensors[path] = value.T if is_transposed(path) else value
    return tensors


def _tied_layer(model: FamilyModel) -> str | None:
    """The top-level layer tied to the embeddings; Keras lists the embeddings under it, too."""
    module = model.family_head.keys.get("") if model.family_head.tied else None
    return None if module is None else top_layer(module)


def _write_shards(directory: Path, shards: list[_Tensors], name: str) -> set[str]:
    """Write the shards and their index; returns the names of the files."""
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
    """The bytes of a file in Keras' weight format, with one group for each top-level layer."""
    embeddings = [f"{name}/{path}" for path in tensors if path.split("/")[1] == "embeddings"]
    layers: dict[str, _Tensors] = {}
    for path, tensor in tensors.items():
        layers.setdefault(path.split("/")[0], {})[f"{name}/{path}"] = tensor

    def fill(file: Any) -> None:
        file.attrs["backend"] = "tensorflow"
        _set_names(file, "layer_names", list(layers))
        for layer, variables in layers.items():
            group = file.create_group(layer)
            tied = embeddings if layer == tied_layer else []
            _set_names(group, "weight_names", [*variables, *tied])
            _add_arrays(group, variables)
            for path in tied:  # a second name for the same array
                group[path] = file[f"{path.split('/')[1]}/{path}"]

    return _bytes_of(fill)


def _shard(tensors: _Tensors) -> bytes:
    """The bytes of a shard in transformers' layout: arrays by path, all listed in layer_names."""

    def fill(file: Any) -> None:
        _set_names(file, "layer_names", list(tensors))
        _add_arrays(file, tensors)

    return _bytes_of(fill)


def _bytes_of(fill: Any) -> bytes:
    buffer = io.BytesIO()  # because only trainer.checkpoint.files may write to the disk
    with import_h5py().File(buffer, "w") as file:
        fill(file)
    return buffer.getvalue()


def _add_arrays(group: Hdf5, tensors: _Tensors) -> None:
    for path, tensor in tensors.items():
        group.create_dataset(path, data=tensor.cpu().numpy())


def _set_names(group: Hdf5, attribute: str, names: list[str]) -> None:
    """Store a list of names as an attribute, split into equal pieces if it is too long."""
    whole = np.array([name.encode() for name in names])
    if whole.nbytes <= ATTRIBUTE_BYTES:
        group.attrs[attribute] = whole
        return
    for number, piece in enumerate(np.array_split(whole, -(-whole.nbytes // ATTRIBUTE_BYTES))):
        group.attrs[f"{attribute}{number}"] = piece
