"""BatchNorm check: refuses batches of a single row before the first step."""

from dataclasses import replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from trainer.data.batch import Samples, StackedBatch
from trainer.data.plan import GlobalBatchPlan
from trainer.devices.ranks import Ranks
from trainer.errors import InputError
from trainer.settings import TrainSettings
from trainer.training.token_budget import default_budget

TORCH_ERROR = "Expected more than 1 value per channel"
"""The error message of torch's batch_norm."""
NUM_ALTERNATIVES = 16
"""How many larger and smaller global batch sizes to try, to suggest one in the error."""


def check_batch_norm(
    model: nn.Module, samples: Samples, settings: TrainSettings, seed: int, ranks: Ranks
) -> None:
    """Raise InputError if a step would train BatchNorm on one row, which torch refuses.

    A single row may have several values for each channel (the pixels of an image), so the model is
    run on one row to find out. Batches of tokens are not checked, because a sequence has several
    tokens.
    """
    layers = [module for module in model.modules() if isinstance(module, _NormBase)]
    if not layers or not isinstance(samples.placeholder(), StackedBatch):
        return
    size = settings.global_batch_size
    if not _has_single_row(samples, size, settings, seed, ranks):
        return
    if _takes_one_row(model, layers, samples, ranks.device):
        return
    sizes = [n for d in range(1, NUM_ALTERNATIVES + 1) for n in (size + d, size - d) if n > 1]
    fitting = (n for n in sizes if not _has_single_row(samples, n, settings, seed, ranks))
    other = "another size, or a micro_batch_size of 2 or more"
    accepted = next((f"{n}, for example" for n in fitting), other)
    found = f"found {size}, which leaves a batch of one row (of {len(samples)} in the data)"
    raise InputError(
        f"trainer.global_batch_size: {found}; BatchNorm cannot train on it; accepted: {accepted}"
    )


def _has_single_row(
    samples: Samples, size: int, settings: TrainSettings, seed: int, ranks: Ranks
) -> bool:
    """Whether a rank gets a micro batch of one row, in a full step or the last one of an epoch."""
    changed = replace(settings, global_batch_size=size)
    max_tokens = default_budget(changed, samples, ranks.device)
    plan = GlobalBatchPlan(samples.lengths, size, seed, kinds=getattr(samples, "kinds", None))
    micro = settings.micro_batch_size
    steps = {0, plan.steps_per_epoch - 1}
    return any(
        len(part) == 1
        for step in steps
        for rank in range(ranks.world_size)
        for part in plan.micro_batches(
            step,
            rank=rank,
            world_size=ranks.world_size,
            micro_batch_size=micro,
            max_tokens=max_tokens,
        )
    )


def _takes_one_row(
    model: nn.Module, layers: list[_NormBase], samples: Samples, device: torch.device
) -> bool:
    """Whether the model runs on one row in training mode; its statistics are restored."""
    buffers = [buffer for layer in layers for buffer in layer.buffers(recurse=False)]
    before, training = [buffer.clone() for buffer in buffers], model.training
    try:
        with torch.no_grad():
            model.train()(**samples.collate([0]).to(device).inputs())
    except ValueError as error:
        if TORCH_ERROR not in str(error):
            raise
        return False
    finally:
        model.train(training)
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
    return True
