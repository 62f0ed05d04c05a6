"""Muon for the matrices of the body's layers, AdamW for all other parameters (arXiv:2502.16982)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from trainer.settings import TrainSettings
from trainer.training.combined import CombinedOptimizer, adamw
from trainer.training.parameter_groups import Group, NamedParameters, parameter_groups

ADAMW_OPTIONS = ("betas", "eps")
"""Options that apply to AdamW; all others apply to Muon."""


def build(named_parameters: NamedParameters, settings: TrainSettings) -> torch.optim.Optimizer:
    """Use Muon for matrices of layers, and AdamW for embeddings, the head, biases and norms.

    Muon's updates are scaled to match AdamW's (`adjust_lr_fn: match_rms_adamw`), so that one
    learning rate and one weight decay suit both.
    """

    def algorithm(name: str, parameter: nn.Parameter) -> Group:
        hidden = named_parameters.is_hidden_matrix(name, parameter)
        return {"algorithm": "muon" if hidden else "adamw"}

    groups = parameter_groups(named_parameters, settings, algorithm)
    return MuonWithAdamW(groups, lr=settings.learning_rate, **settings.optimizer_options)


class MuonWithAdamW(CombinedOptimizer):
    """torch's Muon and AdamW as one optimizer."""

    def part(
        self, algorithm: str, groups: list[Group], lr: float, options: Mapping[str, Any]
    ) -> torch.optim.Optimizer:
        if algorithm == "adamw":
            return adamw(groups, lr, {k: v for k, v in options.items() if k in ADAMW_OPTIONS})
        muon_options = {k: v for k, v in options.items() if k not in ADAMW_OPTIONS}
        return torch.optim.Muon(
            groups, lr=lr, **{"adjust_lr_fn": "match_rms_adamw", **muon_options}
        )
