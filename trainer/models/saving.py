"""A model to a folder in the hub's format: config.json and safetensors, in shards if large."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from trainer.checkpoint import files
from trainer.errors import InputError
from trainer.models.generation_config import FILE, generation_config
from trainer.models.lora import merged_parameters
from trainer.models.weight_files import INDEX, SINGLE
from trainer.redaction import without_environment

if TYPE_CHECKING:
    from trainer.models.pretrained import PretrainedModel

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
METADATA = {"format": "pt"}
OLD = ("model*.safetensors", INDEX, "adapter_model.safetensors", "adapter_config.json") + (
    "model_config.json",
)
"""What an earlier save may have left."""


def save_model(
    model: "PretrainedModel",
    directory: Path,
    max_shard_size: int | str,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes config.json and the weights, then removes the weights of an earlier save.

    Of a model that writes there is generation_config.json too.
    Adapters are added to the weights. `weights` by parameter names are written in place of the
    model's own. Shared parameters are written once. Raises InputError for a size that is none.
    """
    shards = split(_tensors(model, weights), size_in_bytes(max_shard_size))
    files.make_folder(directory)
    files.write_json(directory / "config.json", config_entries(model))
    if model.task == "causal_lm":
        files.write_json(directory / FILE, generation_config(model))
    if len(shards) == 1:
        files.write_tensors(directory / SINGLE, shards[0], METADATA)
        written = {SINGLE}
    else:
        written = _write_shards(directory, shards)
    for old in sorted(path for pattern in OLD for path in directory.glob(pattern)):
        if old.name not in written:
            files.remove_file(old)


def config_entries(model: "PretrainedModel") -> dict[str, Any]:
    """What config.json says of a model as it is."""
    dtype = str(model.dtype).removeprefix("torch.")
    config = {**model.config.to_dict(), "architectures": [model.architecture], "dtype": dtype}
    config.pop("torch_dtype", None)  # what dtype was called before
    return without_environment(config)


def _write_shards(directory: Path, shards: list[dict[str, Tensor]]) -> set[str]:
    """Writes the shards and their index; returns the names of the files."""
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        files.write_tensors(directory / name, shard, METADATA)
        weight_map |= dict.fromkeys(shard, name)
    size = sum(_size(tensor) for shard in shards for tensor in shard.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    files.write_json(directory / INDEX, index)
    return {INDEX, *weight_map.values()}


def _tensors(model: "PretrainedModel", weights: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    return {model.hub_name(name): t for name, t in merged_parameters(model, weights)}


def split(tensors: dict[str, Tensor], largest: int) -> list[dict[str, Tensor]]:
    """The tensors in order, each shard as full as `largest` bytes allow; one tensor at least."""
    shards: list[dict[str, Tensor]] = [{}]
    room = largest
    for name, tensor in tensors.items():
        if shards[-1] and _size(tensor) > room:
            shards.append({})
            room = largest
        shards[-1][name] = tensor
        room -= _size(tensor)
    return shards


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def size_in_bytes(size: int | str) -> int:
    """A size given in bytes or as text such as 5GB. Raises InputError for one that is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B?)", str(size).strip().upper())
    unit = match and UNITS.get(match.group(2))
    if not match or not unit or float(match.group(1)) <= 0:
        raise InputError(f"max_shard_size: found {size!r}; accepted: bytes, or text such as 5GB")
    return int(float(match.group(1)) * unit)
