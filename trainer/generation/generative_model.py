"""GenerativeModel: the type of a model that generates text."""

from typing import Any, TypeAlias

GenerativeModel: TypeAlias = Any
"""A causal language model or an encoder-decoder of this package or, where a docstring says so, of
transformers. It is not the union of the model classes, since their modules import this package.
"""
