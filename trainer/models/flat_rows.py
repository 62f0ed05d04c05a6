"""Moves distinct rows between flat tensors and grids, so that gradients need no scatter-add.

Dimensions: T tokens; a grid of b sequences with l cells each, t of which are not pads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.models.blocks.autograd import AutogradContext


@dataclass(frozen=True)
class Group:
    """Some sequences of a flat batch as a grid [b, l], padded at their ends."""

    shape: tuple[int, ...]
    rows: Tensor | slice
    """[b, l], the row of each cell; a slice if the cells are contiguous rows"""
    kept: Tensor | None = None
    """[b, l] bool, False at pads, which repeat their sequence's last row; None: no pads"""
    cells: Tensor | None = None
    """[t], the cells that are not pads, in row-major order"""
    rows_of_cells: Tensor | None = None
    """[t], the row of each of these cells"""

    def take(self, x: Tensor, pads: float | None = None) -> Tensor:
        """x [T, ...] -> [b, l, ...]; pads repeat the last row, or have the value `pads`."""
        if self.kept is None:
            return x[self.rows].view(*self.shape, *x.shape[1:])
        grid = x[self.rows]
        if pads is not None:
            grid.masked_fill_(~self.kept.view(*self.shape, *[1] * (x.dim() - 1)), pads)
        return grid

    def put(self, x: Tensor, grid: Tensor) -> None:
        """Write grid [b, l, ...] without its pads into x [T, ...]."""
        if self.kept is None:
            x[self.rows].view_as(grid).copy_(grid)
        else:
            x[self.rows_of_cells] = grid.flatten(0, 1)[self.cells]


class ScatterRows(torch.autograd.Function):
    """Scatter rows of x [T, ...] to distinct rows of zeros; the backward pass only gathers."""

    @staticmethod
    def forward(ctx: AutogradContext, x: Tensor, rows: Tensor, num_rows: int) -> Tensor:
        ctx.save_for_backward(rows)
        return x.new_zeros(num_rows, *x.shape[1:]).index_copy_(0, rows, x)

    @staticmethod
    def backward(ctx: AutogradContext, grad: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return grad.index_select(0, rows), None, None


class GatherRows(torch.autograd.Function):
    """Gather distinct rows of x; the backward pass writes each row once instead of adding to it."""

    @staticmethod
    def forward(ctx: AutogradContext, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.num_rows = x.shape[0]
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: AutogradContext, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return grad.new_zeros(ctx.num_rows, *grad.shape[1:]).index_copy_(0, rows, grad), None
