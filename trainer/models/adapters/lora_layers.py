"""Frozen linear layers, each with two trained matrices of low rank (LoRA; Hu et al., 2021)."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trainer.errors import InputError
from trainer.models.adapters.adapted_layer import AdaptedLayer, adapted_layers
from trainer.models.adapters.adapted_product import (
    Matrices,
    adapted_product,
    add_product,
    product_type,
)
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.experts import GroupedLinear, grouped_product
from trainer.models.blocks.linear import Linear, linear
from trainer.models.families.gpt2 import InputsFirstLinear
from trainer.models.model import Model
from trainer.models.quantization.originals import plain_parameters
from trainer.models.quantization.quantized_linear import (
    PACKED,
    QuantizedInputsFirstLinear,
    QuantizedLinear,
    quantized_layers,
)
from trainer.models.sharded import is_spread

MATRICES = ("lora_A", "lora_B")
MAGNITUDE = "lora_magnitude_vector"
START = ("start_A", "start_B")
"""Frozen copies of the initial matrices; a layer has them if it subtracts the initial product."""
PARTS = (*MATRICES, MAGNITUDE)
"""The suffixes of the parameters that LoRA and DoRA add to a layer."""
SHORTEST = 1e-6
"""The smallest row norm that DoRA divides by; half precision can represent it."""


class LoRALayer(AdaptedLayer):
    """A linear layer plus `scaling` * lora_B [out, rank] @ lora_A [rank, in]."""

    lora_A: nn.Parameter
    lora_B: nn.Parameter
    start_A: nn.Parameter
    start_B: nn.Parameter
    lora_dropout: Dropout
    scaling: float
    parts: tuple[str, ...] = MATRICES
    extras: ClassVar[tuple[str, ...]] = ("lora_dropout",)
    keys: Tensor | None = None
    """The dropout keys of the next input's rows."""

    def forward(self, x: Tensor) -> Tensor:
        dtype = None if self.has_start else product_type(x, self.matrices)
        if dtype is not None and (weight := self.plain_weight()) is not None:
            return adapted_product(x, weight, self.bias, self.matrices, dtype)
        plain = super().forward(x)
        if dtype is not None:
            return add_product(plain, x, self.matrices, dtype)
        narrow = linear(self.lora_dropout(x, self.keys), self.lora_A)
        added = linear(narrow, self.lora_B)
        if self.has_start:
            added = added - linear(linear(x, self.start_A), self.start_B)
        return torch.add(plain, added, alpha=self.scaling)

    @property
    def matrices(self) -> Matrices:
        """The trained matrices, with the dropout keys of the next input."""
        return Matrices(self.lora_A, self.lora_B, self.scaling, self.lora_dropout, self.keys)

    def plain_weight(self) -> Tensor | None:
        """[out, in], the frozen weight.

        None if the weight is packed or sharded, or if the weight or the bias is trained.
        """
        weight = self._parameters.get("weight")
        if weight is None or is_spread(weight):
            return None
        trained = weight.requires_grad or (self.bias is not None and self.bias.requires_grad)
        return None if trained else (weight.T if self.transposed else weight)

    @property
    def rank(self) -> int:
        """The rank of the adapter, or of each expert's adapter in a mixture of experts."""
        return self.lora_A.shape[-2]

    @property
    def has_start(self) -> bool:
        """Whether the initial product of the adapter is subtracted."""
        return START[0] in self.parts

    def adapted(self, weight: Tensor, *parts: Tensor) -> Tensor:
        """[out, in], the weight + scaling * (the product - the initial product)."""
        lora_A, lora_B, *start = parts
        product = lora_B @ lora_A
        if start:
            product = product - start[1] @ start[0]
        return (weight.T if self.transposed else weight) + self.scaling * product


class DoRALayer(LoRALayer):
    """An adapted layer with a trained norm for each row of the weight (DoRA; Liu et al., 2024).

    The output is m (W + scaling B A) x / |W + scaling B A|, where |.| is the norm of each row. As
    in section 4.3 of the paper and in PEFT, no gradient flows through the norm |W + scaling B A|.
    """

    lora_magnitude_vector: nn.Parameter
    """[out]"""
    parts = PARTS

    def forward(self, x: Tensor) -> Tensor:
        dropped = self.lora_dropout(x, self.keys)
        plain = super(LoRALayer, self).forward(x)
        factor = self.lora_magnitude_vector / self.lengths()
        added = self.scaling * linear(linear(dropped, self.lora_A), self.lora_B)
        kept = plain if dropped is x else super(LoRALayer, self).forward(dropped)
        if self.bias is not None:
            kept = kept - self.bias
        return plain + (factor - 1).to(kept) * kept + factor.to(added) * added

    @torch.no_grad()
    def lengths(self) -> Tensor:
        """[out], the row norms of W + scaling B A."""
        kind = torch.promote_types(self.weight.dtype, torch.float32)
        parts = [each.detach().to(kind) for each in (self.weight, self.lora_A, self.lora_B)]
        with torch.autocast(self.weight.device.type, enabled=False):
            return row_lengths(super().adapted(*parts)).to(self.weight.dtype)

    def adapted(self, weight: Tensor, *parts: Tensor) -> Tensor:
        lora_A, lora_B, magnitude = parts
        wide = super().adapted(weight, lora_A, lora_B)
        return wide * (magnitude / row_lengths(wide))[:, None]


def row_lengths(weight: Tensor) -> Tensor:
    """[out], the row norms of a matrix [out, in]; at least SHORTEST, to avoid dividing by 0."""
    return torch.linalg.norm(weight, dim=1).clamp_min(SHORTEST)


class LoRALinear(LoRALayer, Linear):
    """A linear layer with an adapter."""


class LoRAInputsFirstLinear(LoRALayer, InputsFirstLinear):
    """A linear layer whose weight is [in, out], as in GPT-2, with an adapter."""

    transposed = True


class LoRAQuantizedLinear(LoRALayer, QuantizedLinear):  # type: ignore[misc]
    """A linear layer in 4 or 8 bits with an adapter (QLoRA; Dettmers et al., 2023)."""


class LoRAQuantizedInputsFirstLinear(LoRALayer, QuantizedInputsFirstLinear):  # type: ignore[misc]
    """A linear layer with a 4- or 8-bit weight [in, out], as in GPT-2, with an adapter."""

    transposed = True


class LoRAGroupedLinear(LoRALayer, GroupedLinear):
    """The linear layers of E experts, with adapters [E, rank, in] and [E, out, rank].

    There is no dropout, as in PEFT.
    """

    def forward(self, rows: Tensor, ends: Tensor) -> Tensor:  # type: ignore[override]
        narrow = grouped_product(rows, self.lora_A, ends)
        added = grouped_product(narrow, self.lora_B, ends)
        plain = super(LoRALayer, self).forward(rows, ends)
        return torch.add(plain, added, alpha=self.scaling)


class DoRALinear(DoRALayer, Linear):
    """A linear layer with a DoRA adapter."""


class DoRAInputsFirstLinear(DoRALayer, InputsFirstLinear):
    """A linear layer whose weight is [in, out], as in GPT-2, with a DoRA adapter."""

    transposed = True


class DoRAQuantizedLinear(DoRALayer, QuantizedLinear):  # type: ignore[misc]
    """A linear layer in 4 or 8 bits with a DoRA adapter."""


class DoRAQuantizedInputsFirstLinear(DoRALayer, QuantizedInputsFirstLinear):  # type: ignore[misc]
    """A linear layer with a 4- or 8-bit weight [in, out], as in GPT-2, with a DoRA adapter."""

    transposed = True


KINDS: Mapping[type[nn.Module], type[LoRALayer]] = {
    nn.Linear: LoRALinear,
    Linear: LoRALinear,
    InputsFirstLinear: LoRAInputsFirstLinear,
    QuantizedLinear: LoRAQuantizedLinear,
    QuantizedInputsFirstLinear: LoRAQuantizedInputsFirstLinear,
    GroupedLinear: LoRAGroupedLinear,
}
WITH_LENGTHS: Mapping[type[LoRALayer], type[DoRALayer]] = {
    LoRALinear: DoRALinear,
    LoRAInputsFirstLinear: DoRAInputsFirstLinear,
    LoRAQuantizedLinear: DoRAQuantizedLinear,
    LoRAQuantizedInputsFirstLinear: DoRAQuantizedInputsFirstLinear,
}
PLAIN: Mapping[type[nn.Module], Any] = {
    **{adapted: plain for plain, adapted in KINDS.items()},
    **{WITH_LENGTHS[adapted]: plain for plain, adapted in KINDS.items() if adapted in WITH_LENGTHS},
}


def adapt(layer: Any, rank: int, scaling: float, dropout: float, dora: bool) -> None:
    """Convert a linear layer in place; its outputs do not change."""
    kind = KINDS[type(layer)]
    layer.__class__ = WITH_LENGTHS[kind] if dora else kind
    weight = layer.weight
    *experts, outputs, inputs = weight.T.shape if kind.transposed else weight.shape
    layer.lora_A = nn.Parameter(weight.new_empty(*experts, rank, inputs))
    layer.lora_B = nn.Parameter(weight.new_zeros(*experts, outputs, rank))
    with torch.no_grad():  # the initialization of nn.Linear
        nn.init.kaiming_uniform_(layer.lora_A.view(-1, inputs), a=math.sqrt(5))
    layer.lora_dropout = Dropout(dropout)
    layer.scaling = scaling
    if dora:  # the product starts at zero, so that the layer's output does not change
        layer.lora_magnitude_vector = nn.Parameter(layer.lengths())


@torch.no_grad()
def start_with_largest_singular_values(layer: LoRALayer) -> None:
    """Initialize from the largest singular values of the weight (PiSSA; Meng et al., 2024).

    The paper subtracts the adapter's initial product from the frozen weight. This function keeps
    the weight, and the layer subtracts the product in its forward pass. Outputs and gradients are
    the same.
    """
    _approximate(layer, layer.weight.detach(), "pissa")
    for name, matrix in zip(START, (layer.lora_A, layer.lora_B), strict=True):
        layer.register_parameter(name, nn.Parameter(matrix.detach().clone(), requires_grad=False))
    layer.parts = (*MATRICES, *START)


@torch.no_grad()
def start_with_rounding_errors(model: Model) -> None:
    """Initialize from the largest singular values of the quantization errors.

    This is LoftQ (Li et al., 2023) with one step; the base is quantized once, without regard to the
    adapters. Raises InputError for a model without quantized weights.
    """
    layers = {n: m for n, m in adapted_layers(model).items() if isinstance(m, LoRALayer)}
    packed = {f"{n}.{PACKED}": m.packed for n, m in quantized_layers(model).items() if n in layers}
    if not packed:
        raise InputError(
            "model.lora.init: found loftq without quantized weights; accepted: default, pissa, or "
            "loftq with model.quantization"
        )
    if any(value.is_meta for value in packed.values()):
        return
    for name, original in plain_parameters(model, packed):
        layer = layers[name.removesuffix(".weight")]
        _approximate(layer, original.float() - layer.weight.float(), "loftq")


def _approximate(layer: LoRALayer, wanted: Tensor, init: str) -> None:
    """Set the matrices so that their scaled product is the best approximation of `wanted`."""
    wide, rank = wanted.T if layer.transposed else wanted, layer.rank
    if rank > min(wide.shape):
        found = f"found {rank} for a layer of {list(wide.shape)}"
        raise InputError(f"model.lora.rank: {found}; accepted with init={init}: {min(wide.shape)}")
    if not wide.is_meta:
        half = wide.dtype in (torch.float16, torch.bfloat16)
        left, values, right = torch.linalg.svd(wide.float() if half else wide, full_matrices=False)
        root = (values[:rank] / layer.scaling).sqrt()
        layer.lora_A.copy_(root[:, None] * right[:rank])
        layer.lora_B.copy_(left[:, :rank] * root)


def adapted_experts(model: nn.Module) -> dict[str, "LoRAGroupedLinear"]:
    """Module name -> layer of experts with adapters."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LoRAGroupedLinear)}
