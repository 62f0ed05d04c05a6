"""What a GGUF file says of itself, checked against its bytes before the package gguf reads them.

The package believes every count, and makes Python objects of every element before it looks at the
end of the file.
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from trainer.errors import InputError

MAX_ELEMENTS = 1 << 21
"""Of one array of the metadata: no vocabulary is half as large."""
MAX_DIMENSIONS = 4
MAX_DEPTH = 4
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Type of a value -> its bytes; 8 is a string, 9 an array."""
STRING, ARRAY = 8, 9
LEAST_ENTRY, LEAST_TENSOR = 8 + 4 + 1, 8 + 4 + 4 + 8
"""The fewest bytes of an entry of the metadata, and of a tensor's description."""


def check_structure(file: Path) -> None:
    """Refuse a file whose counts or lengths go beyond its bytes. Raises InputError."""
    with file.open("rb") as stream:
        header = _Header(stream, file)
        header.check()


class _Header:
    """The beginning of a file, walked once, without keeping what it holds."""

    def __init__(self, stream: BinaryIO, file: Path) -> None:
        self.stream, self.file = stream, file
        self.size = file.stat().st_size
        self.order = "<"

    def check(self) -> None:
        if self.stream.read(4) != b"GGUF":
            return  # the reader tells what it is instead
        version = self._number("I")
        if version & 0xFFFF == 0:
            self.order = ">"
        tensors, entries = self._number("Q"), self._number("Q")
        self._fits(entries, LEAST_ENTRY, "entries of the metadata")
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
            raise self._refused(f"type {kind} of an entry of the metadata")

    def _array(self, depth: int) -> None:
        kind, count = self._number("I"), self._number("Q")
        if depth >= MAX_DEPTH:
            raise self._refused(f"arrays within arrays deeper than {MAX_DEPTH}")
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
        if elements > 16 * self.size:  # no type has less than half a bit for a number
            raise self._refused(f"a tensor of {elements:,} numbers")
        self._number("I")
        if self._number("Q") > self.size:
            raise self._refused("a tensor beyond its end")

    def _string(self) -> None:
        length = self._number("Q")
        self._fits(length, 1, "bytes of a text")
        self._skip(length)

    def _number(self, code: str) -> int:
        width = struct.calcsize(code)
        found = self.stream.read(width)
        if len(found) < width:
            raise self._refused("no more bytes, though more are announced")
        return int(struct.unpack(f"{self.order}{code}", found)[0])

    def _skip(self, count: int) -> None:
        self.stream.seek(count, 1)

    def _fits(self, count: int, least: int, what: str) -> None:
        left = self.size - self.stream.tell()
        if count * least > left:
            raise self._refused(f"{count:,} {what}, with {max(left, 0):,} bytes left")

    def _refused(self, found: str) -> InputError:
        return InputError(f"{self.file}: is truncated or no GGUF file (found {found})")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**32


def _real(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _list_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(holds, value))


def _flag(value: Any) -> bool:
    return isinstance(value, bool) or value in (0, 1)


KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "general.architecture": (_text, "a text"),
    "context_length": (_whole, "a whole number"),
    "embedding_length": (_whole, "a whole number"),
    "block_count": (_whole, "a whole number"),
    "feed_forward_length": (_whole, "a whole number"),
    "expert_count": (_whole, "a whole number"),
    "attention.head_count": (_whole, "a whole number"),
    "attention.head_count_kv": (_whole, "a whole number"),
    "attention.key_length": (_whole, "a whole number"),
    "attention.value_length": (_whole, "a whole number"),
    "attention.sliding_window": (_whole, "a whole number"),
    "attention.layer_norm_epsilon": (_real, "a number"),
    "attention.layer_norm_rms_epsilon": (_real, "a number"),
    "rope.dimension_count": (_whole, "a whole number"),
    "rope.freq_base": (_real, "a number"),
    "rope.scaling.type": (_text, "a text"),
    "rope.scaling.factor": (_real, "a number"),
    "rope.scaling.original_context_length": (_whole, "a whole number"),
    "tokenizer.ggml.model": (_text, "a text"),
    "tokenizer.ggml.pre": (_text, "a text"),
    "tokenizer.ggml.tokens": (_list_of(_text), "a list of texts"),
    "tokenizer.ggml.merges": (_list_of(lambda v: _text(v) and " " in v), "a list of pairs"),
    "tokenizer.ggml.scores": (_list_of(_real), "a list of numbers"),
    "tokenizer.ggml.token_type": (_list_of(_whole), "a list of whole numbers"),
    "tokenizer.ggml.add_bos_token": (_flag, "true or false"),
    "tokenizer.ggml.add_eos_token": (_flag, "true or false"),
    "tokenizer.ggml.add_space_prefix": (_flag, "true or false"),
    "tokenizer.chat_template": (_text, "a text"),
}
"""Entry of the metadata, or its name under the architecture's -> what it must hold."""


def check_entry(file: Path, name: str, value: Any) -> None:
    """Refuse an entry of another type than its readers expect. Raises InputError."""
    kind = KINDS.get(name) or KINDS.get(name.partition(".")[2])
    if name.endswith("_token_id"):
        kind = (_whole, "a whole number")
    if kind is not None and not kind[0](value):
        raise InputError(f"{file}: {name}: found {value!r:.60}; accepted: {kind[1]}")
