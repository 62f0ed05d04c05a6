"""generation_config.json: special tokens of a model that writes, and what its makers recommend."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import InputError

if TYPE_CHECKING:
    from trainer.models.pretrained import PretrainedModel

FILE = "generation_config.json"
ROLES = ("bos_token_id", "eos_token_id", "pad_token_id")


def read_generation_config(folder: Path) -> dict[str, Any]:
    """What the file in a model's folder says; nothing where there is none.

    Raises InputError if it is no JSON object or names an end that is no token.
    """
    file = folder / FILE
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(found, dict):
        raise InputError(f"{file}: found {type(found).__name__}; accepted: a JSON object")
    ids = _listed(found.get("eos_token_id"))
    if not all(type(number) is int and number >= 0 for number in ids):
        found_here = repr(found["eos_token_id"])[:60]
        raise InputError(f"{file}: eos_token_id: found {found_here}; accepted: ids of tokens")
    return found


def generation_config(model: "PretrainedModel") -> dict[str, Any]:
    """What the file says of a model as it is: what was read, and the config's special tokens."""
    ids = {name: getattr(model.config, name) for name in ROLES}
    own = {name: value for name, value in model.generation_config.items() if value is not None}
    entries = {name: value for name, value in (ids | own).items() if value is not None}
    ends = model_end_ids(model)
    return entries | ({"eos_token_id": ends if len(ends) > 1 else ends[0]} if ends else {})


def model_end_ids(model: "PretrainedModel") -> list[int]:
    """The tokens that end a text, as config.json and generation_config.json say."""
    kept, config = model.generation_config.get("eos_token_id"), model.config
    return list(dict.fromkeys([*_listed(kept), *_listed(config.eos_token_id)]))


def _listed(ids: Any) -> list[Any]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]
