"""Sharding: each rank holds some rows of every parameter, and gathers each layer when it runs."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from trainer.devices.allocator import give_back_freed_memory
from trainer.devices.groups import own_group
from trainer.devices.precision import DTYPES, keep_masters_in_fp32
from trainer.devices.tensor_parallel import parallelize
from trainer.errors import InputError
from trainer.models.layered import Layered, layers_of
from trainer.models.pretrained import PretrainedModel
from trainer.models.sharded import is_sharded

REDUCTIONS = ("auto", "step", "micro_batch")
LARGEST_GRADIENT = 0.1
"""The largest share of a rank's memory that unreduced gradients may take."""


def agreed_strategy(chosen: Sequence[str]) -> str:
    """The strategy of all ranks: fsdp if any rank chose it."""
    return "fsdp" if "fsdp" in chosen else "ddp"


def reduces_once(wanted: str, model: nn.Module, memories: Sequence[int]) -> bool:
    """Whether a sharded model's gradients are reduced over ranks only once a step.

    If so, each rank holds them in full, in fp32, until the last micro batch. `auto` chooses this if
    they take at most a tenth of the memory of the rank with the least memory. Otherwise they are
    reduced after every micro batch. Raises InputError for an unknown value of `wanted`.
    """
    if wanted not in REDUCTIONS:
        accepted = ", ".join(REDUCTIONS)
        raise InputError(f"launch.reduce_gradients: found '{wanted}'; accepted: {accepted}")
    whole = sum(4 * p.numel() for p in model.parameters() if p.requires_grad)
    return wanted == "step" or (wanted == "auto" and whole <= LARGEST_GRADIENT * min(memories))


def shard(
    model: nn.Module,
    device: torch.device,
    precision: str = "fp32",
    cpu_offload: bool = False,
    tensor_parallel: int = 1,
) -> None:
    """Shard a model with torch's `fully_shard` (arXiv:2304.11277): each rank keeps some rows.

    Weights that were not read yet are read layer by layer, so that neither host nor device ever
    holds the whole model. A layer is gathered while the one before it computes. Parameters outside
    of layers stay gathered from the forward to the backward pass, since losses may read the output
    weights. In bf16, weights are gathered in bf16. If they were gathered in fp32, autocast would
    keep bf16 copies of the whole model until the backward pass. A head that computes in fp32 is
    gathered in fp32. Gradients are means over ranks, as with DDP, in the dtype of the parameters.
    With `cpu_offload` the rows, their gradients and the optimizer's state are in host memory. With
    `tensor_parallel`, that many consecutive ranks form a group that splits each layer. The ranks at
    the same position in all groups hold the same part of each layer, and shard its rows.
    """
    if not dist.is_initialized():  # a single process that keeps its weights in host memory
        dist.init_process_group(store=dist.HashStore(), rank=0, world_size=1)
    mesh, tensor_mesh = _meshes(device, tensor_parallel)
    offload = _host_memory(device) if cpu_offload else OffloadPolicy()
    body = layers_of(model)
    assert body is not None, "checked by `chosen_strategy`"
    _fill(model, body.embed)  # in the order of the parameters, in which random values are drawn
    for part in (*(unit for _, unit in body.units), model):
        _fill(model, part)
        keep_masters_in_fp32(part)
        if tensor_mesh is not None and part is not model:
            parallelize(part.to(device), tensor_mesh)
        in_fp32 = _head_in_fp32(model) if part is model else []
        for module, number_format in [*((m, "fp32") for m in in_fp32), (part, precision)]:
            policy = _mixed_precision(number_format)
            sharded = fully_shard(module, mesh=mesh, mp_policy=policy, offload_policy=offload)
            sharded.set_force_sum_reduction_for_comms(device.type == "cpu")  # gloo cannot average
        give_back_freed_memory()  # of the unsharded weights
    _prefetch(body)


def _meshes(device: torch.device, tensor_parallel: int) -> tuple[DeviceMesh, DeviceMesh | None]:
    """The ranks that divide the rows, and those that split layers with this rank, if any."""
    number = dist.get_world_size()
    if tensor_parallel == 1:
        return init_device_mesh(device.type, (number,)), None
    grid = torch.arange(number).view(-1, tensor_parallel)
    groups = [own_group(each.tolist()) for each in (grid.T, grid)]
    names = ("data", "tensor")
    both = DeviceMesh.from_group(groups, device.type, mesh=grid, mesh_dim_names=names)
    return both["data"], both["tensor"]


@contextmanager
def calls_outside_training(model: nn.Module) -> Iterator[None]:
    """Context manager for forward passes without a backward pass: frees the gathered weights."""
    try:
        yield
    finally:
        if isinstance(model, FSDPModule):
            model.reshard()


@torch.no_grad()
def whole_weights(
    model: nn.Module, names: Collection[str] | None = None
) -> dict[str, Tensor] | None:
    """A sharded model's weights on the CPU of rank 0, by name; None for other models.

    Returns all weights, or those with these `names`. Every rank calls it. Parameters are gathered
    on the devices one at a time, and other ranks keep none of them.
    """
    if not is_sharded(model):
        return None
    weights = {}
    for name, parameter in model.named_parameters():
        if names is not None and name not in names:
            continue
        assert isinstance(parameter, DTensor), f"{name} was left gathered"
        # rows in host memory are gathered on the devices: NCCL cannot use host memory
        on_device = parameter.to(parameter.device_mesh.device_type)
        assert isinstance(on_device, DTensor)
        whole = on_device.full_tensor()
        if dist.get_rank() == 0:
            weights[name] = whole.cpu()
    return weights


def _fill(model: nn.Module, part: nn.Module) -> None:
    """Read the weights of a part; models of transformers already have their weights."""
    if isinstance(model, PretrainedModel):
        model.fill(part)


def _head_in_fp32(model: nn.Module) -> list[nn.Module]:
    return [model.head] if isinstance(model, PretrainedModel) and model.head_in_fp32 else []


def _prefetch(body: Layered) -> None:
    """In both passes, gather the next layer while a layer computes."""
    layers = [unit for _, unit in body.units if isinstance(unit, FSDPModule)]
    for layer, following in pairwise(layers):
        layer.set_modules_to_forward_prefetch([following])
        following.set_modules_to_backward_prefetch([layer])


def _mixed_precision(precision: str) -> MixedPrecisionPolicy:
    """The dtypes of gathered weights (as autocast would cast them) and of gradients (fp32)."""
    if precision == "fp32":
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(DTYPES[precision], torch.float32, cast_forward_inputs=False)


def _host_memory(device: torch.device) -> CPUOffloadPolicy:
    """The policy for rows in host memory; page-locked for a GPU, to copy asynchronously."""
    return CPUOffloadPolicy(pin_memory=device.type == "cuda")
