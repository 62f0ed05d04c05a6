"""Plain text: makes untrusted text safe to show on a terminal or in a log."""

import re
from contextlib import suppress
from pathlib import Path

MAX_LINE = 4000
"""The maximum length of a line of an error or a log; the middle of a longer line is left out."""
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters except tabs and newlines
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Matches characters that are invisible, or that can move the cursor, set the window's title or
change the direction of text."""


def short_path(path: Path) -> str:
    """A path as text, relative to the working folder if that contains it."""
    with suppress(OSError):  # the working folder has been removed
        working_folder = Path.cwd()
        return str(
            path.relative_to(working_folder) if path.is_relative_to(working_folder) else path
        )
    return str(path)


def plain(text: str) -> str:
    """Escape the unsafe characters of a text, for example as \\x1b or \\u202e."""
    return _UNSAFE.sub(_escape, text)


def plain_json(line: str) -> str:
    """Escape the unsafe characters of a line of JSON, so that it remains the same JSON value."""
    return _UNSAFE.sub(lambda found: _as_json(found[0]), line)


def one_line(text: str) -> str:
    """Join the lines of a text, escape it, and cut it to about MAX_LINE characters."""
    line = plain(" ".join(text.split()))
    if len(line) <= MAX_LINE:
        return line
    half = MAX_LINE // 2
    return f"{line[:half]} ... ({len(line) - 2 * half:,} characters) ... {line[-half:]}"


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _as_json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
