"""Sharded tensors: gives access to the rows on this rank."""

from math import prod

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


def is_sharded(model: nn.Module) -> bool:
    """Whether this model was sharded by `shard`."""
    return isinstance(model, FSDPModule)


def local(tensor: Tensor) -> Tensor:
    """Return a view of this rank's rows of a sharded tensor; other tensors unchanged."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def is_spread(tensor: Tensor) -> bool:
    """Whether a tensor is split over several ranks, as with tensor parallelism."""
    return isinstance(tensor, DTensor)


def own_rows(tensor: Tensor) -> range | None:
    """The range of a sharded tensor's rows on this rank; None for other tensors.

    `fully_shard` splits like `torch.chunk`: the last ranks may have fewer rows, or none.
    """
    if not isinstance(tensor, DTensor):
        return None
    if tensor.device_mesh.ndim > 1:
        return _block(tensor)[0]
    most = -(-tensor.shape[0] // tensor.device_mesh.size())
    start = min(tensor.device_mesh.get_local_rank() * most, tensor.shape[0])
    return range(start, start + tensor.to_local().shape[0])


def own_columns(tensor: Tensor) -> range | None:
    """The range of columns on this rank for a matrix whose columns are split; otherwise None."""
    if not isinstance(tensor, DTensor) or tensor.device_mesh.ndim == 1:
        return None
    found = _block(tensor)
    whole = len(found) < 2 or len(found[1]) == tensor.shape[1]
    return None if whole else found[1]


def holders(tensor: Tensor) -> int:
    """The number of ranks that have the same rows and columns of a sharded tensor."""
    if not isinstance(tensor, DTensor):
        return 1
    mesh = tensor.device_mesh
    sizes = zip(mesh.shape, tensor.placements, strict=True)
    return dist.get_world_size() // prod(size for size, how in sizes if not how.is_replicate())


def _block(tensor: DTensor) -> list[range]:
    """This rank's range in each dimension of a tensor on a device mesh of several dimensions."""
    sizes, starts = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    return [range(start, start + size) for size, start in zip(sizes, starts, strict=True)]


class Rows:
    """This rank's rows of a sharded model's trained parameters, as plain views of the same memory.

    Optimizers and weight averages use these parameters, so that elementwise optimizers run on plain
    tensors, without the overhead of DTensor.
    """

    def __init__(self, model: nn.Module) -> None:
        self._sharded = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.parameters = {name: nn.Parameter(local(p)) for name, p in self._sharded.items()}

    def take_gradients(self) -> None:
        """Move the gradients from the model's parameters to `parameters`."""
        for name, parameter in self._sharded.items():
            gradient, parameter.grad = parameter.grad, None
            self.parameters[name].grad = None if gradient is None else local(gradient)

    def squared_norm(self) -> Tensor:
        """This rank's part of the squared norm of all gradients, to be summed over the ranks."""
        by_holders: dict[int, list[Tensor]] = {}
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                same = by_holders.setdefault(holders(self._sharded[name]), [])
                same.append(parameter.grad)
        norms = [
            torch.nn.utils.get_total_norm(same).square() / number
            for number, same in by_holders.items()
        ]
        return torch.stack(norms).sum() if norms else torch.zeros(())
