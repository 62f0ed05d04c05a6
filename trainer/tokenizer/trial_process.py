"""The process that tries a tokenizer.json first: a program of its own, bounded in time and memory.

A tokenizer.json is a program for native code: its regular expressions may backtrack without end,
and its replacements multiply each other. Here the kernel ends it. Standard input is the file;
the answer is one line: ok, or what the library says of it.
"""

import json
import re
import resource
import sys
from collections.abc import Iterator
from typing import Any

SECONDS_PER_MB = 2
"""Of processor time, for each megabyte of the file."""
MEMORY_PER_BYTE = 64
"""Bytes of address space, for each byte of the file."""
LENGTH = 3000
"""Characters of a text that is tried."""
MAX_PATTERN = 20_000
TEXTS = ("\U0010ffff", "", "a b", " " * LENGTH, "a" * LENGTH, "word " * (LENGTH // 5))
"""What every tokenizer is tried with."""


def main() -> None:
    """Try the file on standard input; the arguments are seconds and bytes that any file may use."""
    seconds, memory = map(int, sys.argv[1:])
    data = sys.stdin.buffer.read()
    _limit(seconds + SECONDS_PER_MB * (len(data) // 10**6), memory + MEMORY_PER_BYTE * len(data))
    try:
        print(_fault(data.decode()) or "ok")
    except MemoryError:
        print("needs too much memory")


def _fault(text: str) -> str:
    import tokenizers

    patterns = list(_patterns(json.loads(text)))
    for pattern in patterns:
        if len(pattern) > MAX_PATTERN:
            return f"a pattern of {len(pattern):,} characters; accepted: {MAX_PATTERN:,}"
    try:
        backend = tokenizers.Tokenizer.from_str(text)
        backend.no_padding()
        backend.no_truncation()
        for sample in (*TEXTS, *_provocations(patterns)):
            backend.encode(sample)
        backend.encode("", "")
    except BaseException as error:  # a panic of the library is no Exception
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _patterns(value: Any) -> Iterator[str]:
    """The regular expressions of all parts."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if key == "Regex" and isinstance(entry, str):
                yield entry
            elif key != "vocab":
                yield from _patterns(entry)
    elif isinstance(value, list) and not (value and isinstance(value[0], str)):
        for entry in value[:1000]:
            yield from _patterns(entry)


def _provocations(patterns: list[str]) -> Iterator[str]:
    """Long runs of what the patterns speak of, which a pattern that backtracks does not survive."""
    letters = dict.fromkeys(
        letter for pattern in patterns for letter in re.sub(r"\\.", "", pattern) if letter.isalnum()
    )
    for letter in list(letters)[:12]:
        yield letter * LENGTH
        yield (letter * 40 + "!") * (LENGTH // 41)
    if patterns:
        yield "1" * LENGTH
        yield "\n" * LENGTH
        yield "\u00e9\u4e2d" * (LENGTH // 2)


def _limit(seconds: int, memory: int) -> None:
    for kind, bound in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        least = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (least, least if kind == resource.RLIMIT_CPU else hard))


if __name__ == "__main__":
    main()
