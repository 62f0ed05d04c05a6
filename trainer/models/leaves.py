"""Leaf: a small function of tensors, compiled to one kernel where Triton is there."""

import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainer.models.triton_device import triton_runs_on

SWITCH = "TEMPERING_LEAVES"
"""The environment variable that leaves these functions uncompiled, with 0."""


class Leaf:
    """`function`, compiled whole and for any number of rows, at its first call on a GPU.

    It takes tensors and gives tensors, has no effect and knows no autograd: its callers are
    autograd functions, which call one leaf forward and another back. Where compiling fails, one
    warning tells why, and from then on no leaf is compiled.
    """

    broken = False
    """Whether compiling failed: for all leaves."""

    def __init__(self, function: Callable[..., Any], reduces: bool = False) -> None:
        """`reduces`: it adds numbers up, in an order that the compiler chooses."""
        self.function = function
        self.reduces = reduces
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        """The first argument is a tensor."""
        if not runs_compiled(arguments[0], self.reduces):
            return self.function(*arguments)
        return self.run_compiled(*arguments)

    def run_compiled(self, *arguments: Any) -> Any:
        """The compiled function, or the plain one where that fails."""
        if self._compiled is None:
            self._compiled = torch.compile(self.function, fullgraph=True, dynamic=True)
        for x in arguments:
            if isinstance(x, Tensor) and x.dim() > 1:  # channels are the same in every call
                torch._dynamo.mark_static(x, x.dim() - 1)
        try:
            return self._compiled(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as problem:  # a compiler, a driver and a device each fail in their own way
            Leaf.broken = True
            reason = f"{type(problem).__name__}: {str(problem).strip().splitlines()[0][:200]}"
            warnings.warn(
                f"{self.function.__name__}: torch.compile failed ({reason}); training goes on with "
                f"plain functions. {SWITCH}=0 does without them from the start.",
                stacklevel=2,
            )
        return self.function(*arguments)


def runs_compiled(x: Tensor, reduces: bool = False) -> bool:
    """Whether a leaf over x is compiled. Where all kernels are to repeat, one that reduces is not.

    In a model that is compiled itself, a leaf is part of its graph.
    """
    if x.device.type != "cuda" or x.dtype == torch.float64:
        return False
    if Leaf.broken or torch.compiler.is_compiling():
        return False
    if os.environ.get(SWITCH) == "0" or (reduces and torch.are_deterministic_algorithms_enabled()):
        return False
    return triton_runs_on(x.device)
