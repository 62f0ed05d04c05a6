"""Names for the types of transformers' objects; transformers is only imported in functions."""

from typing import Any, TypeAlias

ForeignModule: TypeAlias = Any
"""A transformers model."""
ForeignConfig: TypeAlias = Any
"""A transformers config."""
ForeignPast: TypeAlias = Any
"""A key/value cache of one of transformers' classes."""
