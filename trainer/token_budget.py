"""The token budget: how many tokens a forward pass may have, as given or as found by trying."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from trainer.data.batch import Batch, Samples, StackedSamples
from trainer.memory import (
    HAVE_OWN_MEMORY,
    free_cached_memory,
    largest_budget,
    room_beside_passes,
)
from trainer.models.sharded import is_sharded

if TYPE_CHECKING:
    from trainer.trainer import Trainer

    Placeholder = Callable[[], Batch] | None

TOKEN_BUDGET = {"cpu": 4096, "mps": 4096}
"""Tokens of one forward pass where the settings leave it open, on devices that share memory."""
TOKEN_BUDGET_OF_OWN_MEMORY = 16384


def default_budget(trainer: "Trainer", samples: Samples) -> int:
    """Tokens of one forward pass, before any is tried; a row of a plain data set counts as one."""
    settings = trainer.settings
    if isinstance(samples, StackedSamples):
        return settings.micro_batch_size or settings.global_batch_size
    default = TOKEN_BUDGET.get(trainer.ranks.device.type, TOKEN_BUDGET_OF_OWN_MEMORY)
    return settings.max_tokens_per_micro_batch or default


def settled_budget(
    trainer: "Trainer", placeholder: "Placeholder", batch_of: Callable[[np.ndarray], Batch]
) -> int:
    """Tokens of a micro batch in training: the most that fit, where the settings leave it open.

    `batch_of` makes a batch of samples on the device; `placeholder` one that may replace it. Runs a
    first pass without effect where one changes what follows. Every rank calls it.
    """
    searched = is_searched(trainer, placeholder)
    _warm_up(trainer, searched)
    if not searched:
        return trainer.step_tokens
    assert placeholder is not None
    return _most_tokens(trainer, placeholder, batch_of)


def is_searched(trainer: "Trainer", placeholder: "Placeholder") -> bool:
    """Whether micro batches are to be as large as memory allows, on a device with its own."""
    settings = trainer.settings
    given = settings.micro_batch_size or settings.max_tokens_per_micro_batch or trainer.state.step
    own = trainer.ranks.device.type in HAVE_OWN_MEMORY
    return own and not given and placeholder is not None


def _warm_up(trainer: "Trainer", searched: bool) -> None:
    """A first pass without effect, for DDP and before a search.

    DDP lays out its buckets by it. Libraries of GPUs allocate in it what they keep, and ranks
    open their connections: the search for the largest micro batch comes after.
    """
    several = trainer.ranks.world_size > 1 and not is_sharded(trainer.model)
    if several or searched:
        placeholder = trainer.train_samples.placeholder()
        batch = placeholder.for_step(trainer.seed, trainer.state.step)
        trainer.stepper.warm_up(batch.to(trainer.ranks.device))


def _most_tokens(
    trainer: "Trainer", placeholder: Callable[[], Batch], batch_of: Callable[[np.ndarray], Batch]
) -> int:
    """The most tokens of a micro batch that fit beside the optimizer's moments to come."""
    most = -(-trainer.settings.global_batch_size // trainer.ranks.world_size)
    device = trainer.ranks.device
    free_cached_memory(device)
    held = room_beside_passes(trainer.optimizer, device)
    gradients = _gradient_bytes(trainer)

    def fits(ids: np.ndarray) -> bool:
        # from a step's second micro batch on the gradients of those before are there
        beside = gradients if len(ids) < most else 0
        return trainer.stepper.fits(batch_of(ids), placeholder, beside)

    found = largest_budget(fits, trainer.train_samples.lengths, most, trainer.ranks)
    del held
    free_cached_memory(device)
    return found


def _gradient_bytes(trainer: "Trainer") -> int:
    """Bytes of the gradients that a rank keeps from one micro batch to the next."""
    if trainer.placement.reduces_once:
        return sum(4 * p.numel() for p in trainer.model.parameters() if p.requires_grad)
    return sum(p.numel() * p.element_size() for p in trainer.resumable.parameters.values())
