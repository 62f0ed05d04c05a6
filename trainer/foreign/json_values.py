"""Foreign JSON: refuses strings that could not be saved or tokenized later."""

import json
from typing import Any


def parse_json(text: str) -> Any:
    """Like `json.loads`, but also raises ValueError for a string with half of a surrogate pair.

    JSON can express such a string (`"\\ud800"`), but UTF-8 cannot, so saving or tokenizing it
    would fail.
    """
    value = json.loads(text)
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text holds half of a surrogate pair") from None
    return value
