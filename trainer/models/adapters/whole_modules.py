"""Modules that are trained and saved in full, in addition to adapters (`modules_to_save`)."""

from collections.abc import Sequence

from trainer.errors import InputError, nearest
from trainer.models.model import Model
from trainer.models.quantization.quantized_linear import weight_name

WHERE = "model.lora.modules_to_save"


def parameters_of_modules(model: Model, modules: Sequence[str]) -> set[str]:
    """The parameters of the modules with these names (or last parts of names), ours or the hub's.

    Raises InputError for a name that matches no module with weights, and for quantized weights.
    """
    paths = {
        name: [f".{each.rpartition('.')[0]}." for each in (name, model.hub_name(name))]
        for name, _ in model.named_parameters()
        if name not in model.fixed
    }
    found: set[str] = set()
    for module in modules:
        inside = {name for name, both in paths.items() if any(f".{module}." in p for p in both)}
        if not module or not inside:
            raise InputError(f"{WHERE}: '{module}' {_missing(model, module, paths)}")
        if packed := sorted(name for name in inside if weight_name(name) != name):
            layer = packed[0].rpartition(".")[0]
            raise InputError(
                f"{WHERE}: '{module}' has quantized weights ({layer}), which cannot be trained; "
                "accepted: other modules, or model.quantization=null"
            )
        found |= inside
    return found


def _missing(model: Model, module: str, paths: dict[str, list[str]]) -> str:
    for second, first in model.tied.items():
        if f".{second}".endswith(f".{module}.weight"):
            first = first.removesuffix(".weight").rpartition(".")[2]
            return f"has no weights of its own (tie_word_embeddings); accepted: {first}"
    names = sorted({hub.strip(".").rpartition(".")[2] for _, hub in paths.values()})
    hint = nearest(module.rpartition(".")[2], names)
    return f"is not a module with weights; accepted: {', '.join(names)}{hint}"


def refuse_both(
    model: Model, chosen: Sequence[str], whole: set[str], targets: Sequence[str]
) -> list[str]:
    """The layers to adapt, without those that are trained in full.

    Raises InputError for a layer that is both in `targets` and trained in full.
    """
    both = [name for name in chosen if f"{name}.weight" in whole and model.in_body(name)]
    if both and targets:
        raise InputError(f"{WHERE}: {both[0]} is in model.lora.targets, too; accepted: one of them")
    return [name for name in chosen if name not in both]
