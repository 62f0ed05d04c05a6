"""Texts from the command line: one text, a JSON list of texts, or the lines of standard input."""

import json
import sys

from trainer.errors import InputError


def typed_texts(given: str, where: str) -> list[str]:
    """The texts in the setting `where`, whose value is `given`. Raises InputError."""
    if given == "-":
        return lines_of_standard_input(where)
    check_utf8(given, where)
    if given.startswith("["):
        try:
            texts: list[str] = json.loads(given)
        except (ValueError, RecursionError):
            return [given]  # a plain text that starts with a bracket
        if texts and all(isinstance(text, str) for text in texts):
            for text in texts:
                _refuse_surrogates(text, where)
            return texts
    return [given]


def _refuse_surrogates(text: str, where: str) -> None:
    """Raise InputError for a text with half of a surrogate pair, which no tokenizer takes."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        found = f"found {text!r:.60}, with half of a surrogate pair"
        raise InputError(f"{where}: {found}; accepted: whole characters")


def lines_of_standard_input(where: str) -> list[str]:
    """The lines of standard input. Raises InputError if there are none."""
    try:
        lines = [line.rstrip("\n") for line in sys.stdin]
    except UnicodeDecodeError:  # with most locales, Python replaces no byte
        raise InputError(f"{where}: found bytes that are not UTF-8") from None
    if not lines:
        raise InputError(f"{where}: standard input is empty")
    for number, line in enumerate(lines, 1):
        check_utf8(line, f"{where} line {number}")
    return lines


def check_utf8(text: str, where: str) -> None:
    """Raise InputError for text decoded from bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: found bytes that are not UTF-8") from None
