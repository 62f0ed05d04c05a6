"""The type of `ctx`, which autograd functions pass from the forward to the backward pass."""

from typing import Any, Protocol

from torch import Tensor


class AutogradContext(Protocol):
    """`ctx` of a `torch.autograd.Function`: torch's methods, and attributes that `forward` sets."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def mark_non_differentiable(self, *tensors: Tensor) -> None: ...

    def set_materialize_grads(self, value: bool) -> None: ...

    def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: object) -> None: ...
