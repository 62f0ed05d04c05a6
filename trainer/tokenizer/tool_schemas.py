"""Tool schemas: makes JSON schemas of Python functions, for the tools of a chat template."""

import inspect
import json
import re
import types
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from trainer.errors import InputError

Tool = Mapping[str, Any] | Callable[..., Any]
"""A tool as its JSON schema, or as a function with type hints and a docstring."""

SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
PLAIN = {**SCALARS, list: "array", tuple: "array", dict: "object"}
"""A Python type -> the name of the type in JSON schemas."""
SECTION = re.compile(r"^\s*(Args|Returns|Raises):", re.MULTILINE)
CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$", re.IGNORECASE)
"""The list of accepted values, in JSON, at the end of an argument's description."""


def tool_schemas(tools: Sequence[Tool] | None) -> list[Mapping[str, Any]] | None:
    """The schemas of the tools; tools that are already schemas are unchanged.

    Raises InputError for a function that has no docstring, that lacks the type hint or description
    of an argument, or that has a type that JSON cannot represent.
    """
    if tools is None:
        return None
    return [_schema_of(tool, f"tools[{place}]") for place, tool in enumerate(tools)]


def _schema_of(tool: Tool, where: str) -> Mapping[str, Any]:
    if isinstance(tool, Mapping):
        return tool
    if not (inspect.isfunction(tool) or inspect.ismethod(tool)):
        accepted = "a JSON schema, or a function with type hints and a docstring"
        raise InputError(f"{where}: found {type(tool).__name__}; accepted: {accepted}")
    where = f"{where}: {tool.__name__}"
    text = inspect.getdoc(tool)
    if not text:
        raise InputError(f"{where}: has no docstring; accepted: one that describes its arguments")
    sections = _sections(text.strip())
    hints = _hints(tool, where)
    described = _described(sections.get("Args", ""))
    properties = {}
    for name in (name for name in hints if name != "return"):
        if name not in described:
            accepted = f"a line '{name}: ...' under Args"
            raise InputError(f"{where}: does not describe {name}; accepted: {accepted}")
        typed = _type_schema(hints[name], f"{where}: {name}")
        properties[name] = {**typed, **_description(described[name], f"{where}: {name}")}
    found = {
        "name": tool.__name__,
        "description": sections[""],
        "parameters": {"type": "object", "properties": properties, **_required(tool)},
    }
    returned = _return_schema(hints, sections.get("Returns"))
    return {"type": "function", "function": found if returned is None else found | returned}


def _hints(tool: Callable[..., Any], where: str) -> dict[str, Any]:
    """The type of each argument, and the type of the result under the key `return`."""
    for name, parameter in _arguments(tool).items():
        if parameter.annotation is inspect.Parameter.empty:
            raise InputError(f"{where}: {name} has no type hint; accepted: one for each argument")
    try:
        hints = get_type_hints(tool)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:  # types in quotation marks
        raise InputError(f"{where}: {error}; accepted: types that are defined") from error
    return {name: hint for name, hint in hints.items() if name not in ("self", "cls")}


def _arguments(tool: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a function, without `self` or `cls`."""
    parameters = inspect.signature(tool).parameters
    return {
        name: parameter
        for place, (name, parameter) in enumerate(parameters.items())
        if place
        or name not in ("self", "cls")
        or parameter.annotation is not inspect.Parameter.empty
    }


def _required(tool: Callable[..., Any]) -> dict[str, list[str]]:
    arguments = _arguments(tool).items()
    names = [name for name, each in arguments if each.default is inspect.Parameter.empty]
    return {"required": names} if names else {}


def _return_schema(hints: Mapping[str, Any], text: str | None) -> dict[str, Any] | None:
    """The schema of the result; None without a type hint, or if JSON cannot represent the type."""
    if "return" not in hints:
        return None
    try:
        found = _type_schema(hints["return"], "return")
    except InputError:  # a schema of the result is not required, since models write only calls
        return None
    return {"return": found if text is None else {**found, "description": text}}


def _sections(text: str) -> dict[str, str]:
    """Name -> section of a Google-style docstring; the text before all sections has the name ""."""
    pieces = SECTION.split(text)
    found = {"": pieces[0].strip()}
    for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
        found.setdefault(name, body if name == "Args" else body.strip())
    return found


def _described(section: str) -> dict[str, str]:
    """The name of an argument -> its description in one line, from the section Args."""
    lines = [line for line in section.split("\n") if line.strip()]
    found: dict[str, str] = {}
    indent = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
    for line in lines:
        start = re.match(r"(\w+):\s*(.*)", line.strip())
        if start and len(line) - len(line.lstrip()) <= indent:
            name, found[start[1]] = start[1], start[2].strip()
        elif found:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def _description(text: str, where: str) -> dict[str, Any]:
    """The schema entries for the description of an argument and, if it lists choices, for these."""
    choices = CHOICES.search(text)
    if choices is None:
        return {"description": text}
    try:
        values = json.loads(choices[1])
    except ValueError as error:
        raise InputError(f"{where}: choices: {error}; accepted: a JSON list") from None
    if not isinstance(values, list):
        raise InputError(f"{where}: choices: found {values!r:.40}; accepted: a JSON list")
    values = [value.strip() if isinstance(value, str) else value for value in values]
    return {"enum": values, "description": text[: choices.start()].strip()}


def _type_schema(hint: Any, where: str) -> dict[str, Any]:
    """The schema of a type hint. Raises InputError if JSON cannot represent the type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is None:
        if isinstance(hint, type) and issubclass(hint, Enum):
            return _one_of([member.value for member in hint], where)
        if hint is Any:
            return {}
        if hint in PLAIN:
            return {"type": PLAIN[hint]}
    elif origin in PLAIN and not arguments:  # typing.List without the type of the items
        return {"type": PLAIN[origin]}
    elif origin in (Union, types.UnionType):
        return _union(arguments, where)
    elif origin is Literal:
        return _one_of(list(arguments), where)
    elif origin is list:
        return {"type": "array", "items": _type_schema(arguments[0], where)}
    elif origin is tuple and len(arguments) > 1 and ... not in arguments:
        items = [_type_schema(argument, where) for argument in arguments]
        return {"type": "array", "prefixItems": items}
    elif origin is dict:
        return {"type": "object", "additionalProperties": _type_schema(arguments[1], where)}
    accepted = "int, float, str, bool, Enum, Literal, and lists, tuples, dicts and unions of them"
    raise InputError(f"{where}: found {hint!r:.60}; accepted: {accepted}, or a tool's JSON schema")


def _union(members: Sequence[Any], where: str) -> dict[str, Any]:
    found = [_type_schema(member, where) for member in members if member is not type(None)]
    nullable = {"nullable": True} if type(None) in members else {}
    if len(found) == 1:
        return found[0] | nullable
    if all(each.keys() == {"type"} and isinstance(each["type"], str) for each in found):
        names = sorted({each["type"] for each in found})
        return {"type": names[0] if len(names) == 1 else names} | nullable
    return {"anyOf": found} | nullable


def _one_of(values: list[Any], where: str) -> dict[str, Any]:
    """The schema of a choice among these values. Raises InputError if there are none."""
    if not values or any(type(value) not in SCALARS for value in values):
        accepted = "numbers, texts, booleans and None"
        raise InputError(f"{where}: found the values {values!r:.60}; accepted: {accepted}")
    names = list(dict.fromkeys(SCALARS[type(value)] for value in values))
    return {"type": names[0] if len(names) == 1 else names, "enum": values}
