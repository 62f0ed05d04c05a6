"""Option types: refuses values of the wrong type for the fields of a dataclass of options."""

import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field
from functools import cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, ClassVar, Union, get_args, get_origin, get_type_hints

from trainer.errors import InputError

LISTS = (list, tuple, set, frozenset, Sequence, Collection)
MAPPINGS = (dict, Mapping)


class Options:
    """The base of dataclasses of options, which refuses values of the wrong type.

    Values in configs are converted before, but Python code may pass any value: None for a number,
    or a text for a list of texts, which would be read as its letters. Values for numbers, switches,
    lists and mappings are checked. The default of a field is always accepted.
    """

    where: ClassVar[str] = ""
    """The key of the options in a config, which errors name; {} stands for the class's file."""

    def __init_subclass__(cls, where: str | None = None) -> None:
        super().__init_subclass__()
        if where is not None:
            cls.where = where

    if not TYPE_CHECKING:

        def __new__(cls, *values: object, **named: object) -> "Options":
            _check(cls, values, named)
            return super().__new__(cls)


def _check(cls: type[Options], values: tuple[object, ...], named: Mapping[str, object]) -> None:
    """Raise InputError for the first value of a wrong type."""
    key: object = cls
    known = _fields_of(key)
    for name, value in [*zip(known, values, strict=False), *named.items()]:
        if name not in known or _is_default(known[name][0], value):
            continue
        if accepted := _accepted_instead(value, known[name][1]):
            where = cls.where.format(cls.__module__.rpartition(".")[2])
            raise InputError(f"{where}.{name}: found {value!r:.60}; accepted: {accepted}")


@cache
def _fields_of(cls: object) -> dict[str, tuple["Field[object]", tuple[object, ...]]]:
    """The arguments of a dataclass: name -> its field, and the types of which a value has one.

    Empty for classes that are not dataclasses, or whose types only a type checker can look up.
    """
    declared = vars(cls).get("__dataclass_fields__", {})
    try:
        hints = get_type_hints(cls)
    except (NameError, TypeError):
        return {}
    taken = {name: each for name, each in declared.items() if each.init and name in hints}
    return {name: (each, _members(hints[name])) for name, each in taken.items()}


def _members(hint: object) -> tuple[object, ...]:
    """The types in a union, without their parameters, such as list for list[str]."""
    united = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return tuple(get_origin(each) or each for each in united)


def _is_default(field: "Field[object]", value: object) -> bool:
    return field.default is not MISSING and value is field.default


def _accepted_instead(value: object, members: tuple[object, ...]) -> str | None:
    """What is accepted instead of a value of a wrong type; None if nothing is wrong."""
    known = {int, float, bool, *LISTS, *MAPPINGS}
    own = [each for each in members if each is not type(None)]
    if not own or (value is None and type(None) in members):
        return None
    if value is None:
        # a text or another type may be accepted, too, but not None
        return _words(own[0]) if own[0] in known else None
    if not known.issuperset(own) or any(_fits(value, each) for each in own):
        return None
    if isinstance(value, str) and set(own) & set(LISTS):
        return f"a list, such as [{value[:40]!r}]"
    return _words(own[0]) + ", or null" * (type(None) in members)


def _fits(value: object, kind: object) -> bool:
    """Whether a value may be passed for a number, a switch, a list or a mapping."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # of numpy or torch
        value = value.item()
    if kind in LISTS:
        return isinstance(value, Iterable) and not isinstance(value, (str, bytes))
    if kind in MAPPINGS:
        return isinstance(value, Mapping)
    if kind is bool:
        return isinstance(value, bool) or (isinstance(value, Integral) and value in (0, 1))
    number = Integral if kind is int else Real
    return isinstance(value, number) and not isinstance(value, bool)


def _words(kind: object) -> str:
    if kind in (*LISTS, *MAPPINGS):
        return "a list" if kind in LISTS else "a mapping"
    return {int: "a whole number", float: "a number", bool: "true, false"}[kind]  # type: ignore[index]
