"""A linear layer with LoRA's two matrices, computed with few kernels, forward and backward.

Dimensions: T tokens; a layer has I inputs and O outputs; the matrices have rank R.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.models.blocks.autograd import AutogradContext
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.fused_dropout import KEPT_SUM
from trainer.models.blocks.leaves import runs_compiled
from trainer.models.blocks.products import HALF, wide_product
from trainer.models.sharded import is_spread


class Matrices(NamedTuple):
    """The LoRA matrices of a layer, their scaling, and the dropout before the first matrix."""

    down: Tensor
    """[R, I]"""
    up: Tensor
    """[O, R]"""
    scaling: float
    dropout: Dropout
    keys: Tensor | None
    """int32 [T], the dropout keys of the tokens"""


def product_type(x: Tensor, matrices: Matrices) -> torch.dtype | None:
    """The dtype in which the functions of this file compute; None: use separate products.

    The functions do not support compiled models, tensor parallelism, or dropout without keys. They
    cannot be differentiated twice, so they are not used where they save nothing.
    """
    down, dropout = matrices.down, matrices.dropout
    if torch.compiler.is_compiling() or is_spread(down) or not saves_work(x, dropout):
        return None
    if dropout.active and (matrices.keys is None or matrices.keys.shape != x.shape[:-1]):
        return None
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    casts = dtype in HALF and down.dtype == torch.float32
    return dtype if casts or down.dtype == dtype else None


def saves_work(x: Tensor, dropout: Dropout) -> bool:
    """Whether the functions of this file need fewer kernels or less memory than separate products.

    On CPUs, they only avoid storing the masks of an active dropout, half of a layer's memory.
    """
    return x.device.type == "cuda" or dropout.active


def adapted_product(
    x: Tensor, weight: Tensor, bias: Tensor | None, matrices: Matrices, dtype: torch.dtype
) -> Tensor:
    """x [..., I], frozen weight [O, I] and bias [O] -> [..., O], including the matrices' product.

    `dtype` is the result of `product_type`.
    """
    found: Tensor = _Adapted.apply(None, x.to(dtype), weight, bias, *matrices)
    return found


def add_product(plain: Tensor, x: Tensor, matrices: Matrices, dtype: torch.dtype) -> Tensor:
    """Add the matrices' product to `plain` [..., O], a layer's output, in place, and return it.

    `dtype` is the result of `product_type`.
    """
    found: Tensor = _Adapted.apply(plain, x.to(dtype), None, None, *matrices)
    return found


class _Adapted(torch.autograd.Function):
    """Matrix products apply the factor `scaling`, and one kernel does all casts."""

    @staticmethod
    def forward(
        ctx: AutogradContext,
        plain: Tensor | None,  # first, where autograd expects a view that is changed in place
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scaling: float,
        dropout: Dropout,
        keys: Tensor | None,
    ) -> Tensor:
        ctx.types = down.dtype, up.dtype
        weight, narrow_down, narrow_up, bias = _cast([weight, down, up, bias], x.dtype)
        assert narrow_down is not None and narrow_up is not None
        dropped = dropout(x, keys).reshape(-1, x.shape[-1])
        narrow = _scaled(dropped, narrow_down.T, scaling)
        if plain is None:
            assert weight is not None
            plain = F.linear(x, weight, bias)
        else:
            ctx.mark_dirty(plain)
        plain.view(-1, plain.shape[-1]).addmm_(narrow, narrow_up.T)
        of_x, of_down, of_up = (ctx.needs_input_grad[i] for i in (1, 4, 5))
        ctx.save_for_backward(
            dropped if of_down else None,
            narrow if of_up else None,
            *((weight, narrow_down, keys) if of_x else (None, None, None)),
            narrow_up if of_x or of_down else None,
        )
        ctx.scaling, ctx.dropout = scaling, dropout if dropout.active else None
        return plain

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        dropped, narrow, weight, down, keys, up = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        flat = grad.reshape(-1, grad.shape[-1])
        of_x = of_down = None
        if wanted[1] or wanted[4]:
            above = _scaled(flat, up, ctx.scaling)
            if wanted[1]:
                of_x = _of_inputs(flat, above, weight, down, ctx.dropout, keys)
                of_x = of_x.view(*grad.shape[:-1], down.shape[1])
            of_down = _product(above.T, dropped, ctx.types[0]) if wanted[4] else None
        of_up = _product(flat.T, narrow, ctx.types[1]) if wanted[5] else None
        of_plain = grad if wanted[0] else None
        return of_plain, of_x, None, None, of_down, of_up, None, None, None


def _of_inputs(
    grad: Tensor,
    above: Tensor,
    weight: Tensor | None,
    down: Tensor,
    dropout: Dropout | None,
    keys: Tensor | None,
) -> Tensor:
    """[T, I], the gradient of the inputs.

    `grad` [T, O] is the gradient of the outputs, `above` [T, R] that of the product with `down`.
    """
    plain = None if weight is None else grad @ weight
    if dropout is None:
        return above @ down if plain is None else plain.addmm_(above, down)
    assert keys is not None
    through, keys = above @ down, keys.reshape(-1)
    if plain is None:
        return dropout.drop(through, keys)
    if runs_compiled(through):
        found: Tensor = KEPT_SUM(plain, through, *dropout.draws_for(keys, through.shape[-1]))
        return found
    return plain.add_(through * dropout.mask(through, keys), alpha=dropout.scale)


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a @ b in this dtype, without rounding to a narrower one in between."""
    return a @ b if a.dtype == dtype else wide_product(a, b)


def _scaled(a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """scaling * (a @ b), in one kernel."""
    nothing = a.new_empty(())  # beta=0 ignores its value
    return torch.addmm(nothing, a, b, beta=0, alpha=scaling)


def _cast(parts: Sequence[Tensor | None], dtype: torch.dtype) -> list[Tensor | None]:
    """Return the parts in this dtype; one kernel does all the casts."""
    casts = [x for x in parts if x is not None and x.dtype != dtype]
    if not casts:
        return list(parts)
    joined = torch.empty(sum(x.numel() for x in casts), dtype=dtype, device=casts[0].device)
    torch.cat([x.reshape(-1) for x in casts], out=joined)
    pieces = iter(joined.split([x.numel() for x in casts]))
    return [x if x is None or x.dtype == dtype else next(pieces).view(x.shape) for x in parts]
