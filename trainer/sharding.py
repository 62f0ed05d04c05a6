"""Sharding: every rank holds some rows of each parameter, and a layer whole only while it runs."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from trainer.allocator import give_back_freed_memory
from trainer.errors import InputError
from trainer.memory import total_memory
from trainer.models.pretrained import PretrainedModel
from trainer.models.sharded import is_sharded
from trainer.optim import num_moments
from trainer.precision import DTYPES, keep_masters_in_fp32
from trainer.settings import TrainSettings

STRATEGIES = ("auto", "ddp", "fsdp")
ELEMENTWISE = (
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "asgd",
    "nadam",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
)
"""The optimizers whose step of some rows needs those rows alone; Adafactor and Muon need all."""
REDUCTIONS = ("auto", "step", "micro_batch")
LARGEST_GRADIENT = 0.1
"""Of the memory that a rank has: whole gradients that need more are shared out at once."""
LARGEST_SHARE = 0.8
"""Of a device's memory: what needs more, activations aside, is sharded unasked."""


def chosen_strategy(
    wanted: str,
    model: nn.Module,
    settings: TrainSettings,
    device: torch.device,
    cpu_offload: bool = False,
    precision: str = "fp32",
) -> str:
    """ddp or fsdp for `wanted`, which may be auto: fsdp where a GPU cannot hold what training does.

    Raises InputError for a model or settings that cannot be sharded, where they are to be, and for
    `cpu_offload` without.
    """
    if wanted not in STRATEGIES:
        accepted = ", ".join(STRATEGIES)
        raise InputError(f"launch.strategy: found '{wanted}'; accepted: {accepted}")
    if cpu_offload and wanted != "fsdp":
        found = f"found true with launch.strategy={wanted}"
        raise InputError(f"launch.cpu_offload: {found}; accepted: launch.strategy=fsdp, or false")
    why_not = _obstacle(model, settings)
    if wanted == "fsdp" and why_not:
        raise InputError(why_not)
    if wanted != "auto":
        return wanted
    return "fsdp" if not why_not and _too_large(model, settings, device, precision) else "ddp"


def agreed_strategy(chosen: Sequence[str]) -> str:
    """What all ranks do, whose devices may differ: fsdp where that of one cannot hold the whole."""
    return "fsdp" if "fsdp" in chosen else "ddp"


def reduces_once(wanted: str, model: nn.Module, memories: Sequence[int]) -> bool:
    """Whether a sharded model's gradients are added up over ranks once a step.

    Kept until the last micro batch they are whole on each rank, in fp32; `auto` does so where they
    take a tenth of the memory of the rank that has least of it. Else they are reduced after every
    micro batch. Raises InputError for a word that is none of these.
    """
    if wanted not in REDUCTIONS:
        accepted = ", ".join(REDUCTIONS)
        raise InputError(f"launch.reduce_gradients: found '{wanted}'; accepted: {accepted}")
    whole = sum(4 * p.numel() for p in model.parameters() if p.requires_grad)
    return wanted == "step" or (wanted == "auto" and whole <= LARGEST_GRADIENT * min(memories))


def shard(
    model: nn.Module, device: torch.device, precision: str = "fp32", cpu_offload: bool = False
) -> None:
    """Leave each rank its rows of every parameter: torch's `fully_shard` (arXiv:2304.11277).

    Weights that were not read yet are read for one layer after the other, so that neither host nor
    device ever holds the whole model. Each layer is gathered while it runs, and the next one during
    its computation; what is in no layer stays gathered from the forward to the backward pass, since
    losses may read the output weights. In bf16 weights are gathered in bf16: of fp32 weights,
    autocast would keep copies of its own, of the whole model, for the backward pass. A head that
    computes in fp32 is gathered so. Gradients are means over ranks, as under DDP, in the type of
    the parameters. With `cpu_offload` the rows and their gradients are in host memory, and so is
    what an optimizer adds to them.
    """
    if not dist.is_initialized():  # a process of its own, whose weights are to be on the host
        dist.init_process_group(store=dist.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    offload = _host_memory(device) if cpu_offload else OffloadPolicy()
    assert isinstance(model, PretrainedModel)
    model.fill(model.body.embeddings)  # in the order of the parameters, as random ones are drawn
    for part in (*model.body.layers, model):
        model.fill(part)
        keep_masters_in_fp32(part)
        in_fp32 = [model.head] if part is model and model.head_in_fp32 else []
        for module, numbers in [*((m, "fp32") for m in in_fp32), (part, precision)]:
            policy = _numbers(numbers)
            sharded = fully_shard(module, mesh=mesh, mp_policy=policy, offload_policy=offload)
            sharded.set_force_sum_reduction_for_comms(device.type == "cpu")  # gloo has no mean
        give_back_freed_memory()  # the layer's whole weights, which lie between ranks' shares
    _prefetch(model)


@contextmanager
def calls_outside_training(model: nn.Module) -> Iterator[None]:
    """Around forward passes that no backward pass follows: no gathered weights stay behind."""
    try:
        yield
    finally:
        if isinstance(model, FSDPModule):
            model.reshard()


@torch.no_grad()
def whole_weights(
    model: nn.Module, names: Collection[str] | None = None
) -> dict[str, Tensor] | None:
    """A sharded model's weights on the CPU of rank 0, by name; nothing for other models.

    All of them, or those of these names. Every rank calls it. One parameter at a time is whole on
    the devices; other ranks get none of them to keep.
    """
    if not is_sharded(model):
        return None
    weights = {}
    for name, parameter in model.named_parameters():
        if names is not None and name not in names:
            continue
        assert isinstance(parameter, DTensor), f"{name} was left gathered"
        # what is kept on the host is gathered on the devices: NCCL knows no other memory
        on_device = parameter.to(parameter.device_mesh.device_type)
        assert isinstance(on_device, DTensor)
        whole = on_device.full_tensor()
        if dist.get_rank() == 0:
            weights[name] = whole.cpu()
    return weights


def _prefetch(model: PretrainedModel) -> None:
    """Have each layer gathered while the one before it computes, in both passes."""
    layers = list(model.body.layers)
    for layer, following in pairwise(layers):
        layer.set_modules_to_forward_prefetch([following])
        following.set_modules_to_backward_prefetch([layer])


def _numbers(precision: str) -> MixedPrecisionPolicy:
    """Gathered as autocast would cast it; gradients are added up in fp32."""
    if precision == "fp32":
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(DTYPES[precision], torch.float32, cast_forward_inputs=False)


def _host_memory(device: torch.device) -> CPUOffloadPolicy:
    """Page-locked where a GPU copies from it and to it while it computes."""
    return CPUOffloadPolicy(pin_memory=device.type == "cuda")


def _obstacle(model: nn.Module, settings: TrainSettings) -> str:
    """Why this cannot be sharded, in one line, or nothing."""
    if not isinstance(model, PretrainedModel):
        return "launch.strategy: fsdp shards this package's own models; accepted here: ddp"
    if settings.compile:
        return "trainer.compile: found true with launch.strategy=fsdp; accepted: false, or ddp"
    if settings.precision == "fp16":  # its scaler looks at one rank's gradients
        return "trainer.precision: found fp16 with launch.strategy=fsdp; accepted: bf16, fp32"
    if settings.optimizer.lower() not in ELEMENTWISE:
        found = f"found '{settings.optimizer}', whose step needs whole matrices"
        return f"trainer.optimizer: {found}; accepted with fsdp: {', '.join(ELEMENTWISE)}"
    return ""


def _too_large(
    model: nn.Module, settings: TrainSettings, device: torch.device, precision: str
) -> bool:
    memory = total_memory(device)
    return memory is not None and bytes_of_ddp(model, settings, precision) > LARGEST_SHARE * memory


def bytes_of_ddp(model: nn.Module, settings: TrainSettings, precision: str) -> int:
    """What a rank that holds all of a model needs for it in a step, activations aside.

    What is trained: the weight, its gradient, the bucket that DDP averages it in (a gradient
    stands beside it while micro batches add up), the optimizer's moments and the average, in fp32;
    of all weights the copies that autocast keeps for the backward pass. With Adam in bf16 these
    are 22 bytes a parameter.
    """
    moments = num_moments(settings.optimizer, settings.optimizer_options)
    trained = 4 * (3 + moments + bool(settings.ema_decay))
    cast = 0 if precision == "fp32" else 2
    return sum(
        p.numel() * (trained + cast if p.requires_grad else p.element_size() + cast)
        for p in model.parameters()
    )
