"""Counts: whole numbers in arguments of Python code, which may be numpy's or torch's integers."""

import operator

from trainer.errors import InputError


def whole(value: object) -> int | None:
    """The value as an int; None for a bool and for anything that is not a whole number."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def checked_count(where: str, value: object, least: int = 1) -> int:
    """The value as an int. Raises InputError unless it is a whole number of `least` or more."""
    found = whole(value)
    if found is None or found < least:
        raise InputError(f"{where}: found {value!r:.60}; accepted: {least} or more")
    return found
