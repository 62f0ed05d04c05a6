"""The sentence under each field of a dataclass, taken from its source."""

import ast
import inspect
import textwrap
from typing import Any


def field_sentences(cls: type[Any]) -> dict[str, str]:
    """Field name -> the docstring under it, on one line; fields without one are left out."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):  # no source at hand
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
