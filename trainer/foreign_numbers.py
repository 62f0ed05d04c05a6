"""Numbers in files of others: JSON writes whole numbers that no float can hold."""

import sys
from typing import Any

LARGEST = sys.float_info.max


def is_number(value: Any) -> bool:
    """Whether a value is a number, no flag, that is finite as a float64.

    `math.isfinite` and `float` raise OverflowError for 10**400.
    """
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return plain and -LARGEST <= value <= LARGEST
