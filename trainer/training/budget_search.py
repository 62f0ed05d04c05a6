"""The search for the largest micro batch that fits in a device's memory."""

from collections.abc import Callable

import numpy as np

from trainer.data.batch import Batch
from trainer.data.streams import StreamSamples
from trainer.devices.device_memory import HAVE_OWN_MEMORY, free_cached_memory
from trainer.models.sharded import is_sharded
from trainer.training.memory import (
    largest_budget,
    reserved_for_update,
)
from trainer.training.session import Session

Placeholder = Callable[[], Batch] | None
"""A function that makes a replacement for a batch that does not fit; None if there is none."""


def find_budget(
    session: Session, placeholder: Placeholder, batch_of: Callable[[np.ndarray], Batch]
) -> int:
    """The maximum number of tokens per micro batch, from a search if needed or from the session.

    `batch_of` makes a batch of the given samples on the device. This may run a warm-up pass, which
    changes no weights. Every rank calls it.
    """
    searched = is_searched(session, placeholder)
    _warm_up(session, searched)
    if not searched:
        return session.max_tokens
    assert placeholder is not None
    return _most_tokens(session, placeholder, batch_of)


def is_searched(session: Session, placeholder: Placeholder) -> bool:
    """Whether to search for the largest micro batch; only for devices with their own memory."""
    settings = session.setup.settings
    given = settings.micro_batch_size or settings.max_tokens_per_micro_batch or session.state.step
    if session.setup.ranks.copies > 1:
        return False  # if one rank ran out of memory, those that share its batch would wait for it
    has_memory = session.setup.ranks.device.type in HAVE_OWN_MEMORY
    return has_memory and not given and placeholder is not None


def _warm_up(session: Session, searched: bool) -> None:
    """Run a warm-up pass for DDP or before a search; it changes no weights.

    DDP lays out its buckets in the first pass, GPU libraries allocate their workspaces, and ranks
    connect. All of this takes memory, so it must precede the search for the largest micro batch.
    """
    setup = session.setup
    several = setup.ranks.world_size > 1 and not is_sharded(setup.model)
    if several or searched:
        batch = session.samples.placeholder().for_step(setup.seed, session.state.step)
        session.stepper.warm_up(batch.to(setup.ranks.device))


def _most_tokens(
    session: Session, placeholder: Callable[[], Batch], batch_of: Callable[[np.ndarray], Batch]
) -> int:
    """The largest number of tokens that leaves room for the optimizer's moments."""
    ranks = session.setup.ranks
    group_size = session.setup.recipe.group_size
    num_groups = -(-session.setup.settings.global_batch_size // group_size)
    most = -(-num_groups // ranks.world_size) * group_size
    free_cached_memory(ranks.device)
    reserved = reserved_for_update(session.optimizer, ranks.device)
    gradients = _gradient_bytes(session)

    def fits(ids: np.ndarray) -> bool:
        # from a step's second micro batch on, accumulated gradients take memory
        accumulated = gradients if len(ids) < most else 0
        return session.stepper.fits(batch_of(ids), placeholder, accumulated)

    samples = session.samples
    lengths = samples.first_lengths if isinstance(samples, StreamSamples) else samples.lengths
    kinds = getattr(samples, "kinds", None)
    found = largest_budget(fits, lengths, most, ranks, group_size, kinds)
    del reserved
    free_cached_memory(ranks.device)
    return found


def _gradient_bytes(session: Session) -> int:
    """Bytes of the gradients that a rank accumulates over micro batches."""
    if session.setup.placement.reduces_once:
        return sum(4 * p.numel() for p in session.setup.model.parameters() if p.requires_grad)
    return sum(p.numel() * p.element_size() for p in session.resumable.parameters.values())
