"""Rotary scaling in config.json: its kinds, their entries, and checks of the entries."""

from collections.abc import Mapping
from typing import Any

from trainer.errors import InputError
from trainer.foreign.numbers import is_number

NEEDED: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
}
"""Kind -> the entries that it requires."""
FACTORS = NEEDED["longrope"]
"""Entries that are lists with a number for each pair of channels."""
OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "yarn": ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
    "longrope": ("attention_factor", "factor"),
}
"""Kind -> the optional entries, which are numbers."""
ALIASES = {"su": "longrope"}
"""Old names of kinds -> current names."""
LENGTH = "original_max_position_embeddings"
LONGEST = "max_position_embeddings"
PARTIAL = "partial_rotary_factor"
EXTENDING = ("llama3", "yarn", "longrope")
"""Kinds whose config has two lengths: the trained one (LENGTH) and the extended one (LONGEST)."""
BOUNDS = (("low_freq_factor", "high_freq_factor", None), ("beta_slow", "beta_fast", (1.0, 32.0)))
"""Pairs of entries, of which the first must be smaller than the second, with their defaults."""


def rope_kind(given: Mapping[str, Any]) -> object:
    """The current name of the kind of scaling in these entries."""
    kind = given.get("rope_type", given.get("type", "default"))
    kind = ALIASES.get(kind, kind) if isinstance(kind, str) else kind
    # the first files of Phi-3 call LongRoPE "yarn"
    return "longrope" if kind == "yarn" and "long_factor" in given else kind


def check_bounds(where: str, given: Mapping[str, Any]) -> None:
    """Raise InputError for two numbers of a scaling that contradict each other."""
    for low, high, defaults in BOUNDS:
        if low not in given and high not in given:
            continue
        small, large = (given.get(name) for name in (low, high))
        if defaults is not None:
            small, large = small or defaults[0], large or defaults[1]
        if is_number(small) and is_number(large) and not small < large:  # type: ignore[operator]
            found = f"found {small}, and {high} is {large}"
            raise InputError(f"{where}: {low}: {found}; accepted: a number below {high}")
