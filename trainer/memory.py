"""Memory: the largest micro batch that fits, and how to leave a step that did not, all together."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainer.data.plan import cut
from trainer.errors import EnvironmentFault
from trainer.optim import num_moments
from trainer.ranks import Ranks

ACCEPTED = "accepted: shorter samples, trainer.gradient_checkpointing=true, more memory"
WITHOUT_MEMORY = re.compile(
    r"CU(BLAS|DNN|SOLVER)_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)"
    r"|HIPBLAS_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)"
    r"|(CUDA|HIP) error: out of memory|MPS backend out of memory|can't allocate memory"
)
"""What libraries say that allocate beside torch's allocator, once nothing is left for them."""
HAVE_OWN_MEMORY = ("cuda", "xpu")
"""Types of devices that have memory of their own, and say when it is full."""
RESERVE = 0.05
"""Share of the memory left that the search leaves free: for cuBLAS, NCCL and pieces between blocks,
since micro batches have another size at every step."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an operation failed for lack of memory, whoever reported it."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(WITHOUT_MEMORY.search(str(error)))


@contextmanager
def _out_of_memory_as(line: str) -> Iterator[None]:
    """Within it a lack of memory is an EnvironmentFault of one line."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise EnvironmentFault(line) from error


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

    def averaged_if(self, last: bool) -> AbstractContextManager[None]:
        """Within it a pass, which may be a step's last one, averages gradients or keeps them."""
        synced = last or not isinstance(self.model, DistributedDataParallel)
        return nullcontext() if synced else self.model.no_sync()  # type: ignore[operator]

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


def room_told_of() -> AbstractContextManager[None]:
    """Within it a lack of memory, which smaller micro batches do not help, is said in one line."""
    return _out_of_memory_as(
        "out of memory: weights, gradients and moments do not fit beside each other; accepted: "
        "launch.strategy=fsdp with more devices or launch.cpu_offload=true, more memory"
    )


def step_in(step: int, max_tokens: int) -> AbstractContextManager[None]:
    """Within it a lack of memory for a step's micro batches is said in one line."""
    return _out_of_memory_as(
        f"step {step}: out of memory in micro batches of up to {max_tokens} tokens; accepted: a "
        "smaller trainer.max_tokens_per_micro_batch, trainer.gradient_checkpointing=true"
    )


def evaluation_in(max_tokens: int) -> AbstractContextManager[None]:
    """Within it a lack of memory for batches of so many tokens is said in one line."""
    return _out_of_memory_as(
        f"evaluation: out of memory in batches of up to {max_tokens} tokens; accepted: a "
        "smaller trainer.max_tokens_per_micro_batch"
    )


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


def room_beside_passes(optimizer: torch.optim.Optimizer, device: torch.device) -> torch.Tensor:
    """What an optimizer will allocate in its first step, and a reserve; held until let go."""
    held = [p for group in optimizer.param_groups for p in group["params"]]
    size = sum(p.numel() * p.element_size() for p in held if p not in optimizer.state)
    moments = num_moments(type(optimizer).__name__, optimizer.defaults) * size
    return room(moments + int(RESERVE * max(0, memory_left(device) - moments)), device)


def memory_left(device: torch.device) -> int:
    """Bytes that this process can still allocate on a device with its own memory."""
    free, total = torch.accelerator.get_memory_info(device)
    held = torch.accelerator.memory_reserved(device)
    if device.type == "cuda":  # a process may have been given a share alone
        share = torch.cuda.get_per_process_memory_fraction(device.index)
        free = min(free, int(share * total) - held)
    return max(0, free + held - torch.accelerator.memory_allocated(device))


def free_cached_memory(device: torch.device) -> None:
    """Give back to a device what its allocator holds and nobody uses."""
    if device.type != "cpu":
        torch.accelerator.empty_cache()


def room(num_bytes: int, device: torch.device) -> torch.Tensor:
    """Memory that something else will need, held until this is let go."""
    return torch.empty(num_bytes, dtype=torch.uint8, device=device)


def memory_of_a_rank(device: torch.device) -> int:
    """Bytes that a rank may use: those of its device, or its part of this machine's."""
    own = total_memory(device)
    if own is not None:
        return own
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return whole // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def total_memory(device: torch.device) -> int | None:
    """Bytes of a device with memory of its own; None for one without."""
    if device.type not in HAVE_OWN_MEMORY:
        return None
    return torch.get_device_module(device).get_device_properties(device).total_memory
