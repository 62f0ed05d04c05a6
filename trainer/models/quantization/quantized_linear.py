"""Frozen linear layers whose weights are packed in 4 or 8 bits."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainer.models.adapters.base_digest import sample
from trainer.models.blocks.autocast import to_autocast_type
from trainer.models.blocks.autograd import AutogradContext
from trainer.models.blocks.linear import Linear
from trainer.models.families.gpt2 import InputsFirstLinear
from trainer.models.quantization.code import Code, Shape

PACKED = "packed"
"""The name of the parameter that replaces a weight."""


class QuantizedLinear(nn.Module):
    """A linear layer that unpacks its weight for each use, in the forward and the backward pass.

    Layers are converted in place. The packed bytes are a parameter without gradient, which is
    moved, broadcast and sharded like other parameters, and a change of dtype does not affect it.
    """

    packed: nn.Parameter
    """uint8 [N], the N bytes of the packed weight"""
    bias: Tensor | None
    code: Code
    shape: Shape
    """The number of outputs and of inputs."""
    dtype: torch.dtype
    """The dtype of `weight`, which is the dtype before packing."""
    original_sample: bytes
    """A sample of the original weight, from which the digest of the base model is computed."""
    transposed = False
    """Whether the weight is [in, out]."""

    @property
    def weight(self) -> Tensor:
        """The unpacked weight, in the layout of the original weight."""
        if self.packed.is_meta:
            weight = torch.empty(self.shape, dtype=self.dtype, device="meta")
        else:
            weight = self.code.unpack(self.packed.detach(), self.shape).to(self.dtype)
        return weight.T if self.transposed else weight

    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(to_autocast_type(x), self.packed, self.bias, self.code, self.shape)


class QuantizedInputsFirstLinear(QuantizedLinear):
    """A linear layer of GPT-2, whose weight is [in, out]."""

    transposed = True


QUANTIZED: dict[type[nn.Module], type[QuantizedLinear]] = {
    nn.Linear: QuantizedLinear,
    Linear: QuantizedLinear,
    InputsFirstLinear: QuantizedInputsFirstLinear,
}
PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    QuantizedLinear: Linear,
    QuantizedInputsFirstLinear: InputsFirstLinear,
}


def shape_of(layer: nn.Module) -> Shape:
    """The number of outputs and of inputs of a plain layer that can be quantized."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    rows, columns = weight.shape
    return (columns, rows) if QUANTIZED[type(layer)].transposed else (rows, columns)


@torch.no_grad()
def quantize_layer(layer: nn.Module, code: Code) -> None:
    """Convert a plain layer in place, even on the meta device; its bias is not quantized."""
    shape, kind = shape_of(layer), QUANTIZED[type(layer)]
    weight = layer._parameters.pop("weight")
    assert weight is not None
    layer.__class__ = kind
    assert isinstance(layer, QuantizedLinear)
    layer.code, layer.shape, layer.dtype = code, shape, weight.dtype
    layer.original_sample = sample(weight)
    if weight.is_meta:
        packed = weight.new_empty(code.num_bytes(shape), dtype=torch.uint8)
    else:
        packed = code.pack((weight.T if kind.transposed else weight).float())
    layer.packed = nn.Parameter(packed, requires_grad=False)


def make_plain(layer: QuantizedLinear, weight: Tensor) -> None:
    """Convert a quantized layer in place to a plain layer with this weight."""
    device = layer.packed.device
    for name in (PACKED, "code", "shape", "dtype", "original_sample"):
        delattr(layer, name)
    layer.__class__ = PLAIN[type(layer)]  # type: ignore[assignment]
    layer.register_parameter("weight", nn.Parameter(weight.to(device)))


class _Product(torch.autograd.Function):
    """A linear layer's product, which saves only the packed weight for the backward pass."""

    @staticmethod
    def forward(
        ctx: AutogradContext,
        x: Tensor,
        packed: Tensor,
        bias: Tensor | None,
        code: Code,
        shape: Shape,
    ) -> Tensor:
        ctx.save_for_backward(packed)
        ctx.code, ctx.shape = code, shape
        weight = code.unpack(packed, shape).to(x.dtype)
        return F.linear(x, weight, None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        (packed,) = ctx.saved_tensors
        of_x = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = grad @ ctx.code.unpack(packed, ctx.shape).to(grad.dtype)
        if ctx.needs_input_grad[2]:
            wide = torch.promote_types(grad.dtype, torch.float32)
            of_bias = grad.reshape(-1, grad.shape[-1]).sum(0, dtype=wide)
        return of_x, None, of_bias, None, None


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """Module name -> quantized layer."""
    return {name: m for name, m in model.named_modules() if isinstance(m, QuantizedLinear)}


def weight_name(parameter_name: str) -> str:
    """The name that this parameter has in a model that is not quantized."""
    inside, _, leaf = parameter_name.rpartition(".")
    return f"{inside}.weight" if leaf == PACKED else parameter_name


def quantization_of(model: nn.Module) -> str | None:
    """The name of a model's quantization format; None if no layer is quantized."""
    return next((layer.code.name for layer in quantized_layers(model).values()), None)


def unpacked_bytes(model: nn.Module) -> int:
    """The bytes needed to unpack the largest weight of a layer; 0 without quantized layers.

    They are those of two fp32 copies of the weight, before and after scaling.
    """
    sizes = (layer.shape[0] * layer.shape[1] for layer in quantized_layers(model).values())
    return 2 * torch.float32.itemsize * max(sizes, default=0)


def num_weights(model: nn.Module) -> int:
    """The number of a model's weights, including packed ones."""
    return sum(sizes_of_parameters(model).values())


def sizes_of_parameters(model: nn.Module) -> dict[nn.Parameter, int]:
    """The number of weights in each parameter; for a packed parameter, before packing."""
    shapes = {layer.packed: layer.shape for layer in quantized_layers(model).values()}
    return {p: torch.Size(shapes.get(p, p.shape)).numel() for p in model.parameters()}
