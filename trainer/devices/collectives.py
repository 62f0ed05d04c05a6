"""Collectives: counts the collective operations of a sharded model's pass.

If a pass fails on one rank, that rank can then run the missing operations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_collectives import (
    DefaultAllGather,
    DefaultReduceScatter,
)


class Collectives:
    """The progress of a sharded model's pass, so that a rank whose pass failed can complete it.

    All ranks gather each layer's weights and reduce its gradients in the same order, whatever their
    batches are. A rank that fails runs another pass on any input, skips the collectives that it has
    already done, and all ranks discard the result.
    """

    def __init__(self, model: nn.Module, once: bool) -> None:
        """With `once`, gradients stay unreduced until the last pass of a step."""
        assert isinstance(model, FSDPModule)
        self.model = model
        self.once = once
        self._done = 0
        self._to_skip = 0
        gather, reduce = _AllGather(self._counted), _ReduceScatter(self._counted)
        for part in model.modules():
            if isinstance(part, FSDPModule):
                part.set_custom_all_gather(gather)
                part.set_custom_reduce_scatter(reduce)

    def begin(self) -> None:
        """Record the start of a pass."""
        self._done = 0

    @contextmanager
    def averaged_if(self, last: bool) -> Iterator[None]:
        """Context manager for a pass, which reduces the gradients if it is the `last` of a step.

        Without `once`, every pass reduces them.
        """
        self.model.set_requires_gradient_sync(last or not self.once)
        yield

    def reach_backward(self) -> None:
        """Do nothing; `Reduction`, the class for models that are not sharded, uses this call."""

    def make_up(self, loss_of: Callable[[nn.Module], Tensor], passes: int) -> None:
        """Complete a failed pass and run the remaining passes of the step, with losses of 0."""
        # drop the gradients of gathered layers before the layers are resharded
        self.model.zero_grad(set_to_none=True)
        self.model.reset_iter_state()
        self._to_skip = self._done
        for left in reversed(range(passes)):
            with self.averaged_if(left == 0):
                (loss_of(self.model) * 0.0).backward()
        assert not self._to_skip, "the passes of a sharded model have different collectives"

    def _counted(self, call: Callable[..., Any], output_tensor: Tensor, **others: object) -> object:
        if self._to_skip:
            self._to_skip -= 1
            output_tensor.zero_()
            return None
        work = call(output_tensor=output_tensor, **others)
        self._done += 1
        return work


def can_make_up(model: nn.Module) -> bool:
    """Whether this version of torch can abandon a sharded pass midway (2.13 and later)."""
    return hasattr(model, "reset_iter_state")


class _AllGather(DefaultAllGather):
    def __init__(self, counted: Callable[..., Any]) -> None:
        self.counted = counted

    def __call__(self, *_: object, **arguments: object) -> Any:
        return self.counted(super().__call__, **arguments)


class _ReduceScatter(DefaultReduceScatter):
    def __init__(self, counted: Callable[..., Any]) -> None:
        self.counted = counted

    def __call__(self, *_: object, **arguments: object) -> Any:
        return self.counted(super().__call__, **arguments)
