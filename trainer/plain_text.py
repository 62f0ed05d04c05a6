"""Plain text: what others wrote, as a terminal or a log may show it."""

import re

MAX_LINE = 4000
"""Characters of a line of an error or a log; of longer ones the middle is left out."""
_ODD = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but tabs and newlines
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""What moves the cursor, names a window, runs the other way or cannot be seen."""


def plain(text: str) -> str:
    """A text in which such characters are shown as what they are: \\x1b, \\u202e."""
    return _ODD.sub(_escape, text)


def plain_json(line: str) -> str:
    """A line of JSON that says the same in characters that can be shown."""
    return _ODD.sub(lambda found: _as_json(found[0]), line)


def one_line(text: str) -> str:
    """A text on one line, of at most MAX_LINE characters."""
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
