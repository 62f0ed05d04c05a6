"""Checks the counts and lengths in a GGUF file against its size before the package gguf reads it.

The check is needed because the package trusts every count: it creates a Python object for every
element before it checks for the end of the file.
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from trainer.errors import InputError

MAX_ELEMENTS = 1 << 21
"""The maximum number of elements in a metadata array: more than twice any vocabulary's size."""
MAX_DIMENSIONS = 4
MAX_DEPTH = 4
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Number of a value type -> size of a value in bytes."""
STRING, ARRAY = 8, 9
"""The numbers of the two value types without a fixed size."""
LEAST_ENTRY, LEAST_TENSOR = 8 + 4 + 1, 8 + 4 + 4 + 8
"""The minimum sizes in bytes of a metadata entry and of a tensor description."""


def check_structure(file: Path) -> None:
    """Raise InputError if a count or length in the file is too large for the file's size."""
    with file.open("rb") as stream:
        header = _Header(stream, file)
        header.check()


class _Header:
    """Reads through the header of a file without keeping its contents."""

    def __init__(self, stream: BinaryIO, file: Path) -> None:
        self.stream, self.file = stream, file
        self.size = file.stat().st_size
        self.order = "<"

    def check(self) -> None:
        if self.stream.read(4) != b"GGUF":
            return  # the package's reader raises an error for this
        version = self._number("I")
        if version & 0xFFFF == 0:
            self.order = ">"
        tensors, entries = self._number("Q"), self._number("Q")
        self._fits(entries, LEAST_ENTRY, "metadata entries")
        self._fits(tensors, LEAST_TENSOR, "tensors")
        for _ in range(entries):
            self._string()
            self._value(self._number("I"), 0)
        for _ in range(tensors):
            self._tensor()

    def _value(self, kind: int, depth: int) -> None:
        if kind == STRING:
            self._string()
        elif kind == ARRAY:
            self._array(depth)
        elif kind in SIZES:
            self._skip(SIZES[kind])
        else:
            raise self._refused(f"a metadata entry of type {kind}")

    def _array(self, depth: int) -> None:
        kind, count = self._number("I"), self._number("Q")
        if depth >= MAX_DEPTH:
            raise self._refused(f"arrays nested deeper than {MAX_DEPTH}")
        if count > MAX_ELEMENTS:
            raise self._refused(f"an array of {count:,} elements; accepted: {MAX_ELEMENTS:,}")
        if kind in SIZES:
            self._fits(count, SIZES[kind], "elements of an array")
            self._skip(count * SIZES[kind])
            return
        self._fits(count, 8, "elements of an array")
        for _ in range(count):
            self._value(kind, depth + 1)

    def _tensor(self) -> None:
        self._string()
        dimensions = self._number("I")
        if dimensions > MAX_DIMENSIONS:
            raise self._refused(f"a tensor of {dimensions} dimensions")
        elements = 1
        for _ in range(dimensions):
            elements *= self._number("Q")
        if elements > 16 * self.size:  # every type uses at least half a bit per number
            raise self._refused(f"a tensor of {elements:,} numbers")
        self._number("I")
        if self._number("Q") > self.size:
            raise self._refused("a tensor beyond the end of the file")

    def _string(self) -> None:
        length = self._number("Q")
        self._fits(length, 1, "bytes of a string")
        self._skip(length)

    def _number(self, code: str) -> int:
        width = struct.calcsize(code)
        found = self.stream.read(width)
        if len(found) < width:
            raise self._refused("fewer bytes than announced")
        return int(struct.unpack(f"{self.order}{code}", found)[0])

    def _skip(self, count: int) -> None:
        self.stream.seek(count, 1)

    def _fits(self, count: int, least: int, what: str) -> None:
        left = self.size - self.stream.tell()
        if count * least > left:
            raise self._refused(f"{count:,} {what}, with {max(left, 0):,} bytes left")

    def _refused(self, found: str) -> InputError:
        return InputError(f"{self.file}: is truncated or not a GGUF file (found {found})")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**32


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_list_of(is_element: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(is_element, value))


def _is_flag(value: object) -> bool:
    return isinstance(value, bool) or value in (0, 1)


KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "general.architecture": (_is_text, "a text"),
    "context_length": (_is_integer, "a whole number"),
    "embedding_length": (_is_integer, "a whole number"),
    "block_count": (_is_integer, "a whole number"),
    "feed_forward_length": (_is_integer, "a whole number"),
    "expert_count": (_is_integer, "a whole number"),
    "attention.head_count": (_is_integer, "a whole number"),
    "attention.head_count_kv": (_is_integer, "a whole number"),
    "attention.key_length": (_is_integer, "a whole number"),
    "attention.value_length": (_is_integer, "a whole number"),
    "attention.sliding_window": (_is_integer, "a whole number"),
    "attention.layer_norm_epsilon": (_is_number, "a number"),
    "attention.layer_norm_rms_epsilon": (_is_number, "a number"),
    "rope.dimension_count": (_is_integer, "a whole number"),
    "rope.freq_base": (_is_number, "a number"),
    "rope.freq_base_swa": (_is_number, "a number"),
    "rope.scale_linear": (_is_number, "a number"),
    "rope.scaling.type": (_is_text, "a text"),
    "rope.scaling.factor": (_is_number, "a number"),
    "rope.scaling.original_context_length": (_is_integer, "a whole number"),
    "rope.scaling.attn_factor": (_is_number, "a number"),
    "rope.scaling.yarn_attn_factor": (_is_number, "a number"),
    "rope.scaling.yarn_beta_fast": (_is_number, "a number"),
    "rope.scaling.yarn_beta_slow": (_is_number, "a number"),
    "attention.scale": (_is_number, "a number"),
    "embedding_scale": (_is_number, "a number"),
    "residual_scale": (_is_number, "a number"),
    "logit_scale": (_is_number, "a number"),
    "attn_logit_softcapping": (_is_number, "a number"),
    "final_logit_softcapping": (_is_number, "a number"),
    "general.sampling.temp": (_is_number, "a number"),
    "general.sampling.top_k": (_is_integer, "a whole number"),
    "general.sampling.top_p": (_is_number, "a number"),
    "general.sampling.min_p": (_is_number, "a number"),
    "general.sampling.penalty_repeat": (_is_number, "a number"),
    "tokenizer.ggml.model": (_is_text, "a text"),
    "tokenizer.ggml.pre": (_is_text, "a text"),
    "tokenizer.ggml.tokens": (_is_list_of(_is_text), "a list of strings"),
    "tokenizer.ggml.merges": (_is_list_of(lambda v: _is_text(v) and " " in v), "a list of pairs"),
    "tokenizer.ggml.scores": (_is_list_of(_is_number), "a list of numbers"),
    "tokenizer.ggml.token_type": (_is_list_of(_is_integer), "a list of integers"),
    "tokenizer.ggml.add_bos_token": (_is_flag, "true or false"),
    "tokenizer.ggml.add_eos_token": (_is_flag, "true or false"),
    "tokenizer.ggml.add_space_prefix": (_is_flag, "true or false"),
    "tokenizer.chat_template": (_is_text, "a text"),
}
"""Metadata key, possibly without its architecture prefix -> (check of the value, accepted type)."""


def check_entry(file: Path, name: str, value: object) -> None:
    """Raise InputError for an entry whose value does not have the expected type."""
    kind = KINDS.get(name) or KINDS.get(name.partition(".")[2])
    if name.endswith("_token_id"):
        kind = (_is_integer, "a whole number")
    if kind is not None and not kind[0](value):
        raise InputError(f"{file}: {name}: found {value!r:.60}; accepted: {kind[1]}")
