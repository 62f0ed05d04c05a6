"""Sentences: reads the docstring under each field of a dataclass from the source code."""

import ast
import inspect
import textwrap
from dataclasses import is_dataclass
from functools import lru_cache
from typing import Any


def field_sentences(cls: type[Any]) -> dict[str, str]:
    """The name of a field -> the docstring under the field, on one line.

    Fields without a docstring are left out. An inherited field has the docstring of the last class
    that declares the field.
    """
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        if is_dataclass(each):
            found |= _own_sentences(each)
    return found


@lru_cache(maxsize=512)
def _own_sentences(cls: type[Any]) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):  # there is no source file
        return {}
    definition = tree.body[0]
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match below:
                case ast.Expr(value=ast.Constant(value=str(sentence))):
                    found[field.target.id] = " ".join(sentence.split())
    return found
