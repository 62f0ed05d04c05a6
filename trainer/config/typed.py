"""Typed values: turns plain values into dataclasses, with errors that name the key."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from trainer.config.peer_names import unknown_key
from trainer.config.sentences import field_sentences
from trainer.errors import InputError

T = TypeVar("T")
MAX_BITS = 128
"""The maximum number of bits of an integer."""
MAX_DIGITS = 40
"""The maximum number of characters of a number that is given as text."""
NOT_GIVEN = "???"
"""The marker in YAML files for a value that the user must give."""


def make(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass `cls` with these values.

    `where` is the key of `values` in the config. Raises InputError for an unknown key, a missing
    value, or a value of a wrong type.
    """
    hints = get_type_hints(cls)
    known = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
    given = {}
    for key, value in values.items():
        if key not in known:
            raise unknown_key(where, str(key), known, value)
        if value != NOT_GIVEN:
            given[key] = convert(value, hints[key], f"{where}.{key}")
    for name, field in known.items():
        required = field.default in (MISSING, NOT_GIVEN) and field.default_factory is MISSING
        if name not in given and (required or name in values):
            sentence = field_sentences(cls).get(name) or f"{describe(hints[name])}."
            raise InputError(f"{where}.{name}: nothing given; accepted: {sentence}")
    try:
        return cls(**given)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error


def plain(value: object) -> Any:
    """The values of a dataclass as plain mappings, lists and scalars."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def convert(value: object, hint: Any, where: str) -> Any:
    """Convert a value to the type `hint`, also numbers to text and numeric text to numbers.

    Raises InputError, which names the key `where`, if that is not possible.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise _refused(value, hint, where)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _one_of(value, hint, where)
    if origin is Literal and value in arguments:
        return value
    if _is_a(origin or hint, Mapping) and isinstance(value, Mapping):
        key_hint, entry_hint = arguments or (Any, Any)
        return {
            convert(key, key_hint, where): convert(entry, entry_hint, f"{where}.{key}")
            for key, entry in value.items()
        }
    if _is_list(origin or hint) and isinstance(value, (list, tuple)):
        entries = [
            convert(v, (arguments or (Any,))[0], f"{where}[{i}]") for i, v in enumerate(value)
        ]
        return tuple(entries) if origin is tuple else entries
    if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return make(hint, value, where)
    return _scalar(value, hint, where)


def show(value: object) -> str:
    """The text of a value for error messages, shortened to one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return f"a mapping ({', '.join(map(str, value)) or 'empty'})"
    if isinstance(value, int) and value.bit_length() > 4096:
        return f"a number of {value.bit_length():,} bits"
    text = str(value) if len(str(value)) <= 80 else f"{str(value)[:77]}..."
    return repr(text) if isinstance(value, str) else text


def describe(hint: Any) -> str:
    """The description of a type in error messages."""
    origin, arguments = get_origin(hint), get_args(hint)
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    words |= {type(None): "null", Path: "a path", Any: "any value"}
    if origin in (Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if _is_a(origin or hint, Mapping):
        return "a mapping {key: value}"
    if _is_list(origin or hint):
        return f"a list [{describe(arguments[0])}, ...]" if arguments else "a list"
    if is_dataclass(hint):
        return "a mapping {key: value}"
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def _one_of(value: object, hint: Any, where: str) -> Any:
    members = get_args(hint)
    if type(value) in members:
        return value
    for member in members:
        try:
            return convert(value, member, where)
        except InputError as error:
            if not str(error).startswith(f"{where}:"):  # the error already names an inner key
                raise
    raise _refused(value, hint, where)


def _scalar(value: Any, hint: Any, where: str) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is str and (number or isinstance(value, str)):
        return str(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint in (int, float) and isinstance(value, str) and len(value) <= MAX_DIGITS:
        value, number = _number(value)
    if hint is float and number:
        return float(value)
    whole = number and (isinstance(value, int) or value.is_integer())
    if hint is int and whole and int(value).bit_length() <= MAX_BITS:  # not 1e300
        return int(value)
    if hint in (bool, type(None)) and isinstance(value, hint):
        return value
    raise _refused(value, hint, where)


def _number(text: str) -> tuple[Any, bool]:
    """The number in a text and True, else the text and False; YAML 1.1 reads 1e-5 as text."""
    for kind in (int, float):
        try:
            return kind(text), True
        except ValueError:
            pass
    return text, False


def _refused(value: object, hint: Any, where: str) -> InputError:
    quoted = f" (in quotes: '{show(value)}')" if hint is str and isinstance(value, bool) else ""
    return InputError(f"{where}: found {show(value)}; accepted: {describe(hint)}{quoted}")


def _is_a(kind: object, parent: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, parent)


def _is_list(kind: object) -> bool:
    return _is_a(kind, Sequence) and kind is not str
