"""Selects the layers that get adapters, by their names."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

from torch import nn

from trainer.errors import InputError, nearest
from trainer.models.adapters.ia3 import USUAL
from trainer.models.adapters.lora_layers import KINDS
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.blocks.experts import GroupedLinear
from trainer.models.model import Model


def chosen_layers(model: Model, targets: Sequence[str]) -> list[str]:
    """Our names of the layers that `targets` selects, by our names or the hub's.

    Without targets, these are all linear layers of the blocks except experts. Raises InputError for
    a target that matches no linear layer of the body.
    """
    linear = linear_layers(model)
    if not targets:
        usual = [
            name
            for name in linear
            if name.startswith(model.layer_prefixes) and not _of_experts(model.get_submodule(name))
        ]
        if not usual:
            names = ", ".join(_leaves(linear.values()))
            problem = f"the layers of {model.architecture} are not known"
            raise InputError(f"model.lora.targets: {problem}; accepted: some of {names or 'none'}")
        return usual
    chosen = set()
    for target in targets:
        found = named(linear, target)
        if not found:
            leaves = _leaves(linear.values())
            hint = nearest(target.rpartition(".")[2], leaves)
            raise InputError(
                f"model.lora.targets: '{target}' is not a linear layer of the body; accepted: "
                f"{', '.join(leaves)}{hint}"
            )
        chosen |= found
    return sorted(chosen)


def scaled_layers(model: Model, settings: LoRASettings) -> dict[str, bool]:
    """The layers that (IA)^3 scales, by our name -> whether it scales their inputs.

    Unset settings take PEFT's defaults for the family. Raises InputError for a family without
    defaults.
    """
    linear, kind = linear_layers(model), str(model.config.model_type)
    usual = USUAL.get(kind)
    if settings.targets:
        layers = set(chosen_layers(model, settings.targets))
    else:
        layers = {n for target in (usual or ((), ()))[0] for n in named(linear, target)}
    if not layers:
        _refuse_default(kind, "targets: found []", f"some of {', '.join(_leaves(linear.values()))}")
    if settings.feedforward is not None:
        inputs = _feedforward(settings.feedforward, linear, layers)
    elif usual is None:
        accepted = "the targets whose inputs are scaled, or []"
        _refuse_default(kind, "feedforward: found null", accepted)
    else:
        inputs = {n for target in usual[1] for n in named(linear, target)}
    return {name: name in inputs for name in linear if name in layers}


def _feedforward(wanted: Sequence[str], linear: Mapping[str, str], layers: set[str]) -> set[str]:
    """The layers whose inputs are scaled. Raises InputError for names that are not in `layers`."""
    inputs: set[str] = set()
    for target in wanted:
        found = named(linear, target) & layers
        if not found:
            accepted = f"accepted: some of {', '.join(_leaves(linear[name] for name in layers))}"
            raise InputError(
                f"model.lora.feedforward: '{target}' is not among the targets; {accepted}"
            )
        inputs |= found
    return inputs


def _refuse_default(model_type: str, found: str, accepted: str) -> NoReturn:
    raise InputError(
        f"model.lora.{found} with ia3, which has no default for {model_type}; accepted: {accepted}"
    )


def _leaves(names: Iterable[str]) -> list[str]:
    """The last parts of names, without duplicates."""
    return sorted({name.rpartition(".")[2] for name in names})


def linear_layers(model: Model) -> dict[str, str]:
    """The linear layers of the body: our name -> the hub's."""
    return {
        name: model.hub_name(f"{name}.weight").removesuffix(".weight")
        for name, module in model.named_modules()
        if type(module) in KINDS and model.in_body(f"{name}.weight")
    }


def named(linear: Mapping[str, str], target: str) -> set[str]:
    """The layers in `linear` whose name (ours or the hub's) is `target` or ends in `.target`."""
    ends = f".{target}"
    return {n for n, hub in linear.items() if f".{n}".endswith(ends) or f".{hub}".endswith(ends)}


def _of_experts(layer: nn.Module) -> bool:
    return isinstance(layer, GroupedLinear)


def check_experts(model: Model, chosen: Sequence[str], settings: LoRASettings) -> None:
    """Refuse settings that adapters of experts do not support."""
    experts = [name for name in chosen if _of_experts(model.get_submodule(name))]
    kinds = (("dropout", 0.0), ("dora", False), ("ia3", False), ("init", "default"))
    for setting, plain in kinds:
        if experts and (found := getattr(settings, setting)) != plain:
            problem = f"found {found} with adapters on experts ({experts[0]})"
            raise InputError(f"model.lora.{setting}: {problem}; accepted: {plain}")
