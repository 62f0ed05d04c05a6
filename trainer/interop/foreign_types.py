"""Names for the types of transformers' objects; transformers is only imported in functions."""

from typing import Any, TypeAlias

ForeignModule: TypeAlias = Any
"""A model of transformers."""
ForeignConfig: TypeAlias = Any
"""A config of transformers."""
ForeignPast: TypeAlias = Any
"""A cache of keys and values, of a class of transformers."""
