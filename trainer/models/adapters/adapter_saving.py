"""Writing adapters in PEFT's format."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint import files
from trainer.errors import InputError
from trainer.models.adapters.adapted_layer import AdaptedLayer, adapted_layers
from trainer.models.adapters.adapter_config import FILE as CONFIG
from trainer.models.adapters.adapter_files import (
    ADAPTED,
    PREFIX,
    AdapterWeights,
    saved_names,
    tied_weights,
)
from trainer.models.adapters.expert_adapters import joined
from trainer.models.adapters.ia3 import IA3Layer
from trainer.models.adapters.lora_layers import (
    KINDS,
    MATRICES,
    START,
    DoRALayer,
    LoRAGroupedLinear,
    LoRALayer,
    adapted_experts,
)
from trainer.models.adapters.peft_layout import peft_names, split
from trainer.models.adapters.token_rows import modules_with_rows
from trainer.models.blocks.experts import GroupedLinear
from trainer.models.formats.saving import config_entries
from trainer.models.formats.weight_files import saved_weights
from trainer.models.model import Model
from trainer.models.quantization.quantized_linear import quantization_of


def save_adapter(
    model: Model, directory: Path, weights: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Write the adapters, the other trained parameters and the configs, without the base's weights.

    If given, `weights` (our name -> tensor) are written instead of the model's. A whole model in
    the folder is deleted. Raises InputError for the folder of the base, since the adapters need its
    weights.
    """
    assert model.lora is not None
    _refuse_own_base(model, directory)
    values = dict(model.named_parameters()) if weights is None else weights
    experts, layers = adapted_experts(model), adapted_layers(model)
    tensors = {}
    for own, name in saved_names(model).items():
        home, _, leaf = own.rpartition(".")
        layer, tensor = layers.get(home), values[own].detach()
        if home in experts:
            tensor = joined(leaf, tensor)
        elif isinstance(layer, IA3Layer) and leaf in layer.parts:
            tensor = layer.saved(tensor)
        tensors[name] = tensor
    _join_starts(tensors)
    tensors = split(tensors, model.peft_names, PREFIX)
    _add_copies(model, tensors)
    metadata = {"format": "pt", "base_digest": model.lora.base_digest}
    if model.lora.base and model.lora.base_name:
        metadata |= {"base": model.lora.base, "base_name": model.lora.base_name}
    if kind := quantization_of(model):
        metadata["quantization"] = kind
    if model.lora.init == "loftq":
        metadata["init"] = "loftq"
    files.make_folder(directory)
    files.write_json(directory / ADAPTED, config_entries(model))
    config = _config(model) if model.lora.kind == "lora" else _config_of_ia3(model)
    files.write_json(directory / CONFIG, config)
    files.write_tensors(directory / AdapterWeights.single, tensors, metadata)
    config_file = directory / "config.json"
    for old in [*saved_weights(directory), *([config_file] if config_file.exists() else [])]:
        files.remove_file(old)


def _add_copies(model: Model, tensors: dict[str, torch.Tensor]) -> None:
    """Copy saved embeddings to the names of tied output weights, which PEFT reads separately."""
    for second, first in tied_weights(model).items():
        copy, embeddings = (PREFIX + _full_name(model, name) for name in (second, first))
        if embeddings in tensors:
            tensors[copy] = tensors[embeddings]


def _full_name(model: Model, short: str) -> str:
    """The hub's name of a tensor (or a tied copy of one), from the name without the prefix."""
    inside = {model.short_name(n) for n, _ in model.named_parameters() if model.in_body(n)}
    of_body = short.partition(".")[0] in {name.partition(".")[0] for name in inside}
    return f"{model.prefix}.{short}" if of_body and model.prefix else short


def _refuse_own_base(model: Model, directory: Path) -> None:
    assert model.lora is not None
    bases = (model.home, model.lora.base and Path(model.lora.base))
    if directory.is_dir() and any(b and b.exists() and directory.samefile(b) for b in bases):
        raise InputError(
            f"{directory}: found the adapters' base model, which they need; "
            "accepted: another folder, or merge=True"
        )


def _join_starts(tensors: dict[str, torch.Tensor]) -> None:
    """Convert adapters whose initial product is not zero to plain adapters of twice the rank.

    PEFT converts PiSSA in the same way: [B, -B0] [A; A0] = B A - B0 A0, where A0 and B0 are the
    initial matrices.
    """
    for name in [name for name in tensors if name.endswith(START)]:
        start, plain = tensors.pop(name), f"{name.removesuffix(name[-len(START[0]) :])}"
        plain += f"{MATRICES[START.index(name[-len(START[0]) :])]}.weight"
        first = name.endswith(START[0])
        pair = [tensors[plain], start if first else -start]
        tensors[plain] = torch.cat(pair, dim=0 if first else 1)


def _config(model: Model) -> dict[str, Any]:
    """The contents of adapter_config.json."""
    adapter, layers = model.lora, adapted_layers(model)
    assert adapter is not None
    matrices = {name: each for name, each in layers.items() if isinstance(each, LoRALayer)}
    transposed = any(layer.transposed for layer in layers.values())
    rank_factor = 2 if adapter.init == "pissa" else 1  # see _join_starts
    default_rank = rank_factor * adapter.rank
    default_alpha = adapter.alpha_of(default_rank, adapter.scaling)
    sizes = {
        part: (rank, adapter.alpha_of(rank, layer.scaling))
        for name, layer in matrices.items()
        for rank in [rank_factor * layer.rank]
        for part in _peft_names(model, name)
    }
    return {
        "peft_type": "LORA",
        **_origin(model),
        "r": default_rank,
        "lora_alpha": default_alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": _targets(model, layers),
        "target_parameters": _target_parameters(model) or None,
        "trainable_token_indices": _token_indices(model),
        "fan_in_fan_out": transposed,
        "bias": adapter.bias,
        "rank_pattern": {n: rank for n, (rank, _) in sizes.items() if rank != default_rank},
        "alpha_pattern": {n: alpha for n, (_, alpha) in sizes.items() if alpha != default_alpha},
        "use_rslora": adapter.rslora,
        "use_dora": any(isinstance(layer, DoRALayer) for layer in layers.values()),
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _config_of_ia3(model: Model) -> dict[str, Any]:
    """The contents of adapter_config.json for (IA)^3."""
    layers = {n: each for n, each in adapted_layers(model).items() if isinstance(each, IA3Layer)}
    of_inputs = {name: each for name, each in layers.items() if each.scales_inputs}
    of_outputs = {name: each for name, each in layers.items() if not each.scales_inputs}
    feedforward = _targets(model, of_inputs, within_words=True)
    return {
        "peft_type": "IA3",
        **_origin(model),
        "target_modules": sorted({*_targets(model, of_outputs), *feedforward}),
        "feedforward_modules": feedforward,
        "fan_in_fan_out": any(layer.transposed for layer in layers.values()),
        "init_ia3_weights": True,
        "inference_mode": True,
    }


def _origin(model: Model) -> dict[str, Any]:
    """The entries on the task, the base model and the modules that are trained in full."""
    adapter = model.lora
    assert adapter is not None
    return {
        "task_type": model.peft_task,
        "base_model_name_or_path": adapter.base_name or adapter.base or None,
        "revision": adapter.revision,
        "modules_to_save": _whole_modules(model) or None,
    }


def _token_indices(model: Model) -> list[int] | dict[str, list[int]] | None:
    """The tokens with trained rows: a list if only the embeddings have any, else by module name."""
    ids = {
        model.short_name(f"{name}.weight").removesuffix(".weight"): module.token_ids.tolist()
        for name, module in modules_with_rows(model).items()
    }
    embeddings = model.embeddings_name
    return ids.get(embeddings) if ids.keys() <= {embeddings} else ids


def _targets(
    model: Model, layers: Mapping[str, AdaptedLayer], within_words: bool = False
) -> list[str]:
    """The shortest suffixes of hub names that match these layers and no others.

    Suffixes start after a dot. PEFT ignores dots when it compares feedforward_modules, so with
    `within_words`, no other layer's name may end in a suffix, even within a word.
    """
    named = [
        part
        for name, layer in layers.items()
        if not isinstance(layer, LoRAGroupedLinear)
        for part in _peft_names(model, name)
    ]
    others = [
        part
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, *KINDS)) and name not in layers and name != "head"
        for part in _peft_names(model, name)
    ]
    dot = "" if within_words else "."
    ends = set()
    for name in named:
        parts = name.split(".")
        tails = (".".join(parts[n:]) for n in range(len(parts) - 1, -1, -1))
        ends.add(next(t for t in tails if not any(f".{o}".endswith(dot + t) for o in others)))
    return sorted(ends)


def _peft_names(model: Model, layer: str) -> tuple[str, ...]:
    """PEFT's names of the layer with our name `layer`."""
    return peft_names(model.hub_name(f"{layer}.weight").removesuffix(".weight"), model.peft_names)


def _target_parameters(model: Model) -> list[str]:
    """The hub's names of adapted expert weights; one suffix if those of every layer are adapted."""
    chosen = adapted_experts(model)
    every = {name: m for name, m in model.named_modules() if isinstance(m, GroupedLinear)}
    found = set()
    for name in chosen:
        full = model.hub_name(f"{name}.weight").removesuffix(".weight")
        end = name.rpartition(".")[2]
        alike = {other for other in every if other.endswith(f".{end}")}
        found.add(f"experts.{end}" if alike <= chosen.keys() else full)
    return sorted(found)


def _whole_modules(model: Model) -> list[str]:
    """The hub's names of the modules that are saved in full; for a head, its top-level modules."""
    assert model.lora is not None
    modules = set()
    ties = tied_weights(model).items()
    for name in model.lora.whole:
        if model.lora.bias != "none" and model.in_body(name) and name.endswith(".bias"):
            continue  # covered by the config's entry `bias`
        short = model.short_name(name)
        head = not model.in_body(name)
        module = short.partition(".")[0] if head else short.rpartition(".")[0]
        for part in (module,) if head else peft_names(module, model.peft_names):
            modules.add(part if head else _unambiguous(model, part))
        modules.update(second.rpartition(".")[0] for second, first in ties if first == short)
    return sorted(modules)


def _unambiguous(model: Model, module: str) -> str:
    """A module's name, with the family's prefix if PEFT would also match other modules without it.

    PEFT compares the ends of names, even within words: "norm" also matches "input_layernorm".
    """
    paths = {
        path
        for name, _ in model.named_parameters()
        for path in peft_names(model.hub_name(name).rpartition(".")[0], model.peft_names)
    }
    full = f"{model.prefix}.{module}"
    unclear = full in paths and any(p.endswith(module) for p in paths - {full})
    return full if unclear else module
