"""Option types: refuses values of the wrong type for the fields of a dataclass of options."""

import re
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, Field
from functools import cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from trainer.errors import InputError

LISTS = (list, tuple, set, frozenset, Sequence, Collection)
MAPPINGS = (dict, Mapping)


class Options:
    """The base of dataclasses of options, which refuses values of the wrong type.

    Values in configs are converted before, but Python code may pass any value: None for a number,
    or a text for a list of texts, which would be read as its letters. Values for numbers, switches,
    lists and mappings are checked. The default of a field is always accepted.
    """

    _options_key: ClassVar[str] = ""
    """The key of the options in a config, which errors name; {} stands for the class's file.

    Not `where`: as an attribute, it would be the default of a field of that name.
    """

    def __init_subclass__(cls, where: str | None = None, **arguments: object) -> None:
        super().__init_subclass__(**arguments)
        if where is not None:
            cls._options_key = where

    if not TYPE_CHECKING:

        def __new__(cls, *values: object, **named: object) -> "Options":
            _check(cls, values, named)
            made = super().__new__  # that of another base, where there is one
            return made(cls) if made is object.__new__ else made(cls, *values, **named)


def _check(cls: type[Options], values: tuple[object, ...], named: Mapping[str, object]) -> None:
    """Raise InputError for the first value of a wrong type."""
    key: object = cls
    positional, known = _arguments_of(key)
    for name, value in [*zip(positional, values, strict=False), *named.items()]:
        if name not in known or _is_default(known[name][0], value):
            continue
        if accepted := _accepted_instead(value, known[name][1]):
            where = cls._options_key.format(cls.__module__.rpartition(".")[2])
            found = re.sub(r"\s*\n\s*", " ", repr(value))  # arrays have several lines
            key = f"{where}.{name}" if where else name
            raise InputError(f"{key}: found {found:.60}; accepted: {accepted}")


@cache
def _arguments_of(
    cls: object,
) -> tuple[tuple[str, ...], dict[str, tuple["Field[object]", tuple[object, ...]]]]:
    """The positional arguments of a dataclass, and those to check.

    The latter are name -> its field, and the types of which a value has one. A constructor that a
    class defines itself may take other types than the fields have, and convert them. Its arguments
    are only checked if they are annotated with the type of the field.
    """
    constructor = getattr(cls, "__init__", None)
    code = getattr(constructor, "__code__", None)
    if not isinstance(cls, type) or code is None:
        return (), {}
    declared, hints = getattr(cls, "__dataclass_fields__", {}), _hints_of(cls)
    try:
        annotated = getattr(constructor, "__annotations__", {})
    except NameError:
        annotated = {}
    taken = {
        name: (declared[name], _members(hints[name]))
        for name, annotation in annotated.items()
        if name in declared and name in hints and annotation == declared[name].type
    }
    return code.co_varnames[1 : code.co_argcount], taken


def _hints_of(cls: type) -> dict[str, object]:
    """The types of a class's attributes, without those that only a type checker can look up."""
    found: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        try:
            found |= get_type_hints(base)
        except (AttributeError, NameError, SyntaxError, TypeError):
            for name in vars(base).get("__annotations__", {}):
                found.pop(name, None)
    return found


def _members(hint: object) -> tuple[object, ...]:
    """The types in a union, without their parameters, such as list for list[str]."""
    united = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    origins = {each: get_origin(each) for each in united}
    return tuple(each if origin in (None, Literal) else origin for each, origin in origins.items())


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
        return _words(own) if own[0] in known else None
    if not known.issuperset(own) or any(_fits(value, each) for each in own):
        return None
    if isinstance(value, str) and set(own) & set(LISTS):
        return f"a list, such as [{value[:40]!r}]"
    return _words(own) + ", or null" * (type(None) in members)


def _fits(value: object, kind: object) -> bool:
    """Whether a value may be passed for a number, a switch, a list or a mapping."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # of numpy or torch
        with suppress(RuntimeError):  # tensors on the meta device have no value
            value = value.item()
    if kind in LISTS:
        return isinstance(value, Iterable) and not isinstance(value, (str, bytes))
    if kind in MAPPINGS:
        return isinstance(value, Mapping)
    if kind is bool:
        return isinstance(value, bool) or (isinstance(value, Integral) and value in (0, 1))
    number = Integral if kind is int else Real
    return isinstance(value, number) and not isinstance(value, bool)


def _words(kinds: Iterable[object]) -> str:
    """The accepted types in words, without those that have none."""
    words: dict[object, str] = {
        **dict.fromkeys(LISTS, "a list"),
        **dict.fromkeys(MAPPINGS, "a mapping"),
        **{int: "a whole number", float: "a number", bool: "true, false", str: "a text"},
    }
    found: list[str] = []
    for each in kinds:
        literals = get_args(each) if get_origin(each) is Literal else ()
        found += [words[each]] if each in words else map(str, literals)
    return ", ".join(found)
