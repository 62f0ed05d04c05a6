"""A cache for computed tensors; tensors that are created during a trace are not cached."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec

from torch import Tensor
from torch._guards import detect_fake_mode

P = ParamSpec("P")


def kept_tensors(maxsize: int) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    """Cache the results of a function of hashable arguments, as `lru_cache` does.

    Tensors created during a trace (of an export or a memory plan) are not cached: they have no
    values, and adding one in place to a real tensor may silently do nothing.
    """

    def decorate(make: Callable[P, Tensor]) -> Callable[P, Tensor]:
        cached = lru_cache(maxsize)(make)

        @wraps(make)
        def found(*args: P.args, **options: P.kwargs) -> Tensor:
            if detect_fake_mode() is not None:
                return make(*args, **options)
            return cached(*args, **options)  # type: ignore[arg-type]

        return found

    return decorate
