"""The strategy of a run on several ranks: replicated (ddp) or sharded (fsdp)."""

import torch
from torch import nn

from trainer.devices.device_memory import total_memory
from trainer.errors import InputError
from trainer.models.layered import layers_of
from trainer.models.quantization.quantized_linear import unpacked_bytes
from trainer.settings import TrainSettings
from trainer.training.optim import elementwise_optimizers, find_optimizer, moments_per_weight

STRATEGIES = ("auto", "ddp", "fsdp")
LARGEST_SHARE = 0.8
"""If training needs more than this share of a device's memory, without activations, `auto` shards.
"""


def chosen_strategy(
    wanted: str,
    cpu_offload: bool,
    model: nn.Module,
    settings: TrainSettings,
    device: torch.device,
    precision: str,
) -> str:
    """ddp or fsdp for `wanted`; auto means fsdp if training does not fit on one GPU.

    Raises InputError if fsdp is requested but the model or the settings do not allow it, and for
    `cpu_offload` without fsdp.
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


def bytes_of_ddp(model: nn.Module, settings: TrainSettings, precision: str) -> int:
    """The bytes that a rank with a replicated model needs in a step, without activations.

    For trained weights: the weight, its gradient, its slot in DDP's bucket, the optimizer's moments
    and the average, in fp32. For all weights: the copies that autocast keeps until the backward
    pass. With Adam in bf16 this is 22 bytes per parameter.
    """
    trained = 4 * (3 + moments_per_weight(settings) + bool(settings.ema_decay))
    cast = 0 if precision == "fp32" else 2
    return unpacked_bytes(model) + sum(
        int(p.numel() * (trained + cast if p.requires_grad else p.element_size() + cast))
        if p.is_floating_point()
        else p.nbytes  # quantized weights, which are unpacked layer by layer
        for p in model.parameters()
    )


def _obstacle(model: nn.Module, settings: TrainSettings) -> str:
    """The reason why the model cannot be sharded with these settings, as one line; otherwise ''."""
    if layers_of(model) is None:
        found = f"found fsdp, and the layers of {type(model).__name__} are not known"
        return f"launch.strategy: {found}; accepted: ddp"
    if settings.compile:
        return "trainer.compile: found true with launch.strategy=fsdp; accepted: false, or ddp"
    if settings.precision == "fp16":  # its gradient scaler sees one rank's gradients only
        return "trainer.precision: found fp16 with launch.strategy=fsdp; accepted: bf16, fp32"
    if not find_optimizer(settings.optimizer).elementwise:
        found = f"found '{settings.optimizer}', whose step needs whole matrices"
        return (
            f"trainer.optimizer: {found}; accepted with fsdp: {', '.join(elementwise_optimizers())}"
        )
    return ""


def _too_large(
    model: nn.Module, settings: TrainSettings, device: torch.device, precision: str
) -> bool:
    memory = total_memory(device)
    return memory is not None and bytes_of_ddp(model, settings, precision) > LARGEST_SHARE * memory
