"""PEFT's layout of adapters on the experts of a mixture (`target_parameters`).

PEFT stores one pair of matrices for all E experts: A [E x rank, in], in which the rows of an expert
are adjacent, and B [out, rank x E], in which the columns of the experts alternate. A module has
several such weights, and PEFT wraps it once for each. The tensors of the outermost wrapper have the
module's name; the names of inner wrappers have a "base_layer" for each wrapper around them.
"""

import re
from collections.abc import Sequence

from torch import Tensor, nn

from trainer.models.blocks.experts import GroupedLinear

PARAMETERS = ("gate_up_proj", "down_proj")
"""The weights of `Experts`, in the order in which PEFT wraps them"""
HOME = ".experts"
INSIDE = ".base_layer"


def joined(leaf: str, matrix: Tensor) -> Tensor:
    """lora_A [E, rank, in] -> [E x rank, in]; lora_B [E, out, rank] -> [out, rank x E]."""
    return matrix.flatten(0, 1) if leaf == "lora_A" else matrix.permute(1, 2, 0).flatten(1)


def joined_shape(leaf: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of `joined` for a matrix of this shape."""
    experts, rows, columns = shape
    return (experts * rows, columns) if leaf == "lora_A" else (rows, columns * experts)


def separated(leaf: str, matrix: Tensor, experts: int) -> Tensor:
    """The inverse of `joined`."""
    if leaf == "lora_A":
        return matrix.unflatten(0, (experts, -1))
    return matrix.unflatten(1, (-1, experts)).permute(2, 0, 1)


def number_of_experts(layer: nn.Module) -> int:
    """The number of pairs of matrices in an adapter of this layer."""
    return len(layer.weight) if isinstance(layer, GroupedLinear) else 1


def wrapped_name(name: str, targeted: Sequence[str]) -> str:
    """PEFT's name for `<home>.<weight>.<part>`; `targeted` are the home's adapted weights."""
    home, leaf, part = name.rsplit(".", 2)
    return f"{home}{INSIDE * (len(targeted) - 1 - targeted.index(leaf))}.{part}"


def plain_name(name: str, targets: Sequence[str]) -> str:
    """Convert PEFT's name of an experts' tensor to `<home>.<weight>.<part>`.

    Other names are returned unchanged. `targets` is the config's target_parameters.
    """
    found = re.fullmatch(r"(.*\.experts)((?:\.base_layer)*)\.(lora_[AB]\.weight)", name)
    if found is None:
        return name
    home, inside, part = found.groups()
    targeted = [
        leaf
        for leaf in PARAMETERS
        if any(f".{home}.{leaf}".endswith(f".{target}") for target in targets)
    ]
    index = len(targeted) - 1 - inside.count(INSIDE)
    return f"{home}.{targeted[index]}.{part}" if index >= 0 else name
