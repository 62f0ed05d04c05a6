"""FamilyConfig: the config.json entries of a model family and their permitted values."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer import registry


@dataclass(frozen=True, kw_only=True)
class FamilyConfig:
    """The config.json of one `model_type`; `trainer.models.family.Family` adds the rest."""

    model_type: str
    """The value in config.json; with _ instead of -, it is the name of the family's file."""
    kind: str = "encoder"
    """The kind of its bodies, such as "encoder"; a head lists the kinds that it fits."""
    defaults: Mapping[str, Any]
    """The entries of config.json with transformers' defaults; None: the entry is not set."""
    synonyms: Mapping[str, str] = field(default_factory=dict)
    """Name of an entry in this package -> its name in config.json."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Alternative names of entries in some files -> the names under which they are saved."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Values that shared code reads and that this family's config.json does not contain."""
    optional: Mapping[str, Any] = field(default_factory=dict)
    """Optional entries -> their values if a file lacks them; they are never added to a file."""
    required: Mapping[str, Any] = field(default_factory=dict)
    """Entries that must have this value, since other variants are not implemented."""
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Entries that must have one of these values."""
    no_effect: frozenset[str] = frozenset()
    """Entries that do not affect the outputs of this family's models."""
    absolute_positions: str | None = None
    """The entry that says whether there are position embeddings, which limit texts' lengths."""
    positions_after_pad: bool = False
    """Whether positions start at pad_token_id + 1; the position of pads is pad_token_id."""


def find_family_config(model_type: object) -> FamilyConfig:
    """The family in `families/<model_type>.py`, in this package or one that the user trusts.

    Raises InputError, naming the available families, for an unknown `model_type`.
    """
    where = "config.json: model_type"
    if isinstance(model_type, str) and re.fullmatch(r"[a-z][a-z0-9_-]*", model_type):
        entry = registry.locate(registry.FAMILIES, model_type)
        family = None if entry is None else registry.load(registry.FAMILIES, entry)
        if isinstance(family, FamilyConfig) and family.model_type == model_type:
            return family
    raise registry.unknown(registry.FAMILIES, model_type, where, native_families())


def native_families() -> list[str]:
    """The model types with a file in this package."""
    found = registry.own_entries(registry.FAMILIES)
    return [registry.load(registry.FAMILIES, entry).model_type for entry in found]
