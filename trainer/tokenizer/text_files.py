"""Text files: reads a tokenizer's files in UTF-8 and JSON, up to a size limit."""

from pathlib import Path
from typing import Any

from trainer.errors import InputError
from trainer.foreign.json_values import parse_json

MAX_FILE_BYTES = 64 * 2**20
"""The maximum size of a file in bytes; known vocabularies are less than half as large."""


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file. Raises InputError."""
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
    """The text of a file. Raises InputError if it is too large, empty or not UTF-8."""
    if (size := file.stat().st_size) > MAX_FILE_BYTES:
        raise InputError(f"{file}: found {size} bytes; accepted: at most {MAX_FILE_BYTES}")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 ({error.reason} at byte {error.start})") from error
    if not text.strip():
        raise InputError(f"{file}: the file is empty")
    return text
