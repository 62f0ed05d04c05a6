"""AdamW with 8-bit moments in blocks of 256 (arXiv:2110.02861), by bitsandbytes."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from trainer.settings import TrainSettings
from trainer.training.bitsandbytes_adamw import BitsAndBytesAdamW
from trainer.training.combined import adamw
from trainer.training.parameter_groups import Group, NamedParameters, parameter_groups

PACKAGE = "bitsandbytes"


def build(named_parameters: NamedParameters, settings: TrainSettings) -> torch.optim.Optimizer:
    """Use 8-bit moments for all parameters except embeddings.

    The embedding rows of rare tokens would lose too much precision.
    """

    def algorithm(name: str, parameter: nn.Parameter) -> Group:
        embedding = named_parameters.is_embedding(name)
        return {"algorithm": "adamw" if embedding else "adamw_8bit"}

    groups = parameter_groups(named_parameters, settings, algorithm)
    return AdamW8Bit(groups, lr=settings.learning_rate, **settings.optimizer_options)


class AdamW8Bit(BitsAndBytesAdamW):
    """bitsandbytes' AdamW for most parameters, and torch's AdamW for embeddings.

    Parameters with fewer than 4096 values have fp32 moments.
    """

    state_depends_on_size = True

    def part(
        self, algorithm: str, groups: list[Group], lr: float, options: Mapping[str, Any]
    ) -> torch.optim.Optimizer:
        if algorithm == "adamw":
            return adamw(groups, lr, {k: v for k, v in options.items() if k in ("betas", "eps")})
        from bitsandbytes.optim import AdamW8bit

        build_8bit: Callable[..., torch.optim.Optimizer] = AdamW8bit
        return build_8bit(groups, lr=lr, **options)
