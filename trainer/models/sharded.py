"""Sharded tensors: which rows of one a rank holds, and how to reach them."""

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` has taken this model apart."""
    return isinstance(model, FSDPModule)


def local(tensor: Tensor) -> Tensor:
    """This rank's rows of a sharded tensor, in its own memory; any other as it is."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def own_rows(tensor: Tensor) -> range | None:
    """Which rows of a sharded tensor this rank holds; None for any other.

    `fully_shard` cuts as `torch.chunk` does: the last ranks may have fewer, or none.
    """
    if not isinstance(tensor, DTensor):
        return None
    most = -(-tensor.shape[0] // tensor.device_mesh.size())
    start = min(tensor.device_mesh.get_local_rank() * most, tensor.shape[0])
    return range(start, start + tensor.to_local().shape[0])


class Rows:
    """This rank's rows of what a sharded model trains: plain parameters over the same memory.

    Optimizer and average take these, so that any that goes number by number works, at full speed.
    """

    def __init__(self, model: nn.Module) -> None:
        self._sharded = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.parameters = {name: nn.Parameter(local(p)) for name, p in self._sharded.items()}

    def take_gradients(self) -> None:
        """Move the gradients from the model's parameters to these."""
        for name, parameter in self._sharded.items():
            gradient, parameter.grad = parameter.grad, None
            self.parameters[name].grad = None if gradient is None else local(gradient)
