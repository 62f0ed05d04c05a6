"""The setting `model.rope_scaling`: its checks and the entries of config.json that it sets."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.errors import InputError, nearest
from trainer.models.formats.rope_entries import (
    ALIASES,
    EXTENDING,
    FACTORS,
    LENGTH,
    LONGEST,
    NEEDED,
    OPTIONAL,
    PARTIAL,
    check_bounds,
    rope_kind,
)

if TYPE_CHECKING:
    from trainer.models.config import ModelConfig

WHERE = "model.rope_scaling"
LAYERS = ("full_attention", "sliding_attention")
"""Kinds of layers with different rotary positions (Gemma 3); only the first kind is scaled."""


def check_request(wanted: Mapping[str, Any]) -> None:
    """Raise InputError for a `model.rope_scaling` that is invalid for every model."""
    if not wanted:
        return
    kind = rope_kind(wanted)
    names = wanted.get("rope_type"), wanted.get("type")
    if all(names) and len({ALIASES.get(str(name), name) for name in names}) > 1:
        raise InputError(f"{WHERE}: found rope_type {names[0]} and type {names[1]}; accepted: one")
    if not any(names) or kind not in NEEDED:
        found = f"found {kind!r}" if any(names) else "nothing given"
        raise InputError(f"{WHERE}.rope_type: {found}; accepted: {', '.join(NEEDED)}")
    assert isinstance(kind, str)
    _check_names(kind, wanted)
    for name, value in wanted.items():
        _check_entry(name, value)
    check_bounds(WHERE, wanted)


def scaled_entries(
    config: "ModelConfig", wanted: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """The entries to replace in a model's config so that its positions are scaled.

    `overrides` are the other entries that the user replaces (`model.config`). For llama3, yarn and
    longrope, the trained length is the model's, unless `wanted` contains it; the longest text has
    this length times the factor. Raises InputError for models without rotary positions, and for
    lengths and factors that contradict each other.
    """
    if "rope_scaling" not in config.family.defaults:
        found = f"{config.model_type} models have no rotary positions that can be scaled"
        raise InputError(f"{WHERE}: {found}; accepted: nothing")
    for name in ("rope_scaling", "rope_parameters"):
        if overrides.get(name) is not None:
            raise InputError(f"{WHERE}: found it with model.config.{name}; accepted: one of them")
    kind = str(rope_kind(wanted))
    layered = config.known("rope_local_base_freq") is not None
    both = dict(config.rope_parameters or {})
    own = dict(both.get(LAYERS[0]) or {}) if layered else both
    own |= config.rope_scaling or {}
    kept = {name: own[name] for name in ("rope_theta", PARTIAL) if own.get(name) is not None}
    kept.setdefault("rope_theta", config.rope_theta)
    given = {name: value for name, value in wanted.items() if name not in ("type", LENGTH)}
    entries = {**kept, **given, "rope_type": kind}
    trained = _trained_length(config, own, wanted)
    lengths = {} if LONGEST in overrides else {LONGEST: trained}
    if kind in EXTENDING:
        entries[LENGTH], lengths = trained, {LONGEST: _longest(trained, wanted, overrides)}
        if config.known(LENGTH) is not None:  # transformers prefers it to the nested entry
            lengths[LENGTH] = trained
    if layered:
        local = {"rope_type": "default", "rope_theta": config.rope_local_base_freq}
        entries = {LAYERS[0]: entries, LAYERS[1]: both.get(LAYERS[1]) or local}
    return {"rope_parameters": entries, "rope_scaling": None, **lengths}


def _trained_length(
    config: "ModelConfig", own: Mapping[str, Any], wanted: Mapping[str, Any]
) -> int:
    """The length in tokens of the longest text without scaling, even if the model is scaled."""
    trained = wanted.get(LENGTH)
    if trained is None and rope_kind(own) in EXTENDING:
        trained = config.known(LENGTH) or own.get(LENGTH)
    return trained or config.max_position_embeddings


def _longest(trained: int, wanted: Mapping[str, Any], overrides: Mapping[str, Any]) -> int:
    """The length in tokens of the longest text: the trained length times the factor."""
    longest, factor = overrides.get(LONGEST), wanted.get("factor")
    if factor is None and longest is None:
        accepted = f"a factor, or model.config.{LONGEST}"
        raise InputError(f"{WHERE}: found no factor of the length; accepted: {accepted}")
    extended = longest if factor is None else round(trained * factor)
    if longest is not None and longest != extended:
        found = f"found {factor}, but model.config.{LONGEST} is {longest} and the trained length"
        accepted = f"{longest / trained:g}, or model.config.{LONGEST}={extended}"
        raise InputError(f"{WHERE}.factor: {found} {trained}; accepted: {accepted}")
    assert extended is not None
    return int(extended)


def _check_names(kind: str, wanted: Mapping[str, Any]) -> None:
    read = ["rope_type", "type", "rope_theta", *NEEDED[kind], *OPTIONAL.get(kind, ())]
    read += [LENGTH] if kind in EXTENDING else []
    read += ["truncate"] if kind == "yarn" else []
    for name in wanted:
        if name not in read:
            found = f"found it with rope_type {kind}{nearest(str(name), read)}"
            raise InputError(f"{WHERE}.{name}: {found}; accepted: {', '.join(read)}")
    for name in NEEDED[kind]:
        if wanted.get(name) is None:
            raise InputError(f"{WHERE}.{name}: missing; rope_type {kind} needs it")


def _check_entry(name: str, value: object) -> None:
    where, found = f"{WHERE}.{name}", f"found {value!r:.60}"
    if name == "truncate" and not isinstance(value, bool):
        raise InputError(f"{where}: {found}; accepted: true or false")
    if name in FACTORS and not isinstance(value, list):
        raise InputError(f"{where}: {found}; accepted: a list of numbers")
    if name in ("rope_type", "type", "truncate", *FACTORS) or value is None:
        return
    least = 1 if name in ("factor", LENGTH) else 0
    valid = isinstance(value, (int, float)) and not isinstance(value, bool)
    valid = valid and least <= value < math.inf and value > 0  # type: ignore[operator]
    if name == LENGTH and not isinstance(value, int):
        valid = False
    if not valid:
        accepted = f"a number of {least} or more" if least else "a number above 0"
        raise InputError(f"{where}: {found}; accepted: {accepted}")
