"""Freezing: selects the parameters to train."""

from collections.abc import Sequence

from torch import nn

from trainer.errors import InputError
from trainer.training.name_patterns import matching_names


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The trained parameters by name; tied ones occur once."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def freeze(model: nn.Module, patterns: Sequence[str]) -> int:
    """Stop training the parameters that the name patterns match; returns their number.

    Patterns may use the model's own parameter names, or the names in files on the hub. Raises
    InputError if a pattern matches nothing, or if nothing is left to train.
    """
    frozen: set[str] = set()
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        frozen |= matching_names(pattern, names, model, "model.freeze")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name not in frozen)
    if not trainable(model):
        raise InputError(f"model.freeze: {list(patterns)} leaves nothing to train")
    return len(frozen)
