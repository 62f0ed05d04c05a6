"""Foreign numbers: checks numbers from JSON, which may be too large for a float."""

import sys
from typing import Any

LARGEST = sys.float_info.max


def is_number(value: Any) -> bool:
    """Whether a value is a number (not a bool) that is finite as a float64.

    `math.isfinite` and `float` would raise OverflowError for 10**400.
    """
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return plain and -LARGEST <= value <= LARGEST
