"""The weights of a model before they were quantized, read again from its files."""

from collections.abc import Iterator, Mapping

from torch import Tensor

from trainer.models.family_model import FamilyModel
from trainer.models.formats.loading import Pending
from trainer.models.model import Model
from trainer.models.quantization.quantized_linear import quantized_layers, weight_name


def plain_parameters(
    model: Model, values: Mapping[str, Tensor], rounded: bool = False
) -> Iterator[tuple[str, Tensor]]:
    """Yield these parameters by name, with the original weight in place of each quantized one.

    With `rounded`, the dequantized weight is used instead. Raises InputError if the model's files
    no longer exist.
    """
    layers = {f"{name}.weight": layer for name, layer in quantized_layers(model).items()}
    if rounded or not layers:
        for name, value in values.items():
            plain = weight_name(name)
            yield plain, value if plain == name else layers[plain].weight
        return
    assert isinstance(model, FamilyModel) and isinstance(model.originals, Pending)
    with model.originals.reading(model) as read:
        for name, value in values.items():
            plain = weight_name(name)
            yield plain, value if plain == name else read(plain).to(value.device)
