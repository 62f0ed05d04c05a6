"""AdamW with 8-bit moments in paged memory (QLoRA; Dettmers et al., 2023), by bitsandbytes."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from trainer.settings import TrainSettings
from trainer.training.bitsandbytes_adamw import BitsAndBytesAdamW
from trainer.training.parameter_groups import Group, NamedParameters, parameter_groups

PACKAGE = "bitsandbytes"
NEEDS_ACCELERATOR = True


def build(named_parameters: NamedParameters, settings: TrainSettings) -> torch.optim.Optimizer:
    """Use 8-bit moments, but fp32 for embeddings, whose rows of rare tokens need the precision."""

    def algorithm(name: str, parameter: nn.Parameter) -> Group:
        return {"algorithm": "fp32" if named_parameters.is_embedding(name) else "8bit"}

    groups = parameter_groups(named_parameters, settings, algorithm)
    return PagedAdamW8Bit(groups, lr=settings.learning_rate, **settings.optimizer_options)


class PagedAdamW8Bit(BitsAndBytesAdamW):
    """bitsandbytes' paged AdamW with 8-bit or fp32 moments; always fp32 below 4096 values."""

    state_depends_on_size = True

    def part(
        self, algorithm: str, groups: list[Group], lr: float, options: Mapping[str, Any]
    ) -> torch.optim.Optimizer:
        from bitsandbytes.optim import PagedAdamW, PagedAdamW8bit

        kind = PagedAdamW if algorithm == "fp32" else PagedAdamW8bit
        build_paged: Callable[..., torch.optim.Optimizer] = kind
        return build_paged(groups, lr=lr, **options)
