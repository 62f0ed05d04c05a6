"""Text files of a tokenizer: bounded, in UTF-8, JSON where they should be."""

from pathlib import Path
from typing import Any

from trainer.errors import InputError
from trainer.foreign_json import parse_json

MAX_FILE_BYTES = 64 * 2**20
"""No vocabulary in use is half as large; what is larger was not meant to be one."""


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    if not file.is_file():
        return {}
    text = read_text(file)
    try:
        found = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{file}: found {type(found).__name__}; accepted: a JSON object")
    return found


def read_text(file: Path) -> str:
    """The content of a file that must not be empty."""
    if (size := file.stat().st_size) > MAX_FILE_BYTES:
        raise InputError(f"{file}: found {size} bytes; accepted: at most {MAX_FILE_BYTES}")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 ({error.reason} at byte {error.start})") from error
    if not text.strip():
        raise InputError(f"{file}: the file is empty")
    return text
