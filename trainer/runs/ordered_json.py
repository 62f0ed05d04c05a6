"""Ordered JSON: the same text for equal mappings in any order, to compute digests of configs."""

import json


def ordered_json(value: object) -> str:
    """The value as JSON, with the keys of each dict sorted; other objects are written as text.

    Keys of one kind are sorted as by `json.dumps(sort_keys=True)`, and mappings that are no dicts
    are written as text, as in the digests of earlier versions. Keys of several kinds, such as those
    of `recipe.class_weights={1: 2.0, other: 1.0}`, are sorted as texts.
    """
    return json.dumps(_ordered(value), default=str)


def _ordered(value: object) -> object:
    if isinstance(value, dict):
        entries = {key: _ordered(entry) for key, entry in value.items()}
        try:
            return dict(sorted(entries.items(), key=lambda entry: entry[0]))
        except TypeError:
            return dict(sorted(entries.items(), key=lambda entry: str(entry[0])))
    if isinstance(value, (list, tuple)):
        return [_ordered(entry) for entry in value]
    return value
