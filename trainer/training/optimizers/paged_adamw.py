"""AdamW whose moments move between GPU and host as memory requires (QLoRA), by bitsandbytes."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from trainer.settings import TrainSettings
from trainer.training.bitsandbytes_adamw import BitsAndBytesAdamW
from trainer.training.parameter_groups import Group, NamedParameters, parameter_groups

PACKAGE = "bitsandbytes"
NEEDS_ACCELERATOR = True


def build(named_parameters: NamedParameters, settings: TrainSettings) -> torch.optim.Optimizer:
    """Use fp32 moments. The moments of small parameters always stay on the device."""
    groups = parameter_groups(named_parameters, settings, lambda *_: {"algorithm": "adamw"})
    return PagedAdamW(groups, lr=settings.learning_rate, **settings.optimizer_options)


class PagedAdamW(BitsAndBytesAdamW):
    """bitsandbytes' paged AdamW (Dettmers et al., 2023, section 3)."""

    state_depends_on_size = True

    def part(
        self, algorithm: str, groups: list[Group], lr: float, options: Mapping[str, Any]
    ) -> torch.optim.Optimizer:
        from bitsandbytes.optim import PagedAdamW as Library

        build_paged: Callable[..., torch.optim.Optimizer] = Library
        return build_paged(groups, lr=lr, **options)
