"""The names of tensors: ours <-> the hub's, through a family's table."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from trainer.errors import InputError
from trainer.models.family import Family

BODY, HEAD = "body.", "head."


def hub_name(name: str, family: Family, task: str) -> str:
    """Our parameter's name in the saved file: with the family's prefix in a model with a head."""
    short = short_hub_name(name, family, task)
    prefixed = name.startswith(BODY) and task != "base"
    return f"{family.prefix}.{short}" if prefixed else short


def short_hub_name(name: str, family: Family, task: str) -> str:
    """The hub's name without the family's prefix."""
    name = name.replace("_orig_mod.", "")  # what torch.compile puts before a compiled module's
    table = family.keys if name.startswith(BODY) else family.heads[task].keys
    module, _, leaf = name.removeprefix(BODY).removeprefix(HEAD).rpartition(".")
    layer = re.search(r"\.(\d+)\.", module)
    if layer is None:
        return f"{table[module]}.{leaf}"
    pattern = module.replace(layer.group(), ".*.", 1)
    return f"{table[pattern].replace('*', layer.group(1))}.{leaf}"


def short_names(names_in_file: Iterable[str], family: Family) -> dict[str, str]:
    """Short hub name -> the file's name, which may have the prefix or the old gamma and beta."""
    found: dict[str, str] = {}
    for name in names_in_file:
        short = _modern(name.removeprefix(f"{family.prefix}."))
        if short in found:
            raise InputError(f"model: tensor {short} is there twice: {found[short]}, {name}")
        found[short] = name
    return found


def is_known_extra(short_name: str, family: Family) -> bool:
    """Whether a tensor that no parameter takes is one of another head, or a buffer."""
    heads = (f"{module}.*" for head in family.heads.values() for module in head.keys.values())
    return any(fnmatchcase(short_name, pattern) for pattern in (*family.known_extras, *heads))


def _modern(name: str) -> str:
    """TensorFlow's names of a layer norm's weight and bias, in old files, as they are today."""
    if name.endswith("LayerNorm.gamma"):
        return name.removesuffix("gamma") + "weight"
    return name.removesuffix("beta") + "bias" if name.endswith("LayerNorm.beta") else name
