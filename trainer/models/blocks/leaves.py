"""Leaf: a small function of tensors, compiled to one kernel if Triton is available."""

import os
import warnings
from collections.abc import Callable
from functools import lru_cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from trainer.models.attention.triton_device import triton_runs_on
from trainer.models.blocks.trials import passes

SWITCH = "TEMPERING_LEAVES"
"""Set this environment variable to 0 to leave these functions uncompiled."""


class Leaf:
    """A function that is compiled at its first call on a GPU, as one graph for any number of rows.

    It is a pure function of tensors without autograd. Its callers are autograd functions: each
    calls one leaf in the forward pass and another in the backward pass. If compiling fails, one
    warning gives the reason, and no leaf is compiled from then on.
    """

    broken = False
    """Whether a leaf failed to compile; no leaf is compiled after that."""

    def __init__(self, function: Callable[..., Any], reduces: bool = False) -> None:
        """`reduces`: whether the function computes sums, whose order the compiler chooses."""
        assert isinstance(function, FunctionType)
        self.function = function
        self.reduces = reduces
        self._compiled: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Call the function; the first argument must be a tensor."""
        if Leaf.broken or not runs_compiled(arguments[0], self.reduces):
            return self.function(*arguments)
        return self.run_compiled(*arguments)

    def run_compiled(self, *arguments: object) -> Any:
        """Run the compiled function, or the plain function if compiling fails."""
        # Callers handle gradients; tensors that require grad would get graphs of their own.
        inputs = [x.detach() if isinstance(x, Tensor) else x for x in arguments]
        for x in inputs:
            if isinstance(x, Tensor) and x.dim() > 1:  # the number of channels never changes
                torch._dynamo.mark_static(x, x.dim() - 1)
        try:
            return self._compiled_for(inputs)(*inputs)
        except torch.OutOfMemoryError:
            raise
        except Exception as problem:  # compilers, drivers and devices raise different errors
            Leaf.broken = True
            reason = f"{type(problem).__name__}: {str(problem).strip().splitlines()[0][:200]}"
            warnings.warn(
                f"{self.function.__name__}: torch.compile failed ({reason}); training continues "
                f"with plain functions. {SWITCH}=0 uses these from the start.",
                stacklevel=2,
            )
        return self.function(*arguments)

    def _compiled_for(self, inputs: list[Any]) -> Callable[..., Any]:
        """The function compiled for inputs of this kind.

        Dynamo allows 8 graphs per code object. A model with heads, adapters and an evaluation may
        need more, so each kind of inputs gets a copy of the code.
        """
        x = inputs[0]
        autocasts = torch.is_autocast_enabled(x.device.type)
        kind = x.dtype, x.dim(), x.shape[-1], autocasts, *(each is None for each in inputs)
        if kind not in self._compiled:
            code, names = self.function.__code__.replace(), self.function.__globals__
            copy = FunctionType(
                code, names, self.function.__name__, None, self.function.__closure__
            )
            self._compiled[kind] = torch.compile(copy, fullgraph=True, dynamic=True)
        return self._compiled[kind]


def runs_compiled(x: Tensor, reduces: bool = False) -> bool:
    """Whether a leaf is compiled for x; with `reduces`, False if kernels must be deterministic.

    False in a compiled model, whose graph contains its leaves. The result stays the same after a
    leaf has failed, since gradient checkpointing must run the same code twice.
    """
    if x.device.type != "cuda" or x.dtype == torch.float64 or torch.compiler.is_compiling():
        return False
    if os.environ.get(SWITCH) == "0" or (reduces and torch.are_deterministic_algorithms_enabled()):
        return False
    return triton_runs_on(x.device) and _compiles(x.device)


@lru_cache(maxsize=64)
def _compiles(device: torch.device) -> bool:
    """Whether functions can be compiled for this device; a compiler may be missing."""
    return passes("compiled functions", device, lambda: _error_of_doubling(device), 0.0)


def _error_of_doubling(device: torch.device) -> float:
    x = torch.arange(6.0, device=device)
    with torch.no_grad():
        return float((torch.compile(_doubled, fullgraph=True)(x) - _doubled(x)).abs().max())


def _doubled(x: Tensor) -> Tensor:
    return x * 2
