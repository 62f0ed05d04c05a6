"""Placement: the device, the ranks and the precision that a model trains with."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from trainer.devices.allocator import keep_few_kernels, let_segments_grow
from trainer.devices.context import share_context
from trainer.devices.device_memory import memory_of_a_rank
from trainer.devices.options import DeviceOptions
from trainer.devices.precision import check_same_precision, keep_masters_in_fp32, precision_of
from trainer.devices.ranks import Ranks
from trainer.devices.sharding import agreed_strategy, reduces_once, shard
from trainer.devices.tensor_parallel import check_tensor_parallel
from trainer.errors import EnvironmentFault, InputError
from trainer.interop.padded_model import WRITERS, PaddedModel
from trainer.models.attention.triton_device import torch_compiles_for
from trainer.models.pretrained import PretrainedModel
from trainer.settings import TrainSettings

log = logging.getLogger("trainer")


@dataclass(frozen=True)
class Placement:
    """A model on its device, and the ranks that train it."""

    model: nn.Module
    wrapped: nn.Module
    """The module that training calls: the model, or DDP's wrapper, which averages gradients."""
    ranks: Ranks
    precision: str
    """fp32, bf16 or fp16."""
    accelerator: Accelerator
    reduces_once: bool = False
    """Whether a sharded model's gradients are reduced over ranks only once per step."""


def uses_all_parameters(model: nn.Module) -> bool:
    """Whether every backward pass gives all trained parameters a gradient, as DDP then assumes."""
    if isinstance(model, PaddedModel):  # language models compute logits outside of the forward pass
        return model.task in WRITERS
    return isinstance(model, PretrainedModel)


def place(
    model: nn.Module,
    settings: TrainSettings,
    options: DeviceOptions,
    choose: Callable[[torch.device, str], str],
) -> Placement:
    """Move a model to its device with trained weights in fp32; wrap or shard it for several ranks.

    `choose` returns the strategy, ddp or fsdp, for this rank's device and precision; the model is
    sharded if any rank chose fsdp.
    """
    keep_few_kernels()
    let_segments_grow()
    timeout = options.timeout
    timeouts = {} if timeout is None else {"timeout": timedelta(seconds=timeout)}
    # on a CPU, Accelerate wraps a model for several processes only with this flag
    device = PartialState(cpu=not torch.accelerator.is_available(), **timeouts).device
    precision = precision_of(settings.precision, model, device)
    _reset_precision_of_accelerate()
    accelerator = Accelerator(
        mixed_precision="no",  # the model is not changed; autocast wraps its calls
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                gradient_as_bucket_view=True,
                find_unused_parameters=not uses_all_parameters(model),
            )
        ],
    )
    ranks = Ranks(device)
    if ranks.world_size != accelerator.num_processes:
        found = f"{ranks.world_size} processes, Accelerate {accelerator.num_processes}"
        raise EnvironmentFault(f"launch: torch.distributed has {found}; they must agree")
    check_same_precision(ranks.gather(precision))
    share_context(model, ranks, options.context_parallel, settings)
    check_tensor_parallel(model, ranks, options.tensor_parallel, options.strategy, settings)
    chosen = agreed_strategy(ranks.gather(choose(device, precision)))
    sharded = chosen == "fsdp" and (ranks.world_size > 1 or options.cpu_offload)
    if isinstance(model, PretrainedModel) and not sharded:
        model.fill(model)
    _prepare(model, settings, device)
    if sharded:
        memory = ranks.gather(memory_of_a_rank(device))
        once = reduces_once(options.reduce_gradients, model, memory)
        shard(model, device, precision, options.cpu_offload, options.tensor_parallel)
        return Placement(model, model, ranks, precision, accelerator, once)
    return Placement(model, accelerator.prepare_model(model), ranks, precision, accelerator)


def open_tracker(
    name: str, project: str, folder: Path, options: Mapping[str, Any]
) -> GeneralTracker:
    """Open a run of an experiment tracker with Accelerate's class of this name.

    `folder` is for trackers that write files; `options` are arguments of the class. Raises the
    errors of the tracker's library.
    """
    kind = LOGGER_TYPE_TO_CLASS[name]
    where = [str(folder)] if kind.requires_logging_directory else []
    tracker = kind(project, *where, **options)
    tracker.start()
    return tracker


def _reset_precision_of_accelerate() -> None:
    """Let this run set its precision even if other code in the process has set Accelerate's.

    Accelerate has one precision per process and refuses a second one. The Trainer of transformers
    resets this state too.
    """
    state = AcceleratorState._shared_state
    if state.get("_mixed_precision", "no") != "no":
        AcceleratorState._reset_state(reset_partial_state=False)


def _prepare(model: nn.Module, settings: TrainSettings, device: torch.device) -> None:
    keep_masters_in_fp32(model)
    if settings.gradient_checkpointing:
        enable = getattr(model, "gradient_checkpointing_enable", None)
        if enable is None:
            found = f"found true, and {type(model).__name__} cannot recompute activations"
            raise InputError(f"trainer.gradient_checkpointing: {found}; accepted: false")
        enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if settings.activation_offload:
        offload = getattr(model, "activation_offload_enable", None)
        if offload is None:
            found = f"found true, and {type(model).__name__} has no known layers"
            raise InputError(f"trainer.activation_offload: {found}; accepted: false")
        if device.type == "cpu":
            log.warning("trainer.activation_offload: a CPU's activations are in host memory anyway")
        offload()
    if settings.compile:
        if not torch_compiles_for(device):
            found = "found true, and torch has no compiler for this GPU"
            accepted = "false, or capability 7.0 or later and the package triton"
            raise InputError(f"trainer.compile: {found}; accepted: {accepted}")
        model.compile(dynamic=True)
