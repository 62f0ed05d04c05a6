"""Load check process: a program that tries a tokenizer.json, with limits on time and memory.

A tokenizer.json can make native code run forever or exhaust memory: its regular expressions may
backtrack without end, and its replacement rules may lengthen a text exponentially. The kernel ends
this process at the limits. The program reads the file from standard input, and prints one line: ok,
or the fault.
"""

import ctypes
import json
import re
import resource
import signal
import sys
from collections.abc import Iterator

SECONDS_PER_MB = 2
"""The additional CPU seconds for each megabyte of the file."""
MEMORY_PER_BYTE = 64
"""The additional bytes of address space for each byte of the file."""
LENGTH = 3000
"""The number of characters of the long texts to encode."""
MAX_PATTERN = 20_000
"""The maximum number of characters in a regular expression."""
TEXTS = ("\U0010ffff", "", "a b", " " * LENGTH, "a" * LENGTH, "word " * (LENGTH // 5))
"""The texts that every tokenizer has to encode."""


def main() -> None:
    """Try the file on standard input. The arguments are the base limits in seconds and bytes."""
    seconds, memory = map(int, sys.argv[1:])
    _die_with_parent()
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
        for sample in (*TEXTS, *_hostile_texts(patterns)):
            backend.encode(sample)
        backend.encode("", "")
    except BaseException as error:  # the library's panics are not subclasses of Exception
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _patterns(value: object) -> Iterator[str]:
    """Yield all regular expressions in a tokenizer.json."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if key == "Regex" and isinstance(entry, str):
                yield entry
            elif key != "vocab":
                yield from _patterns(entry)
    elif isinstance(value, list) and not (value and isinstance(value[0], str)):
        for entry in value[:1000]:
            yield from _patterns(entry)


def _hostile_texts(patterns: list[str]) -> Iterator[str]:
    """Yield long repetitions of characters in the patterns, which make a bad pattern backtrack."""
    characters = dict.fromkeys(
        c for pattern in patterns for c in re.sub(r"\\.", "", pattern) if c.isalnum()
    )
    for character in list(characters)[:12]:
        yield character * LENGTH
        yield (character * 40 + "!") * (LENGTH // 41)
    if patterns:
        yield "1" * LENGTH
        yield "\n" * LENGTH
        yield "\u00e9\u4e2d" * (LENGTH // 2)


def _die_with_parent() -> None:
    """End this process when its parent is killed (Linux: PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _limit(seconds: int, memory: int) -> None:
    for kind, bound in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        soft = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (soft, soft if kind == resource.RLIMIT_CPU else hard))


if __name__ == "__main__":
    main()
