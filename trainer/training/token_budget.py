"""The token budget: the default number of tokens per forward pass."""

import torch

from trainer.data.batch import Samples
from trainer.data.stacked_samples import StackedSamples
from trainer.data.streams import RowStream
from trainer.settings import TrainSettings

TOKEN_BUDGET = {"cpu": 4096, "mps": 4096}
"""Type of a device that uses the host's memory -> its default budget."""
DEDICATED_MEMORY_BUDGET = 16384
"""The default for devices with their own memory."""


def default_budget(settings: TrainSettings, samples: Samples, device: torch.device) -> int:
    """The number of tokens per forward pass, before the search for the largest micro batch.

    A row of a plain data set counts as one token, unless it has token ids.
    """
    if isinstance(samples, (StackedSamples, RowStream)) and not samples.by_tokens:
        return settings.micro_batch_size or settings.global_batch_size
    default = TOKEN_BUDGET.get(device.type, DEDICATED_MEMORY_BUDGET)
    return settings.max_tokens_per_micro_batch or default
