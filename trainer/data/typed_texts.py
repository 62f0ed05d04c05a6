"""Typed texts: what the command line gives as text: one, a JSON list, or standard input's lines."""

import json
import sys

from trainer.errors import InputError


def typed_texts(given: str, where: str) -> list[str]:
    """The texts that `given` stands for; `where` is its key. Raises InputError."""
    if given == "-":
        return lines_of_standard_input(where)
    check_utf8(given, where)
    if given.startswith("["):
        try:
            texts = json.loads(given)
        except ValueError:
            return [given]  # a text that begins with a bracket
        if texts and all(isinstance(text, str) for text in texts):
            return texts
    return [given]


def lines_of_standard_input(where: str) -> list[str]:
    """Its lines, one at least. Raises InputError."""
    lines = [line.rstrip("\n") for line in sys.stdin]
    if not lines:
        raise InputError(f"{where}: standard input is empty")
    for number, line in enumerate(lines, 1):
        check_utf8(line, f"{where} line {number}")
    return lines


def check_utf8(text: str, where: str) -> None:
    """Raises InputError for text that was made of bytes of another encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: found bytes that are not UTF-8") from None
