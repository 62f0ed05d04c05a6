"""Leaf: a small function of tensors, compiled to one kernel where Triton is there."""

import os
import warnings
from collections.abc import Callable
from functools import lru_cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from trainer.models.trials import passes
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
        assert isinstance(function, FunctionType)
        self.function = function
        self.reduces = reduces
        self._compiled: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        """The first argument is a tensor."""
        if Leaf.broken or not runs_compiled(arguments[0], self.reduces):
            return self.function(*arguments)
        return self.run_compiled(*arguments)

    def run_compiled(self, *arguments: Any) -> Any:
        """The compiled function, or the plain one where that fails."""
        # Gradients are the callers' matter; tensors that want some would get graphs of their own.
        inputs = [x.detach() if isinstance(x, Tensor) else x for x in arguments]
        for x in inputs:
            if isinstance(x, Tensor) and x.dim() > 1:  # channels are the same in every call
                torch._dynamo.mark_static(x, x.dim() - 1)
        try:
            return self._compiled_for(inputs)(*inputs)
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

    def _compiled_for(self, inputs: list[Any]) -> Callable[..., Any]:
        """The function as it is compiled for inputs of this kind.

        Dynamo allows 8 graphs for the code of a function, and a model with heads, adapters and an
        evaluation needs more of some: so each kind gets a copy of the code.
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
    """Whether to compile a leaf over x; one that reduces not where all kernels must repeat.

    In a model that is compiled itself, a leaf is part of its graph. The answer stays the same when
    a leaf fails later: gradient checkpointing must take the same way twice.
    """
    if x.device.type != "cuda" or x.dtype == torch.float64 or torch.compiler.is_compiling():
        return False
    if os.environ.get(SWITCH) == "0" or (reduces and torch.are_deterministic_algorithms_enabled()):
        return False
    return triton_runs_on(x.device) and _compiles(x.device)


@lru_cache(maxsize=64)
def _compiles(device: torch.device) -> bool:
    """Whether a function can be compiled for this device: there may be no C compiler, say."""
    return passes("compiled functions", device, lambda: _error_of_doubling(device), 0.0)


def _error_of_doubling(device: torch.device) -> float:
    x = torch.arange(6.0, device=device)
    with torch.no_grad():
        return float((torch.compile(_doubled, fullgraph=True)(x) - _doubled(x)).abs().max())


def _doubled(x: Tensor) -> Tensor:
    return x * 2
