"""JSON in files of others: texts that no file or library could take later are refused at once."""

import json
from typing import Any


def parse_json(text: str) -> Any:
    """As `json.loads`. Raises ValueError also for a text with half of a surrogate pair.

    JSON can write one (`"\\ud800"`), but UTF-8 cannot, so that saving or tokenizing it would fail.
    """
    value = json.loads(text)
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text holds half of a surrogate pair") from None
    return value
