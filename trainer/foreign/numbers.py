"""Foreign numbers: checks numbers from JSON, or in texts, which may have any size."""

import math
import sys
from numbers import Real
from typing import Any

LARGEST = sys.float_info.max
MOST_DIGITS = 18
"""The maximum number of digits of a whole number; every such number fits into 64 bits."""


def is_number(value: Any) -> bool:
    """Whether a value is a number (not a bool) that is finite as a float64.

    `math.isfinite` and `float` would raise OverflowError for 10**400.
    """
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return plain and -LARGEST <= value <= LARGEST


def is_finite(value: object) -> bool:
    """Whether a value from Python code, such as a scalar of numpy, is a number that a float holds.

    `math.isfinite` raises OverflowError for a whole number that is larger.
    """
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def decimal(text: str) -> int | None:
    """The whole number that a text is, without a sign; None for any other text.

    `int` would raise ValueError for thousands of digits.
    """
    digits = text.strip()
    return int(digits) if digits.isdecimal() and len(digits) <= MOST_DIGITS else None
