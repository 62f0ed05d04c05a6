"""Memory: the largest micro batch that fits, and how to leave a step that did not, all together."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainer.data.plan import cut
from trainer.errors import EnvironmentFault
from trainer.ranks import Ranks

ACCEPTED = "accepted: shorter samples, trainer.gradient_checkpointing=true, more memory"


class Reduction:
    """How far DDP is with averaging gradients, so that a rank whose pass failed can make up for it.

    The other ranks wait for each gradient of this one. Those that it has not handed over are made
    by another backward pass, of anything; whatever comes out is thrown away everywhere.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._done: set[nn.Parameter] = set()
        self._begun = False
        if isinstance(model, DistributedDataParallel):
            for parameter in self._trained:
                parameter.register_post_accumulate_grad_hook(self._done.add)

    def begin(self) -> None:
        """A pass begins."""
        self._done.clear()
        self._begun = False

    def reach_backward(self) -> None:
        """A forward pass has ended: the backward pass is averaged if DDP says so."""
        if isinstance(self.model, DistributedDataParallel):
            self._begun = self.model.require_backward_grad_sync

    def make_up(self, loss_of: Callable[[nn.Module], torch.Tensor], passes: int) -> None:
        """Hand over what is owed, as gradients of 0; of several passes the last one is averaged."""
        owed = [p for p in self._trained if not self._begun or p not in self._done]
        if owed:
            loss = loss_of(whole(self.model) if self._begun else self.model)
            torch.autograd.backward(loss * 0.0, inputs=owed)


def whole(model: nn.Module) -> nn.Module:
    """The model within DDP, if it is in there."""
    return model.module if isinstance(model, DistributedDataParallel) else model


@contextmanager
def room_told_of() -> Iterator[None]:
    """Within it a lack of memory, which smaller micro batches do not help, is said in one line."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EnvironmentFault(
            "out of memory: weights, gradients and moments do not fit beside each other; accepted: "
            "launch.strategy=fsdp with more devices or launch.cpu_offload=true, more memory"
        ) from error


@contextmanager
def evaluation_in(max_tokens: int) -> Iterator[None]:
    """Within it a lack of memory for batches of so many tokens is said in one line."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EnvironmentFault(
            f"evaluation: out of memory in batches of up to {max_tokens} tokens; accepted: a "
            "smaller trainer.max_tokens_per_micro_batch"
        ) from error


def largest_budget(
    fits: Callable[[np.ndarray], bool], lengths: np.ndarray, num_samples: int, ranks: Ranks
) -> int:
    """Tokens of the largest micro batch that `fits` on every rank, the longest samples first.

    At most `num_samples`, those of a rank in one step, are tried together; then half the tokens,
    and so on. Raises EnvironmentFault where the longest sample alone does not fit.
    """
    longest = np.argsort(-lengths, kind="stable")[:num_samples]
    while not all(ranks.gather(fits(longest))):
        longest = longest[cut(lengths[longest], None, smaller_budget([lengths[longest]]))[0]]
    return int(lengths[longest].sum())


def smaller_budget(micro_batches: Sequence[np.ndarray]) -> int:
    """Half the tokens of the largest of these micro batches, each the lengths of its samples.

    Raises EnvironmentFault where none has samples to spare.
    """
    divisible = [int(lengths.sum()) for lengths in micro_batches if len(lengths) > 1]
    if not divisible:
        longest = max(int(lengths.sum()) for lengths in micro_batches)
        raise EnvironmentFault(
            f"out of memory: a sample of {longest} tokens does not fit; {ACCEPTED}"
        )
    return max(divisible) // 2


def room_for_moments(parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """What an optimizer like Adam will allocate in its first step, held until this is let go."""
    size = sum(2 * p.numel() * p.element_size() for p in parameters)
    return torch.empty(size, dtype=torch.uint8, device=parameters[0].device)
