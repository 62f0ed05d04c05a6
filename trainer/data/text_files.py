"""Text files: decodes bytes to text and lines."""

import codecs
from pathlib import Path

from trainer.data.compressed import bytes_of
from trainer.errors import InputError

MARKS = {
    **{codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"},
    **{codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"},
}
"""Byte order marks of encodings other than UTF-8. UTF-32 comes first, since its mark starts with
that of UTF-16."""
WINDOWS = "cp1252"
"""The encoding of Excel and other programs on Windows in Western Europe and America."""


def text_of(path: Path, place: str, encoding: str | None = None) -> str:
    """The text without its byte order mark. Raises InputError with the line of a bad byte."""
    data = bytes_of(path, place)
    marked = next((name for mark, name in MARKS.items() if data.startswith(mark)), None)
    named = encoding or marked or "utf-8"
    if named == "utf-8" and 0 in data[:2]:
        likely = "utf-16-be" if data[0] == 0 else "utf-16-le"
        found = "byte 0x00 at the start, as in UTF-16 without a byte order mark"
        raise InputError(f"{place}:1: {found}; accepted: UTF-8, or dataset.encoding={likely}")
    try:
        return data.decode(named).removeprefix("\ufeff")
    except (LookupError, ValueError) as error:
        # no codec, or not one for text, such as rot13
        if not isinstance(error, UnicodeDecodeError):
            accepted = "accepted: utf-8, cp1252, or another that Python knows"
            raise InputError(f"dataset.encoding: found '{encoding}'; {accepted}") from None
        line = data.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{data[error.start]:02x} is not {named.upper()}"
        raise InputError(f"{place}:{line}: {found}; {_hint(data, encoding, place)}") from None


def lines_of(path: Path, place: str, encoding: str | None = None) -> list[str]:
    """The lines without line endings. Only newlines end a line."""
    lines = text_of(path, place, encoding).split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def _hint(data: bytes, encoding: str | None, place: str) -> str:
    if place.startswith("input.file"):  # there is no setting for its encoding
        return "input.file must be UTF-8; dataset.test=FILE dataset.encoding=NAME reads others"
    if encoding is None and _decodes(data, WINDOWS):
        return f"text files must be UTF-8; for another encoding set dataset.encoding={WINDOWS}"
    return "text files must be UTF-8, or of the encoding that dataset.encoding names"


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
