"""Saves a model in the hub's format: config.json and safetensors, in shards if it is large."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from trainer.checkpoint import files
from trainer.errors import InputError
from trainer.models.adapters.merging import merged_parameters
from trainer.models.family_model import FamilyModel
from trainer.models.formats.generation_config import FILE, generation_config
from trainer.models.formats.weight_files import INDEX, SINGLE, saved_weights
from trainer.models.model import Model
from trainer.redaction import without_environment

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
METADATA = {"format": "pt"}
OF_ADAPTERS = ("adapter_model.safetensors", "adapter_config.json", "model_config.json")
"""The files that an earlier save of adapters may have left."""


def save_model(
    model: FamilyModel,
    directory: Path,
    max_shard_size: int | str,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write config.json and the weights, then remove the weights of an earlier save.

    Generative models get a generation_config.json too. Adapters are merged into the weights.
    `weights` (parameter name -> tensor) are written in place of the model's own. Shared parameters
    are written once. Raises InputError for an invalid size.
    """
    shards = split(_tensors(model, weights), size_in_bytes(max_shard_size))
    files.make_folder(directory)
    files.write_json(directory / "config.json", config_entries(model))
    if model.task in ("causal_lm", "seq2seq_lm"):
        files.write_json(directory / FILE, generation_config(model))
    if len(shards) == 1:
        files.write_tensors(directory / SINGLE, shards[0], METADATA)
        written = {SINGLE}
    else:
        written = _write_shards(directory, shards)
    remove_earlier_save(directory, written)


def remove_earlier_save(directory: Path, written: Collection[str]) -> None:
    """Remove the weights and adapters that an earlier save left, except the files just written."""
    adapters = [directory / name for name in OF_ADAPTERS]
    for old in [*saved_weights(directory), *filter(Path.exists, adapters)]:
        if old.name not in written:
            files.remove_file(old)


def config_entries(model: Model) -> dict[str, Any]:
    """The entries of config.json for a model in its current state."""
    dtype = str(model.dtype).removeprefix("torch.")
    config = {**model.config.to_dict(), "architectures": [model.architecture], "dtype": dtype}
    config.pop("torch_dtype", None)  # the old name of dtype
    return without_environment(config)


def _write_shards(directory: Path, shards: list[dict[str, Tensor]]) -> set[str]:
    """Write the shards and their index. Returns the names of the files."""
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        files.write_tensors(directory / name, shard, METADATA)
        weight_map |= dict.fromkeys(shard, name)
    size = sum(_size(tensor) for shard in shards for tensor in shard.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    files.write_json(directory / INDEX, index)
    return {INDEX, *weight_map.values()}


def _tensors(model: FamilyModel, weights: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    merged, stored = merged_parameters(model, weights), model.family.stored_experts
    named = ((model.hub_name(name), tensor) for name, tensor in merged)
    if stored is None:
        return dict(named)
    return {part: t for name, tensor in named for part, t in stored.apart(name, tensor)}


def split(tensors: dict[str, Tensor], largest: int) -> list[dict[str, Tensor]]:
    """Split tensors, in order, into shards of at most `largest` bytes or of a single tensor."""
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
    """Return the number of bytes of a number or a text such as 5GB, or raise InputError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B?)", str(size).strip().upper())
    unit = match and UNITS.get(match.group(2))
    if not match or not unit or float(match.group(1)) <= 0:
        raise InputError(f"max_shard_size: found {size!r}; accepted: bytes, or text such as 5GB")
    return int(float(match.group(1)) * unit)
