"""Collectives: what sharded ranks do together in a pass, and how a failed one is made up for."""

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
    """How far a sharded model's pass is, so that a rank whose pass failed can make up for it.

    The ranks gather each layer's weights and add up its gradients in one order, whatever their
    batches are. A rank that fails runs another pass, of anything, in which it leaves out what it
    has done already; whatever comes out is thrown away everywhere.
    """

    def __init__(self, model: nn.Module, once: bool) -> None:
        """`once`: gradients are kept whole until a step's last pass, and reduced by that one."""
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
        """A pass begins."""
        self._done = 0

    @contextmanager
    def averaged_if(self, last: bool) -> Iterator[None]:
        """Within it a pass, which may be a step's last one, reduces gradients or keeps them."""
        self.model.set_requires_gradient_sync(last or not self.once)
        yield

    def reach_backward(self) -> None:
        """The forward pass has ended, which nothing depends on here."""

    def make_up(self, loss_of: Callable[[nn.Module], Tensor], passes: int) -> None:
        """Do the rest of a failed pass, and all of those that were to follow, with losses of 0."""
        self.model.zero_grad(set_to_none=True)  # of layers that stand whole, before they are cut
        self.model.reset_iter_state()
        self._to_skip = self._done
        for left in reversed(range(passes)):
            with self.averaged_if(left == 0):
                (loss_of(self.model) * 0.0).backward()
        assert not self._to_skip, "the passes of a sharded model are not alike"

    def _counted(self, call: Callable[..., Any], output_tensor: Tensor, **others: Any) -> Any:
        if self._to_skip:
            self._to_skip -= 1
            output_tensor.zero_()
            return None
        work = call(output_tensor=output_tensor, **others)
        self._done += 1
        return work


def can_make_up(model: nn.Module) -> bool:
    """Whether this torch can leave a sharded model's pass in the middle, as 2.13 can."""
    return hasattr(model, "reset_iter_state")


class _AllGather(DefaultAllGather):
    def __init__(self, counted: Callable[..., Any]) -> None:
        self.counted = counted

    def __call__(self, *_: Any, **arguments: Any) -> Any:
        return self.counted(super().__call__, **arguments)


class _ReduceScatter(DefaultReduceScatter):
    def __init__(self, counted: Callable[..., Any]) -> None:
        self.counted = counted

    def __call__(self, *_: Any, **arguments: Any) -> Any:
        return self.counted(super().__call__, **arguments)
