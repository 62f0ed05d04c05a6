"""BatchNorm cannot train on a single row: checked before the first step."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from trainer.data.batch import StackedSamples
from trainer.data.plan import GlobalBatchPlan
from trainer.errors import InputError
from trainer.ranks import Ranks
from trainer.settings import TrainSettings

REFUSAL = "Expected more than 1 value per channel"
"""What torch's batch_norm says."""
TRIED = 16
"""Larger and smaller global batch sizes that are tried for the message."""


def check_batch_norm(
    model: nn.Module, samples: object, settings: TrainSettings, seed: int, ranks: Ranks
) -> None:
    """Raise InputError where a step would train BatchNorm on one row, which it cannot.

    A single row may have several values a channel (pixels of an image): the model is asked.
    """
    layers = [module for module in model.modules() if isinstance(module, _NormBase)]
    if not layers or not isinstance(samples, StackedSamples):
        return
    size, world = settings.global_batch_size, ranks.world_size
    if not _has_single_row(samples, size, settings, seed, world):
        return
    if _takes_one_row(model, layers, samples, ranks.device):
        return
    sizes = [n for d in range(1, TRIED + 1) for n in (size + d, size - d) if n > 1]
    fitting = (n for n in sizes if not _has_single_row(samples, n, settings, seed, world))
    other = "another size, or a micro_batch_size of 2 or more"
    accepted = next((f"{n}, for example" for n in fitting), other)
    found = f"found {size}, which leaves a batch of one row (of {len(samples)} in the data)"
    raise InputError(
        f"trainer.global_batch_size: {found}; BatchNorm cannot train on it; accepted: {accepted}"
    )


def _has_single_row(
    samples: StackedSamples, size: int, settings: TrainSettings, seed: int, world: int
) -> bool:
    """Whether a rank gets one row in a full or in the last step of an epoch; all rows weigh one."""
    plan = GlobalBatchPlan(samples.lengths, size, seed)
    micro = settings.micro_batch_size
    steps = {0, plan.steps_per_epoch - 1}
    return any(
        len(part) == 1
        for step in steps
        for rank in range(world)
        for part in plan.micro_batches(
            step, rank=rank, world_size=world, micro_batch_size=micro, max_tokens=micro or size
        )
    )


def _takes_one_row(
    model: nn.Module, layers: list[_NormBase], samples: StackedSamples, device: torch.device
) -> bool:
    """Whether the model runs on one row in training mode; leaves its statistics as they were."""
    buffers = [buffer for layer in layers for buffer in layer.buffers(recurse=False)]
    before, training = [buffer.clone() for buffer in buffers], model.training
    try:
        with torch.no_grad():
            model.train()(**samples.collate([0]).to(device).inputs())
    except ValueError as error:
        if REFUSAL not in str(error):
            raise
        return False
    finally:
        model.train(training)
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
    return True
