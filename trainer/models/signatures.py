"""Names the arguments of a model's call, and makes signatures that editors can show."""

import inspect
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

from trainer.models.family_model import FamilyModel

FLAGS = ("output_hidden_states", "output_attentions", "return_dict")
"""The arguments that may be positional after a head's labels."""


def named_arguments(
    cls: type[FamilyModel], positional: tuple[Any, ...], named: dict[str, Any]
) -> dict[str, Any]:
    """Return all arguments by name. Raises TypeError, as Python does, for invalid arguments."""
    order = (*cls.labels, *FLAGS)
    if len(positional) > len(order):
        found, accepted = len(positional) + 4, len(order) + 4
        raise TypeError(f"forward() takes {accepted} positional arguments but {found} were given")
    given = dict(zip(order, positional, strict=False))
    for name in named:
        if name in given:
            raise TypeError(f"forward() got multiple values for argument '{name}'")
        if name not in cls.arguments.__annotations__:
            raise TypeError(f"forward() got an unexpected keyword argument '{name}'")
    return {**given, **named}


def with_signature(cls: type[FamilyModel], shared: Callable[..., Any]) -> FunctionType:
    """A copy of the models' shared `forward` whose signature lists the head's own arguments."""
    assert isinstance(shared, FunctionType)
    own = FunctionType(
        shared.__code__,
        shared.__globals__,
        shared.__name__,
        shared.__defaults__,
        shared.__closure__,
    )
    own.__kwdefaults__, own.__doc__ = shared.__kwdefaults__, shared.__doc__
    own.__qualname__, own.__module__ = f"{cls.__qualname__}.forward", cls.__module__
    vars(own)["__signature__"] = inspect.Signature(list(_parameters(cls, shared)))
    return own


def _parameters(cls: type[FamilyModel], shared: FunctionType) -> Iterator[inspect.Parameter]:
    kinds = inspect.Parameter
    types = cls.arguments.__annotations__
    known = inspect.signature(shared).parameters
    for parameter in known.values():
        if parameter.kind == kinds.POSITIONAL_OR_KEYWORD:
            yield parameter
    last = {"return_dict": True}
    positional = (*cls.labels, *FLAGS)
    for name in positional:
        yield kinds(
            name,
            kinds.POSITIONAL_OR_KEYWORD,
            default=last.get(name),
            annotation=types[name],
        )
    for name, annotation in types.items():
        if name not in known and name not in positional and name not in cls.unlisted:
            yield kinds(name, kinds.KEYWORD_ONLY, default=None, annotation=annotation)
    for parameter in known.values():
        if parameter.kind == kinds.KEYWORD_ONLY:
            yield parameter
