"""Placement: the device, the ranks and the number format that a model trains with."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from trainer.allocator import keep_few_kernels, let_segments_grow
from trainer.errors import EnvironmentFault, InputError
from trainer.memory import memory_of_a_rank
from trainer.models.pretrained import PretrainedModel
from trainer.precision import check_same_precision, keep_masters_in_fp32, resolve_precision
from trainer.ranks import Ranks
from trainer.settings import TrainSettings
from trainer.sharding import agreed_strategy, chosen_strategy, reduces_once, shard


@dataclass(frozen=True)
class Placement:
    """A model where it trains, and who trains it."""

    model: nn.Module
    wrapped: nn.Module
    """The model, or what averages its gradients over ranks: what training calls."""
    ranks: Ranks
    precision: str
    """fp32, bf16 or fp16"""
    accelerator: Accelerator
    reduces_once: bool = False
    """Whether the gradients of a sharded model are added up over ranks once a step."""


def place(
    model: nn.Module,
    settings: TrainSettings,
    trackers_dir: Path | None,
    timeout: float | None,
    strategy: str,
    cpu_offload: bool,
    reduce_gradients: str = "auto",
) -> Placement:
    """Move a model to its device, in fp32 where it is trained; wrap or shard it for many ranks.

    `strategy` is auto, ddp or fsdp: alone, a process has no others to share with, and shards only
    to keep its weights on the host (`cpu_offload`). `reduce_gradients` is auto, step or micro_batch
    (trainer/sharding.py). `timeout` are the seconds that a rank waits for another; None: torch's
    default.
    """
    keep_few_kernels()
    let_segments_grow()
    waits = {} if timeout is None else {"timeout": timedelta(seconds=timeout)}
    # on a CPU Accelerate wraps for many processes only if it is told that this is one
    device = PartialState(cpu=not torch.accelerator.is_available(), **waits).device
    precision = resolve_precision(settings.precision, device)
    accelerator = Accelerator(
        mixed_precision="no",  # the model stays as it is; autocast is around its calls
        log_with=settings.trackers or None,
        project_dir=trackers_dir,
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                gradient_as_bucket_view=True,
                find_unused_parameters=not isinstance(model, PretrainedModel),
            )
        ],
    )
    ranks = Ranks(device)
    if ranks.world_size != accelerator.num_processes:
        found = f"{ranks.world_size} processes, Accelerate {accelerator.num_processes}"
        raise EnvironmentFault(f"launch: torch.distributed has {found}; they must agree")
    check_same_precision(ranks.gather(precision))
    own = chosen_strategy(strategy, model, settings, device, cpu_offload, precision)
    chosen = agreed_strategy(ranks.gather(own))
    sharded = chosen == "fsdp" and (ranks.world_size > 1 or cpu_offload)
    if isinstance(model, PretrainedModel) and not sharded:
        model.fill(model)
    _prepare(model, settings)
    if sharded:
        once = reduces_once(reduce_gradients, model, ranks.gather(memory_of_a_rank(device)))
        shard(model, device, precision, cpu_offload)
        return Placement(model, model, ranks, precision, accelerator, once)
    return Placement(model, accelerator.prepare_model(model), ranks, precision, accelerator)


def _prepare(model: nn.Module, settings: TrainSettings) -> None:
    keep_masters_in_fp32(model)
    if settings.gradient_checkpointing:
        if not isinstance(model, PretrainedModel):
            raise InputError("trainer.gradient_checkpointing: this package's own models have it")
        model.gradient_checkpointing_enable()
    if settings.compile:
        model.compile(dynamic=True)
