"""Tensor parallelism: ranks split the heads and inner channels of each layer of a decoder.

torch's `parallelize_module` splits query, key, value, gate and input projections by their outputs,
and output projections by their inputs (Megatron-LM; Shoeybi et al., 2019).
"""

from copy import copy

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)
from torch.func import functional_call

from trainer.devices.ranks import Ranks
from trainer.errors import InputError
from trainer.models.attention.grouped_attention import GroupedAttention
from trainer.models.blocks.autograd import AutogradContext
from trainer.models.blocks.decoder import DecoderBody
from trainer.models.blocks.gated_feed_forward import GatedFeedForward
from trainer.models.blocks.linear import Linear
from trainer.models.pretrained import PretrainedModel
from trainer.settings import TrainSettings

BY_OUTPUT = (
    *("attention.query", "attention.key", "attention.value"),
    *("feed_forward.gate", "feed_forward.input"),
)
BY_INPUT = ("attention.output", "feed_forward.output")


def check_tensor_parallel(
    model: nn.Module, ranks: Ranks, size: int, strategy: str, settings: TrainSettings
) -> None:
    """Check that layers can be split, and group the ranks: `size` consecutive ones share samples.

    Raises InputError for models whose layers cannot be split, for conflicting settings, and if
    `size` does not divide the numbers of ranks, key heads and inner channels.
    """
    if size == 1:
        return
    where = f"launch.tensor_parallel: found {size}"
    if ranks.world_size % size:
        accepted = "accepted: a divisor of their number"
        raise InputError(f"{where} for {ranks.world_size} processes; {accepted}")
    if ranks.copies > 1:
        raise InputError(f"{where} with launch.context_parallel; accepted: one of them")
    if strategy == "ddp":
        raise InputError(f"{where} with launch.strategy=ddp; accepted: fsdp, or auto")
    if settings.activation_offload:
        raise InputError(f"{where} with trainer.activation_offload=true; accepted: one of them")
    if not isinstance(model, PretrainedModel) or not isinstance(model.body, DecoderBody):
        raise InputError(f"{where}, and {type(model).__name__} is not a decoder; accepted: 1")
    for name, layer in model.body.units:
        if why_not := _obstacle(layer, size):
            raise InputError(f"{where}, and {name} {why_not}")
    ranks.copies = ranks.alike = size


def parallelize(layer: nn.Module, mesh: DeviceMesh) -> None:
    """Split a layer over the ranks of `mesh`; every rank has the layer's whole weights."""
    plan: dict[str, ParallelStyle] = {name: ColwiseParallel() for name in BY_OUTPUT}
    plan |= {name: RowwiseParallel() for name in BY_INPUT}
    parallelize_module(layer, mesh, plan, src_data_rank=None)
    attention = layer.attention
    assert isinstance(attention, GroupedAttention)
    attention.num_heads //= mesh.size()
    attention.num_key_heads //= mesh.size()
    for norm in _head_norms(attention):
        _sum_gradients(norm, mesh.get_group())


def _head_norms(attention: GroupedAttention) -> list[nn.RMSNorm]:
    """The norms of queries and keys, if there are any."""
    found = (getattr(attention, name, None) for name in ("query_norm", "key_norm"))
    return [norm for norm in found if isinstance(norm, nn.RMSNorm)]


def _sum_gradients(norm: nn.RMSNorm, group: dist.ProcessGroup) -> None:
    """Sum a norm's gradients over ranks, since each rank applies the norm to its own heads only."""
    original = copy(norm)

    def forward(x: Tensor) -> Tensor:
        weight = _SummedGradient.apply(norm.weight, group)
        found: Tensor = functional_call(original, {"weight": weight}, (x,))
        return found

    norm.forward = forward  # type: ignore[method-assign]


class _SummedGradient(torch.autograd.Function):
    """The identity function; its backward pass sums the gradient over ranks."""

    @staticmethod
    def forward(ctx: AutogradContext, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.clone()
        dist.all_reduce(grad, group=ctx.group)
        return grad, None


def _obstacle(layer: nn.Module, size: int) -> str:
    """The reason why a layer cannot be split into this many parts; empty if it can."""
    linear = {name for name, part in layer.named_modules() if isinstance(part, nn.Linear)}
    known = all(type(layer.get_submodule(name)) is Linear for name in linear)
    attention, network = getattr(layer, "attention", None), getattr(layer, "feed_forward", None)
    fits = isinstance(attention, GroupedAttention) and type(network) is GatedFeedForward
    if linear != {*BY_OUTPUT, *BY_INPUT} or not known or not fits:
        return "has other projections than query, key, value and gate; accepted: 1"
    assert isinstance(attention, GroupedAttention)
    if any(norm.weight.numel() != attention.channels for norm in _head_norms(attention)):
        return "normalizes all heads together; accepted: 1"
    if attention.dropout.p:
        return f"drops attention (p={attention.dropout.p}); accepted: 1, or attention_dropout=0"
    if attention.num_key_heads % size:
        accepted = f"accepted: a divisor of {attention.num_key_heads}"
        return f"has {attention.num_key_heads} key heads; {accepted}"
    gate = layer.get_submodule("feed_forward.gate")
    assert isinstance(gate, nn.Linear)
    if (inner := gate.out_features) % size:
        return f"has {inner} inner channels; accepted: a divisor of {inner}"
    return ""
