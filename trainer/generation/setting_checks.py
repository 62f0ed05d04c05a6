"""Checks of the settings of `generate` that hold token ids, pairs, texts or functions."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Real
from typing import Protocol, TypeGuard

import numpy as np
from torch import Tensor
from torch.nn import Module

from trainer.errors import InputError
from trainer.foreign.numbers import is_number
from trainer.models.input_checks import require_tensors

BATCHES = frozenset(
    {
        *("negative_prompt_ids", "negative_prompt_attention_mask"),
        *("decoder_input_ids", "decoder_attention_mask"),
    }
)
"""Settings that are tensors [B, L]."""


Biases = Mapping[tuple[int, ...], float] | Sequence[tuple[Sequence[int], float]]
"""Sequences of ids and the bias of their last id."""


class Listed(Protocol):
    """The settings with ids, pairs, texts or functions; see `HubSettings`."""

    @property
    def bad_words_ids(self) -> Sequence[Sequence[int]]: ...
    @property
    def sequence_bias(self) -> "Biases | None": ...
    @property
    def forced_bos_token_id(self) -> int | None: ...
    @property
    def forced_eos_token_id(self) -> int | Collection[int] | None: ...


def plain_value(name: str, value: object) -> object:
    """The value of a setting, with NumPy and torch numbers in it converted to Python's.

    Tensors [B, L] are unchanged.
    """
    return value if name in BATCHES else _plain(value)


def _plain(value: object) -> object:
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        found: object = value.tolist()
        return found
    if isinstance(value, Mapping):
        return {_plain(key): _plain(each) for key, each in value.items()}
    for kinds, kind in (((list, range), list), (tuple, tuple), ((set, frozenset), set)):
        if isinstance(value, kinds):
            return kind(map(_plain, value))
    return float(value) if isinstance(value, Real) and not isinstance(value, int) else value


def check_batch(settings: object, ids: str, mask: str, count: int) -> None:
    """Raise InputError unless the settings `ids` and `mask` fit `count` prompts and each other.

    Without ids, the mask is for one token of each prompt.
    """
    found, seen = (getattr(settings, name) for name in (ids, mask))
    require_tensors({ids: found, mask: seen}, "generate")
    shape = (count, 1) if found is None else tuple(found.shape)
    if len(shape) != 2 or shape[0] != count or not shape[1]:
        accepted = f"({count}, length), a row for each prompt"
        raise InputError(f"{ids}: found shape {shape}; accepted: {accepted}")
    if seen is not None and tuple(seen.shape) != shape:
        accepted = f"{shape}, {'one token of each prompt' if found is None else f'as {ids}'}"
        raise InputError(f"{mask}: found shape {tuple(seen.shape)}; accepted: {accepted}")
    if seen is not None and not bool((seen != 0).any(1).all()):
        raise InputError(f"{mask}: found a row without tokens; accepted: 1 or more in each row")


def check_structure(settings: object) -> None:
    """Raise InputError, naming the setting, for values with the wrong structure."""
    for name, (holds, accepted) in _STRUCTURES.items():
        value = getattr(settings, name)
        if value is not None and not holds(value):
            found = f"{value!r:.60}" if isinstance(value, _PLAIN) else type(value).__name__
            raise InputError(f"{name}: found {found}; accepted: {accepted}")


def check_ids(settings: Listed, size: int) -> None:
    """Raise InputError, naming the setting, for ids beyond a vocabulary of `size` tokens.

    Suppressed tokens may be beyond it: they are never generated.
    """
    biased = pairs_of(settings.sequence_bias)
    given: dict[str, list[int]] = {
        "bad_words_ids": [token for word in settings.bad_words_ids for token in word],
        "sequence_bias": [token for sequence, _ in biased for token in sequence],
        "forced_bos_token_id": listed(settings.forced_bos_token_id),
        "forced_eos_token_id": listed(settings.forced_eos_token_id),
    }
    for name, tokens in given.items():
        if wrong := [token for token in tokens if not 0 <= token < size]:
            raise InputError(f"{name}: found the token {wrong[0]}; accepted: 0 to {size - 1}")


def pairs_of(biases: "Biases | None") -> list[tuple[Sequence[int], float]]:
    """The (sequence of ids, bias) pairs of a `sequence_bias`."""
    if isinstance(biases, Mapping):
        return [(ids, bias) for ids, bias in biases.items()]
    return list(biases or ())


def listed(tokens: int | Collection[int] | None) -> list[int]:
    """One id, several or none as a list."""
    return [] if tokens is None else [tokens] if isinstance(tokens, int) else list(tokens)


LARGEST_BIAS = 1e30
"""The largest number added to a score: sums of several of them are finite, also in float32."""
_PLAIN = (bool, int, float, str, list, tuple, dict)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: object) -> TypeGuard[int | float]:
    return is_number(value)


def _is_seconds(value: object) -> bool:
    return value == math.inf or _is_real(value)


def _is_bias(value: object) -> bool:
    """Whether a value may be added to a score; -inf forbids a token."""
    return value == -math.inf or (_is_real(value) and value <= LARGEST_BIAS)


def _is_id_or_ids(value: object) -> bool:
    return _is_id(value) or _are_ids(value)


def _is_id_or_list(value: object) -> bool:
    return not isinstance(value, set) and _is_id_or_ids(value)


def _are_ids(value: object) -> bool:
    return isinstance(value, (list, tuple, set)) and all(map(_is_id, value))


def _are_words(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(word and _are_ids(word) for word in value)


def _are_biases(value: object) -> bool:
    if not isinstance(value, (Mapping, list, tuple)):
        return False
    pairs = [*value.items()] if isinstance(value, Mapping) else list(value)
    whole = all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs)
    return whole and all(_are_words([ids]) and _is_bias(bias) for ids, bias in pairs)


def _is_decay(value: object) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return False
    start, factor = value
    return _is_real(start) and start % 1 == 0 and _is_real(factor) and 0 <= factor <= 1e6


def _are_texts(value: object) -> bool:
    texts = [value] if isinstance(value, str) else value
    return isinstance(texts, (list, tuple)) and all(isinstance(t, str) and t for t in texts)


def _is_streamer(value: object) -> bool:
    return hasattr(value, "put") and hasattr(value, "end")


def _is_model(value: object) -> bool:
    return isinstance(value, Module) and hasattr(value, "config")


def _are_functions(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(map(callable, value))


_STRUCTURES: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "bad_words_ids": (_are_words, "a list of lists of ids, none empty, such as [[5], [7, 9]]"),
    "sequence_bias": (
        _are_biases,
        "a dictionary {(5, 6): -2.0}, or a list [[[5, 6], -2.0]], with numbers up to 1e30, or -inf",
    ),
    "suppress_tokens": (_are_ids, "a list of ids"),
    "begin_suppress_tokens": (_are_ids, "a list of ids"),
    "exponential_decay_length_penalty": (
        _is_decay,
        "a pair (first token, factor from 0 to 1,000,000)",
    ),
    "forced_bos_token_id": (_is_id, "an id"),
    "forced_eos_token_id": (_is_id_or_ids, "an id, or a list of ids"),
    "eos_token_id": (_is_id_or_ids, "an id, or a list of ids"),
    "pad_token_id": (_is_id, "an id"),
    "bos_token_id": (_is_id, "an id"),
    "decoder_start_token_id": (_is_id_or_list, "an id, or a list with one for each prompt"),
    "max_time": (_is_seconds, "a number of seconds"),
    "seed": (_is_id, "a whole number"),
    "prefix_allowed_tokens_fn": (callable, "a function (row, ids) -> ids"),
    "streamer": (_is_streamer, "an object with the methods put and end"),
    "assistant_model": (_is_model, "a model of this package or of transformers"),
    "stop_strings": (_are_texts, "a text, or a list of texts, none empty"),
    "logits_processor": (_are_functions, "a list of functions (ids, scores) -> scores"),
    "stopping_criteria": (_are_functions, "a list of functions (ids, scores) -> whether to stop"),
}
"""Setting -> (whether a value has the right structure, the structure)."""
