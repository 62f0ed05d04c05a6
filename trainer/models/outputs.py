"""Model outputs: dataclasses that are also mappings and tuples, as in transformers."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, Self, TypeAlias

Outputs: TypeAlias = Any
"""The output of a model in training. Its type depends on the model's head or the user's module, so
it is not checked.
"""


class ModelOutput:
    """Base class of the output dataclasses, which are read by attribute, key, index or slice.

    A field that is not set is None as an attribute and absent from keys, indices and iteration.
    """

    def keys(self) -> list[str]:
        """The names of the fields that are set, in order."""
        return [name for name, _ in self.items()]

    def values(self) -> list[Any]:
        """The fields that are set, in order."""
        return [value for _, value in self.items()]

    def items(self) -> list[tuple[str, Any]]:
        """(name, value) of the fields that are set, in order."""
        pairs = [(field.name, getattr(self, field.name)) for field in fields(self)]  # type: ignore[arg-type]
        return [(name, value) for name, value in pairs if value is not None]

    def get(self, name: str, default: object = None) -> Any:
        """The field with this name, or `default` if it is not set."""
        return dict(self.items()).get(name, default)

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are set, which a model returns with `return_dict=False`."""
        return tuple(self.values())

    def __getitem__(self, key: str | int | slice) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else self.to_tuple()[key]

    def __setitem__(self, name: str, value: object) -> None:
        if name not in [field.name for field in fields(self)]:  # type: ignore[arg-type]
            raise KeyError(name)
        setattr(self, name, value)

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.items())

    def __tf_flatten__(self) -> tuple[list[str], tuple[Any, ...]]:
        """Return names and values, so that a tf.function can return an output with its tensors."""
        return self.keys(), self.to_tuple()

    @classmethod
    def __tf_unflatten__(cls, names: list[str], values: tuple[Any, ...]) -> Self:
        return cls(**dict(zip(names, values, strict=True)))
