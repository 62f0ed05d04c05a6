"""Creating modules without values: parameters have shapes and dtypes, but no memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def without_values() -> Iterator[None]:
    """A context in which new modules are on the meta device, and their initializers do not run.

    Random initializers on the meta device import torch's compiler, which takes most of the time
    that loading a small model takes.
    """
    with torch.device("meta"), _WithoutInitialisers():
        yield


class _WithoutInitialisers(TorchFunctionMode):
    """Replaces the functions of `torch.nn.init` with functions that return the tensor unchanged."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        given = kwargs or {}
        if getattr(func, "__module__", None) == torch.nn.init.__name__:
            return args[0] if args else given["tensor"]
        return func(*args, **given)
