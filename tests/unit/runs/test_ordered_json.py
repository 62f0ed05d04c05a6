"""Ordered JSON: keys of several kinds, and the same text as before for keys of one kind."""

import json
from types import MappingProxyType

import pytest

from trainer.runs.ordered_json import ordered_json


@pytest.mark.parametrize(
    "value",
    [
        {"b": 1, "a": {"d": [1, {"y": 2, "x": (3, None)}], "c": True}},
        {10: 1.0, 9: 2.0, -1: 0.5},
        {"view": MappingProxyType({"b": 1, "a": 2})},
        [],
        {},
        1e-05,
    ],
)
def test_keys_of_one_kind_are_ordered_as_by_json(value: object) -> None:
    assert ordered_json(value) == json.dumps(value, sort_keys=True, default=str)


def test_keys_of_several_kinds_have_one_order() -> None:
    first = ordered_json({"weights": {1: 2.0, "other": 1.0, None: 0.0}})
    assert first == ordered_json({"weights": {None: 0.0, "other": 1.0, 1: 2.0}})
    assert json.loads(first) == {"weights": {"1": 2.0, "other": 1.0, "null": 0.0}}
