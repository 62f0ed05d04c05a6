"""The properties of a decoder layer that depend on its index."""

from dataclasses import dataclass

from trainer.errors import InputError
from trainer.models.config import ModelConfig

LOCAL, GLOBAL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class LayerPlace:
    """A layer's index and the properties that depend on it."""

    number: int
    """The layer's index, from 0"""
    window: int | None
    """The sliding window: how many earlier tokens a token sees; None: all"""


def head_channels(config: ModelConfig) -> int:
    """The channels of one attention head."""
    channels: int = config.head_dim or config.hidden_size // config.num_attention_heads
    return channels


def layer_kinds(config: ModelConfig) -> list[str]:
    """The kind of each layer, LOCAL or GLOBAL, from layer_types or its equivalent in old files.

    Raises InputError for unknown names or a wrong number of names.
    """
    count, kinds = config.num_hidden_layers, config.layer_types
    if kinds is None and (period := config.known("sliding_window_pattern")):
        kinds = [LOCAL if (number + 1) % period else GLOBAL for number in range(count)]
    if kinds is None:
        first = config.max_window_layers
        kinds = [LOCAL if number >= first else GLOBAL for number in range(count)]
    if (
        not isinstance(kinds, list)
        or len(kinds) != count
        or any(kind not in (LOCAL, GLOBAL) for kind in kinds)
    ):
        accepted = f"{LOCAL} or {GLOBAL} for each of the {count} layers"
        raise InputError(f"config.json: layer_types: found {kinds!r}; accepted: {accepted}")
    return kinds


def layer_places(config: ModelConfig, kinds: list[str]) -> list[LayerPlace]:
    """Each layer's `LayerPlace`; only local layers have windows.

    Raises InputError for an invalid sliding_window.
    """
    width = config.sliding_window if config.use_sliding_window else None
    if width is not None and (type(width) is not int or width < 1):
        raise InputError(f"config.json: sliding_window: found {width!r}; accepted: 1 or more, null")
    window = None if width is None else width - 1
    return [
        LayerPlace(number, window if kind == LOCAL else None) for number, kind in enumerate(kinds)
    ]
