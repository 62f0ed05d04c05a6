"""Foreign JSON: whole surrogate pairs are accepted, halves are refused."""

import pytest

from trainer.foreign.json_values import parse_json


def test_half_of_a_surrogate_pair_is_refused_wherever_it_stands() -> None:
    assert parse_json(r'{"a": "\ud83d\ude00", "\u00e9": [1]}') == {"a": "😀", "é": [1]}
    for text in (r'{"a": ["\ud800"]}', r'{"\udc00": 1}', r'"\ud83d"'):
        with pytest.raises(ValueError, match="half of a surrogate pair"):
            parse_json(text)
