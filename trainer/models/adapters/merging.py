"""Merging adapters into the weights of their layers."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from trainer.models.adapters import ia3, lora_layers
from trainer.models.adapters.adapted_layer import AdaptedLayer, adapted_layers
from trainer.models.adapters.lora_layers import START
from trainer.models.adapters.token_rows import (
    ROWS,
    modules_with_rows,
    replaced,
    restore_plain_module,
)
from trainer.models.model import Model
from trainer.models.quantization.originals import plain_parameters
from trainer.models.quantization.quantized_linear import (
    QuantizedLinear,
    make_plain,
    quantized_layers,
)

PLAIN = {**lora_layers.PLAIN, **ia3.PLAIN}
"""The class of an adapted layer -> the class of the layer without its adapter."""
PARTS = (*lora_layers.PARTS, ia3.SCALES)
"""The suffixes of the parameters that adapters add to layers."""


def merge_lora(model: Model) -> None:
    """Merge the adapters into the weights; the model then has no adapters.

    Without quantization, outputs stay equal up to rounding. Quantized weights are replaced by the
    original weights, which are read again from the files; with init=loftq, by the dequantized ones.
    """
    layers = {**adapted_layers(model), **quantized_layers(model)}
    for name, value in merged_parameters(model):
        home, _, leaf = name.rpartition(".")
        if leaf == "weight" and home in layers:
            _restore_plain(layers[home], value)
        elif leaf == "bias" and home in layers:
            model.get_parameter(name).data = value
    for module in modules_with_rows(model).values():
        restore_plain_module(module)
    model.lora = None
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in model.fixed)


def merged_parameters(
    model: Model, weights: Mapping[str, Tensor] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The parameters that the merged model would have, by name; the model is not changed.

    `weights`, by name, are used instead of the model's. Quantized weights are replaced as in
    `merge_lora`.
    """
    values = dict(model.named_parameters()) if weights is None else weights
    adapted = adapted_layers(model)
    layers = {f"{name}.weight": layer for name, layer in adapted.items()}
    biases = {
        f"{name}.bias": layer.merged_bias(values[f"{name}.bias"], *_parts_of(name, layer, values))
        for name, layer in adapted.items()
        if f"{name}.bias" in values
    }
    tokens = {f"{name}.weight": each.token_ids for name, each in modules_with_rows(model).items()}
    rounded = model.lora is not None and model.lora.init == "loftq"
    for name, value in plain_parameters(model, values, rounded):
        if name in layers:
            layer = layers[name]
            parts = _parts_of(name.removesuffix(".weight"), layer, values)
            yield name, layer.merged(value, *parts)
        elif name in biases:
            yield name, biases[name]
        elif name in tokens:
            rows = values[f"{name.removesuffix('weight')}{ROWS}"]
            yield name, replaced(value.detach(), rows.detach(), tokens[name])
        elif not (layers and name.endswith((*PARTS, *START, ROWS))):
            yield name, value.detach()


def _parts_of(name: str, layer: AdaptedLayer, values: Mapping[str, Tensor]) -> list[Tensor]:
    return [values[f"{name}.{part}"] for part in layer.parts]


def _restore_plain(layer: Any, weight: Tensor) -> None:
    """Convert an adapted or quantized layer in place to a plain one with this weight."""
    if isinstance(layer, AdaptedLayer):
        for each in (*layer.parts, *layer.extras):
            delattr(layer, each)
        for own in ("parts", "keys"):
            vars(layer).pop(own, None)
        layer.__class__ = PLAIN[type(layer)]
    if isinstance(layer, QuantizedLinear):
        make_plain(layer, weight)
    else:
        layer.weight.data = weight
